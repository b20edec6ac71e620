"""Where processors run: a Dask client for a site of the configuration."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import dask
from distributed import Client, LocalCluster

from looseleaf import workerprocess
from looseleaf.cluster.batch import batch_cluster, last_words
from looseleaf.cluster.keys import in_memory
from looseleaf.errors import ConfigError
from looseleaf.processing.site import NO_WORKERS_TIMEOUT, Site
from looseleaf.shipping import OurCode, OurCodeOnScheduler, archive

CONNECT_TIMEOUT = "20 s"
# the facility sets this if it runs a scheduler for the user
COFFEA_CASA_SCHEDULER = "tls://localhost:8786"


@contextmanager
def client_for(site: Mapping[str, Any], workers: int, logs: Path) -> Iterator[Site]:
    """A client with `workers` workers at a site, for the length of the block.

    Whatever it starts takes only who holds the keys that were made for it. `site` is a file of
    config/sites: kind `local` starts worker processes on this machine, listening on the loopback
    interface only; `here` starts none and works in this process; `scheduler` attaches to a running
    scheduler and leaves it running, as `coffea-casa` does if the facility has started one for the
    user; any other is a batch system, to which workers are submitted as jobs, whose output goes to
    the folder `logs`.

    Raises `ConfigError` if no scheduler answers, if the site's cluster package is not installed
    or refuses its settings, or a wheel of the site can't be read.
    """
    settings = {
        "distributed.nanny.pre-spawn-environ": workerprocess.ENVIRONMENT,
        "distributed.worker.multiprocessing-method": workerprocess.METHOD,
        # waiting for a batch system that starts nothing must end
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
        if site["kind"] != workerprocess.HERE:
            print(f"dask dashboard: {client.dashboard_link}", file=sys.stderr, flush=True)
        own = cluster is not None
        yield Site(client, workers, plugin.code, own, partial(_last_words, cluster, logs))


def _last_words(cluster: Any, logs: Path) -> str:
    return last_words(cluster, logs) if logs.is_dir() else ""


def _started(
    site: Mapping[str, Any], workers: int, logs: Path, stack: ExitStack
) -> tuple[Any, Client]:
    if site["kind"] == "scheduler":
        return None, stack.enter_context(_attached(site["address"]))
    if site["kind"] == "coffea-casa" and "cluster" not in site:
        try:
            return None, stack.enter_context(Client(COFFEA_CASA_SCHEDULER, timeout="2 s"))
        except (OSError, TypeError, ValueError):
            # there is no scheduler, or no certificate for it
            pass
    if site["kind"] == workerprocess.HERE:
        # scheduler and worker are threads of this process, so nobody else can connect to them
        cluster = LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
        )
        stack.enter_context(cluster)
    elif site["kind"] == "local":
        arguments = {
            "host": "127.0.0.1",
            "threads_per_worker": 1,
            # any free port, since several clusters can run on one machine
            "dashboard_address": "127.0.0.1:0",
            "security": in_memory(),
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
