"""Processors that tests send to Dask workers, which import them from here."""

import os
import signal
from typing import Any

import awkward as ak
import hist
from coffea.processor import ProcessorABC


class Deadly(ProcessorABC):
    """Ends the worker that runs it, as the system does to one that takes too much memory."""

    def process(self, events: Any) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGKILL)
        return {}

    def postprocess(self, accumulator: Any) -> Any:
        return accumulator


class MuonPt(ProcessorABC):
    """Weighted muon pT; raises in the event whose number is `fails_at`."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at = fails_at

    def process(self, events: Any) -> dict[str, Any]:
        if self.fails_at is not None and ak.any(events.event == self.fails_at):
            raise ZeroDivisionError("the user's mistake")
        pt = hist.Hist(hist.axis.Regular(20, 0, 100, name="pt"), storage=hist.storage.Weight())
        weight = ak.broadcast_arrays(events.genWeight, events.Muon.pt)[0]
        pt.fill(ak.to_numpy(ak.flatten(events.Muon.pt)), weight=ak.to_numpy(ak.flatten(weight)))
        return {"pt": pt, "events": {events.metadata["dataset"]: len(events)}}

    def postprocess(self, accumulator: Any) -> Any:
        return accumulator
