"""The coffea processor that fills EFT histograms in declared channels."""

from collections.abc import Mapping, Sequence
from typing import Any

import awkward as ak
import hist
import numpy as np
from coffea.processor import ProcessorABC
from numpy.typing import NDArray

from looseleaf.errors import DataFileError
from looseleaf.objects.branches import EFT_COEFFICIENTS
from looseleaf.objects.events import recorded, weights
from looseleaf.objects.expressions import Expression
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.multilepton import event_quantities
from looseleaf.topcoffea.efthist import EFTHist, quadratic_terms, remapped

CHANNEL = "channel"


class TopCoffeaProcessor(ProcessorABC):
    """Observables by channel, each bin a quadratic in the Wilson coefficients.

    `analysis` is a topcoffea analysis of the configuration, `points` the declared working points
    and `coefficients` the list that all samples are brought to. The metadata of a dataset holds
    `wc_names`, the coefficients of an EFT sample in the order of its file, else nothing.

    The accumulator holds, for each observable, an `EFTHist` over channel and observable, and the
    events by channel in `cutflow`.
    """

    def __init__(
        self, analysis: Mapping[str, Any], points: WorkingPoints, coefficients: Sequence[str]
    ) -> None:
        self._analysis, self._points = analysis, points
        self._coefficients = tuple(coefficients)
        self._channels = {name: Expression(cut) for name, cut in analysis["channels"].items()}
        self._observables = {
            name: Expression(observable["expression"])
            for name, observable in analysis["observables"].items()
        }

    def process(self, events: Any) -> dict[str, Any]:
        event_weight, eft = self._weights(events)
        triggered = recorded(events, self._analysis["triggers"])
        chosen = {
            collection: events[collection][
                self._points.passes(collection, point, events[collection])
            ]
            for collection, point in self._analysis["leptons"].items()
        }
        quantities = event_quantities(events, chosen, self._analysis["jets"])
        passing = {
            name: triggered & np.asarray(cut(quantities), bool)
            for name, cut in self._channels.items()
        }
        axis = hist.axis.StrCategory(list(passing), name=CHANNEL, overflow=False)
        cutflow = hist.Hist(
            hist.axis.StrCategory(["all", "trigger", *passing], name="step", overflow=False),
            storage=hist.storage.Int64(),
        )
        counted = {"all": np.ones(len(events), bool), "trigger": triggered, **passing}
        for step, mask in counted.items():
            cutflow.fill(np.full(int(mask.sum()), step))
        out: dict[str, Any] = {"cutflow": cutflow}
        for name, expression in self._observables.items():
            observable = self._analysis["observables"][name]
            values = np.asarray(expression(quantities), np.float64)
            filled = EFTHist(
                axis,
                hist.axis.Variable(observable["edges"], name=name, label=observable["label"]),
                coefficients=self._coefficients,
            )
            for channel, mask in passing.items():
                if mask.any():
                    filled.fill(
                        np.full(int(mask.sum()), channel),
                        values[mask],
                        weight=event_weight[mask],
                        eft=None if eft is None else eft[mask],
                    )
            out[name] = filled
        return out

    def _weights(self, events: Any) -> tuple[NDArray[np.float64], NDArray[Any] | None]:
        """Each event's weight, and the terms of an EFT sample, whose weight they carry."""
        names = events.metadata["wc_names"]
        if not names:
            return weights(events), None
        expected = len(quadratic_terms(names))
        dataset = events.metadata["dataset"]
        counts = ak.to_numpy(ak.num(events[EFT_COEFFICIENTS], axis=1))
        if len(counts) and (counts != expected).any():
            raise DataFileError(
                f"dataset {dataset}: an event has {counts[counts != expected][0]} "
                f"{EFT_COEFFICIENTS}; its wc_names ({', '.join(names)}) make {expected}"
            )
        terms = ak.to_numpy(ak.flatten(events[EFT_COEFFICIENTS])).reshape(-1, expected)
        return np.ones(len(events)), remapped(terms, names, self._coefficients)

    def postprocess(self, accumulator: dict[str, Any]) -> dict[str, Any]:
        return accumulator
