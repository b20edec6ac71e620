"""What the processors of all kinds have in common."""

from abc import abstractmethod
from typing import Any

from coffea.processor import ProcessorABC

from looseleaf.objects.chunk import Branches


class BranchesProcessor(ProcessorABC):
    """A processor that fills histograms from branches.

    It runs on the NanoEvents of coffea's own Runner as well.
    """

    @abstractmethod
    def fill(self, branches: Branches) -> dict[str, Any]:
        """Fill one chunk of events; returns the accumulator."""

    def process(self, events: Any) -> dict[str, Any]:
        """Fill one chunk of NanoEvents; returns the accumulator."""
        return self.fill(Branches(events))

    def postprocess(self, accumulator: dict[str, Any]) -> dict[str, Any]:
        """The accumulator as it is."""
        return accumulator
