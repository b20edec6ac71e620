"""The service, in a process of its own, asked over plain sockets by who means it ill."""

import asyncio
import base64
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from botocore.auth import HmacV1QueryAuth
from botocore.awsrequest import AWSRequest
from samples import SETTINGS, TRUTH, qcd
from service import Service, run, selection

from looseleaf.cluster.keys import FileKeys
from looseleaf.errors import ConfigError
from looseleaf.files import read_json
from looseleaf.samples.generate import generate
from looseleaf.servicex.request import OWN
from looseleaf.servicex.service import checks, connections
from looseleaf.servicex.service.auth import KEY_S, Keys
from looseleaf.servicex.service.checks import Checks
from looseleaf.servicex.service.connections import Gate, listen, server
from looseleaf.servicex.service.places import Places

pytestmark = pytest.mark.slow

TOO_MUCH = 400 << 20
HEADERS = b"Host: 127.0.0.1\r\nContent-Type: application/json\r\n"


class Watched(Service):
    """A service whose log is kept."""

    def __init__(self, folder: Path, *options: str, started_by: Sequence[str] = ()) -> None:
        super().__init__(folder, *options, workers=1)
        self.started_by = started_by
        folder.mkdir(exist_ok=True)
        self.log_file = folder / "log"
        self.log = open(self.log_file, "w")  # noqa: SIM115 - for as long as the service

    def memory(self) -> int:
        """The most that it has used so far, in bytes."""
        assert self.process is not None
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
        raise AssertionError("no VmHWM")

    def logged(self) -> str:
        return self.log_file.read_text()

    def submitted_key(self, request: str) -> str:
        """The name of a request's S3 key."""
        return f"{request}-{int(time.time()) // KEY_S}"

    def bearer(self) -> bytes:
        headers = run(self.adapter._get_authorization())
        return f"Authorization: {headers['Authorization']}\r\n".encode()

    def __exit__(self, *problem: object) -> None:
        super().__exit__(*problem)
        assert self.log is not None
        self.log.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with Watched(tmp_path_factory.mktemp("service")) as it:
        yield it


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("input")
    generate("q", {"q": qcd(500, 1)}, SETTINGS, folder / "q/catalogue.json", TRUTH)
    return folder / "q/q_0.root"


def connect(port: int | str, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(port)), 30, (source, 0))


def answered(connection: socket.socket) -> tuple[int, bytes]:
    """The status of an answer, 0 if there is none, and all of its bytes."""
    found = b""
    try:
        while data := connection.recv(1 << 16):
            found += data
    except ConnectionResetError:
        pass
    return (int(found.split()[1]) if found else 0), found


def asked(service: Service, head: bytes, body: bytes = b"") -> tuple[int, bytes]:
    """The answer to a request that is closed after it."""
    with connect(service.port) as connection:
        # who is refused may be cut short
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(head + b"Connection: close\r\n\r\n" + body)
        return answered(connection)


def post(service: Service, body: bytes, *headers: bytes) -> tuple[int, bytes]:
    length = b"Content-Length: %d\r\n" % len(body)
    line = b"POST /servicex/transformation HTTP/1.1\r\n"
    return asked(service, line + HEADERS + length + b"".join(headers), body)


def pour(connection: socket.socket, chunked: bool) -> None:
    """Send far too much, as long as anybody takes it."""
    block = bytes(1 << 20)
    framed = b"100000\r\n" + block + b"\r\n" if chunked else block
    try:
        for _ in range(TOO_MUCH >> 20):
            connection.sendall(framed)
    except (BrokenPipeError, ConnectionResetError):
        pass


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("token", [False, True])
@pytest.mark.parametrize("path", [b"/servicex/transformation", b"/token/refresh"])
def test_a_body_that_is_too_large_is_not_kept(
    service: Watched, chunked: bool, token: bool, path: bytes
) -> None:
    status, _ = post(service, b"{}", service.bearer())
    assert status == 400
    before = service.memory()
    length = b"Transfer-Encoding: chunked\r\n" if chunked else b"Content-Length: %d\r\n" % TOO_MUCH
    bearer = service.bearer() if token else b""
    with connect(service.port) as connection:
        connection.sendall(b"POST " + path + b" HTTP/1.1\r\n" + HEADERS + length + bearer + b"\r\n")
        pour(connection, chunked)
        status, _ = answered(connection)
    # who has a token may send what is allowed, which is then forgotten
    taken = chunked and token and path == b"/servicex/transformation"
    assert status in ((413,) if taken else (401, 413))
    assert service.memory() - before < (60 << 20 if taken else 4 << 20)


