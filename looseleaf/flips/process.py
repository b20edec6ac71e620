"""Processing the datasets of a measurement of charge flips."""

from collections.abc import Mapping
from typing import Any

from looseleaf.flips.analysis import FlipsAnalysis
from looseleaf.flips.axes import beyond_axes
from looseleaf.flips.processor import FlipProcessor
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.processing.stage import DatasetFiles, Reading, Running, process_datasets


def process(
    analysis: FlipsAnalysis,
    points: Mapping[str, Any],
    declared: Mapping[str, Mapping[str, Any]],
    datasets: Mapping[str, DatasetFiles],
    running: Running,
) -> None:
    """Process every dataset of a `flips` analysis on one cluster."""
    working_points = WorkingPoints(points)
    process_datasets(
        FlipProcessor(analysis, working_points),
        datasets,
        running,
        f"flips {analysis.name}",
        Reading.of(analysis, declared, working_points),
        losses=lambda _, accumulator: beyond_axes(analysis, accumulator),
    )
