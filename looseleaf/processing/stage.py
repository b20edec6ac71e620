"""A stage's processing job: datasets in, histograms and ledgers by dataset out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from coffea.processor import ProcessorABC

from looseleaf.cluster import client_for
from looseleaf.files import write_json
from looseleaf.histograms.store import write_uhi
from looseleaf.processing.fileset import from_manifest
from looseleaf.processing.runner import run


@dataclass(frozen=True)
class Running:
    """Where and how processors run; none of it changes what comes out.

    `site` is a file of config/sites, `chunksize` the entries read at a time, `task_events` what a
    worker sums up before it reports.
    """

    site: Mapping[str, Any]
    workers: int
    chunksize: int
    task_events: int


@dataclass(frozen=True)
class DatasetFiles:
    """The files of one dataset in a processing job: what it reads and what it writes."""

    manifest: str
    histograms: str
    ledger: str


def process_datasets(
    processor: ProcessorABC,
    datasets: Mapping[str, DatasetFiles],
    running: Running,
    label: str,
    metadata: Mapping[str, Mapping[str, Any]] | None = None,
    write: Callable[[str, Mapping[str, Any], Mapping[str, Any]], None] = write_uhi,
) -> None:
    """Process datasets on one cluster, and write each one's histograms and ledger.

    `metadata` by dataset goes to the processor with every chunk; `write` puts an
    accumulator and metadata into a file. It is written unnormalised, so that another cross
    section or luminosity doesn't need another pass over the events.
    """
    filesets = [
        from_manifest(name, files.manifest, (metadata or {}).get(name, {}))
        for name, files in datasets.items()
    ]
    with client_for(running.site, running.workers) as client:
        results = run(processor, filesets, client, running.chunksize, running.task_events, label)
    for name, result in results.items():
        write(datasets[name].histograms, result.accumulator, {"dataset": name})
        write_json(datasets[name].ledger, result.ledger)
