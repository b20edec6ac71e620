"""The axes of charge flips' histograms, and the electrons beyond them."""

from collections.abc import Mapping
from typing import Any

from looseleaf.flips.analysis import FlipsAnalysis
from looseleaf.histograms.coverage import losses_beyond
from looseleaf.losses import Loss
from looseleaf.objects.names import COVERAGE

SIGNS, BANDS = ("opposite", "same"), ("peak", "beside")


def beyond_axes(analysis: FlipsAnalysis, histograms: Mapping[str, Any]) -> list[Loss]:
    """The electrons outside the edges of the map."""
    where = "the outermost bins hold them"
    return losses_beyond(
        histograms[COVERAGE], analysis.binning, "electrons", where, analysis.allow.beyond
    )
