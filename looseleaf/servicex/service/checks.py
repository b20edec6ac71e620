"""Selections checked in a process of their own, which may take so long and no longer."""

import threading
import time
from functools import lru_cache
from typing import Any

from looseleaf.errors import ConfigError
from looseleaf.servicex.service.queries import check
from looseleaf.servicex.service.workers import Worker, WorkerDied

# 50 000 characters of func_adl's text take five
SECONDS = 20.0
# to load the libraries, which a busy machine or a slow file system makes long
LOADING = 600.0


class Checks:
    """Checks selections one at a time, and remembers the last ones that were good."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._closed = False
        self._one = threading.Lock()
        self.check = lru_cache(maxsize=64)(self._check)

    def _check(self, codegen: str, selection: str) -> Any:
        """What a selection asks for; `ConfigError` for one that can't be carried out, or takes
        too long to read."""
        with self._one:
            if self._worker is None:
                self._worker = Worker()
            for _ in range(2):
                began = time.monotonic()
                try:
                    self._worker.call(_loaded, None, LOADING)
                    began = time.monotonic()
                    return self._worker.call(_checked, (codegen, selection), SECONDS)
                except WorkerDied:
                    if self._closed or time.monotonic() - began >= SECONDS:
                        break
            raise ConfigError(f"the {codegen} selection takes too long, or too much, to read")

    def close(self) -> None:
        self._closed = True
        if self._worker is not None:
            self._worker.close()


def _loaded(_: None) -> None:
    """Nothing, but a process that can call it has imported this module."""


def _checked(asked: tuple[str, str]) -> Any:
    return check(*asked)
