"""The same events twice are refused with both names, whatever the files are called; others not."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
from analyses import analysis_of
from conftest import TEST_DATA
from processors import MuonPt

from looseleaf.cluster import client_for
from looseleaf.das.lookup import lookup
from looseleaf.errors import DataFileError, LookupFailed
from looseleaf.files import read_json
from looseleaf.processing.repeats import refuse_repeats
from looseleaf.processing.runner import Limits
from looseleaf.processing.stage import (
    DatasetFiles,
    Running,
    event_metadata,
    process_datasets,
)
from looseleaf.servicex.embedded import Embedded
from looseleaf.servicex.request import request_from_das
from looseleaf.servicex.submission import transform
from looseleaf.stage_files import FileRecord, write_catalogue

CASES = TEST_DATA.parent / "cases"
SIMULATION: dict[str, Any] = {}
DATA = {"data": True, "primary": ["SingleMuon"]}


def made(folder: Path, name: str, output_format: str = "root-file") -> dict[str, Any]:
    """The manifest of a folder's files, of which nothing is known before they are read."""
    files = sorted((folder / name).iterdir())
    records = [FileRecord(f"/store/{f.name}", None, None, None, url=str(f)) for f in files]
    das, manifest = folder / f"{name}.das.json", folder / f"{name}.json"
    write_catalogue(folder / "catalogue.json", {"/A/B/C": records})
    lookup("/A/B/C", das, [folder / "catalogue.json"])
    columns = ["run", "luminosityBlock", "event", "Muon_pt"]
    request = request_from_das(das, columns, "nMuon > 0", output_format, "test", [])
    transform(request, folder / "volume", name, manifest, Embedded(1), name)
    return read_json(manifest)


