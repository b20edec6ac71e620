"""The coffea processor that fills the masses of tag-and-probe pairs, and the job that runs it."""

from collections.abc import Mapping
from typing import Any

import awkward as ak
import hist
import numpy as np
from numpy.typing import NDArray

from looseleaf.efficiency.analysis import BEYOND, MATCHED, PROBES, EfficiencyAnalysis
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
from looseleaf.objects.events import fired, is_prompt, recorded, weights
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.luminosity import certified
from looseleaf.objects.names import COVERAGE, ENTRIES, NOMINAL, VARIATION
from looseleaf.objects.processor import BranchesProcessor
from looseleaf.processing.stage import DatasetFiles, Reading, Running, process_datasets

ORIGINS = ("other", "prompt")
# the id of trigger objects by collection, and the largest dR to a lepton
TRIGGER_ID = {"Electron": 11, "Muon": 13}
NEAR = 0.1


def near_trigger_object(leptons: Any, objects: Any, identity: int, bits: int) -> Any:
    """Which leptons have a trigger object with this id and all of these bits within dR < 0.1,
    jagged."""
    # 32 bits in some versions of NanoAOD, and more in others
    passed = ak.values_astype(objects.filterBits, np.int64)
    objects = objects[(objects.id == identity) & ((passed & bits) == bits)]
    pairs = ak.cartesian({"lepton": leptons, "object": objects}, axis=1, nested=True)
    d_eta = pairs.lepton.eta - pairs.object.eta
    d_phi = (pairs.lepton.phi - pairs.object.phi + np.pi) % (2 * np.pi) - np.pi
    return ak.any(d_eta**2 + d_phi**2 < NEAR**2, axis=2)


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
        leptons = self._marked(branches, undecided)
        kept = recorded(branches, analysis.triggers) & certified(branches)
        with_probe = kept & ak.to_numpy(ak.any(leptons.is_probe, axis=1))
        pairs = ak.argcartesian({"tag": leptons, "probe": leptons}, axis=1)
        pairs = pairs[pairs.tag != pairs.probe]
        event = np.repeat(np.arange(len(branches)), ak.to_numpy(ak.num(pairs, axis=1)))
        tag, probe = (ak.flatten(leptons[pairs[role]]) for role in ("tag", "probe"))
        chosen = ak.to_numpy(tag.is_tag & probe.is_probe & (tag.charge != probe.charge))
        chosen &= kept[event]
        tag, probe, event = tag[chosen], probe[chosen], event[chosen]
        mass = _mass(tag, probe)
        low, high = analysis.mass["window"]
        inside = (mass >= low) & (mass < high)
        steps = {
            "all": len(branches),
            "trigger": kept.sum(),
            "a probe": with_probe.sum(),
            "a tag": len(np.unique(event)),
            "mass": len(np.unique(event[inside])),
        }
        tag, probe, event, mass = (values[inside] for values in (tag, probe, event, mass))
        return {
            **self._filled(branches, tag, probe, event, mass),
            "cutflow": _cutflow(steps),
            **undecided.counted(),
        }

    def _marked(self, branches: Branches, undecided: Undecided) -> Any:
        """The leptons of all events, each with whether it is a tag, is a probe, and passes."""
        analysis, leptons = self._analysis, branches.events[self._analysis.collection]

        def passes(point: str) -> Any:
            return self._working_points.passes(analysis.collection, point, leptons, undecided)

        def near(bits: int) -> Any:
            identity = TRIGGER_ID[analysis.collection]
            return near_trigger_object(leptons, branches.events.TrigObj, identity, bits)

        tag, probe = passes(analysis.tag), passes(analysis.probe)
        if analysis.tag_bits is not None:
            tag = tag & near(analysis.tag_bits)
        if analysis.of_trigger:
            passing = near(analysis.passing["filter_bits"]) & fired(
                branches, analysis.passing["paths"]
            )
        else:
            passing = passes(analysis.passing)
        fields = {name: leptons[name] for name in ("pt", "eta", "phi", "mass", "charge")}
        if not branches.metadata["data"]:
            fields[MATCHED] = leptons[MATCHED]
        return ak.zip({**fields, "is_tag": tag, "is_probe": probe, "passes": passing})

    def _filled(
        self, branches: Branches, tag: Any, probe: Any, event: NDArray[Any], mass: NDArray[Any]
    ) -> dict[str, Any]:
        analysis = self._analysis
        values = {
            "pt": ak.to_numpy(probe.pt).astype(np.float64),
            "abs_eta": np.abs(ak.to_numpy(probe.eta).astype(np.float64)),
        }
        passes = ak.to_numpy(probe.passes).astype(int)
        prompt = np.zeros(len(mass), int)
        if not branches.metadata["data"]:
            prompt = ak.to_numpy(is_prompt(tag) & is_prompt(probe)).astype(int)
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


def _mass(tag: Any, probe: Any) -> NDArray[np.float64]:
    """The invariant mass [GeV] of two leptons."""
    energy, x, y, z = np.zeros(4)
    for lepton in (tag, probe):
        pt, eta, phi, mass = (
            ak.to_numpy(lepton[name]).astype(np.float64) for name in ("pt", "eta", "phi", "mass")
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
