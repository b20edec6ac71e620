"""What a job knows of its site: a Dask client, and whether there are workers."""

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
    """A scheduler has had no workers for too long; the message has its address and the time."""


class _Presence:
    """When workers were last seen."""

    def __init__(self) -> None:
        self._seen = self._looked = time.monotonic()

    def look(self, client: Client) -> None:
        """Note whether there are workers; raise `WorkersGone` after the limit."""
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY_S:
            return
        self._looked = now
        # the tasks report a scheduler that is gone
        with suppress(OSError):
            if client.nthreads():
                self._seen = now
        limit = dask.config.get(NO_WORKERS_TIMEOUT)
        if now - self._seen > parse_timedelta(limit):
            assert client.scheduler is not None
            raise WorkersGone(
                f"the Dask scheduler at {client.scheduler.address} has had no workers for {limit}: "
                "start some and run again; finished tasks are kept"
            )


def _nothing() -> str:
    return ""


@dataclass(frozen=True)
class Site:
    """A site to run at.

    It has the client, the number of requested workers, the hash of the code that they were sent,
    whether the cluster is our own, and a function for the last output of its workers, if it is
    kept.
    """

    client: Client
    workers: int
    code: str
    own: bool = False
    last_words: Callable[[], str] = _nothing
    _presence: _Presence = field(default_factory=_Presence, repr=False)

    def look(self) -> None:
        """Raise `WorkersGone` if a scheduler that isn't ours has had no workers for too long.

        To be called repeatedly; our own clusters need no check.
        """
        if not self.own:
            self._presence.look(self.client)
