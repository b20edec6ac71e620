"""Running a coffea processor over filesets on a Dask client."""

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import awkward as ak
import distributed
import numpy as np
from coffea.nanoevents import NanoAODSchema, NanoEventsFactory
from coffea.processor import ProcessorABC, accumulate
from distributed.scheduler import NoWorkerError

from looseleaf.cluster import Site
from looseleaf.cluster.code import mismatch
from looseleaf.cost import Stopwatch
from looseleaf.errors import DataFileError, LooseleafError, Shortfall, reading
from looseleaf.nanoaod import TREE, Events, open_file
from looseleaf.objects.branches import first_present
from looseleaf.parquet import ParquetEvents
from looseleaf.processing.checkpoints import (
    Checkpoints,
    is_whole,
    key_of,
    packed,
    processor_identity,
    unpacked,
)
from looseleaf.processing.fileset import Chunk, Fileset, chunks_of, cut, tasks_of
from looseleaf.processing.ledger import ChunkRecord, ledger_of
from looseleaf.progress import Progress


class ProcessingFailed(LooseleafError):
    """A processor raised; the message names dataset, file, entries and the line at fault."""


class ReadingFailed(ProcessingFailed):
    """A file could not be read, or not in time; another try may succeed."""


@dataclass(frozen=True)
class Limits:
    """How processing is cut up, and how long it is tried.

    `chunksize` are the entries read at a time, `task_events` the events that a worker sums up
    before it reports, `tries` how often a file is tried that can't be read, `chunk_s` the seconds
    that a chunk may take.
    """

    chunksize: int
    task_events: int
    tries: int = 3
    chunk_s: float = 1800.0


@dataclass(frozen=True)
class Processed:
    """The result for one dataset: the processor's accumulator and the ledger."""

    accumulator: dict[str, Any]
    ledger: dict[str, Any]


class SkimmedNanoAOD(NanoAODSchema):
    """NanoAOD of which a transform kept some columns.

    Missing cross-references are meant, and the primary vertex may come without its position.
    """

    warn_missing_crossrefs = False
    mixins: ClassVar[dict[str, str]] = {**NanoAODSchema.mixins, "PV": "NanoCollection"}
    aliases: ClassVar[Mapping[str, Sequence[str]]] = {}

    def __init__(self, base_form: dict[str, Any], version: str = "latest") -> None:
        """The branches, those that stand in for others also under the others' names."""
        forms = dict(zip(base_form["fields"], base_form["contents"], strict=True))
        for name, others in self.aliases.items():
            found = first_present("|".join([name, *others]), forms)
            if found is not None:
                forms[name] = forms[found]
        super().__init__(
            {**base_form, "fields": list(forms), "contents": list(forms.values())}, version
        )


@lru_cache(maxsize=16)
def _opened(url: str, uuid: str) -> Events:
    """A file kept open by this worker: on wide files the metadata costs more than a chunk."""
    file = open_file(url)
    if file.uuid != uuid:
        found = file.uuid
        file.close()
        raise DataFileError(f"{url}: is another file (uuid {found}) than the manifest's ({uuid})")
    return file


