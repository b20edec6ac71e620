"""Running a coffea processor over filesets on a Dask client: the calls on workers, and their
sums."""

import asyncio
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import uuid4

import cloudpickle
import distributed
from coffea.processor import ProcessorABC
from dask.typing import Key
from distributed.comm.core import CommClosedError
from distributed.scheduler import NoWorkerError

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
    ChunkReadFailed,
    Limits,
    Partial,
    ProcessingFailed,
    Work,
    add_nodes,
    added,
    worker_task,
)
from looseleaf.processing.site import Site, WorkersGone
from looseleaf.processing.tree import bundles, groups_of, halves, parents, tree_sum
from looseleaf.progress import Progress
from looseleaf.retries import Retries
from looseleaf.shipping import Parcel

# tasks with few events are sent to a worker together, since each call of Dask takes milliseconds
BUNDLE_EVENTS = 32_000
# but a worker gets at least this number of calls
CALLS_EACH = 8
# larger packed results are summed with their neighbours before they leave the workers
LARGE_BYTES = 1 << 20
# a file that can't be read may be readable some seconds later
FIRST_PAUSE_S = 4.0
# how often finished calls and workers are checked
LOOK_S = 0.01
PATIENCE_S = 1.0


Future = distributed.Future[Any]


@dataclass(frozen=True)
class Processed:
    """The result for one dataset: the processor's accumulator and the ledger."""

    accumulator: dict[str, Any]
    ledger: dict[str, Any]


class Group:
    """Neighbouring tasks of a dataset, whose results are summed as a tree.

    `kept` are the nodes of the tree with results on disk: single tasks, or sums.
    """

    def __init__(
        self, fileset: Fileset, tasks: Sequence[Sequence[Chunk]], keys: Sequence[str]
    ) -> None:
        self.fileset, self.tasks = fileset, tasks
        self.root = range(len(tasks))
        self.parents = parents(self.root)
        self.keys = {
            node: keys[node.start] if len(node) == 1 else digest(list(keys[node.start : node.stop]))
            for node in (self.root, *self.parents)
        }
        self.kept: set[range] = set()
        self._counted: set[int] = set()

    @property
    def done(self) -> set[int]:
        """The places with results on disk, alone or in a sum."""
        return {place for node in self.kept for place in node}

    @property
    def complete(self) -> bool:
        """Whether all places have results on disk."""
        return len(self.done) == len(self.tasks)

    @property
    def missing(self) -> dict[int, int]:
        """The places that aren't done, with their numbers of events."""
        return {place: self._events(place) for place in self.root if place not in self.done}

    def _events(self, place: int) -> int:
        return sum(chunk.events for chunk in self.tasks[place])

    def newly(self, places: Iterable[int]) -> int:
        """The number of events at places that weren't requested before."""
        new = set(places) - self._counted
        self._counted |= new
        return sum(map(self._events, new))

    def sum(self, checkpoints: Checkpoints) -> Partial:
        """The group's sum, from the results on disk."""

        def known(node: range) -> Partial | None:
            return unpacked(checkpoints.read(self.keys[node])) if node in self.kept else None

        return tree_sum(self.root, known, added)

    def where(self, places: Sequence[int]) -> str:
        """The entries at some places, for a message."""
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
    """One call on a worker, for the tasks at some places of a group or, if it `sums`, for a
    node."""

    group: Group
    places: Sequence[int]
    sums: bool = False
    tries: int = 1

    @property
    def node(self) -> range:
        """The node of the tree that the call computes."""
        return range(self.places[0], self.places[-1] + 1)


@dataclass(frozen=True)
class Arrival:
    """Finished calls of a group, with the results by node that have come to the client."""

    group: Group
    places: Sequence[int]
    results: Mapping[range, bytes]

    def keep(self, checkpoints: Checkpoints) -> None:
        """Write the results to disk; `ProcessingFailed` if one was damaged in transfer."""
        for node, result in self.results.items():
            if not is_whole(result):
                where = self.group.where(node)
                raise ProcessingFailed(f"{where}: the result was damaged in transfer")
            checkpoints.keep(self.group.keys[node], result)
            self.group.kept.add(node)


