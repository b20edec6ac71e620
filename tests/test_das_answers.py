"""Answers of lookups whose numbers all differ: what is counted, compared, kept and shown."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot

from looseleaf.das.ask import Answer, Asking, ask
from looseleaf.das.catalogue import from_files
from looseleaf.das.dasgoclient import answer_of, records_in
from looseleaf.das.problems import (
    BackendFailed,
    NoCredential,
    QueryWrong,
    RucioFailed,
    Transient,
)
from looseleaf.das.proxy import Credential
from looseleaf.das.query import Function, Selection, parse
from looseleaf.das.records import (
    BlockRecord,
    DatasetRecord,
    LumiRecord,
    Record,
    SiteRecord,
    SummaryRecord,
    file_record,
    numbers,
    whole_number,
)
from looseleaf.das.shapes import lines, objects, wrapped
from looseleaf.errors import LookupFailed
from looseleaf.stage_files import FileRecord, write_catalogue

# four valid files, of which nothing is alike, and two invalid ones
FILES = [
    FileRecord("/store/a.root", 100, 10, "0000000a", "/A/B/C#1"),
    FileRecord("/store/b.root", 250, 25, "0000000b", "/A/B/C#1"),
    FileRecord("/store/c.root", 260, 31, "0000000c", "/A/B/C#2"),
    FileRecord("/store/d.root", 400, 47, "0000000d", "/A/B/C#2"),
    FileRecord("/store/e.root", 999, 88, "0000000e", "/A/B/C#2", valid=False),
    FileRecord("/store/f.root", 777, 66, "0000000f", "/A/B/C#3", valid=False),
]


def answer(query: str, *records: Record, dataset: str = "/A/B/C") -> Answer:
    return Answer(parse(query), "dbs", "prod/global", {dataset: list(records)})


def shown(query: str) -> list[str]:
    """What is shown of the valid files."""
    return lines(answer(f"file dataset=/A/B/C | {query}", *FILES[:4]))


# --- the language


def test_ranges_and_lists_of_runs() -> None:
    def runs(text: str) -> list[int]:
        found = parse(f"file,run,lumi dataset=/A/B/C run {text}").runs
        assert found is not None
        return list(found)

    assert runs("between [5,5]") == [5]
    assert runs("between [5, 8]") == [5, 6, 7, 8]
    assert runs("in [8, 5]") == [8, 5]


def test_what_stands_after_several_bars() -> None:
    query = parse(
        "file dataset=/A/B/C | grep file.name | grep file.size>1, file.nevents "
        "| sum(file.size) | min(file.size), max(file.size)"
    )
    keys = [item.key for item in query.grep]
    assert keys == ["file.name", "file.size", "file.nevents"]
    assert query.grep[1] == Selection("file.size", ">", "1")
    assert query.functions == tuple(Function(n, "file.size") for n in ("sum", "min", "max"))
    assert [parse(f"file dataset=/{p}/B/C").wild for p in ("A", "*A", "A*")] == [False, True, True]


# --- what is compared and counted


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ("file.size>250", "cd"),
        ("file.size>=250", "bcd"),
        ("file.size<250", "a"),
        ("file.size<=250", "ab"),
        ("file.size=250", "b"),
        ("file.size!=250", "acd"),
        ("file.size>100, file.size<400", "bc"),
        ("file.size>100, file.nevents>25, file.size<300", "c"),
        ("file.name=*b.root", "b"),
        ("file.name!=*b.root", "acd"),
        ("file.name!=*b.root, file.name!=*c.root", "ad"),
        ("file.adler32>0000000b", "cd"),
    ],
)
def test_conditions_keep_what_fulfils_all_of_them(condition: str, kept: str) -> None:
    expected = [f"/store/{letter}.root" for letter in kept]
    assert shown(f"grep {condition}, file.name") == expected


@pytest.mark.parametrize(
    ("function", "value"),
    [("sum", 1010), ("min", 100), ("max", 400), ("avg", 252.5), ("median", 255.0), ("count", 4)],
)
def test_aggregations_are_told_apart(function: str, value: float) -> None:
    assert shown(f"{function}(file.size)") == [f"{function}(file.size): {value}"]


def test_what_is_unknown_fulfils_nothing_and_counts_as_nothing() -> None:
    some = [*FILES[:2], FileRecord("/store/x.root", 300, None, None)]
    found = answer("file dataset=/A/B/C | grep file.nevents<99, file.name", *some)
    assert lines(found) == ["/store/a.root", "/store/b.root"]
    found = answer("file dataset=/A/B/C | grep file.nevents!=10, file.name", *some)
    assert lines(found) == ["/store/b.root"]
    found = answer("file dataset=/A/B/C | count(file.nevents)", *some)
    assert lines(found) == ["count(file.nevents): 2"]
    with pytest.raises(QueryWrong, match="it is unknown in 1 of 3 records"):
        lines(answer("file dataset=/A/B/C | max(file.nevents)", *some))


# --- a catalogue


@pytest.fixture
def asking(tmp_path: Path) -> Asking:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    write_catalogue(first, {"/A/B/C": FILES})
    other = FileRecord("/store/other.root", 1, 1, None, "/A/B/C#9")
    write_catalogue(second, {"/A/B/C": [other], "/D/B/C": [other]})
    return Asking("catalogue", catalogues=(str(first), str(second)))


def test_the_first_catalogue_that_knows_a_dataset_answers(asking: Asking) -> None:
    assert ask(parse("file dataset=/A/B/C"), asking).records == {"/A/B/C": FILES}
    found = ask(parse("dataset=/*/B/C"), asking).records["/*/B/C"]
    assert {record.name for record in found} == {"/A/B/C", "/D/B/C"}
    found = ask(parse("file dataset=/*/B/C"), asking).records
    assert {name: [file.name for file in files] for name, files in found.items()} == {
        "/A/B/C": [file.name for file in FILES], "/D/B/C": ["/store/other.root"],
    }  # fmt: skip
    with pytest.raises(LookupFailed, match=r"knows no dataset /X\*/B/C with status VALID"):
        ask(parse("file dataset=/X*/B/C"), asking)


def test_totals_are_of_valid_files(asking: Asking) -> None:
    found = ask(parse("summary dataset=/A/B/C"), asking).records["/A/B/C"]
    assert found == [SummaryRecord(files=4, events=113, blocks=2, lumis=None, bytes=1010)]
    found = ask(parse("block dataset=/A/B/C"), asking).records["/A/B/C"]
    assert found == [BlockRecord("/A/B/C#1", 350, 2), BlockRecord("/A/B/C#2", 660, 2)]
    found = ask(parse("block block=/A/B/C#2"), asking).records["/A/B/C"]
    assert found == [BlockRecord("/A/B/C#2", 660, 2)]


def test_files_of_a_block_are_its_own(asking: Asking) -> None:
    found = ask(parse("file block=/A/B/C#2"), asking).records["/A/B/C"]
    assert found == FILES[2:5]
    with pytest.raises(LookupFailed, match=r"lists no file for it in block /A/B/C#9"):
        ask(parse("file block=/A/B/C#9"), asking)


@pytest.mark.parametrize("name", ["timeout", "tries", "parallel"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_limits_are_more_than_nothing(name: str, value: Any) -> None:
    with pytest.raises(QueryWrong, match=rf"{name} .*: should be more than 0"):
        Asking(**{name: value})


def test_a_file_that_two_patterns_match_counts_once(tmp_path: Path) -> None:
    for number in (3, 5):
        with uproot.recreate(tmp_path / f"f{number}.root") as file:
            file["Events"] = {"event": np.arange(number)}
    found = from_files("/A/B/C", ["f3.root", "f*.root", "f5.root"], tmp_path)
    assert [(record.name, record.events) for record in found] == [("f3.root", 3), ("f5.root", 5)]


# --- single values


def test_counts_are_whole_and_not_negative() -> None:
    row: dict[str, Any] = {"none": None, "nothing": 0, "three": 3, "float": 4.0}
    found = [whole_number(row, key, "s") for key in (*row, "absent")]
    assert found == [None, 0, 3, 4, None]
    for value in (-1, 2.5, True, "7", -1.0, float("inf"), float("nan")):
        with pytest.raises(BackendFailed, match="s: n is "):
            whole_number({"n": value}, "n", "s")
    assert numbers({"runs": [4, 2]}, "runs", "s") == (4, 2)
    assert numbers({"runs": 4}, "runs", "s") == (4,)


@pytest.mark.parametrize(
    ("checksum", "told"),
    [("1A", "0000001a"), ("0X1a2b", "00001a2b"), ("NOTSET", None), ("", None), (None, None)],
)
def test_checksums_are_eight_digits(checksum: str | None, told: str | None) -> None:
    keys = {"name": "n", "bytes": "b", "events": "e"}
    row = {"n": "/store/a.root", "b": 7, "e": 3, "adler32": checksum, "block_name": "/A/B/C#1"}
    assert file_record(row, keys, "s") == FileRecord("/store/a.root", 7, 3, told, "/A/B/C#1")
    assert file_record({**row, "is_file_valid": 0}, keys, "s").valid is False
    assert file_record({**row, "is_file_valid": 1}, keys, "s").valid is True


# --- how records are shown


def test_every_kind_of_record_under_its_names() -> None:
    summary = SummaryRecord(files=2, events=30, blocks=4, lumis=5, bytes=600)
    (found,) = objects(answer("summary dataset=/A/B/C", summary))
    assert found["summary"] == [
        {
            "nfiles": 2, "nevents": 30, "nblocks": 4, "nlumis": 5, "file_size": 600,
            "dataset": "/A/B/C",
        }
    ]  # fmt: skip
    sites = [SiteRecord("T2_A", 99.456), SiteRecord("T2_B", 7.0), SiteRecord("T1_C")]
    query = "site dataset=/A/B/C | grep site.name, site.dataset_fraction"
    assert lines(answer(query, *sites)) == ["T2_A 99.46%", "T2_B 7.00%", "T1_C null"]
    # shares are compared as numbers, not as texts
    assert lines(answer(query + ">50", *sites[:2])) == ["T2_A"]
    sections = [
        LumiRecord("/store/a.root", (7,), (1, 2)),
        LumiRecord("/store/b.root", (7, 8), (3,)),
    ]
    assert lines(answer("file,run,lumi dataset=/A/B/C", *sections)) == [
        "/store/a.root 7 [1,2]", "/store/b.root [7,8] [3]",
    ]  # fmt: skip
    valid = [
        row["file"][0]["is_file_valid"] for row in objects(answer("file dataset=/A/B/C", *FILES))
    ]
    assert valid == [1, 1, 1, 1, 0, 0]


def test_an_answer_wrapped_in_its_times() -> None:
    found = answer("file dataset=/A/B/C", *FILES[:3])
    told = json.loads(wrapped(found, objects(found), 1000.0, 1007.9))
    assert (told["nresults"], told["timestamp"], told["ctime"]) == (3, 1007, 7)


# --- what dasgoclient prints


def printed(output: str, status: int = 0, errors: str = "") -> list[dict[str, Any]]:
    return answer_of(output, errors, status, "asked", Credential())


def test_records_in_what_dasgoclient_prints() -> None:
    rows = printed(
        'WARNING: slow\n[{"dataset":[{"name":"/A/B/C"}]} ,\n{"dataset":[{"name":"/A/B/D"}]} ,\n'
        '{"dataset":[{"name":"/A/B/C"}]}]'
    )
    # DAS lists a dataset once for each service that knows it
    assert records_in("dataset", rows, "INVALID") == [
        DatasetRecord("/A/B/C", "INVALID"), DatasetRecord("/A/B/D", "INVALID"),
    ]  # fmt: skip
    counts = {"nfiles": 2, "nevents": 30, "nblocks": 4, "nlumis": 5}
    for key in ("file_size", "size"):
        (found,) = records_in("summary", [{"summary": [{**counts, key: 600}]}], "VALID")
        assert found == SummaryRecord(files=2, events=30, blocks=4, lumis=5, bytes=600)
    sections = [
        {"file": [{"name": name}], "run": [{"run_number": run}], "lumi": [{"number": lumis}]}
        for name, run, lumis in (("/store/a.root", 7, [2, 1]), ("/store/b.root", [7, 8], 3))
    ]
    assert records_in("file,run,lumi", sections, "VALID") == [
        LumiRecord("/store/a.root", (7,), (2, 1)), LumiRecord("/store/b.root", (7, 8), (3,)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("output", "status", "errors", "kind"),
    [
        # whole JSON, and a line that says that it isn't all
        ('[{"file":[{"name":"a"}]}]\nERROR: exit with code: 4', 0, "", RucioFailed),
        ("[]\nERROR: something", 0, "", BackendFailed),
        ('[{"file":[{"name":"a"}]},{"file":[{"error":"deadline exceeded"}]}]', 0, "", Transient),
        ('[{"file":[{"name":"a"}]},{"file":[{"error":"no"}]}]', 0, "", BackendFailed),
        ("", 15, "no proxy", NoCredential),
        ("", 4, "503 Service Unavailable", Transient),
        ("", 2, "connection refused", Transient),
        ("", 3, "connection refused", BackendFailed),
    ],
)
def test_failures_are_told_from_answers(
    output: str, status: int, errors: str, kind: type[Exception]
) -> None:
    with pytest.raises(LookupFailed) as problem:
        printed(output, status, errors)
    assert type(problem.value) is kind