class ReadClock(dict[Any, Any]):
    """Tells how long columns took to read: coffea looks here before each one, and stores after.

    It holds nothing, so that the processor's arrays alone decide on what stays in memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self._started = 0.0

    def get(self, key: Any, default: Any = None) -> Any:
        self._started = time.perf_counter()
        return default

    def __setitem__(self, key: Any, value: Any) -> None:
        self.seconds += time.perf_counter() - self._started


def events_of(chunk: Chunk, metadata: Mapping[str, Any], clock: ReadClock) -> Any:
    """The NanoEvents of a chunk; columns are read when the processor touches them."""
    file = _opened(chunk.file.url, chunk.file.uuid)
    if file.tree.num_entries != chunk.file.events:
        raise DataFileError(
            f"{chunk.file.url}: holds {file.tree.num_entries} events, the manifest says "
            f"{chunk.file.events}"
        )
    how = {
        "schemaclass": type("Aliased", (SkimmedNanoAOD,), {"aliases": metadata.get("aliases", {})}),
        "metadata": dict(metadata),
        "mode": "virtual",
        "buffer_cache": clock,
    }
    if isinstance(file, ParquetEvents):
        source = file.tree.nanoevents_source(chunk.start, chunk.stop)
        return NanoEventsFactory.from_parquet(source, entry_stop=chunk.events, **how).events()
    return NanoEventsFactory.from_root(
        file.directory, treepath=TREE, entry_start=chunk.start, entry_stop=chunk.stop, **how
    ).events()


def _process(
    processor: ProcessorABC, chunk: Chunk, metadata: Mapping[str, Any], worker: str, tries: int
) -> tuple[dict[str, Any], ChunkRecord]:
    watch, clock = Stopwatch(), ReadClock()
    before = _opened(chunk.file.url, chunk.file.uuid).bytes_read
    events = events_of(chunk, metadata, clock)
    with reading(chunk.file.url):
        weights = (
            float(ak.to_numpy(events.genWeight).sum(dtype=np.float64))
            if "genWeight" in events.fields
            else float(len(events))
        )
    result = processor.process(events)
    read = _opened(chunk.file.url, chunk.file.uuid).bytes_read - before
    record = ChunkRecord(
        file=chunk.file.name,
        url=chunk.file.url,
        start=chunk.start,
        stop=chunk.stop,
        events=len(events),
        sum_of_weights=weights,
        worker=worker,
        tries=tries,
        read_s=round(clock.seconds, 4),
        cost=watch.cost(len(events), read).to_json(),
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
    """Process neighbouring chunks and sum them up.

    Raises `ProcessingFailed` saying where, and `ReadingFailed` if it is the file that is at fault.
    """
    total: dict[str, Any] | None = None
    records = []
    for chunk in chunks:
        try:
            result, record = _within(
                chunk_s, lambda chunk=chunk: _process(processor, chunk, metadata, worker, tries)
            )
        except Exception as problem:
            # a file in an unknown state is opened anew
            _opened.cache_clear()
            raise _told(chunk, problem) from None
        total = result if total is None else accumulate([total, result])
        records.append(record)
    assert total is not None
    return total, records


def _within(seconds: float | None, work: Callable[[], Any]) -> Any:
    """The outcome of `work`, or `DataFileError` after some seconds.

    A read that hangs can't be interrupted: it is left behind in a thread of its own.
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


def worker_task(
    task: Sequence[Chunk],
    metadata: Mapping[str, Any],
    processor: ProcessorABC,
    limits: Limits,
    code: str,
    tries: int = 1,
) -> bytes:
    """What a worker does: `process_task`, chunk by chunk, and the packed result of it."""
    worker = distributed.get_worker()
    problem = mismatch(worker, code)
    if problem is not None:
        raise ProcessingFailed(problem)
    if tries > 1:
        # what hindered the reading may pass
        time.sleep(2**tries)
    chunks = [piece for chunk in task for piece in cut(chunk, limits.chunksize)]
    name = str(worker.name)
    return packed(process_task(processor, chunks, metadata, limits.chunk_s, name, tries))


def _told(chunk: Chunk, problem: Exception) -> ProcessingFailed:
    where = f"dataset {chunk.dataset}, {chunk.file.name} entries {chunk.start}-{chunk.stop}"
    if isinstance(problem, DataFileError):
        return ReadingFailed(f"{where}: {problem}")
    if isinstance(problem, LooseleafError):
        return ProcessingFailed(f"{where}: {problem}")
    frames = traceback.extract_tb(problem.__traceback__)
    # the innermost line that isn't a library's is the one that its author can mend
    own = [frame for frame in frames if "site-packages" not in frame.filename]
    last = own[-1] if own else frames[-1]
    text = str(problem).strip() or "no message"
    line = f"{Path(last.filename).name}, line {last.lineno}: {last.line}"
    what = f"{type(problem).__name__}: {text}\n  at {line}"
    if any("/uproot/" in frame.filename for frame in frames):
        return ReadingFailed(f"{where}: {chunk.file.url} can't be read: {what}")
    return ProcessingFailed(f"{where}: {what}")


def _payload(outcome: Any, task: Sequence[Chunk], site: Site) -> bytes:
    """The packed result of a task, or what Dask says of it, raised in words for the user."""
    first, last = task[0], task[-1]
    where = (
        f"dataset {first.dataset}, {first.file.name} entries {first.start}- to {last.file.name} "
        f"entries -{last.stop}"
    )
    problem = outcome[1] if isinstance(outcome, tuple) else outcome
    match problem:
        case bytes() if is_whole(problem):
            return problem
        case bytes():
            raise ProcessingFailed(f"{where}: the result was damaged on its way")
        case distributed.KilledWorker() | NoWorkerError():
            raise ProcessingFailed(
                f"{where}: the workers died of it or never came "
                f"({type(problem).__name__}); do they have enough memory? a smaller "
                f"processing.chunksize takes less\n{site.last_words()}".rstrip()
            )
        case distributed.CancelledError():
            raise ProcessingFailed(
                "the Dask scheduler has gone; run again: what was finished is kept"
            )
        case _:
            raise problem


