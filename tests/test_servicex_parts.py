"""Parts of a transform by themselves: sums, columns, formats, identities, the service's state."""

import contextlib
import os
import sqlite3
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
from disks import Disk, open_folder

from looseleaf.errors import ConfigError, DataFileError, RemoteReadFailed, Shortfall
from looseleaf.files import adler32, write_json
from looseleaf.servicex.formats import create, read_original
from looseleaf.servicex.jagged import NotFinite, selected
from looseleaf.servicex.request import (
    Request,
    Source,
    request_folder,
    request_from_das,
    urls_of,
)
from looseleaf.servicex.service.state import CANCELED, RUNNING, State
from looseleaf.servicex.transform import (
    FileResult,
    FileTask,
    Sums,
    TreeQuery,
    steps,
    transform_file,
)
from looseleaf.servicex.volume import (
    complete_manifest,
    made_before,
    manifest_of,
    output_name,
    remember,
    result_name,
)
from looseleaf.stage_files import SNAPSHOT_FORMAT, FileRecord

pytestmark = pytest.mark.slow

# --- sums before and after the selection


def test_sums_of_several_steps() -> None:
    """Weights of either sign, terms and theory weights that differ, over two steps and a cut."""
    sums = Sums()
    parts = (
        ([3.0, -1.0, 2.0], [True, False, True], [[2, 1, 5], [4, 0, 1], [8, 3, 2]]),
        ([-4.0, 0.5], [False, True], [[1, 1, 1], [16, 2, 0]]),
    )
    for weights, mask, terms in parts:
        arrays = ak.zip(
            {
                "genWeight": weights,
                "EFTfitCoefficients": ak.Array(terms),
                "PSWeight": ak.Array([[0.5, 2.0, w][: 2 + n % 2] for n, w in enumerate(weights)]),
            },
            depth_limit=1,
        )
        sums.add(arrays, np.array(mask))
    assert (sums.events_in, sums.events_out) == (5, 3)
    assert (sums.weights_in, sums.weights_out) == (0.5, 5.5)
    assert sums.eft_in == [31, 7, 9]
    # each times the Standard Model's weight; of the places that every event has
    assert sums.theory_in == {"PSWeight": [31 * 0.5, 31 * 2.0]}
    assert sums.weighted


def test_a_changing_number_of_terms_is_refused() -> None:
    terms = ak.Array([[1.0, 2.0, 3.0], [1.0, 2.0]])
    with pytest.raises(DataFileError, match="EFTfitCoefficients: their number differs between"):
        Sums().add(ak.zip({"EFTfitCoefficients": terms}, depth_limit=1), None)


