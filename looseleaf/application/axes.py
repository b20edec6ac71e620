"""The events beyond the axes of an application's histograms."""

from collections.abc import Mapping
from typing import Any

from looseleaf.application.analysis import ApplicationAnalysis
from looseleaf.histograms.coverage import losses_beyond, observable_edges
from looseleaf.losses import Loss
from looseleaf.objects.names import COVERAGE


def beyond_axes(analysis: ApplicationAnalysis, histograms: Mapping[str, Any]) -> list[Loss]:
    """The events outside the observables' edges; an event counts in each of its channels."""
    return losses_beyond(
        histograms[COVERAGE],
        observable_edges(analysis),
        "events",
        "the outermost bins hold them",
        analysis.allow.beyond,
    )
