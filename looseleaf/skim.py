"""Whether the cut of the skim may lose events that an analysis would keep.

Light enough to be imported while Snakemake parses the graph.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from looseleaf.errors import ConfigError
from looseleaf.objects.bounds import ANY, Box, Range, dropped_by, may_hold, range_of
from looseleaf.objects.expressions import Expression
from looseleaf.objects.years import of_year
from looseleaf.topcoffea.channels import channels_of

NOTHING = Range(0, 0, True)
# a lepton that isn't there has pT 0: how many there have to be for another
NEEDED = {"lep0_pt": 1, "lep0_mt": 1, "lep1_pt": 2, "lep2_pt": 3}
MayKeep = Callable[[Box], bool]


def check_skim(
    cut: str | None, analyses: Mapping[str, Any], datasets: Mapping[str, Any], where: str
) -> list[str]:
    """Refuse a cut unless all that it drops is dropped by every channel of every analysis.

    A rate may be measured in events with few jets, and an analysis may allow the loss
    (`allow.skim`); the analyses of which that is so are returned, for their ledgers to say it.
    Raises `ConfigError` naming `where` the cut is declared, and the channel or analysis.
    """
    if cut is None:
        return []
    boxes = dropped_by(Expression(cut))
    losing = []
    for name, analysis in analyses.items():
        allowed = analysis.get("allow", {}).get("skim", False)
        lost = [
            (what, b) for what, keeps in _kept_by(analysis, datasets) for b in boxes if keeps(b)
        ]
        for what, box in lost:
            if not (allowed or _of_many_jets(analysis, box)):
                raise ConfigError(
                    f"{where}: {cut!r} could remove events that {what} selects{_in_words(box)}; "
                    "loosen the cut, set it to null, or accept the loss with "
                    "allow: {skim: true} in the analysis"
                )
        if lost:
            losing.append(name)
    return losing


def _kept_by(
    analysis: Mapping[str, Any], datasets: Mapping[str, Any]
) -> Iterator[tuple[str, MayKeep]]:
    """What an analysis fills, and whether an event in a box may be part of it."""
    of = f"the analysis {analysis['name']!r}"
    paths = _paths(analysis, datasets)

    match analysis["kind"]:
        case "fakerate":
            yield of, lambda box: _fires(paths, box) and _measures(analysis, box)
        case "flips":
            yield of, lambda box: _fires(paths, box) and range_of("nElectron", box).high > 1
        case "application":
            for name, text in analysis["channels"].items():
                mine = [Expression(text)]
                yield (
                    f"the channel {name!r} of {of}",
                    lambda box, mine=mine: _fires(paths, box) and _passes(analysis, mine, box),
                )
        case "topcoffea":
            for name, channel in channels_of(analysis).items():
                for region in channel.regions:
                    mine = [Expression(text) for text in (*channel.cuts, region.cut) if text]
                    yield (
                        f"the channel {name!r} of {of}",
                        lambda box, mine=mine: _fires(paths, box) and _passes(analysis, mine, box),
                    )


def _paths(analysis: Mapping[str, Any], datasets: Mapping[str, Any]) -> set[str]:
    """The trigger paths of which an event needs one; none if some of its datasets need none."""
    paths: set[str] = set()
    for group in analysis["datasets"].values():
        for name in group:
            year = datasets[name].get("year")
            there = of_year(analysis, year) if analysis["kind"] == "topcoffea" else analysis
            if not there["triggers"]:
                return set()
            paths |= {path for trigger in there["triggers"] for path in trigger["paths"]}
    return paths


def _fires(paths: set[str], box: Box) -> bool:
    return not paths or any(range_of(path, box).high > 0 for path in paths)


def _of_many_jets(analysis: Mapping[str, Any], box: Box) -> bool:
    """Whether a box holds events with more jets than the one that a measurement needs, as those
    that `nJet < 5` drops: such a cut is a choice of where the rate of one lepton is measured."""
    if analysis["kind"] != "fakerate" or not box.keys() <= {"nJet", "nMuon", "nElectron"}:
        return False
    jets, leptons = range_of("nJet", box), range_of(f"n{analysis['lepton']['collection']}", box)
    return jets.low >= 2 and jets.high == ANY.high and leptons.low <= 1 <= leptons.high


def _measures(analysis: Mapping[str, Any], box: Box) -> bool:
    """Whether a measurement may take an event: it wants a lepton, a jet, and its own cuts."""
    away = analysis["away_jet"]["pt_min"]
    varied = analysis.get("systematics", {}).get("away_jet_pt", {})
    enough = range_of("nJet", box).high > 0 or min([away, *varied.values()]) < 0
    if range_of(f"n{analysis['lepton']['collection']}", box).high < 1 or not enough:
        return False
    cuts = map(Expression, analysis.get("cuts", {}).values())
    return all(may_hold(cut, lambda name: range_of(name, box)) for cut in cuts)


def _passes(analysis: Mapping[str, Any], cuts: list[Expression], box: Box) -> bool:
    """Whether an event may pass the cuts of a channel, which are of quantities of the event."""
    most = {name: range_of(f"n{name}", box).high for name in analysis["working_points"]}
    leptons = sum(most.values())
    known = {
        "n_lep": Range(0, leptons, True),
        "n_mu": Range(0, most.get("Muon", 0), True),
        "n_ele": Range(0, most.get("Electron", 0), True),
        "n_jet": Range(0, range_of("nJet", box).high, True),
        "n_bjet": Range(0, range_of("nJet", box).high, True),
        "met": range_of("MET_pt", box),
    }
    known |= {name: NOTHING for name, number in NEEDED.items() if leptons < number}
    if range_of("nJet", box).high < 1:
        known["ht"] = NOTHING
    return all(may_hold(cut, lambda name: known.get(name, ANY)) for cut in cuts)


def _in_words(box: Box) -> str:
    """The bounds of a box: `, those with nMuon <= 0 and nJet >= 2`, or that it has none."""
    parts = []
    for name in sorted(box):
        bounds, known = range_of(name, box), range_of(name, {})
        if bounds.low == bounds.high:
            parts.append(f"{name} == {bounds.low:g}")
            continue
        if bounds.low > known.low:
            parts.append(f"{name} >= {bounds.low:g}")
        if bounds.high < known.high:
            parts.append(f"{name} <= {bounds.high:g}")
    if not parts:
        return " (looseleaf can't tell which events it removes)"
    return f", those with {' and '.join(parts)}"