def test_large_columns_are_read_in_small_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All columns that are read at a time count, of which each event has 12 bytes here."""
    columns = ["a", "b", "c"]
    with uproot.recreate(tmp_path / "a.root") as file:
        tree = file.mktree("Events", dict.fromkeys(columns, "f4"))
        tree.extend({name: np.arange(1000, dtype="f4") for name in columns})
    monkeypatch.setattr("looseleaf.servicex.transform.STEP_BYTES", 6000)
    with uproot.open(tmp_path / "a.root") as file:
        lengths = [len(part) for part in steps(file["Events"], "a.root", columns)]
    # a branch states some bytes more than those of its values
    assert sum(lengths) == 1000
    assert 400 < max(lengths) <= 500


def test_small_weights_after_a_large_one() -> None:
    """Single precision would lose every one of them."""
    sums = Sums()
    for _ in range(3):
        weights = np.array([2.0**25, *[1.0] * 7], np.float32)
        sums.add(ak.zip({"genWeight": weights}), None)
    assert sums.weights_in == sums.weights_out == 3 * (2.0**25 + 7)
    assert (sums.events_in, sums.events_out) == (24, 24)


# --- selected columns


@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize(
    "mask", [None, [True] * 5, [False] * 5, [True, False, True, True, False], [False] * 4 + [True]]
)
def test_selected_columns_are_those_of_awkward(start: int, mask: list[bool] | None) -> None:
    """Two collections of as many objects, in other events, and one that follows the first."""
    muons, jets = [3, 1, 1, 2, 0, 1, 0], [0, 4, 0, 0, 2, 1, 1]
    assert sum(muons) == sum(jets)
    whole = ak.zip(
        {
            "Muon_pt": ak.unflatten(np.arange(8) * 1.5, muons),
            "Jet_pt": ak.unflatten(np.arange(8) * 100, jets),
            "Muon_charge": ak.unflatten(np.arange(8) - 4, muons),
            "MET_pt": np.arange(7) * 10.0,
            "Matrix": np.arange(14).reshape(7, 2),
        },
        depth_limit=1,
    )
    arrays = whole[start : start + 5]
    found = selected(arrays, None if mask is None else np.array(mask))
    expected = arrays if mask is None else arrays[np.array(mask)]
    assert found.fields == expected.fields
    for name in found.fields:
        assert found[name].to_list() == expected[name].to_list(), name


def test_values_of_other_events_are_not_counted() -> None:
    """A step may be a part of a longer array, with lists that begin within its values."""
    nan = float("nan")
    whole = ak.zip({"Muon_pt": [[nan], [1.0, 2.0], [3.0, nan], [nan]]}, depth_limit=1)
    found = NotFinite()
    found.add(whole[1:3], ["Muon_pt"])
    assert found.by_column() == {"Muon_pt": {"count": 1, "of": 4, "unit": "values"}}


# --- formats


@pytest.mark.parametrize("output", ["root-file", "root-rntuple", "parquet"])
def test_a_collection_of_one_branch_has_its_counter(tmp_path: Path, output: str) -> None:
    suffix = ".parquet" if output == "parquet" else ".root"
    path, identity = tmp_path / f"o{suffix}", uuid.uuid4()
    counts = np.resize([2, 0, 1], 45_001)
    arrays = ak.zip(
        {
            "Muon_pt": ak.unflatten(np.arange(counts.sum(), dtype=np.float32), counts),
            "MET_pt": np.arange(len(counts)) * 0.5,
        },
        depth_limit=1,
    )
    with create(path, output, identity) as result:
        result.extend("Events", arrays, {"Muon": ["Muon_pt"], "MET_pt": ["MET_pt"]})
        result.describe({"events": 7})
    assert read_original(path) == {"events": 7}
    if output == "parquet":
        found = ak.from_parquet(path)
        rows = pq.read_metadata(path)
        assert [rows.row_group(n).num_rows for n in range(3)] == [20_000, 20_000, 5001]
    else:
        with uproot.open(path) as file:
            assert str(file.file.uuid) == str(identity)
            found = file["Events"].arrays()
    assert set(found.fields) == {"nMuon", "Muon_pt", "MET_pt"}
    assert found["nMuon"].to_list() == counts.tolist()
    assert ak.all(found["Muon_pt"] == arrays["Muon_pt"])
    assert ak.all(found["MET_pt"] == arrays["MET_pt"])


@pytest.mark.parametrize("output", ["root-file", "root-rntuple"])
def test_a_result_has_the_runs_of_its_file_or_some_of_its_own(tmp_path: Path, output: str) -> None:
    """Whatever tree is written last."""
    weighted = ak.zip({"genWeight": np.array([1.0, -2.0])})
    blocks = ak.zip({"run": np.array([1, 1], np.uint32)})
    theirs = ak.zip({"genEventCount": np.array([3, 4])})
    for name, runs in {"a": None, "b": theirs}.items():
        with create(tmp_path / f"{name}.root", output, uuid.uuid4()) as result:
            result.extend("Events", weighted, {"genWeight": ["genWeight"]})
            if runs is not None:
                result.extend("Runs", runs, {"genEventCount": ["genEventCount"]})
            result.extend("LuminosityBlocks", blocks, {"run": ["run"]})
            result.describe({"events": 9, "sum_of_weights": 7.5})
    with uproot.open(tmp_path / "a.root") as file:
        assert file["Runs"]["genEventCount"].array().to_list() == [9]
        assert file["Runs"]["genEventSumw"].array().to_list() == [7.5]
    with uproot.open(tmp_path / "b.root") as file:
        assert file["Runs"]["genEventCount"].array().to_list() == [3, 4]


def test_a_parquet_file_has_one_tree(tmp_path: Path) -> None:
    arrays = ak.zip({"run": np.array([1, 1], np.uint32)})
    with create(tmp_path / "a.parquet", "parquet", uuid.uuid4()) as result:
        result.extend("Events", arrays, {"run": ["run"]})
        with pytest.raises(DataFileError, match="one tree, not Events and LuminosityBlocks"):
            result.extend("LuminosityBlocks", arrays, {"run": ["run"]})


# --- requests and results on the volume

RECORDS = [FileRecord(f"/store/{letter}.root", 10, 3, "0000000a") for letter in "ab"]
REQUEST = Request(
    "/A/B/C", tuple(Source(record, (f"/data{record.name}",)) for record in RECORDS),
    ("Muon_pt", "MET_pt"), "MET_pt > 3", "root-file", "1.0",
)  # fmt: skip


def test_a_request_is_what_decides_on_its_results() -> None:
    def with_file(**changes: Any) -> Request:
        first, second = REQUEST.sources
        return replace(
            REQUEST, sources=(first, replace(second, record=replace(second.record, **changes)))
        )

    others = [
        with_file(bytes=11), with_file(adler32="0000000b"), with_file(name="/store/c.root"),
        replace(REQUEST, columns=("Muon_pt", "Muon_eta")), replace(REQUEST, cut=None),
        replace(REQUEST, cut="MET_pt > 4"), replace(REQUEST, format="parquet"),
        replace(REQUEST, software="1.1"), replace(REQUEST, dataset="/A/B/D"),
        replace(REQUEST, sources=REQUEST.sources[:1]),
    ]  # fmt: skip
    ids = {one.id for one in (REQUEST, *others)}
    assert len(ids) == 1 + len(others)
    # neither the order of columns nor where a file is read from
    moved = tuple(replace(source, urls=("root://x//y",)) for source in REQUEST.sources)
    same = replace(REQUEST, columns=REQUEST.columns[::-1], sources=moved)
    assert same.id == REQUEST.id


def test_every_redirector_is_an_address() -> None:
    redirectors = ["root://xcache/", "root://eos.cern.ch//eos/cms", "/mirror/"]
    assert urls_of(RECORDS[0], redirectors) == (
        "root://xcache//store/a.root", "root://eos.cern.ch//eos/cms/store/a.root",
        "/mirror/store/a.root",
    )  # fmt: skip
    for name in ("store/a.root", "/store/../../etc/a.root"):
        with pytest.raises(DataFileError, match=f"{name}: should be a logical name"):
            urls_of(replace(RECORDS[0], name=name), redirectors)


def made(folder: Path, request: Request, number: int, **more: Any) -> FileResult:
    """A result that stands in a folder: as many bytes as events, all of which differ by file."""
    source = request.sources[number]
    path = folder / output_name(source, request.format)
    path.write_bytes(bytes([number]) * (5 + number))
    return FileResult(**{
        "source": source.record.name, "source_url": source.urls[0], "passed_over": [],
        "source_uuid": "u", "output": path.name, "bytes": path.stat().st_size,
        "adler32": adler32(path), "uuid": "v", "events_in": 10 + number,
        "events_out": 4 + 3 * number, "sum_of_weights_in": 2.5 - 5 * number,
        "sum_of_weights_out": 1.25 + number, "eft_sums_in": None, "theory_sums_in": {},
        "lumi_sections": None, "normalised_by": "Events", "not_finite": {}, "missing": {},
        "held": {"events": 10 + number, "sum_of_weights": 2.5 - 5 * number}, "bare": False,
        "cost": {"events": 1, "bytes_read": 1, "wall_s": 1, "cpu_s": 1, "peak_rss_bytes": 1},
        **more,
    })  # fmt: skip


def test_totals_of_a_manifest_are_of_all_files(tmp_path: Path) -> None:
    results = [made(tmp_path, REQUEST, number) for number in (0, 1)]
    manifest = manifest_of(REQUEST, tmp_path, results, "embedded")
    assert manifest["totals"] == {
        "files": 2, "bytes": 11, "events_in": 21, "events_out": 11,
        "sum_of_weights_in": 0.0, "sum_of_weights_out": 3.5,
    }  # fmt: skip
    assert complete_manifest(tmp_path) == manifest
    with pytest.raises(Shortfall, match=r"no result for /store/b\.root"):
        manifest_of(REQUEST, tmp_path, results[:1], "embedded")


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: bytes([9]) + b[1:], None])
def test_a_request_is_complete_if_every_result_stands(
    tmp_path: Path, number: int, change: Any
) -> None:
    """Cut short, of the same length with other bytes, or gone."""
    results = [made(tmp_path, REQUEST, n) for n in (0, 1)]
    manifest_of(REQUEST, tmp_path, results, "embedded")
    path = tmp_path / results[number].output
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    assert complete_manifest(tmp_path) is None


def test_results_of_other_requests_are_taken_where_they_are_the_same(tmp_path: Path) -> None:
    other, mine = tmp_path / "other", tmp_path / "mine"
    other.mkdir()
    mine.mkdir()
    for number in (0, 1):
        remember(REQUEST, other, made(other, REQUEST, number))
    # of another cut, none
    assert made_before(replace(REQUEST, cut=None), mine) == {}
    # one that isn't whole any more, the other
    path = other / output_name(REQUEST.sources[1], REQUEST.format)
    path.write_bytes(bytes([7]) * path.stat().st_size)
    single = replace(REQUEST, sources=REQUEST.sources[::-1])
    found = made_before(single, mine)
    assert list(found) == ["/store/a.root"]
    assert found["/store/a.root"].events_in == 10
    taken = mine / output_name(REQUEST.sources[0], REQUEST.format)
    assert taken.read_bytes() == bytes(5)


def test_closed_folders_of_others_are_passed_over_and_its_own_is_told() -> None:
    if os.geteuid() != 0:
        pytest.skip("being somebody else takes root")
    with open_folder() as place:
        closed, mine = place / "closed", place / "mine"
        closed.mkdir(mode=0o700)
        mine.mkdir()
        remember(REQUEST, closed, made(closed, REQUEST, 0))
        with Disk(place).forbidden():
            assert made_before(REQUEST, mine) == {}
            with pytest.raises(PermissionError, match="closed"):
                made_before(REQUEST, closed)


def test_names_of_results_are_told_apart() -> None:
    names = [f"/store/{place}{'/x' * 150}/f.root" for place in "ab"]
    sources = [Source(FileRecord(name, 1, 1, None), ()) for name in names]
    assert len({output_name(source, "root-file") for source in sources}) == 2
    # the same end of a path in other folders, and with other replicas
    paths = [f"/{place}{'/y' * 120}/f.root" for place in "ab"]
    names = {result_name(path, ".root") for path in (*paths, f"{paths[0]},root://x//f.root")}
    assert len(names) == 3
    assert all(len(name) < 255 and name.endswith(".root") for name in names)


# --- the service's state


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    found = State(tmp_path / "state.sqlite")
    yield found
    found.close()


def submit(state: State, name: str, number: int) -> None:
    request = {
        "id": name, "title": "t", "did": "d", "selection": "s", "codegen": "c",
        "destination": "volume", "format": "root-file",
    }  # fmt: skip
    files = [(f"/{name}{n}.root", f"{name}{n}.out") for n in range(number)]
    state.submit(request, files, RUNNING)


def statuses(state: State, name: str) -> list[str]:
    return [file.status for file in state.files(name)]


def test_files_are_given_out_once_and_of_one_request_at_a_time(state: State) -> None:
    submit(state, "r", 5)
    submit(state, "q", 2)
    first = state.claim()
    assert [file.output for file in first] == ["r0.out"]
    assert (first[0].status, first[0].tries) == ("running", 1)
    # two workers share the four that are left
    assert [file.output for file in state.claim(10, 2)] == ["r1.out", "r2.out"]
    assert [file.output for file in state.claim(10, 1)] == ["r3.out", "r4.out"]
    assert [file.output for file in state.claim(1, 7)] == ["q0.out"]
    assert [file.output for file in state.claim(9, 9)] == ["q1.out"]
    assert state.claim(9, 1) == []


def test_what_was_under_way_is_begun_again_and_counts_as_no_try(state: State) -> None:
    submit(state, "r", 3)
    first, second = state.claim()[0], state.claim()[0]
    state.done(first.number, {"n": 1}, None)
    state.recover()
    assert statuses(state, "r") == ["success", "waiting", "waiting"]
    assert [file.tries for file in state.files("r")] == [1, 0, 0]
    assert state.claim()[0].number == second.number
    state.release([second.number])
    assert [file.tries for file in state.files("r")] == [1, 0, 0]
    assert [file.tries for file in state.take_up([second.number, first.number])] == [1]


def test_a_file_that_failed_waits_for_its_time(state: State) -> None:
    submit(state, "r", 1)
    (file,) = state.claim()
    assert state.next_retry() is None
    state.retry(file.number, 1000.0, "no answer")
    assert state.claim() == []
    wait = state.next_retry()
    assert wait is not None
    assert 990 < wait <= 1000
    (again,) = state.files("r")
    assert (again.status, again.error) == ("waiting", "no answer")


def test_results_are_told_once_each_in_their_order(state: State) -> None:
    submit(state, "r", 20)
    numbers = [state.claim()[0].number for _ in range(20)]
    for place, number in enumerate(numbers):
        result = None if place == 3 else {"n": place}
        assert state.done(number, result, "bad" if result is None else None)
        # an end is an end
        assert not state.done(number, {"n": 99}, None)
    found = state.results("r", "")
    assert [file.number for file in found] == numbers
    times = [file.created for file in found]
    assert len(set(times)) == 20
    assert times == sorted(times, key=datetime.fromisoformat)
    assert [f.number for f in state.results("r", str(times[7]))] == numbers[8:]
    assert [(found[3].status, found[3].error), found[4].status] == [("failure", "bad"), "success"]
    assert found[4].result == {"n": 4}
    request = state.request("r")
    assert request is not None
    assert request["files"] == {"failure": 1, "success": 19}


def test_a_clock_that_is_set_back_hides_no_result(state: State, tmp_path: Path) -> None:
    """A client asks for what is later than the last that it saw."""
    submit(state, "r", 2)
    first, second = state.claim()[0], state.claim()[0]
    with contextlib.closing(sqlite3.connect(tmp_path / "state.sqlite")) as db, db:
        db.execute("INSERT INTO clock VALUES ('2999-01-01T00:00:00.000000')")
    for file in (first, second):
        state.done(file.number, {}, None)
    assert [file.created for file in state.results("r", "2999-01-01T00:00:00.000000")] == [
        "2999-01-01T00:00:00.000001", "2999-01-01T00:00:00.000002",
    ]  # fmt: skip
    # what the clock said is read for every file, so that it doesn't pile up
    with contextlib.closing(sqlite3.connect(tmp_path / "state.sqlite")) as db:
        assert db.execute("SELECT last FROM clock").fetchall() == [("2999-01-01T00:00:00.000002",)]


def test_files_that_finish_in_one_tick_have_times_of_their_own(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Coarse(datetime):
        """A clock that ticks more rarely than files finish."""

        @classmethod
        def now(cls, tz: Any = None) -> "Coarse":
            return cls(2026, 1, 1, tzinfo=tz)

    monkeypatch.setattr("looseleaf.servicex.service.state.datetime", Coarse)
    submit(state, "r", 3)
    for file in state.claim(3):
        state.done(file.number, {}, None)
    times = [f"2026-01-01T00:00:00.{number:06}" for number in range(3)]
    assert [file.created for file in state.results("r", "")] == times


def test_what_is_canceled_is_done_no_more(state: State) -> None:
    submit(state, "r", 3)
    submit(state, "q", 1)
    first, second = state.claim()[0], state.claim()[0]
    state.done(first.number, {}, None)
    assert state.cancel("r") == [second.number]
    assert statuses(state, "r") == ["success", "canceled", "canceled"]
    assert statuses(state, "q") == ["waiting"]
    assert not state.done(second.number, {}, None)
    # also of a batch that still stands when the next service begins
    assert state.take_up([first.number, second.number]) == []
    assert statuses(state, "r") == ["success", "canceled", "canceled"]
    request = state.request("r")
    assert request is not None
    assert request["status"] == CANCELED
    assert [file.request for file in state.claim(5)] == ["q"]
    state.delete("r")
    assert (state.request("r"), state.files("r"), state.requests()) == (None, [], ["q"])


# --- one file


def nanoaod(path: Path, **more: Any) -> Path:
    """Six events in sections 1 to 3, of which the file's own list has 1 to 4."""
    with uproot.recreate(path) as file:
        file["Events"] = {
            "run": np.ones(6, "u4"), "luminosityBlock": np.array([1, 1, 2, 2, 3, 3], "u4"),
            "event": np.arange(6, dtype="u8"), "MET_pt": np.arange(6, dtype="f4") * 10, **more,
        }  # fmt: skip
        file["LuminosityBlocks"] = {
            "run": np.ones(4, "u4"), "luminosityBlock": np.arange(1, 5, dtype="u4"),
        }  # fmt: skip
    return path


