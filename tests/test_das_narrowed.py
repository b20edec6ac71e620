"""Files of some runs and files at a site: by the backends that know, with a token."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from grid import Authority, DbsServer, dbs_row, need, serving
from test_das_command import LISTED, StandIn

from looseleaf.das.ask import Asking, ask
from looseleaf.das.query import parse
from looseleaf.das.records import file_record
from looseleaf.errors import LookupFailed

FILES = "file dataset=/A/B/C"
RUNS = [("run=5", "5"), ("run in [5, 7]", "[5,7]"), ("run between [5, 9]", "5-9")]


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEARER_TOKEN", "a.b.c")
    monkeypatch.delenv("BEARER_TOKEN_FILE", raising=False)
    monkeypatch.delenv("X509_USER_PROXY", raising=False)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    need("openssl")
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def server(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[DbsServer]:
    monkeypatch.setenv("X509_CERT_DIR", str(authority.certificates))
    server = DbsServer(authority, token="a.b.c")
    server.files["/A/B/C"] = [dbs_row("/store/a.root"), dbs_row("/store/b.root")]
    with serving(server):
        yield server


@pytest.mark.parametrize(("condition", "run_num"), RUNS)
def test_dbs_is_asked_for_the_runs(server: DbsServer, condition: str, run_num: str) -> None:
    asking = Asking("dbs", host=server.url, timeout=10)
    answer = ask(parse(f"{FILES} {condition}"), asking)
    assert [record.name for record in answer.records["/A/B/C"]] == [
        "/store/a.root",
        "/store/b.root",
    ]
    ask(parse(f"file block=/A/B/C#1 {condition}"), asking)
    more = {"detail": "True", "run_num": run_num}
    assert server.asked == [
        ("files", {"dataset": "/A/B/C", **more}),
        ("files", {"block_name": "/A/B/C#1", **more}),
    ]


def test_dbs_does_not_know_sites(server: DbsServer) -> None:
    with pytest.raises(
        LookupFailed, match="dbs: doesn't know at which sites a file is; dasgoclient and rucio do"
    ):
        ask(parse(f"{FILES} site=T2_CH_CERN"), Asking("dbs", host=server.url))
    assert server.asked == []


def test_an_empty_answer_says_what_was_asked(server: DbsServer) -> None:
    server.files["/A/B/C"] = []
    with pytest.raises(LookupFailed, match="lists no file for it in the runs asked for; does it"):
        ask(parse(f"{FILES} run=5"), Asking("dbs", host=server.url))


@pytest.mark.parametrize(
    ("condition", "passed"),
    [
        ("run=5", "run=5"),
        ("run in [5, 7]", "run in [5,7]"),
        ("run in [5]", "run=5"),
        ("run between [5, 9]", "run between [5,9]"),
        ("site=T2_CH_CERN", "site=T2_CH_CERN"),
        ("site=T2_CH_CERN run=5", "run=5 site=T2_CH_CERN"),
    ],
)
def test_dasgoclient_is_given_the_conditions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, condition: str, passed: str
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    standin = StandIn(tmp_path)
    standin.prints(LISTED)
    answer = ask(parse(f"{FILES} {condition}"), Asking("auto", timeout=30))
    assert answer.backend == "dasgoclient"
    assert standin.calls == [
        f"-query file dataset=/A/B/C instance=prod/global {passed} -json -timeout=30"
    ]
    assert len(answer.records["/A/B/C"]) == 2


def test_sections_of_runs_are_chosen_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    standin = StandIn(tmp_path)
    # a file may have events of several runs
    files = {"a": 4, "b": 5, "c": [9, 12], "d": [3, 10], "e": [1, 2]}
    rows = [
        {"file": [{"name": f"/{n}"}], "run": [{"run_number": runs}], "lumi": [{"number": [1]}]}
        for n, runs in files.items()
    ]
    standin.prints(json.dumps(rows))
    query = "file,run,lumi dataset=/A/B/C run between [5,10]"
    (records,) = ask(parse(query), Asking("dasgoclient", timeout=30)).records.values()
    assert [record.file for record in records] == ["/b", "/c", "/d"]
    # and a range of billions is no list of them
    query = "file,run,lumi dataset=/A/B/C run between [5,9999999999]"
    (records,) = ask(parse(query), Asking("dasgoclient", timeout=30)).records.values()
    assert [record.file for record in records] == ["/b", "/c", "/d"]
    assert "run" not in standin.calls[0].partition("dataset=")[2]


@pytest.mark.parametrize(
    ("stated", "known"),
    [
        ("1a2b3c4d", "1a2b3c4d"), ("0x1A", "0000001a"), ("5", "00000005"),
        *((text, None) for text in ("0", "00000000", "NOTSET", "", "1_0", "123456789", None)),
    ],
)  # fmt: skip
def test_checksums_as_services_state_them(stated: str | None, known: str | None) -> None:
    row = {"name": "/store/a.root", "adler32": stated}
    keys = {"name": "name", "bytes": "size", "events": "nevents"}
    assert file_record(row, keys, "it").adler32 == known


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("is_file_valid", None, "/store/a.root: is_file_valid is None, neither 0 nor 1"),
        ("is_file_valid", "0", "is_file_valid is '0', neither"),
        ("is_file_valid", 2, "is_file_valid is 2, neither"),
        ("block_name", 7, "/store/a.root: block_name is 7, not a name"),
        ("size", 1 << 63, "size is 9223372036854775808"),
        ("nevents", True, "nevents is True, not a whole number"),
    ],
)
def test_fields_that_say_nothing(field: str, value: object, message: str) -> None:
    row = {"name": "/store/a.root", "is_file_valid": 1, field: value}
    keys = {"name": "name", "bytes": "size", "events": "nevents"}
    with pytest.raises(LookupFailed, match=message):
        file_record(row, keys, "it")
    assert file_record({"name": "/store/a.root", "is_file_valid": 0}, keys, "it").valid is False
