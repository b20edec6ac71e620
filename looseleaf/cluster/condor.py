"""Dask workers as jobs of an HTCondor pool: what is asked for, their logs, and their end."""

import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from threading import Event, Thread
from typing import Any
from uuid import uuid4

from looseleaf.errors import ConfigError

CLUSTERS = {
    "htcondor": ("dask_jobqueue", "HTCondorCluster"),
    "coffea-casa": ("coffea_casa", "CoffeaCasaCluster"),
}
# a spooled job is held, for this reason, until its files have arrived
SPOOLING = 16
DAY_S = 86_400
DIRECTIVES = {
    # the executable is /bin/sh, which every machine has
    "transfer_executable": "False",
    # a held worker never comes back, another has taken its place
    "periodic_remove": (
        f"(JobStatus == 5 && (HoldReasonCode =!= {SPOOLING}"
        " || time() - EnteredCurrentStatus > 600))"
        f" || (JobStatus == 1 && time() - QDate > {DAY_S})"
    ),
    # spooled jobs would stay for ten days: long enough to fetch their logs is enough
    "leave_in_queue": "JobStatus == 4 && time() - CompletionDate < 600",
}
TAG = "LooseleafRun"
LOG_LINES = 15
# how often the queue is looked at, and how many jobs for each worker may end before it has come
LOOK_EVERY_S = 10.0
REPLACEMENTS = 5


@contextmanager
def batch_cluster(site: Mapping[str, Any], workers: int, logs: Path) -> Iterator[Any]:
    """A cluster whose workers are jobs; a job that is lost is replaced.

    The jobs' output goes to the folder `logs`. However the block or this process ends, by
    `kill -9` too, its jobs are removed.

    Raises `ConfigError` if the site's tools or packages are missing, or its settings are refused.
    """
    kind, settings = site["kind"], dict(site.get("cluster", {}))
    cluster_class = _cluster_class(kind)
    run = uuid4().hex
    settings["job_extra_directives"] = {
        **DIRECTIVES,
        f"MY.{TAG}": f'"{run}"',
        **settings.get("job_extra_directives", {}),
    }
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True)
    settings.setdefault("log_directory", str(logs.resolve()))
    with _swept(run, settings.get("cancel_command_extra", ())):
        try:
            cluster = cluster_class(**settings)
        except (TypeError, ValueError) as problem:
            raise ConfigError(f"site {kind}: cluster: {problem}") from None
        with cluster, _replaced(cluster, run, settings.get("cancel_command_extra", ()), workers):
            # scale() doesn't replace a worker whose job was removed
            cluster.adapt(minimum_jobs=workers, maximum_jobs=workers, interval="2s")
            yield cluster


def _cluster_class(kind: str) -> Any:
    package, name = CLUSTERS[kind]
    if kind == "htcondor" and shutil.which("condor_submit") is None:
        raise ConfigError(
            "site htcondor: there is no condor_submit on the PATH: run snakemake where HTCondor "
            "jobs are submitted from, or choose another site"
        )
    try:
        return getattr(import_module(package), name)
    except ImportError as problem:
        raise ConfigError(
            f"site {kind}: {name} needs the package {package}, which can't be imported "
            f"({problem}): install it where snakemake runs, or choose another site"
        ) from None


@contextmanager
def _replaced(cluster: Any, run: str, arguments: Sequence[str], workers: int) -> Iterator[None]:
    """Have jobs replaced that left the queue before their worker came.

    Dask learns of a worker that has gone, and not of one that never was there. Not more than a
    few for each worker: what never starts is no fault that passes.
    """
    ended, left = Event(), REPLACEMENTS * workers

    def look() -> None:
        nonlocal left
        while left > 0 and not ended.wait(LOOK_EVERY_S):
            gone = _gone(cluster, run, arguments)[:left]
            if gone and not ended.is_set():
                left -= len(gone)
                _fetch_logs(cluster)
                cluster.sync(cluster.scale_down, gone)

    thread = Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _gone(cluster: Any, run: str, arguments: Sequence[str]) -> list[Any]:
    """The names of workers that are waited for, but whose jobs aren't in the queue any more."""
    # looked at first: a job that is submitted meanwhile is in the queue
    jobs = {name: job.job_id for name, job in list(cluster.workers.items()) if job.job_id}
    asked = subprocess.run(
        ["condor_q", *arguments, "-constraint", f'{TAG} == "{run}" && JobStatus != 3 &&'
         " JobStatus != 4", "-af", "ClusterId"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if asked.returncode != 0:
        return []
    there = set(asked.stdout.split())
    come = {worker["name"] for worker in cluster.scheduler_info["workers"].values()}
    return [
        name
        for name, job in jobs.items()
        if job.partition(".")[0] not in there and name not in come
    ]


@contextmanager
def _swept(run: str, arguments: Sequence[str]) -> Iterator[None]:
    """Remove the jobs of a run when the block ends, or when this process does in any way.

    A process of its own waits at the end of a pipe, which the kernel closes with this process;
    it looks twice, as a submission may still be on its way.
    """
    remove = shlex.join(["condor_rm", *arguments, "-constraint", f'{TAG} == "{run}"'])
    watcher = subprocess.Popen(
        ["sh", "-c", f"cat >/dev/null; {remove}; sleep 10; {remove}"],
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
    """Bring the output of spooled jobs here, which is lost when they leave the queue."""
    if hasattr(cluster, "fetch_worker_logs"):
        cluster.fetch_worker_logs()


def last_words(cluster: Any, logs: Path) -> str:
    """The ends of the newest worker logs: what the workers, and HTCondor about them, said last."""
    _fetch_logs(cluster)
    told = []
    for ending in ("err", "log"):
        files = [path for path in logs.glob(f"worker-*.{ending}") if path.stat().st_size]
        if files:
            newest = max(files, key=lambda path: path.stat().st_mtime)
            lines = newest.read_text(errors="replace").splitlines()[-LOG_LINES:]
            told.append("\n  ".join([f"{newest} ends:", *lines]))
    return "\n".join(told)
