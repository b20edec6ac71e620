"""The kind `application`: analyses that apply measured rates."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from looseleaf.application.analysis import ApplicationAnalysis
from looseleaf.config.checks import check_picture_names, lepton_roles
from looseleaf.config.kind import Kind, Map, MayKeep, Pictures, Step
from looseleaf.config.skim import channel_keeps
from looseleaf.errors import ConfigError
from looseleaf.objects.analysis import Analysis
from looseleaf.objects.expressions import Expression
from looseleaf.objects.leptons import WorkingPoints


class Application(Kind[ApplicationAnalysis]):
    """Events with non-prompt leptons: predicted with measured rates, and observed."""

    analysis = ApplicationAnalysis
    stage = "fakerate"
    process = "looseleaf.application.process:process"
    summary = "closure.json"
    category = "fake rate"
    reserved = ("closure", "closure_histograms")
    may_be_data = "observe"

    def completed(
        self,
        analysis: ApplicationAnalysis,
        others: Mapping[str, Analysis],
        datasets: Mapping[str, Any],
        file: str,
    ) -> ApplicationAnalysis:
        roles = lepton_roles(analysis.maps, others, file, "maps")
        return replace(analysis, working_points=roles)

    def check(
        self,
        analysis: ApplicationAnalysis,
        datasets: Mapping[str, Any],
        working_points: WorkingPoints,
        file: str,
    ) -> None:
        _check_flavours(analysis, file)
        check_picture_names(analysis.channels, analysis.observables, file)

    def selections(self, analysis: ApplicationAnalysis) -> Iterator[tuple[str, MayKeep]]:
        for name, cut in analysis.channels.items():
            yield f"the channel {name!r}", channel_keeps(analysis.working_points, [cut])

    def applied(self, analysis: ApplicationAnalysis) -> Mapping[str, Mapping[str, Map]]:
        return {"maps": {collection: Map(name) for collection, name in analysis.maps.items()}}

    def steps(self, analysis: ApplicationAnalysis) -> list[Step]:
        return [
            Step(
                "closure",
                "looseleaf.application.closure:write_closure",
                {"histograms": "closure_histograms.json", "closure": self.summary},
                applies=("maps",),
                datasets=("data", "xsec_pb"),
            )
        ]

    def pictures(self, analysis: ApplicationAnalysis) -> Pictures:
        names = [f"closure_{c}_{o}" for c in analysis.channels for o in analysis.observables]
        return Pictures("looseleaf.application.pictures:pictures", names, {"closure": self.summary})


def _check_flavours(analysis: ApplicationAnalysis, file: str) -> None:
    """Refuse channels that count leptons without a map, since none would be found."""
    expressions = {f"channels.{name}": text for name, text in analysis.channels.items()}
    for name, observable in analysis.observables.items():
        expressions[f"observables.{name}"] = observable["expression"]
    for where, text in expressions.items():
        for quantity, collection in (("n_mu", "Muon"), ("n_ele", "Electron")):
            if quantity in Expression(text).names and collection not in analysis.maps:
                raise ConfigError(f"{file}: {where}: {quantity} needs maps.{collection}")
