"""Reading and checking the configuration: first its shape, by JSON schemas, then its meaning.

Every message names the file, the key, the value and what is allowed. Paths in the configuration are
relative to the working folder or, failing that, to the folder of the Snakefile.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from looseleaf import dataset_names as das_names
from looseleaf.config.checks import check_columns, check_primaries, check_rising, located
from looseleaf.config.kinds import KINDS, kind_of
from looseleaf.config.listed import Listed, read_samples
from looseleaf.config.schemas import check, schema
from looseleaf.config.skim import check_skim
from looseleaf.errors import ConfigError, shown
from looseleaf.objects.analysis import Analysis
from looseleaf.objects.expressions import Expression
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.yaml_files import ANCHORS, read_yaml, without_anchors


@dataclass(frozen=True)
class Settings:
    """The whole configuration, checked.

    `datasets` and `analyses` are by name, in the order of their declaration; `declared_in` of a
    dataset is its file. `general` is the main file with the overrides of the command line,
    `branches` has alternative names of branches, and `site` says where processors run. `remarks`
    are sentences for the user about listed samples.
    """

    general: Mapping[str, Any]
    datasets: Mapping[str, Mapping[str, Any]]
    analyses: Mapping[str, Analysis]
    working_points: WorkingPoints
    branches: Mapping[str, Any]
    site: Mapping[str, Any]
    remarks: Sequence[str] = ()

    def datasets_of(self, analysis: str) -> list[str]:
        """The datasets that an analysis reads, each once, in the order in which it names them."""
        return list(dict.fromkeys(self.analyses[analysis].dataset_names()))

    def datasets_in_use(self) -> list[str]:
        """The datasets that at least one analysis reads."""
        used = {name for analysis in self.analyses for name in self.datasets_of(analysis)}
        return [name for name in self.datasets if name in used]

    def columns_for(self, dataset: str) -> list[str]:
        """The branches that the analyses of a dataset read, for its transform request.

        An entry `A|B` asks for whichever of the alternatives a file has; a file must have at least
        one.
        """
        columns: set[str] = set()
        for name, analysis in self.analyses.items():
            if dataset in self.datasets_of(name):
                columns |= analysis.columns(self.datasets[dataset], self.working_points)
        return sorted("|".join([column, *self.branches.get(column, [])]) for column in columns)

    def energies_of(self, analysis: str) -> str:
        """The collision energies [TeV] of an analysis' datasets; 13 up to 2018, or without a
        year."""
        years = {self.datasets[name].get("year", "") for name in self.datasets_of(analysis)}
        return ", ".join(sorted({"13.6" if year >= "2022" else "13" for year in years}))

    def points_of(self, analysis: str) -> dict[str, dict[str, Any]]:
        """The declarations of the working points that an analysis uses, and no others."""
        return self.working_points.behind(self.analyses[analysis].used_points())

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON."""
        return {
            "general": self.general,
            "datasets": self.datasets,
            "analyses": {name: analysis.to_json() for name, analysis in self.analyses.items()},
            "working_points": self.working_points.to_json(),
            "branches": self.branches,
            "site": self.site,
        }


def find(path: str, base: Path, asked_in: str) -> Path:
    """A configured path, relative to the working folder or to `base` (the folder of the Snakefile).

    Raises `ConfigError` naming `asked_in`, the file and key, if it doesn't exist or is a folder.
    """
    try:
        existing = [candidate for candidate in (Path(path), base / path) if candidate.exists()]
    except OSError as problem:
        raise ConfigError(f"{asked_in}: {shown(path)}: {problem.strerror}") from None
    if not existing:
        raise ConfigError(
            f"{asked_in}: the file {path!r} does not exist (nor does {str(base / path)!r})"
        )
    files = [candidate for candidate in existing if not candidate.is_dir()]
    if not files:
        raise ConfigError(f"{asked_in}: {path!r} is a folder; name a file in it")
    return files[0]


