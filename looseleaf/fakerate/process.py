"""Processing the datasets of a fake-rate analysis."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from looseleaf.fakerate.processor import FakeRateProcessor, beyond_axes
from looseleaf.histograms.coverage import losses_dominated
from looseleaf.objects.corrections import Corrections
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.names import ENTRIES, MAP_ENTRIES
from looseleaf.processing.stage import (
    DatasetFiles,
    Running,
    columns_read,
    event_metadata,
    process_datasets,
)


def process(
    analysis: Mapping[str, Any],
    points: Mapping[str, Any],
    declared: Mapping[str, Mapping[str, Any]],
    datasets: Mapping[str, DatasetFiles],
    running: Running,
    truth: str | None = None,
) -> None:
    """Process every dataset of a fake-rate analysis on one cluster.

    `declared` says of each dataset whether it is `data` and which `lumi_mask` certifies it;
    `truth` is the path of a correctionlib file to compare with.
    """
    working_points = WorkingPoints(points)
    processor = FakeRateProcessor(
        analysis,
        working_points,
        Corrections.from_files(analysis.get("corrections", {})),
        Path(truth).read_text() if truth is not None else None,
    )
    metadata = {name: event_metadata(analysis, value) for name, value in declared.items()}
    # the rule gives pairs, in their order
    named = {**analysis, "cuts": dict(analysis.get("cuts", {}))}
    process_datasets(
        processor,
        datasets,
        running,
        f"fakerate {analysis['name']}",
        metadata,
        losses=lambda _, found: [
            *beyond_axes(analysis, found),
            *losses_dominated(found[ENTRIES], "events or leptons"),
            *losses_dominated(found[MAP_ENTRIES], "loose leptons"),
        ],
        columns=columns_read(named, declared, working_points),
        allow=analysis.get("allow"),
        skim=analysis.get("skim"),
    )
