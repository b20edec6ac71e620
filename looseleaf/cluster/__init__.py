"""Where processors run: one function gives a Dask client for a site of the configuration."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import dask
from distributed import Client, LocalCluster

from looseleaf.errors import ConfigError

# Dask's nanny starts workers with MALLOC_TRIM_THRESHOLD_=65536, which makes numpy and awkward
# return memory to the system after every array: 1.4 to 2.4 times slower on chunks of NanoAOD.
# The environment variable for this setting doesn't work, the configuration does.
WORKER_ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 28),
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
CONNECT_TIMEOUT = "20 s"
BATCH_CLUSTERS = {
    "htcondor": ("dask_jobqueue", "HTCondorCluster"),
    "coffea-casa": ("coffea_casa", "CoffeaCasaCluster"),
}


@contextmanager
def client_for(site: Mapping[str, Any], workers: int) -> Iterator[Client]:
    """A client with `workers` workers at a site, for the length of the block.

    `site` is a file of config/sites: kind `local` starts worker processes on this machine,
    listening on the loopback interface only; `htcondor` and `coffea-casa` submit workers as jobs;
    `scheduler` attaches to a running scheduler and leaves it running.

    Raises `ConfigError` if no scheduler answers, or if the site's cluster package is not installed
    or refuses its settings.
    """
    settings = {
        "distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT,
        # a batch system that starts nothing must not make a job wait for ever
        "distributed.scheduler.no-workers-timeout": "30 minutes",
    }
    with dask.config.set(settings):
        if site["kind"] == "scheduler":
            with _attached(site["address"]) as client:
                yield client
        elif site["kind"] == "local":
            arguments = {
                "host": "127.0.0.1",
                "threads_per_worker": 1,
                # any free port: several clusters may run on one machine
                "dashboard_address": "127.0.0.1:0",
                **site.get("cluster", {}),
            }
            with (
                LocalCluster(n_workers=workers, **arguments) as cluster,
                Client(cluster) as client,
            ):
                yield client
        else:
            with (
                _batch_cluster(site) as cluster,
                Client(cluster) as client,
            ):
                cluster.scale(workers)
                yield client


def _attached(address: str) -> Client:
    try:
        return Client(address, timeout=CONNECT_TIMEOUT)
    except OSError:
        raise ConfigError(
            f"site scheduler: no Dask scheduler answers at {address}: start it, or correct the "
            "address in config/sites/"
        ) from None


def _batch_cluster(site: Mapping[str, Any]) -> Any:
    package, name = BATCH_CLUSTERS[site["kind"]]
    if site["kind"] == "htcondor" and shutil.which("condor_submit") is None:
        raise ConfigError(
            "site htcondor: there is no condor_submit on the PATH: run snakemake where HTCondor "
            "jobs are submitted from, or choose another site"
        )
    try:
        cluster_class = getattr(import_module(package), name)
    except ImportError as problem:
        raise ConfigError(
            f"site {site['kind']}: {name} needs the package {package}, which can't be imported "
            f"({problem}): install it where snakemake runs, or choose another site"
        ) from None
    try:
        return cluster_class(**site.get("cluster", {}))
    except (TypeError, ValueError) as problem:
        raise ConfigError(f"site {site['kind']}: cluster: {problem}") from None
