"""The kind `efficiency`: measurements of efficiencies."""

from collections.abc import Collection, Iterator, Mapping
from itertools import product
from typing import Any

from looseleaf.config.checks import check_one_kind, check_rising, located
from looseleaf.config.kind import Kind, MayKeep, Pictures, Step
from looseleaf.efficiency.analysis import EfficiencyAnalysis
from looseleaf.errors import ConfigError
from looseleaf.objects.bounds import range_of
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.names import NOMINAL

# variations of every scale factor; corrections add others
OWN_VARIATIONS = (NOMINAL, "stat", "syst")


class Efficiency(Kind[EfficiencyAnalysis]):
    """The efficiency of an identification or a trigger by tag and probe, in data and simulation."""

    analysis = EfficiencyAnalysis
    stage = "efficiency"
    process = "looseleaf.efficiency.processor:process"
    summary = "efficiency.json"
    category = "efficiency"
    reserved = ("efficiency", "scale_factor", "efficiency_data", "efficiency_simulation")

    def check(
        self,
        analysis: EfficiencyAnalysis,
        datasets: Mapping[str, Any],
        working_points: WorkingPoints,
        file: str,
    ) -> None:
        for axis, edges in analysis.binning.items():
            check_rising(edges, f"{file}: binning.{axis}")
        _check_mass(analysis, file)
        _check_passing(analysis, working_points, file)
        for name in analysis.corrections:
            if name in OWN_VARIATIONS:
                raise ConfigError(
                    f"{file}: corrections: {name!r} is a reserved name; choose another"
                )
        check_one_kind(analysis, datasets, file)

    def declares(self, analysis: EfficiencyAnalysis) -> Collection[str]:
        return ("data", "das", "lumi_mask")

    def selections(self, analysis: EfficiencyAnalysis) -> Iterator[tuple[str, MayKeep]]:
        yield "", lambda box: range_of(f"n{analysis.collection}", box).high > 1

    def steps(self, analysis: EfficiencyAnalysis) -> list[Step]:
        makes = {
            "summary": self.summary,
            "scale_factor": "scale_factor.correctionlib.json",
            "data": "efficiency_data.correctionlib.json",
            "simulation": "efficiency_simulation.correctionlib.json",
        }
        run = "looseleaf.efficiency.measure:measure"
        return [Step("measure", run, makes, datasets=("data", "xsec_pb"))]

    def pictures(self, analysis: EfficiencyAnalysis) -> Pictures:
        shape = [range(len(analysis.binning[axis]) - 1) for axis in ("pt", "abs_eta")]
        fits = [fit_picture(*index) for index in product(*shape)]
        return Pictures(
            "looseleaf.efficiency.pictures:pictures",
            ["data", "simulation", "scale_factor", *fits],
            {"summary": self.summary},
        )


def fit_picture(pt: int, abs_eta: int) -> str:
    """The name of the picture of a bin's fit, without its suffix."""
    return f"fit_pt{pt}_eta{abs_eta}"


def _check_mass(analysis: EfficiencyAnalysis, file: str) -> None:
    """Refuse a peak, or bands beside it, whose ends aren't edges of the mass bins."""
    mass = analysis.mass
    for key in ("window", "peak"):
        check_rising(mass[key], f"{file}: mass.{key}")
    (low, high), (first, last), beside = mass["window"], mass["peak"], mass["beside"]
    if first - beside < low or last + beside > high:
        raise ConfigError(
            f"{file}: mass.peak: {mass['peak']} with bands of {beside:g} GeV beside it is "
            f"outside mass.window, {mass['window']}: widen the window, or narrow the peak or beside"
        )
    edges = analysis.mass_edges
    for edge in (first - beside, first, last, last + beside):
        if min(abs(edge - one) for one in edges) > 1e-6:
            raise ConfigError(
                f"{file}: mass.peak: {edge:g} GeV, an end of the peak or of a band beside it, is "
                f"no edge of the {mass['bins']} bins of mass.window, which are "
                f"{edges[1] - edges[0]:g} GeV wide: change mass.bins, peak or beside"
            )


def _check_passing(analysis: EfficiencyAnalysis, working_points: WorkingPoints, file: str) -> None:
    if analysis.of_trigger:
        return
    texts = []
    for key, point in (("passing", analysis.passing), ("probe", analysis.probe)):
        with located(f"{file}: {key}"):
            texts.append({cut.text for cut in working_points.cuts(analysis.collection, point)})
    passing, probe = texts
    if not probe <= passing:
        raise ConfigError(
            f"{file}: passing: {analysis.passing!r} lacks the cut {sorted(probe - passing)[0]!r} "
            f"of the probe {analysis.probe!r}: passing leptons have to be probes; build it on "
            f"{analysis.probe!r} with like"
        )
