"""What a job knows of the place where it runs: a client, and whether there are workers."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import dask
from dask.utils import parse_timedelta
from distributed import Client

from looseleaf.errors import LooseleafError

NO_WORKERS_TIMEOUT = "distributed.scheduler.no-workers-timeout"
LOOK_EVERY_S = 2.0


class WorkersGone(LooseleafError):
    """A scheduler has had no workers for long; the message says which, and how long."""


class _Presence:
    """When workers were seen last."""

    def __init__(self) -> None:
        self._seen = self._looked = time.monotonic()

    def look(self, client: Client) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY_S:
            return
        self._looked = now
        # a scheduler that has gone is told of by its tasks
        with suppress(OSError):
            if client.nthreads():
                self._seen = now
        limit = dask.config.get(NO_WORKERS_TIMEOUT)
        if now - self._seen > parse_timedelta(limit):
            assert client.scheduler is not None
            raise WorkersGone(
                f"the Dask scheduler at {client.scheduler.address} has had no workers for {limit}: "
                "start some and run again; what was finished is kept"
            )


def _nothing() -> str:
    return ""


@dataclass(frozen=True)
class Site:
    """A place to run at: its client, how many workers were asked for, the hash of the code they
    were sent, whether the cluster is our own, and what its workers said last, if that is kept."""

    client: Client
    workers: int
    code: str
    own: bool = False
    last_words: Callable[[], str] = _nothing
    _presence: _Presence = field(default_factory=_Presence, repr=False)

    def look(self) -> None:
        """Raise `WorkersGone` if a scheduler that isn't ours has long had no workers.

        Ours does so by itself. To be called again and again.
        """
        if not self.own:
            self._presence.look(self.client)
