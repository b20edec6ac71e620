"""The axes and variations of a fake-rate analysis' histograms, and the leptons beyond them.

Light enough for what is made of the histograms later: nothing here reads events.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from looseleaf.fakerate.analysis import FakeRateAnalysis
from looseleaf.histograms.coverage import losses_beyond, observable_edges
from looseleaf.losses import Loss
from looseleaf.objects.names import COVERAGE, NOMINAL, correction_variations

# spectra that are always filled, each without the cut on it: number of bins and ends [GeV]
SPECTRUM = (30, 0, 150)
SPECTRA_EDGES: dict[str, Sequence[float]] = {"met": SPECTRUM[1:], "mt": SPECTRUM[1:]}


def away_jet_thresholds(analysis: FakeRateAnalysis) -> dict[str, float]:
    """The threshold of the away jet's pT [GeV] by variation, the nominal one first."""
    varied = analysis.systematics.away_jet_pt
    return {
        NOMINAL: analysis.away_jet["pt_min"],
        **{f"away_jet_pt_{side}": varied[side] for side in ("up", "down") if varied},
    }


def variations(analysis: FakeRateAnalysis) -> dict[str, float]:
    """All variations that need events, the nominal one first, with the away jet's threshold."""
    thresholds = away_jet_thresholds(analysis)
    corrected = correction_variations(analysis.corrections)
    return thresholds | dict.fromkeys(corrected, thresholds[NOMINAL])


def edges_of(analysis: FakeRateAnalysis) -> dict[str, Sequence[float]]:
    """The edges of the axes that an analysis declares, by name."""
    out = {**analysis.binning, **observable_edges(analysis)}
    return out | ({"prompt_fit": analysis.prompt_fit["edges"]} if analysis.prompt_fit else {})


def filled_edges(analysis: FakeRateAnalysis) -> dict[str, Sequence[float]]:
    """The edges of all axes that are filled, those of the spectra of MET and mT included."""
    return {**edges_of(analysis), **SPECTRA_EDGES}


def beyond_axes(
    analysis: FakeRateAnalysis, histograms: Mapping[str, Any], allowed: Collection[str] = ()
) -> list[Loss]:
    """The leptons outside the edges of each filled axis, and what happened to them."""
    out = []
    for axis, edges in filled_edges(analysis).items():
        kept = axis in analysis.binning and analysis.overflow == "clamp"
        where = "the outermost bins hold them" if kept else "no bin holds them"
        unit = "tight leptons" if axis == "prompt_fit" else "loose leptons"
        out += losses_beyond(histograms[COVERAGE], {axis: edges}, unit, where, allowed)
    return out