def half(port: int | str, what: bytes, source: str = "127.0.0.1") -> socket.socket:
    connection = connect(port, source)
    connection.sendall(what)
    return connection


FEW_FILES = ("sh", "-c", 'ulimit -n 256 && exec "$@"', "sh")


@pytest.mark.parametrize(
    "what", [b"", b"GET /servicex HTTP/1.1\r\nHost: x", b"POST / HTTP/1.1\r\n"]
)
def test_half_sent_requests_leave_room_for_others(tmp_path: Path, what: bytes) -> None:
    with ExitStack() as stack:
        service = stack.enter_context(Watched(tmp_path, started_by=FEW_FILES))
        for number in range(300):
            source = "127.0.0.1" if number % 2 else "127.0.0.2"
            stack.enter_context(half(service.port, what, source))
        began = time.monotonic()
        assert post(service, b"{}", service.bearer())[0] == 400
        assert time.monotonic() - began < 5
        assert service.logged() == ""


def test_a_connection_at_work_keeps_its_place() -> None:
    working, go_on = threading.Event(), threading.Event()

    async def slow(scope: connections.Scope, receive: object, send: connections.Send) -> None:
        working.set()
        await asyncio.to_thread(go_on.wait, 30)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    with inside(slow, most=4) as port, connect(port) as first, ExitStack() as stack:
        first.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert working.wait(10)
        for _ in range(20):
            stack.enter_context(half(port, b"GET"))
        with connect(port, "127.0.0.2") as other:
            go_on.set()
            other.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert answered(other)[0] == 204
        assert answered(first)[0] == 204


def test_a_full_door_ends_nothing_while_nobody_waits() -> None:
    with listen("127.0.0.1", 0) as door:
        door.setblocking(False)
        door.most = 1
        with connect(door.getsockname()[1]) as only:
            accepted, _ = door.accept()
            with accepted:
                with pytest.raises(BlockingIOError):
                    door.accept()
                only.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    only.recv(1)


@contextmanager
def inside(app: connections.ASGIApp, most: int = 100) -> Iterator[int]:
    """An application behind the gate, served by a thread."""
    with listen("127.0.0.1", 0) as door:
        door.most = most
        http = server(Gate(app, None, door), log_config=None)
        thread = threading.Thread(target=http.run, args=([door],))
        thread.start()
        yield door.getsockname()[1]
        http.should_exit = True
        thread.join()


@pytest.mark.parametrize(
    "what",
    [
        b"",
        b"GET /",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: ",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n123",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n123",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\nHost",
    ],
)
def test_a_half_sent_request_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, what: bytes
) -> None:
    monkeypatch.setattr(connections, "HEADERS_S", 0.5)
    monkeypatch.setattr(connections, "BODY_S", 0.5)

    async def reads(scope: object, receive: connections.Receive, send: connections.Send) -> None:
        while (message := await receive()).get("more_body"):
            pass
        if message["type"] == "http.request":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    with inside(reads) as port, connect(port) as connection:
        began = time.monotonic()
        connection.sendall(what)
        # one that goes on by a byte at a time is not waited for either
        while time.monotonic() - began < 3:
            time.sleep(0.1)
            try:
                connection.sendall(b"1")
            except (BrokenPipeError, ConnectionResetError):
                break
        assert time.monotonic() - began < 2


NOBODY = "00000000-0000-4000-8000-000000000000"
OBJECT = f"/{NOBODY}/a.root"
V4 = (
    "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={key}/20261129/{region}/s3/aws4_request"
    "&X-Amz-Date={date}&X-Amz-Expires={lifetime}&X-Amz-SignedHeaders={names}&X-Amz-Signature={sign}"
)
FINE = {
    "key": "{key}",
    "region": "us-east-1",
    "date": time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()),
    "lifetime": "3600",
    "names": "host",
    "sign": "a" * 64,
}
ODD_DIGITS = ("%C2%B2", "%D9%A3%D9%A3", "9" * 5000, "-1", "1e9", "%00", "%ED%A0%80", "")