def run(
    processor: ProcessorABC,
    filesets: Sequence[Fileset],
    site: Site,
    limits: Limits,
    label: str,
    folder: str | Path,
) -> dict[str, Processed]:
    """Process every dataset and close its ledger.

    The results of tasks are kept in `folder` as they come; those that are there already are taken
    from it, and those that belong to nothing any more removed in the end. All are merged in the
    order of the files, whatever order the workers finish in, so a repeated or resumed run gives
    the same numbers to the last bit. One result at a time is held in memory beside the sums.

    Raises `ProcessingFailed` for the first chunk that fails and `Shortfall` if less was processed
    than expected.
    """
    kept, identity = Checkpoints(folder), processor_identity(processor)
    work = [
        (fileset, task)
        for fileset in filesets
        for task in tasks_of(chunks_of(fileset, limits.task_events), limits.task_events)
    ]
    keys = [key_of(identity, fileset.metadata, task, limits.chunksize) for fileset, task in work]
    old = [index for index, key in enumerate(keys) if kept.has(key)]
    new = _computed(processor, work, sorted(set(range(len(work))) - set(old)), site, limits)
    total = sum(file.events for fileset in filesets for file in fileset.files)
    merged: dict[str, dict[str, Any]] = {}
    records: dict[str, list[ChunkRecord]] = {fileset.dataset: [] for fileset in filesets}
    there: set[int] = set()
    upcoming = 0
    if old:
        print(f"{label}: {len(old)} of {len(work)} tasks were done before", file=sys.stderr)
    with Progress(label, total) as progress:
        for index, payload in chain(((index, None) for index in old), new):
            if payload is not None:
                kept.keep(keys[index], payload)
            there.add(index)
            progress.add(sum(chunk.events for chunk in work[index][1]))
            while upcoming in there:
                accumulator, done = unpacked(kept.read(keys[upcoming]))
                name = work[upcoming][0].dataset
                merged[name] = (
                    accumulate([merged[name], accumulator]) if name in merged else accumulator
                )
                records[name] += done
                upcoming += 1
    results = {}
    for fileset in filesets:
        name = fileset.dataset
        try:
            ledger = ledger_of(fileset, records[name])
        except Shortfall:
            # what was read may have been wrong: the next run reads it again
            kept.prune({k for k, (f, _) in zip(keys, work, strict=True) if f is not fileset})
            raise
        results[name] = Processed(processor.postprocess(merged[name]), ledger)
    kept.prune(set(keys))
    return results


def _computed(
    processor: ProcessorABC,
    work: Sequence[tuple[Fileset, Sequence[Chunk]]],
    wanted: Sequence[int],
    site: Site,
    limits: Limits,
) -> Iterator[tuple[int, bytes]]:
    """The wanted items of `work` and their packed results, as workers finish them."""
    if not wanted:
        return
    # the processor goes with the tasks: scattered, it would be lost with the worker that holds it
    fixed = {"processor": processor, "limits": limits, "code": site.code}
    futures = site.client.map(
        worker_task,
        [work[index][1] for index in wanted],
        [work[index][0].metadata for index in wanted],
        pure=False,
        **fixed,
    )
    # by key: a future that were held here would keep its result on the workers
    running = {future.key: (index, 1) for future, index in zip(futures, wanted, strict=True)}
    # results come as they are, without a round trip through this thread for each
    finished = distributed.as_completed(futures, with_results=True, raise_errors=False)
    del futures
    try:
        for future, outcome in finished:
            index, tries = running.pop(future.key)
            fileset, task = work[index]
            try:
                payload = _payload(outcome, task, site)
            except ReadingFailed as problem:
                if tries == limits.tries:
                    often = f" (tried {tries} times)" if tries > 1 else ""
                    raise ReadingFailed(f"{problem}{often}") from None
                print(f"once more: {problem}", file=sys.stderr, flush=True)
                again = site.client.submit(
                    worker_task, task, fileset.metadata, tries=tries + 1, pure=False, **fixed
                )
                running[again.key] = (index, tries + 1)
                finished.add(again)
            else:
                future.release()
                yield index, payload
    finally:
        finished.clear()
