"""Dask workers as jobs of a Slurm cluster; each job carries the run in its name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from looseleaf.cluster.batch import BatchSystem
from looseleaf.cluster.keys import FileKeys

# a requeued job would start a worker again that has been replaced
DIRECTIVES = ["--no-requeue"]


def tagged(settings: Mapping[str, Any], run: str) -> dict[str, Any]:
    """The settings of a cluster whose jobs have the run in their name."""
    extra = settings.get("job_extra_directives", [])
    return {
        **settings,
        "job_name": _job_name(settings, run),
        "job_extra_directives": [*DIRECTIVES, *extra],
    }


def queued(settings: Mapping[str, Any], run: str) -> Sequence[str]:
    """The command that prints the ids of a run's jobs that wait or run."""
    return ["squeue", "--noheader", "--format=%A", f"--name={_job_name(settings, run)}"]


def remove(settings: Mapping[str, Any], run: str) -> Sequence[str]:
    """The command that removes a run's jobs."""
    return ["scancel", f"--name={_job_name(settings, run)}"]


def keyed(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The settings of a cluster whose workers read its keys from a folder that they see."""
    return {**settings, "security": FileKeys(folder)}


def _job_name(settings: Mapping[str, Any], run: str) -> str:
    return f"{settings.get('job_name', 'looseleaf')}-{run}"


SYSTEM = BatchSystem(
    name="Slurm",
    package="dask_jobqueue",
    cluster_class="SLURMCluster",
    submit="sbatch",
    tagged=tagged,
    queued=queued,
    remove=remove,
    keyed=keyed,
)