def object_urls() -> list[str]:
    """Presigned URLs in which one thing is odd."""
    urls = [f"{OBJECT}?AWSAccessKeyId={{key}}&Expires={odd}&Signature=x" for odd in ODD_DIGITS]
    future = int(time.time()) + 600
    signatures = ("%C3%A9", "%F0%9F%92%A9", "%00", "", "a" * 20_000)
    urls += [
        f"{OBJECT}?AWSAccessKeyId={{key}}&Expires={future}&Signature={odd}" for odd in signatures
    ]
    odds = {
        "lifetime": ODD_DIGITS,
        "sign": signatures,
        "names": ("host;%F0%9F%92%A9", "host;%00", "host;;", "host;" + ";" * 5000),
        "date": ("%D9%A2026", "00000000T000000Z", "99991231T235959Z", "%00", "20261329T256161Z"),
        "region": ("%F0%9F%92%A9", "%00", ""),
    }
    for name, values in odds.items():
        urls += [f"{OBJECT}?{V4.format(**FINE | {name: value})}" for value in values]
    return [*urls, f"{OBJECT}%00?a", f"/{NOBODY}/%F0%9F?%F0=%9F", f"/{NOBODY}/[?["]


HEADERS_OF_STRANGERS = [
    b"Authorization: Bearer \xe9\xff\r\n",
    b"Authorization: Bearer " + b"W1tb" * 10_000 + b".e30.AA\r\n",
    b"Authorization: Bearer eyJhbGciOlsxXX0.e30.AA\r\n",
    b"Authorization: Bearer e30.e30.\r\nAuthorization: Bearer x\r\n",
    b"Authorization: AWS4-HMAC-SHA256 Credential=\xe9/1/2/3/4,SignedHeaders=\xe9,Signature=\xe9"
    b"\r\n",
    b"Authorization: \xff\r\n",
    b"Host: [\r\n",
    b"Host: [::1\r\n",
    b"Host: a b\r\n",
    b"Host: x:99999\r\n",
    b"Host: \xe9\r\n",
    b"Content-Length: " + b"9" * 5000 + b"\r\n",
    b"Content-Length: \xb2\r\n",
    b"Range: bytes=0-" + b"9" * 5000 + b"\r\n",
    b"Cookie: \xff\xfe;;;=\r\n",
    b"Upgrade: websocket\r\nConnection: upgrade\r\n",
]
PATHS = [
    "/",
    "//",
    "/servicex/",
    "/servicex/%00",
    "/servicex/transformation?limit=%D9%A3&offset=-1",
    "/servicex/transformation?limit=" + "9" * 5000,
    "/servicex/transformation?offset=99999999999999999999",
    f"/servicex/transformation/{NOBODY}/results?later_than=0001-01-01T00:00:00%2B23:59",
    f"/servicex/transformation/{NOBODY}/results?later_than=%D9%A3",
    "/servicex/transformation/%ED%A0%80",
    "/servicex/datasets/99999999999999999999999",
    "/servicex/datasets/" + "9" * 5000,
    "/servicex/datasets/%D9%A3",
    "/servicex/datasets/-1",
    "/token/refresh",
    "/openapi.json",
    "/docs",
    "/redoc",
]


def get(target: str, headers: bytes = b"Host: x\r\n") -> bytes:
    return b"GET " + target.encode() + b" HTTP/1.1\r\n" + headers


def test_hostile_requests_are_no_defects_of_the_service(service: Watched, source: Path) -> None:
    request = service.submit(file_list=[str(source)], selection=selection())
    key = service.submitted_key(request)
    bearer = service.bearer()
    before = service.logged()
    for url in object_urls():
        target = url.replace("{key}", key).replace(NOBODY, request)
        status, text = asked(service, get(target))
        assert status in (400, 403), (target[:300], text)
    for headers in HEADERS_OF_STRANGERS:
        host = b"" if b"Host" in headers else b"Host: x\r\n"
        for target in ("/servicex", f"/{request}/a.root", f"/servicex/transformation/{request}"):
            for token in (b"", bearer):
                status, text = asked(service, get(target, host + headers + token))
                assert status < 500, (headers[:100], text)
    for target in PATHS:
        for token in (b"", bearer):
            status, text = asked(service, get(target, b"Host: x\r\n" + token))
            assert status in ((401,) if not token else (400, 404, 405, 401, 200)), (target, text)
            assert status != 200 or target.startswith("/servicex/"), target
    assert service.logged() == before


