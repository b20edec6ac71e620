"""Where processors run: one function gives a Dask client for a site of the configuration."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
from dask.utils import parse_timedelta
from distributed import Client, LocalCluster

from looseleaf import workerprocess
from looseleaf.cluster.code import OurCode, OurCodeOnScheduler, archive
from looseleaf.cluster.condor import batch_cluster, last_words
from looseleaf.errors import ConfigError, LooseleafError

NO_WORKERS_TIMEOUT = "distributed.scheduler.no-workers-timeout"
LOOK_EVERY_S = 2.0
CONNECT_TIMEOUT = "20 s"
# where the facility runs a scheduler for its user
COFFEA_CASA_SCHEDULER = "tls://localhost:8786"


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
            raise WorkersGone(
                f"the Dask scheduler at {client.scheduler.address} has had no workers for {limit}: "
                "start some and run again; what was finished is kept"
            )


@dataclass(frozen=True)
class Site:
    """A place to run at: its client, how many workers were asked for, the hash of the code they
    were sent, their logs, and the cluster if it is our own."""

    client: Client
    workers: int
    code: str
    logs: Path
    cluster: Any = field(default=None, repr=False)
    _presence: _Presence = field(default_factory=_Presence, repr=False)

    def look(self) -> None:
        """Raise `WorkersGone` if a scheduler that isn't ours has long had no workers.

        Ours does so by itself. To be called again and again.
        """
        if self.cluster is None:
            self._presence.look(self.client)

    def last_words(self) -> str:
        """What the workers said last, where their logs are kept; else nothing."""
        return last_words(self.cluster, self.logs) if self.logs.is_dir() else ""


@contextmanager
def client_for(site: Mapping[str, Any], workers: int, logs: Path) -> Iterator[Site]:
    """A client with `workers` workers at a site, for the length of the block.

    `site` is a file of config/sites: kind `local` starts worker processes on this machine,
    listening on the loopback interface only; `htcondor` and `coffea-casa` submit workers as jobs,
    whose output goes to the folder `logs`; `scheduler` attaches to a running scheduler and leaves
    it running, as `coffea-casa` does if the facility has started one for the user.

    Raises `ConfigError` if no scheduler answers, if the site's cluster package is not installed
    or refuses its settings, or a wheel of the site can't be read.
    """
    settings = {
        "distributed.nanny.pre-spawn-environ": workerprocess.ENVIRONMENT,
        "distributed.worker.multiprocessing-method": workerprocess.METHOD,
        # a batch system that starts nothing must not make a job wait for ever
        NO_WORKERS_TIMEOUT: "30 minutes",
        **site.get("dask", {}),
    }
    archives = [archive(), *(_wheel(path) for path in site.get("wheels", []))]
    plugin = OurCode(archives)
    with dask.config.set(settings), ExitStack() as stack:
        cluster, client = _started(site, workers, logs, stack)
        if cluster is None:
            client.register_plugin(OurCodeOnScheduler(archives, plugin.code))
        client.register_plugin(plugin)
        print(f"dask dashboard: {client.dashboard_link}", file=sys.stderr, flush=True)
        yield Site(client, workers, plugin.code, logs, cluster)


def _started(
    site: Mapping[str, Any], workers: int, logs: Path, stack: ExitStack
) -> tuple[Any, Client]:
    if site["kind"] == "scheduler":
        return None, stack.enter_context(_attached(site["address"]))
    if site["kind"] == "coffea-casa" and "cluster" not in site:
        try:
            return None, stack.enter_context(Client(COFFEA_CASA_SCHEDULER, timeout="2 s"))
        except (OSError, TypeError, ValueError):
            # there is none, or no certificate to speak to it with
            pass
    if site["kind"] == "local":
        arguments = {
            "host": "127.0.0.1",
            "threads_per_worker": 1,
            # any free port: several clusters may run on one machine
            "dashboard_address": "127.0.0.1:0",
            **site.get("cluster", {}),
        }
        workerprocess.prepare(site)
        cluster = stack.enter_context(LocalCluster(n_workers=workers, **arguments))
    else:
        cluster = stack.enter_context(batch_cluster(site, workers, logs))
    return cluster, stack.enter_context(Client(cluster))


def _attached(address: str) -> Client:
    try:
        return Client(address, timeout=CONNECT_TIMEOUT)
    except OSError:
        raise ConfigError(
            f"site scheduler: no Dask scheduler answers at {address}: start it, or correct the "
            "address in config/sites/"
        ) from None


def _wheel(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as problem:
        raise ConfigError(f"site: wheels: {path}: {problem.strerror}") from None
