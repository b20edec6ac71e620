"""What a measurement of an efficiency declares, and the branches that it reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from looseleaf.objects.analysis import Analysis
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.names import NOMINAL, correction_variations

TRIGGER_OBJECTS = frozenset(
    f"TrigObj_{field}" for field in ("pt", "eta", "phi", "id", "filterBits")
)
MATCHED = "genPartFlav"
PROBES = ("failing", "passing")
# the message for probes outside the edges of the map
BEYOND = {"unit": "probes", "where": "they count nowhere"}


@dataclass(frozen=True, kw_only=True)
class EfficiencyAnalysis(Analysis):
    """The efficiency of probes in pairs with a tag at the Z boson's mass.

    `passing` is a working point or a trigger: its `paths`, one of which has to fire, and the
    `filter_bits` of the trigger object that a probe has to match. `tag_filter_bits` are those of
    the object that the tag has to match. `mass` has the `window` and the number of its `bins`, the
    edges of the `peak` and the width of the bands `beside` it, in GeV.
    """

    kind = "efficiency"
    AFTERWARDS = ("title", "lumi_ifb")

    lepton: Mapping[str, str]
    tag: str
    probe: str
    passing: Any
    mass: Mapping[str, Any]
    binning: Mapping[str, Sequence[float]]
    tag_filter_bits: int | None = None
    lumi_ifb: float | None = None

    @property
    def collection(self) -> str:
        """The collection of the tag and the probe."""
        return self.lepton["collection"]

    @property
    def of_trigger(self) -> bool:
        """Whether it is the efficiency of a trigger, not of a working point."""
        return not isinstance(self.passing, str)

    @property
    def tag_bits(self) -> int | None:
        """The filter bits that a tag has to match; for a trigger, its own unless others are
        declared."""
        if self.tag_filter_bits is None and self.of_trigger:
            return int(self.passing["filter_bits"])
        return self.tag_filter_bits

    @property
    def variations(self) -> list[str]:
        """The variations that need events, the nominal one first."""
        return [NOMINAL, *correction_variations(self.corrections)]

    @property
    def mass_edges(self) -> list[float]:
        """The edges of the bins of the mass window, in GeV."""
        low, high = self.mass["window"]
        bins = self.mass["bins"]
        return [low + (high - low) * step / bins for step in range(bins + 1)]

    def used_points(self) -> list[tuple[str, str]]:
        """The working points of the tag, the probe and the passing probe."""
        passing = [] if self.of_trigger else [self.passing]
        return [(self.collection, name) for name in (self.tag, self.probe, *passing)]

    def own_columns(self, working_points: WorkingPoints) -> set[str]:
        """The paths of a measured trigger, and the branches of the trigger objects."""
        columns = {"|".join(self.passing["paths"])} if self.of_trigger else set()
        return columns | (TRIGGER_OBJECTS if self.tag_bits is not None else set())

    def simulated_columns(self, dataset: Mapping[str, Any]) -> set[str]:
        """The branch with the origins of leptons."""
        return {f"{self.collection}_{MATCHED}"}
