"""The backend `dbs` against a DBS over TLS that wants a certificate, with real VOMS proxies."""

import contextlib
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import urllib3
import yaml
from conftest import REPO, Snakemake
from grid import EXPIRED, Authority, DbsHandler, DbsServer, dbs_row, need, serving

from looseleaf.das import dbs as dbs_module
from looseleaf.das.ask import Asking, ask, choose, records_of
from looseleaf.das.lookup import lookup
from looseleaf.das.problems import BackendFailed, CutOff, NoCredential, Transient
from looseleaf.das.proxy import MAKE_ONE
from looseleaf.das.query import parse
from looseleaf.das.records import BlockRecord, DatasetRecord, LumiRecord, SummaryRecord
from looseleaf.errors import LookupFailed
from looseleaf.files import read_json
from looseleaf.stage_files import FileRecord

pytestmark = pytest.mark.slow

FILES = "file dataset=/A/B/C"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    need("openssl")
    made = Authority(tmp_path_factory.mktemp("authority"))
    made.proxy("x509up", "-hours", "24")
    return made


@pytest.fixture
def server(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[DbsServer]:
    monkeypatch.setenv("X509_USER_PROXY", str(authority.folder / "x509up"))
    monkeypatch.setenv("X509_CERT_DIR", str(authority.certificates))
    monkeypatch.delenv("BEARER_TOKEN", raising=False)
    monkeypatch.delenv("BEARER_TOKEN_FILE", raising=False)
    monkeypatch.setattr(dbs_module, "BACKOFF", 0)
    server = DbsServer(authority)
    server.files["/A/B/C"] = [dbs_row("/store/a.root"), dbs_row("/store/b.root", event_count=20)]
    with serving(server):
        yield server


@pytest.fixture
def asking(server: DbsServer) -> Asking:
    return Asking("dbs", host=server.url, timeout=10, tries=3, parallel=4)


def test_files_in_one_call_with_a_proxy(server: DbsServer, asking: Asking) -> None:
    answer = ask(parse(FILES), asking)
    assert answer.records == {
        "/A/B/C": [
            FileRecord("/store/a.root", 100, 10, "212c04df", "/A/B/C#1"),
            FileRecord("/store/b.root", 100, 20, "213204e0", "/A/B/C#1"),
        ]
    }
    assert (answer.backend, answer.instance) == ("dbs", "prod/global")
    assert server.asked == [("files", {"dataset": "/A/B/C", "detail": "True"})]
    # the end of the chain is the proxy, whose name ends in a number of its own
    (subject,) = server.seen
    assert subject.startswith("test,A Physicist,")


def test_another_instance_is_another_path(server: DbsServer, asking: Asking) -> None:
    assert ask(parse(FILES + " instance=prod/phys03"), asking).instance == "prod/phys03"


@pytest.mark.parametrize("end", ["", "\n"])
def test_an_answer_by_lines(server: DbsServer, asking: Asking, end: str) -> None:
    server.by_lines = True
    assert len(ask(parse(FILES), asking).records["/A/B/C"]) == 2


def test_summary_blocks_and_luminosity_sections(server: DbsServer, asking: Asking) -> None:
    server.files["/A/B/C"].append(dbs_row("/store/bad.root", is_file_valid=0))
    server.blocks["/A/B/C"] = [
        {"block_name": "/A/B/C#1", "block_size": 150, "file_count": 1},
        {"block_name": "/A/B/C#2", "block_size": 50, "file_count": 1},
    ]
    section = {"logical_file_name": "/store/a.root", "run_num": 1}
    server.lumis["/A/B/C#1"] = [
        # in an order that sets of numbers don't mend
        {**section, "lumi_section_num": [8, 2]},
        {**section, "lumi_section_num": 1},
    ]
    server.lumis["/A/B/C#2"] = [{**section, "run_num": 7, "lumi_section_num": [5]}]
    (totals,) = ask(parse("summary dataset=/A/B/C"), asking).records["/A/B/C"]
    assert totals == SummaryRecord(files=2, events=30, blocks=1, lumis=14, bytes=200)
    assert ask(parse("block dataset=/A/B/C"), asking).records["/A/B/C"] == [
        BlockRecord("/A/B/C#1", 150, 1),
        BlockRecord("/A/B/C#2", 50, 1),
    ]
    asked = "file,run,lumi dataset=/A/B/C"
    assert ask(parse(asked), asking).records["/A/B/C"] == [
        LumiRecord("/store/a.root", (1,), (1, 2, 8)),
        LumiRecord("/store/a.root", (7,), (5,)),
    ]
    only = ask(parse(asked + " run between [5,9]"), asking).records["/A/B/C"]
    assert only == [LumiRecord("/store/a.root", (7,), (5,))]
    with pytest.raises(LookupFailed, match="no file,run,lumi for it in the runs asked for"):
        ask(parse(asked + " run=2"), asking)


def test_sites_are_not_dbs_to_say(asking: Asking) -> None:
    with pytest.raises(LookupFailed, match="the backend dbs: doesn't know site; it knows block"):
        ask(parse("site dataset=/A/B/C"), asking)


def refusal(kind: type[LookupFailed], asking: Asking, query: str = FILES) -> str:
    with pytest.raises(LookupFailed) as problem:
        ask(parse(query), asking)
    assert type(problem.value) is kind
    return str(problem.value)


def test_a_busy_service_is_asked_again(server: DbsServer, asking: Asking) -> None:
    server.faults = [503, 429]
    assert len(ask(parse(FILES), asking).records["/A/B/C"]) == 2
    assert len(server.asked) == 3


def test_a_service_that_stays_busy_is_asked_so_many_times(
    server: DbsServer, asking: Asking
) -> None:
    server.faults = [503] * 9
    message = refusal(Transient, asking)
    assert "answered 503 after 3 tries: the database is busy" in message
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [400, 404, 500])
def test_a_refusal_is_not_asked_again(server: DbsServer, asking: Asking, status: int) -> None:
    server.faults = [status]
    message = refusal(BackendFailed, asking)
    assert message.startswith("DBS files of /A/B/C: ")
    assert message.endswith(f"answered {status}: the database is busy")
    assert len(server.asked) == 1


