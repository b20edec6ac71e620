"""Opening NanoAOD files, with errors that name the file and what is the matter with it."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uproot

from looseleaf.errors import DataFileError, ReadFailed
from looseleaf.objects.branches import first_present

TREE = "Events"
# XRootD's own settings wait for half an hour; another address may be next on the list, and the
# whole list is tried again. A host that accepts and stays silent costs 30 s. What the user has set
# wins. They are read when its library is loaded.
XROOTD_PATIENCE = {
    "XRD_CONNECTIONWINDOW": "20",
    "XRD_CONNECTIONRETRY": "1",
    "XRD_REQUESTTIMEOUT": "120",
}


@dataclass(frozen=True)
class EventsFile:
    """An open file and its Events tree."""

    directory: uproot.ReadOnlyDirectory
    tree: uproot.TTree

    @property
    def bytes_read(self) -> int:
        """Bytes asked of the storage so far."""
        return int(self.directory.file.source.num_requested_bytes)

    @property
    def size(self) -> int:
        """Bytes that the file has, as its storage says."""
        return int(self.directory.file.source.num_bytes)

    @property
    def uuid(self) -> str:
        """The identity that ROOT gave the file."""
        return str(self.directory.file.uuid)

    def close(self) -> None:
        self.directory.close()


def open_file(url: str, name: str = TREE) -> EventsFile:
    """Open a NanoAOD file; `DataFileError` if it isn't there, is cut off or has no Events tree (or
    the one called `name`)."""
    if url.startswith("root://"):
        for setting, seconds in XROOTD_PATIENCE.items():
            os.environ.setdefault(setting, seconds)
    try:
        directory = uproot.open(url)
    except FileNotFoundError:
        raise DataFileError(f"{url}: no such file; was it moved or deleted?") from None
    except ImportError:
        raise DataFileError(
            f"{url}: reading it needs a package that is not installed; for root:// type: "
            "pip install xrootd fsspec-xrootd"
        ) from None
    except Exception as problem:
        raise _failure(url)(f"{url}: can't be opened as a ROOT file: {_brief(problem)}") from None
    try:
        tree = directory[name]
    except uproot.KeyInFileError:
        there = ", ".join(directory.keys(cycle=False, recursive=False)) or "nothing"
        directory.close()
        raise DataFileError(
            f"{url}: no {name} tree (the file holds {there}): is this NanoAOD?"
        ) from None
    except Exception as problem:
        directory.close()
        raise DataFileError(f"{url}: the {name} tree can't be read: {_brief(problem)}") from None
    return EventsFile(directory, tree)


@contextmanager
def open_events(url: str, name: str = TREE) -> Iterator[EventsFile]:
    """`open_file` for the length of a block."""
    file = open_file(url, name)
    try:
        yield file
    finally:
        file.close()


@contextmanager
def reading(url: str) -> Iterator[None]:
    """Turn whatever uproot raises while it reads `url` into a `DataFileError` naming the file."""
    try:
        yield
    except DataFileError:
        raise
    except Exception as problem:
        raise _failure(url)(
            f"{url}: can't be read to the end: {_brief(problem)}; "
            "is the file cut off or damaged? compare its size with the catalogue's"
        ) from None


def choose_branches(url: str, present: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """The branches of a file that answer a list of columns, each once; `A|B` means both if there.

    Raises `DataFileError` naming the file and every column that it lacks.
    """
    there = set(present)
    wanted = list(wanted)
    missing = [column for column in wanted if first_present(column, there) is None]
    if missing:
        names = ", ".join(column.replace("|", " or ") for column in missing)
        raise DataFileError(
            f"{url}: the {TREE} tree lacks {names}; drop what needs it from the analysis, "
            "or use files of a NanoAOD version that has it"
        )
    # two columns may have an alternative in common: written twice, it would get another name
    chosen = [name for column in wanted for name in column.split("|") if name in there]
    return list(dict.fromkeys(chosen))


def _failure(url: str) -> type[DataFileError]:
    """A file on this machine doesn't get better by waiting; one elsewhere may."""
    return ReadFailed if "://" in url else DataFileError


def _brief(problem: Exception) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return f"{type(problem).__name__}: {lines[0] if lines else 'no message'}"
