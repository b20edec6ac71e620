"""What a fake-rate analysis declares, and the branches that it reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from looseleaf.objects.analysis import RATES, Analysis, Leptons, Section
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.needed_branches import JETS, MET, cut_columns


@dataclass(frozen=True, kw_only=True)
class Systematics(Section):
    """The variations of a map.

    They are of the away jet's pT [GeV], of the prompt subtraction (factors `up` and `down`, or
    `fit`), tilts along the axes, and a relative uncertainty from closure.
    """

    away_jet_pt: Mapping[str, float] = field(default_factory=dict)
    prompt: Any = None
    tilt: Mapping[str, float] = field(default_factory=dict)
    closure: float | None = None


@dataclass(frozen=True, kw_only=True)
class FakeRateAnalysis(Analysis):
    """A measurement of N(tight) / N(loose) by pT [GeV] and |eta| in a measurement region."""

    kind = "fakerate"
    MEASURES = RATES
    AFTERWARDS = ("title", "datasets", "lumi_ifb", "interval")
    # the cutflow lists cuts in the order of their declaration
    ORDERED = ("cuts",)

    lepton: Mapping[str, str]
    denominator: str
    loose: str
    tight: str
    veto: Mapping[str, str]
    away_jet: Mapping[str, float]
    region: Mapping[str, float | None]
    binning: Mapping[str, Sequence[float]]
    eta: str
    momentum: str
    overflow: str
    weights: str
    interval: str = ""
    lumi_ifb: float | None = None
    cuts: Mapping[str, str] = field(default_factory=dict)
    systematics: Systematics = Systematics()
    prompt_fit: Mapping[str, Any] | None = None
    truth: Mapping[str, str] | None = None

    @property
    def collection(self) -> str:
        """The collection of the measured leptons."""
        return self.lepton["collection"]

    def of_events(self) -> Self:
        """The analysis as far as it affects events."""
        events = super().of_events()
        varied = events.systematics.without("prompt", "tilt", "closure")
        return replace(events, systematics=varied)

    def measured_leptons(self) -> Leptons:
        """The measured leptons."""
        roles = {"loose": self.denominator, "tight": self.tight, "momentum": self.momentum}
        return Leptons(self.collection, roles, self.eta == "absolute")

    def used_points(self) -> list[tuple[str, str]]:
        """The working points of the measurement and of the veto."""
        points = [(self.collection, name) for name in (self.denominator, self.loose, self.tight)]
        return [*points, *self.veto.items()]

    def own_columns(self, working_points: WorkingPoints) -> set[str]:
        """The branches of the region's cuts, observables, jets and missing momentum."""
        columns = MET | JETS | cut_columns(self.cuts.values())
        if self.momentum == "cone":
            columns |= working_points.cone_columns(self.collection, self.tight)
        return set(columns | cut_columns(o["expression"] for o in self.observables.values()))
