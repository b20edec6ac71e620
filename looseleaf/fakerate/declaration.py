"""The kind `fakerate`: measurements of fake rates."""

from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise
from typing import Any

from looseleaf.config.checks import check_one_kind, check_rising
from looseleaf.config.kind import Kind, MayKeep, Pictures, Step
from looseleaf.errors import ConfigError
from looseleaf.fakerate.analysis import FakeRateAnalysis
from looseleaf.objects import names
from looseleaf.objects.bounds import ANY, Box, may_hold, range_of
from looseleaf.objects.expressions import Expression
from looseleaf.objects.leptons import WorkingPoints

TRUTH = "truth.json"


class FakeRate(Kind[FakeRateAnalysis]):
    """The ratio of tight to loose leptons in a region with non-prompt leptons."""

    analysis = FakeRateAnalysis
    stage = "fakerate"
    few_events = 2_500_000
    process = "looseleaf.fakerate.process:process"
    summary = "map.json"
    measured_map = "map.json"
    category = "fake rate"
    reserved = ("map", "truth")
    several_primaries = False

    def check(
        self,
        analysis: FakeRateAnalysis,
        datasets: Mapping[str, Any],
        working_points: WorkingPoints,
        file: str,
    ) -> None:
        for axis, edges in analysis.binning.items():
            check_rising(edges, f"{file}: binning.{axis}")
        _check_weights(analysis, file)
        check_one_kind(analysis, datasets, file)
        _check_prompt(analysis, file)
        _check_tight(analysis, working_points, file)
        _check_names(analysis, file)
        _check_triggers(analysis, file)
        if analysis.eta == "signed" and "abs_eta" in analysis.systematics.tilt:
            raise ConfigError(f"{file}: systematics.tilt.abs_eta: needs eta: absolute")
        if analysis.weights == "counts" and analysis.corrections:
            raise ConfigError(f"{file}: corrections: set weights: xsec to use them")

    def normalised(self, analysis: FakeRateAnalysis) -> bool:
        return analysis.weights == "xsec"

    def selections(self, analysis: FakeRateAnalysis) -> Iterator[tuple[str, MayKeep]]:
        yield "", lambda box: _measures(analysis, box)

    def may_lose(self, analysis: FakeRateAnalysis, box: Box) -> bool:
        """Whether the events of a box have more jets than the one that a measurement needs.

        A skim such as `nJet < 5`, which drops them, is a choice of where the rate is measured.
        """
        if not box.keys() <= {"nJet", "nMuon", "nElectron"}:
            return False
        jets, leptons = range_of("nJet", box), range_of(f"n{analysis.collection}", box)
        return jets.low >= 2 and jets.high == ANY.high and leptons.low <= 1 <= leptons.high

    def declares(self, analysis: FakeRateAnalysis) -> Collection[str]:
        return ("data", "lumi_mask")

    def applied(self, analysis: FakeRateAnalysis) -> Mapping[str, str]:
        return {"truth": analysis.truth["file"]} if analysis.truth else {}

    def steps(self, analysis: FakeRateAnalysis) -> list[Step]:
        used = ("data", "xsec_pb")
        measure = Step(
            "measure",
            "looseleaf.fakerate.measure:measure",
            {"uhi": self.summary, "root": "map.root", "correction": "map.correctionlib.json"},
            datasets=used,
        )
        truth = Step(
            "truth",
            "looseleaf.fakerate.measure:compare_with_truth",
            {"output": TRUTH},
            datasets=used,
            after=(self.summary,),
        )
        return [measure, truth] if analysis.truth else [measure]

    def pictures(self, analysis: FakeRateAnalysis) -> Pictures:
        observables = list(analysis.observables)
        drawn = ["loose", "tight", "ratio", "projections", "cutflow"]
        drawn += [f"rate_{name}" for name in observables]
        if "non_prompt" in analysis.datasets:
            spectra = ["pt", "abs_eta", "met", "mt", *observables]
            drawn += [f"{point}_{name}" for point in names.POINTS for name in spectra]
        drawn += ["prompt_fit"] if analysis.prompt_fit else []
        uses = {"uhi": self.summary, **({"truth": TRUTH} if analysis.truth else {})}
        return Pictures("looseleaf.fakerate.pictures:pictures", drawn, uses)


