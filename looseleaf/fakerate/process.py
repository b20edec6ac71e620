"""Processing the datasets of a fake-rate analysis."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from looseleaf.cluster import client_for
from looseleaf.fakerate.processor import FakeRateProcessor
from looseleaf.files import write_json
from looseleaf.histograms.store import write_uhi
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.processing.fileset import from_manifest
from looseleaf.processing.runner import run


def process(
    analysis: Mapping[str, Any],
    points: Mapping[str, Any],
    manifests: Mapping[str, str],
    outputs: Mapping[str, str],
    ledgers: Mapping[str, str],
    site: Mapping[str, Any],
    workers: int,
    chunksize: int,
    task_events: int,
    truth: str | None = None,
) -> None:
    """Process every dataset of a fake-rate analysis on one cluster.

    `manifests`, `outputs` and `ledgers` are paths by dataset; `truth` the path of a correctionlib
    file to compare with. Histograms are written unnormalised, so that another cross section or
    luminosity doesn't need another pass over the events.
    """
    filesets = [from_manifest(dataset, path, {}) for dataset, path in manifests.items()]
    text = Path(truth).read_text() if truth is not None else None
    processor = FakeRateProcessor(analysis, WorkingPoints(points), text)
    with client_for(site, workers) as client:
        results = run(
            processor,
            filesets,
            client,
            chunksize,
            task_events,
            f"fakerate {analysis['name']}",
        )
    for dataset, result in results.items():
        write_uhi(outputs[dataset], result.accumulator, {"dataset": dataset})
        write_json(ledgers[dataset], result.ledger)
