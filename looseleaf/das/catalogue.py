"""The backends without a service: local catalogues, and files on this machine."""

import difflib
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from looseleaf.das.query import Runs
from looseleaf.das.records import (
    BlockRecord,
    DatasetRecord,
    Record,
    SummaryRecord,
    only_valid,
)
from looseleaf.errors import LookupFailed
from looseleaf.stage_files import FileRecord, block_name, describe, read_catalogue


class Catalogue:
    """Looks in catalogues on this machine; the first that knows a dataset answers."""

    name = "catalogue"
    answers = frozenset({"file", "dataset", "block", "summary"})
    narrows: frozenset[str] = frozenset()

    def __init__(self, paths: Iterable[str | Path]) -> None:
        self.paths = [str(path) for path in paths]

    def check(self) -> None:
        """Raise `LookupFailed` if there is no catalogue to look in."""
        if not self.paths:
            raise LookupFailed(
                "no catalogue is given: das.catalogues is empty (the command takes --catalogue)"
            )

    @cached_property
    def _known(self) -> dict[str, list[FileRecord]]:
        known: dict[str, list[FileRecord]] = {}
        for path in self.paths:
            known = {**read_catalogue(path), **known}
        return known

    def records(
        self,
        field: str,
        dataset: str,
        status: str,
        runs: Runs | None = None,
        site: str | None = None,
    ) -> list[Record]:
        """The records of a dataset, or for `dataset` those that match; a catalogue's are valid.

        Raises `LookupFailed` naming the catalogues and what they know instead, and `QueryWrong` for
        datasets of another status than VALID.
        """
        only_valid(status, self.name)
        known = self._known
        dataset, _, block = dataset.partition("#")
        if field == "dataset":
            return [DatasetRecord(name, "VALID") for name in known if fnmatchcase(name, dataset)]
        if dataset not in known:
            raise self._unknown(dataset)
        files = known[dataset]
        if field == "file":
            return [file for file in files if not block or file.block == f"{dataset}#{block}"]
        valid = [file for file in files if file.valid]
        return [_summary(valid)] if field == "summary" else list(_blocks(valid))

    def _unknown(self, dataset: str) -> LookupFailed:
        near = difflib.get_close_matches(dataset, self._known, n=3, cutoff=0.5)
        hint = "; the nearest that it knows: " + ", ".join(near) if near else ""
        where = ", ".join(self.paths)
        return LookupFailed(f"dataset {dataset} is not in the catalogue ({where}){hint}")


def _summary(files: Sequence[FileRecord]) -> SummaryRecord:
    return SummaryRecord(
        files=len(files),
        events=total(file.events for file in files),
        blocks=len({file.block for file in files if file.block is not None}),
        lumis=None,
        bytes=total(file.bytes for file in files),
    )


def _blocks(files: Sequence[FileRecord]) -> Iterator[BlockRecord]:
    """The blocks of files, by name."""
    by_block: dict[str, list[FileRecord]] = {}
    for file in files:
        if file.block is not None:
            by_block.setdefault(file.block, []).append(file)
    for name, members in sorted(by_block.items()):
        yield BlockRecord(name, total(file.bytes for file in members), len(members))


def total(numbers: Iterable[int | None]) -> int | None:
    """The sum, or None where one of the numbers is unknown."""
    summed = 0
    for number in numbers:
        if number is None:
            return None
        summed += number
    return summed


def from_files(
    dataset: str, patterns: Sequence[str], root: str | Path, leave_out: Sequence[str] = ()
) -> list[FileRecord]:
    """Records of files on this machine, `patterns` being paths or globs relative to `root`.

    A file that is called as `a[1].root` is meant by that name, also where it reads as a glob. Every
    file is opened, for its events, and read once, for its checksum, but those that are left out,
    which may be unreadable. A pattern that matches nothing is a `LookupFailed`.
    """
    paths: list[Path] = []
    for pattern in patterns:
        place = Path(root) / pattern
        matching = [place] if os.path.isfile(place) else _matching(Path(root), pattern)
        if not matching:
            raise LookupFailed(
                f"dataset {dataset}: no file matches {place}; paths are relative to das.files_root"
            )
        paths += [path for path in matching if path not in paths]
    block = block_name(dataset)
    named = {os.path.relpath(path, root): path for path in paths}
    return [
        FileRecord(name, path.stat().st_size, None, None, block, url=str(path.resolve()))
        if name in leave_out
        else describe(path, name, block)
        for name, path in named.items()
    ]


def _matching(root: Path, pattern: str) -> list[Path]:
    """The files below `root` that match a glob; folders that exist are called as they are."""
    place = root / pattern
    if place.parent.is_dir():
        root, pattern = place.parent, place.name
    return sorted(root / name for name in glob.glob(pattern, root_dir=root))
