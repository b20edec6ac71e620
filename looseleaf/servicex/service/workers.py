"""Who carries files out: the interface, and worker processes, which live as long as the service and
are replaced when they die."""

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from looseleaf import disk
from looseleaf.errors import LooseleafError, RemoteReadFailed
from looseleaf.workerprocess import keep_memory

if TYPE_CHECKING:
    # what only a worker's process needs to load
    from looseleaf.servicex.transform import FileResult

# processes forked from a fresh interpreter, which shares neither memory nor open files with the
# service
CONTEXT = get_context("forkserver")
# failures of the machine or the network that may be over a moment later
TRANSIENT = {errno.EIO, errno.EAGAIN, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET}


class WorkerDied(LooseleafError):
    """The process that worked on a file ended: killed, out of memory, or crashed."""


@dataclass(frozen=True)
class Job:
    """A file's number in the service's state, and the call that carries it out."""

    number: int
    function: Callable[[Any], "FileResult"]
    task: Any


@dataclass(frozen=True)
class Batch:
    """Files of one request that one worker carries out in turn, under a name that no other batch
    has; `folder` is where the request's results stand."""

    name: str
    request: str
    folder: Path
    jobs: tuple[Job, ...]


class Carrier(Protocol):
    """One worker. `carry_out` is for one thread at a time, the others for any."""

    def carry_out(
        self, batch: Batch, seconds: float
    ) -> Iterator[tuple[int, "FileResult | Exception"]]:
        """What became of each file, by number, `seconds` for each. A worker that ends leaves out
        the files that it hasn't begun with."""

    def kill(self, batch: str) -> None:
        """End the work on a batch."""

    def close(self) -> None:
        """Leave off, as the service ends."""


class Crew(Protocol):
    """The workers of a service, each given up to `most` files at a time."""

    most: int

    @property
    def workers(self) -> Sequence[Carrier]: ...

    def standing(self) -> Mapping[str, Sequence[int]]:
        """Batches that an earlier service's workers are still at: numbers of files by name."""

    def drop(self, batch: str) -> None:
        """End a standing batch that nobody waits for."""


class Processes:
    """Worker processes of this machine, which end with the service."""

    most = 1

    def __init__(self, workers: int, begin: Callable[[], None] | None = None) -> None:
        self.workers = [Worker(begin) for _ in range(workers)]

    def standing(self) -> Mapping[str, Sequence[int]]:
        return {}

    def drop(self, batch: str) -> None:
        pass


def transient(problem: Exception) -> bool:
    """Whether another try may do."""
    return isinstance(problem, (WorkerDied, RemoteReadFailed)) or (
        isinstance(problem, OSError) and problem.errno in TRANSIENT
    )


def reason_of(problem: Exception) -> str:
    """Why a file failed, in words for the user."""
    if isinstance(problem, LooseleafError):
        return str(problem)
    if isinstance(problem, OSError) and problem.strerror:
        name = Path(problem.filename).name if problem.filename else None
        matter = disk.short(problem, name)
        return problem.strerror if matter is None else f"{matter}: {disk.cure(problem)}"
    return f"{type(problem).__name__}: {problem}"


class Worker:
    """One process, which does `begin` first; `call` and `carry_out` are for one thread at a time,
    `kill` for any."""

    def __init__(self, begin: Callable[[], None] | None = None) -> None:
        self._begin = begin
        self._start()

    def _start(self) -> None:
        keep_memory()
        self._connection, of_child = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=_work, args=(of_child, self._begin), daemon=True)
        self._process.start()
        of_child.close()

    def call(self, function: Callable[[Any], Any], argument: Any, seconds: float | None) -> Any:
        """`function(argument)` in the process.

        Raises what the function raises, and `WorkerDied` if the process ends or takes longer than
        `seconds`; a new process then stands ready.
        """
        try:
            self._connection.send((function, argument))
            if not self._connection.poll(seconds):
                raise WorkerDied(f"not done within {seconds:g} s")
            value, problem = self._connection.recv()
        except (EOFError, OSError):
            raise self._replaced(
                WorkerDied("the worker process ended before it was done")
            ) from None
        except WorkerDied as slow:
            raise self._replaced(slow) from None
        if problem is not None:
            raise problem
        return value

    def carry_out(
        self, batch: Batch, seconds: float
    ) -> Iterator[tuple[int, "FileResult | Exception"]]:
        for job in batch.jobs:
            try:
                yield job.number, self.call(job.function, job.task, seconds)
            except Exception as problem:
                yield job.number, problem

    def close(self) -> None:
        self.kill()

    def _replaced(self, problem: WorkerDied) -> WorkerDied:
        self.kill()
        self._process.join()
        self._connection.close()
        self._start()
        return problem

    def kill(self, batch: str = "") -> None:
        """End the process, whatever it is doing, and what it has started."""
        pid = self._process.pid
        if pid is None or not self._process.is_alive():
            return
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            # it has not made a group of its own yet
            self._process.kill()


def _work(connection: Connection, begin: Callable[[], None] | None) -> None:
    os.setsid()
    if begin is not None:
        begin()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            function, argument = connection.recv()
        except EOFError:
            return
        answer: tuple[Any, Exception | None]
        try:
            answer = function(argument), None
        except Exception as problem:
            answer = None, problem
        try:
            connection.send(answer)
        except (TypeError, AttributeError, ValueError) as problem:
            connection.send((None, RuntimeError(f"{answer[1]!r} can't be sent: {problem}")))


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os.killpg(0, signal.SIGKILL)
