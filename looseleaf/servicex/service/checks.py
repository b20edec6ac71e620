"""Selections checked in a process of their own, which may take so long and no longer."""

import threading
import time
from functools import lru_cache
from typing import Any

from looseleaf.errors import ConfigError, LooseleafError
from looseleaf.servicex.service.queries import check
from looseleaf.servicex.service.workers import Worker, WorkerDied

# 50 000 characters of func_adl's text take five; the first time, libraries are loaded as well
SECONDS = 20.0
# who wait for the process at a time: each has a thread of the service's, which has 40
WAITING = 4


class Busy(LooseleafError):
    """Too many selections are being checked just now."""


class Checks:
    """Checks selections one at a time, and remembers the last ones that were good."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._one, self._room = threading.Lock(), threading.BoundedSemaphore(WAITING)
        self.check = lru_cache(maxsize=64)(self._check)

    def asked(self, codegen: str, selection: str) -> Any:
        """`check` for who sends a selection; `Busy` if too many do."""
        if not self._room.acquire(blocking=False):
            raise Busy("too many selections are being checked: send it again in a minute")
        try:
            return self.check(codegen, selection)
        finally:
            self._room.release()

    def _check(self, codegen: str, selection: str) -> Any:
        """What a selection asks for; `ConfigError` for one that can't be carried out, or takes
        too long to read."""
        with self._one:
            if self._worker is None:
                self._worker = Worker()
            for _ in range(2):
                began = time.monotonic()
                try:
                    return self._worker.call(_checked, (codegen, selection), SECONDS)
                except WorkerDied:
                    if time.monotonic() - began >= SECONDS:
                        break
            raise ConfigError(f"the {codegen} selection takes too long, or too much, to read")

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()


def _checked(asked: tuple[str, str]) -> Any:
    return check(*asked)