def test_a_refusal_that_comes_as_an_answer(server: DbsServer, asking: Asking) -> None:
    said = '[{"error": {"reason": "the database has no such dataset"}}]'
    server.faults = [lambda handler: handler.answer(said)]
    message = refusal(BackendFailed, asking)
    assert message.endswith("answered 200: the database has no such dataset")


def test_who_asks_is_not_accepted(server: DbsServer, asking: Asking) -> None:
    server.faults = [403]
    assert f"is the proxy or token of the VO cms? type: {MAKE_ONE}" in refusal(NoCredential, asking)


def test_a_login_page_is_not_followed(server: DbsServer, asking: Asking) -> None:
    def elsewhere(handler: DbsHandler) -> None:
        handler.answer("", 302, Location="https://localhost:1/login")

    server.faults = [elsewhere]
    assert "redirects (302), as it does to a login page" in refusal(BackendFailed, asking)


def test_an_answer_that_is_no_json(server: DbsServer, asking: Asking) -> None:
    server.faults = [lambda handler: handler.answer("<html>Welcome</html>")]
    assert "something other than JSON: '<html>Welcome" in refusal(BackendFailed, asking)


def broken_off(handler: DbsHandler) -> None:
    handler.answer('[{"logical_file_name": "/store/a', Content_Length="5000")
    handler.close_connection = True


def test_a_connection_that_breaks_off_is_tried_again(server: DbsServer, asking: Asking) -> None:
    server.faults = [broken_off]
    assert len(ask(parse(FILES), asking).records["/A/B/C"]) == 2
    server.faults = [broken_off] * 9
    assert "/DBSReader broke off: IncompleteRead(" in refusal(CutOff, asking)
    assert len(server.asked) == 2 + 3


def test_lines_that_stop_between_two_are_no_whole_answer(server: DbsServer, asking: Asking) -> None:
    def first_line_only(handler: DbsHandler) -> None:
        handler.answer('{"logical_file_name": "/store/a.root"}\n', Content_Length="5000")
        handler.close_connection = True

    server.faults = [first_line_only] * 9
    assert "/DBSReader broke off: IncompleteRead(" in refusal(CutOff, asking)


