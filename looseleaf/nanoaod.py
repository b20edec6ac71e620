"""Opening NanoAOD files, with errors that name the file and say what is wrong with it."""

import json
import os
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from queue import Queue
from typing import Any

import uproot

from looseleaf.baskets import Walked, walked
from looseleaf.errors import DataFileError, brief, failure_at
from looseleaf.objects.branches import EFT_COEFFICIENTS, first_present
from looseleaf.parquet import ParquetEvents, is_parquet

TREE = "Events"
# the bytes read at a time from a whole file
BLOCK = 16 << 20
# XRootD's default waits for half an hour, but another address may be next on the list, and the
# whole list is tried again. A host that accepts and stays silent costs 30 s. The user's own
# settings have priority. They are read when XRootD's library is loaded.
XROOTD_PATIENCE = {
    "XRD_CONNECTIONWINDOW": "20",
    "XRD_CONNECTIONRETRY": "1",
    "XRD_REQUESTTIMEOUT": "120",
}


class EventsFile:
    """An open ROOT file and its tree `name`, a TTree or an RNTuple."""

    def __init__(self, directory: uproot.ReadOnlyDirectory, name: str, url: str) -> None:
        self.directory, self.name, self.url = directory, name, url
        self._local: int | None = None
        self._read_here, self._buffer = 0, bytearray()
        if "://" not in url:
            self._local = os.open(url, os.O_RDONLY | os.O_CLOEXEC)
            self._closing = weakref.finalize(self, os.close, self._local)

    @cached_property
    def tree(self) -> uproot.TTree:
        """The tree with all of its branches, for which a wide file takes half a second."""
        return self.directory[self.name]

    @cached_property
    def walked(self) -> Walked | None:
        """The metadata of the tree without uproot's objects; None if its form isn't known."""
        return walked(self.directory, self.name)

    @property
    def names(self) -> list[str]:
        """The names of the tree's columns."""
        if self.walked is not None:
            return self.walked.names
        return [str(name) for name in self.tree.keys(recursive=False)]

    @property
    def num_entries(self) -> int:
        """The number of events."""
        return self.walked.entries if self.walked is not None else int(self.tree.num_entries)

    @property
    def bytes_read(self) -> int:
        """The bytes requested from the storage so far."""
        return int(self.directory.file.source.num_requested_bytes) + self._read_here

    def read(self, places: Sequence[tuple[int, int]]) -> Iterator[memoryview]:
        """The bytes at some places, (position, size), of the file.

        They are valid until the next ones are asked for.
        """
        if self._local is None:
            ranges = [(position, position + size) for position, size in places]
            for chunk in self.directory.file.source.chunks(ranges, Queue()):
                yield memoryview(chunk.raw_data)
            return
        for position, size in places:
            # one buffer that stays in the processor's cache
            if len(self._buffer) < size:
                self._buffer = bytearray(size)
            into = memoryview(self._buffer)[:size]
            read = os.preadv(self._local, [into], position)
            self._read_here += read
            yield into[:read]

    def forget(self) -> None:
        """Keep no room for what is read."""
        self._buffer = bytearray()

    @property
    def size(self) -> int:
        """The size of the file in bytes, according to its storage."""
        return int(self.directory.file.source.num_bytes)

    @property
    def uuid(self) -> str:
        """The identity that ROOT gave the file."""
        return str(self.directory.file.uuid)

    def blocks(self) -> Iterator[bytes]:
        """The bytes of the file in blocks, from first to last."""
        source = self.directory.file.source
        for start in range(0, self.size, BLOCK):
            stop = min(start + BLOCK, self.size)
            yield bytes(source.chunk(start, stop).raw_data)

    def said(self, key: str) -> Any:
        """The JSON stored in the file under a key; None if there is none."""
        return json.loads(str(self.directory[key])) if key in self.directory else None

    def close(self) -> None:
        """Close the file."""
        self.directory.close()
        if self._local is not None:
            self._closing()


Events = EventsFile | ParquetEvents