def bodies(source: Path) -> list[bytes]:
    """Submissions in which one thing is odd."""
    fine = {
        "title": "t",
        "file-list": [str(source)],
        "selection": selection(),
        "codegen": "uproot-raw",
        "result-destination": "volume",
        "result-format": "root-file",
    }

    def with_(**more: Any) -> bytes:
        names = {"files": "file-list"}
        return json.dumps(fine | {names.get(k, k): v for k, v in more.items()}).encode()

    bare = {key: value for key, value in fine.items() if key != "file-list"}
    deep = "[" * 100_000
    return [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 100_000,
        b'{"title": ' + b"9" * 5000 + b"}",
        b'{"title": NaN}',
        *(with_(title=odd) for odd in ("\ud800", 10**30, [], "x" * 20_000)),
        *(with_(selection=odd) for odd in ("\ud800", "\0", deep, "9" * 100_000, '{"\\ud800": 1}')),
        with_(selection='[{"treename": "a", "\\ud800": 1}]'),
        with_(selection='[{"treename": "\\ud800"}]'),
        *(with_(selection=selection(cut=odd)) for odd in ("\ud800", "\0", "(" * 40_000)),
        with_(selection=selection(cut="-" * 40_000 + "1")),
        with_(selection=selection(cut="9" * 5000)),
        with_(selection=selection(cut="a" * 5_000_000)),
        with_(selection=selection(cut="x", aliases={"x": "x" + "[y]" * 450, "y": "-" * 450 + "1"})),
        *(
            with_(files=odd)
            for odd in (["root://["], ["https://["], ["/a\0"], ["/\ud800"], ["s3://"])
        ),
        with_(files=["root://a:99999/b"]),
        with_(files=["/a"] * 40_000),
        with_(files=[f"/{number}" for number in range(60_000)]),
        with_(codegen="python", selection=base64.b64encode(b"(" * 9000).decode()),
        with_(codegen="python", selection=base64.b64encode(b"-" * 90_000 + b"1").decode()),
        with_(codegen="python", selection="\u0663"),
        with_(codegen="looseleaf", selection=deep),
        with_(codegen="looseleaf", selection='{"columns": ["\\ud800"], "cut": null}'),
        with_(codegen="uproot", selection="(" * 40_000),
        with_(codegen="uproot", selection="\ud800"),
        with_(codegen="uproot", selection="(call" + " 9" * 5000 + ")"),
        *(json.dumps(bare | {"did": did}).encode() for did in ("\ud800", "rucio://[", 10**30)),
    ]


def test_hostile_submissions_are_refused(service: Watched, source: Path) -> None:
    bearer, before = service.bearer(), service.logged()
    for body in bodies(source):
        began = time.monotonic()
        status, text = post(service, body, bearer)
        assert status in (200, 400), (body[:300], text)
        # a dataset that nobody knows is told by its status
        assert status == 400 or b"rucio" in body, (body[:300], text)
        assert time.monotonic() - began < 30, body[:300]
        assert post(service, body)[0] == 401
    assert service.logged() == before


def test_datasets_with_odd_limits(tmp_path: Path, source: Path) -> None:
    catalogue = source.parent / "catalogue.json"
    (name,) = read_json(catalogue)["datasets"]
    with Watched(tmp_path, "--catalogue", str(catalogue)) as service:
        for odd in ("files=1&files=2", "files=%C2%B2", "files=" + "9" * 5000, "files=", "files=-1"):
            service.submit(did=f"rucio://cms:{name}?{odd}", selection=selection())
        assert service.logged() == ""


def test_the_list_of_requests_has_pages(tmp_path: Path, source: Path) -> None:
    with Watched(tmp_path) as service:
        made = [
            service.submit(file_list=[str(source)], selection=selection(cut=f"nMuon > {number}"))
            for number in range(5)
        ]
        pages = []
        for offset in (0, 2, 4, 6):
            path = f"/servicex/transformation?limit=2&offset={offset}"
            status, text = asked(service, get(path, b"Host: x\r\n" + service.bearer()))
            assert status == 200
            listed = json.loads(text.partition(b"\r\n\r\n")[2])["requests"]
            pages.append([one["request_id"] for one in listed])
        assert pages == [made[3:], made[1:3], made[:1], []]
        too_many = get("/servicex/transformation?limit=501", b"Host: x\r\n" + service.bearer())
        assert asked(service, too_many)[0] == 400


