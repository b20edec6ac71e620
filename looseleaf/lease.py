"""One run at a time in a folder: a file that says who holds it, and is renewed while it is held.

Snakemake locks the working folder. Several of them may share results or a volume, also from other
machines, over file systems without locks. Making a file exclusively works on all of them. On the
same machine the system knows whether the holder still runs. A holder on another machine has gone if
the file isn't renewed any more, by our own clock: those of two machines may differ.
"""

import getpass
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from looseleaf.errors import LooseleafError
from looseleaf.files import owner, whole
from looseleaf.parents import lives, name_of_this

FILE = ".lease"
# seconds between renewals, and without one until a holder on another machine has gone
RENEW_S, GONE_S = 5.0, 30.0
# the next user's run has to know whose this is, whatever the umask
MODE = 0o644


@dataclass(frozen=True)
class Holder:
    """Who holds a folder: host, user, process (its number and start), since when (seconds of the
    epoch), and how often it was renewed."""

    host: str
    user: str
    process: str
    since: float
    renewals: int = 0

    @classmethod
    def this(cls) -> "Holder":
        return cls(socket.gethostname(), _user(), name_of_this(), time.time())

    def __str__(self) -> str:
        number = self.process.partition(":")[0]
        return f"user {self.user}, process {number} on {self.host}, for {age(self.since)}"


@contextmanager
def leased(folder: Path) -> Iterator[None]:
    """Hold a folder for the length of the block.

    Raises `LooseleafError` naming host, user, process and age if another run holds it. What was
    left by one that was killed is taken over: at once on its own machine, after half a minute
    without a renewal on another.
    """
    lease = Lease(folder)
    lease.take()
    try:
        yield
    finally:
        lease.release()


class Lease:
    """`leased`, for where there is no block: `take`, and `release` in the end."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / FILE
        self._own = Holder.this()
        self._released = threading.Event()
        self._renewing = threading.Thread(target=self._renew, daemon=True)

    def take(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        while not self._made():
            other = self.holder()
            if other is not None and not self.gone(other):
                raise LooseleafError(
                    f"{self._folder}: another run uses it ({other}). Wait until it has ended, or "
                    "use another folder. If there is no such run any more, delete "
                    f"{self._path}"
                )
            self._remove(other)
        self._renewing.start()

    def release(self) -> None:
        """Give the folder up; nothing happens if it isn't held."""
        if not self._renewing.is_alive():
            return
        self._released.set()
        self._renewing.join()
        # what can't be removed any more is taken over by the next run
        with suppress(OSError):
            if self._is_own(self.holder()):
                self._path.unlink()

    def _made(self) -> bool:
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
        except FileExistsError:
            return False
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(asdict(self._own), file)
            _open_to_read(self._path)
        except OSError as problem:
            with suppress(OSError):
                self._path.unlink()
            problem.filename = problem.filename or str(self._path)
            raise
        return True

    def _remove(self, other: Holder | None) -> None:
        """Remove the file of a holder that has gone; of several runs that try one succeeds."""
        stale = self._path.with_name(f"{FILE}.{self._own.host}.{os.getpid()}")
        with suppress(FileNotFoundError):
            self._path.rename(stale)
            if self._read(stale) == other:
                stale.unlink()
            else:
                # another run has been faster, and this is its file
                stale.rename(self._path)

    def holder(self) -> Holder | None:
        """Who the file says holds it; None if it has gone, or stays unreadable for a while."""
        for _ in range(10):
            if (holder := self._read(self._path)) is not None or not self._path.exists():
                return holder
            # just made, and not yet written
            time.sleep(0.2)
        return None

    def _read(self, path: Path) -> Holder | None:
        try:
            return Holder(**json.loads(path.read_text()))
        except PermissionError:
            raise LooseleafError(
                f"{self._folder}: a run of the user {owner(path)} uses it. Wait until it has "
                "ended, or use another folder. If there is no such run any more, have "
                f"{path} deleted"
            ) from None
        except (OSError, ValueError, TypeError):
            return None

    def _is_own(self, other: Holder | None) -> bool:
        return other is not None and replace(other, renewals=0) == self._own

    def gone(self, other: Holder) -> bool:
        """Whether a holder no longer runs, or no longer renews the file."""
        if other.host == self._own.host:
            return not lives(other.process)
        until = time.monotonic() + GONE_S
        while time.monotonic() < until:
            time.sleep(RENEW_S / 5)
            if self.holder() != other:
                return False
        return True

    def _renew(self) -> None:
        renewals = 0
        while not self._released.wait(RENEW_S):
            renewals += 1
            # a full disk ends no run here
            with suppress(OSError, LooseleafError):
                other = self.holder()
                if other is not None and not self._is_own(other):
                    # this machine stood still, or its network
                    print(
                        f"warning: {self._folder}: another run has taken it over ({other}), as if "
                        "this one had ended: end one of them",
                        file=sys.stderr,
                    )
                    return
                with whole(self._path, durable=False) as part:
                    part.write_text(json.dumps(asdict(replace(self._own, renewals=renewals))))
                    _open_to_read(part)


def _open_to_read(path: Path) -> None:
    # some file systems keep no modes
    with suppress(PermissionError):
        path.chmod(MODE)


def held_by(folder: Path) -> Holder | None:
    """Who holds a folder; None if nobody does, or only one who has gone.

    For a holder on another machine it takes up to half a minute to find that out. Raises
    `LooseleafError` if another user holds it and lets nobody read who.
    """
    lease = Lease(folder)
    other = lease.holder()
    return None if other is None or lease.gone(other) else other


def age(since: float) -> str:
    """How long ago a time (seconds of the epoch) is, in its largest unit."""
    seconds = max(0.0, time.time() - since)
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def sweep(folder: Path, apart: Callable[[str], bool] = lambda name: False) -> int:
    """Remove what killed jobs left half written below a folder that this run holds, but for what
    is in folders with names that are `apart`; the number of files. Those that others have closed
    stay."""
    removed = 0
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not apart(name)]
        for name in files:
            if name.startswith(".part-"):
                with suppress(OSError):
                    Path(place, name).unlink()
                    removed += 1
    return removed