def carried_out(path: Path, columns: tuple[str, ...] = ("MET_pt",), **more: Any) -> FileResult:
    given = {
        "expected_bytes": None, "expected_events": None, "expected_adler32": None,
        "cut": "MET_pt > 25", "output": str(path.with_name("out.root")), **more,
    }  # fmt: skip
    query = TreeQuery(columns=columns, cut=given.pop("cut"))
    return transform_file(FileTask("f", (str(path),), queries=(query,), work="w", **given))


WEIGHTS = np.array([1.0, -2.0, 4.0, 8.0, -16.0, 32.0], "f4")


def test_sections_of_data_are_those_of_the_file(tmp_path: Path) -> None:
    """Also one in which no event was recorded; of simulation there are none to speak of."""
    found = carried_out(nanoaod(tmp_path / "d.root"))
    assert found.lumi_sections == {"1": [[1, 4]]}
    assert (found.events_in, found.events_out) == (6, 3)
    assert (found.sum_of_weights_in, found.sum_of_weights_out) == (6, 3)
    assert (found.eft_sums_in, found.theory_sums_in) == (None, {})
    found = carried_out(nanoaod(tmp_path / "s.root", genWeight=WEIGHTS))
    assert found.lumi_sections is None
    assert (found.sum_of_weights_in, found.sum_of_weights_out) == (27, 24)


