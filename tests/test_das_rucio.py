"""The backend `rucio`: Rucio's own client, as coffea opens it, against its REST over TLS."""

import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote_plus, urlsplit

import pytest
from grid import Authority, Handler, TlsServer, need, serving

from looseleaf.das.ask import Asking, ask
from looseleaf.das.lookup import lookup
from looseleaf.das.problems import NoCredential, QueryWrong, RucioFailed
from looseleaf.das.query import parse
from looseleaf.das.records import BlockRecord, DatasetRecord, SiteRecord
from looseleaf.errors import LookupFailed
from looseleaf.files import read_json
from looseleaf.stage_files import FileRecord

ASKING = Asking("rucio")
FILES = [
    {"scope": "cms", "name": f"/store/{name}.root", "bytes": 100, "adler32": "0000000a",
     "guid": None, "events": None}
    for name in "abcd"
]  # fmt: skip
STATES = {
    "a": {"T2_CH_CERN": "AVAILABLE", "T1_US_FNAL_Disk": "AVAILABLE"},
    "b": {"T2_CH_CERN": "AVAILABLE", "T1_US_FNAL_Disk": "COPYING"},
    "c": {"T2_CH_CERN": "AVAILABLE"},
    "d": {},
}


class RucioHandler(Handler):
    """The part of Rucio's REST that the client calls for files, blocks, containers, replicas."""

    def stream(self, rows: list[Any]) -> None:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        self.answer(text, Content_Type="application/x-json-stream")

    def do_GET(self) -> None:  # noqa: N802 - what http.server calls
        url = urlsplit(self.path)
        path = [unquote_plus(part) for part in url.path.strip("/").split("/")]
        if path == ["auth", "x509_proxy"] and self.connection.getpeercert():
            self.answer("", X_Rucio_Auth_Token="a-token")
        elif self.headers.get("X-Rucio-Auth-Token") != "a-token":
            self.answer("", 401, ExceptionClass="CannotAuthenticate", ExceptionMessage="no token")
        elif path == ["dids", "cms", "dids", "search"]:
            (wanted,) = parse_qs(url.query)["filters"]
            self.stream(["/A/B/C"] if "/A*/B/C" in wanted else [])
        elif path == ["dids", "cms", "/A/B/C", "files"]:
            self.stream(FILES)
        elif path == ["dids", "cms", "/A/B/C#1", "files"]:
            self.stream(FILES[:2])
        elif path == ["dids", "cms", "/A/B/C", "dids"]:
            self.stream([{"scope": "cms", "name": "/A/B/C#1", "type": "DATASET"}])
        else:
            words = "Data identifier not found"
            self.answer("", 404, ExceptionClass="DataIdentifierNotFound", ExceptionMessage=words)

    def do_POST(self) -> None:  # noqa: N802
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/replicas/list"
        assert body["dids"] == [{"scope": "cms", "name": "/A/B/C"}]
        # a file without a replica is left out
        self.stream(
            [
                {"name": file["name"], "scope": "cms", "states": states}
                for file, states in zip(FILES, STATES.values(), strict=True)
                if states
            ]
        )


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    pytest.importorskip("rucio.client", reason="no Rucio client: pip install rucio-clients")
    need("openssl")
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(authority: Authority) -> Iterator[TlsServer]:
    """One for all tests: the client reads its configuration once."""
    authority.proxy("x509up", "-hours", "24")
    server = TlsServer(RucioHandler, authority)
    # a certificate is shown once, its token does the rest
    server.context.verify_mode = ssl.CERT_OPTIONAL
    home = authority.folder / "rucio"
    (home / "etc").mkdir(parents=True)
    (home / "etc/rucio.cfg").write_text(
        f"[client]\nrucio_host = {server.url}\nauth_host = {server.url}\naccount = physicist\n"
        f"auth_type = x509_proxy\nauth_token_file_path = {home / 'token'}\n"
    )
    with serving(server):
        yield server


