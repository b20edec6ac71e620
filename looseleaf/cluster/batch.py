"""Dask workers as jobs of a batch system: their cluster, their logs, and their removal.

A kind of site is a module of this package with a `SYSTEM`.
"""

import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from threading import Event, Thread
from typing import Any
from uuid import uuid4

from looseleaf.errors import ConfigError

LOG_LINES = 15
# how often the queue is checked, and how many jobs are replaced for each worker
LOOK_EVERY_S = 10.0
REPLACEMENTS = 5
# where a cluster's keys stand, beside its logs; nobody else may open it
KEYS = ".keys"
LOOPBACK = "127.0.0.1"

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class BatchSystem:
    """A batch system: the class that submits workers to it, and its commands.

    `submit` has to be on the PATH. The functions take the keyword arguments of the class, as in the
    site's file, and the name of a run: `tagged` gives arguments with which each job carries that
    name, `queued` the command that prints the ids of these jobs, one on each line, and `remove` the
    one that removes them. `keyed` gives arguments with which the cluster has keys of its own, in a
    folder that it makes; None if the class takes care of them.
    """

    name: str
    package: str
    cluster_class: str
    submit: str | None
    tagged: Callable[[Settings, str], dict[str, Any]]
    queued: Callable[[Settings, str], Sequence[str]]
    remove: Callable[[Settings, str], Sequence[str]]
    keyed: Callable[[Settings, Path], dict[str, Any]] | None


@contextmanager
def batch_cluster(site: Mapping[str, Any], workers: int, logs: Path) -> Iterator[Any]:
    """A cluster whose workers are jobs; a lost job is replaced.

    The jobs' output goes to the folder `logs`. The jobs are removed when the block or this process
    ends in any way, including `kill -9`.

    Raises `ConfigError` if the site's tools or packages are missing, or if its settings are
    refused.
    """
    kind = site["kind"]
    system: BatchSystem = import_module(f"{__package__}.{kind.replace('-', '_')}").SYSTEM
    cluster_class = _cluster_class(kind, system)
    run = uuid4().hex
    options = site.get("cluster", {})
    settings = system.tagged(options, run)
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    settings.setdefault("log_directory", str(logs.resolve()))
    keys = logs.resolve() / KEYS
    if system.keyed is not None:
        settings = _reserved(system.keyed(settings, keys))
    with _swept(system.remove(options, run), keys):
        try:
            cluster = cluster_class(**settings)
        except (TypeError, ValueError) as problem:
            raise ConfigError(f"site {kind}: cluster: {problem}") from None
        with cluster, _replaced(cluster, system.queued(options, run), workers):
            # scale() doesn't replace a worker whose job was removed
            cluster.adapt(minimum_jobs=workers, maximum_jobs=workers, interval="2s")
            yield cluster


def _cluster_class(kind: str, system: BatchSystem) -> Any:
    if system.submit is not None and shutil.which(system.submit) is None:
        raise ConfigError(
            f"site {kind}: {system.submit} is not on the PATH: run snakemake where "
            f"{system.name} jobs can be submitted, or choose another site"
        )
    try:
        return getattr(import_module(system.package), system.cluster_class)
    except ImportError as problem:
        raise ConfigError(
            f"site {kind}: {system.cluster_class} needs the package {system.package}, which can't "
            f"be imported ({problem}): install it where snakemake runs, or choose another site"
        ) from None


@contextmanager
def _replaced(cluster: Any, queued: Sequence[str], workers: int) -> Iterator[None]:
    """Replace jobs that leave the queue before their worker has connected.

    Dask notices a worker that is gone, but not one that never connected. Only a few jobs are
    replaced for each worker, since a job that never starts has a lasting problem.
    """
    ended, attempts = Event(), REPLACEMENTS * workers

    def look() -> None:
        nonlocal attempts
        while attempts > 0 and not ended.wait(LOOK_EVERY_S):
            gone = _gone(cluster, queued)[:attempts]
            if gone and not ended.is_set():
                attempts -= len(gone)
                _fetch_logs(cluster)
                cluster.sync(cluster.scale_down, gone)

    thread = Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _gone(cluster: Any, queued: Sequence[str]) -> list[Any]:
    """The names of workers that haven't connected, and whose jobs aren't in the queue any more."""
    # the workers first, since a job submitted meanwhile is in the queue
    jobs = {name: job.job_id for name, job in list(cluster.workers.items()) if job.job_id}
    answer = subprocess.run(queued, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        return []
    in_queue = set(answer.stdout.split())
    started = {worker["name"] for worker in cluster.scheduler_info["workers"].values()}
    return [
        name
        for name, job in jobs.items()
        if job.partition(".")[0] not in in_queue and name not in started
    ]


def _reserved(settings: Settings) -> dict[str, Any]:
    """The settings with dashboards that only this machine, or a worker's own, can open."""
    scheduler = {"dashboard_address": f"{LOOPBACK}:0", **settings.get("scheduler_options", {})}
    arguments = ["--dashboard-address", f"{LOOPBACK}:0", *settings.get("worker_extra_args", ())]
    return {**settings, "scheduler_options": scheduler, "worker_extra_args": arguments}


@contextmanager
def _swept(command: Sequence[str], keys: Path) -> Iterator[None]:
    """Run a command that removes jobs, and remove the keys, when the block or this process ends in
    any way.

    Another process waits at the end of a pipe, which the kernel closes with this process. It runs
    the command twice, since a submission may still be under way.
    """
    remove = shlex.join(command)
    watcher = subprocess.Popen(
        ["sh", "-c", f'cat >/dev/null; rm -rf "$0"; {remove}; sleep 10; {remove}', str(keys)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert watcher.stdin is not None
    try:
        yield
    finally:
        watcher.stdin.close()


def _fetch_logs(cluster: Any) -> None:
    """Fetch the output of spooled jobs, which is lost when they leave the queue."""
    if hasattr(cluster, "fetch_worker_logs"):
        cluster.fetch_worker_logs()


def last_words(cluster: Any, logs: Path) -> str:
    """The ends of the newest logs, from the workers and the batch system."""
    _fetch_logs(cluster)
    ends = []
    for ending in ("err", "log"):
        files = [path for path in logs.glob(f"*.{ending}") if path.stat().st_size]
        if files:
            newest = max(files, key=lambda path: path.stat().st_mtime)
            lines = newest.read_text(errors="replace").splitlines()[-LOG_LINES:]
            ends.append("\n  ".join([f"{newest} ends:", *lines]))
    return "\n".join(ends)
