"""Dask workers as jobs of an HTCondor pool."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from looseleaf.cluster.batch import BatchSystem
from looseleaf.cluster.keys import FileKeys

# the reason for which a spooled job is held until its files have arrived
SPOOLING = 16
DAY_S = 86_400
DIRECTIVES = {
    # the executable is /bin/sh, which exists on every machine
    "transfer_executable": "False",
    # a held worker never comes back, and another has taken its place
    "periodic_remove": (
        f"(JobStatus == 5 && (HoldReasonCode =!= {SPOOLING} || time() - EnteredCurrentStatus > "
        f"600)) || (JobStatus == 1 && time() - QDate > {DAY_S})"
    ),
    # a spooled job would stay for ten days; this is long enough to fetch its logs
    "leave_in_queue": "JobStatus == 4 && time() - CompletionDate < 600",
}
TAG = "LooseleafRun"
FILES = "transfer_input_files"


def tagged(settings: Mapping[str, Any], run: str) -> dict[str, Any]:
    """The settings of a cluster whose jobs carry the run as an attribute."""
    extra = settings.get("job_extra_directives", {})
    return {
        **settings,
        "job_extra_directives": {**DIRECTIVES, f"MY.{TAG}": f'"{run}"', **extra},
    }


def queued(settings: Mapping[str, Any], run: str) -> Sequence[str]:
    """The command that prints the ids of a run's jobs that wait, run or are held."""
    waiting = f'{TAG} == "{run}" && JobStatus != 3 && JobStatus != 4'
    return ["condor_q", *_pool(settings), "-constraint", waiting, "-af", "ClusterId"]


def remove(settings: Mapping[str, Any], run: str) -> Sequence[str]:
    """The command that removes a run's jobs."""
    return ["condor_rm", *_pool(settings), "-constraint", f'{TAG} == "{run}"']


def keyed(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The settings of a cluster whose keys come to the workers as files of their jobs."""
    keys = FileKeys(folder, carried=True)
    extra = settings["job_extra_directives"]
    files = [keys.certificate, keys.key, extra.get(FILES, "")]
    carried = {"should_transfer_files": "YES", FILES: ", ".join(filter(None, files))}
    return {**settings, "security": keys, "job_extra_directives": {**extra, **carried}}


def _pool(settings: Mapping[str, Any]) -> Sequence[str]:
    extra: Sequence[str] = settings.get("cancel_command_extra", ())
    return extra


SYSTEM = BatchSystem(
    name="HTCondor",
    package="dask_jobqueue",
    cluster_class="HTCondorCluster",
    submit="condor_submit",
    tagged=tagged,
    queued=queued,
    remove=remove,
    keyed=keyed,
)