def load(config: Mapping[str, Any], base: Path, site: str | None = None) -> Settings:
    """Check the merged main configuration and everything that it names.

    `config` is what Snakemake merged from config/config.yaml and the command line, `base` the
    folder of the Snakefile.

    Raises a `LooseleafError` for the first thing that is wrong.
    """
    main = "configuration"
    config = without_anchors(dict(config))
    check(config, schema("config"), main)
    cut = config["servicex"]["cut"]
    if cut is not None:
        with located(f"{main}: servicex.cut"):
            Expression(cut)
    datasets, listed = _datasets(config, base, main)
    points, points_path = _read("working_points", config["working_points"], base, main)
    working_points = WorkingPoints(points, str(points_path))
    branches, _ = _read("branches", config["branches"], base, main)
    analyses: dict[str, Analysis] = {}
    for name in config["analyses"]:
        path = find(name, base, f"{main}: analyses")
        analysis = read_analysis(path, base)
        if analysis.name in analyses:
            raise ConfigError(f"{path}: name: there already is an analysis {analysis.name!r}")
        read = {one: datasets[one] for one in analysis.dataset_names() if one in datasets}
        analysis = kind_of(analysis).completed(analysis, analyses, read, str(path))
        _check_usable(analysis, listed.problems, str(path))
        _check_analysis(analysis, datasets, working_points, str(path))
        columns = [analysis.columns(dataset, working_points) for dataset in read.values()]
        alternatives = {
            name: branches[name] for name in sorted(set().union(*columns) & set(branches))
        }
        analyses[analysis.name] = replace(analysis, branches=alternatives)
    _check_datasets(datasets)
    for name in check_skim(cut, analyses, datasets, KINDS, f"{main}: servicex.cut"):
        analyses[name] = replace(analyses[name], skim=cut)
    site_settings, _ = _read("site", f"config/sites/{config['site']}.yaml", base, main)
    remarks = (*listed.remarks, *listed.problems.values())
    return Settings(config, datasets, analyses, working_points, branches, site_settings, remarks)


def _read(key: str, path: str, base: Path, main: str) -> tuple[dict[str, Any], Path]:
    """A file that the main configuration names at a key, checked against the schema of that
    name."""
    place = find(path, base, f"{main}: {key}")
    value = read_yaml(place)
    check(value, schema(key), str(place))
    return value, place


def read_analysis(path: Path, base: Path) -> Analysis:
    """The analysis in a file, checked against its schema, with the paths of its corrections found.

    `base` is the folder of the Snakefile.
    """
    declared = _name_years(read_yaml(path))
    kinds = ", ".join(KINDS)
    if "kind" not in declared:
        raise ConfigError(f"{path}: the key 'kind' is missing; it takes one of {kinds}")
    # compared with a list: the value may be unhashable
    if declared["kind"] not in list(KINDS):
        raise ConfigError(f"{path}: kind: {shown(declared['kind'])} is not one of {kinds}")
    check(declared, schema(declared["kind"]), str(path))
    for key, correction in declared.get("corrections", {}).items():
        place = find(correction["file"], base, f"{path}: corrections.{key}.file")
        correction["file"] = str(place)
    return KINDS[declared["kind"]].analysis.from_json(declared)


def _datasets(
    config: Mapping[str, Any], base: Path, main: str
) -> tuple[dict[str, dict[str, Any]], Listed]:
    """The datasets by name, and what was noticed about samples in TopEFT's form."""
    datasets: dict[str, dict[str, Any]] = {}
    listed = Listed()
    for name in config["datasets"]:
        path = find(name, base, f"{main}: datasets")
        if path.suffix in (".cfg", ".json"):
            declared = read_samples(path, listed)
        else:
            declared = read_yaml(path)
            for value in declared.values():
                # YAML reads 2018 as a number
                if isinstance(value, dict) and _is_year(value.get("year")):
                    value["year"] = str(value["year"])
            check(declared, schema("datasets"), str(path))
        for dataset, value in declared.items():
            if dataset in datasets:
                elsewhere = datasets[dataset]["declared_in"]
                raise ConfigError(f"{path}: dataset {dataset!r} is already declared in {elsewhere}")
            file = value["listed"]["file"] if "listed" in value else str(path)
            datasets[dataset] = {"data": False, **value, "declared_in": file}
            if "lumi_mask" in value:
                mask = find(value["lumi_mask"], base, f"{path}: {dataset}.lumi_mask")
                datasets[dataset]["lumi_mask"] = str(mask)
    return datasets, listed


def _name_years(value: Any) -> Any:
    """The value with years as text, in lists too; YAML reads them as numbers."""
    if isinstance(value, list):
        return [_name_years(one) for one in value]
    if not isinstance(value, dict):
        return value
    named = {key: _name_years(one) for key, one in value.items()}
    if isinstance(named.get("years"), list):
        named["years"] = [str(year) if _is_year(year) else year for year in named["years"]]
    return named


