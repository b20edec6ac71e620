"""Running a coffea processor over filesets on a Dask client: what is asked of whom, and its sum."""

import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import uuid4

import cloudpickle
import distributed
from coffea.processor import ProcessorABC
from distributed.comm import CommClosedError
from distributed.scheduler import NoWorkerError

from looseleaf.cluster import Site
from looseleaf.cluster.code import Parcel
from looseleaf.errors import Shortfall
from looseleaf.files import digest
from looseleaf.processing.checkpoints import (
    Checkpoints,
    is_whole,
    key_of,
    processor_identity,
    unpacked,
)
from looseleaf.processing.fileset import Chunk, Fileset, chunks_of, tasks_of
from looseleaf.processing.ledger import ledger_of
from looseleaf.processing.runner import (
    Limits,
    Partial,
    ProcessingFailed,
    ReadingFailed,
    Work,
    added,
    combine,
    worker_task,
)
from looseleaf.processing.tree import bundles, groups_of, halves, parents, tree_sum
from looseleaf.progress import Progress

# tasks of few events are given to a worker together: Dask takes some milliseconds for each call
BUNDLE_EVENTS = 32_000
# but never so many together that a worker has fewer calls than this
CALLS_EACH = 8
# a packed result of more bytes is summed with its neighbours before it leaves the workers
LARGE_BYTES = 1 << 20
# how often finished calls are looked for, and workers
LOOK_S = 0.01
PATIENCE_S = 1.0


@dataclass(frozen=True)
class Processed:
    """The result for one dataset: the processor's accumulator and the ledger."""

    accumulator: dict[str, Any]
    ledger: dict[str, Any]


class Group:
    """Neighbouring tasks of a dataset, whose results are summed as a tree, and what is kept of it.

    `there` are the places whose results are kept; with `summed`, it is the sum that is.
    """

    def __init__(
        self, fileset: Fileset, tasks: Sequence[Sequence[Chunk]], keys: Sequence[str]
    ) -> None:
        self.fileset, self.tasks, self.keys = fileset, tasks, keys
        self.key = keys[0] if len(keys) == 1 else digest([*keys])
        self.root = range(len(tasks))
        self.parents = parents(self.root)
        self.there: set[int] = set()
        self.summed = False

    @property
    def done(self) -> set[int]:
        return set(self.root) if self.summed else self.there

    @property
    def all_keys(self) -> set[str]:
        return {self.key, *self.keys}

    @property
    def complete(self) -> bool:
        return len(self.done) == len(self.tasks)

    @property
    def wanted(self) -> dict[int, int]:
        """The places that aren't done, with their numbers of events."""
        return {place: self.events(place) for place in self.root if place not in self.done}

    def events(self, place: int) -> int:
        return sum(chunk.events for chunk in self.tasks[place])

    def sum(self, kept: Checkpoints) -> Partial:
        """The group's sum, from what is kept."""
        if self.summed:
            return unpacked(kept.read(self.key))
        return tree_sum(self.root, lambda place: unpacked(kept.read(self.keys[place])), added)

    def where(self, places: Sequence[int]) -> str:
        first, last = self.tasks[places[0]][0], self.tasks[places[-1]][-1]
        return (
            f"dataset {first.dataset}, {first.file.name} entries {first.start}- to "
            f"{last.file.name} entries -{last.stop}"
        )


def _grouped(fileset: Fileset, identity: str, limits: Limits) -> list[Group]:
    tasks = tasks_of(chunks_of(fileset, limits.task_events), limits.task_events)
    keys = [key_of(identity, fileset.metadata, task, limits.chunksize) for task in tasks]
    return [
        Group(fileset, tasks[places.start : places.stop], keys[places.start : places.stop])
        for places in groups_of([f"{task[0].file.uuid} {task[0].start}" for task in tasks])
    ]


@dataclass(frozen=True)
class Call:
    """One call on a worker: of the tasks at some places of a group, or, if it `sums`, of a node."""

    group: Group
    places: Sequence[int]
    sums: bool = False
    tries: int = 1


@dataclass(frozen=True)
class Arrival:
    """What workers have finished of a group, and the results at these places if they have come."""

    group: Group
    places: Sequence[int]
    results: Sequence[bytes] = ()
    summed: bool = False

    def keep(self, kept: Checkpoints) -> None:
        if not all(map(is_whole, self.results)):
            where = self.group.where(self.places or self.group.root)
            raise ProcessingFailed(f"{where}: the result was damaged on its way")
        if self.summed:
            kept.keep(self.group.key, self.results[0])
            self.group.summed = True
        elif self.results:
            for place, result in zip(self.places, self.results, strict=True):
                kept.keep(self.group.keys[place], result)
                self.group.there.add(place)


