"""Folders in the system's temporary folder, such as that of a service's keys."""

import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

import psutil

# the process's number follows
PREFIX = "looseleaf-"
# so old has to be what is removed: a process of another container may use it, whose number means
# nothing here
OLD_S = 3600.0


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder of the user's own for the length of the block.

    Those of processes that were killed are removed first.
    """
    remove_left(Path(gettempdir()))
    prefix = f"{PREFIX}{os.getpid()}-"
    with TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as name:
        yield Path(name)


def remove_left(folder: Path) -> None:
    """Remove the user's scratch folders that no process on this machine uses any more."""
    for path in folder.glob(f"{PREFIX}*-*"):
        number = path.name.removeprefix(PREFIX).partition("-")[0]
        try:
            about = path.lstat()
        except OSError:
            continue
        own = stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid()
        old = time.time() - about.st_mtime > OLD_S
        if number.isdecimal() and own and old and not psutil.pid_exists(int(number)):
            shutil.rmtree(path, ignore_errors=True)