def test_a_skim_of_a_skim_speaks_of_the_original(tmp_path: Path) -> None:
    first = carried_out(nanoaod(tmp_path / "s.root", genWeight=WEIGHTS))
    skim = tmp_path / "out.root"
    again = carried_out(skim, cut="MET_pt > 35", output=str(tmp_path / "again.root"))
    assert (first.events_out, again.events_in, again.events_out) == (3, 6, 2)
    assert (again.sum_of_weights_in, again.sum_of_weights_out) == (27, 16)


def test_terms_and_theory_weights_are_summed_over_all_events(tmp_path: Path) -> None:
    terms = np.arange(18, dtype="f4").reshape(6, 3)
    theory = np.array([[1, 2], [1, 2], [1, 0], [1, 1], [1, 1], [1, 3]], "f4")
    lists = {
        "EFTfitCoefficients": ak.from_regular(terms), "PSWeight": ak.from_regular(theory),
        "genWeight": WEIGHTS,
    }  # fmt: skip
    path = nanoaod(tmp_path / "e.root", **lists)
    columns = ("MET_pt", "EFTfitCoefficients", "PSWeight")
    found = carried_out(path, columns)
    assert found.eft_sums_in == terms.sum(axis=0).tolist()
    assert found.theory_sums_in == {"PSWeight": (terms[:, 0] @ theory).tolist()}
    # that there are coefficients is known though nobody asks for them
    assert carried_out(path).eft_sums_in == []
    theory[4, 1] = np.nan
    path = nanoaod(tmp_path / "n.root", **lists | {"PSWeight": ak.from_regular(theory)})
    assert carried_out(path, columns).theory_sums_in["PSWeight"] == [terms[:, 0].sum(), None]
    terms[2, 1] = np.inf
    path = nanoaod(tmp_path / "i.root", **lists | {"EFTfitCoefficients": ak.from_regular(terms)})
    with pytest.raises(DataFileError, match="EFTfitCoefficients"):
        carried_out(path, columns)