def muons_of(number: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng([seed, number])
    # with the counts known before the momenta
    count = rng.integers(0, 4)
    return rng.exponential(20, count)


def written(
    path: Path,
    events: np.ndarray,
    sections: int | np.ndarray = 1,
    data: bool = False,
    seed: int = 1,
    weights: np.ndarray | float = 1.0,
    **options: Any,
) -> Path:
    """A file of events with these numbers; the same seed gives event n the same muons."""
    path.parent.mkdir(parents=True, exist_ok=True)
    muons = ak.Array([muons_of(number, seed) for number in events.tolist()])
    ones = np.ones(len(events))
    columns = {
        "run": (5 * ones).astype(np.uint32),
        "luminosityBlock": (sections * ones).astype(np.uint32),
        "event": events.astype(np.uint64),
        **({} if data else {"genWeight": weights * ones}),
        "Muon": ak.zip({"pt": ak.values_astype(muons, np.float32)}),
    }
    return tree(path, columns, **options)


def tree(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    """A file with the columns as its Events tree."""
    with uproot.recreate(path, **options) as root:
        types = {name: ak.type(column).content for name, column in columns.items()}
        root.mktree("Events", types).extend(columns)
    return path


def refusal(manifests: dict[str, dict[str, Any]], *metadata: dict[str, Any]) -> str:
    with pytest.raises(DataFileError) as problem:
        refuse_repeats(manifests, dict(zip(manifests, metadata, strict=True)))
    return str(problem.value)


def test_case_05_is_refused_by_the_lookup(tmp_path: Path) -> None:
    folder = CASES / "05-same-file-twice/data"
    if not folder.is_dir():
        pytest.skip(f"no case in {folder}")
    with pytest.raises(
        LookupFailed,
        match=r"dataset /t/x/N: a\.root and a_copy\.root are the same file \(89017 bytes, adler32 "
        r"[0-9a-f]{8}\): its 400 events would count twice; the dataset's leave_out can name one",
    ):
        lookup("/t/x/N", tmp_path / "o.json", files=["*.root"], files_root=folder)
    lookup("/t/x/N", tmp_path / "o.json", (), ["*.root"], folder, None, ["a_copy.root"])
    assert read_json(tmp_path / "o.json")["summary"]["events"] == 400


def test_case_15_goes_all_the_way(tmp_path: Path) -> None:
    folder = CASES / "15-brackets-in-file-name/data"
    if not folder.is_dir():
        pytest.skip(f"no case in {folder}")
    (tmp_path / "a").symlink_to(folder)
    (file,) = made(tmp_path, "a")["files"]
    assert (file["source"], file["events_in"]) == ("/store/a[1].root", 400)


def test_records_that_say_the_same_of_two_names(tmp_path: Path) -> None:
    one = FileRecord("/store/a.root", 100, 10, "0000000a")
    catalogue = tmp_path / "catalogue.json"

    def look(**changes: Any) -> None:
        other = {"name": "/store/b.root", "bytes": 100, "events": 10, "adler32": "0000000a"}
        write_catalogue(catalogue, {"/A/B/C": [one, FileRecord(**{**other, **changes})]})
        lookup("/A/B/C", tmp_path / "o.json", [catalogue])

    with pytest.raises(LookupFailed, match=r"/store/a\.root and /store/b\.root are the same"):
        look()
    for change in (
        {"bytes": 101},
        {"events": 11},
        {"adler32": "0000000b"},
        {"adler32": None},
        {"bytes": None},
        {"valid": False},
    ):
        look(**change)


def test_empty_files_are_no_copies(tmp_path: Path) -> None:
    records = [FileRecord(f"/store/{n}.root", 100, 0, "0000000a") for n in "ab"]
    write_catalogue(tmp_path / "c.json", {"/A/B/C": [*records, FileRecord("/x", 1, 1, None)]})
    lookup("/A/B/C", tmp_path / "o.json", [tmp_path / "c.json"])
    assert read_json(tmp_path / "o.json")["summary"]["files"] == 3


def test_a_copy_of_which_nothing_was_known(tmp_path: Path) -> None:
    one = written(tmp_path / "s/a.root", np.arange(50))
    shutil.copy(one, tmp_path / "s/b.root")
    manifest = made(tmp_path, "s")
    message = refusal({"d": manifest}, SIMULATION)
    uuid = manifest["files"][0]["source_uuid"]
    assert message == (
        "/store/a.root (dataset d) and /store/b.root (dataset d) are copies of one file (uuid "
        f"{uuid}): its 50 events would count twice; name one of the two files in leave_out of its "
        "dataset"
    )
    # one of them in another dataset of the analysis
    apart = {
        name: {**manifest, "files": [file]}
        for name, file in zip(("d", "e"), manifest["files"], strict=True)
    }
    assert "(dataset d) and /store/b.root (dataset e) are copies" in refusal(
        apart, SIMULATION, SIMULATION
    )
    refuse_repeats({"d": apart["d"]}, {})
    # processing refuses them before it starts a cluster
    files = {"d": DatasetFiles(str(tmp_path / "s.json"), "h.json", "l.json")}
    site = {"kind": "no cluster at all", "redirectors": []}
    running = Running(
        partial(client_for, site, 1),
        Limits(500, 500),
        str(tmp_path / "tasks.csv"),
        str(tmp_path / "p.html"),
    )
    with pytest.raises(DataFileError, match=f"are copies of one file .uuid {uuid}"):
        process_datasets(MuonPt(), files, running, "test")
    # without events there is nothing to count twice
    empty = [{**file, "events_in": 0, "events_out": 0} for file in manifest["files"]]
    refuse_repeats({"d": {**manifest, "files": empty}}, {})


@pytest.mark.parametrize("output_format", ["root-file", "root-rntuple", "parquet"])
def test_a_copy_that_was_written_anew(tmp_path: Path, output_format: str) -> None:
    written(tmp_path / "s/a.root", np.arange(50))
    # in another order, compressed otherwise
    written(tmp_path / "s/b.root", np.arange(50)[::-1], compression=uproot.LZMA(1))
    written(tmp_path / "s/c.root", np.arange(50, 100))
    message = refusal({"d": made(tmp_path, "s", output_format)}, SIMULATION)
    assert "/store/a.root (dataset d) and /store/b.root (dataset d) have the same 50" in message


def test_simulation_whose_jobs_all_count_from_one(tmp_path: Path) -> None:
    for seed in range(1, 4):
        written(tmp_path / f"s/{seed}.root", np.arange(50), seed=seed)
    manifest = made(tmp_path, "s")
    # nothing but the muons tells them apart: the numbers of events that are kept are made equal
    counts = {file["events_out"] for file in manifest["files"]}
    assert len(counts) > 1
    refuse_repeats({"d": manifest}, {})


def test_events_that_only_their_muons_tell_apart(tmp_path: Path) -> None:
    path = written(tmp_path / "s/a.root", np.arange(20), seed=1)
    events = uproot.open(path)["Events"].arrays()
    for name, factor in (("b", 2), ("c", 1)):
        columns = {key: events[key] for key in ("run", "luminosityBlock", "event", "genWeight")}
        muons = ak.zip({"pt": ak.values_astype(events["Muon_pt"] * factor, np.float32)})
        tree(tmp_path / f"s/{name}.root", {**columns, "Muon": muons})
    manifest = made(tmp_path, "s")
    a, b, c = manifest["files"]
    assert a["events_out"] == b["events_out"] == c["events_out"] > 0
    refuse_repeats({"d": {**manifest, "files": [a, b]}}, {})
    assert "a.root (dataset d) and /store/c.root" in refusal({"d": manifest}, SIMULATION)


def test_data_whose_files_share_sections(tmp_path: Path) -> None:
    written(tmp_path / "s/a.root", np.arange(0, 60), np.arange(60) // 20, data=True)
    # section 2 is split between two files
    written(tmp_path / "s/b.root", np.arange(60, 100), 2 + np.arange(40) // 20, data=True)
    written(tmp_path / "s/c.root", np.arange(100, 120), 9, data=True)
    refuse_repeats({"d": made(tmp_path, "s")}, {"d": DATA})


def test_events_of_data_that_two_files_have(tmp_path: Path) -> None:
    written(tmp_path / "s/a.root", np.arange(0, 60), np.arange(60) // 20, data=True)
    written(tmp_path / "s/b.root", np.arange(50, 90), 2, data=True)
    written(tmp_path / "s/c.root", np.arange(100, 120), 9, data=True)
    manifest = made(tmp_path, "s")
    kept = [
        number
        for number in range(50, 60)
        if np.random.default_rng([1, number]).integers(0, 4) >= 0 and len(muons_of(number)) > 0
    ]
    message = refusal({"d": manifest}, DATA)
    assert message == (
        f"/store/a.root (dataset d) and /store/b.root (dataset d) share {len(kept)} events (the "
        f"first: run 5, section 2, event {kept[0]}); name one of the two files in leave_out of its "
        "dataset"
    )
    a, b, c = manifest["files"]
    apart = {"d": {**manifest, "files": [a, c]}, "e": {**manifest, "files": [b]}}
    assert "(dataset d) and /store/b.root (dataset e) share" in refusal(apart, DATA, DATA)
    # another primary dataset may have them, where triggers say whose an event is
    refuse_repeats(apart, {"d": DATA, "e": {**DATA, "primary": ["EGamma"]}})
    # simulation's numbers prove nothing
    refuse_repeats(apart, {name: {**DATA, "data": False} for name in apart})


def test_an_event_that_one_file_has_twice(tmp_path: Path) -> None:
    numbers = np.concatenate([np.arange(40), np.arange(40)])
    written(tmp_path / "s/a.root", numbers, 1, data=True)
    written(tmp_path / "s/b.root", np.arange(40, 50), 1, data=True)
    message = refusal({"d": made(tmp_path, "s")}, DATA)
    first = next(number for number in range(40) if len(muons_of(number)))
    assert message == (
        f"/store/a.root (dataset d) has event {first} of run 5, section 1, twice: make the file "
        "again, or name it in leave_out of its dataset"
    )


def test_the_only_file_has_its_events_twice(tmp_path: Path) -> None:
    numbers = np.array([n for n in range(20) if len(muons_of(n))][:3])
    written(tmp_path / "s/a.root", np.tile(numbers, 2), 1, data=True)
    manifest = made(tmp_path, "s")
    assert f"has event {numbers[0]} of run 5, section 1, twice" in refusal({"d": manifest}, DATA)
    refuse_repeats({"d": manifest}, {"d": SIMULATION})


def test_one_event_in_two_primary_datasets(tmp_path: Path) -> None:
    number = np.array([n for n in range(20) if len(muons_of(n))][:1])
    for name in "st":
        written(tmp_path / name / f"{name}.root", number, 1, data=True)
    both = {name: made(tmp_path, name) for name in "st"}
    refuse_repeats(both, {"s": DATA, "t": {**DATA, "primary": ["MuonEG"]}})
    # one that is of the other's as well
    for primary in (["SingleMuon"], ["MuonEG", "SingleMuon"]):
        message = refusal(both, DATA, {**DATA, "primary": primary})
        assert "/store/s.root (dataset s) and /store/t.root (dataset t) have the same 1" in message


def test_words_that_no_trigger_names_say_nothing_of_primary_datasets() -> None:
    triggers = [{"paths": ["HLT_Mu8"], "primary": ["SingleMuon"]}]
    triggers += [{"paths": ["HLT_Ele8"], "primary": ["EGamma"]}]
    for das, words in {
        "/SingleMuon_central_B/listed-2018/USER": ["SingleMuon"],
        "/central_EGamma_B/listed-2018/USER": ["EGamma"],
        "/data_UL18A_SingleMuon/listed-2018/USER": ["SingleMuon"],
        "/SingleMuon_A-UL2018/listed-2018/USER": ["SingleMuon"],
        "/EGamma1/Run2024E-PromptReco-v1/NANOAOD": ["EGamma"],
    }.items():
        dataset = {"data": True, "das": das}
        assert event_metadata(analysis_of({"triggers": triggers}), dataset)["primary"] == words
    # all data is of one primary dataset then, and shares a word
    whole = event_metadata(
        analysis_of({"triggers": [{"paths": ["HLT_Mu8"]}]}), dataset | {"das": "/Muon_x_y/a/B"}
    )
    assert whole["primary"] == ["Muon"]


def test_events_of_several_runs_that_files_share(tmp_path: Path) -> None:
    """Files whose runs overlap like the rungs of a ladder; the last two share events of run 7."""
    with_muons = np.array([n for n in range(200) if len(muons_of(n))])
    runs = {"a": [5, 6], "b": [6, 7], "c": [7, 8], "d": [5, 8]}
    for place, (name, of) in enumerate(runs.items()):
        numbers = with_muons[10 * place : 10 * place + 10]
        path = written(tmp_path / f"s/{name}.root", numbers, 1, data=True)
        events = uproot.open(path)["Events"].arrays()
        columns = {key: events[key] for key in ("luminosityBlock", "event")}
        muons = ak.zip({"pt": events["Muon_pt"]})
        run = np.repeat(np.array(of, np.uint32), 5)
        if name == "c":
            # the last three of run 7 are those of b
            columns["event"] = ak.Array(
                np.concatenate([with_muons[17:20], numbers[3:]]).astype(np.uint64)
            )
        tree(path, {"run": run, **columns, "Muon": muons})
    manifest = made(tmp_path, "s")
    message = refusal({"d": manifest}, DATA)
    assert (
        "/store/b.root (dataset d) and /store/c.root (dataset d) share 3 events (the first: run 7, "
        f"section 1, event {with_muons[17]})" in message
    )
    others = [file for file in manifest["files"] if file["source"] != "/store/c.root"]
    refuse_repeats({"d": {**manifest, "files": others}}, {"d": DATA})
