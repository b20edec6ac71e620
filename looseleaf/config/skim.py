"""Whether the cut of the skim can lose events that an analysis would keep.

Light enough to be imported while Snakemake parses the graph.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from looseleaf.config.kind import Kind, MayKeep
from looseleaf.errors import ConfigError
from looseleaf.objects.analysis import Analysis
from looseleaf.objects.bounds import ANY, Box, Range, dropped_by, may_hold, range_of
from looseleaf.objects.expressions import Expression

NOTHING = Range(0, 0, True)
# the number of leptons from which on a quantity isn't 0
NEEDED = {"lep0_pt": 1, "lep0_mt": 1, "lep1_pt": 2, "lep2_pt": 3}


def check_skim(
    cut: str | None,
    analyses: Mapping[str, Analysis],
    datasets: Mapping[str, Any],
    kinds: Mapping[str, Kind[Any]],
    where: str,
) -> list[str]:
    """Refuse a cut that may drop events which a channel of an analysis would keep.

    An analysis may accept the loss (`allow.skim`, or a rate measured in events with few jets). The
    names of these analyses are returned, so that their ledgers can record it. Raises `ConfigError`
    naming `where` the cut is declared, and the channel or analysis.
    """
    if cut is None:
        return []
    boxes = dropped_by(Expression(cut))
    losing = []
    for name, analysis in analyses.items():
        kind = kinds[analysis.kind]
        lost = [
            (selection, box)
            for selection, keeps in _kept_by(analysis, kind, datasets)
            for box in boxes
            if keeps(box)
        ]
        for selection, box in lost:
            if not (analysis.allow.skim or kind.may_lose(analysis, box)):
                raise ConfigError(
                    f"{where}: {cut!r} could remove events that {selection} selects"
                    f"{_in_words(box)}; loosen the cut, set it to null, or accept the loss with "
                    "allow: {skim: true} in the analysis"
                )
        if lost:
            losing.append(name)
    return losing


def _kept_by(
    analysis: Analysis, kind: Kind[Any], datasets: Mapping[str, Any]
) -> Iterator[tuple[str, MayKeep]]:
    """The selections of an analysis, each with whether it may keep an event of a box."""
    of = f"the analysis {analysis.name!r}"
    paths = _paths(analysis, datasets)
    for selection, keeps in kind.selections(analysis):
        text = f"{selection} of {of}" if selection else of
        yield text, partial(_keeps, paths, keeps)


def _paths(analysis: Analysis, datasets: Mapping[str, Any]) -> set[str]:
    """The trigger paths of which an event needs one; empty if some of its datasets need none."""
    paths: set[str] = set()
    for name in analysis.dataset_names():
        triggers = analysis.of_year(datasets[name].get("year")).triggers
        if not triggers:
            return set()
        paths |= {path for trigger in triggers for path in trigger["paths"]}
    return paths


def _keeps(paths: set[str], keeps: MayKeep, box: Box) -> bool:
    return _fires(paths, box) and keeps(box)


def _fires(paths: set[str], box: Box) -> bool:
    return not paths or any(range_of(path, box).high > 0 for path in paths)


def channel_keeps(collections: Iterable[str], cuts: Iterable[str]) -> MayKeep:
    """Whether an event may pass the cuts of a channel, given the bounds of its branches.

    The cuts are on event quantities, computed with the leptons of `collections`.
    """
    expressions = [Expression(cut) for cut in cuts]

    def keeps(box: Box) -> bool:
        most = {name: range_of(f"n{name}", box).high for name in collections}
        leptons = sum(most.values())
        bounds = {
            "n_lep": Range(0, leptons, True),
            "n_mu": Range(0, most.get("Muon", 0), True),
            "n_ele": Range(0, most.get("Electron", 0), True),
            "n_jet": Range(0, range_of("nJet", box).high, True),
            "n_bjet": Range(0, range_of("nJet", box).high, True),
            "met": range_of("MET_pt", box),
        }
        bounds |= {name: NOTHING for name, number in NEEDED.items() if leptons < number}
        if range_of("nJet", box).high < 1:
            bounds["ht"] = NOTHING
        return all(may_hold(cut, lambda name: bounds.get(name, ANY)) for cut in expressions)

    return keeps


def _in_words(box: Box) -> str:
    """The bounds of a box as text, such as `, those with nMuon <= 0 and nJet >= 2`."""
    parts = []
    for name in sorted(box):
        bounds, widest = range_of(name, box), range_of(name, {})
        if bounds.low == bounds.high:
            parts.append(f"{name} == {bounds.low:g}")
            continue
        if bounds.low > widest.low:
            parts.append(f"{name} >= {bounds.low:g}")
        if bounds.high < widest.high:
            parts.append(f"{name} <= {bounds.high:g}")
    if not parts:
        return " (looseleaf can't tell which events it removes)"
    return f", those with {' and '.join(parts)}"
