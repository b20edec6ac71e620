"""Processing the datasets of an analysis that applies measured rates."""

from collections.abc import Mapping
from typing import Any

from looseleaf.application.analysis import ApplicationAnalysis
from looseleaf.application.axes import beyond_axes
from looseleaf.application.processor import ApplicationProcessor
from looseleaf.histograms.coverage import losses_dominated
from looseleaf.objects.corrections import Corrections
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.names import COVERAGE, ENTRIES
from looseleaf.objects.rates import RateMap, losses_beyond_maps
from looseleaf.processing.stage import DatasetFiles, Reading, Running, process_datasets


def process(
    analysis: ApplicationAnalysis,
    points: Mapping[str, Any],
    declared: Mapping[str, Mapping[str, Any]],
    datasets: Mapping[str, DatasetFiles],
    running: Running,
    maps: Mapping[str, str],
) -> None:
    """Process every dataset of an application analysis; `maps` are map files by collection."""
    working_points = WorkingPoints(points)
    rates = RateMap.from_files(maps)
    process_datasets(
        ApplicationProcessor(
            analysis, working_points, rates, Corrections.from_files(analysis.corrections)
        ),
        datasets,
        running,
        f"application {analysis.name}",
        Reading.of(analysis, declared, working_points),
        losses=lambda _, accumulator: [
            *beyond_axes(analysis, accumulator),
            *losses_beyond_maps(accumulator[COVERAGE], rates),
            *losses_dominated(accumulator[ENTRIES], "events", "channel "),
        ],
    )
