"""Removing files and folders of the user's own from places that others may write to."""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from looseleaf.errors import LooseleafError
from looseleaf.files import owner
from looseleaf.lease import FILE, leased

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class Stays(LooseleafError):
    """A thing isn't one that may be removed."""


@dataclass(frozen=True)
class Left:
    """A file or folder that was left behind, `inside` the folder `root`, and why it can go.

    `bytes` is its size, `since` the time of its last change (seconds of the epoch). `device` and
    `inode` say later that it is the same still. `request` is the folder of the request that it is,
    or belongs to, which no run may hold when it is removed.
    """

    root: Path
    inside: Path
    why: str
    bytes: int
    since: float
    device: int
    inode: int
    request: Path | None = None

    @classmethod
    def of(cls, root: Path, inside: Path, why: str, request: Path | None = None) -> "Left":
        """A thing as it is now. Raises `Stays` for a link, and if a part of it belongs to another
        user."""
        path = root / inside
        about = path.lstat()
        if stat.S_ISLNK(about.st_mode):
            raise Stays(f"{path}: is a symbolic link, so it stays")
        size, since = 0, 0.0
        for one in [path, *_within(path)]:
            of_one = one.lstat()
            if of_one.st_uid != os.geteuid():
                raise Stays(f"{one}: belongs to the user {owner(one)}, so {path} stays")
            size += 0 if stat.S_ISDIR(of_one.st_mode) else of_one.st_size
            since = max(since, of_one.st_mtime)
        return cls(root, inside, why, size, since, about.st_dev, about.st_ino, request)

    @property
    def path(self) -> Path:
        return self.root / self.inside

    @property
    def identity(self) -> tuple[Path, int, int]:
        """What is another one for another thing at the same place."""
        return self.path, self.device, self.inode


def remove(left: Left) -> None:
    """Remove what was left.

    Raises `Stays` if another thing is in its place by now or a link leads there, `LooseleafError`
    if a run holds its request, and `OSError` if the system refuses.
    """
    with _opened(left.root, left.inside.parent) as above:
        name = left.inside.name
        about = os.stat(name, dir_fd=above, follow_symlinks=False)
        if (about.st_dev, about.st_ino) != (left.device, left.inode):
            raise Stays(f"{left.path}: is another one by now, so it stays")
        if left.request is None:
            _remove(name, above)
        elif left.request != left.path:
            with leased(left.request):
                _remove(name, above)
        else:
            with leased(left.request):
                _empty(name, above)
            # another run may have taken it meanwhile
            with suppress(OSError):
                os.rmdir(name, dir_fd=above)


def _empty(name: str, above: int) -> None:
    """Remove all that is in a folder but for the lease, which is held."""
    within = os.open(name, FOLDER, dir_fd=above)
    try:
        # if it stops halfway, the manifest no longer says that the rest is complete
        for one in sorted(os.listdir(within), key=lambda one: one != "manifest.json"):
            if one != FILE:
                _remove(one, within)
    finally:
        os.close(within)


def _remove(name: str, above: int) -> None:
    """Remove a file, or a folder with what is in it, from an open folder."""
    if stat.S_ISDIR(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
        shutil.rmtree(name, dir_fd=above)
    else:
        os.unlink(name, dir_fd=above)


@contextmanager
def _opened(root: Path, inside: Path) -> Iterator[int]:
    """An open folder inside `root`, reached through no symbolic link."""
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in inside.parts:
            below = os.open(part, FOLDER, dir_fd=handle)
            os.close(handle)
            handle = below
        yield handle
    finally:
        os.close(handle)


def _within(path: Path) -> Iterator[Path]:
    """All that is in a folder; links aren't followed."""
    for place, folders, files in os.walk(path):
        yield from (Path(place, name) for name in (*folders, *files))
