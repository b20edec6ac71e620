"""Processing the datasets of a fake-rate analysis."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from looseleaf.fakerate.processor import FakeRateProcessor
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.processing.stage import DatasetFiles, Running, process_datasets


def process(
    analysis: Mapping[str, Any],
    points: Mapping[str, Any],
    declared: Mapping[str, Mapping[str, Any]],
    datasets: Mapping[str, DatasetFiles],
    running: Running,
    truth: str | None = None,
) -> None:
    """Process every dataset of a fake-rate analysis on one cluster.

    `declared` says of each dataset whether it is `data`; `truth` is the path of a correctionlib
    file to compare with.
    """
    text = Path(truth).read_text() if truth is not None else None
    processor = FakeRateProcessor(analysis, WorkingPoints(points), text)
    metadata = {name: {"data": value["data"]} for name, value in declared.items()}
    process_datasets(processor, datasets, running, f"fakerate {analysis['name']}", metadata)
