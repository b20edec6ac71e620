"""Processing the datasets of a topcoffea analysis."""

from collections.abc import Mapping
from typing import Any

from looseleaf.cluster import client_for
from looseleaf.files import write_json
from looseleaf.histograms.store import write_uhi
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.processing.fileset import from_manifest
from looseleaf.processing.runner import run
from looseleaf.topcoffea.processor import TopCoffeaProcessor
from looseleaf.topcoffea.store import flat


def coefficients_of(datasets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The union of the samples' Wilson coefficients, in the order in which they are met."""
    names = [name for dataset in datasets.values() for name in dataset.get("wc_names", [])]
    return list(dict.fromkeys(names))


def process(
    analysis: Mapping[str, Any],
    points: Mapping[str, Any],
    datasets: Mapping[str, Mapping[str, Any]],
    manifests: Mapping[str, str],
    outputs: Mapping[str, str],
    ledgers: Mapping[str, str],
    site: Mapping[str, Any],
    workers: int,
    chunksize: int,
    task_events: int,
) -> None:
    """Process every dataset of a topcoffea analysis on one cluster.

    `datasets`, `manifests`, `outputs` and `ledgers` are by dataset. The histograms are written
    unnormalised: `<observable>.sums` and `<observable>.squares`, the last axis naming the terms.
    """
    filesets = [
        from_manifest(name, path, {"wc_names": datasets[name].get("wc_names", [])})
        for name, path in manifests.items()
    ]
    processor = TopCoffeaProcessor(analysis, WorkingPoints(points), coefficients_of(datasets))
    label = f"topcoffea {analysis['name']}"
    with client_for(site, workers) as client:
        results = run(processor, filesets, client, chunksize, task_events, label)
    for dataset, result in results.items():
        write_uhi(outputs[dataset], flat(result.accumulator), {"dataset": dataset})
        write_json(ledgers[dataset], result.ledger)
