"""Looking a dataset up in local catalogues, and writing down what was found."""

import difflib
import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from looseleaf.errors import LookupFailed
from looseleaf.files import write_json
from looseleaf.records import FileRecord, block_name, describe, read_catalogue

FORMAT = "looseleaf-das/1"


def from_catalogues(dataset: str, catalogues: Iterable[str | Path]) -> list[FileRecord]:
    """The files of a dataset (its DAS name) in the first catalogue that knows it.

    Raises `LookupFailed` naming the catalogues and what they know instead.
    """
    known: list[str] = []
    asked = [str(path) for path in catalogues]
    for path in asked:
        datasets = read_catalogue(path)
        if dataset in datasets:
            return datasets[dataset]
        known.extend(datasets)
    where = ", ".join(asked) or "no catalogue at all: das.catalogues is empty"
    near = difflib.get_close_matches(dataset, known, n=3, cutoff=0.5)
    hint = "; the nearest that it knows: " + ", ".join(near) if near else ""
    raise LookupFailed(f"dataset {dataset} is not in the catalogue ({where}){hint}")


def from_files(dataset: str, patterns: Sequence[str], root: str | Path) -> list[FileRecord]:
    """Records of files on this machine, `patterns` being paths or globs relative to `root`.

    Every file is opened, for its events, and read once, for its checksum. A pattern that matches
    nothing is a `LookupFailed`.
    """
    paths: list[Path] = []
    for pattern in patterns:
        found = sorted(glob.glob(str(Path(root) / pattern)))
        if not found:
            raise LookupFailed(
                f"dataset {dataset}: no file matches {Path(root) / pattern}; "
                "paths are relative to das.files_root"
            )
        paths += [Path(name) for name in found if Path(name) not in paths]
    block = block_name(dataset)
    return [describe(path, os.path.relpath(path, root), block) for path in paths]


def check(dataset: str, records: Sequence[FileRecord], source: str) -> None:
    """Refuse an answer that can't be worked with: no files, a file twice, files without bytes."""
    if not records:
        raise LookupFailed(f"dataset {dataset}: {source} lists no files for it")
    name, times = Counter(record.name for record in records).most_common(1)[0]
    if times > 1:
        raise LookupFailed(f"dataset {dataset}: {source} lists {name} more than once")
    hollow = [record.name for record in records if record.valid and record.bytes == 0]
    if hollow:
        raise LookupFailed(f"dataset {dataset}: {source} says that {hollow[0]} has 0 bytes")


def total(numbers: Iterable[int | None]) -> int | None:
    """The sum, or None where one of the numbers is unknown."""
    known = list(numbers)
    return None if None in known else sum(known)


def lookup(
    dataset: str,
    output: str | Path,
    catalogues: Sequence[str | Path] = (),
    files: Sequence[str] = (),
    files_root: str | Path = ".",
) -> None:
    """Find a dataset's files and write them down as the target of the stage.

    The output records the query, the backend, the time and every file; invalid files are kept in
    it and left out of what follows.
    """
    if files:
        records = from_files(dataset, files, files_root)
        backend, source = "files", f"the folder {files_root}"
    else:
        records = from_catalogues(dataset, catalogues)
        backend, source = "catalogue", "the catalogue"
    check(dataset, records, source)
    valid = [record for record in records if record.valid]
    write_json(
        output,
        {
            "format": FORMAT,
            "dataset": dataset,
            "query": f"file dataset={dataset}",
            "instance": "local",
            "backend": backend,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "summary": {
                "files": len(valid),
                "invalid_files": len(records) - len(valid),
                "events": total(record.events for record in valid),
                "bytes": total(record.bytes for record in valid),
            },
            "files": [record.to_json() for record in records],
        },
    )