def test_a_presigned_url_ends_within_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, moment = Keys("token", "signing"), time.time()
    key = keys.s3(NOBODY)
    year = f"{int(moment) + 365 * 86400}"
    auth = HmacV1QueryAuth(key, expires=int(year))
    url = f"http://x{OBJECT}"
    request = AWSRequest(method="GET", url=url)
    monkeypatch.setattr(auth, "_get_date", lambda: year)
    auth.add_auth(request)
    query = str(request.url).partition("?")[2]
    for hours, good in {0: True, 11: True, 24: False, 24 * 30: False}.items():
        later = moment + hours * 3600
        monkeypatch.setattr(time, "time", lambda later=later: later)
        assert keys.opens(NOBODY, "GET", url, query, {}) == good, hours
    monkeypatch.setattr(time, "time", lambda: moment)
    assert not keys.opens(NOBODY.replace("4", "5"), "GET", url, query, {})


def test_aliases_that_double_are_refused_at_once(service: Watched) -> None:
    aliases = {f"a{number}": f"a{number + 1}+a{number + 1}" for number in range(17)}
    query = selection(cut="a0 > 1", aliases=aliases)
    text = json.dumps(
        {
            "file-list": ["/a.root"],
            "selection": query,
            "codegen": "uproot-raw",
            "result-destination": "volume",
            "result-format": "root-file",
        }
    ).encode()
    bearer = service.bearer()
    post(service, text.replace(b"a0 > 1", b"x >"), bearer)
    began = time.monotonic()
    status, answer = post(service, text, bearer)
    assert (status, b"aliases come to more than" in answer) == (400, True)
    assert time.monotonic() - began < 3


def test_a_selection_that_takes_too_long_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("qastle")
    monkeypatch.setattr(checks, "SECONDS", 1.0)
    long = "(Select (call EventDataset 'a' 'Events') (lambda (list e) " + "(and 1 " * 7000 + "))"
    slow = Checks()
    try:
        slow.check(OWN, '{"columns": ["nMuon"], "cut": null, "software": "1"}')
        began = time.monotonic()
        with pytest.raises(ConfigError, match="takes too long"):
            slow.check("uproot", long)
        assert time.monotonic() - began < 5
    finally:
        slow.close()


def test_the_time_to_load_libraries_is_not_the_selections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checks, "SECONDS", 0.5)
    quick = Checks()
    try:
        (found,) = quick.check(OWN, '{"columns": ["nMuon"], "cut": "nMuon > 1", "software": "1"}')
    finally:
        quick.close()
    assert (found.columns, found.cut) == (("nMuon",), "nMuon > 1")


def submitted(service: Service, path: str) -> tuple[int, bytes]:
    value = {
        "file-list": [path],
        "selection": selection(),
        "codegen": "uproot-raw",
        "result-destination": "volume",
        "result-format": "root-file",
    }
    return post(service, json.dumps(value).encode(), service.bearer())


def test_files_and_hosts_that_nobody_allowed_are_not_read(
    tmp_path_factory: pytest.TempPathFactory, source: Path
) -> None:
    # nothing that pytest has made is below the only folder that is allowed
    folder = tmp_path_factory.mktemp("places") / "service"
    folder.mkdir()
    secret = folder.parent / "secret.root"
    (allowed := folder.parent / "allowed").mkdir()
    secret.write_bytes(b"token=hunter2")
    (allowed / "link.root").symlink_to(secret)
    (allowed / "good.root").write_bytes(source.read_bytes())
    service = Watched(folder)
    service.options = ["--workers", "1", "--allow", str(allowed)]
    service.options += ["--allow", "http://127.0.0.1:1"]
    with service:
        told = set()
        for path in (
            str(secret),
            str(secret.parent / "nobody.root"),
            str(allowed / "link.root"),
            f"{allowed}/../secret.root",
            f"{allowed}/x::file://{secret}",
            f"{allowed}/good.root,{secret}",
            f"{allowed}/good.root,file://{secret}",
            f"https://example.org/x::file://{secret}",
            str(service.state / "keys.json"),
            "/proc/self/environ",
            f"/proc/self/root{secret}",
            "http://example.org/a.root",
            "http://127.0.0.1:2/a.root",
            "https://127.0.0.1/a.root",
            "https://127.1/a.root",
            "https://2130706433/a.root",
            "https://0x7f.1/a.root",
            "https://localhost./a.root",
            "https://[::1]/a.root",
            "https://[::ffff:127.0.0.1]/a.root",
            "https://[64:ff9b::a9fe:a9fe]/a.root",
            "https://[fe80::1]/a.root",
            "https://0/a.root",
            "https://169.254.169.254/latest/meta-data/",
            "https://example.org@169.254.169.254/",
            "https://[fd00:ec2::254]/",
            "root://169.254.169.254//a.root",
        ):
            status, text = submitted(service, path)
            assert (status, b"doesn't read there" in text) == (400, True), (path, text)
            assert b"hunter2" not in text
            told.add(text.partition(b": this service")[2])
        assert len(told) == 1
        for path in (f"{allowed}/good.root", "http://127.0.0.1:1/a.root", "root://eos.example//a"):
            assert submitted(service, path)[0] == 200, path