@pytest.mark.parametrize(
    ("expected", "told"),
    [
        ({"expected_bytes": 17}, "bytes, but the lookup said 17"),
        ({"expected_events": 5}, "has 6 events, but the lookup said 5"),
        ({"expected_events": 7}, "has 6 events, but the lookup said 7"),
        ({"expected_adler32": "00000001"}, "as its adler32, but the lookup said 00000001"),
    ],
)
def test_a_file_is_held_to_what_was_looked_up(
    tmp_path: Path, expected: dict[str, Any], told: str
) -> None:
    path = nanoaod(tmp_path / "d.root")
    right = {
        "expected_bytes": path.stat().st_size, "expected_events": 6,
        "expected_adler32": adler32(path),
    }  # fmt: skip
    assert carried_out(path, **right).events_in == 6
    with pytest.raises(DataFileError, match=told):
        carried_out(path, **{**right, **expected})


def test_row_groups_that_are_left_out_count_all_the_same(tmp_path: Path) -> None:
    """Of a Parquet file that says nothing of an original."""
    path = tmp_path / "p.parquet"
    table = {
        "run": np.ones(12, "u4"), "luminosityBlock": np.ones(12, "u4"),
        "event": np.arange(12, dtype="u8"), "MET_pt": np.arange(12, dtype="f4"),
        "genWeight": np.resize(WEIGHTS, 12),
    }  # fmt: skip
    pq.write_table(pa.table(table), path, row_group_size=4)
    found = carried_out(path, cut="MET_pt > 8.5", format="parquet",
                        output=str(tmp_path / "out.parquet"))  # fmt: skip
    assert (found.events_in, found.events_out) == (12, 3)
    assert (found.sum_of_weights_in, found.sum_of_weights_out) == (54, 8 - 16 + 32)


