"""The coffea processor that counts loose and tight leptons in a measurement region."""

from collections.abc import Mapping, Sequence
from typing import Any

import awkward as ak
import correctionlib
import hist
import numpy as np
from coffea.processor import ProcessorABC

from looseleaf.objects.events import fired, met, passing, transverse_mass, weights
from looseleaf.objects.leptons import WorkingPoints

STEPS = ("all", "one loose lepton", "no other lepton", "away jet", "met", "mt")

VARIATION, NOMINAL = "variation", "nominal"


def away_jet_thresholds(analysis: Mapping[str, Any]) -> dict[str, float]:
    """The away jet's smallest pT [GeV] by variation, the nominal one first."""
    varied = analysis.get("systematics", {}).get("away_jet_pt", {})
    return {
        NOMINAL: analysis["away_jet"]["pt_min"],
        **{f"away_jet_pt_{side}": varied[side] for side in ("up", "down") if varied},
    }


class FakeRateProcessor(ProcessorABC):
    """Loose and tight leptons by pT [GeV] and |eta|, where leptons are non-prompt.

    `analysis` is a fake-rate analysis of the configuration, `points` the declared working points.
    The measurement region is: exactly one lepton of the point `loose`, none of those in `veto`,
    an away jet, small missing momentum and transverse mass, and the analysis' own cuts. In such
    an event the leptons of `denominator` go into the histogram `loose`, those of them that are
    also `tight` into `tight`; both have a first axis for the variations of the away jet's
    threshold.

    Weights are genWeight in simulation and the trigger's prescale in data, which the metadata's
    `data` tells apart; normalisation to a luminosity comes later, from the ledger. With `truth`,
    the text of a correctionlib file, two more histograms hold what is to be expected of `tight`:
    `expected`, the sum of w f, and `expected_variance`, the sum of w^2 f (1-f).

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
        names = list(away_jet_thresholds(self._analysis))
        variation = hist.axis.StrCategory(names, name=VARIATION, overflow=False)
        return hist.Hist(variation, *self._axes(), storage=hist.storage.Weight())

    def process(self, events: Any) -> dict[str, Any]:
        analysis = self._analysis
        leptons = events[self._collection]
        loose = self._points.passes(self._collection, analysis["loose"], leptons)
        denominator = self._points.passes(self._collection, analysis["denominator"], leptons)
        tight = self._points.passes(self._collection, analysis["tight"], leptons)
        event_weight = weights(events)
        met_pt, met_phi = met(events)
        away_pt = self._away_jet_pt(events, leptons[denominator])
        before = [ak.to_numpy(ak.sum(loose, axis=1) == 1), self._no_other(events)]
        after = [self._below(met_pt, analysis["region"]["met_max"])]
        mt = transverse_mass(leptons.pt, leptons.phi, met_pt, met_phi)
        after.append(self._below(mt[denominator], analysis["region"]["mt_max"]))
        after += [passing(events, text) for text in analysis.get("cuts", {}).values()]

        recorded = [fired(events, trigger["paths"]) for trigger in analysis["triggers"]]

        loose_map, tight_map = self._map(), self._map()
        out: dict[str, Any] = {"loose": loose_map, "tight": tight_map}
        for variation, threshold in away_jet_thresholds(analysis).items():
            cuts = [*before, away_pt > threshold, *after]
            region = np.logical_and.reduce(cuts)
            keep = denominator[region]
            pt, eta = (
                ak.to_numpy(ak.flatten(values[region][keep]))
                for values in (leptons.pt, leptons.eta)
            )
            passed = ak.to_numpy(ak.flatten(tight[region][keep]))
            of_event = np.repeat(np.arange(len(keep)), ak.to_numpy(ak.sum(keep, axis=1)))
            trigger = self._trigger_weight(
                [path[region][of_event] for path in recorded], pt, events.metadata["data"]
            )
            weight = event_weight[region][of_event] * trigger
            if analysis["weights"] == "counts":
                weight = (trigger > 0).astype(np.float64)
            x, y = self._coordinates(pt, eta)
            loose_map.fill(variation, x, y, weight=weight)
            tight_map.fill(variation, x[passed], y[passed], weight=weight[passed])
            if variation == NOMINAL:
                triggered = np.zeros(len(events), bool)
                triggered[np.flatnonzero(region)[of_event[trigger > 0]]] = True
                out |= self._cutflow([*cuts, triggered], event_weight)
                out |= self._expectation(pt, eta, x, y, weight)
        return out

    def _no_other(self, events: Any) -> Any:
        clear = np.ones(len(events), bool)
        for collection, point in self._analysis["veto"].items():
            found = self._points.passes(collection, point, events[collection])
            clear &= ~ak.to_numpy(ak.any(found, axis=1))
        return clear

    def _away_jet_pt(self, events: Any, leptons: Any) -> Any:
        """The pT [GeV] of the hardest jet away from all of an event's leptons, 0 without one."""
        wanted = self._analysis["away_jet"]
        jets = events.Jet[abs(events.Jet.eta) < wanted["abs_eta_max"]]
        away = ak.all(jets.metric_table(leptons) > wanted["dr_min"], axis=2)
        return ak.to_numpy(ak.fill_none(ak.max(jets.pt[away], axis=1), 0.0))

    @staticmethod
    def _below(values: Any, largest: float | None) -> Any:
        """Whether an event has a value below a limit, where there is one."""
        if largest is None:
            return np.ones(len(values), bool)
        below = values < largest
        return ak.to_numpy(ak.any(below, axis=1) if below.ndim > 1 else below)

    def _trigger_weight(self, recorded: Sequence[Any], pt: Any, is_data: bool) -> Any:
        """One if the path that covers a lepton's pT fired, else 0; in data times its prescale.

        `recorded` tells for each trigger of the analysis which leptons' events it recorded.
        """
        triggers: Sequence[Mapping[str, Any]] = self._analysis["triggers"]
        if not triggers:
            return np.ones(len(pt))
        weight = np.zeros(len(pt))
        for trigger, took in zip(triggers, recorded, strict=True):
            covers = (pt >= trigger.get("pt_min", 0)) & (pt < trigger.get("pt_max", np.inf))
            weight[covers & took] = trigger.get("prescale", 1) if is_data else 1
        return weight

    def _coordinates(self, pt: Any, eta: Any) -> tuple[Any, Any]:
        """Where leptons are filled: pT and |eta|, clamped to the axes if the analysis says so."""
        analysis = self._analysis
        x, y = pt, np.abs(eta) if analysis["eta"] == "absolute" else eta
        if analysis["overflow"] == "clamp":
            x, y = (_clamped(v, analysis["binning"][n]) for v, n in ((x, "pt"), (y, "abs_eta")))
        return x, y

    def _expectation(self, pt: Any, eta: Any, x: Any, y: Any, weight: Any) -> dict[str, hist.Hist]:
        """What the injected probability makes of the loose leptons, where there is one."""
        if self._truth is None:
            return {}
        correction = correctionlib.CorrectionSet.from_string(self._truth)
        f = correction[self._analysis["truth"]["correction"]].evaluate(
            pt.astype(np.float64), np.abs(eta).astype(np.float64)
        )
        out = {}
        for name, value in (
            ("expected", weight * f),
            ("expected_variance", weight**2 * f * (1 - f)),
        ):
            out[name] = hist.Hist(*self._axes(), storage=hist.storage.Double())
            out[name].fill(x, y, weight=value)
        return out

    def _cutflow(self, cuts: Sequence[Any], weight: Any) -> dict[str, hist.Hist]:
        steps = [*STEPS, *self._analysis.get("cuts", {}), "trigger"]
        left = [np.ones(len(weight), bool)]
        for cut in cuts:
            left.append(left[-1] & cut)
        axis = hist.axis.StrCategory(steps, name="step", label="selection step")
        counts = hist.Hist(axis, storage=hist.storage.Int64())
        weighted = hist.Hist(axis, storage=hist.storage.Weight())
        for step, mask in zip(steps, left, strict=True):
            counts.fill(np.full(int(mask.sum()), step))
            weighted.fill(np.full(int(mask.sum()), step), weight=weight[mask])
        return {"cutflow": counts, "weighted_cutflow": weighted}

    def postprocess(self, accumulator: dict[str, Any]) -> dict[str, Any]:
        return accumulator


def _clamped(values: Any, edges: Sequence[float]) -> Any:
    """Values brought into [first edge, last edge): what lies beyond goes into the last bins.

    In double precision: rounded to single, an edge may lie on the other side of itself.
    """
    return np.clip(values.astype(np.float64), edges[0], np.nextafter(edges[-1], edges[0]))
