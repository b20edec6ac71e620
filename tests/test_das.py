"""Looking datasets up: what is found is written down, what can't be is told."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot

from looseleaf.das.lookup import lookup
from looseleaf.errors import DataFileError, LookupFailed
from looseleaf.files import read_json
from looseleaf.stage_files import FileRecord, read_snapshot, write_catalogue

A = FileRecord("/store/a.root", 100, 10, "0000000a", "/A/B/C#1")
B = FileRecord("/store/b.root", 200, 20, "0000000b", "/A/B/C#1", url="/data/b.root")


def catalogue(tmp_path: Path, *records: FileRecord) -> Path:
    write_catalogue(tmp_path / "catalogue.json", {"/A/B/C": records})
    return tmp_path / "catalogue.json"


def test_every_file_with_its_totals(tmp_path: Path) -> None:
    lookup("/A/B/C", tmp_path / "out.json", [catalogue(tmp_path, A, B)])
    out = read_json(tmp_path / "out.json")
    assert out["dataset"] == "/A/B/C"
    assert out["query"] == "file dataset=/A/B/C"
    assert out["backend"] == "catalogue"
    assert out["summary"] == {
        "files": 2,
        "invalid_files": 0,
        "left_out_files": 0,
        "events": 30,
        "bytes": 300,
    }
    assert out["files"][1] == {
        "name": "/store/b.root",
        "bytes": 200,
        "events": 20,
        "adler32": "0000000b",
        "block": "/A/B/C#1",
        "valid": True,
        "url": "/data/b.root",
        "left_out": False,
    }


def test_invalid_files_are_kept_and_not_counted(tmp_path: Path) -> None:
    lookup("/A/B/C", tmp_path / "out.json", [catalogue(tmp_path, A, replace(B, valid=False))])
    out = read_json(tmp_path / "out.json")
    assert out["summary"] == {
        "files": 1,
        "invalid_files": 1,
        "left_out_files": 0,
        "events": 10,
        "bytes": 100,
    }
    assert [file["valid"] for file in out["files"]] == [True, False]


def test_unknown_number_of_events_is_not_zero(tmp_path: Path) -> None:
    lookup("/A/B/C", tmp_path / "out.json", [catalogue(tmp_path, A, replace(B, events=None))])
    assert read_json(tmp_path / "out.json")["summary"]["events"] is None


def refused(tmp_path: Path, *records: FileRecord, dataset: str = "/A/B/C") -> str:
    with pytest.raises((LookupFailed, DataFileError)) as problem:
        lookup(dataset, tmp_path / "out.json", [catalogue(tmp_path, *records)])
    assert not (tmp_path / "out.json").exists()
    return str(problem.value)


def test_unknown_dataset_names_the_nearest(tmp_path: Path) -> None:
    message = refused(tmp_path, A, dataset="/A/B/CC")
    assert "dataset /A/B/CC is not in the catalogue" in message
    assert "the nearest that it knows: /A/B/C" in message


def test_no_catalogue_at_all(tmp_path: Path) -> None:
    with pytest.raises(LookupFailed, match=r"das\.catalogues is empty"):
        lookup("/A/B/C", tmp_path / "out.json", [])


def test_empty_answer_is_an_error(tmp_path: Path) -> None:
    assert "lists no file for it" in refused(tmp_path)


def test_a_file_twice(tmp_path: Path) -> None:
    assert "lists /store/a.root more than once" in refused(tmp_path, A, B, A)


def test_a_file_of_no_bytes(tmp_path: Path) -> None:
    assert "says that /store/b.root has 0 bytes" in refused(tmp_path, A, replace(B, bytes=0))


def test_negative_number_of_events(tmp_path: Path) -> None:
    message = refused(tmp_path, A, replace(B, events=-20))
    assert "catalogue.json: /store/b.root: events is -20" in message


def test_unknown_field_of_a_record(tmp_path: Path) -> None:
    path = catalogue(tmp_path, A)
    value = json.loads(path.read_text())
    value["datasets"]["/A/B/C"]["files"][0]["size"] = 1
    path.write_text(json.dumps(value))
    with pytest.raises(DataFileError, match="a file's record has name, bytes, events, adler32"):
        lookup("/A/B/C", tmp_path / "out.json", [path])


def test_catalogue_of_another_shape(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"format": "looseleaf-catalogue/1", "datasets": {"/A/B/C": []}}')
    with pytest.raises(DataFileError, match=r"x\.json: a catalogue has datasets: \{name:"):
        lookup("/A/B/C", tmp_path / "out.json", [path])


def test_not_a_catalogue(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(DataFileError, match=r"x\.json: not a catalogue"):
        lookup("/A/B/C", tmp_path / "out.json", [tmp_path / "x.json"])


def test_files_on_disk_are_opened_and_counted(nanoaod: Path, tmp_path: Path) -> None:
    lookup("/A/B/C", tmp_path / "out.json", files=["nano_dy*.root"], files_root=nanoaod)
    out = read_json(tmp_path / "out.json")
    assert [(file["name"], file["events"]) for file in out["files"]] == [
        ("nano_dy.root", 40),
        ("nano_dy_empty.root", 0),
    ]
    assert out["backend"] == "files"


def test_pattern_that_matches_nothing(tmp_path: Path) -> None:
    with pytest.raises(LookupFailed, match=r"no file matches .*none\*\.root"):
        lookup("/A/B/C", tmp_path / "out.json", files=["none*.root"], files_root=tmp_path)


def test_a_file_without_events_tree_is_named(nanoaod: Path, tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"bad_delphes\.root: no Events tree") as problem:
        lookup("/A/B/C", tmp_path / "out.json", files=["bad_delphes.root"], files_root=nanoaod)
    assert "is this NanoAOD?" in str(problem.value)


def test_a_file_that_is_not_root(tmp_path: Path) -> None:
    (tmp_path / "x.root").write_text("not ROOT at all, but long enough to have a header " * 10)
    with pytest.raises(DataFileError, match=r"x\.root: can't be opened as a ROOT file"):
        lookup("/A/B/C", tmp_path / "out.json", files=["x.root"], files_root=tmp_path)


def test_a_directory_tree_named_events(tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "x.root") as root:
        root["Other"] = "text"
    with pytest.raises(DataFileError, match=r"the file holds Other"):
        lookup("/A/B/C", tmp_path / "out.json", files=["x.root"], files_root=tmp_path)


def written(path: Path, events: int = 3, first: int = 1, **branches: Any) -> Path:
    """A small file of simulation; its events are numbered from `first`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "run": np.ones(events, np.uint32),
        "luminosityBlock": np.ones(events, np.uint32),
        "event": np.arange(first, first + events, dtype=np.uint64),
        "genWeight": np.ones(events, np.float32),
        **branches,
    }
    with uproot.recreate(path) as root:
        root.mktree("Events", {name: column.dtype for name, column in columns.items()})
        root["Events"].extend(columns)
    return path