def thrift(number: int) -> bytes:
    """A whole number as a Parquet footer has it: zigzag, seven bits a byte."""
    number *= 2
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def test_fewer_events_than_the_file_says_are_refused(tmp_path: Path) -> None:
    """Of a Parquet file whose row group says that it has seven rows more than its pages hold."""
    path = tmp_path / "p.parquet"
    table = {
        "run": np.ones(2000, "u4"), "luminosityBlock": np.ones(2000, "u4"),
        "event": np.arange(2000, dtype="u8"), "MET_pt": np.arange(2000, dtype="f4"),
        "genWeight": np.ones(2000, "f4"),
    }  # fmt: skip
    pq.write_table(pa.table(table), path)
    more = {"cut": None, "format": "parquet", "output": str(tmp_path / "out.parquet")}
    assert carried_out(path, **more).events_in == 2000
    content = path.read_bytes()
    # the row group's number stands last; the columns have theirs before it
    before, after = content.rsplit(thrift(2000), 1)
    path.write_bytes(before + thrift(2007) + after)
    with pytest.raises(DataFileError, match="2000 of its 2007 events could be read"):
        carried_out(path, **more)
    # of an earlier transform, since it was whole
    assert pq.read_metadata(tmp_path / "out.parquet").num_rows == 2000


