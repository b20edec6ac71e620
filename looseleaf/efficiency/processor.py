"""The coffea processor that fills the masses of tag-and-probe pairs, and the job that runs it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import hist
import numpy as np
from numpy.typing import NDArray

from looseleaf.efficiency.analysis import BEYOND, PROBES, EfficiencyAnalysis
from looseleaf.histograms.coverage import (
    cover,
    coverage,
    enter,
    entries,
    losses_beyond,
    losses_dominated,
)
from looseleaf.histograms.typed import Weighted
from looseleaf.objects.chunk import Branches
from looseleaf.objects.corrections import Corrections
from looseleaf.objects.evaluation import Undecided
from looseleaf.objects.events import Selection, fired, is_prompt, recorded, weights
from looseleaf.objects.flat import Flat
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.luminosity import certified
from looseleaf.objects.names import COVERAGE, ENTRIES, NOMINAL, VARIATION
from looseleaf.objects.processor import BranchesProcessor
from looseleaf.processing.stage import DatasetFiles, Reading, Running, process_datasets

ORIGINS = ("other", "prompt")
# the id of trigger objects by collection, and the largest dR to a lepton
TRIGGER_ID = {"Electron": 11, "Muon": 13}
NEAR = 0.1


def near_trigger_object(
    branches: Branches, leptons: Flat, identity: int, bits: int
) -> NDArray[np.bool_]:
    """Which leptons have a trigger object with this id and all of these bits within dR < 0.1."""
    objects = branches.objects("TrigObj")
    # 32 bits in some versions of NanoAOD, and more in others
    passed = objects["filterBits"].astype(np.int64)
    fitting = (objects["id"] == identity) & ((passed & bits) == bits)
    every = Selection.of(branches, leptons, np.ones(len(leptons), bool))
    selected = Selection.of(branches, objects, fitting)
    lepton, other = every.pairs(selected)
    d_eta, d_phi = (
        leptons[angle][every.index[lepton]] - objects[angle][selected.index[other]]
        for angle in ("eta", "phi")
    )
    d_phi = (d_phi + np.pi) % (2 * np.pi) - np.pi
    near = np.zeros(len(leptons), bool)
    near[every.index[lepton[d_eta**2 + d_phi**2 < NEAR**2]]] = True
    return near


class _Pairs(NamedTuple):
    """Pairs of a tag and a probe, by their places among the leptons, and their events."""

    tag: NDArray[np.int64]
    probe: NDArray[np.int64]
    event: NDArray[np.int64]

    def narrowed(self, chosen: NDArray[np.bool_]) -> "_Pairs":
        """Some of the pairs."""
        return _Pairs(*(places[chosen] for places in self))


class EfficiencyProcessor(BranchesProcessor):
    """Masses of pairs of a tag and a probe of opposite charge, by bins of the probe.

    `analysis` is an `efficiency` analysis of the configuration, `working_points` the declared ones;
    `corrections` are weights of simulated events. Every tag is paired with every other probe of its
    event. A pair of two tags counts twice, with either as the probe, since choosing one would
    depend on whether the probe passes. Probes outside the edges of the map don't count.

    The accumulator has `pairs`, over `variation`, `probe` (failing or passing), `origin`, `mass`,
    `pt` and `abs_eta`, `cutflow`, `coverage`, where the probes are on the axes, and `entries`, how
    the weights of events are spread over the bins. The origin of a pair is `prompt` if both leptons
    are matched to prompt ones of the generator; in data it is `other`.
    """

    def __init__(
        self, analysis: EfficiencyAnalysis, working_points: WorkingPoints, corrections: Corrections
    ) -> None:
        self._analysis, self._working_points, self._corrections = (
            analysis,
            working_points,
            corrections,
        )

    def fill(self, branches: Branches) -> dict[str, Any]:
        """Fill one chunk of events; returns the accumulator."""
        analysis = self._analysis
        undecided = Undecided(analysis.allow.not_finite)
        leptons = branches.objects(analysis.collection)
        tag, probe, passes = self._marked(branches, leptons, undecided)
        kept = recorded(branches, analysis.triggers) & certified(branches)
        with_probe = kept & (leptons.number(probe) > 0)
        pairs = _paired(
            leptons, *(Selection.of(branches, leptons, marked, kept) for marked in (tag, probe))
        )
        mass = _mass(leptons, pairs)
        low, high = analysis.mass["window"]
        inside = (mass >= low) & (mass < high)
        steps = {
            "all": len(branches),
            "trigger": kept.sum(),
            "a probe": with_probe.sum(),
            "a tag": len(np.unique(pairs.event)),
            "mass": len(np.unique(pairs.event[inside])),
        }
        return {
            **self._filled(branches, leptons, passes, pairs.narrowed(inside), mass[inside]),
            "cutflow": _cutflow(steps),
            **undecided.counted(),
        }

    def _marked(
        self, branches: Branches, leptons: Flat, undecided: Undecided
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
        """Which leptons of all events are tags, which are probes, and which pass."""
        analysis = self._analysis

        def passes(point: str) -> Any:
            return self._working_points.passes(analysis.collection, point, leptons, undecided)

        def near(bits: int) -> NDArray[np.bool_]:
            return near_trigger_object(branches, leptons, TRIGGER_ID[analysis.collection], bits)

        tag, probe = passes(analysis.tag), passes(analysis.probe)
        if analysis.tag_bits is not None:
            tag = tag & near(analysis.tag_bits)
        if analysis.of_trigger:
            passing = near(analysis.passing["filter_bits"]) & np.repeat(
                fired(branches, analysis.passing["paths"]), leptons.counts
            )
        else:
            passing = passes(analysis.passing)
        return tag, probe, passing

    def _filled(
        self,
        branches: Branches,
        leptons: Flat,
        passing: NDArray[np.bool_],
        pairs: _Pairs,
        mass: NDArray[np.float64],
    ) -> dict[str, Any]:
        analysis, event = self._analysis, pairs.event
        pt, eta = (leptons[name][pairs.probe].astype(np.float64) for name in ("pt", "eta"))
        values = {"pt": pt, "abs_eta": np.abs(eta)}
        passes = passing[pairs.probe].astype(int)
        prompt = np.zeros(len(mass), int)
        if not branches.metadata["data"]:
            matched = is_prompt(leptons)
            prompt = (matched[pairs.tag] & matched[pairs.probe]).astype(int)
        out = hist.Hist(
            hist.axis.StrCategory(analysis.variations, name=VARIATION, overflow=False),
            hist.axis.StrCategory(PROBES, name="probe", overflow=False),
            hist.axis.StrCategory(ORIGINS, name="origin", overflow=False),
            hist.axis.Variable(analysis.mass_edges, name="mass", flow=False),
            *(hist.axis.Variable(analysis.binning[n], name=n, flow=False) for n in values),
            storage=hist.storage.Weight(),
        )
        names = [np.array(names)[index] for names, index in ((PROBES, passes), (ORIGINS, prompt))]
        for variation in analysis.variations:
            weight = self._weight(branches, variation)[event]
            out.fill(variation, *names, mass, *values.values(), weight=weight)
        covered = coverage(analysis.binning)
        nominal = self._weight(branches, NOMINAL)[event]
        for name, of_probe in values.items():
            cover(covered, name, analysis.binning[name], of_probe, nominal)
        return {
            "pairs": out,
            COVERAGE: covered,
            ENTRIES: self._spread(passes, values, event, nominal),
        }

    def _spread(
        self,
        passes: NDArray[np.int64],
        values: Mapping[str, NDArray[np.float64]],
        event: NDArray[Any],
        weight: NDArray[np.float64],
    ) -> Weighted:
        """How the weights of events are spread over each bin of the map, passing and failing.

        An event with several pairs in a bin is one entry, since they have its weight in common.
        """
        probe = hist.axis.StrCategory(PROBES, name="probe", overflow=False)
        axes = [hist.axis.Variable(self._analysis.binning[n], name=n, flow=False) for n in values]
        out = entries(probe, *axes)
        edges = [(of, axis.edges) for of, axis in zip(values.values(), axes, strict=True)]
        inside = np.all([(of >= its[0]) & (of < its[-1]) for of, its in edges], axis=0)
        places = [passes, *(np.searchsorted(its, of, side="right") - 1 for of, its in edges)]
        of_events, which = np.unique(
            np.array([event, *places])[:, inside], axis=1, return_inverse=True
        )
        summed = np.bincount(which.ravel(), weight[inside], of_events.shape[1])
        middles = [axis.centers[place] for axis, place in zip(axes, of_events[2:], strict=True)]
        names = np.array(PROBES)[of_events[1]].tolist()
        enter(out, names, *middles, weight=summed)
        return out

    def _weight(self, branches: Branches, variation: str) -> NDArray[np.float64]:
        if branches.metadata["data"]:
            return np.ones(len(branches))
        return weights(branches) * self._corrections.event_weight(branches, variation)


def _paired(leptons: Flat, tags: Selection, probes: Selection) -> _Pairs:
    """Every tag with every other lepton of its event that is a probe of the opposite charge."""
    tag, probe = tags.pairs(probes)
    pairs = _Pairs(tags.index[tag], probes.index[probe], tags.event[tag])
    charge = leptons["charge"]
    return pairs.narrowed(charge[pairs.tag] != charge[pairs.probe])


def _mass(leptons: Flat, pairs: _Pairs) -> NDArray[np.float64]:
    """The invariant mass [GeV] of pairs of leptons."""
    energy, x, y, z = np.zeros(4)
    for places in (pairs.tag, pairs.probe):
        pt, eta, phi, mass = (
            leptons[name][places].astype(np.float64) for name in ("pt", "eta", "phi", "mass")
        )
        x, y, z = x + pt * np.cos(phi), y + pt * np.sin(phi), z + pt * np.sinh(eta)
        energy = energy + np.sqrt(mass**2 + (pt * np.cosh(eta)) ** 2)
    masses: NDArray[np.float64] = np.sqrt(np.maximum(energy**2 - x**2 - y**2 - z**2, 0.0))
    return masses


def _cutflow(steps: Mapping[str, int]) -> hist.Hist[hist.storage.Int64]:
    out = hist.Hist(
        hist.axis.StrCategory(list(steps), name="step", overflow=False),
        storage=hist.storage.Int64(),
    )
    out[...] = [int(value) for value in steps.values()]
    return out


def process(
    analysis: EfficiencyAnalysis,
    points: Mapping[str, Any],
    declared: Mapping[str, Mapping[str, Any]],
    datasets: Mapping[str, DatasetFiles],
    running: Running,
) -> None:
    """Process every dataset of an `efficiency` analysis on one cluster."""
    working_points = WorkingPoints(points)
    corrections = Corrections.from_files(analysis.corrections)
    process_datasets(
        EfficiencyProcessor(analysis, working_points, corrections),
        datasets,
        running,
        f"efficiency {analysis.name}",
        Reading.of(analysis, declared, working_points),
        losses=lambda _, accumulator: [
            *losses_beyond(
                accumulator[COVERAGE], analysis.binning, allowed=analysis.allow.beyond, **BEYOND
            ),
            *losses_dominated(accumulator[ENTRIES], "events with probes"),
        ],
    )
