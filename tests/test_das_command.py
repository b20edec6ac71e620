"""The query language, the command and the function for notebooks, over catalogues and over a
stand-in for dasgoclient that prints what the real one prints."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import psutil
import pytest
import yaml
from click.testing import CliRunner, Result
from grid import Authority, need

from looseleaf.command import main
from looseleaf.das import dasgoclient as dasgoclient_module
from looseleaf.das.ask import BACKENDS, Asking, ask
from looseleaf.das.dasgoclient import answer_of, records_in
from looseleaf.das.notebook import das
from looseleaf.das.problems import (
    BackendFailed,
    CutOff,
    NoCredential,
    QueryWrong,
    RucioFailed,
    Transient,
)
from looseleaf.das.proxy import Credential
from looseleaf.das.query import Function, Query, Selection, parse
from looseleaf.das.records import (
    BlockRecord,
    DatasetRecord,
    LumiRecord,
    SiteRecord,
    SummaryRecord,
)
from looseleaf.das.shapes import lines
from looseleaf.errors import LookupFailed
from looseleaf.stage_files import FileRecord, write_catalogue

# --- the language


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("file dataset=/A/B/C", {"field": "file", "dataset": "/A/B/C"}),
        ("dataset=/A*/B/C", {"field": "dataset", "dataset": "/A*/B/C"}),
        ("dataset dataset=/A/B/C status=PRODUCTION", {"status": "PRODUCTION"}),
        ("dataset status=* dataset=/A/B/C", {"status": "*"}),
        ("file dataset=/A/B/C instance=prod/phys03", {"instance": "prod/phys03"}),
        ("file block=/A/B/C#1-a", {"dataset": "/A/B/C", "block": "/A/B/C#1-a"}),
        ("file, run,lumi dataset=/A/B/C run=5", {"field": "file,run,lumi", "runs": (5,)}),
        ("file,run,lumi dataset=/A/B/C run in [1, 2]", {"runs": (1, 2)}),
        ("file,run,lumi run between [1,3] dataset=/A/B/C", {"runs": range(1, 4)}),
        ("file dataset=/A/B/C run=5 site=T2_CH_CERN", {"runs": (5,), "site": "T2_CH_CERN"}),
        ("file run in [1,2] block=/A/B/C#1-a", {"runs": (1, 2), "block": "/A/B/C#1-a"}),
        (
            "file dataset=/A/B/C | grep file.name, file.size>10 | sum(file.size), count(file.name)",
            {
                "grep": (Selection("file.name"), Selection("file.size", ">", "10")),
                "functions": (Function("sum", "file.size"), Function("count", "file.name")),
            },
        ),
    ],
)
def test_queries_taken_apart(text: str, expected: dict[str, object]) -> None:
    query = parse(text)
    assert {key: getattr(query, key) for key in expected} == expected
    assert query.text == text


@pytest.mark.parametrize(
    ("text", "part", "hint"),
    [
        ("", "", "known fields are file; dataset"),
        ("files dataset=/A/B/C", "files", "known fields are file; dataset"),
        ("file", "dataset=", "a dataset is /primary/processed/tier"),
        ("file dataset=A/B", "dataset=A/B", "a dataset is /primary/processed/tier"),
        ("file dataset=/A/B/C;rm", "dataset=/A/B/C;rm", "a dataset is"),
        ("file dataset /A/B/C", "dataset /A/B/C", "conditions are key=value"),
        ("file dataset=/A/B/C tier=X", "tier", "known conditions are dataset, block"),
        ("file dataset=/A/B/C dataset=/A/B/D", "dataset", "given twice"),
        ("block dataset=/A/B/C run=1", "run", "only file and file,run,lumi can be"),
        ("block dataset=/A/B/C site=T2_X", "site=T2_X", "only file can be narrowed to a site"),
        ("file dataset=/A/B/C site=T2-X", "site=T2-X", "a site is like T2_CH_CERN"),
        ("file dataset=/A/B/C run=12345678901", "run = 12345678901", "up to ten digits"),
        ("file dataset=/A/B/C run=٣", "run = ٣", "runs are numbers"),
        ("file dataset=/Ä/B/C", "dataset=/Ä/B/C", "a dataset is"),
        ("dataset=/A/B/C status=a;b", "status=a;b", "a status is like VALID"),
        ("file,run,lumi dataset=/A/B/C run=x", "run = x", "runs are numbers"),
        ("file,run,lumi dataset=/A/B/C run between [5,1]", "run between [5,1]", "[first, last]"),
        ("file dataset in [/A/B/C]", "dataset in", "lists and ranges are for run"),
        ("summary block=/A/B/C#1", "block=/A/B/C#1", "asked for by dataset="),
        ("file block=/A/B/C", "block=/A/B/C", "a block is"),
        ("file dataset=/A/B/D block=/A/B/C#1", "block=/A/B/C#1", "this block isn't of the dataset"),
        ("file dataset=/A/B/C instance=x", "instance=x", "like prod/global"),
        ("file dataset=/A/B/C | sort file.size", "sort file.size", "after | comes grep"),
        ("file dataset=/A/B/C | mean(file.size)", "mean(file.size)", "after | comes grep"),
        ("file dataset=/A/B/C | grep", "grep", "after | comes grep"),
        ("file dataset=/A/B/C | grep file.size >", "file.size >", "grep takes keys"),
    ],
)
def test_what_cannot_be_understood_is_shown(text: str, part: str, hint: str) -> None:
    with pytest.raises(QueryWrong) as problem:
        parse(text)
    assert str(problem.value).startswith(f"query {text!r}: {part!r}: ")
    assert hint in str(problem.value)


# --- the command, over a catalogue


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    path = tmp_path / "catalogue.json"
    write_catalogue(
        path,
        {
            "/A/B/C": [
                FileRecord("/store/a.root", 100, 10, "0000000a", "/A/B/C#1"),
                FileRecord("/store/b.root", 250, None, None, "/A/B/C#2"),
            ],
            "/A2/B/C": [FileRecord("/store/c.root", 300, 30, "0000000c", "/A2/B/C#1", False)],
        },
    )
    return path


def looseleaf(catalogue: Path, query: str, *options: str) -> Result:
    common = ["das", "--backend", "catalogue", "--catalogue", str(catalogue)]
    return CliRunner().invoke(main, [*common, *options, query])


@pytest.mark.parametrize(
    ("query", "lines"),
    [
        ("file dataset=/A/B/C", ["/store/a.root", "/store/b.root"]),
        ("file dataset=/A*/B/C", ["/store/a.root", "/store/b.root", "/store/c.root"]),
        ("file block=/A/B/C#2", ["/store/b.root"]),
        ("dataset=/A*/B/C", ["/A/B/C", "/A2/B/C"]),
        ("block dataset=/A/B/C", ["/A/B/C#1", "/A/B/C#2"]),
        (
            "file dataset=/A/B/C | grep file.size,file.name",
            ["100 /store/a.root", "250 /store/b.root"],
        ),
        ("file dataset=/A/B/C | grep file.size>=250", ["/store/b.root"]),
        ("file dataset=/A/B/C | grep file.name=*a.root, file.nevents", ["10"]),
        ("file dataset=/A/B/C | grep file.size!=100, file.nevents", ["null"]),
        ("file dataset=/A/B/C | grep file.size>999", []),
        ("file dataset=/A/B/C | sum(file.size)", ["sum(file.size): 350"]),
        ("file dataset=/A/B/C | grep file.size>999 | sum(file.size)", ["sum(file.size): 0"]),
        (
            "file dataset=/A*/B/C | grep file.is_file_valid=1 | sum(file.size)",
            ["sum(file.size): 350"],
        ),
        (
            "file dataset=/A/B/C | count(file.nevents), max(file.size), avg(file.size)",
            ["count(file.nevents): 1", "max(file.size): 250", "avg(file.size): 175.0"],
        ),
    ],
)
def test_plain_output(catalogue: Path, query: str, lines: list[str]) -> None:
    result = looseleaf(catalogue, query)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == lines


def test_the_summary_in_plain_is_json_as_dasgoclient_prints_it(catalogue: Path) -> None:
    result = looseleaf(catalogue, "summary dataset=/A/B/C")
    assert json.loads(result.output) == [
        {
            "nfiles": 2,
            "nevents": None,
            "nblocks": 2,
            "nlumis": None,
            "file_size": 350,
            "dataset": "/A/B/C",
        }
    ]


def test_json_output(catalogue: Path) -> None:
    result = looseleaf(catalogue, "file dataset=/A/B/C", "--json")
    opening, first, second, closing = result.output.splitlines()
    assert (opening, closing) == ("[", "]")
    assert first.endswith(" ,")
    record = json.loads(second)
    assert record["file"] == [
        {
            "name": "/store/b.root",
            "size": 250,
            "nevents": None,
            "adler32": None,
            "block_name": "/A/B/C#2",
            "dataset": "/A/B/C",
            "is_file_valid": 1,
        }
    ]
    assert record["das"]["primary_key"] == "file.name"
    assert record["das"]["services"] == ["looseleaf:catalogue"]
    assert json.loads(result.output)[0]["qhash"] == record["qhash"]
    # what dasgoclient's readers understand, ours does
    read = answer_of(result.output, "", 0, "itself", Credential())
    assert [row["file"][0]["name"] for row in read] == ["/store/a.root", "/store/b.root"]


def test_wrapped_json_output(catalogue: Path) -> None:
    result = looseleaf(catalogue, "file dataset=/A/B/C | sum(file.size)", "--format", "json")
    found = json.loads(result.output)
    assert (found["status"], found["nresults"]) == ("ok", 1)
    assert found["mongo_query"]["spec"]["dataset"] == "/A/B/C"
    assert found["mongo_query"]["instance"] == "local"
    assert found["data"][0]["function"] == "sum"
    assert found["data"][0]["result"] == {"value": 350}


def test_so_many_and_no_more(catalogue: Path) -> None:
    result = looseleaf(catalogue, "file dataset=/A/B/C", "--limit", "1")
    assert result.output == "/store/a.root\n"
    result = looseleaf(catalogue, "file dataset=/A/B/C", "--limit", "1", "--json")
    assert len(json.loads(result.output)) == 1


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("file dataset=/A/B/X", 1, "the nearest that it knows: /A/B/C"),
        ("file dataset=/X*/B/C", 1, "catalogue (local) knows no dataset /X*/B/C"),
        ("file block=/A/B/C#9", 1, "lists no file for it in block /A/B/C#9"),
        ("fil dataset=/A/B/C", 17, "known fields are file; dataset"),
        ("file dataset=/A/B/C | grep file.bytes", 17, "known keys are file.name, file.size"),
        ("file dataset=/A/B/C | sum(file.nevents)", 17, "it is unknown in 1 of 2 records"),
        ("file dataset=/A/B/C | sum(file.name)", 17, "sum(file.name): not numbers"),
        ("file dataset=/A/B/C | grep file.size>999 | max(file.size)", 17, "no record is left"),
        ("file dataset=/A/B/C | grep file.size>x", 17, "'x' is not a number"),
        ("site dataset=/A/B/C", 1, "the backend catalogue: doesn't know site"),
        (
            "file dataset=/A/B/C run=1",
            1,
            "dataset /A/B/C: the backend catalogue: doesn't know which runs are in a file; "
            "dasgoclient and dbs do",
        ),
        (
            "file dataset=/A/B/C site=T2_CH_CERN",
            1,
            "the backend catalogue: doesn't know at which sites a file is; dasgoclient and rucio",
        ),
        ("dataset=/A/*/C status=PRODUCTION", 17, "catalogue doesn't know the status of datasets"),
    ],
)
def test_how_the_command_ends(catalogue: Path, query: str, status: int, message: str) -> None:
    result = looseleaf(catalogue, query, "--json")
    assert result.exit_code == status
    assert message in result.stderr
    # nothing that a program could take for an answer
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "http://localhost"], "host 'http://localhost': should be an https:// address"),
        (["--instance", "../x"], "instance '../x': should be like prod/global"),
    ],
)
def test_a_wrong_place_to_ask(catalogue: Path, options: list[str], message: str) -> None:
    result = looseleaf(catalogue, "file dataset=/A/B/C", *options)
    assert result.exit_code == 17
    assert message in result.stderr


def test_the_backends_that_can_be_named(repo: Path) -> None:
    known = ["auto", *BACKENDS]
    option = next(o for o in main.commands["das"].params if o.name == "backend")
    assert isinstance(option.type, click.Choice)
    assert list(option.type.choices) == known
    schema = yaml.safe_load((repo / "config/schemas/config.schema.yaml").read_text())
    assert schema["properties"]["das"]["properties"]["backend"]["enum"] == known


def test_without_a_proxy_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X509_USER_PROXY", "/nonexistent/proxy")
    monkeypatch.delenv("BEARER_TOKEN", raising=False)
    monkeypatch.delenv("BEARER_TOKEN_FILE", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    result = CliRunner().invoke(main, ["das", "file dataset=/A/B/C"])
    assert result.exit_code == 15
    assert "no backend can answer:\n  dasgoclient: there is no dasgoclient on the PATH" in (
        result.stderr
    )
    assert "\n  dbs: no proxy: the proxy that X509_USER_PROXY names can't be read" in result.stderr
    assert "type: voms-proxy-init -voms cms -rfc" in result.stderr
    assert "\n  catalogue: no catalogue is given" in result.stderr
    assert "/nonexistent/proxy" not in result.output


def test_auto_takes_the_first_that_can_work(
    catalogue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("X509_USER_PROXY", "/nonexistent/proxy")
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("BEARER_TOKEN", raising=False)
    monkeypatch.delenv("BEARER_TOKEN_FILE", raising=False)
    result = CliRunner().invoke(
        main, ["das", "-v", "--catalogue", str(catalogue), "summary dataset=/A/B/C"]
    )
    assert result.exit_code == 0
    assert result.stderr.count("passed over ") == 3
    assert "answered by catalogue (local)" in result.stderr


def test_the_installed_command() -> None:
    program = Path(sys.executable).parent / "looseleaf"
    done = subprocess.run(
        [program, "das", "file dataset=/A"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 17
    assert done.stderr.startswith("error: query 'file dataset=/A': 'dataset=/A': a dataset is")


# --- the function for notebooks


def test_a_table(catalogue: Path) -> None:
    frame = das("file dataset=/A*/B/C", backend="catalogue", catalogues=[str(catalogue)])
    assert list(frame["name"]) == ["/store/a.root", "/store/b.root", "/store/c.root"]
    assert list(frame["dataset"]) == ["/A/B/C", "/A/B/C", "/A2/B/C"]
    assert frame["size"].sum() == 650
    assert frame["nevents"].isna().tolist() == [False, True, False]
    assert frame["nevents"].sum() == 40
    assert str(frame["nevents"].dtype) == "Int64"
    assert frame[frame["is_file_valid"]]["name"].tolist() == ["/store/a.root", "/store/b.root"]


def test_a_table_of_chosen_columns_and_of_sums(catalogue: Path) -> None:
    asking = {"backend": "catalogue", "catalogues": [str(catalogue)]}
    frame = das("file dataset=/A/B/C | grep file.size>100, file.name", **asking)
    assert frame.to_dict("list") == {"name": ["/store/b.root"]}
    assert das("file dataset=/A/B/C | sum(file.size)", **asking).loc[0, "sum(file.size)"] == 350
    assert das("dataset=/A*/B/C", **asking)["name"].tolist() == ["/A/B/C", "/A2/B/C"]


# --- dasgoclient

LISTED = (
    '[\n{"das":{"expire":300,"instance":"prod/global","primary_key":"file.name","record":1,'
    '"services":["dbs3:files_via_dataset"]},"file":[{"adler32":"1a2b3c4d","block_name":"/A/B/C#1",'
    '"check_sum":"7","dataset":"/A/B/C","is_file_valid":1,"name":"/store/a.root","nevents":10,'
    '"size":100}],"qhash":"5"} ,\n{"das":{},"file":[{"adler32":"5","block_name":"/A/B/C#1",'
    '"is_file_valid":0,"name":"/store/b.root","nevents":null,"size":200}],"qhash":"5"}\n]\n'
)
FILES = [
    FileRecord("/store/a.root", 100, 10, "1a2b3c4d", "/A/B/C#1"),
    FileRecord("/store/b.root", 200, None, "00000005", "/A/B/C#1", valid=False),
]


class StandIn:
    """An executable `dasgoclient` that prints given text; it writes down how it was called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = folder / "dasgoclient"
        program.write_text(
            f"#!/bin/sh\ncd {folder}\n"
            'echo "$@" >> calls\n'
            "n=$(wc -l < calls)\n"
            "[ -f answer.$n ] || n=last\n"
            "cat answer.$n; cat errors.$n >&2; exit $(cat status.$n)\n"
        )
        program.chmod(0o755)

    def prints(self, text: str, status: int = 0, errors: str = "", call: str = "last") -> None:
        """What it prints and ends with at its nth call, or at every other."""
        for name, value in (("answer", text), ("errors", errors), ("status", str(status))):
            (self.folder / f"{name}.{call}").write_text(value)

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("openssl")
    return Authority(tmp_path_factory.mktemp("authority")).proxy("x509up", "-hours", "24")


