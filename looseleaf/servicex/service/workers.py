"""Worker processes that live as long as the service, and are replaced when they die."""

import os
import signal
import threading
from collections.abc import Callable
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from typing import Any

from looseleaf.errors import LooseleafError

# a fresh interpreter, which shares neither memory nor open files with the service
CONTEXT = get_context("spawn")
# glibc gives memory back and takes it again for every basket unless it is told not to; read when a
# process starts
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "1073741824", "MALLOC_MMAP_THRESHOLD_": "1073741824"}


class WorkerDied(LooseleafError):
    """The process that worked on a file ended: killed, out of memory, or crashed."""


class Worker:
    """One process; `call` is for one thread at a time, `kill` for any."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        for setting, size in ALLOCATOR.items():
            os.environ.setdefault(setting, size)
        self._connection, theirs = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=_work, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

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

    def _replaced(self, problem: WorkerDied) -> WorkerDied:
        self.kill()
        self._process.join()
        self._connection.close()
        self._start()
        return problem

    def kill(self) -> None:
        """End the process, whatever it is doing, and what it has started."""
        pid = self._process.pid
        if pid is None or not self._process.is_alive():
            return
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            # it has not made a group of its own yet
            self._process.kill()


def _work(connection: Connection) -> None:
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            function, argument = connection.recv()
        except EOFError:
            return
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