@pytest.fixture(autouse=True)
def rucio(authority: Authority, server: TlsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUCIO_HOME", str(authority.folder / "rucio"))
    monkeypatch.setenv("X509_CERT_DIR", str(authority.certificates))
    monkeypatch.setenv("X509_USER_PROXY", str(authority.folder / "x509up"))


def test_what_rucio_knows() -> None:
    def asked(query: str) -> list[object]:
        (records,) = ask(parse(query), ASKING).records.values()
        return list(records)

    assert asked("file dataset=/A/B/C") == [
        FileRecord(f"/store/{name}.root", 100, None, "0000000a") for name in "abcd"
    ]
    assert asked("dataset=/A*/B/C") == [DatasetRecord("/A/B/C")]
    assert asked("block dataset=/A/B/C") == [BlockRecord("/A/B/C#1")]
    assert asked("file block=/A/B/C#1") == [
        FileRecord(f"/store/{name}.root", 100, None, "0000000a", "/A/B/C#1") for name in "ab"
    ]
    for site, names in (("T2_CH_CERN", "abc"), ("T1_US_FNAL_Disk", "a")):
        assert asked(f"file dataset=/A/B/C site={site}") == [
            FileRecord(f"/store/{name}.root", 100, None, "0000000a") for name in names
        ]
    # of four files; one that is still being copied isn't there
    assert asked("site dataset=/A/B/C") == [
        SiteRecord("T2_CH_CERN", 75.0),
        SiteRecord("T1_US_FNAL_Disk", 25.0),
    ]


def test_a_snapshot_from_rucio(tmp_path: Path) -> None:
    lookup("/A*/B/C", tmp_path / "out.json", asking=ASKING)
    found = read_json(tmp_path / "out.json")
    assert (found["backend"], found["instance"]) == ("rucio", "rucio")
    assert found["datasets"] == ["/A/B/C"]
    assert found["summary"] == {
        "files": 4,
        "invalid_files": 0,
        "left_out_files": 0,
        "events": None,
        "bytes": 400,
    }


def test_what_rucio_does_not_know() -> None:
    with pytest.raises(LookupFailed, match=r"no file for it at T2_X; does it exist"):
        ask(parse("file dataset=/A/B/C site=T2_X"), ASKING)
    with pytest.raises(LookupFailed, match="rucio: doesn't know which runs are in a file; das"):
        ask(parse("file dataset=/A/B/C run=1"), ASKING)
    with pytest.raises(RucioFailed, match=r"^Rucio: file of /A/B/USER: DataIdentifierNotFound: "):
        ask(parse("file dataset=/A/B/USER"), ASKING)
    with pytest.raises(LookupFailed, match=r"rucio \(rucio\) knows no dataset /X\*/B/C"):
        ask(parse("file dataset=/X*/B/C"), ASKING)
    with pytest.raises(QueryWrong, match="rucio doesn't know the status of datasets"):
        ask(parse("dataset=/A*/B/C status=PRODUCTION"), ASKING)
    with pytest.raises(LookupFailed, match="the backend rucio: doesn't know summary"):
        ask(parse("summary dataset=/A/B/C"), ASKING)


def test_a_rucio_that_stays_silent(server: TlsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(RucioHandler, "do_GET", lambda handler: release.wait())
    try:
        with pytest.raises(RucioFailed, match=r"^Rucio: file of /A/B/C: \w*Timeout: "):
            ask(parse("file dataset=/A/B/C"), replace(ASKING, timeout=0.3))
    finally:
        release.set()


def test_rucio_wants_an_hour(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    short = authority.proxy("short", "-hours", "1")
    monkeypatch.setenv("X509_USER_PROXY", str(short))
    # a token is of no use to it
    for token in ("", "a.b.c"):
        monkeypatch.setenv("BEARER_TOKEN", token)
        with pytest.raises(NoCredential, match=r"will expire in 0:59 h, 1:00 h are needed"):
            ask(parse("file dataset=/A/B/C"), ASKING)


def test_rucio_without_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUCIO_HOME", str(tmp_path / "none"))
    with pytest.raises(LookupFailed, match=r"there is no etc/rucio\.cfg in RUCIO_HOME"):
        ask(parse("file dataset=/A/B/C"), ASKING)