@pytest.mark.parametrize(
    ("root", "pattern", "found"),
    [
        (".", "a[1].root", ["a[1].root"]),
        (".", "a[12].root", ["a1.root", "a2.root"]),
        (".", "x*.root", ["x*.root"]),
        (".", "run[1]/*.root", ["run[1]/a b.root", "run[1]/c:d.root"]),
        ("run[1]", "*.root", ["a b.root", "c:d.root"]),
        ("run[1]", "../*/a b.root", ["a b.root"]),
        (".", "run[[]1]/c:d.root", ["run[1]/c:d.root"]),
    ],
)
def test_a_file_is_found_as_it_is_called_and_else_by_a_glob(
    tmp_path: Path, root: str, pattern: str, found: list[str]
) -> None:
    names = ["a[1].root", "a1.root", "a2.root", "x*.root", "xy.root"]
    for number, name in enumerate([*names, "run[1]/a b.root", "run[1]/c:d.root"]):
        written(tmp_path / name, first=1 + 10 * number, events=1 + number)
    lookup("/A/B/C", tmp_path / "out.json", files=[pattern], files_root=tmp_path / root)
    out = read_json(tmp_path / "out.json")
    assert [file["name"] for file in out["files"]] == found
    # what was opened is the file of that name: their numbers of events differ
    by_name = {name: 1 + place for place, name in enumerate(names)}
    by_name |= {"a b.root": 6, "c:d.root": 7}
    expected = [by_name[Path(name).name] for name in found]
    assert [file["events"] for file in out["files"]] == expected


def test_a_name_that_no_file_system_takes(tmp_path: Path) -> None:
    with pytest.raises(LookupFailed, match=r"no file matches .*aaa\.root"):
        lookup("/A/B/C", tmp_path / "o", files=["a" * 300 + ".root"], files_root=tmp_path)


def test_an_invalid_file_may_have_no_bytes(tmp_path: Path) -> None:
    hollow = replace(B, bytes=0)
    for marked in (replace(hollow, valid=False), replace(hollow, valid=False, events=None)):
        lookup("/A/B/C", tmp_path / "out.json", [catalogue(tmp_path, A, marked)])
        assert read_json(tmp_path / "out.json")["summary"]["bytes"] == 100
    left = [B.name]
    lookup("/A/B/C", tmp_path / "out.json", [catalogue(tmp_path, A, hollow)], leave_out=left)
    assert read_json(tmp_path / "out.json")["summary"]["bytes"] == 100


