"""The real HTCondor pool of tests/support/pool.sh, for pytest."""

import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).parents[2]
OUTSIDE = ("SSL_CERT_FILE", "NUMBA_CACHE_DIR", "MPLCONFIGDIR")
SCRIPT = str(REPO / "tests/support/pool.sh")
SITE_PACKAGES = Path(yaml.__file__).parent.parent


@dataclass(frozen=True)
class Pool:
    """A running pool. `folder` is seen inside and outside; its user may write there."""

    root: Path
    folder: Path

    def start(self, folder: Path, *command: str, **more: int) -> subprocess.Popen[str]:
        """Start a command as the pool's user, in a folder that it may write to."""
        folder.mkdir(exist_ok=True)
        folder.chmod(0o777)
        # the tests' certificate and caches don't exist in the pool's root
        env = {name: value for name, value in os.environ.items() if name not in OUTSIDE}
        return subprocess.Popen(
            [SCRIPT, "run", str(self.root), *command], cwd=folder, env=env, text=True, **more
        )

    def run(self, *command: str) -> str:
        """What a command prints that the pool's user runs; it should succeed."""
        with self.start(self.folder, *command, stdout=subprocess.PIPE) as process:
            text, _ = process.communicate(timeout=60)
        assert process.returncode == 0, command
        return text

    def snakemake(self, folder: Path, *arguments: str) -> subprocess.Popen[str]:
        """Start the workflow of `folder`/override.yaml on the pool; it prints to `stdout`."""
        return self.start(
            folder,
            "env",
            f"XDG_CACHE_HOME={folder}/cache",
            f"PATH={Path(sys.executable).parent}:/usr/bin:/bin",
            "sh",
            "-c",
            f'cd {REPO} && exec "$@"',
            "snakemake",
            sys.executable,
            "-m",
            "snakemake",
            "--profile",
            "htcondor",
            "--directory",
            str(folder),
            *arguments,
            "--configfile",
            str(folder / "override.yaml"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def jobs(self, *columns: str) -> list[list[str]]:
        """The jobs in the queue, with the given attributes of each."""
        asked = self.run("condor_q", "-all", "-af", *(columns or ("ClusterId",)))
        return [line.split() for line in asked.splitlines()]

    def empty_within(self, seconds: float) -> bool:
        """Whether the queue is empty, now or after some seconds."""
        end = time.monotonic() + seconds
        while self.jobs() and time.monotonic() < end:
            time.sleep(0.5)
        return not self.jobs()


@contextmanager
def running_pool(folder: Path) -> Iterator[Pool]:
    """A pool for the length of a block, whose user may write below `folder`.

    Its root is at LOOSELEAF_POOL, made there if need be. Skips the test where there can be none.
    """
    where = os.environ.get("LOOSELEAF_POOL")
    if where is None or os.geteuid() != 0:
        pytest.skip(
            "no HTCondor pool: as root, where apt works, name a folder for its root, to be made "
            "with 500 MB, in LOOSELEAF_POOL"
        )
    root = Path(where)
    folder.chmod(0o777)
    if not root.is_dir():
        _script("build", root)
    _script("start", root, *dict.fromkeys([str(REPO), sys.base_prefix, sys.prefix, str(folder)]))
    try:
        yield Pool(root, folder)
    finally:
        _script("stop", root)


def _script(verb: str, root: Path, *paths: str) -> None:
    command = [SCRIPT, verb, str(root), *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        (pytest.skip if verb == "build" else pytest.fail)(done.stderr.strip())


def worker_python(folder: Path) -> Path:
    """The Python of an environment that has everything but this project, as a worker's may be."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (place,) = folder.glob("lib/python*/site-packages")
    # a folder that is named like this is searched, but its own .pth files are not read
    (place / "packages.pth").write_text(f"{SITE_PACKAGES}\n")
    return folder / "bin/python"


def shipped_processors(folder: Path) -> str:
    """The tests' processors as a wheel, for workers that don't have them."""
    path = folder / "processors-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.write(Path(__file__).with_name("processors.py"), "processors.py")
    return str(path)
