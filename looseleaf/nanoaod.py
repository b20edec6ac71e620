"""Opening NanoAOD files, with errors that name the file and what is the matter with it."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uproot

from looseleaf.errors import DataFileError, brief, failure_at
from looseleaf.objects.branches import EFT_COEFFICIENTS, first_present
from looseleaf.parquet import ParquetEvents, is_parquet

TREE = "Events"
# bytes asked for at a time where a file is read whole
BLOCK = 16 << 20
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
    """An open ROOT file and its Events tree, a TTree or an RNTuple."""

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

    def blocks(self) -> Iterator[bytes]:
        """The bytes of the file, from first to last."""
        source = self.directory.file.source
        for start in range(0, self.size, BLOCK):
            stop = min(start + BLOCK, self.size)
            yield bytes(source.chunk(start, stop).raw_data)

    def said(self, key: str) -> Any:
        """The JSON that stands in the file under a key; None if there is none."""
        return json.loads(str(self.directory[key])) if key in self.directory else None

    def close(self) -> None:
        self.directory.close()


Events = EventsFile | ParquetEvents


def open_file(url: str, name: str = TREE) -> Events:
    """Open a NanoAOD file, ROOT or, where it ends in .parquet, Parquet; `DataFileError` if it isn't
    there, is cut off or has no Events tree (or the one called `name`)."""
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
        # a name alone would be taken for "file:tree" where it has a colon
        directory = uproot.open({url: None})
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
        raise DataFileError(f"{url}: the {name} tree can't be read: {brief(problem)}") from None
    try:
        _check_closed(directory, url)
    except BaseException:
        directory.close()
        raise
    return EventsFile(directory, tree)


def _check_closed(directory: uproot.ReadOnlyDirectory, url: str) -> None:
    """Raise `DataFileError` for a ROOT file whose writer didn't come to its end.

    It writes the list of free segments last, and where this stands into the head, which says 0 as
    long as it hasn't been written. What a writer that was stopped leaves can be read as far as
    its last autosave.
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
def open_events(url: str, name: str = TREE) -> Iterator[Events]:
    """`open_file` for the length of a block."""
    file = open_file(url, name)
    try:
        yield file
    finally:
        file.close()


def choose_branches(url: str, present: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """The branches of a file that answer a list of columns, each once; `A|B` means both if there.

    Raises `DataFileError` naming the file and every column that it lacks.
    """
    there = set(present)
    wanted = list(wanted)
    missing = [column for column in wanted if first_present(column, there) is None]
    if missing:
        names = ", ".join(column.replace("|", " or ") for column in missing)
        why = "drop what needs it from the analysis, or use files of a NanoAOD version that has it"
        if missing == [EFT_COEFFICIENTS]:
            why = "its dataset declares Wilson coefficients (wc_names, WCnames in a sample's file)"
        raise DataFileError(f"{url}: the {TREE} tree lacks {names}; {why}")
    # two columns may have an alternative in common: written twice, it would get another name
    chosen = [name for column in wanted for name in column.split("|") if name in there]
    return list(dict.fromkeys(chosen))