@pytest.mark.parametrize(
    "other",
    [
        {"bytes": 101}, {"adler32": "0000000b"}, {"events": 11}, {"valid": False},
        {"left_out": True},
    ],
)  # fmt: skip
def test_one_file_under_two_names(tmp_path: Path, other: dict[str, Any]) -> None:
    """Only where size, checksum and number of events are the same, and both would be read."""
    copy = replace(A, name="/store/copy.root")
    assert "/store/a.root and /store/copy.root are the same file" in refused(tmp_path, A, B, copy)
    path = catalogue(tmp_path, A, replace(copy, **{**other, "left_out": False}))
    left = [copy.name] if "left_out" in other else []
    lookup("/A/B/C", tmp_path / "out.json", [path], leave_out=left)
    summary = read_json(tmp_path / "out.json")["summary"]
    assert summary["files"] == (1 if {"valid", "left_out"} & other.keys() else 2)


@pytest.mark.parametrize("unknown", [{"bytes": None}, {"adler32": None}, {"events": 0}])
def test_files_of_which_little_is_known_are_no_copies(
    tmp_path: Path, unknown: dict[str, Any]
) -> None:
    one = replace(A, **unknown)
    path = catalogue(tmp_path, one, replace(one, name="/store/copy.root"))
    lookup("/A/B/C", tmp_path / "out.json", [path])
    assert read_json(tmp_path / "out.json")["summary"]["files"] == 2


def changes(tmp_path: Path, before: list[FileRecord], after: list[FileRecord]) -> Any:
    """What the second lookup says to have changed."""
    (tmp_path / "out.json").unlink(missing_ok=True)
    for records in (before, after):
        lookup("/A/B/C", tmp_path / "out.json", [catalogue(tmp_path, *records)])
    found = read_json(tmp_path / "out.json").get("changes", {})
    return {kind: names for kind, names in found.items() if kind != "since" and names}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([A], [A, B], {"added": [B.name]}),
        ([A, B], [A], {"removed": [B.name]}),
        ([A, B], [A, replace(B, valid=False)], {"invalidated": [B.name]}),
        # and what becomes valid is new
        ([A, replace(B, valid=False)], [A, B], {"added": [B.name]}),
        ([A, B], [A, replace(B, bytes=201)], {"altered": [B.name]}),
        ([A, B], [A, replace(B, adler32="0000000c")], {"altered": [B.name]}),
        # what isn't read may change as it likes
        ([A, replace(B, valid=False)], [A, replace(B, valid=False, bytes=7)], {}),
        ([A, B], [A, replace(B, valid=False, bytes=7)], {"invalidated": [B.name]}),
        ([A, replace(B, valid=False)], [A, replace(B, bytes=7)], {
            "added": [B.name], "altered": [B.name],
        }),
        ([A, B], [A, B], {}),
    ],
)  # fmt: skip
def test_what_has_changed(
    tmp_path: Path, before: list[FileRecord], after: list[FileRecord], expected: Any
) -> None:
    assert changes(tmp_path, before, after) == expected


def test_a_list_of_another_dataset_tells_no_changes(tmp_path: Path) -> None:
    write_catalogue(tmp_path / "catalogue.json", {"/A/B/C": [A], "/D/B/C": [A, B]})
    for name in ("/A/B/C", "/D/B/C"):
        lookup(name, tmp_path / "out.json", [tmp_path / "catalogue.json"])
    found = read_json(tmp_path / "out.json")
    assert found["dataset"] == "/D/B/C"
    assert "changes" not in found


@pytest.mark.parametrize("key", ["files", "time", "dataset", "format"])
def test_a_damaged_list_is_replaced(tmp_path: Path, key: str) -> None:
    path = catalogue(tmp_path, A)
    lookup("/A/B/C", tmp_path / "out.json", [path])
    damaged = read_json(tmp_path / "out.json")
    for value in ({k: v for k, v in damaged.items() if k != key}, {**damaged, key: 7}):
        (tmp_path / "out.json").write_text(json.dumps(value))
        with pytest.raises(DataFileError, match=r"out\.json: (not a list|its \w+ is missing or d)"):
            read_snapshot(tmp_path / "out.json")
        lookup("/A/B/C", tmp_path / "out.json", [path])
        found = read_json(tmp_path / "out.json")
        assert found["files"] == damaged["files"]
        assert "changes" not in found


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""), ("name", 7), ("bytes", True), ("bytes", 1.5), ("events", 1 << 63),
        ("adler32", 10), ("block", []), ("url", {}), ("valid", None), ("valid", 1),
        ("left_out", "no"),
    ],
)  # fmt: skip
def test_a_record_whose_fields_are_of_another_kind(
    tmp_path: Path, field: str, value: object
) -> None:
    path = catalogue(tmp_path, A)
    listed = json.loads(path.read_text())
    listed["datasets"]["/A/B/C"]["files"][0][field] = value
    path.write_text(json.dumps(listed))
    with pytest.raises(DataFileError, match=rf"catalogue\.json: .*{field}.* is "):
        lookup("/A/B/C", tmp_path / "out.json", [path])
