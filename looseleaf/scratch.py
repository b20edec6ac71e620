"""The user's folders in the system's temporary folder that processes left when they were killed:
those into which `looseleaf.shipping` unpacks code for a scheduler."""

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from socket import gethostname

import psutil

# the name of the machine, since containers may share the folder; the process's number follows
PREFIX = f"looseleaf-{gethostname()}-"
# so old has to be what is left: a process of another container may use it, whose number means
# nothing here
OLD_S = 3600.0


def left_in(folder: Path) -> Iterator[Path]:
    """The user's folders there that no process on this machine uses any more."""
    for path in sorted(folder.glob(f"{PREFIX}*-*")):
        number = path.name.removeprefix(PREFIX).partition("-")[0]
        try:
            about = path.lstat()
        except OSError:
            continue
        own = stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid()
        old = time.time() - about.st_mtime > OLD_S
        if number.isdecimal() and own and old and not psutil.pid_exists(int(number)):
            yield path
