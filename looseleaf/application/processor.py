"""The coffea processor that applies measured rates to predict events with non-prompt leptons."""

from collections.abc import Mapping
from typing import Any

import awkward as ak
import hist
import numpy as np
from coffea.nanoevents.methods import vector

from looseleaf.application.analysis import ApplicationAnalysis
from looseleaf.histograms.coverage import (
    cover,
    coverage,
    enter,
    entries,
)
from looseleaf.objects.chunk import Branches
from looseleaf.objects.corrections import Corrections
from looseleaf.objects.evaluation import Undecided
from looseleaf.objects.events import counted_momentum, is_prompt, recorded, weights
from looseleaf.objects.expressions import Expression
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.luminosity import certified
from looseleaf.objects.multilepton import SelectedJets, lepton_quantities, merged
from looseleaf.objects.names import COVERAGE, ENTRIES
from looseleaf.objects.processor import BranchesProcessor
from looseleaf.objects.rates import (
    RateMap,
    cover_maps,
    empty_prediction,
    map_edges,
    predict,
    stacked,
)

CHANNEL = "channel"
FIELDS = ("pt", "eta", "phi", "charge", "tight", "prompt", "bin")


class ApplicationProcessor(BranchesProcessor):
    """Observed and predicted events with non-prompt leptons, by channel.

    Leptons pass the loose working point. Observed events have tight leptons only; predicted events
    have failing leptons, and are weighted with the rates. Which events count depends on the `role`
    in a dataset's metadata: for `predict` (simulation), those with a lepton that isn't prompt; for
    `observe` (data), those in certified sections; for `prompt` (simulation), those whose leptons
    are all prompt, which are subtracted from the prediction from data.

    For each observable, the accumulator has `<name>.observed`, `<name>.predicted` and
    `<name>.slopes` (the sums of w d weight / d f by map bin). It counts `by_failing` (events by
    channel and number of failing leptons), `capped` and `unmeasured` (failing leptons in empty bins
    of the map). `coverage` and `entries` tell where observables and failing leptons are on their
    axes, and how the channels' weights are spread. Unless the analysis is unblinded, data without a
    failing lepton isn't used.
    """

    def __init__(
        self,
        analysis: ApplicationAnalysis,
        working_points: WorkingPoints,
        maps: Mapping[str, RateMap],
        corrections: Corrections,
    ) -> None:
        self._analysis, self._working_points, self._maps = analysis, working_points, dict(maps)
        self._corrections = corrections
        self._offsets, self._rates = stacked(self._maps)
        self._empty = np.concatenate([rates.empty.ravel() for rates in self._maps.values()])
        self._channels = {name: Expression(cut) for name, cut in analysis.channels.items()}
        self._observables = {
            name: Expression(observable["expression"])
            for name, observable in analysis.observables.items()
        }

    def fill(self, branches: Branches) -> dict[str, Any]:
        """Fill one chunk of events; returns the accumulator."""
        undecided = Undecided(self._analysis.allow.not_finite)
        chosen = self._loose(branches, undecided)
        leptons = merged(chosen, FIELDS)
        quantities = lepton_quantities(branches, chosen, leptons)
        quantities |= SelectedJets(branches, chosen, self._analysis.jets).quantities()
        event_weight = weights(branches)
        selected = recorded(branches, self._analysis.triggers) & certified(branches)
        if not branches.metadata["data"]:
            event_weight = event_weight * self._corrections.event_weight(branches)
            all_prompt = ak.to_numpy(ak.all(leptons.prompt, axis=1))
            selected &= all_prompt if branches.metadata["role"] == "prompt" else ~all_prompt
        prediction = predict(leptons.bin, leptons.tight, self._rates, self._analysis.cap)
        if branches.metadata["role"] == "observe" and not self._analysis.unblind:
            selected &= prediction.failing > 0
        in_channel = {
            channel: selected & undecided.keeps(channel, [cut], quantities, selected)
            for channel, cut in self._channels.items()
        }
        anywhere = np.logical_or.reduce(list(in_channel.values()))
        axis = hist.axis.StrCategory(list(self._channels), name=CHANNEL, overflow=False)
        by_failing = hist.Hist(
            axis, hist.axis.Integer(0, 5, name="failing"), storage=hist.storage.Int64()
        )
        out: dict[str, Any] = {
            "by_failing": by_failing,
            COVERAGE: coverage([*self._observables, *map_edges(self._maps)]),
            ENTRIES: entries(axis),
        }
        total_weight = event_weight * np.where(prediction.failing > 0, prediction.weight, 1.0)
        for name, expression in self._observables.items():
            observable = self._analysis.observables[name]
            axes: list[hist.axis.StrCategory | hist.axis.Variable] = [
                axis,
                hist.axis.Variable(observable["edges"], name=name, label=observable["label"]),
            ]
            predicted, slopes = empty_prediction(axes, len(self._rates))
            observed = hist.Hist(*axes, storage=hist.storage.Weight())
            values = undecided.numbers(name, expression, quantities, anywhere)
            for channel, mask in in_channel.items():
                edges = observable["edges"]
                cover(out[COVERAGE], name, edges, values[mask], total_weight[mask])
                tight = mask & (prediction.failing == 0)
                loose = mask & (prediction.failing > 0)
                observed.fill(
                    np.full(int(tight.sum()), channel), values[tight], weight=event_weight[tight]
                )
                predicted.fill(
                    np.full(int(loose.sum()), channel),
                    values[loose],
                    weight=(event_weight * prediction.weight)[loose],
                )
                in_region = loose[prediction.event]
                event = prediction.event[in_region]
                slopes.fill(
                    np.full(len(event), channel),
                    values[event],
                    prediction.bin[in_region],
                    weight=event_weight[event] * prediction.slope[in_region],
                )
            out |= {
                f"{name}.observed": observed,
                f"{name}.predicted": predicted,
                f"{name}.slopes": slopes,
            }
        for channel, mask in in_channel.items():
            by_failing.fill(np.full(int(mask.sum()), channel), prediction.failing[mask])
            enter(out[ENTRIES], channel, weight=total_weight[mask])
        cover_maps(out[COVERAGE], self._maps, chosen, anywhere)
        counts = anywhere[prediction.event]
        of_failing = {"capped": prediction.capped, "unmeasured": self._empty[prediction.bin]}
        for name, marked in of_failing.items():
            out[name] = hist.Hist(hist.axis.Integer(0, 1, name=name), storage=hist.storage.Int64())
            out[name].view()[...] = (marked & counts).sum()
        return out | undecided.counted()

    def _loose(self, branches: Branches, undecided: Undecided) -> dict[str, Any]:
        """Loose leptons by collection, as vectors with `FIELDS`, a list for each event.

        One that isn't tight has the momentum at which it counts in the map, and all have the bins
        of their rates.
        """
        return {
            collection: self._of_collection(branches, collection, undecided)
            for collection in self._maps
        }

    def _of_collection(self, branches: Branches, collection: str, undecided: Undecided) -> Any:
        roles, leptons = self._analysis.working_points[collection], branches.objects(collection)
        loose, tight = (
            self._working_points.passes(collection, roles[role], leptons, undecided)
            for role in ("loose", "tight")
        )
        momentum = counted_momentum(
            self._working_points, collection, roles, leptons, loose, tight, undecided
        )
        is_data = branches.metadata["data"]
        of_all = {
            **{name: leptons[name] for name in ("eta", "phi", "mass", "charge")},
            "pt": momentum,
            "tight": tight,
            "prompt": np.ones(len(leptons), bool) if is_data else is_prompt(leptons),
        }
        fields = {name: values[loose] for name, values in of_all.items()}
        bins = self._maps[collection].bins(fields["pt"], np.abs(fields["eta"]))
        fields["bin"] = bins + self._offsets[collection]
        vectors = ak.zip(fields, with_name="PtEtaPhiMLorentzVector", behavior=vector.behavior)
        return ak.unflatten(vectors, leptons.number(loose))
