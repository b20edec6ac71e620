"""The code for workers: ours, sent to each of them, and the packages that they should have.

Dask sends the plugin by value to every worker that joins, also to late and restarted ones, so that
a worker needs neither this package nor a file system shared with the submitter. This module
therefore imports nothing else of the package.
"""

import atexit
import hashlib
import importlib
import io
import logging
import os
import shutil
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from socket import gethostname
from tempfile import mkdtemp
from typing import Any

import cloudpickle
from distributed import SchedulerPlugin, WorkerPlugin

PACKAGE = "looseleaf"
# packages on which numbers depend, or which must be equal at both ends of a connection
MATTERS = (
    "awkward",
    "boost-histogram",
    "coffea",
    "correctionlib",
    "dask",
    "distributed",
    "hist",
    "numpy",
    "uproot",
)


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that workers and submitter should agree on."""
    by_package = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for name in MATTERS:
        try:
            by_package[name] = version(name)
        except PackageNotFoundError:
            by_package[name] = "none"
    return by_package


def difference(submitter: Mapping[str, str], worker: Mapping[str, str]) -> str | None:
    """The differences between the submitter and a worker, with both versions; None if there are
    none."""
    differences = [
        f"{name} is {worker.get(name)} there and {value} here"
        for name, value in submitter.items()
        if worker.get(name) != value
    ]
    return ", ".join(differences) or None


def archive() -> bytes:
    """This package, zipped; equal files give equal bytes."""
    root = Path(__file__).parent
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as zipped:
        for path in sorted(root.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                name = f"{PACKAGE}/{path.relative_to(root).as_posix()}"
                zipped.writestr(zipfile.ZipInfo(name), path.read_bytes())
    return content.getvalue()


def _not_of_a_task(record: logging.LogRecord) -> bool:
    # the submitter reports the exception of a task once, instead of every worker
    return not str(record.msg).startswith("Compute Failed")


class OurCode(WorkerPlugin):
    """Unpacks archives (ours and further wheels) on a worker, before its installed packages.

    A difference in packages is kept in `problem`, for the worker's tasks to report: an exception
    here would only stop the worker from starting, again and again.
    """

    name = "looseleaf-code"

    def __init__(self, archives: Sequence[bytes]) -> None:
        self._archives = list(archives)
        self.code = hashlib.sha256(b"".join(self._archives)).hexdigest()[:12]
        self._submitter, self._versions = _process(), versions()
        self.problem: str | None = None

    def setup(self, worker: Any) -> None:
        logging.getLogger("distributed.worker").addFilter(_not_of_a_task)
        if _process() == self._submitter:
            return
        place = Path(worker.local_directory) / f"code-{self.code}"
        self.problem = difference(self._versions, versions())
        _put_first(self._archives, place)


class Parcel(WorkerPlugin):
    """Bytes that are sent once to every worker, also to late and restarted ones, not with every
    task."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.name = f"{PACKAGE}-parcel-{hashlib.sha256(content).hexdigest()[:12]}"


class OurCodeOnScheduler(SchedulerPlugin):
    """Unpacks the same archives on a scheduler that we didn't start, since it reads our tasks."""

    idempotent = True

    def __init__(self, archives: Sequence[bytes], code: str) -> None:
        self._archives, self._submitter = list(archives), _process()
        self.name = f"{OurCode.name}-{code}"

    async def start(self, scheduler: Any) -> None:
        if _process() == self._submitter:
            return
        place = Path(mkdtemp(prefix=f"looseleaf-{gethostname()}-{os.getpid()}-"))
        atexit.register(shutil.rmtree, place, ignore_errors=True)
        _put_first(self._archives, place)


def _process() -> tuple[str, int]:
    return gethostname(), os.getpid()


def _put_first(archives: Iterable[bytes], place: Path) -> None:
    """Unpack archives, and make this process import from there first."""
    if str(place) in sys.path[:1]:
        return
    shutil.rmtree(place, ignore_errors=True)
    for content in archives:
        with zipfile.ZipFile(io.BytesIO(content)) as zipped:
            zipped.extractall(place)
    sys.path.insert(0, str(place))
    # a process that outlives jobs may have imported an earlier version of the package
    for module in [m for m in sys.modules if m == PACKAGE or m.startswith(f"{PACKAGE}.")]:
        del sys.modules[module]
    importlib.invalidate_caches()


# a class of an importable module would be sent by name
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def mismatch(worker: Any, code: str) -> str | None:
    """Why a worker must not run a task of a job with this code; None if it may."""
    plugin = worker.plugins.get(OurCode.name)
    if plugin is None:
        return f"worker {worker.name} was not sent the code {code}"
    if plugin.code != code:
        return (
            f"worker {worker.name} runs the code {plugin.code} of another job, but this job has "
            f"{code}: let one job at a time use a scheduler"
        )
    if plugin.problem is not None:
        return (
            f"worker {worker.name} on {worker.address.rpartition(':')[0]} has other packages: "
            f"{plugin.problem}; give the workers the environment of the submitter"
        )
    return None
