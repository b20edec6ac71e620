"""Checks of an EFT analysis: its channels, processes, coefficients and systematics.

They raise `ConfigError`, naming the file and the key. Light enough to be imported while Snakemake
parses the graph.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from looseleaf.config.checks import check_picture_names, check_rising, located
from looseleaf.errors import ConfigError
from looseleaf.objects import names
from looseleaf.objects.branches import is_theory_weight
from looseleaf.objects.needed_branches import corrected_collection
from looseleaf.topcoffea.analysis import TopCoffeaAnalysis, varies
from looseleaf.topcoffea.channels import DATA, FLIPS, NONPROMPT, weighed_alone
from looseleaf.topcoffea.naming import OBSERVED, WORD, is_reserved

# names of templates have a coefficient between underscores
COEFFICIENT = re.compile(r"[A-Za-z][A-Za-z0-9]*")


def check_analysis(analysis: TopCoffeaAnalysis, datasets: Mapping[str, Any], file: str) -> None:
    """Check an EFT analysis against the declared `datasets`, and raise `ConfigError`."""
    if bool(analysis.leptons) == (analysis.nonprompt is not None):
        raise ConfigError(
            f"{file}: leptons: is missing; declare them, or maps in nonprompt that decide which "
            "leptons count"
        )
    check_regions(analysis, file)
    for name in analysis.datasets["simulation"]:
        process = datasets[name]["process"]
        if process in (DATA, NONPROMPT, FLIPS, OBSERVED):
            raise ConfigError(
                f"{file}: datasets.simulation: {name!r} has the process {process!r}, which is a "
                "reserved name; choose another"
            )
        if not WORD.fullmatch(process):
            raise ConfigError(
                f"{file}: datasets.simulation: {name!r} has the process {process!r}; a datacard "
                "takes letters, digits and _ only, and a letter or _ first"
            )
    simulated = [datasets[name] for name in analysis.datasets["simulation"]]
    check_processes(simulated, file)
    processes = {dataset["process"] for dataset in simulated}
    for name in analysis.signal:
        if name not in processes:
            raise ConfigError(
                f"{file}: signal: {name!r} is not a process of its datasets; "
                + _known_processes(name, processes, simulated)
            )
    _check_coefficients(analysis, {name for d in simulated for name in d.get("wc_names", [])}, file)
    check_years(analysis, {name: datasets[name] for name in analysis.dataset_names()}, file)
    _check_systematics(analysis, datasets, processes, file)
    _check_corrections(analysis, datasets, file)
    observable = analysis.card_observable
    for name in ("cutflow", "failing", "not_finite", names.COVERAGE, names.ENTRIES):
        if name in analysis.observables:
            raise ConfigError(f"{file}: observables: {name!r} is a reserved name; choose another")
    if observable not in analysis.observables:
        raise ConfigError(f"{file}: datacards.observable: {observable!r} is not an observable")
    for key in ("nonprompt", "flips", "unblind"):
        if getattr(analysis, key) and "data" not in analysis.datasets:
            raise ConfigError(f"{file}: {key}: needs data; list it in datasets.data")
    check_picture_names(analysis.multiplied_channels(), analysis.observables, file)


def _known_processes(
    name: str, processes: Iterable[str], datasets: Iterable[Mapping[str, Any]]
) -> str:
    """A hint for an unknown process: a similar name, or the names that there are."""
    for dataset in datasets:
        if dataset["process"] in processes and dataset.get("listed", {}).get("process") == name:
            return f"results call it {dataset['process']!r}"
    return f"there are {', '.join(sorted(processes))}"


def check_processes(datasets: Iterable[Mapping[str, Any]], file: str) -> None:
    """Refuse samples of two processes that would have the same name in results."""
    called: dict[str, Mapping[str, Any]] = {}
    for dataset in datasets:
        process = dataset["process"]
        other = called.setdefault(process, dataset)
        names = [one.get("listed", {}).get("process", process) for one in (other, dataset)]
        if len(set(names)) > 1:
            raise ConfigError(
                f"{file}: datasets: the processes {names[0]!r} and {names[1]!r} would both be "
                f"called {process!r} in results; rename one, in {other['declared_in']} or "
                f"{dataset['declared_in']}"
            )


def _check_coefficients(analysis: TopCoffeaAnalysis, coefficients: set[str], file: str) -> None:
    """Refuse coefficients that no sample has or that cards don't allow, and ranges that don't
    rise."""
    for name in sorted(coefficients):
        if is_reserved(name) or not COEFFICIENT.fullmatch(name):
            raise ConfigError(
                f"{file}: datasets: a sample has the Wilson coefficient {name!r}; in datacards, "
                "names take letters and digits, a letter first, and r and MH are reserved"
            )
    for name, ends in analysis.scan.items():
        check_rising(ends, f"{file}: scan.{name}")
    kept = coefficients if analysis.coefficients is None else analysis.coefficients
    named: dict[str, Collection[str]] = {"coefficients": analysis.coefficients or []}
    named |= {f"points.{label}": point for label, point in analysis.points.items()}
    named["datacards.coefficients"] = analysis.datacards.coefficients or []
    named["scan"] = analysis.scan
    for key, used in named.items():
        for name in used:
            if name not in coefficients:
                raise ConfigError(
                    f"{file}: {key}: {name!r} is not a Wilson coefficient of its datasets; "
                    f"there are {', '.join(sorted(coefficients)) or 'none'}"
                )
            if name not in kept:
                raise ConfigError(f"{file}: {key}: {name!r} isn't in the analysis' coefficients")


def check_regions(analysis: TopCoffeaAnalysis, file: str) -> None:
    """Refuse a prediction from data that no region makes, since simulation leaves its events
    out."""
    with located(file):
        channels = analysis.multiplied_channels()
    roles = {name: {region.role for region in c.regions} for name, c in channels.items()}
    for name, region_roles in roles.items():
        if analysis.nonprompt is not None and NONPROMPT not in region_roles:
            raise ConfigError(
                f"{file}: channels: {name!r} has no isAR_ region, but with nonprompt, simulation "
                "has prompt leptons only"
            )
    if analysis.flips is not None and not any(
        FLIPS in region_roles for region_roles in roles.values()
    ):
        raise ConfigError(
            f"{file}: flips: no channel has the region isAR_2lSS_OS, from which they are predicted"
        )


def check_years(
    analysis: TopCoffeaAnalysis, datasets: Mapping[str, Mapping[str, Any]], file: str
) -> None:
    """Refuse datasets whose year isn't declared, or has no luminosity, threshold or trigger."""
    keys = analysis.by_year()
    tables = {"lumi_ifb": analysis.lumi_ifb, "jets.btag.min": analysis.jets["btag"]["min"]}
    for name, dataset in datasets.items() if keys else ():
        year = dataset.get("year")
        if year is None:
            raise ConfigError(f"{file}: {keys[0]}: depends on the year, but {name!r} declares none")
        of = f"{file}: datasets: {name!r} is of the year {year}"
        for key, table in tables.items():
            if isinstance(table, Mapping) and year not in table:
                raise ConfigError(f"{of}, {key} has {', '.join(table)}")
        if analysis.triggers and not analysis.of_year(year).triggers:
            raise ConfigError(f"{of}, for which there are no triggers")