class Computation:
    """The computation of missing results of some groups on the workers.

    Small results come to the client task by task. Large ones stay on the workers, which add them
    along the group's tree, so that only the group's sum comes.
    """

    def __init__(self, work: Work, groups: Sequence[Group], site: Site) -> None:
        self._site = site
        self._parcel = Parcel(cloudpickle.dumps(work))
        self._fixed: dict[str, Any] = {"parcel": self._parcel.name, "code": site.code}
        most = max(1, sum(len(g.missing) for g in groups) // (CALLS_EACH * site.workers))
        self._calls = [
            Call(group, places)
            for group in groups
            for places in bundles(group.missing, group.root, BUNDLE_EVENTS, most)
        ]
        # groups without any result on the client, which can be summed on the workers
        self._whole = {group.keys[group.root] for group in groups if not group.kept}
        self._large: dict[str, bool] = {}
        # by key: holding a future here would keep its result on the workers
        self._running: dict[Key, Call] = {}
        self._retries = Retries(ChunkReadFailed, tries=work.limits.tries, pause=FIRST_PAUSE_S)
        # failed calls, with the times of their next tries
        self._later: list[tuple[float, Call]] = []
        # finished calls whose sibling in the tree isn't finished yet
        self._waiting: dict[tuple[str, range], tuple[Future, Call]] = {}

    def arrivals(self) -> Iterator[Arrival]:
        """The results of workers as they come. Raises `ProcessingFailed` if a call fails for
        good."""
        if not self._calls:
            return
        self._site.client.register_plugin(self._parcel)
        # named in the order of the files, so that Dask finishes and sums a group's results early
        run = uuid4().hex[:8]
        keys = [f"process-{run}-{number:07}" for number in range(len(self._calls))]
        futures = self._site.client.map(
            worker_task,
            [self._tasks(call) for call in self._calls],
            [self._in_tree(call) for call in self._calls],
            key=keys,
            pure=False,
            **self._fixed,
        )
        self._running.update(zip(keys, self._calls, strict=True))
        self._finished = distributed.as_completed(futures, raise_errors=False)
        del futures
        try:
            while self._later or self._waiting or not self._finished.is_empty():
                self._start_again()
                batch = self._finished.next_batch(block=False)
                if batch:
                    yield from self._arrived(batch)
                elif self._later or not self._finished.is_empty():
                    self._site.look()
                    time.sleep(LOOK_S)
                else:
                    # these can't be summed, since the result of a sibling had to come to the client
                    waiting, self._waiting = list(self._waiting.values()), {}
                    self._running |= {future.key: call for future, call in waiting}
                    yield from self._come([future for future, _ in waiting])
        finally:
            self._finished.clear()
            self._waiting.clear()
            if self._site.client.status == "running":
                self._site.client.unregister_worker_plugin(self._parcel.name)

    def _tasks(self, call: Call) -> list[Sequence[Chunk]]:
        return [call.group.tasks[place] for place in call.places]

    def _in_tree(self, call: Call) -> bool:
        return call.group.keys[call.group.root] in self._whole

    def _arrived(self, batch: Sequence[Future]) -> Iterator[Arrival]:
        come = []
        for future in batch:
            call = self._running[future.key]
            if self._comes(call, future):
                come.append(future)
            else:
                del self._running[future.key]
                yield Arrival(call.group, call.places, {})
                self._stay(call, future)
        yield from self._come(come)

    def _come(self, futures: Sequence[Future]) -> Iterator[Arrival]:
        """Fetch the results of finished calls."""
        failures: list[BaseException] = []
        for future, outcome in zip(futures, self._outcomes(futures), strict=True):
            call = self._running.pop(future.key)
            future.release()
            match outcome:
                case ChunkReadFailed():
                    # a part of a sum was lost with a worker, and can't be read any more
                    yield from self._read(call, [outcome] * len(call.places), failures)
                case BaseException():
                    failures.append(self._explained(call, outcome))
                case [result] if len(call.places) > 1:
                    yield Arrival(call.group, call.places, {call.node: result})
                case _:
                    yield from self._read(call, outcome, failures)
        # keep the other results
        if failures:
            raise failures[0]

    def _read(
        self, call: Call, outcome: Sequence[bytes | ChunkReadFailed], failures: list[BaseException]
    ) -> Iterator[Arrival]:
        """The results of a call; a file that can't be read is tried again, or is a failure."""
        results = {}
        for place, result in zip(call.places, outcome, strict=True):
            if not isinstance(result, ChunkReadFailed):
                results[place] = result
            elif (pause := self._retries.pause_after(result, call.tries)) is not None:
                self._once_more(call, place, result, pause)
            else:
                often = f" (tried {call.tries} times)" if call.tries > 1 else ""
                failures.append(ChunkReadFailed(f"{result}{often}"))
        nodes = {range(place, place + 1): result for place, result in results.items()}
        yield Arrival(call.group, list(results), nodes)

    def _comes(self, call: Call, future: Future) -> bool:
        """Whether the result of a finished call has to come to the client."""
        group, name = call.group, call.group.fileset.dataset
        if future.status != "finished" or call.node == group.root or not self._in_tree(call):
            return True
        if name not in self._large:
            # a dataset's first result decides
            (outcome,) = self._outcomes([future])
            if not isinstance(outcome, list):
                return True
            results = [result for result in outcome if isinstance(result, bytes)]
            self._large[name] = any(len(result) > LARGE_BYTES for result in results)
        return not self._large[name]

    def _stay(self, call: Call, future: Future) -> None:
        """Leave a result on its worker until its sibling is finished, then have both added."""
        key, node = call.group.keys[call.group.root], call.node
        parent = call.group.parents[node]
        left, right = halves(parent)
        waiting = self._waiting.pop((key, right if node == left else left), None)
        if waiting is None:
            self._waiting[key, node] = future, call
            return
        other, others = waiting
        pair = (future, other) if node == left else (other, future)
        # with priority over other work, since it frees memory
        both = self._site.client.submit(add_nodes, *pair, pure=False, priority=1)
        tries = max(call.tries, others.tries)
        self._follow(both, Call(call.group, parent, sums=True, tries=tries))

    def _once_more(self, call: Call, place: int, problem: ChunkReadFailed, pause: float) -> None:
        print(f"once more: {problem}", file=sys.stderr, flush=True)
        again = Call(call.group, (place,), tries=call.tries + 1)
        self._later.append((time.monotonic() + pause, again))

    def _start_again(self) -> None:
        now = time.monotonic()
        due = [call for at, call in self._later if at <= now]
        self._later = [(at, call) for at, call in self._later if at > now]
        for call in due:
            future = self._site.client.submit(
                worker_task, self._tasks(call), False, **self._fixed, tries=call.tries, pure=False
            )
            self._follow(future, call)

    def _follow(self, future: Future, call: Call) -> None:
        self._running[future.key] = call
        self._finished.add(future)

    def _outcomes(self, futures: Sequence[Future]) -> list[Any]:
        """The results of finished calls, or their exceptions."""
        try:
            return self._fetched(futures)
        except WorkersGone:
            raise
        except (Exception, distributed.CancelledError):
            return [self._outcome(future) for future in futures]

    def _outcome(self, future: Future) -> Any:
        try:
            return self._fetched([future])[0]
        except WorkersGone:
            raise
        except (Exception, distributed.CancelledError) as problem:
            return problem

    def _explained(self, call: Call, problem: BaseException) -> BaseException:
        """The failure of a call, in words for the user."""
        where = call.group.where(call.places)
        match problem:
            case distributed.KilledWorker() | NoWorkerError():
                return ProcessingFailed(
                    f"{where}: the workers died or never started "
                    f"({type(problem).__name__}); do they have enough memory? A smaller "
                    f"processing.chunksize needs less\n{self._site.last_words()}".rstrip()
                )
            case distributed.CancelledError() | CommClosedError():
                return ProcessingFailed(
                    "the Dask scheduler is gone; run again, finished tasks are kept"
                )
            case _:
                return problem

    def _fetched(self, futures: Sequence[Future]) -> list[Any]:
        """The results of finished calls, fetched together; a worker may be lost meanwhile."""
        client = self._site.client

        async def gathered() -> list[Any]:
            results: list[Any] = await client.gather(list(futures), asynchronous=True)
            return results

        # an exception of tornado's loop, which is asyncio's
        loop: Any = client.loop
        pending = asyncio.run_coroutine_threadsafe(gathered(), loop.asyncio_loop)
        while True:
            try:
                return pending.result(timeout=PATIENCE_S)
            except NotYet:
                if pending.done():
                    raise
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

    Results of tasks, or their sums if they are large, are written to `folder` as they come. Results
    that are there already are used; those that nothing needs any more are removed at the end. The
    order of summing follows from the files, not from the workers, so that a repeated or resumed run
    gives the same numbers to the last bit. Only a few partial results are in memory at a time,
    beside the sums.

    Raises `ProcessingFailed` for the first chunk that fails, and `Shortfall` if less was processed
    than expected.
    """
    checkpoints, identity = Checkpoints(folder), processor_identity(processor)
    groups = [group for fileset in filesets for group in _grouped(fileset, identity, limits)]
    _take_up(groups, checkpoints, label)
    work = Work(
        processor, limits, {fileset.dataset: fileset.metadata for fileset in filesets}, LARGE_BYTES
    )
    with Progress(label, sum(f.events for fileset in filesets for f in fileset.files)) as progress:
        arrivals = Computation(work, groups, site).arrivals()
        sums = _summed(groups, arrivals, checkpoints, progress)
    results = {}
    for fileset in filesets:
        total = sums.pop(fileset.dataset)
        try:
            ledger = ledger_of(fileset, total.records, total.peaks)
        except Shortfall:
            # a read may have been wrong, so the next run reads it again
            others = [group for group in groups if group.fileset is not fileset]
            checkpoints.prune({key for group in others for key in group.keys.values()})
            raise
        accumulator = processor.postprocess(total.accumulator)
        results[fileset.dataset] = Processed(accumulator, ledger)
    checkpoints.prune({key for group in groups for key in group.keys.values()})
    return results


def _take_up(groups: Sequence[Group], checkpoints: Checkpoints, label: str) -> None:
    """Find the results of an earlier run for the groups."""
    whole = checkpoints.whole()
    for group in groups:
        group.kept = {node for node, key in group.keys.items() if key in whole}
    before = sum(len(group.done) for group in groups)
    if before:
        of = sum(len(group.tasks) for group in groups)
        print(f"{label}: {before} of {of} tasks were done before", file=sys.stderr)


def _summed(
    groups: Sequence[Group],
    arrivals: Iterable[Arrival],
    checkpoints: Checkpoints,
    progress: Progress,
) -> dict[str, Partial]:
    """The sums by dataset; groups are added in order, each as soon as it is complete."""
    sums: dict[str, Partial] = {}
    upcoming = 0
    progress.add(sum(group.newly(group.done) for group in groups))
    for arrival in chain([None], arrivals):
        if arrival is not None:
            progress.add(arrival.group.newly(arrival.places))
            arrival.keep(checkpoints)
        while upcoming < len(groups) and groups[upcoming].complete:
            group_sum = groups[upcoming].sum(checkpoints)
            name = groups[upcoming].fileset.dataset
            sums[name] = added(sums[name], group_sum) if name in sums else group_sum
            upcoming += 1
    return sums