def test_special_files_stay_closed_below_an_allowed_root() -> None:
    places = Places.of(["/", "/dev/shm", "http://*"], [], [], [])
    for path in ("/proc/self/environ", "/sys/kernel", "/dev/sda"):
        with pytest.raises(ConfigError, match="doesn't read there"):
            places.check(path)
    with pytest.raises(ConfigError, match="doesn't read there"):
        places.check("http://169.254.169.254/")
    places.check("/dev/shm/a.root,/etc/a.root,http://example.org/a.root")


def test_a_redirect_leads_to_no_internal_address(tmp_path: Path) -> None:
    asked_for = threading.Event()

    async def redirects(scope: connections.Scope, receive: object, send: connections.Send) -> None:
        if scope["path"] == "/secret":
            asked_for.set()
        headers = [(b"location", f"http://127.0.0.2:{port}/secret".encode())]
        await send({"type": "http.response.start", "status": 307, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    with listen("0.0.0.0", 0) as door:
        http = server(Gate(redirects, None, door), log_config=None)
        thread = threading.Thread(target=http.run, args=([door],))
        port = door.getsockname()[1]
        thread.start()
        try:
            allowed = f"http://127.0.0.1:{port}"
            with Watched(tmp_path, "--allow", allowed, "--tries", "1") as service:
                request = service.submit(file_list=[f"{allowed}/a.root"], selection=selection())
                assert service.finished(request).files_failed == 1
        finally:
            http.should_exit = True
            thread.join()
    assert not asked_for.is_set()


def test_errors_do_not_quote_files(service: Watched) -> None:
    odd = service.volume / "odd.root"
    odd.write_bytes(b"hunter2 and more" * 1000)
    request = service.submit(file_list=[str(odd)], selection=selection())
    service.finished(request)
    (entry,) = read_json(service.folder(request) / "manifest.json")["files"]
    assert "doesn't begin as one" in entry["error"]
    assert "hunt" not in entry["error"]


def test_handshakes_that_nobody_ends_leave_room_for_others(tmp_path: Path) -> None:
    keys = FileKeys(tmp_path / "tls")
    options = ["--certificate", keys.certificate, "--key", keys.key]
    service = Watched(tmp_path / "service", *options, started_by=FEW_FILES)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with ExitStack() as stack:
        stack.enter_context(service)
        for _ in range(300):
            stack.enter_context(half(service.port, b""))
        other = stack.enter_context(context.wrap_socket(connect(service.port)))
        other.sendall(get("/servicex") + b"Connection: close\r\n\r\n")
        assert answered(other)[0] == 401
        assert service.logged() == ""


def test_slow_selections_hold_up_nothing_but_selections(service: Watched, source: Path) -> None:
    pytest.importorskip("qastle")
    bearer = service.bearer()
    long = "(Select (call EventDataset 'a' 'Events') (lambda (list e) " + "(and 1 " * 7000 + "))"
    value = {
        "file-list": [str(source)],
        "selection": long,
        "codegen": "uproot",
        "result-destination": "volume",
        "result-format": "root-file",
    }
    body = json.dumps(value).encode()
    head = b"POST /servicex/transformation HTTP/1.1\r\n" + HEADERS + bearer
    with ExitStack() as stack:
        # more than the service has threads
        for _ in range(60):
            connection = stack.enter_context(connect(service.port))
            connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        began = time.monotonic()
        assert asked(service, get("/servicex/transformation", b"Host: x\r\n" + bearer))[0] == 200
        assert time.monotonic() - began < 5