@pytest.mark.parametrize(
    "text", ['[{"logical_file_name": "/store/a.root"}, {"logi', '{"a": 1}\n{"logical_fil']
)
def test_an_answer_that_is_cut_off(server: DbsServer, asking: Asking, text: str) -> None:
    server.faults = [lambda handler: handler.answer(text)]
    assert len(ask(parse(FILES), asking).records["/A/B/C"]) == 2
    server.faults = [lambda handler: handler.answer(text)] * 9
    assert "the answer is cut off or damaged after" in refusal(CutOff, asking)
    assert len(server.asked) == 2 + 3


def test_an_answer_that_never_comes(server: DbsServer, asking: Asking) -> None:
    release = threading.Event()
    server.hold = release.wait
    try:
        message = refusal(Transient, replace(asking, timeout=0.2, tries=2))
    finally:
        release.set()
    assert "in 2 tries" in message
    assert "timed out" in message


def test_an_answer_that_drips_in(server: DbsServer, asking: Asking) -> None:
    """Each byte comes in time, the whole answer does not."""

    def drip(handler: DbsHandler) -> None:
        handler.answer("[", Content_Length="1000")
        with contextlib.suppress(OSError):
            for _ in range(50):
                handler.wfile.write(b" ")
                handler.wfile.flush()
                time.sleep(0.1)
        handler.close_connection = True

    server.faults = [drip] * 2
    started = time.monotonic()
    message = refusal(CutOff, replace(asking, timeout=0.3, tries=2))
    assert time.monotonic() - started < 4
    assert "was not whole after 0.3 s; das.timeout (--timeout) gives it more" in message


def test_files_of_a_block_in_one_call(server: DbsServer, asking: Asking) -> None:
    other = dbs_row("/store/c.root", block_name="/A/B/C#2")
    server.files["/A/B/C"].append(other)
    (found,) = ask(parse("file block=/A/B/C#2"), asking).records["/A/B/C"]
    assert found == FileRecord("/store/c.root", 100, 10, "213804e1", "/A/B/C#2")
    assert server.asked == [("files", {"block_name": "/A/B/C#2", "detail": "True"})]


def test_nobody_listens(server: DbsServer, asking: Asking) -> None:
    message = refusal(Transient, replace(asking, host="https://localhost:1"))
    assert "no answer from https://localhost:1/dbs" in message


def test_an_empty_answer_is_an_error(server: DbsServer, asking: Asking) -> None:
    message = refusal(LookupFailed, asking, "file dataset=/A/B/USER")
    assert message == (
        "dataset /A/B/USER: dbs (prod/global) lists no file for it; does it exist there?"
    )
    assert "lists no summary" in refusal(LookupFailed, asking, "summary dataset=/A/B/USER")
    server.faults = [lambda handler: handler.answer("")]
    assert "lists no file for it" in refusal(LookupFailed, asking)


def test_odd_files_in_a_snapshot(server: DbsServer, asking: Asking, tmp_path: Path) -> None:
    server.files["/A/B/C"] += [
        dbs_row("/store/null.root", event_count=None, adler32="NOTSET"),
        dbs_row("/store/bad.root", is_file_valid=0, file_size=0),
    ]
    lookup("/A/B/C", tmp_path / "out.json", asking=asking)
    found = read_json(tmp_path / "out.json")
    # unknown is not zero
    assert found["summary"] == {
        "files": 3,
        "invalid_files": 1,
        "left_out_files": 0,
        "events": None,
        "bytes": 300,
    }
    assert [file["valid"] for file in found["files"]] == [True, True, True, False]
    assert found["files"][2]["adler32"] is None
    assert str(tmp_path) not in str(found)
    assert "x509" not in str(found)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (dbs_row("/store/a.root"), "the backend dbs lists /store/a.root more than once"),
        (dbs_row("/store/0.root", file_size=0), "says that /store/0.root has 0 bytes"),
        (dbs_row("/store/x.root", event_count=-1), "/store/x.root: event_count is -1"),
        (dbs_row("/store/x.root", file_size="12"), "file_size is '12', not a whole number"),
        (dbs_row(""), "a record without logical_file_name"),
    ],
)
def test_files_that_cannot_be(
    server: DbsServer, asking: Asking, tmp_path: Path, row: dict[str, object], message: str
) -> None:
    server.files["/A/B/C"].append(row)
    with pytest.raises(LookupFailed, match=message.replace(".", r"\.")):
        lookup("/A/B/C", tmp_path / "out.json", asking=asking)
    assert not (tmp_path / "out.json").exists()