def test_invalid_files_are_left_out_and_folders_stay_on_the_volume(tmp_path: Path) -> None:
    files = [RECORDS[0], replace(RECORDS[1], valid=False)]
    write_json(tmp_path / "d.json", {
        "format": SNAPSHOT_FORMAT, "dataset": "/A/B/C", "time": "2026-01-01T00:00:00+00:00",
        "files": [record.to_json() for record in files],
    })  # fmt: skip
    found = request_from_das(tmp_path / "d.json", ["MET_pt"], None, "root-file", "1", ["/m"])
    assert [source.record.name for source in found.sources] == ["/store/a.root"]
    assert request_folder(tmp_path, "sub/deep", "id") == tmp_path.resolve() / "sub/deep/id"
    for outside in ("..", "sub/../../x", "/etc"):
        with pytest.raises(ConfigError, match="leaves the volume"):
            request_folder(tmp_path / "volume", outside, "id")


def test_a_tree_of_another_name_has_what_was_asked_for(tmp_path: Path) -> None:
    """Neither run nor weight beside it; the weights of all events are summed all the same."""
    path = nanoaod(tmp_path / "s.root", genWeight=WEIGHTS)
    query = TreeQuery(to="picked", columns=("MET_pt",), cut="MET_pt > 25")
    out = tmp_path / "out.root"
    found = transform_file(FileTask("f", (str(path),), None, None, None, (query,), str(out), "w"))
    assert (found.sum_of_weights_in, found.sum_of_weights_out) == (27, 24)
    with uproot.open(out) as file:
        assert file["picked"].keys() == ["MET_pt"]
        assert file["picked"]["MET_pt"].array().to_list() == [30, 40, 50]


