"""The stage's work: looking a dataset up, and writing its files down as a snapshot."""

import difflib
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from looseleaf.das.ask import Answer, Asking, ask
from looseleaf.das.catalogue import from_files, total
from looseleaf.das.query import parse
from looseleaf.dataset_names import parts_of, unextended, unversioned
from looseleaf.errors import DataFileError, LookupFailed
from looseleaf.files import write_json
from looseleaf.stage_files import SNAPSHOT_FORMAT, FileRecord, read_snapshot

CHANGES = ("added", "removed", "invalidated", "left_out", "altered")


def check(dataset: str, records: Sequence[FileRecord], source: str) -> None:
    """Refuse an answer that can't be worked with: no files, a file twice, files without bytes."""
    if not records:
        raise LookupFailed(f"dataset {dataset}: {source} lists no files for it")
    name, times = Counter(record.name for record in records).most_common(1)[0]
    if times > 1:
        raise LookupFailed(f"dataset {dataset}: {source} lists {name} more than once")
    hollow = [record.name for record in records if record.used and record.bytes == 0]
    if hollow:
        raise LookupFailed(
            f"dataset {dataset}: {source} says that {hollow[0]} has 0 bytes; the dataset's "
            "leave_out can name it"
        )
    if not any(record.valid for record in records):
        raise LookupFailed(f"dataset {dataset}: {source} marks all of its files as invalid")
    if not any(record.used for record in records):
        raise LookupFailed(f"dataset {dataset}: leave_out names all of its valid files")
    check_copies(dataset, records)


def check_copies(dataset: str, records: Sequence[FileRecord]) -> None:
    """Refuse a file that is there under two names: size, checksum and events are the same."""
    seen: dict[tuple[int, str, int], str] = {}
    for record in records:
        if not record.used or not record.events:
            continue
        if record.bytes is None or record.adler32 is None:
            continue
        key = (record.bytes, record.adler32, record.events)
        if key in seen:
            raise LookupFailed(
                f"dataset {dataset}: {seen[key]} and {record.name} are the same file ({key[0]} "
                f"bytes, adler32 {key[1]}): its {key[2]} events would count twice; the dataset's "
                "leave_out can name one of them"
            )
        seen[key] = record.name


def leaving_out(
    dataset: str, records: Sequence[FileRecord], names: Sequence[str]
) -> list[FileRecord]:
    """The records, those of `names` marked; `LookupFailed` for a name that isn't among them."""
    known = [record.name for record in records]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=2)
            hint = f"; did you mean {' or '.join(near)}?" if near else ""
            raise LookupFailed(f"dataset {dataset}: leave_out: it has no file {name!r}{hint}")
    return [replace(record, left_out=record.name in names) for record in records]


def check_kindred(pattern: str, datasets: Sequence[str]) -> None:
    """Refuse a pattern whose datasets can't be one: they would be weighted or counted wrongly.

    They may be parts (extensions of a simulation, eras of a year of data) of one primary dataset
    and tier; not of another campaign, year or processing, nor two versions of the same.
    """
    odd = [name for name in datasets if name.strip("/").count("/") != 2]
    if odd:
        raise LookupFailed(
            f"dataset {pattern} matches {odd[0]!r}, which isn't /primary/process/tier"
        )
    parts = [parts_of(name) for name in datasets]
    # Run2018A of data is of the year 2018; the era of simulation is its campaign
    campaigns = [re.sub(r"^(Run\d{4})[A-Z]$", r"\1", part[1].split("-")[0]) for part in parts]
    differing = {
        "primary datasets": {part[0] for part in parts},
        "tiers": {part[2] for part in parts},
        "campaigns or years": set(campaigns),
        # what was done to the same events, without the number of an extension
        "processings": {unextended(part[1]).partition("-")[2] for part in parts},
    }
    problem = next((what for what, names in differing.items() if len(names) > 1), None)
    if problem is None and len({unversioned(part[1]) for part in parts}) < len(parts):
        problem = "versions of the same dataset"
    if problem is not None:
        raise LookupFailed(
            f"dataset {pattern} matches different {problem}, which can't be processed as one; "
            "declare them apart in config/datasets:\n  " + "\n  ".join(datasets)
        )


