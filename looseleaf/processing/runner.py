"""Running a coffea processor over filesets on a Dask client."""

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import awkward as ak
import distributed
import numpy as np
from coffea.nanoevents import NanoAODSchema, NanoEventsFactory
from coffea.processor import ProcessorABC, accumulate
from distributed.scheduler import NoWorkerError

from looseleaf.cost import Stopwatch
from looseleaf.errors import DataFileError, LooseleafError
from looseleaf.nanoaod import TREE, EventsFile, open_file, reading
from looseleaf.objects.branches import first_present
from looseleaf.processing.fileset import Chunk, Fileset, chunks_of, tasks_of
from looseleaf.processing.ledger import ChunkRecord, ledger_of
from looseleaf.progress import Progress


class ProcessingFailed(LooseleafError):
    """A processor raised; the message names dataset, file, entries and the line at fault."""


@dataclass(frozen=True)
class Processed:
    """The result for one dataset: the processor's accumulator and the ledger."""

    accumulator: dict[str, Any]
    ledger: dict[str, Any]


class SkimmedNanoAOD(NanoAODSchema):
    """NanoAOD of which a transform kept some columns.

    Missing cross-references are meant, and the primary vertex may come without its position.
    """

    warn_missing_crossrefs = False
    mixins: ClassVar[dict[str, str]] = {**NanoAODSchema.mixins, "PV": "NanoCollection"}
    aliases: ClassVar[Mapping[str, Sequence[str]]] = {}

    def __init__(self, base_form: dict[str, Any], version: str = "latest") -> None:
        """The branches, those that stand in for others also under the others' names."""
        forms = dict(zip(base_form["fields"], base_form["contents"], strict=True))
        for name, others in self.aliases.items():
            found = first_present("|".join([name, *others]), forms)
            if found is not None:
                forms[name] = forms[found]
        super().__init__(
            {**base_form, "fields": list(forms), "contents": list(forms.values())}, version
        )


@lru_cache(maxsize=16)
def _opened(url: str, uuid: str) -> EventsFile:
    """A file kept open by this worker: on wide files the metadata costs more than a chunk."""
    file = open_file(url)
    if file.uuid != uuid:
        found = file.uuid
        file.close()
        raise DataFileError(f"{url}: is another file (uuid {found}) than the manifest's ({uuid})")
    return file


def events_of(chunk: Chunk, metadata: Mapping[str, Any]) -> Any:
    """The NanoEvents of a chunk; columns are read when the processor touches them."""
    file = _opened(chunk.file.url, chunk.file.uuid)
    if file.tree.num_entries != chunk.file.events:
        raise DataFileError(
            f"{chunk.file.url}: holds {file.tree.num_entries} events, the manifest says "
            f"{chunk.file.events}"
        )
    return NanoEventsFactory.from_root(
        file.directory,
        treepath=TREE,
        entry_start=chunk.start,
        entry_stop=chunk.stop,
        schemaclass=type("Aliased", (SkimmedNanoAOD,), {"aliases": metadata.get("aliases", {})}),
        metadata=dict(metadata),
        mode="virtual",
    ).events()


def _process(
    processor: ProcessorABC, chunk: Chunk, metadata: Mapping[str, Any]
) -> tuple[dict[str, Any], ChunkRecord]:
    watch = Stopwatch()
    before = _opened(chunk.file.url, chunk.file.uuid).bytes_read
    events = events_of(chunk, metadata)
    with reading(chunk.file.url):
        weights = (
            float(ak.to_numpy(events.genWeight).sum(dtype=np.float64))
            if "genWeight" in events.fields
            else float(len(events))
        )
    result = processor.process(events)
    read = _opened(chunk.file.url, chunk.file.uuid).bytes_read - before
    try:
        worker = distributed.get_worker().name
    except ValueError:
        worker = "client"
    record = ChunkRecord(
        file=chunk.file.name,
        url=chunk.file.url,
        start=chunk.start,
        stop=chunk.stop,
        events=len(events),
        sum_of_weights=weights,
        worker=str(worker),
        cost=watch.cost(len(events), read).to_json(),
    )
    return result, record


