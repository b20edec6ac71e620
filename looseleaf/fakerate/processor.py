"""The coffea processor that counts loose and tight leptons in a measurement region."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import correctionlib
import hist
import numpy as np
from numpy.typing import NDArray

from looseleaf.fakerate.analysis import FakeRateAnalysis
from looseleaf.fakerate.axes import SPECTRUM, away_jet_thresholds, filled_edges, variations
from looseleaf.histograms.coverage import (
    cover,
    coverage,
    enter,
    entries,
)
from looseleaf.histograms.typed import Plain, Weighted
from looseleaf.objects.chunk import Branches
from looseleaf.objects.corrections import Corrections
from looseleaf.objects.evaluation import Undecided
from looseleaf.objects.events import (
    Selection,
    counted_momentum,
    fired,
    met,
    transverse_mass,
    weights,
)
from looseleaf.objects.expressions import Expression
from looseleaf.objects.flat import Flat
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.loops import cutflow
from looseleaf.objects.luminosity import certified
from looseleaf.objects.names import (
    COVERAGE,
    ENTRIES,
    MAP_ENTRIES,
    NOMINAL,
    POINT,
    POINTS,
    STEPS,
    TRIGGER_STEP,
    VARIATION,
    correction_variations,
)
from looseleaf.objects.processor import BranchesProcessor


@dataclass(frozen=True)
class _Leptons:
    """The leptons of which regions count some, in flat arrays with one entry for each.

    `met` is the missing momentum of their events [GeV], `mt` the transverse mass [GeV], and
    `trigger` the weight of the trigger. `x` and `y` are the lepton's coordinates, and `place` those
    at which it is filled, moved into the map if the analysis says so.
    """

    selection: Selection
    pt: NDArray[Any]
    eta: NDArray[Any]
    met: NDArray[np.float64]
    mt: NDArray[np.float64]
    x: NDArray[Any]
    y: NDArray[Any]
    place: tuple[NDArray[Any], NDArray[Any]]
    tight: NDArray[np.bool_]
    trigger: NDArray[np.float64]


class _Counted:
    """The leptons of a region, `chosen` among all."""

    def __init__(self, leptons: _Leptons, chosen: NDArray[np.int64]) -> None:
        self._leptons, self._chosen = leptons, chosen
        self.selection = leptons.selection.narrowed(chosen)
        self.trigger = leptons.trigger[chosen]
        # by their places among these
        self.tight = np.flatnonzero(leptons.tight[chosen])
        # by variation, of loose and of tight leptons
        self.weights: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}

    def of(self, name: str) -> NDArray[Any]:
        """One of the leptons' arrays."""
        values: NDArray[Any] = getattr(self._leptons, name)[self._chosen]
        return values

    @cached_property
    def place(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """The coordinates at which the leptons are filled."""
        x, y = self._leptons.place
        return x[self._chosen], y[self._chosen]


class FakeRateProcessor(BranchesProcessor):
    """Loose and tight leptons by pT [GeV] and |eta| in a region with non-prompt leptons.

    `analysis` is a fake-rate analysis of the configuration, `working_points` the declared ones,
    `corrections` its weights of simulated events. The measurement region has certified sections,
    exactly one lepton of the working point `loose`, none of those in `veto`, an away jet, small
    missing momentum and transverse mass, and the analysis' own cuts. Leptons of `denominator` fill
    the histogram `loose`, and those that are also `tight` fill `tight`; the first axis of both is
    the variation.

    Weights are genWeight times corrections in simulation, and the trigger's prescale in data, which
    `data` in the metadata distinguishes. The normalisation to a luminosity comes later, from the
    ledger. With `truth`, the text of a correctionlib file, two more histograms have the expectation
    of `tight`: `expected`, the sum of w f, and `expected_variance`, that of w^2 f (1-f).

    The accumulator also has, by step, `cutflow` (events) and `weighted_cutflow`; for loose and
    tight leptons, the distributions of `met` and `mt`, each without the cut on it, and of the
    analysis' own observables; with a `prompt_fit`, the transverse mass of tight leptons in its
    region, `prompt_fit`; and, as in `histograms.coverage`, where values are on the declared axes
    and how weights are spread: `coverage`, `entries` and, by bins of the map, `map_entries`.
    """

    def __init__(
        self,
        analysis: FakeRateAnalysis,
        working_points: WorkingPoints,
        corrections: Corrections,
        truth: str | None = None,
    ) -> None:
        self._analysis, self._working_points, self._truth = analysis, working_points, truth
        self._corrections = corrections
        self._cuts = analysis.cuts
        self._collection = analysis.collection

    def _axes(self) -> list[hist.axis.Variable]:
        binning = self._analysis.binning
        flavour = "\\mu" if self._collection == "Muon" else "e"
        eta = f"\\eta^{{{flavour}}}"
        label = f"$|{eta}|$" if self._analysis.eta == "absolute" else f"${eta}$"
        return [
            hist.axis.Variable(binning["pt"], name="pt", label=f"$p_T^{{{flavour}}}$ [GeV]"),
            hist.axis.Variable(binning["abs_eta"], name="abs_eta", label=label),
        ]

    def _map(self) -> Weighted:
        names = list(variations(self._analysis))
        variation = hist.axis.StrCategory(names, name=VARIATION, overflow=False)
        return hist.Hist(variation, *self._axes(), storage=hist.storage.Weight())

    def fill(self, branches: Branches) -> dict[str, Any]:
        """Fill one chunk of events; returns the accumulator."""
        analysis, undecided = self._analysis, Undecided(self._analysis.allow.not_finite)
        leptons = branches.objects(self._collection)
        loose, denominator, tight = (
            self._working_points.passes(self._collection, point, leptons, undecided)
            for point in (analysis.loose, analysis.denominator, analysis.tight)
        )
        momentum = counted_momentum(
            self._working_points,
            self._collection,
            analysis.measured_leptons().roles,
            leptons,
            denominator,
            tight,
            undecided,
        )
        one_loose = leptons.number(loose) == 1
        # what is counted are leptons of these events, and only they need jets
        of_one = Selection.of(branches, leptons, denominator, one_loose)
        first_cuts = {
            "certified": certified(branches),
            "one loose lepton": one_loose,
            "no other lepton": self._no_other(branches, undecided),
        }
        before_jets = reduce(np.logical_and, first_cuts.values())
        away_pt = self._away_jet_pt(branches, of_one, before_jets)
        # any variation counts no more than these
        with_jet = before_jets & (away_pt > min(away_jet_thresholds(analysis).values()))
        counting = of_one.narrowed(np.flatnonzero(with_jet[of_one.event]))
        met_pt, met_phi = met(branches)
        every = self._described(branches, counting, leptons, momentum, tight, met_pt, met_phi)
        region = analysis.region
        cuts = {
            **first_cuts,
            "away jet": away_pt > analysis.away_jet["pt_min"],
            "met": _below(met_pt, region["met_max"]),
            "mt": self._of_event(_below(every.mt, region["mt_max"]), counting, len(branches)),
            **self._own_cuts(branches, one_loose, undecided),
        }
        # from here on, by lepton that is counted, all of which pass the first cuts
        passing = {
            name: cut[counting.event] for name, cut in cuts.items() if name not in first_cuts
        }
        hardest_away = away_pt[counting.event]

        def counted(**replaced: Any) -> _Counted:
            region = reduce(np.logical_and, {**passing, **replaced}.values())
            return _Counted(every, np.flatnonzero(region))

        event_weight = self._event_weights(branches)

        def weigh(selected: _Counted, variation: str = NOMINAL) -> tuple[Any, Any]:
            """The weights of the loose leptons, and of the tight ones among them."""
            if variation not in selected.weights:
                selected.weights[variation] = weighed(selected, variation)
            return selected.weights[variation]

        def weighed(selected: _Counted, variation: str) -> tuple[Any, Any]:
            if analysis.weights == "counts":
                weight = (selected.trigger > 0).astype(np.float64)
                return weight, weight[selected.tight]
            weight = event_weight[variation][selected.selection.event] * selected.trigger
            if branches.metadata["data"]:
                return weight, weight[selected.tight]
            of_loose, more = (
                self._corrections.lepton_weight(selected.selection, point, variation)
                for point in POINTS
            )
            weight = weight * of_loose
            return weight, (weight * more)[selected.tight]

        loose_map, tight_map = self._map(), self._map()
        out: dict[str, Any] = {"loose": loose_map, "tight": tight_map}
        nominal = counted()
        for variation, threshold in variations(analysis).items():
            same = threshold == analysis.away_jet["pt_min"]
            selected = nominal if same else counted(**{"away jet": hardest_away > threshold})
            of_loose, of_tight = weigh(selected, variation)
            x, y = selected.place
            loose_map.fill(variation, x, y, weight=of_loose)
            tight_map.fill(variation, x[selected.tight], y[selected.tight], weight=of_tight)

        out |= self._distributions(nominal, counted, weigh, every.met, undecided)
        of_loose, _ = weigh(nominal)
        triggered = np.zeros(len(branches), bool)
        triggered[nominal.selection.event[nominal.trigger > 0]] = True
        out |= self._cutflow([*cuts.values(), triggered], event_weight[NOMINAL], of_loose)
        out |= self._spread(nominal, of_loose, event_weight[NOMINAL])
        return out | self._expectation(nominal, of_loose) | undecided.counted()

    def _described(
        self,
        branches: Branches,
        leptons: Selection,
        objects: Flat,
        momentum: NDArray[Any],
        tight: NDArray[np.bool_],
        met_pt: NDArray[np.float64],
        met_phi: NDArray[np.float64],
    ) -> _Leptons:
        """Leptons with all that regions and histograms need of them."""
        pt, eta, phi = (leptons.take(objects[name]) for name in ("pt", "eta", "phi"))
        x, y = leptons.take(momentum), np.abs(eta) if self._analysis.eta == "absolute" else eta
        recorded = [
            fired(branches, trigger["paths"])[leptons.event] for trigger in self._analysis.triggers
        ]
        of_met = met_pt[leptons.event]
        return _Leptons(
            leptons,
            pt,
            eta,
            of_met,
            transverse_mass(pt, phi, of_met, met_phi[leptons.event]),
            x,
            y,
            self._place(x, y),
            leptons.take(tight),
            self._trigger_weight(recorded, pt, branches.metadata["data"]),
        )

    def _distributions(
        self,
        nominal: _Counted,
        counted: Callable[..., _Counted],
        weigh: Callable[..., tuple[Any, Any]],
        of_met: NDArray[np.float64],
        undecided: Undecided,
    ) -> dict[str, hist.Hist[Any]]:
        """Spectra, observables and the region of the fit, and where values are on their axes.

        `of_met` has the missing momentum [GeV] for each lepton that `counted` selects from.
        """
        analysis = self._analysis
        out: dict[str, hist.Hist[Any]] = {}
        of_loose, _ = weigh(nominal)
        seen = {"pt": (nominal.of("x"), of_loose), "abs_eta": (nominal.of("y"), of_loose)}
        everywhere = np.ones(len(of_met), bool)
        spectra = [
            (_spectrum("met", "Missing momentum [GeV]"), counted(met=everywhere)),
            (_spectrum("mt", "Transverse mass [GeV]"), counted(mt=everywhere)),
        ]
        for axis, selected in spectra:
            of_leptons = selected.of(axis.name)
            out[axis.name] = self._by_point(axis, selected, of_leptons, weigh)
            seen[axis.name] = of_leptons, weigh(selected)[0]
        for name, observable in analysis.observables.items():
            binned = hist.axis.Variable(observable["edges"], name=name, label=observable["label"])
            values = nominal.selection.observable(
                name, observable["expression"], undecided, nominal.trigger > 0
            )
            out[name] = self._by_point(binned, nominal, values, weigh)
            seen[name] = values, of_loose
        if analysis.prompt_fit is not None:
            region = analysis.prompt_fit
            selected = counted(met=of_met > region["met_min"], mt=everywhere)
            out["prompt_fit"] = hist.Hist(
                hist.axis.Variable(region["edges"], name="mt", label="Transverse mass [GeV]"),
                storage=hist.storage.Weight(),
            )
            hard = (selected.of("pt") > region["pt_min"])[selected.tight]
            values = selected.of("mt")[selected.tight]
            seen["prompt_fit"] = values[hard], weigh(selected)[1][hard]
            out["prompt_fit"].fill(values[hard], weight=seen["prompt_fit"][1])
        out[COVERAGE] = coverage(seen)
        for name, edges in filled_edges(analysis).items():
            cover(out[COVERAGE], name, edges, *seen[name])
        return out

    def _spread(self, selected: _Counted, of_loose: Any, event_weight: Any) -> dict[str, Weighted]:
        """How weights are spread over all events, over loose leptons and over each bin's
        leptons."""
        steps = hist.axis.StrCategory(["all", "loose"], name="step", overflow=False)
        out = {ENTRIES: entries(steps), MAP_ENTRIES: entries(*self._axes())}
        if self._analysis.weights != "counts":
            enter(out[ENTRIES], "all", weight=event_weight)
        enter(out[ENTRIES], "loose", weight=of_loose)
        enter(out[MAP_ENTRIES], *selected.place, weight=of_loose)
        return out

    def _event_weights(self, branches: Branches) -> dict[str, NDArray[np.float64]]:
        """The weights of events by variation; another jet threshold has nominal ones."""
        nominal = weights(branches)
        if branches.metadata["data"]:
            return dict.fromkeys(variations(self._analysis), nominal)
        corrected = {
            variation: nominal * self._corrections.event_weight(branches, variation)
            for variation in (NOMINAL, *correction_variations(self._analysis.corrections))
        }
        return {v: corrected.get(v, corrected[NOMINAL]) for v in variations(self._analysis)}

    @staticmethod
    def _by_point(
        axis: Any, selected: _Counted, values: Any, weigh: Callable[..., Any]
    ) -> Weighted:
        out: Weighted = hist.Hist(
            hist.axis.StrCategory(POINTS, name=POINT, overflow=False),
            axis,
            storage=hist.storage.Weight(),
        )
        of_loose, of_tight = weigh(selected)
        out.fill("loose", values, weight=of_loose)
        out.fill("tight", values[selected.tight], weight=of_tight)
        return out

    def _own_cuts(self, branches: Branches, among: Any, undecided: Undecided) -> dict[str, Any]:
        """The analysis' own cuts, which must be decidable for events with one loose lepton."""
        return {
            name: undecided.keeps(name, [Expression(cut)], branches, among)
            for name, cut in self._cuts.items()
        }

    def _no_other(self, branches: Branches, undecided: Undecided) -> Any:
        clear = np.ones(len(branches), bool)
        for collection, point in self._analysis.veto.items():
            leptons = branches.objects(collection)
            vetoing = self._working_points.passes(collection, point, leptons, undecided)
            clear &= leptons.number(vetoing) == 0
        return clear

    def _away_jet_pt(
        self, branches: Branches, leptons: Selection, among: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """The pT [GeV] of the hardest jet away from all of an event's leptons, 0 if there is none.

        Only events `among` these count, and only jets above the lowest threshold.
        """
        cuts, jets = self._analysis.away_jet, branches.objects("Jet")
        hard = jets["pt"] > min(away_jet_thresholds(self._analysis).values())
        central = np.abs(jets["eta"]) < cuts["abs_eta_max"]
        jet = Selection.of(branches, jets, hard & central, among)
        return jet.largest("pt", leptons.distant(jet, cuts["dr_min"]))

    @staticmethod
    def _of_event(chosen: NDArray[np.bool_], leptons: Selection, events: int) -> NDArray[np.bool_]:
        """Which events have a chosen lepton."""
        out = np.zeros(events, bool)
        out[leptons.event[chosen]] = True
        return out

    def _trigger_weight(self, recorded: Sequence[Any], pt: Any, is_data: bool) -> Any:
        """One if the path for a lepton's pT fired, else 0; in data, times its prescale.

        `recorded` has for each trigger which leptons' events it recorded.
        """
        triggers: Sequence[Mapping[str, Any]] = self._analysis.triggers
        if not triggers:
            return np.ones(len(pt))
        weight = np.zeros(len(pt))
        for trigger, took in zip(triggers, recorded, strict=True):
            covers = (pt >= trigger.get("pt_min", 0)) & (pt < trigger.get("pt_max", np.inf))
            weight[covers & took] = trigger.get("prescale", 1) if is_data else 1
        return weight

    def _place(self, x: Any, y: Any) -> tuple[Any, Any]:
        """The coordinates at which leptons are filled, moved into the axes if the analysis says
        so."""
        analysis = self._analysis
        if analysis.overflow == "clamp":
            x, y = (_clamped(v, analysis.binning[n]) for v, n in ((x, "pt"), (y, "abs_eta")))
        return x, y

    def _expectation(self, selected: _Counted, weight: Any) -> dict[str, Plain]:
        """The expected tight leptons from the injected probability, if there is one."""
        if self._truth is None:
            return {}
        assert self._analysis.truth is not None
        correction = correctionlib.CorrectionSet.from_string(self._truth)
        f = correction[self._analysis.truth["correction"]].evaluate(
            selected.of("pt").astype(np.float64), np.abs(selected.of("eta")).astype(np.float64)
        )
        out: dict[str, Plain] = {}
        for name, value in (
            ("expected", weight * f),
            ("expected_variance", weight**2 * f * (1 - f)),
        ):
            out[name] = hist.Hist(*self._axes(), storage=hist.storage.Double())
            out[name].fill(*selected.place, weight=value)
        return out

    def _cutflow(
        self, cuts: Sequence[Any], weight: Any, of_loose: Any
    ) -> dict[str, hist.Hist[Any]]:
        """Events by step, and their weights; the last step has the weights of the leptons."""
        steps = [*STEPS, *self._cuts, TRIGGER_STEP]
        axis = hist.axis.StrCategory(steps, name="step", label="selection step")
        counts = hist.Hist(axis, storage=hist.storage.Int64())
        weighted = hist.Hist(axis, storage=hist.storage.Weight())
        number, value, variance = cutflow(cuts, weight)
        value[-1], variance[-1] = of_loose.sum(), np.square(of_loose).sum()
        counts.view()[...] = number
        weighted.view()["value"], weighted.view()["variance"] = value, variance
        return {"cutflow": counts, "weighted_cutflow": weighted}


def _below(values: NDArray[Any], largest: float | None) -> NDArray[np.bool_]:
    """Which values are below a limit, if there is one."""
    return np.ones(len(values), bool) if largest is None else values < largest


def _spectrum(name: str, label: str) -> hist.axis.Regular:
    return hist.axis.Regular(*SPECTRUM, name=name, label=label)


def _clamped(values: Any, edges: Sequence[float]) -> Any:
    """Values moved into [first edge, last edge), so that those outside are in the outermost bins.

    This needs double precision: in single precision, an edge may be rounded to its other side.
    """
    return np.clip(values.astype(np.float64), edges[0], np.nextafter(edges[-1], edges[0]))
