"""Disks that are full, read-only or another user's, and the jobs of a chain that write on them."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from snakemake.api import SnakemakeApi
from snakemake.settings.types import (
    ConfigSettings,
    DAGSettings,
    OutputSettings,
    Quietness,
    ResourceSettings,
)

ROOMY = "200m"
FILLER = ".filler"
NOBODY = 65534


@contextmanager
def disk(place: Path, size: str = ROOMY) -> Iterator["Disk"]:
    """A file system of its own at a folder, which is made."""
    place.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tmpfs takes root, and is not allowed here")
    try:
        # an empty one can't be made full: to tmpfs a size of 0 is no limit
        (place / FILLER).write_bytes(b"x")
        yield Disk(place)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


class Disk:
    """A mounted disk, and ways to spoil it for the length of a block."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def _remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.place)], check=True)

    @contextmanager
    def full(self, room: int = 0) -> Iterator[None]:
        """No more room than these bytes."""
        about = os.statvfs(self.place)
        used = (about.f_blocks - about.f_bfree) * about.f_frsize
        self._remount(f"size={used + room}")
        try:
            yield
        finally:
            self._remount(f"size={ROOMY}")

    @contextmanager
    def read_only(self) -> Iterator[None]:
        self._remount("ro")
        try:
            yield
        finally:
            self._remount("rw")

    @contextmanager
    def forbidden(self) -> Iterator[None]:
        """Used by somebody to whom nothing there belongs."""
        os.seteuid(NOBODY)
        try:
            yield
        finally:
            os.seteuid(0)

    def content(self) -> dict[str, bytes]:
        """All files by name, but for logs."""
        return {
            str(path.relative_to(self.place)): path.read_bytes()
            for path in sorted(self.place.rglob("*"))
            if path.is_file() and path.suffix != ".log" and path.name != FILLER
        }


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that everybody may look into, unlike pytest's."""
    folder = Path(mkdtemp(prefix="looseleaf-disks-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def jobs_of(snakefile: Path, folder: Path, configuration: Path) -> dict[str, Any]:
    """The jobs of the whole workflow that run a script, in an order in which they can run."""
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL}, dryrun=True)) as api:
        workflow = api.workflow(
            resource_settings=ResourceSettings(cores=1),
            config_settings=ConfigSettings(configfiles=[configuration]),
            snakefile=snakefile,
            workdir=folder,
        )
        workflow.dag(DAGSettings(targets={"all"})).execute_workflow(executor="dryrun")
        dag = workflow._workflow.dag
        layers = dag.toposorted()
        return {
            "/".join([job.rule.name, *job.wildcards_dict.values()]): job
            for layer in layers
            for job in layer
            if job.is_script
        }