def _is_year(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_usable(analysis: Analysis, problems: Mapping[str, str], file: str) -> None:
    """Refuse an analysis that names a listed sample with a problem."""
    for name in analysis.dataset_names():
        if name in problems:
            raise ConfigError(f"{file}: datasets: {name!r} can't be used: {problems[name]}")


def _check_analysis(
    analysis: Analysis, datasets: Mapping[str, Any], working_points: WorkingPoints, file: str
) -> None:
    kind = kind_of(analysis)
    _check_listed(analysis, datasets, file)
    _check_same_events(analysis, datasets, file)
    if kind.normalised(analysis):
        _check_parts(analysis, datasets, file)
    for name, observable in analysis.observables.items():
        check_rising(observable["edges"], f"{file}: observables.{name}")
    kind.check(analysis, datasets, working_points, file)
    may_be_data = analysis.datasets.get(kind.may_be_data, [])
    data = {name: datasets[name] for name in may_be_data if datasets[name]["data"]}
    check_primaries(analysis.triggers, data, file, kind.several_primaries)
    check_columns(
        analysis, (datasets[name] for name in analysis.dataset_names()), working_points, file
    )


def _check_listed(analysis: Analysis, datasets: Mapping[str, Any], file: str) -> None:
    """Refuse datasets that aren't declared, or that don't belong in their group."""
    kind, names = kind_of(analysis), analysis.dataset_names()
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{file}: datasets: {name!r} is in more than one group")
        if name not in datasets:
            near = difflib.get_close_matches(name, datasets, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            if name.startswith(ANCHORS):
                hint = f"; names that begin with {ANCHORS} are reserved for YAML anchors"
            raise ConfigError(f"{file}: datasets: {name!r} is not declared{hint}")
        is_data = datasets[name]["data"]
        if name in analysis.datasets.get("data", []) and not is_data:
            raise ConfigError(f"{file}: datasets.data: {name!r} is simulation")
        if is_data and name not in analysis.datasets.get(kind.may_be_data, []):
            raise ConfigError(
                f"{file}: datasets: {name!r} is data, but this group takes simulation"
            )
        if kind.normalised(analysis) and not is_data and "xsec_pb" not in datasets[name]:
            raise ConfigError(
                f"{file}: datasets: {name!r} needs xsec_pb, since this analysis normalises "
                "simulation"
            )


def _check_same_events(analysis: Analysis, datasets: Mapping[str, Any], file: str) -> None:
    """Refuse datasets that hold the same events."""
    das_of = {name: datasets[name]["das"] for name in analysis.dataset_names()}
    of_events: dict[tuple[str, str, str], str] = {}
    for name, das in das_of.items():
        other = of_events.setdefault(das_names.same_events(das), name)
        if other != name:
            raise ConfigError(
                f"{file}: datasets: {other} ({das_of[other]}) and {name} ({das}) are two versions "
                "of one dataset, so its events would count twice: keep one"
            )
    for pattern in (name for name, das in das_of.items() if "*" in das):
        for name, das in das_of.items():
            if name != pattern and das_names.may_match_the_same(das_of[pattern], das):
                raise ConfigError(
                    f"{file}: datasets: {name} ({das}) and the matches of {pattern} "
                    f"({das_of[pattern]}) may be the same dataset, so its events would count "
                    "twice: keep one"
                )


def _check_parts(analysis: Analysis, datasets: Mapping[str, Any], file: str) -> None:
    """Refuse parts of one simulation that would be normalised separately."""
    for group in analysis.datasets.values():
        seen: dict[tuple[Any, ...], str] = {}
        for name in group:
            dataset = datasets[name]
            primary, processed, tier = das_names.parts_of(dataset["das"])
            key = (primary, dataset.get("year"), das_names.campaign(processed))
            # users' skims of one simulation may be disjoint
            if dataset["data"] or tier == "USER":
                continue
            if key in seen:
                raise ConfigError(_parts_of_one(seen[key], name, datasets, file))
            seen[key] = name


def _parts_of_one(one: str, other: str, datasets: Mapping[str, Any], file: str) -> str:
    a, b = datasets[one]["das"], datasets[other]["das"]
    joint = das_names.pattern_of_both(a, b)
    cure = (
        "keep one of them"
        if joint is None
        else f"declare one dataset for both, das: {joint}, so that their sums of weights add up"
    )
    return (
        f"{file}: datasets: {one} ({a}) and {other} ({b}) are parts of one simulation, "
        f"each normalised separately: {cure}"
    )


def _check_datasets(datasets: Mapping[str, Any]) -> None:
    # other files in an analysis' folder, beside those of the datasets
    reserved = {name for kind in KINDS.values() for name in kind.reserved}
    by_das: dict[str, str] = {}
    for name, dataset in datasets.items():
        if name in reserved:
            raise ConfigError(f"datasets: {name!r} is the name of a result; choose another name")
        if "lumi_mask" in dataset and not dataset["data"]:
            raise ConfigError(f"datasets: {name}.lumi_mask: only data has luminosity sections")
        das = dataset["das"]
        if das in by_das:
            raise ConfigError(
                f"datasets: {name!r} and {by_das[das]!r} have the same das, {das}; keep one"
            )
        by_das[das] = name
        if "sample" in dataset and "files" in dataset:
            raise ConfigError(f"datasets: {name!r} has both 'sample' and 'files'; keep one")
        for part in dataset.get("sample", {}).get("sum_of", []):
            if "xsec_pb" not in datasets.get(part, {}) or "sample" not in datasets[part]:
                raise ConfigError(
                    f"datasets: {name}.sample.sum_of: {part!r} isn't a demo sample with an xsec_pb"
                )
