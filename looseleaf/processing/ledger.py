"""The ledger of a dataset: what had to be processed, what was, and whether both agree."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from looseleaf.errors import Shortfall
from looseleaf.processing.fileset import EventsSource, Fileset
from looseleaf.stage_files import LEDGER_FORMAT

# the tolerance for sums in double precision, in a different order
RELATIVE_TOLERANCE = 1e-9


@dataclass(frozen=True)
class ChunkRecord:
    """The record of one chunk: the worker, the URL, the number of tries, and the cost.

    `read_s` is the time [s] for reading columns, out of its wall time.
    """

    file: str
    url: str
    start: int
    stop: int
    events: int
    sum_of_weights: float
    worker: str
    tries: int
    read_s: float
    cost: Mapping[str, float]


def ledger_of(
    fileset: Fileset, records: Iterable[ChunkRecord], peaks: Mapping[str, int]
) -> dict[str, Any]:
    """Compare the records of processed chunks with the fileset.

    `peaks` has the peak memory of each worker's process in bytes, when it summed results.

    Raises `Shortfall` naming the files and entry ranges that are missing or counted twice, or whose
    events or sums of weights differ from the manifest.
    """
    by_file: dict[str, list[ChunkRecord]] = {file.name: [] for file in fileset.files}
    for record in records:
        by_file[record.file].append(record)
    ordered: list[ChunkRecord] = []
    problems: list[str] = []
    for file in fileset.files:
        of_file = sorted(by_file[file.name], key=lambda record: (record.start, record.stop))
        ordered += of_file
        problems += _gaps(file, of_file)
        weights = math.fsum(record.sum_of_weights for record in of_file)
        scale = max(abs(file.sum_of_weights), abs(weights), 1e-300)
        if of_file and abs(weights - file.sum_of_weights) > RELATIVE_TOLERANCE * scale:
            problems.append(
                f"{file.name}: sum of weights {weights!r}, but the manifest says "
                f"{file.sum_of_weights!r}"
            )
    if problems:
        shown = problems[:10] + ([f"and {len(problems) - 10} more"] if len(problems) > 10 else [])
        raise Shortfall(f"dataset {fileset.dataset}: " + "; ".join(shown))
    return {
        "format": LEDGER_FORMAT,
        "dataset": fileset.dataset,
        "request_id": fileset.request_id,
        "original": dict(fileset.original),
        "expected": {
            "files": len(fileset.files),
            "events": sum(file.events for file in fileset.files),
            "sum_of_weights": math.fsum(file.sum_of_weights for file in fileset.files),
        },
        "processed": {
            "files": len({record.file for record in ordered})
            + sum(file.bare for file in fileset.files),
            "chunks": len(ordered),
            "events": sum(record.events for record in ordered),
            "sum_of_weights": math.fsum(record.sum_of_weights for record in ordered),
        },
        "sources": {file.name: file.source_url for file in fileset.files},
        "losses": [loss.to_json() for loss in fileset.losses],
        "empty_files": [file.name for file in fileset.files if file.events == 0],
        "workers": _workers(ordered, peaks),
        "chunks": [asdict(record) for record in ordered],
    }


def _gaps(file: EventsSource, records: Sequence[ChunkRecord]) -> Iterator[str]:
    """Missing and repeated ranges between the first and the last entry of a file."""
    if file.bare:
        return
    if not records:
        yield f"{file.name} entries 0-{file.events} were not processed"
        return
    reached = 0
    for record in records:
        if record.start > reached:
            yield f"{file.name} entries {reached}-{record.start} were not processed"
        elif record.start < reached:
            yield f"{file.name} entries {record.start}-{min(reached, record.stop)} counted twice"
        if record.events != record.stop - record.start:
            yield f"{file.name} entries {record.start}-{record.stop} gave {record.events} events"
        reached = max(reached, record.stop)
    if reached < file.events:
        yield f"{file.name} entries {reached}-{file.events} were not processed"


def _workers(
    records: Iterable[ChunkRecord], peaks: Mapping[str, int]
) -> dict[str, dict[str, float]]:
    """By worker, the number of chunks and the peak of its memory up to its last sum."""
    chunks = Counter(record.worker for record in records)
    return {
        worker: {"chunks": chunks[worker], "peak_rss_bytes": peaks[worker]}
        for worker in sorted(peaks)
    }