def test_all_files_invalid(server: DbsServer, asking: Asking, tmp_path: Path) -> None:
    server.files["/A/B/C"] = [dbs_row("/store/bad.root", is_file_valid=0)]
    with pytest.raises(LookupFailed, match="marks all of its files as invalid"):
        lookup("/A/B/C", tmp_path / "out.json", asking=asking)


def test_so_many_requests_at_a_time_and_no_more(server: DbsServer, asking: Asking) -> None:
    names = [f"/A/B{index}/C" for index in range(12)]
    server.files = {name: [dbs_row(f"/store{name}.root", name)] for name in names}
    # nobody is answered before four have asked
    server.hold = threading.Barrier(4, timeout=30).wait
    found = records_of(choose(asking, "file")[0], parse(FILES), names, asking.parallel)
    assert {name: [file.name for file in files] for name, files in found.items()} == {
        name: [f"/store{name}.root"] for name in names
    }
    assert len(server.asked) == 12
    assert server.most_at_once == 4


# --- patterns


def declared(server: DbsServer, *names: str) -> None:
    server.files = {name: [dbs_row(f"/store{name}.root", name)] for name in names}


def test_datasets_of_the_status_that_is_asked_for(server: DbsServer, asking: Asking) -> None:
    declared(server, "/X/a/SIM", "/X/b/SIM", "/X/c/SIM", "/Y/d/SIM")
    server.statuses = {"/X/b/SIM": "PRODUCTION", "/X/c/SIM": "INVALID", "/Y/d/SIM": "PRODUCTION"}
    pattern = "/X/*/SIM"
    for words, names, status in (
        ("", ["/X/a/SIM"], "VALID"),
        (" status=PRODUCTION", ["/X/b/SIM"], "PRODUCTION"),
        (" status=INVALID", ["/X/c/SIM"], "INVALID"),
    ):
        found = ask(parse(f"dataset dataset={pattern}{words}"), asking).records[pattern]
        assert found == [DatasetRecord(name, status) for name in names]
    files = ask(parse("file dataset=/X/*/SIM status=PRODUCTION"), asking).records
    assert list(files) == ["/X/b/SIM"]


def test_a_pattern_is_expanded_and_written_down(
    server: DbsServer, asking: Asking, tmp_path: Path
) -> None:
    parts = ["/X/Fall17-v1/SIM", "/X/Fall17_ext1-v1/SIM", "/X/Fall17_ext2-v2/SIM"]
    parts = [name.replace("Fall17", "Fall17-tag") for name in parts]
    declared(server, *parts, "/Y/Fall17-tag-v1/SIM")
    lookup("/X/Fall17*/SIM", tmp_path / "out.json", asking=asking)
    found = read_json(tmp_path / "out.json")
    assert found["dataset"] == "/X/Fall17*/SIM"
    assert found["datasets"] == parts
    assert [file["block"] for file in found["files"]] == [f"{name}#1" for name in parts]


def test_eras_of_a_year_of_data_are_one_dataset(
    server: DbsServer, asking: Asking, tmp_path: Path
) -> None:
    declared(server, "/SingleMuon/Run2018A-UL-v1/NANOAOD", "/SingleMuon/Run2018B-UL-v1/NANOAOD")
    lookup("/SingleMuon/Run2018*/NANOAOD", tmp_path / "out.json", asking=asking)
    assert read_json(tmp_path / "out.json")["summary"]["files"] == 2


def test_a_pattern_that_matches_nothing(server: DbsServer, asking: Asking) -> None:
    message = refusal(LookupFailed, asking, "file dataset=/Z*/B/C")
    assert "dbs (prod/global) knows no dataset /Z*/B/C with status VALID" in message
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["/X/Summer16-a-v1/SIM", "/X/Fall17-a-v1/SIM"], "campaigns or years"),
        (["/X/Run2017F-a-v1/SIM", "/X/Run2018A-a-v1/SIM"], "campaigns or years"),
        (["/X/Fall17-a-v1/SIM", "/X/Fall17-a-v2/SIM"], "versions of the same dataset"),
        (["/X/Fall17-a-v1/SIM", "/X/Fall17-b-v1/SIM"], "processings"),
        (["/X/Run2018A-UL-v1/SIM", "/X/Run2018B-Nano-v1/SIM"], "processings"),
        (["/X/Fall17-a-v1/SIM", "/X2/Fall17-a-v1/SIM"], "primary datasets"),
        (["/X/Fall17-a-v1/SIM", "/X/Fall17-a-v1/AODSIM"], "tiers"),
    ],
)
def test_what_would_merge_under_one_name_is_refused(
    server: DbsServer, asking: Asking, tmp_path: Path, names: list[str], what: str
) -> None:
    declared(server, *names)
    with pytest.raises(LookupFailed, match=f"different {what}") as problem:
        lookup("/X*/*/*SIM", tmp_path / "out.json", asking=asking)
    # the list from which to declare them apart
    assert all(f"\n  {name}" in str(problem.value) for name in names)
    # asked for one by one, they stay apart by their whole names
    assert list(ask(parse("file dataset=/X*/*/*SIM"), asking).records) == names


