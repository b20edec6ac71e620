"""Applying measured rates: the coffea processor that predicts events with non-prompt leptons."""

from collections.abc import Mapping
from typing import Any

import awkward as ak
import hist
import numpy as np
from coffea.processor import ProcessorABC

from looseleaf.objects.events import recorded, weights
from looseleaf.objects.expressions import Expression
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.multilepton import event_quantities, merged
from looseleaf.objects.rates import RateMap, empty_prediction, predict, stacked

CHANNEL = "channel"
# genPartFlav of a prompt lepton, and of one from a prompt tau
PROMPT = (1, 15)
FIELDS = ("pt", "eta", "phi", "charge", "tight", "prompt", "bin")


class ApplicationProcessor(ProcessorABC):
    """Observed and predicted events with non-prompt leptons, in simulation, by channel.

    Leptons are those that pass the loose working point. Observed are events whose leptons are all
    tight, predicted those with failing leptons, weighted with the rates; events whose leptons are
    all prompt, which a prompt subtraction takes away, are left out of both.

    The accumulator holds for each observable `<name>.observed`, `<name>.predicted` and
    `<name>.slopes` (the sums of w d weight / d f by map bin), and the counts `by_failing` (events
    by channel and number of failing leptons) and `capped`.
    """

    def __init__(
        self, analysis: Mapping[str, Any], points: WorkingPoints, maps: Mapping[str, RateMap]
    ) -> None:
        self._analysis, self._points, self._maps = analysis, points, dict(maps)
        self._offsets, self._rates = stacked(self._maps)
        self._channels = {name: Expression(cut) for name, cut in analysis["channels"].items()}
        self._observables = {
            name: Expression(observable["expression"])
            for name, observable in analysis["observables"].items()
        }

    def process(self, events: Any) -> dict[str, Any]:
        chosen = self._loose(events)
        leptons = merged(chosen, FIELDS)
        quantities = event_quantities(events, chosen, self._analysis["jets"])
        event_weight = weights(events)
        # a lepton that isn't prompt makes the event one to predict
        selected = ak.to_numpy(ak.any(~leptons.prompt, axis=1))
        selected &= recorded(events, self._analysis["triggers"])
        in_channel = {
            channel: selected & np.asarray(cut(quantities), bool)
            for channel, cut in self._channels.items()
        }
        prediction = predict(leptons.bin, leptons.tight, self._rates, self._analysis["cap"])
        axis = hist.axis.StrCategory(list(self._channels), name=CHANNEL, overflow=False)
        by_failing = hist.Hist(
            axis, hist.axis.Integer(0, 5, name="failing"), storage=hist.storage.Int64()
        )
        out: dict[str, Any] = {"by_failing": by_failing}
        for name, expression in self._observables.items():
            observable = self._analysis["observables"][name]
            axes = [
                axis,
                hist.axis.Variable(observable["edges"], name=name, label=observable["label"]),
            ]
            predicted, slopes = empty_prediction(axes, len(self._rates))
            observed = hist.Hist(*axes, storage=hist.storage.Weight())
            values = np.asarray(expression(quantities), np.float64)
            for channel, mask in in_channel.items():
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
                mine = loose[prediction.event]
                event = prediction.event[mine]
                slopes.fill(
                    np.full(len(event), channel),
                    values[event],
                    prediction.bin[mine],
                    weight=event_weight[event] * prediction.slope[mine],
                )
            out |= {
                f"{name}.observed": observed,
                f"{name}.predicted": predicted,
                f"{name}.slopes": slopes,
            }
        for channel, mask in in_channel.items():
            by_failing.fill(np.full(int(mask.sum()), channel), prediction.failing[mask])
        capped = hist.Hist(hist.axis.Integer(0, 1, name="capped"), storage=hist.storage.Int64())
        capped.fill(np.zeros(prediction.capped, int))
        out["capped"] = capped
        return out

    def _loose(self, events: Any) -> dict[str, Any]:
        """Loose leptons by collection, with what their rate is looked up by."""
        found = {}
        for collection, rate_map in self._maps.items():
            roles = self._analysis["working_points"][collection]
            all_of = events[collection]
            loose = self._points.passes(collection, roles["loose"], all_of)
            leptons = all_of[loose]
            leptons["tight"] = self._points.passes(collection, roles["tight"], all_of)[loose]
            flavour = leptons.genPartFlav
            leptons["prompt"] = (flavour == PROMPT[0]) | (flavour == PROMPT[1])
            counts = ak.num(leptons, axis=1)
            pt, eta = (ak.to_numpy(ak.flatten(leptons[field])) for field in ("pt", "eta"))
            bins = rate_map.bins(pt, np.abs(eta)) + self._offsets[collection]
            leptons["bin"] = ak.unflatten(bins, counts)
            found[collection] = leptons
        return found

    def postprocess(self, accumulator: dict[str, Any]) -> dict[str, Any]:
        return accumulator
