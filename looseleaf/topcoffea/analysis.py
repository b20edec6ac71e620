"""What an EFT analysis declares, what depends on the year, and the branches that it reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from looseleaf.objects.analysis import Section
from looseleaf.objects.branches import EFT_COEFFICIENTS
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.multilepton_analysis import MultileptonAnalysis
from looseleaf.topcoffea.channels import Channel, channels_of

Declared = Mapping[str, Mapping[str, Any]]


def varies(systematic: Mapping[str, Any], process: str) -> bool:
    """Whether a declared systematic varies a simulated process; without `processes`, it varies
    all."""
    return process in systematic.get("processes", [process])


@dataclass(frozen=True, kw_only=True)
class Systematics(Section):
    """Systematics by name: factors on processes, other weights or jet energies, theory weights."""

    rate: Declared = field(default_factory=dict)
    shape: Declared = field(default_factory=dict)
    theory: Declared = field(default_factory=dict)

    def by_key(self) -> dict[str, tuple[str, Mapping[str, Any]]]:
        """All systematics as (name, declaration), by their keys in the file."""
        sections = {"rate": self.rate, "shape": self.shape, "theory": self.theory}
        return {
            f"systematics.{section}.{name}": (name, value)
            for section, of_section in sections.items()
            for name, value in of_section.items()
        }


@dataclass(frozen=True, kw_only=True)
class Datacards(Section):
    """What datacards fit: an observable (by default the first), and coefficients (by default
    all)."""

    observable: str | None = None
    coefficients: Sequence[str] | None = None
    auto_mc_stats: float = 10


@dataclass(frozen=True, kw_only=True)
class TopCoffeaAnalysis(MultileptonAnalysis):
    """Processes by channel and observable, as quadratics in Wilson coefficients.

    `lumi_ifb` is one number, or one for each year. `squares` is how squared weights are kept:
    `exact` (also None) or at `points`. `nonprompt` has the maps of measured rates by collection and
    their cap, `flips` the map of charge flips. Data in signal regions is used only if the analysis
    is unblinded.
    """

    kind = "topcoffea"
    AFTERWARDS = ("title", "lumi_ifb", "signal", "normalise", "datacards", "scan")
    ORDERED = (
        *("datasets", "observables", "corrections", "working_points", "leptons", "nonprompt"),
        *("flips", "cuts", "channels", "points", "systematics"),
    )

    lumi_ifb: float | Mapping[str, float] = 0.0
    signal: Sequence[str] = ()
    normalise: str = "ledger"
    coefficients: Sequence[str] | None = None
    squares: str | None = None
    leptons: Mapping[str, str] = field(default_factory=dict)
    nonprompt: Mapping[str, Any] | None = None
    flips: Mapping[str, str] | None = None
    cuts: Mapping[str, str] = field(default_factory=dict)
    points: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    systematics: Systematics = Systematics()
    datacards: Datacards = Datacards()
    unblind: bool = False
    scan: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def exact_squares(self) -> bool:
        """Whether squared weights are kept exactly."""
        return self.squares in (None, "exact")

    @property
    def maps(self) -> Mapping[str, str]:
        """The fake-rate analyses whose maps are applied, by collection."""
        return self.nonprompt["maps"] if self.nonprompt else {}

    @property
    def card_observable(self) -> str:
        """The observable of the datacards."""
        return self.datacards.observable or next(iter(self.observables))

    def multiplied_channels(self) -> dict[str, Channel]:
        """The channels by name, with blocks multiplied out; raises `ConfigError` as `channels_of`
        does."""
        return channels_of(self.channels, self.cuts)

    def of_events(self) -> Self:
        """The analysis as far as it affects events.

        Its points count only if squares are kept at points; the sums of theory weights are used in
        the normalisation only.
        """
        events = super().of_events()
        theory = {
            name: {key: value for key, value in one.items() if key != "sums"}
            for name, one in events.systematics.theory.items()
        }
        kept = events.without("points") if events.exact_squares else events
        return replace(kept, systematics=Systematics(shape=events.systematics.shape, theory=theory))

    def of_year(self, year: str | None) -> Self:
        """The analysis with the triggers, the corrections and the b-tag threshold of a year."""
        btag = self.jets["btag"]
        jets = self.jets
        if isinstance(btag["min"], Mapping):
            jets = {**jets, "btag": {**btag, "min": btag["min"][year]}}
        holds = [one for one in self.triggers if year in one.get("years", [year])]
        corrections = {
            name: one for name, one in self.corrections.items() if year in one.get("years", [year])
        }
        return replace(self, triggers=holds, corrections=corrections, jets=jets)

    def processed_by_year(self) -> list[str]:
        """The keys that `of_year` sets by year."""
        sections: dict[str, Mapping[Any, Mapping[str, Any]]] = {
            "triggers": dict(enumerate(self.triggers)),
            "corrections": self.corrections,
        }
        keys = [
            f"{section}.{name}"
            for section, of_section in sections.items()
            for name, value in of_section.items()
            if "years" in value
        ]
        return keys + ["jets.btag.min"] * isinstance(self.jets["btag"]["min"], Mapping)

    def by_year(self) -> list[str]:
        """The keys that depend on the year, in `of_year` or afterwards."""
        keys = self.processed_by_year()
        keys += [
            key
            for key, (_, value) in self.systematics.by_key().items()
            if not value.get("correlated", True)
        ]
        return keys + ["lumi_ifb"] * isinstance(self.lumi_ifb, Mapping)

    def luminosity_of(self, year: str | None) -> float:
        """The luminosity [fb^-1] of a year's data."""
        lumi = self.lumi_ifb
        return lumi[str(year)] if isinstance(lumi, Mapping) else lumi

    def metadata(self, name: str, dataset: Mapping[str, Any]) -> dict[str, Any]:
        """What the processor needs to know about a dataset: its process, year and coefficients."""
        return {
            "process": dataset["process"],
            "year": dataset.get("year"),
            "wc_names": dataset.get("wc_names", []),
        }

    def columns(self, dataset: Mapping[str, Any], working_points: WorkingPoints) -> set[str]:
        """The branches that the analysis reads from a dataset."""
        columns = super(TopCoffeaAnalysis, self.of_year(dataset.get("year"))).columns(
            dataset, working_points
        )
        return columns | ({EFT_COEFFICIENTS} if "wc_names" in dataset else set())

    def expressions(self) -> list[tuple[str, str]]:
        """The expressions over event quantities, each with its place in the file."""
        weights = [
            (f"systematics.shape.{name}.weight.{direction}", text)
            for name, shape in self.systematics.shape.items()
            for direction, text in shape.get("weight", {}).items()
        ]
        cuts = [(f"cuts.{name}", text) for name, text in self.cuts.items()]
        return [*cuts, *super().expressions(), *weights]

    def simulated_columns(self, dataset: Mapping[str, Any]) -> set[str]:
        """The origins of leptons, if data predicts some of them, and theory weights."""
        columns = set()
        if self.flips is not None and "Electron" in self.working_points:
            columns |= {"Electron_genPartIdx", "GenPart_pdgId"}
        if self.nonprompt is not None:
            columns |= {f"{collection}_genPartFlav" for collection in self.working_points}
        for theory in self.systematics.theory.values():
            if varies(theory, dataset["process"]):
                columns.add(theory["branch"])
        return columns
