"""A stage's processing job: datasets in, histograms and ledgers by dataset out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hist
from coffea.processor import ProcessorABC

from looseleaf.cluster import client_for
from looseleaf.files import write_json
from looseleaf.histograms.store import write_uhi
from looseleaf.objects.luminosity import check_golden
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


def event_metadata(analysis: Mapping[str, Any], dataset: Mapping[str, Any]) -> dict[str, Any]:
    """What a processor is told of each chunk: whether it is data, its mask, its branches' names.

    Both are as declared in the configuration. Raises `DataFileError` if the mask is none.
    """
    out = {"data": dataset["data"], "aliases": analysis["branches"]}
    if "lumi_mask" in dataset:
        path = dataset["lumi_mask"]
        out["lumi_mask"] = check_golden(Path(path).read_text(), path)
    return out


def process_datasets(
    processor: ProcessorABC,
    datasets: Mapping[str, DatasetFiles],
    running: Running,
    label: str,
    metadata: Mapping[str, Mapping[str, Any]] | None = None,
    plain: Callable[[Mapping[str, Any]], Mapping[str, hist.Hist]] = dict,
) -> None:
    """Process datasets on one cluster, and write each one's histograms and ledger.

    `metadata` by dataset goes to the processor with every chunk; `plain` turns an accumulator
    into the histograms to be written. They are written unnormalised, so that another cross
    section or luminosity doesn't need another pass over the events.
    """
    filesets = [
        from_manifest(name, files.manifest, (metadata or {}).get(name, {}))
        for name, files in datasets.items()
    ]
    with client_for(running.site, running.workers) as client:
        results = run(processor, filesets, client, running.chunksize, running.task_events, label)
    for name, result in results.items():
        write_uhi(datasets[name].histograms, plain(result.accumulator), {"dataset": name})
        write_json(datasets[name].ledger, result.ledger)
