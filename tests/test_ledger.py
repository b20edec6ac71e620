"""Chunks, tasks, keys and ledgers by themselves: no cluster, and files that nobody opens."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from analyses import analysis_of

from looseleaf.errors import DataFileError, Shortfall
from looseleaf.files import write_json
from looseleaf.losses import Loss
from looseleaf.processing.checkpoints import Checkpoints, key_of, packed, unpacked
from looseleaf.processing.fileset import (
    Chunk,
    EventsSource,
    Fileset,
    chunks_of,
    cut,
    from_manifest,
    tasks_of,
)
from looseleaf.processing.job import Group
from looseleaf.processing.ledger import ChunkRecord, ledger_of
from looseleaf.processing.runner import Partial, added
from looseleaf.processing.stage import event_metadata
from looseleaf.processing.tree import groups_of
from looseleaf.servicex.transform import FileResult
from looseleaf.stage_files import MANIFEST_FORMAT

# one identity after which a group of chunks ends, and one after which it goes on
ENDS = next(f"uuid-{n}" for n in range(100) if crc32(f"uuid-{n}".encode()) % 8 == 0)
GOES_ON = next(f"uuid-{n}" for n in range(100) if crc32(f"uuid-{n}".encode()) % 8 != 0)


def source(name: str, events: int, weights: float = 0.0, uuid: str = GOES_ON) -> EventsSource:
    return EventsSource(
        name=name, url=f"/volume/{name}.root", source_url=f"root://{name}", uuid=uuid,
        bytes=1000 + events, adler32="0000000a", events=events, sum_of_weights=weights,
    )  # fmt: skip


def fileset(*files: EventsSource, **more: Any) -> Fileset:
    return Fileset("d", files, {"events": 99, "sum_of_weights": 7.5}, {}, "request", **more)


def record(file: EventsSource, start: int, stop: int, weights: float, **more: Any) -> ChunkRecord:
    made = ChunkRecord(
        file.name, file.url, start, stop, stop - start, weights, f"worker of {start}", 1, 0.5, {}
    )
    return replace(made, **more)


A, B, C = source("a", 7, -2.5), source("b", 5, 4.0), source("c", 0)
LOST = Loss("trigger", "HLT_X", 3, 12, "events", "HLT_X has not fired in b")


# --- the ledger


def test_a_ledger_adds_up_what_was_done() -> None:
    """Files of different lengths, a sum of weights below zero, an empty file; in any order."""
    done = [
        record(B, 0, 5, 4.0),
        record(C, 0, 0, 0.0),
        record(A, 3, 7, 1.5),
        record(A, 0, 3, -4.0),
    ]
    peaks = {"worker of 3": 500, "worker of 0": 700, "idle": 100}
    ledger = ledger_of(fileset(A, B, C, losses=(LOST,)), done, peaks)
    assert ledger["original"] == {"events": 99, "sum_of_weights": 7.5}
    assert ledger["expected"] == {"files": 3, "events": 12, "sum_of_weights": 1.5}
    assert ledger["processed"] == {"files": 3, "chunks": 4, "events": 12, "sum_of_weights": 1.5}
    places = [(chunk["file"], chunk["start"]) for chunk in ledger["chunks"]]
    assert places == [("a", 0), ("a", 3), ("b", 0), ("c", 0)]
    assert ledger["empty_files"] == ["c"]
    assert ledger["sources"] == {"a": "root://a", "b": "root://b", "c": "root://c"}
    assert ledger["losses"] == [LOST.to_json()]
    assert ledger["workers"] == {
        "idle": {"chunks": 0, "peak_rss_bytes": 100},
        "worker of 0": {"chunks": 3, "peak_rss_bytes": 700},
        "worker of 3": {"chunks": 1, "peak_rss_bytes": 500},
    }


def test_a_file_that_no_processor_can_run_on_is_done() -> None:
    bare = replace(C, name="bare", bare=True)
    ledger = ledger_of(fileset(A, bare), [record(A, 0, 7, -2.5)], {})
    assert ledger["expected"] == {"files": 2, "events": 7, "sum_of_weights": -2.5}
    assert ledger["processed"] == {"files": 2, "chunks": 1, "events": 7, "sum_of_weights": -2.5}
    assert ledger["empty_files"] == ["bare"]


def shortfall(files: list[EventsSource], done: list[ChunkRecord]) -> str:
    with pytest.raises(Shortfall) as problem:
        ledger_of(fileset(*files), done, {})
    return str(problem.value)


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ([], ["0-7 were not processed"]),
        ([(1, 7)], ["0-1 were not processed"]),
        ([(0, 6)], ["6-7 were not processed"]),
        ([(0, 3), (4, 7)], ["3-4 were not processed"]),
        ([(0, 4), (3, 7)], ["3-4 counted twice"]),
        ([(0, 3), (3, 7), (0, 3)], ["0-3 counted twice"]),
        # within a long one, two short ones
        ([(0, 7), (2, 4), (5, 7)], ["2-4 counted twice", "5-7 counted twice"]),
        ([(0, 2), (0, 7)], ["0-2 counted twice"]),
    ],
)
def test_every_entry_counts_once(entries: list[tuple[int, int]], told: list[str]) -> None:
    weights = [-2.5, *[0.0] * 5]
    done = [record(A, *ends, weight) for ends, weight in zip(entries, weights, strict=False)]
    expected = "; ".join(f"a entries {part}" for part in told)
    assert shortfall([A], done) == f"dataset d: {expected}"


@pytest.mark.parametrize("events", [3, 5])
def test_a_chunk_gives_the_events_that_it_has(events: int) -> None:
    done = [record(A, 0, 4, -2.5, events=events), record(A, 4, 7, 0.0)]
    assert shortfall([A], done) == f"dataset d: a entries 0-4 gave {events} events"


@pytest.mark.parametrize("whole", [-2.5, 4.0])
def test_sums_of_weights_agree_to_their_last_digits(whole: float) -> None:
    file = replace(A, sum_of_weights=whole)
    for off in (1e-10, -1e-10):
        ledger_of(fileset(file), [record(file, 0, 7, whole * (1 + off))], {})
    for off in (1e-8, -1e-8, 1.0, -0.5):
        found = whole * (1 + off)
        message = shortfall([file], [record(file, 0, 7, found)])
        assert message == f"dataset d: a: sum of weights {found!r}, but the manifest says {whole!r}"


def test_what_is_missing_of_every_file_is_named() -> None:
    message = shortfall([A, B], [record(A, 0, 6, -2.5)])
    assert (
        message == "dataset d: a entries 6-7 were not processed; b entries 0-5 were not processed"
    )
    many = [source(f"f{n}", 1) for n in range(12)]
    message = shortfall(many, [])
    assert "f9 entries 0-1 were not processed; and 2 more" in message
    assert "f10" not in message


# --- chunks and tasks


def ends(chunks: list[Chunk] | tuple[Chunk, ...]) -> list[tuple[int, int]]:
    return [(chunk.start, chunk.stop) for chunk in chunks]


def test_a_chunk_is_cut_where_it_stands() -> None:
    assert ends(cut(Chunk("d", A, 10, 20), 3)) == [(10, 12), (12, 15), (15, 17), (17, 20)]
    assert ends(cut(Chunk("d", A, 10, 20), 10)) == [(10, 20)]
    assert ends(cut(Chunk("d", A, 10, 20), 9)) == [(10, 15), (15, 20)]
    # an empty file is one chunk of no entries
    assert ends(chunks_of(fileset(A, C, B), 4)) == [(0, 3), (3, 7), (0, 0), (0, 2), (2, 5)]


def test_tasks_are_filled_to_their_limit() -> None:
    files = [source(f"f{n}", 100) for n in range(5)]
    chunks = chunks_of(fileset(*files), 100)
    assert [len(task) for task in tasks_of(chunks, 200)] == [2, 2, 1]
    assert [len(task) for task in tasks_of(chunks, 199)] == [1, 1, 1, 1, 1]
    assert [len(task) for task in tasks_of(chunks, 350)] == [3, 2]


def test_a_task_ends_with_the_file_that_says_so() -> None:
    """With its last chunk, not within it, however few its events are."""
    files = [source("a", 10), source("b", 20, uuid=ENDS), source("c", 10), source("d", 10)]
    tasks = tasks_of(chunks_of(fileset(*files), 10), 1000)
    assert [[chunk.file.name for chunk in task] for task in tasks] == [["a", "b", "b"], ["c", "d"]]


# --- what a result is found by


@pytest.mark.parametrize(
    "change",
    [
        lambda c: replace(c, start=1),
        lambda c: replace(c, stop=6),
        lambda c: replace(c, file=replace(c.file, uuid="another")),
        lambda c: replace(c, file=replace(c.file, name="another")),
        lambda c: replace(c, file=replace(c.file, bytes=1)),
    ],
)
def test_a_result_is_of_these_entries_of_this_file(change: Callable[[Chunk], Chunk]) -> None:
    task = (Chunk("d", A, 0, 7), Chunk("d", B, 0, 5))
    for place in (0, 1):
        other = [*task[:place], change(task[place]), *task[place + 1 :]]
        assert key_of("i", {"m": 1}, task, 100) != key_of("i", {"m": 1}, other, 100)


def test_a_result_is_of_this_processor_and_metadata() -> None:
    task = (Chunk("d", A, 0, 7), Chunk("d", B, 0, 5))
    key = key_of("i", {"m": 1}, task, 100)
    moved = [replace(chunk, file=replace(chunk.file, url="/elsewhere")) for chunk in task]
    assert key_of("i", {"m": 1}, moved, 100) == key
    assert key_of("j", {"m": 1}, task, 100) != key
    assert key_of("i", {"m": 2}, task, 100) != key
    assert key_of("i", {"m": 1}, task[::-1], 100) != key
    # pieces of another size add up in another order; one that holds every chunk doesn't matter
    assert key_of("i", {"m": 1}, task, 7) == key
    assert key_of("i", {"m": 1}, task, 6) != key


# --- sums


def test_partial_sums_keep_all_records_and_the_highest_peak() -> None:
    left = Partial({"n": 1.5}, [record(A, 0, 3, 1.0)], {"v": 300, "w": 100})
    right = Partial({"n": 2.0}, [record(A, 3, 7, 2.0)], {"w": 250, "x": 50})
    total = added(left, right)
    assert total.accumulator == {"n": 3.5}
    assert [one.start for one in total.records] == [0, 3]
    assert total.peaks == {"v": 300, "w": 250, "x": 50}


def test_a_group_wants_what_it_has_not() -> None:
    tasks = [(Chunk("d", source(str(n), 10 + n), 0, 10 + n),) for n in range(4)]
    group = Group(fileset(), tasks, ["k0", "k1", "k2", "k3"])
    assert group.missing == {0: 10, 1: 11, 2: 12, 3: 13}
    assert group.newly([0, 1]) == 21
    assert group.newly([1, 2]) == 12
    group.kept |= {range(2), range(3, 4)}
    assert (group.done, group.missing, group.complete) == ({0, 1, 3}, {2: 12}, False)
    group.kept.add(range(2, 3))
    assert group.complete
    # sums of other parts are other results
    assert len(set(group.keys.values())) == len(group.keys) == 7
    other = Group(fileset(), tasks, ["k0", "k1", "k2", "other"])
    same = {node for node, key in group.keys.items() if other.keys[node] == key}
    assert same == {range(n, n + 1) for n in range(3)} | {range(2)}


# --- what a processor is told


def test_what_is_told_of_data_and_of_simulation(tmp_path: Path) -> None:
    path = tmp_path / "golden.json"
    path.write_text('{"1": [[1, 5]]}')
    das = "/SingleMuon/Run2018A-UL2018-v1/NANOAOD"
    analysis = {"branches": {"Muon_x": ["Muon_y"]}}
    of_data = event_metadata(
        analysis_of(analysis), {"data": True, "das": das, "lumi_mask": str(path)}
    )
    assert of_data["data"] is True
    assert "SingleMuon" in of_data["primary"]
    assert of_data["lumi_mask"]
    assert of_data["aliases"] == {"Muon_x": ["Muon_y"]}
    of_simulation = event_metadata(
        analysis_of({}), {"das": "/TTTo2L2Nu/RunIISummer20UL18-v1/NANOAODSIM"}
    )
    assert of_simulation == {"data": False, "aliases": {}}


# --- what a manifest says


def entry(folder: Path, name: str, size: int, **more: Any) -> dict[str, Any]:
    """A file of a manifest, of so many bytes; numbers before and after the selection differ."""
    (folder / f"{name}.root").write_bytes(bytes(size))
    result = FileResult(
        source=f"/store/{name}.root", source_url=f"root://{name}", passed_over=[],
        source_uuid=f"source {name}", output=f"{name}.root", bytes=size, adler32="0000000a",
        uuid=f"uuid {name}", events_in=10 * size, events_out=size, sum_of_weights_in=-2.5 * size,
        sum_of_weights_out=1.5 * size, eft_sums_in=None, theory_sums_in={}, lumi_sections=None,
        normalised_by="Events", held={"events": 10 * size, "sum_of_weights": -2.5 * size},
        not_finite={}, missing={}, bare=False,
        cost={"events": 1, "bytes_read": 1, "wall_s": 1.0, "cpu_s": 1.0, "peak_rss_bytes": 1},
    )  # fmt: skip
    return {**result.to_json(), **more}


def manifest(folder: Path, *entries: dict[str, Any]) -> Path:
    totals = {
        key: sum(one[key] for one in entries)
        for key in ("bytes", "events_in", "events_out", "sum_of_weights_in", "sum_of_weights_out")
    }
    write_json(folder / "m.json", {
        "format": MANIFEST_FORMAT, "folder": str(folder), "files": list(entries),
        "totals": totals, "request_id": "request", "request": {"cut": None}, "left_out": [],
    })  # fmt: skip
    return folder / "m.json"


def test_a_fileset_is_what_its_manifest_says(tmp_path: Path) -> None:
    first = entry(
        tmp_path, "a", 3, eft_sums_in=[1.0, 2.0, 4.0],
        theory_sums_in={"PSWeight": [1.0, 2.0, 4.0], "LHEPdfWeight": [8.0]},
    )  # fmt: skip
    second = entry(
        tmp_path, "b", 5, eft_sums_in=[16.0, 32.0, 64.0],
        theory_sums_in={"PSWeight": [16.0, None], "LHEPdfWeight": [32.0]},
    )  # fmt: skip
    found = from_manifest("d", manifest(tmp_path, first, second), {"data": False})
    parts = [(f.name, f.events, f.sum_of_weights, f.bytes, f.uuid) for f in found.files]
    assert parts == [
        ("/store/a.root", 3, 4.5, 3, "uuid a"), ("/store/b.root", 5, 7.5, 5, "uuid b"),
    ]  # fmt: skip
    assert [file.source_url for file in found.files] == ["root://a", "root://b"]
    assert (found.original["events"], found.original["sum_of_weights"]) == (80, -20.0)
    assert found.original["eft_sums"] == [17, 34, 68]
    # of the places that both have; a sum with what is no number is none
    assert found.original["theory_sums"] == {"PSWeight": [17, None], "LHEPdfWeight": [40]}
    assert found.metadata == {"dataset": "d", "data": False}


def test_sections_of_all_files_and_those_that_are_certified(tmp_path: Path) -> None:
    first = entry(tmp_path, "a", 3, lumi_sections={"1": [[1, 4]]})
    second = entry(tmp_path, "b", 5, lumi_sections={"1": [[6, 9]], "2": [[1, 1]]})
    path = manifest(tmp_path, first, second)
    everything = {"1": [[1, 4], [6, 9]], "2": [[1, 1]]}
    plain = from_manifest("d", path, {}).original
    assert plain["lumi_sections"] == plain["certified_sections"] == everything
    masked = from_manifest("d", path, {"lumi_mask": '{"1": [[3, 7]]}'}).original
    assert masked["lumi_sections"] == everything
    assert masked["certified_sections"] == {"1": [[3, 4], [6, 7]]}
    with pytest.raises(DataFileError, match=r"dataset d: its lumi_mask certifies none .*runs 1, 2"):
        from_manifest("d", path, {"lumi_mask": '{"1": [[5, 5], [10, 99]], "3": [[1, 9]]}'})
    # where one of the files has none, there is nothing to say of all of them
    path = manifest(tmp_path, first, entry(tmp_path, "b", 5))
    assert from_manifest("d", path, {}).original["lumi_sections"] is None


def test_data_with_weights_of_their_own_are_refused(tmp_path: Path) -> None:
    """Simulation that is declared as data would count with its weights, and unnormalised."""
    good = entry(tmp_path, "a", 3, sum_of_weights_in=30.0)
    for total in (-12.5, 49.5, 50.5):
        path = manifest(tmp_path, good, entry(tmp_path, "b", 5, sum_of_weights_in=total))
        found = from_manifest("d", path, {"data": False})
        assert found.original["sum_of_weights"] == 30.0 + total
        with pytest.raises(DataFileError, match=r"dataset d: it is declared as data.*/store/b\.ro"):
            from_manifest("d", path, {"data": True})
    assert from_manifest("d", manifest(tmp_path, good), {"data": True}).original["events"] == 30


def test_what_was_lost_before_the_lookup_is_told(tmp_path: Path) -> None:
    """Of files that are normalised by their tree Runs, with what they still hold."""
    held = {"events": 12, "sum_of_weights": 5.5}
    skimmed = entry(tmp_path, "a", 3, normalised_by="Runs", held=held)
    found = from_manifest("d", manifest(tmp_path, skimmed, entry(tmp_path, "b", 5)), {})
    assert found.original["normalised_by"] == {
        "Runs": {
            "files": 1, "events": 30, "sum_of_weights": -7.5, "held_events": 12,
            "held_sum_of_weights": 5.5,
        },
        "Events": {
            "files": 1, "events": 50, "sum_of_weights": -12.5, "held_events": 50,
            "held_sum_of_weights": -12.5,
        },
    }  # fmt: skip
    (loss,) = found.losses
    assert (loss.kind, loss.name, loss.count, loss.of) == ("skimmed before", "Runs", 18, 30)
    assert found.held == {"/store/a.root": 12, "/store/b.root": 50}
    # its share of the sums of coefficients isn't known
    summed = {"eft_sums_in": [1.0, 2.0, 3.0]}
    path = manifest(tmp_path, {**skimmed, **summed}, entry(tmp_path, "b", 5, **summed))
    assert from_manifest("d", path, {}).original["eft_sums"] == []
    second = entry(tmp_path, "b", 5, **summed)
    path = manifest(tmp_path, entry(tmp_path, "a", 3, eft_sums_in=[]), second)
    assert from_manifest("d", path, {}).original["eft_sums"] == []
    several = {"eft_sums_in": [1.0] * 6}
    path = manifest(tmp_path, entry(tmp_path, "a", 3, **several), second)
    with pytest.raises(
        DataFileError, match=r"different numbers of EFTfitCoefficients: 6 in .*/a\."
    ):
        from_manifest("d", path, {})


@pytest.mark.parametrize("off", [1, -1])
def test_a_result_of_another_length_is_refused(tmp_path: Path, off: int) -> None:
    path = manifest(tmp_path, entry(tmp_path, "a", 3), entry(tmp_path, "b", 5))
    (tmp_path / "b.root").write_bytes(bytes(5 + off))
    with pytest.raises(
        DataFileError, match=rf"b\.root: holds {5 + off} bytes, but the manifest says 5"
    ):
        from_manifest("d", path, {})


# --- what is kept


def test_results_that_belong_to_nothing_are_removed(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    for key in "abc":
        kept.keep(key, packed({"n": key}))
    assert kept.whole() == {"a", "b", "c"}
    (tmp_path / ".part-d.result").write_bytes(b"half")
    (tmp_path / "b.result").write_bytes((tmp_path / "b.result").read_bytes()[:-3])
    assert kept.whole() == {"a", "c"}
    kept.prune({"a", "b"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.result", "b.result"]
    assert unpacked(kept.read("a")) == {"n": "a"}


def test_groups_hold_every_place_whatever_comes_last() -> None:
    names = [f"name {n}" for n in range(60)]
    for number in range(61):
        groups = groups_of(names[:number])
        assert [place for group in groups for place in group] == list(range(number))
        assert all(len(group) <= 16 for group in groups)
