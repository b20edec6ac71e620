"""Processors that tests send to Dask workers, which import them from here."""

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import awkward as ak
import hist
import numpy as np
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


class Undecided(ProcessorABC):
    """Counts events, and every fourth as one that the cut `ss` can't decide on.

    What comes out in the end has the number once more, as `in all`.
    """

    def process(self, events: Any) -> dict[str, Any]:
        lost = int(ak.sum(events.event % 4 == 0))
        return {"events": len(events), "not_finite": {"ss": {"events": lost}}}

    def postprocess(self, accumulator: Any) -> Any:
        return {**accumulator, "in all": accumulator["events"]}


class Traced(MuonPt):
    """Muon pT; leaves a line in the file `journal` for each chunk that it was given.

    It fails on the dataset `fails_in` as long as there is a file named like the journal but
    `.broken`, waits for the file `gate`, and one of all workers does `act`, once.
    """

    def __init__(
        self,
        journal: Path,
        fails_in: str | None = None,
        gate: Path | None = None,
        act: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self.journal, self.fails_in, self.gate, self.act = journal, fails_in, gate, act

    def process(self, events: Any) -> dict[str, Any]:
        entries = f"{events.metadata['dataset']} {events.event[0] if len(events) else 'none'}\n"
        with open(self.journal, "a") as stream:
            stream.write(entries)
        if self.act is not None and first_of_all(self.journal.with_suffix(".act")):
            self.act()
        broken = self.journal.with_suffix(".broken")
        if self.fails_in == events.metadata["dataset"] and broken.exists():
            raise ZeroDivisionError("the user's mistake")
        while self.gate is not None and not self.gate.exists():
            time.sleep(0.05)
        return super().process(events)


class Uneven(MuonPt):
    """Weights whose sum in floating point depends on its order, after waits of any length."""

    def __init__(self, longest_s: float = 0.0, act: Callable[[], None] | None = None) -> None:
        super().__init__()
        self.longest_s, self.act = longest_s, act

    def process(self, events: Any) -> dict[str, Any]:
        if self.act is not None:
            self.act()
        time.sleep(random.random() * self.longest_s)
        number = ak.to_numpy(events.event).astype(float)
        h = hist.Hist(hist.axis.Regular(3, 0, 3, name="n"), storage=hist.storage.Weight())
        h.fill(number % 3, weight=np.exp(20 * np.sin(number)))
        return {"h": h}


@dataclass(frozen=True)
class Once:
    """Does something in the first process that comes to it."""

    path: Path
    act: Callable[[], None]

    def __call__(self) -> None:
        if first_of_all(self.path):
            self.act()


def first_of_all(path: Path) -> bool:
    """Whether no one else made this file before."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Kill:
    """Kills a process of this machine, such as the scheduler's."""

    process: int

    def __call__(self) -> None:
        os.kill(self.process, signal.SIGKILL)


@dataclass(frozen=True)
class Link:
    """Makes a file appear."""

    target: str
    path: str

    def __call__(self) -> None:
        os.symlink(self.target, self.path)


def devour() -> None:
    """Takes memory until the worker is stopped for it."""
    held = []
    while True:
        held.append(np.ones(4_000_000))
        time.sleep(0.02)