def _measures(analysis: FakeRateAnalysis, box: Box) -> bool:
    """Whether a measurement may use an event: it needs a lepton, a jet and the analysis' own
    cuts."""
    varied = analysis.systematics.away_jet_pt.values()
    least = min([analysis.away_jet["pt_min"], *varied])
    enough = range_of("nJet", box).high > 0 or least < 0
    if range_of(f"n{analysis.collection}", box).high < 1 or not enough:
        return False
    cuts = map(Expression, analysis.cuts.values())
    return all(may_hold(cut, lambda name: range_of(name, box)) for cut in cuts)


def _check_weights(analysis: FakeRateAnalysis, file: str) -> None:
    if analysis.weights == "xsec" and analysis.interval in ("clopper-pearson", "wilson"):
        raise ConfigError(
            f"{file}: interval: {analysis.interval!r} is for unweighted counts; "
            "with weights: xsec, use 'weighted' or 'uncorrelated'"
        )
    if analysis.weights == "counts" and analysis.datasets.get("subtract"):
        raise ConfigError(f"{file}: datasets.subtract: set weights: xsec to subtract")


def _check_tight(analysis: FakeRateAnalysis, working_points: WorkingPoints, file: str) -> None:
    tight, below = (
        {cut.text for cut in working_points.cuts(analysis.collection, point)}
        for point in (analysis.tight, analysis.denominator)
    )
    if not below <= tight:
        raise ConfigError(
            f"{file}: tight: {analysis.tight!r} lacks the cut {sorted(below - tight)[0]!r} of "
            f"{analysis.denominator!r}: tight leptons have to be loose too"
        )


def _check_names(analysis: FakeRateAnalysis, file: str) -> None:
    """Refuse names that the results use themselves, since one would replace the other."""
    taken = {
        "cuts": (analysis.cuts, (*names.STEPS, names.TRIGGER_STEP)),
        "observables": (analysis.observables, (*names.SPECTRA, *names.RESULTS)),
        "corrections": (analysis.corrections, names.VARIATIONS),
    }
    for section, (declared, reserved) in taken.items():
        for name in declared:
            if name in reserved:
                raise ConfigError(f"{file}: {section}: {name!r} is a reserved name; choose another")


def _check_triggers(analysis: FakeRateAnalysis, file: str) -> None:
    prescaled = [trigger for trigger in analysis.triggers if trigger.get("prescale", 1) != 1]
    if prescaled and analysis.weights == "counts":
        raise ConfigError(f"{file}: triggers: set weights: xsec to use a prescale")
    ranges = sorted(
        (trigger.get("pt_min", 0), trigger.get("pt_max", float("inf")))
        for trigger in analysis.triggers
    )
    for start, end in ranges:
        if start >= end:
            raise ConfigError(f"{file}: triggers: the range from {start} to {end} GeV is empty")
    for (_, end), (start, _) in pairwise(ranges):
        if start < end:
            raise ConfigError(f"{file}: triggers: the pt ranges overlap at {start} GeV")
        if start > end:
            raise ConfigError(
                f"{file}: triggers: no trigger covers leptons from {end} to {start} GeV"
            )


def _check_prompt(analysis: FakeRateAnalysis, file: str) -> None:
    groups, prompt = analysis.datasets, analysis.systematics.prompt
    if analysis.prompt_fit is not None:
        needed = [group for group in ("subtract", "non_prompt") if not groups.get(group)]
        if needed:
            raise ConfigError(f"{file}: prompt_fit: needs datasets.{needed[0]} for its templates")
        check_rising(analysis.prompt_fit["edges"], f"{file}: prompt_fit.edges")
    if prompt is not None and not groups.get("subtract"):
        raise ConfigError(f"{file}: systematics.prompt: needs a datasets.subtract to vary")
    if prompt == "fit" and analysis.prompt_fit is None:
        raise ConfigError(f"{file}: systematics.prompt: 'fit' needs a prompt_fit")
    if isinstance(prompt, Mapping) and prompt["up"] < prompt["down"]:
        raise ConfigError(f"{file}: systematics.prompt: up should be more than down")
