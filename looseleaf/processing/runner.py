"""What a worker does: open files, run a processor over their chunks, and sum the results."""

import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import distributed
import numpy as np
from coffea.processor import ProcessorABC, accumulate

from looseleaf.cost import Stopwatch, peak_rss_bytes
from looseleaf.errors import DataFileError, LooseleafError, reading
from looseleaf.files import adler32
from looseleaf.nanoaod import Events, open_file
from looseleaf.objects.branches import WEIGHT
from looseleaf.objects.processor import BranchesProcessor
from looseleaf.parquet import is_parquet
from looseleaf.processing.checkpoints import packed, unpacked
from looseleaf.processing.feed import Feed, ReadClock
from looseleaf.processing.fileset import Chunk, EventsSource, cut
from looseleaf.processing.ledger import ChunkRecord
from looseleaf.processing.tree import tree_sum
from looseleaf.shipping import mismatch


class ProcessingFailed(LooseleafError):
    """A processor raised; the message names dataset, file, entries and the line at fault."""


class ChunkReadFailed(ProcessingFailed):
    """A file could not be read, or not in time; another try may succeed."""


@dataclass(frozen=True)
class Limits:
    """How processing is divided, and how long it is tried.

    `chunksize` is the number of entries read at a time, `task_events` the number of events that a
    worker sums before it reports, `tries` how often an unreadable file is tried, `chunk_s` the time
    limit of a chunk [s].
    """

    chunksize: int
    task_events: int
    tries: int = 3
    chunk_s: float = 1800.0


@lru_cache(maxsize=16)
def _opened(source: EventsSource, reader: int) -> Feed:
    """A file that a thread of this worker keeps open, since its buffers are for one reader.

    Raises `DataFileError` if it isn't byte for byte the file in its manifest.
    """
    feed = Feed(source.url, open_file(source.url, walk=True))
    try:
        _hold(feed.file, source)
    except BaseException:
        feed.close()
        raise
    return feed


def _hold(file: Events, source: EventsSource) -> None:
    url = source.url
    if file.uuid != source.uuid:
        raise DataFileError(
            f"{url}: is another file (uuid {file.uuid}) than the manifest's ({source.uuid})"
        )
    if file.num_entries != source.events:
        raise DataFileError(
            f"{url}: has {file.num_entries} events, but the manifest says {source.events}"
        )
    # data that doesn't compress has no checksum in ROOT files, so uproot can read damaged numbers;
    # Parquet has a checksum in every page, so the file needn't be read completely
    if source.adler32 is not None and not is_parquet(url) and "://" not in url:
        with reading(url):
            checksum = adler32(url)
        if checksum != source.adler32:
            raise DataFileError(
                f"{url}: its content has changed since it was written (adler32 {checksum}, the "
                f"manifest says {source.adler32}); make it again "
                "(snakemake --forcerun servicex_transform)"
            )


def _process(
    processor: ProcessorABC,
    chunk: Chunk,
    metadata: Mapping[str, Any],
    worker: str,
    tries: int,
    reader: int,
) -> tuple[dict[str, Any], ChunkRecord]:
    watch, clock = Stopwatch(), ReadClock()
    feed = _opened(chunk.file, reader)
    branches = feed.branches(chunk.start, chunk.stop, metadata, clock)
    with reading(chunk.file.url):
        weights = (
            float(branches.numbers(WEIGHT).sum(dtype=np.float64))
            if WEIGHT in branches
            else float(len(branches))
        )
    # a subclass may have changed what happens to events
    if isinstance(processor, BranchesProcessor) and (
        type(processor).process is BranchesProcessor.process
    ):
        result = processor.fill(branches)
    else:
        result = processor.process(branches.events)
    record = ChunkRecord(
        file=chunk.file.name,
        url=chunk.file.url,
        start=chunk.start,
        stop=chunk.stop,
        events=len(branches),
        sum_of_weights=weights,
        worker=worker,
        tries=tries,
        read_s=round(clock.seconds, 4),
        cost=watch.cost(len(branches), feed.newly_read()).to_json(),
    )
    return result, record


def process_task(
    processor: ProcessorABC,
    chunks: Sequence[Chunk],
    metadata: Mapping[str, Any],
    chunk_s: float | None = None,
    worker: str = "client",
    tries: int = 1,
) -> tuple[dict[str, Any], list[ChunkRecord]]:
    """Process neighbouring chunks and sum their results.

    Raises `ProcessingFailed` naming the place, and `ChunkReadFailed` if the file can't be read.
    """
    records = []
    # a worker may have several threads, whose chunks may be of one file
    reader = threading.get_ident()

    def results() -> Iterator[dict[str, Any]]:
        for chunk in chunks:
            try:
                work = partial(_process, processor, chunk, metadata, worker, tries, reader)
                result, record = _within(chunk_s, work)
            except Exception as problem:
                # a file in an unknown state is opened again
                _opened.cache_clear()
                raise _failure_of(chunk, problem) from None
            records.append(record)
            yield result

    # the first sum is a copy, and the others are added to it
    total: dict[str, Any] | None = accumulate(results())
    for source in {chunk.file for chunk in chunks}:
        # what the next task reads is anywhere
        _opened(source, reader).forget()
    assert total is not None
    return total, records


