"""One task by itself, as a worker does it, on small written files: no cluster."""

import gc
import shutil
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import awkward as ak
import hist
import numpy as np
import pytest
import uproot
from coffea.processor import ProcessorABC
from processors import MuonPt

from looseleaf.files import adler32
from looseleaf.nanoaod import open_file
from looseleaf.processing.checkpoints import Checkpoints, packed
from looseleaf.processing.fileset import Chunk, EventsSource, Fileset
from looseleaf.processing.job import Arrival, Group
from looseleaf.processing.runner import (
    ChunkReadFailed,
    Partial,
    ProcessingFailed,
    added,
    process_task,
)

# more of it than single precision can add ones to
HEAVY = 2.0**25


def written(path: Path, first: int, number: int, weighted: bool = True) -> EventsSource:
    """A file of events first, first + 1, ... with a muon of 1 GeV times the number in each."""
    numbers = np.arange(first, first + number, dtype=np.uint64)
    weights = np.where(numbers == first, HEAVY, 1.0).astype(np.float32)
    pt = ak.unflatten(numbers.astype(np.float32), np.ones(number, int))
    columns = {
        "run": np.ones(number, np.uint32),
        "luminosityBlock": np.ones(number, np.uint32),
        "event": numbers,
        # a muon is none without them
        "Muon": ak.zip({"pt": pt, **dict.fromkeys(("eta", "phi", "mass", "charge"), 0 * pt)}),
        **({"genWeight": weights} if weighted else {}),
    }
    with uproot.recreate(path) as file:
        types = {key: ak.type(value).content for key, value in columns.items()}
        file.mktree("Events", types).extend(columns)
    with uproot.open(path) as file:
        identity = str(file.file.uuid)
    total = float(weights.astype(float).sum()) if weighted else float(number)
    return EventsSource(
        path.name, str(path), "", identity, path.stat().st_size, adler32(path), number, total
    )


class Numbers(ProcessorABC):
    """The events' numbers in the order in which they come, and their muons' momenta."""

    def process(self, events: Any) -> dict[str, Any]:
        if ak.any(events.Muon.pt == 13):
            raise ZeroDivisionError("unlucky")
        return {
            "numbers": events.event.to_list(),
            "pt": float(ak.sum(events.Muon[events.metadata.get("pt", "pt")])),
        }

    def postprocess(self, accumulator: Any) -> Any:
        return accumulator


@pytest.fixture
def files(tmp_path: Path) -> list[EventsSource]:
    return [written(tmp_path / "a.root", 100, 10), written(tmp_path / "b.root", 300, 5)]


def test_a_task_reads_its_entries_once_and_in_their_order(files: list[EventsSource]) -> None:
    a, b = files
    chunks = [Chunk("d", a, 2, 5), Chunk("d", a, 5, 10), Chunk("d", b, 0, 4)]
    found, records = process_task(Numbers(), chunks, {"dataset": "d"}, worker="w", tries=2)
    numbers = [*range(102, 110), *range(300, 304)]
    assert found == {"numbers": numbers, "pt": float(sum(numbers))}
    told = [(r.file, r.start, r.stop, r.events, r.sum_of_weights) for r in records]
    assert told == [
        ("a.root", 2, 5, 3, 3.0), ("a.root", 5, 10, 5, 5.0), ("b.root", 0, 4, 4, HEAVY + 3)
    ]  # fmt: skip
    assert {(r.worker, r.tries) for r in records} == {("w", 2)}
    # each chunk tells of its own bytes: the second is in baskets that the first has read
    first, second = (r.cost["bytes_read"] for r in records if r.file == "a.root")
    assert 0 == second < first < a.bytes