def _check_systematics(
    analysis: TopCoffeaAnalysis, datasets: Mapping[str, Any], processes: set[str], file: str
) -> None:
    _check_nuisances(analysis, [datasets[name] for name in analysis.dataset_names()], file)
    predictions = {NONPROMPT: analysis.nonprompt, FLIPS: analysis.flips}
    from_data = {process for process, declared in predictions.items() if declared is not None}
    for key, (name, value) in analysis.systematics.by_key().items():
        # other weights don't apply to predictions from data, but factors do
        one_rate = name in analysis.systematics.rate and value.get("correlated", True)
        known = processes | (from_data if one_rate else set())
        for process in value.get("processes", []):
            if process not in known:
                raise ConfigError(
                    f"{file}: {key}.processes: {process!r} is not a process of its datasets; "
                    + _known_processes(process, known, datasets.values())
                )
    for name, theory in analysis.systematics.theory.items():
        _check_theory(name, theory, analysis, datasets, file)


def _check_nuisances(
    analysis: TopCoffeaAnalysis, datasets: Sequence[Mapping[str, Any]], file: str
) -> None:
    """Refuse names of nuisances that are reserved, that a coefficient has, or that two have.

    Names with a year count too.
    """
    years = {dataset.get("year") for dataset in datasets}
    coefficients = {name for dataset in datasets for name in dataset.get("wc_names", [])}
    declared = [
        (key, name, value.get("correlated", True))
        for key, (name, value) in analysis.systematics.by_key().items()
    ]
    declared += [(f"corrections.{name}", name, True) for name in analysis.corrections]
    seen: dict[str, str] = {}
    for key, name, correlated in declared:
        _check_nuisance(name, f"{file}: {key}")
        for label in [name] if correlated else [f"{name}_{year}" for year in years]:
            if label in coefficients:
                raise ConfigError(
                    f"{file}: {key}: {label!r} is a Wilson coefficient; choose another name"
                )
            if label in seen:
                raise ConfigError(f"{file}: {key}: the name is already taken by {seen[label]}")
            seen[label] = key


