"""The kind `flips`: measurements of charge flips."""

from collections.abc import Iterator, Mapping
from typing import Any

from looseleaf.config.checks import check_one_kind, check_rising
from looseleaf.config.kind import Kind, MayKeep, Pictures, Step
from looseleaf.errors import ConfigError
from looseleaf.flips.analysis import FlipsAnalysis
from looseleaf.objects.bounds import range_of
from looseleaf.objects.leptons import WorkingPoints


class Flips(Kind[FlipsAnalysis]):
    """The probability that an electron's charge is wrong, from pairs in Z boson decays."""

    analysis = FlipsAnalysis
    stage = "fakerate"
    process = "looseleaf.flips.process:process"
    summary = "flips.json"
    measured_map = "flips.correctionlib.json"
    category = "fake rate"
    reserved = ("flips",)

    def check(
        self,
        analysis: FlipsAnalysis,
        datasets: Mapping[str, Any],
        working_points: WorkingPoints,
        file: str,
    ) -> None:
        for axis, edges in analysis.binning.items():
            check_rising(edges, f"{file}: binning.{axis}")
        check_rising(analysis.mass["peak"], f"{file}: mass.peak")
        if analysis.mass["peak"][0] < analysis.mass["beside"]:
            raise ConfigError(
                f"{file}: mass.beside: the band below the peak, {analysis.mass['peak']}, would be "
                f"{analysis.mass['beside']:g} GeV wide and begin below zero: narrow it"
            )
        check_one_kind(analysis, datasets, file)

    def normalised(self, analysis: FlipsAnalysis) -> bool:
        return False

    def selections(self, analysis: FlipsAnalysis) -> Iterator[tuple[str, MayKeep]]:
        yield "", lambda box: range_of("nElectron", box).high > 1

    def steps(self, analysis: FlipsAnalysis) -> list[Step]:
        return [
            Step(
                "measure",
                "looseleaf.flips.measure:measure",
                {"correction": self.measured_map, "summary": self.summary},
                reads=("processed",),
                datasets=("data",),
            )
        ]

    def pictures(self, analysis: FlipsAnalysis) -> Pictures:
        return Pictures("looseleaf.flips.pictures:pictures", ["flips"], {"summary": self.summary})