def test_bytes_read_are_those_of_opening_and_of_the_baskets_once(tmp_path: Path) -> None:
    """Against ROOT's own sizes of the baskets, of which the processor touches four branches'."""
    source = written(tmp_path / "a.root", 100, 10)
    with uproot.open(source.url) as file:
        tree = file["Events"]
        touched = [tree[name] for name in ("event", "nMuon", "Muon_pt", "genWeight")]
        baskets = sum(int(sum(branch.member("fBasketBytes"))) for branch in touched)
    opened = open_file(source.url, walk=True)
    assert opened.num_entries == 10
    assert str(opened.uuid) == source.uuid
    opening = opened.bytes_read
    opened.close()

    def told(*places: tuple[int, int]) -> list[int]:
        chunks = [Chunk("d", source, *place) for place in places]
        return [r.cost["bytes_read"] for r in process_task(Numbers(), chunks, {"dataset": "d"})[1]]

    assert told((0, 5), (5, 10)) == [opening + baskets, 0]
    # the file stays open, and its baskets are read again
    assert told((0, 10)) == [baskets]


def test_bytes_beyond_the_end_of_a_file_are_not_counted(files: list[EventsSource]) -> None:
    source = files[0]
    opened = open_file(source.url)
    before = opened.bytes_read
    assert [len(part) for part in opened.read([(source.bytes - 10, 100)])] == [10]
    assert opened.bytes_read - before == 10
    opened.close()


class Same(ProcessorABC):
    """Gives the same histogram for every chunk."""

    def __init__(self) -> None:
        self.histogram = hist.Hist.new.Reg(2, 0, 2).Double().fill([0.5, 1.5, 1.5])

    def process(self, events: Any) -> dict[str, Any]:
        return {"h": self.histogram}

    def postprocess(self, accumulator: Any) -> Any:
        return accumulator


def test_sums_leave_what_a_processor_keeps_as_it_is(files: list[EventsSource]) -> None:
    processor = Same()
    chunks = [Chunk("d", files[0], start, start + 2) for start in (0, 2, 4)]
    found, _ = process_task(processor, chunks, {"dataset": "d"})
    assert found["h"].values().tolist() == [3, 6]
    assert processor.histogram.values().tolist() == [1, 2]


def test_without_weights_each_event_counts_one(tmp_path: Path) -> None:
    file = written(tmp_path / "d.root", 50, 6, weighted=False)
    _, (record,) = process_task(Numbers(), [Chunk("d", file, 1, 6)], {"dataset": "d"})
    assert record.sum_of_weights == 5


def test_a_branch_stands_in_for_one_that_is_missing(files: list[EventsSource]) -> None:
    """The first of those that there are."""
    chunk = Chunk("d", files[0], 0, 3)
    about = {"aliases": {"Muon_best": ["Muon_absent", "Muon_pt", "genWeight"]}, "pt": "best"}
    assert process_task(Numbers(), [chunk], about)[0]["pt"] == 303


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"uuid": "x"}, r"is another file \(uuid .*\) than the manifest's \(x\)"),
        ({"events": 11}, "has 10 events, but the manifest says 11"),
        ({"events": 9}, "has 10 events, but the manifest says 9"),
        ({"adler32": "0000000a"}, "its content has changed since it was written"),
    ],
)
def test_a_file_that_the_manifest_does_not_mean_is_refused(
    files: list[EventsSource], changes: dict[str, Any], told: str
) -> None:
    """As one that could not be read, so that it is tried again."""
    chunk = Chunk("d", replace(files[0], **changes), 0, 5)
    with pytest.raises(ChunkReadFailed, match=rf"dataset d, a\.root entries 0-5: .*{told}"):
        process_task(Numbers(), [chunk], {"dataset": "d"})


def test_threads_of_a_worker_read_one_file_each_by_itself(tmp_path: Path) -> None:
    size, width = 40_000, 2_000
    source = written(tmp_path / "a.root", 100, size)

    def numbers(start: int) -> tuple[list[int], float]:
        result, _ = process_task(
            Numbers(), [Chunk("d", source, start, start + width)], {"dataset": "d"}
        )
        return result["numbers"], result["pt"]

    starts = [*range(0, size, width)] * 3
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(numbers, starts))
    for start, (events, pt) in zip(starts, results, strict=True):
        expected = range(100 + start, 100 + start + width)
        assert (events, pt) == ([*expected], sum(expected))