class Computation:
    """What is missing of some groups, on its way through the workers.

    Results come to the client task by task as long as they are small. Where a dataset's are
    large, those of a group stay on the workers, which add them up along the group's tree; only
    the group's sum comes.
    """

    def __init__(self, work: Work, groups: Sequence[Group], site: Site) -> None:
        self._limits, self._site = work.limits, site
        self._parcel = Parcel(cloudpickle.dumps(work))
        self._fixed = {"parcel": self._parcel.name, "code": site.code}
        most = max(1, sum(len(g.wanted) for g in groups) // (CALLS_EACH * site.workers))
        self._calls: list[Call] = []
        # a group's results can stay on the workers if all are made there, and one by one
        self._can_stay: set[str] = set()
        for group in groups:
            bundled = list(bundles(group.wanted, group.root, BUNDLE_EVENTS, most))
            self._calls += [Call(group, places) for places in bundled]
            if len(bundled) == len(group.tasks) > 1:
                self._can_stay.add(group.key)
        self._large: dict[str, bool] = {}
        # by key: a future that were held here would keep its result on the workers
        self._running: dict[str, Call] = {}
        # calls that failed, and the times at which they are made again
        self._later: list[tuple[float, Call]] = []
        # which is what those are for whose sibling in the tree isn't there yet
        self._waiting: dict[tuple[str, range], tuple[distributed.Future, int]] = {}

    def arrivals(self) -> Iterator[Arrival]:
        """What workers finish, as they do. Raises `ProcessingFailed` if it can't be."""
        if not self._calls:
            return
        self._site.client.register_plugin(self._parcel)
        # in the order of the files, as names sort: a group's results are soon summed up
        run = uuid4().hex[:8]
        keys = [f"process-{run}-{number:07}" for number in range(len(self._calls))]
        futures = self._site.client.map(
            worker_task,
            [self._tasks(call) for call in self._calls],
            key=keys,
            pure=False,
            **self._fixed,
        )
        self._running = dict(zip(keys, self._calls, strict=True))
        self._finished = distributed.as_completed(futures, raise_errors=False)
        del futures
        try:
            while self._later or not self._finished.is_empty():
                self._start_again()
                batch = self._finished.next_batch(block=False)
                if batch:
                    yield from self._arrived(batch)
                else:
                    self._site.look()
                    time.sleep(LOOK_S)
        finally:
            self._finished.clear()
            self._waiting.clear()
            if self._site.client.status == "running":
                self._site.client.unregister_worker_plugin(self._parcel.name)

    def _tasks(self, call: Call) -> list[Sequence[Chunk]]:
        return [call.group.tasks[place] for place in call.places]

    def _arrived(self, batch: Sequence[distributed.Future]) -> Iterator[Arrival]:
        fetched = []
        for future in batch:
            call = self._running[future.key]
            if self._comes(call, future):
                fetched.append(future)
                continue
            del self._running[future.key]
            if not call.sums:
                yield Arrival(call.group, call.places)
            self._stay(call, future)
        failures: list[BaseException] = []
        for future, outcome in zip(fetched, self._outcomes(fetched), strict=True):
            call = self._running.pop(future.key)
            future.release()
            match outcome:
                case ReadingFailed():
                    # a sum whose parts were lost with a worker, and can't be read any more
                    yield from self._read(call, [outcome] * len(call.places), failures)
                case BaseException():
                    failures.append(self._told(call, outcome))
                case _ if call.sums:
                    yield Arrival(call.group, (), outcome, summed=True)
                case _:
                    yield from self._read(call, outcome, failures)
        # what else has come is kept
        if failures:
            raise failures[0]

    def _read(
        self, call: Call, outcome: Sequence[bytes | ReadingFailed], failures: list[BaseException]
    ) -> Iterator[Arrival]:
        """The results of a call; what couldn't be read is tried once more, or a failure."""
        there = []
        for place, result in zip(call.places, outcome, strict=True):
            if not isinstance(result, ReadingFailed):
                there.append((place, result))
            elif call.tries < self._limits.tries:
                self._once_more(call, place, result)
            else:
                often = f" (tried {call.tries} times)" if call.tries > 1 else ""
                failures.append(ReadingFailed(f"{result}{often}"))
        if there:
            yield Arrival(call.group, *zip(*there, strict=True))

    def _comes(self, call: Call, future: distributed.Future) -> bool:
        """Whether the result of a finished call is to come to the client."""
        group, name = call.group, call.group.fileset.dataset
        if call.sums:
            return future.status != "finished" or call.places == group.root
        if group.key not in self._can_stay or future.status != "finished":
            return True
        if name not in self._large:
            # a dataset's first result tells
            (outcome,) = self._outcomes([future])
            if not isinstance(outcome, list):
                return True
            self._large[name] = len(outcome[0]) > LARGE_BYTES
        return not self._large[name]

    def _stay(self, call: Call, future: distributed.Future) -> None:
        """Leave a result where it is until its sibling is there as well; then have them added."""
        group, node = call.group, range(call.places[0], call.places[-1] + 1)
        parent = group.parents[node]
        left, right = halves(parent)
        other, tries = self._waiting.pop((group.key, right if node == left else left), (None, 1))
        if other is None:
            self._waiting[group.key, node] = future, call.tries
            return
        pair = (future, other) if node == left else (other, future)
        # before what else there is to do: it makes room
        both = self._site.client.submit(combine, *pair, pure=False, priority=1)
        self._follow(both, Call(group, parent, sums=True, tries=max(tries, call.tries)))

    def _once_more(self, call: Call, place: int, problem: ReadingFailed) -> None:
        print(f"once more: {problem}", file=sys.stderr, flush=True)
        again = Call(call.group, (place,), tries=call.tries + 1)
        # what hindered the reading may pass
        self._later.append((time.monotonic() + 2**again.tries, again))

    def _start_again(self) -> None:
        now = time.monotonic()
        due = [call for at, call in self._later if at <= now]
        self._later = [(at, call) for at, call in self._later if at > now]
        for call in due:
            future = self._site.client.submit(
                worker_task, self._tasks(call), **self._fixed, tries=call.tries, pure=False
            )
            self._follow(future, call)

    def _follow(self, future: distributed.Future, call: Call) -> None:
        self._running[future.key] = call
        self._finished.add(future)

    def _outcomes(self, futures: Sequence[distributed.Future]) -> list[Any]:
        """The results of finished calls, or what they raised."""
        try:
            return self._fetched(futures)
        except (Exception, distributed.CancelledError):
            return [self._outcome(future) for future in futures]

    def _outcome(self, future: distributed.Future) -> Any:
        try:
            return self._fetched([future])[0]
        except (Exception, distributed.CancelledError) as problem:
            return problem

    def _told(self, call: Call, problem: BaseException) -> BaseException:
        """What went wrong with a call, in words for the user."""
        where = call.group.where(call.places)
        match problem:
            case distributed.KilledWorker() | NoWorkerError():
                return ProcessingFailed(
                    f"{where}: the workers died of it or never came "
                    f"({type(problem).__name__}); do they have enough memory? a smaller "
                    f"processing.chunksize takes less\n{self._site.last_words()}".rstrip()
                )
            case distributed.CancelledError() | CommClosedError():
                return ProcessingFailed(
                    "the Dask scheduler has gone; run again: what was finished is kept"
                )
            case _:
                return problem

    def _fetched(self, futures: Sequence[distributed.Future]) -> list[Any]:
        """The results of finished calls, in one go; a worker may be lost meanwhile."""
        client = self._site.client

        async def gathered() -> list[Any]:
            return await client.gather(list(futures), asynchronous=True)

        pending = asyncio.run_coroutine_threadsafe(gathered(), client.loop.asyncio_loop)
        while True:
            try:
                return pending.result(timeout=PATIENCE_S)
            except NotYet:
                self._site.look()


def run(
    processor: ProcessorABC,
    filesets: Sequence[Fileset],
    site: Site,
    limits: Limits,
    label: str,
    folder: str | Path,
) -> dict[str, Processed]:
    """Process every dataset and close its ledger.

    The results of tasks are kept in `folder` as they come, or their sums if they are large and so
    summed up on the workers; what is there already is taken from it, and what belongs to nothing
    any more removed in the end. The order of summing follows from the files, whatever order the
    workers finish in, so a repeated or resumed run gives the same numbers to the last bit. A few
    partial results at a time are held in memory beside the sums.

    Raises `ProcessingFailed` for the first chunk that fails and `Shortfall` if less was processed
    than expected.
    """
    kept, identity = Checkpoints(folder), processor_identity(processor)
    groups = [group for fileset in filesets for group in _grouped(fileset, identity, limits)]
    whole = kept.whole()
    for group in groups:
        group.summed = group.key in whole
        group.there = {place for place in group.root if group.keys[place] in whole}
    work = Work(processor, limits, {fileset.dataset: fileset.metadata for fileset in filesets})
    before = sum(len(group.done) for group in groups)
    if before:
        of = sum(len(group.tasks) for group in groups)
        print(f"{label}: {before} of {of} tasks were done before", file=sys.stderr)
    sums: dict[str, Partial] = {}
    upcoming = 0
    with Progress(label, sum(f.events for fileset in filesets for f in fileset.files)) as progress:
        progress.add(sum(group.events(place) for group in groups for place in group.done))
        for arrived in chain([None], Computation(work, groups, site).arrivals()):
            if arrived is not None:
                progress.add(sum(arrived.group.events(place) for place in arrived.places))
                arrived.keep(kept)
            while upcoming < len(groups) and groups[upcoming].complete:
                partial = groups[upcoming].sum(kept)
                name = groups[upcoming].fileset.dataset
                sums[name] = added(sums[name], partial) if name in sums else partial
                upcoming += 1
    results = {}
    for fileset in filesets:
        total = sums.pop(fileset.dataset)
        try:
            ledger = ledger_of(fileset, total.records, total.peaks)
        except Shortfall:
            # what was read may have been wrong: the next run reads it again
            kept.prune({k for g in groups if g.fileset is not fileset for k in g.all_keys})
            raise
        accumulator = processor.postprocess(total.accumulator)
        results[fileset.dataset] = Processed(accumulator, ledger)
    kept.prune({key for group in groups for key in group.all_keys})
    return results