def process_task(
    processor: ProcessorABC, chunks: Sequence[Chunk], metadata: Mapping[str, Any]
) -> tuple[dict[str, Any], list[ChunkRecord]]:
    """What a worker does: process neighbouring chunks and sum them up before it reports."""
    total: dict[str, Any] | None = None
    records = []
    for chunk in chunks:
        try:
            result, record = _process(processor, chunk, metadata)
        except Exception as problem:
            raise ProcessingFailed(_told(chunk, problem)) from None
        total = result if total is None else accumulate([total, result])
        records.append(record)
    assert total is not None
    return total, records


def _told(chunk: Chunk, problem: Exception) -> str:
    where = f"dataset {chunk.dataset}, {chunk.file.name} entries {chunk.start}-{chunk.stop}"
    if isinstance(problem, LooseleafError):
        return f"{where}: {problem}"
    # the innermost line that isn't a library's is the one that its author can mend
    frames = [
        frame
        for frame in traceback.extract_tb(problem.__traceback__)
        if "site-packages" not in frame.filename
    ]
    last = frames[-1] if frames else traceback.extract_tb(problem.__traceback__)[-1]
    text = str(problem).strip() or "no message"
    line = f"{Path(last.filename).name}, line {last.lineno}: {last.line}"
    return f"{where}: {type(problem).__name__}: {text}\n  at {line}"


def _result(
    future: distributed.Future, fileset: Fileset, task: Sequence[Chunk]
) -> tuple[dict[str, Any], list[ChunkRecord]]:
    try:
        return future.result()
    except (distributed.KilledWorker, NoWorkerError) as problem:
        first, last = task[0], task[-1]
        raise ProcessingFailed(
            f"dataset {fileset.dataset}, {first.file.name} entries {first.start}- to "
            f"{last.file.name} entries -{last.stop}: the workers died of it or never came "
            f"({type(problem).__name__}); do they have enough memory? a smaller "
            "processing.chunksize takes less"
        ) from None


def run(
    processor: ProcessorABC,
    filesets: Sequence[Fileset],
    client: distributed.Client,
    chunksize: int,
    task_events: int,
    label: str,
) -> dict[str, Processed]:
    """Process every dataset and close its ledger.

    Results are merged in the order of the files, whatever order the workers finish in, so a
    repeated run gives the same numbers to the last bit.

    Raises `ProcessingFailed` for the first chunk that fails and `Shortfall` if less was processed
    than expected.
    """
    chunks = {fileset.dataset: chunks_of(fileset, chunksize) for fileset in filesets}
    work = [
        (fileset, task)
        for fileset in filesets
        for task in tasks_of(chunks[fileset.dataset], task_events)
    ]
    total = sum(chunk.events for parts in chunks.values() for chunk in parts)
    # the processor goes with each task: scattered, it would be lost with the worker that holds it
    futures = [
        client.submit(process_task, processor, task, fileset.metadata, pure=False)
        for fileset, task in work
    ]
    index_of = {future.key: index for index, future in enumerate(futures)}
    finished: dict[int, tuple[dict[str, Any], list[ChunkRecord]]] = {}
    merged: dict[str, dict[str, Any]] = {}
    records: dict[str, list[ChunkRecord]] = {fileset.dataset: [] for fileset in filesets}
    next_index = 0
    with Progress(label, total) as progress:
        try:
            for future in distributed.as_completed(futures):
                index = index_of[future.key]
                result = _result(future, *work[index])
                finished[index] = result
                futures[index] = None
                future.release()
                progress.add(sum(record.events for record in result[1]))
                while next_index in finished:
                    accumulator, done = finished.pop(next_index)
                    dataset = work[next_index][0].dataset
                    merged[dataset] = (
                        accumulate([merged[dataset], accumulator])
                        if dataset in merged
                        else accumulator
                    )
                    records[dataset] += done
                    next_index += 1
        except BaseException:
            client.cancel([future for future in futures if future is not None])
            raise
    return {
        fileset.dataset: Processed(
            accumulator=processor.postprocess(merged[fileset.dataset]),
            ledger=ledger_of(fileset, chunks[fileset.dataset], records[fileset.dataset]),
        )
        for fileset in filesets
    }
