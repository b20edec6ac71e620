"""What the operating system says of files and disks, as sentences for users."""

import errno
import os
from pathlib import Path

from looseleaf.files import owner

FORBIDDEN = (errno.EACCES, errno.EPERM)
# of a disk, or of the network between
FAILING = (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO)
# how tempfile.gettempdir() says that every folder for temporary files is full or closed
NO_TEMPORARY = "No usable temporary directory found"


def sentence(problem: OSError) -> str | None:
    """Which file, what the matter is, which disk, and what to do; None for what isn't a matter of
    disks and rights."""
    if problem.errno == errno.ENOENT and NO_TEMPORARY in str(problem.strerror):
        return f"{problem.strerror}: free some space there, or name another folder (TMPDIR)"
    what = short(problem)
    if what is None:
        return None
    return f"{what} ({_where(problem)}): {cure(problem)}"


def short(problem: OSError, name: str | None = None) -> str | None:
    """Which file and what the matter is, with another `name` for the file if that isn't for
    everybody's eyes; None as for `sentence`."""
    name = name or _file(problem) or "temporary files"
    match problem.errno:
        case errno.ENOSPC:
            return f"no space left on the disk while writing {name}"
        case errno.EDQUOT:
            return f"your quota of the disk is used up while writing {name}"
        case errno.EFBIG:
            return f"{name} grows larger than its disk or a limit (ulimit -f) allows"
        case errno.EROFS:
            return f"{name} can't be written: its disk is read-only"
        case code if code in FORBIDDEN and _file(problem) is not None:
            return f"not allowed to use {name}: {problem.strerror}"
        case code if code in FAILING:
            return f"the disk fails while {name} is used: {problem.strerror}"
    return None


def cure(problem: OSError) -> str:
    """What to do."""
    match problem.errno:
        case errno.ENOSPC:
            return "free some and run again"
        case errno.EDQUOT:
            return "delete some of your files there and run again"
        case code if code in FAILING:
            return "run again when it works"
    return "change that, or use another folder, and run again"


def _file(problem: OSError) -> str | None:
    """The file that is written: the second where one becomes another."""
    name = problem.filename if problem.filename2 is None else problem.filename2
    return None if name is None else os.fsdecode(name)


def _where(problem: OSError) -> str:
    name = _file(problem)
    if name is None:
        return "in TMPDIR, or /tmp"
    folder = Path(name).absolute().parent
    while not _is_there(folder):
        folder = folder.parent
    if problem.errno in FORBIDDEN:
        return f"the folder {folder} belongs to {owner(folder)}"
    mount = next(place for place in (folder, *folder.parents) if place.is_mount())
    return f"mounted at {mount}"


def _is_there(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False