@pytest.fixture
def standin(tmp_path: Path, proxy: Path, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("X509_USER_PROXY", str(proxy))
    monkeypatch.delenv("BEARER_TOKEN", raising=False)
    monkeypatch.delenv("BEARER_TOKEN_FILE", raising=False)
    monkeypatch.setattr(dasgoclient_module, "BACKOFF", 0)
    return StandIn(folder)


ASKING = Asking("dasgoclient", timeout=30, tries=3)


def asked(query: str) -> list[object]:
    (records,) = ask(parse(query), ASKING).records.values()
    return list(records)


def test_files_from_dasgoclient(standin: StandIn) -> None:
    standin.prints(LISTED)
    assert asked("file dataset=/A/B/C") == FILES
    assert standin.calls == [
        "-query file dataset=/A/B/C instance=prod/global -json -timeout=30",
    ]
    assert asked("file block=/A/B/C#1") == FILES
    assert standin.calls[1].startswith("-query file block=/A/B/C#1 instance=")


def test_auto_prefers_dasgoclient(standin: StandIn) -> None:
    standin.prints(LISTED)
    answer = ask(parse("file dataset=/A/B/C"), replace(ASKING, backend="auto"))
    assert (answer.backend, answer.passed_over) == ("dasgoclient", {})


def test_other_queries_of_dasgoclient(standin: StandIn) -> None:
    standin.prints('[{"dataset":[{"name":"/A/B/C"}]} ,\n{"dataset":[{"name":"/A/B/C"}]}]')
    assert asked("dataset=/A*/B/C") == [DatasetRecord("/A/B/C", "VALID")]
    standin.prints(
        '[{"summary":[{"file_size":300,"nblocks":1,"nevents":30,"nfiles":2,"nlumis":4}]}]'
    )
    assert asked("summary dataset=/A/B/C") == [SummaryRecord(2, 30, 1, 4, 300)]
    standin.prints('[{"block":[{"name":"/A/B/C#1","size":300}]}]')
    assert asked("block dataset=/A/B/C") == [BlockRecord("/A/B/C#1", 300, None)]
    standin.prints(
        '[{"site":[{"name":"T2_CH_CERN","dataset_fraction":"99.50%"}]} ,\n'
        '{"site":[{"name":"T1_US_FNAL_Tape"}]}]'
    )
    assert asked("site dataset=/A/B/C") == [
        SiteRecord("T2_CH_CERN", 99.5),
        SiteRecord("T1_US_FNAL_Tape", None),
    ]
    for least, sites in (("9", ["T2_CH_CERN"]), ("100%", [])):
        query = f"site dataset=/A/B/C | grep site.name, site.dataset_fraction>={least}"
        assert lines(ask(parse(query), ASKING)) == sites
    standin.prints(
        '[{"file":[{"name":"/store/a.root"}],"lumi":[{"number":[2,1]}],"run":[{"run_number":7}]} ,'
        '\n{"file":[{"name":"/store/b.root"}],"lumi":[{"number":[3]}],"run":[{"run_number":[7,8]}]}]'
    )
    assert asked("file,run,lumi dataset=/A/B/C run=8") == [
        LumiRecord("/store/b.root", (7, 8), (3,))
    ]


@pytest.mark.parametrize(
    "text",
    [
        '{"status":"ok", "mongo_query":{}, "nresults":2, "timestamp":1, "ctime":0, "data":'
        + LISTED
        + "}",
        "WARNING: no site records from Rucio, look-up in DBS\n" + LISTED,
        "".join(line.rstrip(" ,") + "\n" for line in LISTED.splitlines()[1:-1]),
    ],
    ids=["wrapped", "with a warning", "by lines"],
)
def test_other_shapes_of_the_same_answer(standin: StandIn, text: str) -> None:
    standin.prints(text)
    assert asked("file dataset=/A/B/C") == FILES


@pytest.mark.parametrize(
    ("text", "status", "errors", "kind", "message"),
    [
        ("", 0, "", LookupFailed, "dasgoclient (prod/global) lists no file for it"),
        ("[\n]\n", 0, "", LookupFailed, "dasgoclient (prod/global) lists no file for it"),
        (LISTED[:300], 0, "", CutOff, "the answer is cut off or damaged after 300 characters"),
        (
            LISTED + "ERROR: das exit with code: 2, error: DBS upstream error\n",
            0,
            "",
            BackendFailed,
            "ended with 2: ERROR: das exit with code: 2, error: DBS upstream error",
        ),
        ("", 2, "Post: 503 Service Unavailable", Transient, "ended with 2: Post: 503 Service"),
        ("[\n]\nERROR: das exit with code: 4, x\n", 4, "", RucioFailed, "ended with 4"),
        ("", 15, "Unable to get x509 proxy", NoCredential, "type: voms-proxy-init -voms cms"),
        ("", 17, "DAS QL ERROR, query=x", BackendFailed, "ended with 17: DAS QL ERROR"),
        ("", 9, "", BackendFailed, "ended with 9: no reason given"),
        ("Unable to parse", 0, "", BackendFailed, "something other than JSON: 'Unable to parse'"),
        ('[{"file":[{"error":"DBS unable"}]}]', 0, "", BackendFailed, "DBS unable"),
        ('[{"das":{},"file":[]}]', 0, "", BackendFailed, "a record without file"),
        ('[{"file":[{"size":1}]}]', 0, "", BackendFailed, "a record without name"),
    ],
)
def test_how_dasgoclient_fails(
    standin: StandIn,
    text: str,
    status: int,
    errors: str,
    kind: type[LookupFailed],
    message: str,
) -> None:
    standin.prints(text, status, errors)
    with pytest.raises(LookupFailed) as problem:
        asked("file dataset=/A/B/C")
    assert type(problem.value) is kind
    assert message in str(problem.value)
    # only what may pass is tried again
    assert len(standin.calls) == (3 if issubclass(kind, Transient) else 1)


def test_a_transient_failure_passes(standin: StandIn) -> None:
    standin.prints(LISTED)
    standin.prints("", 2, "503 Service Unavailable", call="1")
    standin.prints(LISTED[:200], call="2")
    assert asked("file dataset=/A/B/C") == FILES
    assert len(standin.calls) == 3


def test_the_proxys_path_is_taken_out_of_what_it_says(standin: StandIn, proxy: Path) -> None:
    standin.prints("", 2, f"unable to read {proxy}")
    with pytest.raises(BackendFailed, match=r"ended with 2: unable to read \(the proxy\)$"):
        asked("file dataset=/A/B/C")


def test_a_dasgoclient_that_hangs_is_ended(standin: StandIn) -> None:
    (standin.folder / "dasgoclient").write_text("#!/bin/sh\nexec sleep 600\n")
    with pytest.raises(Transient, match=r"no answer within 0.2 s"):
        ask(parse("file dataset=/A/B/C"), replace(ASKING, timeout=0.2, tries=2))


def test_what_a_dasgoclient_started_ends_with_it(standin: StandIn) -> None:
    """The one on CVMFS is a script, whose children hold on to its output."""
    (standin.folder / "dasgoclient").write_text(
        f"#!/bin/sh\nsleep 600 &\necho $! > {standin.folder}/child\nwait\n"
    )
    started = time.monotonic()
    with pytest.raises(Transient, match=r"no answer within 0.5 s"):
        ask(parse("file dataset=/A/B/C"), replace(ASKING, timeout=0.5, tries=1))
    assert time.monotonic() - started < 10
    pid = int((standin.folder / "child").read_text())
    with contextlib.suppress(psutil.NoSuchProcess):
        # whoever adopts orphans here need not have collected it yet
        assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_dasgoclient_that_cannot_be_run(standin: StandIn) -> None:
    (standin.folder / "dasgoclient").write_bytes(b"\x7fELF not for this machine")
    with pytest.raises(BackendFailed, match="can't be run: Exec format error"):
        asked("file dataset=/A/B/C")


def test_a_query_knows_its_pattern() -> None:
    assert parse("file dataset=/A*/B/C").wild
    assert not Query("", "file", "/A/B/C").wild


@pytest.mark.parametrize(
    ("output", "status"),
    [
        ("open {secret}: permission denied", 0),
        ('[{{"file": [{{"size": "{secret}"}}]}}]', 0),
        ('[{{"file": [{{"error": "{secret}"}}]}}]', 0),
        ("[]\nERROR: {secret} is not valid", 15),
    ],
)
def test_no_message_holds_a_secret_that_dasgoclient_printed(output: str, status: int) -> None:
    for used in (Credential(proxy="/home/a/x509up_u7"), Credential(token="t" * 600)):
        secret = used.proxy or used.token
        assert secret is not None
        with pytest.raises(LookupFailed) as problem:
            records_in(
                "file", answer_of(output.format(secret=secret), secret, status, "it", used), ""
            )
        assert secret[:50] not in str(problem.value)


@pytest.mark.parametrize(
    "output", ['{"data": null}', '[{"file": null}]', '[{"file": ["x"]}]', '[{"file": {}}]']
)
def test_answers_of_another_shape_are_told_as_that(output: str) -> None:
    with pytest.raises(BackendFailed):
        records_in("file", answer_of(output, "", 0, "it", Credential()), "")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"backend": "dbss"}, "backend 'dbss': should be one of dasgoclient, dbs"),
        ({"catalogues": "x.json"}, "catalogues 'x.json': should be a list of files"),
        ({"parallel": 0}, "parallel 0: should be more than 0"),
        ({"timeout": 0}, "timeout 0: should be more than 0"),
        ({"host": "http://cmsweb.cern.ch"}, "should be an https:// address"),
    ],
)
def test_nobody_is_asked_in_a_way_that_is_none(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(LookupFailed, match=re.escape(message)):
        Asking(**wrong)


def test_status_and_instance_are_asked_for(standin: StandIn) -> None:
    standin.prints('[{"dataset":[{"name":"/A/B/C"}]}]')
    assert asked("dataset=/A*/B/C status=INVALID") == [DatasetRecord("/A/B/C", "INVALID")]
    standin.prints(LISTED)
    assert asked("file dataset=/A/B/C instance=prod/phys03") == FILES
    assert [call.partition(" -json")[0] for call in standin.calls] == [
        "-query dataset dataset=/A*/B/C instance=prod/global status=INVALID",
        "-query file dataset=/A/B/C instance=prod/phys03",
    ]
