"""The coffea processor that counts loose and tight leptons in a measurement region."""

from collections.abc import Mapping, Sequence
from typing import Any

import awkward as ak
import correctionlib
import hist
import numpy as np
from coffea.processor import ProcessorABC

from looseleaf.objects.events import fired, met, transverse_mass, weights
from looseleaf.objects.leptons import WorkingPoints

STEPS = ("all", "one loose lepton", "no other lepton", "away jet", "met", "mt", "trigger")


class FakeRateProcessor(ProcessorABC):
    """Loose and tight leptons by pT [GeV] and |eta|, where leptons are non-prompt.

    `analysis` is a fake-rate analysis of the configuration, `points` the declared working points.
    The measurement region is: exactly one lepton of the point `loose`, none of those in `veto`,
    an away jet, small missing momentum and transverse mass. In such an event the leptons of
    `denominator` go into the histogram `loose`, those of them that are also `tight` into `tight`.
    Weights are genWeight times the trigger's prescale; normalisation to a luminosity comes later,
    from the ledger. With `truth`, the text of a correctionlib file, two more histograms hold what
    is to be expected of `tight`: `expected`, the sum of w f, and `expected_variance`, the sum of
    w^2 f (1-f).

    The accumulator also holds `cutflow` (events) and `weighted_cutflow` by step.
    """

    def __init__(
        self, analysis: Mapping[str, Any], points: WorkingPoints, truth: str | None = None
    ) -> None:
        self._analysis, self._points, self._truth = analysis, points, truth
        self._collection = analysis["lepton"]["collection"]

    def _axes(self) -> list[hist.axis.AxesMixin]:
        binning = self._analysis["binning"]
        flavour = "\\mu" if self._collection == "Muon" else "e"
        eta = f"\\eta^{{{flavour}}}"
        label = f"$|{eta}|$" if self._analysis["eta"] == "absolute" else f"${eta}$"
        return [
            hist.axis.Variable(binning["pt"], name="pt", label=f"$p_T^{{{flavour}}}$ [GeV]"),
            hist.axis.Variable(binning["abs_eta"], name="abs_eta", label=label),
        ]

    def _map(self) -> hist.Hist:
        return hist.Hist(*self._axes(), storage=hist.storage.Weight())

    def process(self, events: Any) -> dict[str, Any]:
        analysis = self._analysis
        leptons = events[self._collection]
        loose = self._points.passes(self._collection, analysis["loose"], leptons)
        denominator = self._points.passes(self._collection, analysis["denominator"], leptons)
        event_weight = weights(events)
        met_pt, met_phi = met(events)
        cuts = [
            ak.to_numpy(ak.sum(loose, axis=1) == 1),
            self._no_other(events),
            self._away_jet(events, leptons[denominator]),
            self._below(met_pt, analysis["region"]["met_max"]),
        ]
        mt = transverse_mass(leptons.pt, leptons.phi, met_pt, met_phi)
        mt_max = analysis["region"]["mt_max"]
        if mt_max is None:
            cuts.append(np.ones(len(events), bool))
        else:
            cuts.append(ak.to_numpy(ak.any(mt[denominator] < mt_max, axis=1)))
        region = np.logical_and.reduce(cuts)

        tight = self._points.passes(self._collection, analysis["tight"], leptons)
        counted = leptons[region]
        keep = denominator[region]
        pt, eta = (ak.to_numpy(ak.flatten(counted[field][keep])) for field in ("pt", "eta"))
        passed = ak.to_numpy(ak.flatten(tight[region][keep]))
        of_event = np.repeat(np.arange(int(region.sum())), ak.to_numpy(ak.sum(keep, axis=1)))
        trigger_weight = self._trigger_weight(events[region], of_event, pt)
        lepton_weight = event_weight[region][of_event] * trigger_weight
        if analysis["weights"] == "counts":
            lepton_weight = (trigger_weight > 0).astype(np.float64)
        triggered = np.zeros(len(events), bool)
        triggered[np.flatnonzero(region)[of_event[trigger_weight > 0]]] = True
        return {
            **self._fill(pt, eta, passed, lepton_weight),
            **self._cutflow([*cuts, triggered], event_weight),
        }

    def _no_other(self, events: Any) -> Any:
        clear = np.ones(len(events), bool)
        for collection, point in self._analysis["veto"].items():
            passing = self._points.passes(collection, point, events[collection])
            clear &= ~ak.to_numpy(ak.any(passing, axis=1))
        return clear

    def _away_jet(self, events: Any, leptons: Any) -> Any:
        wanted = self._analysis["away_jet"]
        jets = events.Jet
        jets = jets[(jets.pt > wanted["pt_min"]) & (abs(jets.eta) < wanted["abs_eta_max"])]
        distance = jets.metric_table(leptons)
        return ak.to_numpy(ak.any(ak.all(distance > wanted["dr_min"], axis=2), axis=1))

    @staticmethod
    def _below(values: Any, largest: float | None) -> Any:
        return np.ones(len(values), bool) if largest is None else values < largest

    def _trigger_weight(self, events: Any, of_event: Any, pt: Any) -> Any:
        """The prescale of the path that covers a lepton's pT if it fired, else 0."""
        triggers: Sequence[Mapping[str, Any]] = self._analysis["triggers"]
        if not triggers:
            return np.ones(len(pt))
        weight = np.zeros(len(pt))
        for trigger in triggers:
            covers = (pt >= trigger.get("pt_min", 0)) & (pt < trigger.get("pt_max", np.inf))
            weight[covers & fired(events, trigger["paths"])[of_event]] = trigger.get("prescale", 1)
        return weight

    def _fill(self, pt: Any, eta: Any, passed: Any, weight: Any) -> dict[str, hist.Hist]:
        analysis = self._analysis
        x = pt
        y = np.abs(eta) if analysis["eta"] == "absolute" else eta
        if analysis["overflow"] == "clamp":
            x, y = (_clamped(v, analysis["binning"][n]) for v, n in ((x, "pt"), (y, "abs_eta")))
        out = {"loose": self._map(), "tight": self._map()}
        out["loose"].fill(x, y, weight=weight)
        out["tight"].fill(x[passed], y[passed], weight=weight[passed])
        if self._truth is not None:
            correction = correctionlib.CorrectionSet.from_string(self._truth)
            f = correction[analysis["truth"]["correction"]].evaluate(
                pt.astype(np.float64), np.abs(eta).astype(np.float64)
            )
            for name, value in (
                ("expected", weight * f),
                ("expected_variance", weight**2 * f * (1 - f)),
            ):
                out[name] = hist.Hist(*self._axes(), storage=hist.storage.Double())
                out[name].fill(x, y, weight=value)
        return out

    def _cutflow(self, cuts: Sequence[Any], weight: Any) -> dict[str, hist.Hist]:
        passing = [np.ones(len(weight), bool)]
        for cut in cuts:
            passing.append(passing[-1] & cut)
        axis = hist.axis.StrCategory(STEPS, name="step", label="selection step")
        counts = hist.Hist(axis, storage=hist.storage.Int64())
        weighted = hist.Hist(axis, storage=hist.storage.Weight())
        for step, mask in zip(STEPS, passing, strict=True):
            counts.fill(np.full(int(mask.sum()), step))
            weighted.fill(np.full(int(mask.sum()), step), weight=weight[mask])
        return {"cutflow": counts, "weighted_cutflow": weighted}

    def postprocess(self, accumulator: dict[str, Any]) -> dict[str, Any]:
        return accumulator


def _clamped(values: Any, edges: Sequence[float]) -> Any:
    """Values brought into [first edge, last edge): what lies beyond goes into the last bins."""
    return np.clip(values, edges[0], np.nextafter(np.float32(edges[-1]), np.float32(edges[0])))