def _within(seconds: float | None, work: Callable[[], Any]) -> Any:
    """The result of `work`, or `DataFileError` after some seconds.

    A hanging read can't be interrupted, so it is left behind in its own thread.
    """
    if seconds is None:
        return work()
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["result"] = work()
        except BaseException as problem:
            outcome["problem"] = problem

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise DataFileError(
            f"not done after {seconds:g} s, the limit of processing.chunk_s: does the storage hang?"
        )
    if "problem" in outcome:
        raise outcome["problem"]
    return outcome["result"]


class Partial(NamedTuple):
    """A partial sum, and the peak memory of the processes that made it, by worker."""

    accumulator: dict[str, Any]
    records: list[ChunkRecord]
    peaks: dict[str, int]


def added(left: Partial, right: Partial) -> Partial:
    """The sum of two partial sums; it replaces the left one."""
    peaks = {
        worker: max(left.peaks.get(worker, 0), right.peaks.get(worker, 0))
        for worker in left.peaks | right.peaks
    }
    accumulator = accumulate([right.accumulator], left.accumulator)
    return Partial(accumulator, left.records + right.records, peaks)


@dataclass(frozen=True)
class Work:
    """What workers need beside the entries of a task, sent to each of them once.

    Packed results of more than `large_bytes` are summed before they leave a worker.
    """

    processor: ProcessorABC
    limits: Limits
    metadata: Mapping[str, Mapping[str, Any]]
    large_bytes: int


@lru_cache(maxsize=4)
def _work(content: bytes) -> Work:
    work: Work = cloudpickle.loads(content)
    return work


def worker_task(
    tasks: Sequence[Sequence[Chunk]], node: bool, parcel: str, code: str, tries: int = 1
) -> list[bytes | ChunkReadFailed]:
    """On a worker, each task's packed result, or why its file can't be read.

    If the tasks are a `node` of a tree and their results are large, the result is their sum. Raises
    `ChunkReadFailed` if there is only one task, and `ProcessingFailed` for all other failures.
    """
    worker = distributed.get_worker()
    problem = mismatch(worker, code)
    if problem is not None:
        raise ProcessingFailed(problem)
    # its class was sent by value and differs here
    plugin: Any = worker.plugins[parcel]
    try:
        work = _work(plugin.content)
    except ImportError as problem:
        raise ProcessingFailed(
            f"worker {worker.name} can't load the processor: {problem}; give its package to the "
            "workers, as a wheel in `wheels:` of the site's file"
        ) from None
    name = str(worker.name)

    def done(place: int) -> Partial:
        chunks = [piece for part in tasks[place] for piece in cut(part, work.limits.chunksize)]
        metadata = work.metadata[chunks[0].dataset]
        result = process_task(work.processor, chunks, metadata, work.limits.chunk_s, name, tries)
        return Partial(*result, {name: peak_rss_bytes()})

    if len(tasks) == 1:
        return [packed(done(0))]
    outcomes: list[bytes | ChunkReadFailed] = []
    for place in range(len(tasks)):
        try:
            result = done(place)
        except ChunkReadFailed as problem:
            outcomes.append(problem)
            continue
        content = packed(result)
        outcomes.append(content)
        if node and place == 0 and len(content) > work.large_bytes:
            later = [partial(done, number) for number in range(1, len(tasks))]
            return [_packed_sum(_sum([partial(Partial._make, result), *later]))]
    return outcomes


def _sum(leaves: Sequence[Callable[[], Partial]]) -> Partial:
    """The sum of a node, given functions for the results at its places."""

    def known(node: range) -> Partial | None:
        return leaves[node.start]() if len(node) == 1 else None

    return tree_sum(range(len(leaves)), known, added)


def _packed_sum(total: Partial) -> bytes:
    name = str(distributed.get_worker().name)
    return packed(total._replace(peaks={**total.peaks, name: peak_rss_bytes()}))


def add_nodes(
    left: Sequence[bytes | ChunkReadFailed], right: Sequence[bytes | ChunkReadFailed]
) -> list[bytes]:
    """On a worker, the packed sum of two nodes, both as `worker_task` returns them."""
    sums = [_sum([partial(unpacked, content) for content in _read(side)]) for side in (left, right)]
    return [_packed_sum(added(*sums))]


def _read(outcomes: Sequence[bytes | ChunkReadFailed]) -> list[bytes]:
    """The results of tasks; raises the first failure among them."""
    results = []
    for outcome in outcomes:
        if isinstance(outcome, ChunkReadFailed):
            raise outcome
        results.append(outcome)
    return results


def _failure_of(chunk: Chunk, problem: Exception) -> ProcessingFailed:
    """The failure of a chunk, with its place and, for a defect in code, the line."""
    where = f"dataset {chunk.dataset}, {chunk.file.name} entries {chunk.start}-{chunk.stop}"
    if isinstance(problem, DataFileError):
        return ChunkReadFailed(f"{where}: {problem}")
    if isinstance(problem, LooseleafError):
        return ProcessingFailed(f"{where}: {problem}")
    frames = traceback.extract_tb(problem.__traceback__)
    # the innermost line outside of libraries, which the author can fix
    own = [frame for frame in frames if "site-packages" not in frame.filename]
    last = own[-1] if own else frames[-1]
    text = str(problem).strip() or "no message"
    line = f"{Path(last.filename).name}, line {last.lineno}: {last.line}"
    what = f"{type(problem).__name__}: {text}\n  at {line}"
    if any("/uproot/" in frame.filename for frame in frames):
        return ChunkReadFailed(f"{where}: {chunk.file.url} can't be read: {what}")
    return ProcessingFailed(f"{where}: {what}")