def open_file(url: str, name: str = TREE, walk: bool = False) -> Events:
    """Open a NanoAOD file: Parquet if its name ends in .parquet, else ROOT.

    With `walk`, the branches of a tree whose metadata can be walked over are made when its `tree`
    is used. Raises `DataFileError` if it doesn't exist, is cut off or has no tree called `name`.
    """
    if url.startswith("root://"):
        for setting, seconds in XROOTD_PATIENCE.items():
            os.environ.setdefault(setting, seconds)
    parquet = is_parquet(url)
    try:
        if parquet:
            file = ParquetEvents(url, name)
            if name in file.directory:
                return file
            raise DataFileError(
                f"{url}: no {name} tree (the file holds {', '.join(file.directory)})"
            )
        # a plain name would be split as "file:tree" at a colon
        directory = uproot.open({url: None}, array_cache=None)
    except DataFileError:
        raise
    except FileNotFoundError:
        raise DataFileError(f"{url}: no such file; was it moved or deleted?") from None
    except ImportError:
        raise DataFileError(
            f"{url}: reading it needs a package that is not installed; for root:// type: "
            "pip install xrootd fsspec-xrootd"
        ) from None
    except Exception as problem:
        kind = "Parquet" if parquet else "ROOT"
        # the first bytes of what is no such file are not for everybody who may name it
        none = "not a ROOT file" in str(problem)
        why = "it doesn't begin as one" if none else brief(problem)
        raise failure_at(url)(f"{url}: can't be opened as a {kind} file: {why}") from None
    root = EventsFile(directory, name, url)
    try:
        if not (walk and name in directory and root.walked is not None):
            _ = root.tree
        _check_closed(directory, url)
    except uproot.KeyInFileError:
        trees = ", ".join(directory.keys(cycle=False, recursive=False)) or "nothing"
        root.close()
        raise DataFileError(
            f"{url}: no {name} tree (the file holds {trees}): is this NanoAOD?"
        ) from None
    except DataFileError:
        root.close()
        raise
    except Exception as problem:
        root.close()
        raise DataFileError(f"{url}: the {name} tree can't be read: {brief(problem)}") from None
    return root


def _check_closed(directory: uproot.ReadOnlyDirectory, url: str) -> None:
    """Raise `DataFileError` for a ROOT file that its writer didn't close.

    A writer stores the list of free segments last, and its position in the header, which has 0
    there until then. A file of a writer that was stopped can be read up to its last autosave.
    """
    file = directory.file
    size = file.source.num_bytes
    if file.fSeekFree == 0:
        raise DataFileError(
            f"{url}: was not closed by its writer, which was stopped: events after its last "
            "autosave are lost. Make it again, or leave it out (leave_out of the dataset)"
        )
    if size is not None and file.fEND > size:
        raise failure_at(url)(
            f"{url}: is cut off: it has {size} bytes of {file.fEND}. Copy it again, or leave it "
            "out (leave_out of the dataset)"
        )


@contextmanager
def open_events(url: str, name: str = TREE, walk: bool = False) -> Iterator[Events]:
    """`open_file` as a context manager."""
    file = open_file(url, name, walk)
    try:
        yield file
    finally:
        file.close()


def choose_branches(url: str, present: Iterable[str], columns: Iterable[str]) -> list[str]:
    """The branches of a file for a list of columns, each once; `A|B` selects both if both exist.

    Raises `DataFileError` naming the file and every column that it lacks.
    """
    branches = set(present)
    columns = list(columns)
    missing = [column for column in columns if first_present(column, branches) is None]
    if missing:
        names = ", ".join(column.replace("|", " or ") for column in missing)
        why = "remove it from the analysis, or use files of a NanoAOD version that has it"
        if missing == [EFT_COEFFICIENTS]:
            why = "its dataset declares Wilson coefficients (wc_names, WCnames in a sample's file)"
        raise DataFileError(f"{url}: the {TREE} tree lacks {names}; {why}")
    # two columns may share an alternative, and a branch written twice would get another name
    chosen = [name for column in columns for name in column.split("|") if name in branches]
    return list(dict.fromkeys(chosen))
