"""The service, in a process of its own, asked over plain sockets by who means it ill."""

import asyncio
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from service import Service, run

from looseleaf.servicex.service import connections
from looseleaf.servicex.service.connections import Gate, listen, server

TOO_MUCH = 400 << 20
HEADERS = b"Host: 127.0.0.1\r\nContent-Type: application/json\r\n"


class Watched(Service):
    """A service whose log is kept."""

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder, *options, workers=1)
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


@contextmanager
def few_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    "what", [b"", b"GET /servicex HTTP/1.1\r\nHost: x", b"POST / HTTP/1.1\r\n"]
)
def test_half_sent_requests_leave_room_for_others(tmp_path: Path, what: bytes) -> None:
    with ExitStack() as stack:
        with few_files():
            service = stack.enter_context(Watched(tmp_path))
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
