"""Checks of an analysis that several kinds share.

They raise `ConfigError`, naming the file and the key. This module is light enough to be imported
while Snakemake parses the graph.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import Any

from looseleaf.errors import ConfigError, shown
from looseleaf.objects.analysis import Analysis
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.stage_files import primaries_of

# the longest file name that common file systems take
LONGEST = 255


@contextmanager
def located(where: str) -> Iterator[None]:
    """Add the place, such as a file and a key, to the message of a `ConfigError`."""
    try:
        yield
    except ConfigError as problem:
        raise ConfigError(f"{where}: {problem}") from None


def check_rising(edges: Sequence[float], where: str) -> None:
    """Refuse edges that don't increase."""
    if sorted(set(edges)) != list(edges):
        raise ConfigError(f"{where}: {edges} should increase strictly")


def check_one_kind(analysis: Analysis, datasets: Mapping[str, Any], file: str) -> None:
    """Refuse a measurement in data and simulation together."""
    if len({datasets[name]["data"] for name in analysis.datasets["measure"]}) > 1:
        raise ConfigError(f"{file}: datasets.measure: has data and simulation; keep one kind")


def check_columns(
    analysis: Analysis,
    datasets: Iterable[Mapping[str, Any]],
    working_points: WorkingPoints,
    file: str,
) -> None:
    """Refuse an analysis if the branches that it reads from a dataset can't be determined."""
    with located(file):
        for dataset in datasets:
            analysis.columns(dataset, working_points)


def check_picture_names(channels: Collection[str], observables: Collection[str], file: str) -> None:
    """Refuse channels and observables whose names together are too long for a picture's file
    name."""
    channel, observable = (max(names, key=len, default="") for names in (channels, observables))
    if len(f"closure_{channel}_{observable}.png") > LONGEST:
        raise ConfigError(
            f"{file}: channels: {shown(channel)} and the observable {shown(observable)} give a "
            f"picture a file name of more than {LONGEST} characters; shorten them"
        )


def lepton_roles(
    maps: Mapping[str, str], others: Mapping[str, Analysis], file: str, key: str
) -> dict[str, Mapping[str, str]]:
    """The loose and tight working points and the momentum of the leptons, by collection.

    They are those of the fake-rate `maps` (by collection) that an analysis applies. `key` is where
    the analysis names the maps, and `others` are the analyses listed before it. Raises
    `ConfigError` if a map isn't measured by one of them, is of another collection, or isn't binned
    in |eta|.
    """
    roles = {}
    for collection, name in maps.items():
        measured = others[name].measured_leptons() if name in others else None
        if measured is None:
            raise ConfigError(
                f"{file}: {key}.{collection}: {name!r} isn't a fake-rate analysis that is "
                "listed before this one"
            )
        if measured.collection != collection:
            raise ConfigError(
                f"{file}: {key}.{collection}: {name!r} is a map of {measured.collection}s"
            )
        if not measured.absolute_eta:
            raise ConfigError(f"{file}: maps.{collection}: {name!r} isn't binned in |eta|")
        roles[collection] = measured.roles
    return roles


def check_primaries(
    triggers: Sequence[Mapping[str, Any]],
    data: Mapping[str, Mapping[str, Any]],
    file: str,
    several: bool = True,
    complete: bool = True,
) -> None:
    """Refuse datasets that may share events, and triggers whose primary datasets aren't listed.

    Both are checked year by year. `several` is whether the analysis may read several primary
    datasets, each trigger naming its own; `complete` whether `data` is all the data of the
    analysis.
    """
    declared = [trigger for trigger in triggers if "primary" in trigger]
    if declared and len(declared) < len(triggers):
        missing = next(", ".join(t["paths"]) for t in triggers if "primary" not in t)
        raise ConfigError(
            f"{file}: triggers: {missing}: primary is missing; other triggers have it"
        )
    years = dict.fromkeys(dataset.get("year") for dataset in data.values())
    # data without a year may be of any year
    for year in [None] if None in years else years:
        of_year = {
            name: dataset["das"]
            for name, dataset in data.items()
            if year in (None, dataset.get("year"))
        }
        taking = [one for one in declared if year in (None, *one.get("years", [year]))]
        if not declared:
            _refuse_shared_events(of_year, year, file, several)
            continue
        if complete and of_year:
            _refuse_lost_events(of_year, taking, year, file)
        _refuse_idle_data(of_year, taking, file)


def _refuse_shared_events(
    das_names: Mapping[str, str], year: str | None, file: str, several: bool
) -> None:
    """Refuse datasets of one year that may belong to different primary datasets."""
    words = {name: set(primaries_of(das)) for name, das in das_names.items()}
    for one, other in combinations(words, 2):
        # names of eras and skims may contain one more word
        if words[one] <= words[other] or words[other] <= words[one]:
            continue
        cure = "keep one of them"
        if several:
            primary = primaries_of(das_names[one])[0]
            cure = f"give each trigger its primary dataset, as primary: [{primary}]"
        undated = ", or declare their years" if year is None else ""
        raise ConfigError(
            f"{file}: datasets: {one} and {other}{_of(year)} may hold the same events; "
            f"{cure}{undated}"
        )


def _refuse_lost_events(
    das_names: Mapping[str, str],
    triggers: Iterable[Mapping[str, Any]],
    year: str | None,
    file: str,
) -> None:
    """Refuse triggers whose primary datasets aren't among the data."""
    words = {word for das in das_names.values() for word in primaries_of(das)}
    for trigger in triggers:
        if not words & set(trigger["primary"]):
            raise ConfigError(
                f"{file}: triggers: {', '.join(trigger['paths'])}: no data{_of(year)} of "
                f"{' or '.join(trigger['primary'])} is listed, so their events would be lost"
            )


def _refuse_idle_data(
    das_names: Mapping[str, str], triggers: Sequence[Mapping[str, Any]], file: str
) -> None:
    """Refuse data whose primary dataset no trigger names."""
    primaries = {word for trigger in triggers for word in trigger["primary"]}
    for name, das in das_names.items():
        if not primaries & set(primaries_of(das)):
            raise ConfigError(
                f"{file}: datasets: {name!r}: no trigger has primary "
                + " or ".join(primaries_of(das))
            )


def _of(year: str | None) -> str:
    return f" of {year}" if year is not None else ""
