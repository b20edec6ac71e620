"""Processing the datasets of a fake-rate analysis."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from looseleaf.fakerate.analysis import FakeRateAnalysis
from looseleaf.fakerate.axes import beyond_axes
from looseleaf.fakerate.processor import FakeRateProcessor
from looseleaf.histograms.coverage import losses_dominated
from looseleaf.objects.corrections import Corrections
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.names import ENTRIES, MAP_ENTRIES
from looseleaf.processing.stage import DatasetFiles, Reading, Running, process_datasets


def process(
    analysis: FakeRateAnalysis,
    points: Mapping[str, Any],
    declared: Mapping[str, Mapping[str, Any]],
    datasets: Mapping[str, DatasetFiles],
    running: Running,
    truth: str | None = None,
) -> None:
    """Process every dataset of a fake-rate analysis on one cluster.

    `declared` has for each dataset whether it is `data`, and its `lumi_mask`; `truth` is the path
    of a correctionlib file to compare with.
    """
    working_points = WorkingPoints(points)
    process_datasets(
        FakeRateProcessor(
            analysis,
            working_points,
            Corrections.from_files(analysis.corrections),
            Path(truth).read_text() if truth is not None else None,
        ),
        datasets,
        running,
        f"fakerate {analysis.name}",
        Reading.of(analysis, declared, working_points),
        losses=lambda _, accumulator: [
            *beyond_axes(analysis, accumulator),
            *losses_dominated(accumulator[ENTRIES], "events or leptons"),
            *losses_dominated(accumulator[MAP_ENTRIES], "loose leptons"),
        ],
    )