def difference(before: Sequence[FileRecord], after: Sequence[FileRecord]) -> dict[str, list[str]]:
    """The names of the files that a refresh added, removed, marked as invalid, left out or
    altered."""
    old = {record.name: record for record in before}
    new = {record.name: record for record in after}
    both = [name for name in new if name in old]
    return {
        "added": [n for n in new if new[n].used and (n not in old or not old[n].used)],
        "removed": [name for name in old if name not in new],
        "invalidated": [n for n in both if old[n].valid and not new[n].valid],
        "left_out": [n for n in both if new[n].left_out and not old[n].left_out],
        "altered": [
            n for n in both if new[n].used and new[n] != replace(old[n], valid=True, left_out=False)
        ],
    }


def lookup(
    dataset: str,
    output: str | Path,
    catalogues: Sequence[str | Path] = (),
    files: Sequence[str] = (),
    files_root: str | Path = ".",
    asking: Asking | None = None,
    leave_out: Sequence[str] = (),
) -> None:
    """Find a dataset's files and write them down as the target of the stage.

    `files` on this machine are described; else a backend is asked, the local `catalogues` unless
    `asking` says otherwise. The output records the query, the instance, the backend, the time,
    the datasets that a pattern stands for, why `auto` passed over other backends, and every
    file; invalid files and those that `leave_out` names are kept in it, marked, and not read.

    Where an earlier snapshot of the dataset stands, the new one says what changed since; if
    nothing did, the earlier one stays, with the time at which the list was first seen.

    Raises `LookupFailed`, with the dataset and what is the matter.
    """
    asking = replace(asking or Asking("catalogue"), catalogues=[str(path) for path in catalogues])
    query = f"file dataset={dataset}"
    if files:
        records = from_files(dataset, files, files_root, leave_out)
        source = f"the folder {files_root}"
        source_of: dict[str, Any] = {"instance": "local", "backend": "files", "datasets": [dataset]}
    else:
        answer = ask(parse(query), asking)
        records = _files_of(dataset, answer)
        source = f"the backend {answer.backend}"
        source_of = {
            "instance": answer.instance,
            "backend": answer.backend,
            "datasets": list(answer.records),
            "passed_over": dict(answer.passed_over),
        }
    records = leaving_out(dataset, records, leave_out)
    check(dataset, records, source)
    used = [record for record in records if record.used]
    snapshot = {
        "format": SNAPSHOT_FORMAT,
        "dataset": dataset,
        "query": query,
        **source_of,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "summary": {
            "files": len(used),
            "invalid_files": sum(not record.valid for record in records),
            "left_out_files": sum(record.left_out for record in records),
            "events": total(record.events for record in used),
            "bytes": total(record.bytes for record in used),
        },
        "files": [record.to_json() for record in records],
    }
    write_json(output, _since(Path(output), snapshot, records))


def _files_of(dataset: str, answer: Answer) -> list[FileRecord]:
    check_kindred(dataset, list(answer.records))
    return [
        record
        for records in answer.records.values()
        for record in records
        if isinstance(record, FileRecord)
    ]


def _since(
    output: Path, snapshot: Mapping[str, Any], records: Sequence[FileRecord]
) -> Mapping[str, Any]:
    """The snapshot with its changes against the one at `output`, or that one if there are none."""
    try:
        before, old = read_snapshot(output)
    except DataFileError:
        # none, or one that can't tell anything
        return snapshot
    if before["dataset"] != snapshot["dataset"]:
        return snapshot
    changes = difference(old, records)
    aside = ("time", "changes", "passed_over")
    if {k: v for k, v in before.items() if k not in aside} == {
        k: v for k, v in snapshot.items() if k not in aside
    }:
        return before
    counts = ", ".join(f"{len(changes[kind])} {kind}" for kind in CHANGES if changes[kind])
    change = f"{snapshot['dataset']} since {before['time']}: {counts or 'the same files'}"
    print(f"das: {change}; see {output}", file=sys.stderr)
    return {**snapshot, "changes": {"since": before["time"], **changes}}