def _check_corrections(analysis: TopCoffeaAnalysis, datasets: Mapping[str, Any], file: str) -> None:
    """Refuse corrections that apply to no collection of leptons, or to a year without
    simulation."""
    years = {datasets[name].get("year") for name in analysis.datasets["simulation"]}
    for name, correction in analysis.corrections.items():
        key = f"{file}: corrections.{name}"
        if "of" in correction:
            with located(file):
                corrected_collection(name, correction, analysis.working_points)
        for year in correction.get("years", []):
            if year not in years:
                raise ConfigError(f"{key}.years: its datasets have no simulation of {year}")


def _check_theory(
    name: str,
    theory: Mapping[str, Any],
    analysis: TopCoffeaAnalysis,
    datasets: Mapping[str, Any],
    file: str,
) -> None:
    """Refuse theory weights without known sums.

    The ledger has the sums of branches whose names end in Weight; with `normalise: declared`, each
    dataset has to declare its own.
    """
    key = f"{file}: systematics.theory.{name}"
    if analysis.normalise != "declared":
        if not is_theory_weight(theory["branch"]):
            raise ConfigError(
                f"{key}.branch: {theory['branch']!r} is not a branch of theory weights. "
                "Their names end in Weight and their sums are in the ledger; others need "
                "normalise: declared"
            )
        return
    if "sums" not in theory:
        raise ConfigError(f"{key}.sums: is missing; normalise: declared needs it")
    for dataset in analysis.datasets["simulation"]:
        declared = datasets[dataset]
        if not varies(theory, declared["process"]):
            continue
        for direction in ("Up", "Down"):
            sum_name = theory["sums"] + direction
            if sum_name not in declared.get("sums_of_weights", {}):
                key = f"{declared['declared_in']}: {dataset}.sums_of_weights"
                raise ConfigError(
                    f"{key}: {sum_name!r} is missing; systematics.theory.{name} of "
                    f"{analysis.name} needs it for its normalisation"
                )


def _check_nuisance(name: str, key: str) -> None:
    """Refuse names that parameters or templates of the fit already have."""
    if (
        name in ("nominal", "sm")
        or is_reserved(name)
        or name.startswith(("lin_", "quad_", "stat_"))
        or name.endswith(("Up", "Down"))
        or weighed_alone(name) is not None
    ):
        raise ConfigError(f"{key}: {name!r} is a reserved name; choose another")