def test_a_counter_that_is_asked_for_is_there_once(tmp_path: Path) -> None:
    path, counts = tmp_path / "s.root", [2, 0, 1, 0, 0, 1]
    arrays = ak.zip({
        **uproot.open(nanoaod(path))["Events"].arrays(how=dict),
        "Jet_pt": ak.unflatten(np.arange(4, dtype="f4"), counts),
        "Jet_eta": ak.unflatten(np.arange(4, dtype="f4") / 2, counts),
    }, depth_limit=1)  # fmt: skip
    groups = {name: [name] for name in ("run", "luminosityBlock", "event", "MET_pt")}
    with create(path, "root-file", uuid.uuid4()) as file:
        file.extend("Events", arrays, {**groups, "Jet": ["Jet_pt", "Jet_eta"]})
    columns = ("nJet", "Jet_pt", "MET_pt")
    carried_out(path, columns, cut=None)
    with uproot.open(tmp_path / "out.root") as file:
        keys = file["Events"].keys()
        assert sorted(keys) == sorted({"run", "luminosityBlock", "event", *columns})
        assert file["Events"]["nJet"].array().to_list() == counts
        assert file["Events"]["Jet_pt"].array().to_list() == arrays["Jet_pt"].to_list()


@pytest.mark.parametrize("first", [0, 1])
def test_a_failure_may_pass_if_that_of_one_address_may(tmp_path: Path, first: int) -> None:
    urls = ["http://127.0.0.1:1/a.root", str(tmp_path / "nowhere.root")]
    query = TreeQuery(columns=("MET_pt",))
    order = (urls[first], urls[1 - first])
    out = str(tmp_path / "out.root")
    with pytest.raises(RemoteReadFailed, match=r"nowhere\.root: no such file"):
        transform_file(FileTask("f", order, None, None, None, (query,), out, "w"))
    with pytest.raises(DataFileError) as caught:
        transform_file(FileTask("f", (urls[1],), None, None, None, (query,), out, "w"))
    assert not isinstance(caught.value, RemoteReadFailed)
