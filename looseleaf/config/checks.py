"""Checks of an analysis that several kinds share. What is wrong is a `ConfigError` naming file and
key.

Light enough to be imported while Snakemake parses the graph.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import Any

from looseleaf.errors import ConfigError, shown
from looseleaf.objects.analysis import Analysis
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.stage_files import primaries_of

# characters of a file's name on all that we write to
LONGEST = 255


@contextmanager
def located(where: str) -> Iterator[None]:
    """Say where what is wrong stands."""
    try:
        yield
    except ConfigError as problem:
        raise ConfigError(f"{where}: {problem}") from None


def check_rising(edges: Sequence[float], where: str) -> None:
    """Refuse edges that don't increase."""
    if sorted(set(edges)) != list(edges):
        raise ConfigError(f"{where}: {edges} should increase strictly")


def check_columns(
    analysis: Analysis, datasets: Iterable[Mapping[str, Any]], points: WorkingPoints, file: str
) -> None:
    """Refuse what an analysis would read, of any of the datasets, and is not to be known."""
    with located(file):
        for dataset in datasets:
            analysis.columns(dataset, points)


def check_picture_names(channels: Collection[str], observables: Collection[str], file: str) -> None:
    """Refuse channels and observables that are too long together to name a picture's file."""
    channel, observable = (max(names, key=len, default="") for names in (channels, observables))
    if len(f"closure_{channel}_{observable}.png") > LONGEST:
        raise ConfigError(
            f"{file}: channels: {shown(channel)} and the observable {shown(observable)} name a "
            f"picture together, which takes no more than {LONGEST} characters; shorten them"
        )


def lepton_roles(
    maps: Mapping[str, str], others: Mapping[str, Analysis], file: str, key: str
) -> dict[str, Mapping[str, str]]:
    """Loose and tight points, and the momentum at which leptons count, by collection: those of the
    maps that an analysis applies, which stand at `key` and are measured by one of the others."""
    roles = {}
    for collection, name in maps.items():
        measured = others[name].measured_leptons() if name in others else None
        if measured is None:
            raise ConfigError(
                f"{file}: {key}.{collection}: {name!r} is no fake-rate analysis listed before it"
            )
        if measured.collection != collection:
            raise ConfigError(
                f"{file}: {key}.{collection}: {name!r} is a map of {measured.collection}s"
            )
        if not measured.absolute_eta:
            raise ConfigError(f"{file}: maps.{collection}: {name!r} is no map of |eta|")
        roles[collection] = measured.roles
    return roles


def check_primaries(
    triggers: Sequence[Mapping[str, Any]],
    data: Mapping[str, Mapping[str, Any]],
    file: str,
    several: bool = True,
    complete: bool = True,
) -> None:
    """Refuse data that may hold events twice, or triggers whose events no data has, in any year.

    Triggers may say whose they are where an analysis takes `several` primary datasets; `complete`
    data is all of an analysis.
    """
    declared = [trigger for trigger in triggers if "primary" in trigger]
    if declared and len(declared) < len(triggers):
        missing = next(", ".join(t["paths"]) for t in triggers if "primary" not in t)
        raise ConfigError(f"{file}: triggers: {missing}: primary is missing, others have it")
    years = dict.fromkeys(dataset.get("year") for dataset in data.values())
    # data of no year may be of any
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
    """Refuse datasets of one year that may be of different primary datasets."""
    words = {name: set(primaries_of(das)) for name, das in das_names.items()}
    for one, other in combinations(words, 2):
        # eras and skims may have a word more
        if words[one] <= words[other] or words[other] <= words[one]:
            continue
        cure = "measure with one of them"
        if several:
            primary = primaries_of(das_names[one])[0]
            cure = f"say of each trigger whose it is, as primary: [{primary}]"
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
    """Refuse triggers of whose primary datasets there is no data."""
    words = {word for das in das_names.values() for word in primaries_of(das)}
    for trigger in triggers:
        if not words & set(trigger["primary"]):
            raise ConfigError(
                f"{file}: triggers: {', '.join(trigger['paths'])}: no data{_of(year)} of "
                f"{' or '.join(trigger['primary'])} is listed, events of theirs would be lost"
            )


def _refuse_idle_data(
    das_names: Mapping[str, str], triggers: Sequence[Mapping[str, Any]], file: str
) -> None:
    """Refuse data of whose primary dataset there is no trigger."""
    primaries = {word for trigger in triggers for word in trigger["primary"]}
    for name, das in das_names.items():
        if not primaries & set(primaries_of(das)):
            raise ConfigError(
                f"{file}: datasets: {name!r}: no trigger is of primary "
                + " or ".join(primaries_of(das))
            )


def _of(year: str | None) -> str:
    return f" of {year}" if year is not None else ""
