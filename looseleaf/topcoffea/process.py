"""Processing the datasets of a topcoffea analysis."""

from collections.abc import Mapping
from typing import Any

from looseleaf.objects.leptons import WorkingPoints
from looseleaf.processing.stage import DatasetFiles, Running, process_datasets
from looseleaf.topcoffea.processor import TopCoffeaProcessor
from looseleaf.topcoffea.store import write_histograms


def coefficients_of(datasets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The union of the samples' Wilson coefficients, in the order in which they are met."""
    names = [name for dataset in datasets.values() for name in dataset.get("wc_names", [])]
    return list(dict.fromkeys(names))


def process(
    analysis: Mapping[str, Any],
    points: Mapping[str, Any],
    declared: Mapping[str, Mapping[str, Any]],
    datasets: Mapping[str, DatasetFiles],
    running: Running,
) -> None:
    """Process every dataset of a topcoffea analysis on one cluster.

    `declared` holds the datasets' declarations, `datasets` their files. Written is,
    for each dataset, a file of the observables' EFT histograms and the cutflow.
    """
    processor = TopCoffeaProcessor(analysis, WorkingPoints(points), coefficients_of(declared))
    process_datasets(
        processor,
        datasets,
        running,
        f"topcoffea {analysis['name']}",
        {name: {"wc_names": value.get("wc_names", [])} for name, value in declared.items()},
        write_histograms,
    )