def test_after_a_failure_a_file_is_opened_anew(tmp_path: Path) -> None:
    """What stands there by then may be another."""
    file = written(tmp_path / "a.root", 10, 5)
    with pytest.raises(ProcessingFailed, match="unlucky") as problem:
        process_task(Numbers(), [Chunk("d", file, 0, 5)], {"dataset": "d"})
    assert not isinstance(problem.value, ChunkReadFailed)
    other = written(tmp_path / "b.root", 20, 5)
    shutil.move(other.url, file.url)
    with pytest.raises(ChunkReadFailed, match="is another file"):
        process_task(Numbers(), [Chunk("d", file, 0, 3)], {"dataset": "d"})


def held() -> tuple[Counter[str], int]:
    """The objects that are alive of libraries that read, and the bytes of all objects."""
    gc.collect()
    packages = (str(type(one).__module__).partition(".")[0] for one in gc.get_objects())
    objects = Counter(package for package in packages if package in ("looseleaf", "uproot"))
    return objects, tracemalloc.get_traced_memory()[0]


def test_a_worker_holds_no_more_after_many_files(tmp_path: Path) -> None:
    events = 20_000
    one = written(tmp_path / "one.root", 100, events)
    content, found = Path(one.url).read_bytes(), []
    process_task(MuonPt(), [Chunk("d", one, 0, 1)], {"dataset": "d"})
    tracemalloc.start()
    try:
        for number in range(40):
            identity = UUID(int=number)
            path = tmp_path / f"{number}.root"
            path.write_bytes(content.replace(UUID(one.uuid).bytes, identity.bytes))
            file = replace(
                one, name=path.name, url=str(path), uuid=str(identity), adler32=adler32(path)
            )
            process_task(MuonPt(), [Chunk("d", file, 0, events)], {"dataset": "d"})
            path.unlink()
            found.append(held() if number in (4, 14, 19, 39) else None)
    finally:
        tracemalloc.stop()
    after_5, after_15, after_20, after_40 = filter(None, found)
    # some files stay open, without what was read of them: a column has 80 kB
    assert (after_15[1] - after_5[1]) / 10 < 50_000
    # and no more than some
    assert after_20[0] == after_40[0]
    assert after_40[1] - after_20[1] < 40_000


def test_sums_have_the_order_of_their_parts() -> None:
    """As categories show, which stand in the order in which they came."""

    def part(*names: str) -> Partial:
        counted = hist.Hist(hist.axis.StrCategory([], growth=True, name="n"))
        counted.fill(n=list(names))
        return Partial({"h": counted}, [], {})

    total = added(part("b", "a"), part("c", "a")).accumulator["h"]
    assert list(total.axes[0]) == ["b", "a", "c"]
    assert total.values().tolist() == [1, 2, 1]


def test_the_memory_of_a_worker_is_its_highest() -> None:
    left = Partial({"n": 1}, [], {"a": 5, "b": 2})
    right = Partial({"n": 2}, [], {"a": 3, "c": 4, "b": 7})
    assert added(left, right).peaks == {"a": 5, "b": 7, "c": 4}


def test_a_result_that_was_damaged_on_its_way_is_not_kept(tmp_path: Path) -> None:
    file = EventsSource("a.root", "/a.root", "", "u", 1, None, 7, 7.0)
    tasks = [(Chunk("d", file, 0, 4),), (Chunk("d", file, 4, 7),)]
    fileset = Fileset("d", (file,), {}, {}, "r")
    group, kept = Group(fileset, tasks, ["k0", "k1"]), Checkpoints(tmp_path)
    whole = packed(Partial({"n": 1}, [], {}))
    Arrival(group, [0], {range(1): whole}).keep(kept)
    assert (kept.whole(), group.kept) == ({"k0"}, {range(1)})
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    for damaged in (whole[:-3], bytes(changed)):
        with pytest.raises(ProcessingFailed, match=r"d, a\.root entries 4- .*damaged in transfer"):
            Arrival(group, [1], {range(1, 2): damaged}).keep(kept)
    assert (kept.whole(), group.kept) == ({"k0"}, {range(1)})


def test_weighted_muons_of_several_chunks(files: list[EventsSource]) -> None:
    chunks = [Chunk("d", files[0], 0, 4), Chunk("d", files[0], 4, 10)]
    found, _ = process_task(MuonPt(), chunks, {"dataset": "d"})
    # all above the axis
    assert found["pt"].values(flow=True)[-1] == HEAVY + 9
    assert found["events"] == {"d": 10}
