"""What a measurement of charge flips declares, and the branches that it reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from looseleaf.objects.analysis import CHARGE_FLIPS, Analysis


@dataclass(frozen=True, kw_only=True)
class FlipsAnalysis(Analysis):
    """Pairs of electrons of one working point at the Z boson's mass, by charge.

    `mass` has the edges of the `peak` and the width of the bands `beside` it, in GeV.
    """

    kind = "flips"
    MEASURES = CHARGE_FLIPS

    electron: str
    mass: Mapping[str, Any]
    binning: Mapping[str, Sequence[float]]

    @property
    def bins(self) -> int:
        """The number of bins of the map."""
        return prod(len(edges) - 1 for edges in self.binning.values())

    def used_points(self) -> list[tuple[str, str]]:
        """The working point of the electrons."""
        return [("Electron", self.electron)]