# --- snapshots


def test_a_refresh_says_what_changed(
    server: DbsServer, asking: Asking, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    server.files["/A/B/C"] += [dbs_row("/store/c.root"), dbs_row("/store/d.root")]
    lookup("/A/B/C", out, asking=asking)
    first = read_json(out)
    assert "changes" not in first
    lookup("/A/B/C", out, asking=asking)
    assert read_json(out) == first
    assert capsys.readouterr().err == ""
    server.files["/A/B/C"] = [
        dbs_row("/store/a.root"),
        dbs_row("/store/b.root", event_count=20, is_file_valid=0),
        dbs_row("/store/c.root", file_size=101),
        dbs_row("/store/e.root"),
    ]
    lookup("/A/B/C", out, asking=asking)
    second = read_json(out)
    assert second["changes"] == {
        "since": first["time"],
        "added": ["/store/e.root"],
        "removed": ["/store/d.root"],
        "invalidated": ["/store/b.root"],
        "left_out": [],
        "altered": ["/store/c.root"],
    }
    assert second["summary"]["files"] == 3
    told = capsys.readouterr().err
    assert f"since {first['time']}: 1 added, 1 removed, 1 invalidated, 1 altered; see" in told


@pytest.mark.parametrize("there", ["", "[]", '{"format": "another"}', '{"cut": "off'])
def test_what_is_no_snapshot_is_replaced(
    server: DbsServer, asking: Asking, tmp_path: Path, there: str
) -> None:
    (tmp_path / "out.json").write_text(there)
    lookup("/A/B/C", tmp_path / "out.json", asking=asking)
    found = read_json(tmp_path / "out.json")
    assert found["summary"]["files"] == 2
    assert "changes" not in found


def test_auto_says_in_the_snapshot_who_could_not_work(
    server: DbsServer, asking: Asking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    lookup("/A/B/C", tmp_path / "out.json", asking=replace(asking, backend="auto"))
    found = read_json(tmp_path / "out.json")
    assert found["backend"] == "dbs"
    assert found["passed_over"] == {
        "dasgoclient": "there is no dasgoclient on the PATH, nor "
        "/cvmfs/cms.cern.ch/common/dasgoclient"
    }


def test_a_failed_refresh_leaves_the_snapshot(
    server: DbsServer, asking: Asking, tmp_path: Path
) -> None:
    lookup("/A/B/C", tmp_path / "out.json", asking=asking)
    before = (tmp_path / "out.json").read_bytes()
    server.faults = [500]
    with pytest.raises(BackendFailed):
        lookup("/A/B/C", tmp_path / "out.json", asking=asking)
    assert (tmp_path / "out.json").read_bytes() == before


@pytest.mark.chain
def test_the_workflow_asks_once_and_again_when_told(
    server: DbsServer, snakemake: Snakemake, tmp_path: Path
) -> None:
    names = ("/A/B/C", "/D/B/USER")
    server.files["/D/B/USER"] = [dbs_row("/store/u.root", "/D/B/USER")]
    process = {"process": "qcd", "xsec_pb": 1.0}
    (tmp_path / "datasets.yaml").write_text(
        yaml.safe_dump({f"D{index}": {"das": name, **process} for index, name in enumerate(names)})
    )
    analysis = yaml.safe_load((REPO / "config/analyses/muon.yaml").read_text())
    analysis["datasets"] = {"measure": ["D0", "D1"]}
    (tmp_path / "muon.yaml").write_text(yaml.safe_dump(analysis))
    override = {
        "datasets": ["datasets.yaml"],
        "analyses": ["muon.yaml"],
        "das": {"backend": "dbs", "host": server.url},
    }

    def das(*options: str) -> str:
        run = snakemake("das", *options, override=override)
        assert run.status == 0, run.text
        return run.text

    das()
    assert sorted(parameters["dataset"] for _, parameters in server.asked) == sorted(names)
    # how it is asked is no reason to ask again
    override["das"]["timeout"] = 5
    das()
    assert len(server.asked) == 2
    server.files["/A/B/C"].append(dbs_row("/store/new.root"))
    before = (tmp_path / "results/das/D1.json").read_bytes()
    text = das("--forcerun", "das_lookup")
    assert len(server.asked) == 4
    assert "das: /A/B/C since " in text
    assert ": 1 added; see results/das/D0.json" in text
    found = read_json(tmp_path / "results/das/D0.json")
    assert found["changes"]["added"] == ["/store/new.root"]
    assert found["summary"]["files"] == 3
    # an unchanged list is left as it is, so that nothing after it runs again
    assert (tmp_path / "results/das/D1.json").read_bytes() == before
    # a failed refresh leaves the list that was there
    server.faults = [500] * 2
    run = snakemake("das", "--forcerun", "das_lookup", override=override)
    assert run.status != 0
    assert "the database is busy" in run.text
    assert read_json(tmp_path / "results/das/D0.json") == found
    for path in (tmp_path / "results").rglob("*.*"):
        assert not path.is_file() or "x509up" not in path.read_text()


# --- who asks


def test_the_server_verifies_what_a_client_shows(
    authority: Authority, server: DbsServer, tmp_path: Path
) -> None:
    expired = authority.proxy("expired", *EXPIRED)
    for shown in (expired, None):
        context = ssl.create_default_context(capath=authority.certificates)
        if shown is not None:
            context.load_cert_chain(shown)
        pool = urllib3.PoolManager(ssl_context=context, retries=False)
        with pool, pytest.raises(urllib3.exceptions.HTTPError):
            pool.request("GET", f"{server.url}/dbs/prod/global/DBSReader/files/")
    assert server.asked == []


def test_a_proxy_of_another_authority_is_refused(
    authority: Authority,
    server: DbsServer,
    asking: Asking,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = Authority(tmp_path / "other")
    monkeypatch.setenv("X509_USER_PROXY", str(other.proxy("x509up", "-hours", "24")))
    message = refusal(NoCredential, asking)
    assert "refused the proxy: is it from an authority that it trusts?" in message
    assert message.endswith(f"type: {MAKE_ONE}")
    assert str(tmp_path) not in message
    assert server.asked == []


def test_a_server_of_another_authority_is_refused(
    server: DbsServer, asking: Asking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Authority(tmp_path / "other")
    monkeypatch.setenv("X509_CERT_DIR", str(other.certificates))
    message = refusal(BackendFailed, asking)
    assert "can't be trusted: its authority is not among those in X509_CERT_DIR" in message
    assert server.asked == []


def test_an_expired_proxy_is_told_before_anything_is_asked(
    authority: Authority, server: DbsServer, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    expired = authority.proxy("old", *EXPIRED)
    monkeypatch.setenv("X509_USER_PROXY", str(expired))
    message = refusal(NoCredential, asking)
    assert "the proxy that X509_USER_PROXY names expired 47:0" in message
    assert server.asked == []


def test_a_token_instead_of_a_proxy(
    authority: Authority, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("X509_USER_PROXY")
    monkeypatch.setenv("BEARER_TOKEN", "a.b.c")
    server = DbsServer(authority, token="a.b.c")
    server.files["/A/B/C"] = [dbs_row("/store/a.root")]
    with serving(server):
        asking = replace(asking, host=server.url)
        assert len(ask(parse(FILES), asking).records["/A/B/C"]) == 1
        # a service may quote what it was given
        server.faults = [lambda handler: handler.answer(handler.headers["Authorization"], 400)]
        assert refusal(BackendFailed, asking).endswith("answered 400: Bearer (the token)")
        monkeypatch.setenv("BEARER_TOKEN", "x.y.z")
        message = refusal(NoCredential, asking)
    assert "(401: " in message
    assert "x.y.z" not in message
