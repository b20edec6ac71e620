"""The coffea processor that counts electron pairs at the Z boson's mass by their charges."""

from typing import Any

import awkward as ak
import hist
import numpy as np
from coffea.nanoevents.methods import vector

from looseleaf.flips.analysis import FlipsAnalysis
from looseleaf.flips.axes import BANDS, SIGNS
from looseleaf.histograms.coverage import cover, coverage
from looseleaf.objects.chunk import Branches
from looseleaf.objects.evaluation import Undecided
from looseleaf.objects.events import Selection, recorded
from looseleaf.objects.flat import Flat
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.luminosity import certified
from looseleaf.objects.names import COVERAGE
from looseleaf.objects.processor import BranchesProcessor
from looseleaf.objects.rates import clamped_bins


class FlipProcessor(BranchesProcessor):
    """Electron pairs at the Z boson's mass by charge, mass band and the bins of both electrons.

    `analysis` is a `flips` analysis of the configuration, `working_points` the declared ones. An
    event has exactly two electrons of the analysis' working point. Each pair counts once, in
    simulation too, since the weight of an event doesn't depend on the charges. Bins are numbered
    row by row, pT first; electrons outside the edges are in the outermost bins.

    The accumulator has `pairs`, over `sign`, `band`, `first` and `second` (the bins of the harder
    and the softer electron), `cutflow`, and `coverage`, where their electrons are on the axes.
    """

    def __init__(self, analysis: FlipsAnalysis, working_points: WorkingPoints) -> None:
        self._analysis, self._working_points = analysis, working_points

    def fill(self, branches: Branches) -> dict[str, Any]:
        """Fill one chunk of events; returns the accumulator."""
        analysis, undecided = self._analysis, Undecided(self._analysis.allow.not_finite)
        electrons = branches.objects("Electron")
        chosen = self._working_points.passes("Electron", analysis.electron, electrons, undecided)
        kept = recorded(branches, analysis.triggers) & certified(branches)
        two = kept & (electrons.number(chosen) == 2)
        first, second = _pairs(electrons, Selection.of(branches, electrons, chosen, two))
        mass = ak.to_numpy((first + second).mass)
        low, high = analysis.mass["peak"]
        width = analysis.mass["beside"]
        peak = (mass >= low) & (mass < high)
        beside = ~peak & (mass >= low - width) & (mass < high + width)
        same = ak.to_numpy(first.charge == second.charge)
        size = analysis.bins
        axes = [hist.axis.Integer(0, size, name=name, flow=False) for name in ("first", "second")]
        counted = hist.Hist(
            hist.axis.StrCategory(SIGNS, name="sign", overflow=False),
            hist.axis.StrCategory(BANDS, name="band", overflow=False),
            *axes,
            storage=hist.storage.Int64(),
        )
        edges = analysis.binning["pt"], analysis.binning["abs_eta"]
        values = [(ak.to_numpy(one.pt), np.abs(ak.to_numpy(one.eta))) for one in (first, second)]
        places = [clamped_bins(*edges, *one) for one in values]
        used = (peak | beside).astype(np.float64)
        covered = coverage(analysis.binning)
        for pt, abs_eta in values:
            cover(covered, "pt", edges[0], pt, used)
            cover(covered, "abs_eta", edges[1], abs_eta, used)
        for sign, of_sign in zip(SIGNS, (~same, same), strict=True):
            for band, of_band in zip(BANDS, (peak, beside), strict=True):
                mask = of_sign & of_band
                counted.fill(sign, band, *[place[mask] for place in places])
        steps = {"all": len(branches), "trigger": kept.sum(), "two electrons": two.sum(),
                 "mass": (peak | beside).sum()}  # fmt: skip
        cutflow = hist.Hist(
            hist.axis.StrCategory(list(steps), name="step", overflow=False),
            storage=hist.storage.Int64(),
        )
        cutflow[...] = [int(value) for value in steps.values()]
        return {"pairs": counted, "cutflow": cutflow, COVERAGE: covered, **undecided.counted()}


def _pairs(electrons: Flat, selected: Selection) -> tuple[Any, Any]:
    """The harder and the softer of the two selected electrons of each event, as vectors."""
    names = ("pt", "eta", "phi", "mass", "charge")
    fields = {name: selected.take(electrons[name]).reshape(-1, 2) for name in names}
    first = np.argmax(fields["pt"], axis=1)
    pairs = ak.zip(fields, with_name="PtEtaPhiMLorentzVector", behavior=vector.behavior)
    event = np.arange(len(first))
    return pairs[event, first], pairs[event, 1 - first]
