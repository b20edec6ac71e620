"""The ledger of a target: what was to be processed, what was, and whether the two agree."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from looseleaf.errors import Shortfall
from looseleaf.processing.fileset import Chunk, Fileset

FORMAT = "looseleaf-ledger/1"
# sums in double precision over the same numbers, in another order
RELATIVE_TOLERANCE = 1e-9


@dataclass(frozen=True)
class ChunkRecord:
    """What was done with one chunk: where, from which URL, and at what cost."""

    file: str
    url: str
    start: int
    stop: int
    events: int
    sum_of_weights: float
    worker: str
    cost: Mapping[str, float]


def ledger_of(
    fileset: Fileset, chunks: Sequence[Chunk], records: Iterable[ChunkRecord]
) -> dict[str, Any]:
    """Hold the records of processed chunks against the fileset.

    Raises `Shortfall` naming the files and entry ranges that are missing, counted twice or
    whose events or sums of weights differ from the manifest's.
    """
    done: dict[tuple[str, int, int], ChunkRecord] = {}
    problems = []
    for record in records:
        key = (record.file, record.start, record.stop)
        if key in done:
            problems.append(f"{record.file} entries {record.start}-{record.stop} counted twice")
        done[key] = record
    for chunk in chunks:
        record = done.get((chunk.file.name, chunk.start, chunk.stop))
        where = f"{chunk.file.name} entries {chunk.start}-{chunk.stop}"
        if record is None:
            problems.append(f"{where} were not processed")
        elif record.events != chunk.events:
            problems.append(f"{where} gave {record.events} events")
    for file in fileset.files:
        mine = [record for record in done.values() if record.file == file.name]
        found = math.fsum(record.sum_of_weights for record in mine)
        scale = max(abs(file.sum_of_weights), abs(found), 1e-300)
        if mine and abs(found - file.sum_of_weights) > RELATIVE_TOLERANCE * scale:
            problems.append(
                f"{file.name}: sum of weights {found!r}, the manifest says {file.sum_of_weights!r}"
            )
    if problems:
        shown = problems[:10] + ([f"and {len(problems) - 10} more"] if len(problems) > 10 else [])
        raise Shortfall(f"dataset {fileset.dataset}: " + "; ".join(shown))
    ordered = [done[chunk.file.name, chunk.start, chunk.stop] for chunk in chunks]
    return {
        "format": FORMAT,
        "dataset": fileset.dataset,
        "request_id": fileset.request_id,
        "original": dict(fileset.original),
        "expected": {
            "files": len(fileset.files),
            "chunks": len(chunks),
            "events": sum(file.events for file in fileset.files),
            "sum_of_weights": math.fsum(file.sum_of_weights for file in fileset.files),
        },
        "processed": {
            "files": len({record.file for record in ordered}),
            "chunks": len(ordered),
            "events": sum(record.events for record in ordered),
            "sum_of_weights": math.fsum(record.sum_of_weights for record in ordered),
        },
        "sources": {file.name: file.source_url for file in fileset.files},
        "empty_files": [file.name for file in fileset.files if file.events == 0],
        "chunks": [asdict(record) for record in ordered],
    }
