"""The kind `topcoffea`: EFT analyses."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from looseleaf.config.checks import lepton_roles
from looseleaf.config.kind import Kind, Map, MayKeep, Pictures, Step
from looseleaf.config.skim import channel_keeps
from looseleaf.errors import ConfigError
from looseleaf.objects.analysis import CHARGE_FLIPS, Analysis
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.topcoffea.analysis import TopCoffeaAnalysis
from looseleaf.topcoffea.checks import check_analysis

# up to so many coefficients, squared weights are exact: 715 numbers in each bin for 9
MOST_EXACT = 9
# the keys of a dataset that its normalisation needs
NORMALISED = ("data", "xsec_pb", "process", "wc_names", "year", "listed", "sums_of_weights")
HISTOGRAMS = "histograms.h5"


class TopCoffea(Kind[TopCoffeaAnalysis]):
    """EFT histograms, yields and datacards."""

    analysis = TopCoffeaAnalysis
    stage = "topcoffea"
    process = "looseleaf.topcoffea.process:process"
    ending = "h5"
    summary = "yields.json"
    category = "EFT"
    reserved = ("histograms", "yields", "workspace", "datacards")
    may_be_data = "data"
    few_events = 250_000
    tried = NORMALISED

    def completed(
        self,
        analysis: TopCoffeaAnalysis,
        others: Mapping[str, Analysis],
        datasets: Mapping[str, Any],
        file: str,
    ) -> TopCoffeaAnalysis:
        own = {
            collection: {"loose": point, "tight": point, "momentum": "raw"}
            for collection, point in analysis.leptons.items()
        }
        roles = own | lepton_roles(analysis.maps, others, file, "nonprompt.maps")
        name = (analysis.flips or {}).get("map")
        if name is not None and (name not in others or others[name].MEASURES != CHARGE_FLIPS):
            raise ConfigError(
                f"{file}: flips.map: {name!r} isn't a flips analysis that is listed before this one"
            )
        return replace(
            analysis,
            working_points=roles,
            squares=analysis.squares or _squares_for(analysis, datasets.values()),
        )

    def check(
        self,
        analysis: TopCoffeaAnalysis,
        datasets: Mapping[str, Any],
        working_points: WorkingPoints,
        file: str,
    ) -> None:
        check_analysis(analysis, datasets, file)

    def selections(self, analysis: TopCoffeaAnalysis) -> Iterator[tuple[str, MayKeep]]:
        for name, channel in analysis.multiplied_channels().items():
            for region in channel.regions:
                cuts = [cut for cut in (*channel.cuts, region.cut) if cut]
                yield f"the channel {name!r}", channel_keeps(analysis.working_points, cuts)

    def declares(self, analysis: TopCoffeaAnalysis) -> Collection[str]:
        # the year matters only if something depends on it
        keys = ("data", "das", "lumi_mask", "wc_names", "process")
        return (*keys, "year") if analysis.processed_by_year() else keys

    def applied(self, analysis: TopCoffeaAnalysis) -> Mapping[str, Map | str | Mapping[str, Map]]:
        maps = {"maps": {collection: Map(name) for collection, name in analysis.maps.items()}}
        flips = analysis.flips
        if flips is None:
            return maps
        return {**maps, "flips": Map(flips["map"]) if "map" in flips else flips["file"]}

    def steps(self, analysis: TopCoffeaAnalysis) -> list[Step]:
        channels = list(analysis.multiplied_channels())
        combine = Step(
            "combine",
            "looseleaf.topcoffea.yields:sum_datasets",
            {"histograms": HISTOGRAMS, "yields": self.summary, "table": "yields.txt"},
            datasets=(*NORMALISED, "declared_in"),
        )
        datacards = Step(
            "datacards",
            "looseleaf.topcoffea.datacards:write_datacards",
            {
                "cards": {channel: f"datacards/{channel}.txt" for channel in channels},
                "templates": {channel: f"datacards/{channel}.root" for channel in channels},
                "workspace": "workspace.json",
            },
            reads=(),
            uses={"histograms": HISTOGRAMS},
        )
        return [combine, datacards]

    def pictures(self, analysis: TopCoffeaAnalysis) -> Pictures:
        stacks = [f"{c}_{o}" for c in analysis.multiplied_channels() for o in analysis.observables]
        curves = [f"curve_{name}" for name in analysis.scan]
        return Pictures(
            "looseleaf.topcoffea.pictures:pictures",
            [*stacks, *curves],
            {"histograms": HISTOGRAMS},
        )


def _squares_for(analysis: TopCoffeaAnalysis, datasets: Iterable[Mapping[str, Any]]) -> str:
    """The analysis with exact squares if they are at most a few hundred numbers in each bin."""
    names = {name for dataset in datasets for name in dataset.get("wc_names", [])}
    kept = names if analysis.coefficients is None else analysis.coefficients
    return "exact" if len(kept) <= MOST_EXACT else "points"
