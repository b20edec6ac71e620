"""Reading and checking the configuration: its shape by JSON schema first, then its meaning.

Every message names the file, the key, the value and what is allowed. Paths in the configuration
are relative to the working folder or, failing that, to the folder of the Snakefile.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import jsonschema

from looseleaf import dataset_names as das_names
from looseleaf.errors import ConfigError, shown
from looseleaf.objects import names
from looseleaf.objects.branches import is_theory_weight
from looseleaf.objects.columns import analysis_columns, corrected_collection, used_points, varies
from looseleaf.objects.expressions import Expression
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.years import by_year, of_year
from looseleaf.records import primaries_of
from looseleaf.skim import check_skim
from looseleaf.topcoffea.channels import DATA, FLIPS, NONPROMPT, channels_of, weighed_alone
from looseleaf.topcoffea.naming import OBSERVED, WORD, is_reserved
from looseleaf.topcoffea.samples import Listed, read_samples
from looseleaf.yaml_files import ANCHORS, check_plain, read_yaml, without_anchors

SCHEMAS = Path("config/schemas")
# what stands beside the datasets' own files in an analysis' folder
RESERVED = (
    "map",
    "truth",
    "closure",
    "closure_histograms",
    "flips",
    "histograms",
    "yields",
    "workspace",
    "datacards",
)
# coefficients up to which squared weights are kept at every point: 715 numbers a bin for 9
MOST_EXACT = 9
# characters of a file's name on all that we write to
LONGEST = 255
KINDS = ("fakerate", "application", "flips", "topcoffea")
# a coefficient's name stands between underscores in those of templates
COEFFICIENT = re.compile(r"[A-Za-z][A-Za-z0-9]*")


@dataclass(frozen=True)
class Settings:
    """The whole configuration, checked.

    `datasets` and `analyses` are by name, in the order in which they were declared; a dataset's
    `declared_in` is the file that declares it. `general` is the main file after the overrides of
    the command line, `branches` names those that stand in for others, `site` says where processors
    run. `remarks` are sentences for the user about samples that are listed.
    """

    general: Mapping[str, Any]
    datasets: Mapping[str, Mapping[str, Any]]
    analyses: Mapping[str, Mapping[str, Any]]
    working_points: WorkingPoints
    branches: Mapping[str, Any]
    site: Mapping[str, Any]
    remarks: Sequence[str] = ()

    def of_kind(self, kind: str) -> list[str]:
        return [name for name, analysis in self.analyses.items() if analysis["kind"] == kind]

    def datasets_of(self, analysis: str) -> list[str]:
        """The datasets an analysis reads, each once, in the order it names them."""
        return list(dict.fromkeys(dataset_names(self.analyses[analysis])))

    def datasets_in_use(self) -> list[str]:
        """The datasets that at least one analysis reads."""
        used = {name for analysis in self.analyses for name in self.datasets_of(analysis)}
        return [name for name in self.datasets if name in used]

    def columns_for(self, dataset: str) -> list[str]:
        """The branches that the analyses of a dataset read, for its transform request.

        An entry `A|B` asks for whichever of the alternatives a file has, at least one.
        """
        wanted: set[str] = set()
        for name, analysis in self.analyses.items():
            if dataset in self.datasets_of(name):
                wanted |= analysis_columns(analysis, self.datasets[dataset], self.working_points)
        return sorted("|".join([column, *self.branches.get(column, [])]) for column in wanted)

    def energies_of(self, analysis: str) -> str:
        """The energies of collisions [TeV] that an analysis' datasets are of: 13 until 2018, and
        where no year is declared."""
        years = {self.datasets[name].get("year", "") for name in self.datasets_of(analysis)}
        return ", ".join(sorted({"13.6" if year >= "2022" else "13" for year in years}))

    def points_of(self, analysis: str) -> dict[str, dict[str, Any]]:
        """The declarations of the working points that an analysis uses, and of no others."""
        return self.working_points.behind(used_points(self.analyses[analysis]))

    def to_json(self) -> dict[str, Any]:
        return {
            "general": self.general,
            "datasets": self.datasets,
            "analyses": self.analyses,
            "working_points": self.working_points.to_json(),
            "branches": self.branches,
            "site": self.site,
        }


def dataset_names(analysis: Mapping[str, Any]) -> Iterable[str]:
    for group in analysis["datasets"].values():
        yield from group


def find(path: str, base: Path, asked_in: str) -> Path:
    """A configured path as it stands, or below `base` (the folder of the Snakefile)."""
    try:
        found = [candidate for candidate in (Path(path), base / path) if candidate.exists()]
    except OSError as problem:
        raise ConfigError(f"{asked_in}: {shown(path)}: {problem.strerror}") from None
    if not found:
        raise ConfigError(f"{asked_in}: there is no file {path!r} (nor {str(base / path)!r})")
    files = [candidate for candidate in found if not candidate.is_dir()]
    if not files:
        raise ConfigError(f"{asked_in}: {path!r} is a folder; name a file in it")
    return files[0]


@cache
def _schema(base: Path, name: str) -> dict[str, Any]:
    return read_yaml(base / SCHEMAS / f"{name}.schema.yaml")


def check(value: Any, schema: dict[str, Any], file: str) -> None:
    """Check a value against a JSON schema; raise `ConfigError` for the most telling violation.

    Numbers that are none, which a schema lets pass, are refused wherever they are.
    """
    check_plain(value, file)
    validator = jsonschema.Draft202012Validator(schema)
    problem = jsonschema.exceptions.best_match(validator.iter_errors(value))
    if problem is None:
        return
    key = ".".join(str(part) for part in problem.absolute_path) or "the file"
    raise ConfigError(f"{file}: {key}: {_in_words(problem)}")


def _in_words(problem: jsonschema.ValidationError) -> str:
    rule, allowed, value = problem.validator, problem.validator_value, problem.instance
    match rule:
        case "additionalProperties" if isinstance(value, dict):
            known = list(problem.schema.get("properties", {}))
            unknown = sorted(set(value) - set(known))
            near = difflib.get_close_matches(unknown[0], known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
            return f"unknown key {unknown[0]!r}{hint}"
        case "required":
            missing = [name for name in allowed if name not in value]
            return f"the key {missing[0]!r} is missing"
        case "type":
            hint = "" if not _is_number(value) else "; YAML takes 5e-5 as text: write 5.0e-5"
            if "string" in allowed and isinstance(value, (bool, int, float)):
                hint = '; what is to be text goes in quotes, as "2018" or "No"'
            return f"{shown(value)} should be of type {allowed}{hint}"
        case "enum":
            return f"{shown(value)} is not one of {', '.join(map(str, allowed))}"
        case "const":
            return f"{value!r} should be {allowed!r}"
        case "minimum" | "exclusiveMinimum":
            relation = "at least" if rule == "minimum" else "more than"
            return f"{value!r} should be {relation} {allowed}"
        case "maximum" | "exclusiveMaximum":
            relation = "at most" if rule == "maximum" else "less than"
            return f"{value!r} should be {relation} {allowed}"
        case "pattern":
            expected = problem.schema.get("description", f"something like {allowed}")
            return f"{shown(value)} should be {expected}"
        case "maxLength":
            return f"{shown(value)} has more than the {allowed} characters that a file's name can"
        case "minProperties" if not value:
            return "there is nothing in it"
        case _:
            return problem.message


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, str) and float(value) is not None
    except ValueError:
        return False


def load(config: Mapping[str, Any], base: Path, site: str | None = None) -> Settings:
    """Check the merged main configuration and everything that it names.

    `config` is what Snakemake merged from config/config.yaml and the command line, `base` the
    folder of the Snakefile.

    Raises a `LooseleafError` for the first thing that is wrong.
    """
    main = "configuration"
    config = without_anchors(config)
    check(config, _schema(base, "config"), main)
    if config["servicex"]["cut"] is not None:
        with _told_of(f"{main}: servicex.cut"):
            Expression(config["servicex"]["cut"])
    datasets, listed = _datasets(config, base, main)
    points_path = find(config["working_points"], base, f"{main}: working_points")
    points = read_yaml(points_path)
    check(points, _schema(base, "working_points"), str(points_path))
    working_points = WorkingPoints(points, str(points_path))
    branches_path = find(config["branches"], base, f"{main}: branches")
    branches = read_yaml(branches_path)
    check(branches, _schema(base, "branches"), str(branches_path))
    analyses = _analyses(config, base, main, datasets, listed.problems, working_points, branches)
    _check_datasets(datasets, config)
    cut = config["servicex"]["cut"]
    for name in check_skim(cut, analyses, datasets, f"{main}: servicex.cut"):
        analyses[name]["skim"] = cut
    site_path = find(f"config/sites/{config['site']}.yaml", base, f"{main}: site")
    site_settings = read_yaml(site_path)
    check(site_settings, _schema(base, "site"), str(site_path))
    remarks = (*listed.remarks, *listed.problems.values())
    return Settings(config, datasets, analyses, working_points, branches, site_settings, remarks)


def _datasets(
    config: Mapping[str, Any], base: Path, main: str
) -> tuple[dict[str, dict[str, Any]], Listed]:
    """The datasets by name, and what is to be said of those that are listed in TopEFT's form."""
    datasets: dict[str, dict[str, Any]] = {}
    listed = Listed()
    for name in config["datasets"]:
        path = find(name, base, f"{main}: datasets")
        if path.suffix in (".cfg", ".json"):
            declared = read_samples(path, listed)
        else:
            declared = read_yaml(path)
            for value in declared.values():
                # YAML takes 2018 as a number
                if isinstance(value, dict) and _is_year(value.get("year")):
                    value["year"] = str(value["year"])
            check(declared, _schema(base, "datasets"), str(path))
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


def _analyses(
    config: Mapping[str, Any],
    base: Path,
    main: str,
    datasets: Mapping[str, Any],
    problems: Mapping[str, str],
    points: WorkingPoints,
    branches: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    analyses: dict[str, dict[str, Any]] = {}
    for name in config["analyses"]:
        path = find(name, base, f"{main}: analyses")
        analysis = read_yaml(path)
        if "kind" not in analysis:
            raise ConfigError(f"{path}: the key 'kind' is missing; it is one of {', '.join(KINDS)}")
        kind = analysis["kind"]
        if kind not in KINDS:
            raise ConfigError(f"{path}: kind: {shown(kind)} is not one of {', '.join(KINDS)}")
        analysis = _name_years(analysis)
        check(analysis, _schema(base, kind), str(path))
        if analysis["name"] in analyses:
            raise ConfigError(f"{path}: name: the analysis {analysis['name']!r} exists already")
        if roles := working_points_of(analysis, analyses, str(path)):
            analysis["working_points"] = roles
        _check_flips(analysis, analyses, str(path))
        _find_corrections(analysis, base, path)
        _check_usable(analysis, problems, str(path))
        _check_analysis(analysis, datasets, points, str(path))
        _check_file_names(analysis, str(path))
        read = set().union(
            *[
                analysis_columns(analysis, datasets[dataset], points)
                for dataset in dataset_names(analysis)
            ]
        )
        analysis["branches"] = {name: branches[name] for name in sorted(read & set(branches))}
        if kind == "topcoffea":
            mine = [datasets[name] for name in dataset_names(analysis)]
            analysis.setdefault("squares", _squares_for(analysis, mine))
        analyses[analysis["name"]] = analysis
    return analyses


def _name_years(value: Any) -> Any:
    """Lists of years as texts, which YAML takes for numbers."""
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


def _find_corrections(analysis: Mapping[str, Any], base: Path, path: Path) -> None:
    for key, correction in analysis.get("corrections", {}).items():
        where = f"{path}: corrections.{key}.file"
        correction["file"] = str(find(correction["file"], base, where))


def eft_analysis(
    path: Path,
    working_points: Path,
    samples: Mapping[str, Any],
    measured: Iterable[Path] = (),
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A topcoffea analysis by itself and the working points, for samples other than its own.

    `measured` are the fake-rate analyses whose maps it applies. The schemas are looked for beside
    the working points, then in the working folder. Raises `ConfigError` naming file and key.
    """
    bases = [
        folder for folder in (working_points.parent.parent, Path()) if (folder / SCHEMAS).is_dir()
    ]
    if not bases:
        raise ConfigError(f"{working_points}: there is no folder {SCHEMAS} above it, nor here")
    analysis = _name_years(read_yaml(path))
    points = read_yaml(working_points)
    check(analysis, _schema(bases[0], "topcoffea"), str(path))
    check(points, _schema(bases[0], "working_points"), str(working_points))
    known = {}
    for map_path in measured:
        value = _name_years(read_yaml(map_path))
        check(value, _schema(bases[0], "fakerate"), str(map_path))
        known[value["name"]] = value
    analysis["working_points"] = working_points_of(analysis, known, str(path))
    analysis.setdefault("squares", _squares_for(analysis, samples.values()))
    _check_regions(analysis, str(path))
    _find_corrections(analysis, bases[0], path)
    _check_processes((sample for sample in samples.values() if not sample["data"]), str(path))
    _check_years(analysis, samples, str(path))
    data = {name: sample for name, sample in samples.items() if sample["data"]}
    _check_primaries(analysis["triggers"], data, str(path), complete=False)
    for name, observable in analysis["observables"].items():
        _check_rising(observable["edges"], f"{path}: observables.{name}")
    _check_columns(
        analysis, samples.values(), WorkingPoints(points, str(working_points)), str(path)
    )
    return analysis, points


def maps_applied(analysis: Mapping[str, Any]) -> Mapping[str, str]:
    """The fake-rate analyses whose maps an analysis applies, by collection."""
    return analysis.get("nonprompt", analysis).get("maps", {})


def working_points_of(
    analysis: Mapping[str, Any], analyses: Mapping[str, Any], file: str
) -> dict[str, dict[str, str]]:
    """Loose and tight points, and the momentum at which leptons count, by collection: those of the
    maps that an analysis applies, or its leptons' own; nothing for a measurement."""
    roles = {
        collection: {"loose": point, "tight": point, "momentum": "raw"}
        for collection, point in analysis.get("leptons", {}).items()
    }
    for collection, name in maps_applied(analysis).items():
        key = f"nonprompt.maps.{collection}" if "nonprompt" in analysis else f"maps.{collection}"
        measured = analyses.get(name)
        if measured is None or measured["kind"] != "fakerate":
            raise ConfigError(f"{file}: {key}: {name!r} is no fake-rate analysis listed before it")
        if measured["lepton"]["collection"] != collection:
            raise ConfigError(
                f"{file}: {key}: {name!r} is a map of {measured['lepton']['collection']}s"
            )
        if measured["eta"] != "absolute":
            raise ConfigError(f"{file}: maps.{collection}: {name!r} is no map of |eta|")
        roles[collection] = {
            "loose": measured["denominator"],
            "tight": measured["tight"],
            "momentum": measured["momentum"],
        }
    return roles


def _check_flips(analysis: Mapping[str, Any], analyses: Mapping[str, Any], file: str) -> None:
    """Refuse a map of charge flips that nothing before measures, and bins that fall."""
    if analysis["kind"] == "flips":
        for axis, edges in analysis["binning"].items():
            _check_rising(edges, f"{file}: binning.{axis}")
        _check_rising(analysis["mass"]["peak"], f"{file}: mass.peak")
    name = analysis.get("flips", {}).get("map")
    if name is not None and analyses.get(name, {}).get("kind") != "flips":
        raise ConfigError(f"{file}: flips.map: {name!r} is no flips analysis listed before it")


def _check_usable(analysis: Mapping[str, Any], problems: Mapping[str, str], file: str) -> None:
    """Refuse samples that are listed and can't be used: an analysis without them is another."""
    for name in dataset_names(analysis):
        if name in problems:
            raise ConfigError(f"{file}: datasets: {name!r} can't be used: {problems[name]}")


def _check_file_names(analysis: Mapping[str, Any], file: str) -> None:
    """Refuse channels and observables that are too long together to name a picture's file."""
    channels = analysis.get("channels", {})
    if analysis["kind"] == "topcoffea":
        channels = channels_of(analysis)
    channel, observable = (
        max(names, key=len, default="") for names in (channels, analysis.get("observables", {}))
    )
    if len(f"closure_{channel}_{observable}.png") > LONGEST:
        raise ConfigError(
            f"{file}: channels: {shown(channel)} and the observable {shown(observable)} name a "
            f"picture together, which takes no more than {LONGEST} characters; shorten them"
        )


def _check_analysis(
    analysis: Mapping[str, Any],
    datasets: Mapping[str, Any],
    points: WorkingPoints,
    file: str,
) -> None:
    listed = list(dataset_names(analysis))
    for name in listed:
        if listed.count(name) > 1:
            raise ConfigError(f"{file}: datasets: {name!r} stands in more than one group")
        if name not in datasets:
            near = difflib.get_close_matches(name, datasets, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            if name.startswith(ANCHORS):
                hint = f"; names that begin with {ANCHORS} are for anchors alone"
            raise ConfigError(f"{file}: datasets: {name!r} is not declared{hint}")
        of_data = name in analysis["datasets"].get("data", [])
        if of_data and not datasets[name]["data"]:
            raise ConfigError(f"{file}: datasets.data: {name!r} is simulation")
        if datasets[name]["data"] and name not in _may_be_data(analysis):
            raise ConfigError(f"{file}: datasets: {name!r} is data; here simulation is expected")
        normalised = analysis["kind"] != "flips" and analysis.get("weights", "xsec") == "xsec"
        if normalised and not datasets[name]["data"] and "xsec_pb" not in datasets[name]:
            raise ConfigError(f"{file}: datasets: {name!r} needs an xsec_pb to be normalised")
    _check_events_once(analysis, datasets, file)
    for name, observable in analysis.get("observables", {}).items():
        _check_rising(observable["edges"], f"{file}: observables.{name}")
    if analysis["kind"] == "topcoffea":
        _check_eft(analysis, datasets, file)
    if analysis["kind"] == "fakerate":
        _check_fakerate(analysis, datasets, points, file)
    if analysis["kind"] == "application":
        _check_flavours(analysis, file)
    data = {name: datasets[name] for name in _may_be_data(analysis) if datasets[name]["data"]}
    _check_primaries(analysis["triggers"], data, file, analysis["kind"] != "fakerate")
    _check_columns(analysis, (datasets[name] for name in listed), points, file)


def _check_events_once(analysis: Mapping[str, Any], datasets: Mapping[str, Any], file: str) -> None:
    """Refuse datasets that hold the same events, or that are parts of one simulation, each of which
    would be normalised by itself."""
    mine = {name: datasets[name]["das"] for name in dataset_names(analysis)}
    of_events: dict[tuple[str, str, str], str] = {}
    for name, das in mine.items():
        other = of_events.setdefault(das_names.same_events(das), name)
        if other != name:
            raise ConfigError(
                f"{file}: datasets: {other} ({mine[other]}) and {name} ({das}) are two versions of "
                "one dataset, whose events would count twice: keep one"
            )
    for pattern in (name for name, das in mine.items() if "*" in das):
        for name, das in mine.items():
            if name != pattern and das_names.may_match_the_same(mine[pattern], das):
                raise ConfigError(
                    f"{file}: datasets: {name} ({das}) and what {pattern} ({mine[pattern]}) "
                    "matches may be the same dataset, whose events would count twice: keep one"
                )
    if analysis["kind"] == "flips" or analysis.get("weights", "xsec") != "xsec":
        return
    for group in analysis["datasets"].values():
        seen: dict[tuple[Any, ...], str] = {}
        for name in group:
            dataset = datasets[name]
            primary, processed, tier = das_names.parts_of(dataset["das"])
            key = (primary, dataset.get("year"), das_names.campaign(processed))
            # users' skims of one simulation may have no event in common
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
        else f"declare one dataset instead, das: {joint}, so that their sums of weights add up"
    )
    return (
        f"{file}: datasets: {one} ({a}) and {other} ({b}) are parts of one simulation, each "
        f"normalised by itself: {cure}"
    )


@contextmanager
def _told_of(where: str) -> Iterator[None]:
    """Say where what is wrong stands."""
    try:
        yield
    except ConfigError as problem:
        raise ConfigError(f"{where}: {problem}") from None


def _check_columns(
    analysis: Mapping[str, Any],
    datasets: Iterable[Mapping[str, Any]],
    points: WorkingPoints,
    file: str,
) -> None:
    """Refuse what an analysis would read, of any of the datasets, and is not to be known."""
    with _told_of(file):
        for dataset in datasets:
            analysis_columns(analysis, dataset, points)


def _may_be_data(analysis: Mapping[str, Any]) -> list[str]:
    """The datasets of an analysis that needn't be simulation."""
    group = {"application": "observe", "topcoffea": "data"}.get(analysis["kind"], "measure")
    return analysis["datasets"].get(group, [])


def _check_primaries(
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
        words = {
            name: set(primaries_of(dataset["das"]))
            for name, dataset in data.items()
            if year in (None, dataset.get("year"))
        }
        when = f" of {year}" if year is not None else ""
        for one, other in combinations(words, 2) if not declared else ():
            # eras and skims may have a word more
            if words[one] - words[other] and words[other] - words[one]:
                say = "measure with one of them"
                if several:
                    primary = primaries_of(data[one]["das"])[0]
                    say = f"say of each trigger whose it is, as primary: [{primary}]"
                undated = ", or declare their years" if year is None else ""
                raise ConfigError(
                    f"{file}: datasets: {one} and {other}{when} may hold the same events; "
                    f"{say}{undated}"
                )
        here = [trigger for trigger in declared if year in (None, *trigger.get("years", [year]))]
        for trigger in here if complete else ():
            if words and not any(of & set(trigger["primary"]) for of in words.values()):
                raise ConfigError(
                    f"{file}: triggers: {', '.join(trigger['paths'])}: no data{when} of "
                    f"{' or '.join(trigger['primary'])} is listed, events of theirs would be lost"
                )
        for name, of in words.items() if declared else ():
            if not any(of & set(trigger["primary"]) for trigger in here):
                raise ConfigError(
                    f"{file}: datasets: {name!r}: no trigger is of primary "
                    + " or ".join(primaries_of(data[name]["das"]))
                )


def _squares_for(analysis: Mapping[str, Any], datasets: Iterable[Mapping[str, Any]]) -> str:
    """Exact squares where they are no more than a few hundred numbers a bin."""
    there = {name for dataset in datasets for name in dataset.get("wc_names", [])}
    names = analysis.get("coefficients", there)
    return "exact" if len(names) <= MOST_EXACT else "points"


def _check_eft(analysis: Mapping[str, Any], datasets: Mapping[str, Any], file: str) -> None:
    if ("leptons" in analysis) == ("nonprompt" in analysis):
        raise ConfigError(
            f"{file}: leptons: give them, or maps in nonprompt, which say what counts"
        )
    _check_regions(analysis, file)
    for name in analysis["datasets"]["simulation"]:
        process = datasets[name]["process"]
        if process in (DATA, NONPROMPT, FLIPS, OBSERVED):
            raise ConfigError(
                f"{file}: datasets.simulation: {name!r} is of the process {process!r}, which has a "
                "meaning; call it something else"
            )
        if not WORD.fullmatch(process):
            raise ConfigError(
                f"{file}: datasets.simulation: {name!r} is of the process {process!r}; a datacard "
                "takes letters, digits and _ only, and no digit at the beginning"
            )
    mine = [datasets[name] for name in analysis["datasets"]["simulation"]]
    _check_processes(mine, file)
    processes = {dataset["process"] for dataset in mine}
    for name in analysis["signal"]:
        if name not in processes:
            raise ConfigError(
                f"{file}: signal: {name!r} is no process of its datasets; "
                + _known_processes(name, processes, mine)
            )
    _check_coefficients(analysis, {name for d in mine for name in d.get("wc_names", [])}, file)
    _check_years(analysis, {name: datasets[name] for name in dataset_names(analysis)}, file)
    _check_systematics(analysis, datasets, processes, file)
    _check_corrections(analysis, datasets, file)
    observable = analysis.get("datacards", {}).get(
        "observable", next(iter(analysis["observables"]))
    )
    for name in ("cutflow", "failing", "not_finite", names.COVERAGE, names.ENTRIES):
        if name in analysis["observables"]:
            raise ConfigError(f"{file}: observables: {name!r} has a meaning; choose another name")
    if observable not in analysis["observables"]:
        raise ConfigError(f"{file}: datacards.observable: {observable!r} is no observable")
    for key in ("nonprompt", "flips", "unblind"):
        if analysis.get(key) and "data" not in analysis["datasets"]:
            raise ConfigError(f"{file}: {key}: takes data: name some in datasets.data")


def _known_processes(
    name: str, processes: Iterable[str], datasets: Iterable[Mapping[str, Any]]
) -> str:
    """What a process that isn't there may be called, or which there are."""
    for dataset in datasets:
        if dataset["process"] in processes and dataset.get("listed", {}).get("process") == name:
            return f"results call it {dataset['process']!r}"
    return f"there are {', '.join(sorted(processes))}"


def _check_processes(datasets: Iterable[Mapping[str, Any]], file: str) -> None:
    """Refuse processes that are two to their samples, and would have one name in results."""
    called: dict[str, Mapping[str, Any]] = {}
    for dataset in datasets:
        process = dataset["process"]
        other = called.setdefault(process, dataset)
        names = [one.get("listed", {}).get("process", process) for one in (other, dataset)]
        if len(set(names)) > 1:
            raise ConfigError(
                f"{file}: datasets: the processes {names[0]!r} and {names[1]!r} would both be "
                f"{process!r} in results; rename that of {other['declared_in']} or of "
                f"{dataset['declared_in']}"
            )


def _check_coefficients(analysis: Mapping[str, Any], known: set[str], file: str) -> None:
    """Refuse coefficients that no sample has or no card takes, and ranges that are none."""
    for name in sorted(known):
        if is_reserved(name) or not COEFFICIENT.fullmatch(name):
            raise ConfigError(
                f"{file}: datasets: a sample has the Wilson coefficient {name!r}; datacards take "
                "letters and digits, a letter first, and Combine has a meaning for r and MH"
            )
    for name, ends in analysis.get("scan", {}).items():
        _check_rising(ends, f"{file}: scan.{name}")
    named = {"coefficients": analysis.get("coefficients", [])}
    named |= {f"points.{label}": point for label, point in analysis["points"].items()}
    named["datacards.coefficients"] = analysis.get("datacards", {}).get("coefficients", [])
    named["scan"] = analysis.get("scan", {})
    for key, wanted in named.items():
        for name in wanted:
            if name not in known:
                raise ConfigError(
                    f"{file}: {key}: {name!r} is no Wilson coefficient of its datasets; "
                    f"there are {', '.join(sorted(known)) or 'none'}"
                )
            if name not in analysis.get("coefficients", known):
                raise ConfigError(f"{file}: {key}: {name!r} isn't in the analysis' coefficients")


def _check_regions(analysis: Mapping[str, Any], file: str) -> None:
    """Refuse predictions that no region makes: simulation would lack what they stand for."""
    with _told_of(file):
        channels = channels_of(analysis)
    roles = {name: {region.role for region in c.regions} for name, c in channels.items()}
    for name, there in roles.items():
        if "nonprompt" in analysis and NONPROMPT not in there:
            raise ConfigError(
                f"{file}: channels: {name!r} has no region isAR_, but nonprompt leaves simulation "
                "its prompt leptons alone"
            )
    if "flips" in analysis and not any(FLIPS in there for there in roles.values()):
        raise ConfigError(f"{file}: flips: no channel has the region isAR_2lSS_OS to predict from")


def _check_years(
    analysis: Mapping[str, Any], datasets: Mapping[str, Mapping[str, Any]], file: str
) -> None:
    """Refuse datasets whose year isn't declared, or has no luminosity, threshold or trigger."""
    keys = by_year(analysis)
    tables = {"lumi_ifb": analysis["lumi_ifb"], "jets.btag.min": analysis["jets"]["btag"]["min"]}
    for name, dataset in datasets.items() if keys else ():
        year = dataset.get("year")
        if year is None:
            raise ConfigError(f"{file}: {keys[0]}: goes by year, but {name!r} declares none")
        of = f"{file}: datasets: {name!r} is of the year {year}"
        for key, table in tables.items():
            if isinstance(table, Mapping) and year not in table:
                raise ConfigError(f"{of}, {key} has {', '.join(table)}")
        if analysis["triggers"] and not of_year(analysis, year)["triggers"]:
            raise ConfigError(f"{of}, of which there are no triggers")


def _check_systematics(
    analysis: Mapping[str, Any], datasets: Mapping[str, Any], processes: set[str], file: str
) -> None:
    _check_nuisances(analysis, [datasets[name] for name in dataset_names(analysis)], file)
    for kind, of_kind in analysis.get("systematics", {}).items():
        for name, value in of_kind.items():
            key = f"{file}: systematics.{kind}.{name}"
            # predictions from data have no other weights, but may be off by a factor
            one_rate = kind == "rate" and value.get("correlated", True)
            there = processes | {p for p in (NONPROMPT, FLIPS) if one_rate and p in analysis}
            for process in value.get("processes", []):
                if process not in there:
                    raise ConfigError(
                        f"{key}.processes: {process!r} is no process of its datasets; "
                        + _known_processes(process, there, datasets.values())
                    )
            if kind == "theory":
                _check_theory(name, value, analysis, datasets, file)


def _check_nuisances(
    analysis: Mapping[str, Any], datasets: Sequence[Mapping[str, Any]], file: str
) -> None:
    """Refuse names of nuisances that have a meaning, that a coefficient has, or that two of them
    have, also in a year."""
    years = {dataset.get("year") for dataset in datasets}
    coefficients = {name for dataset in datasets for name in dataset.get("wc_names", [])}
    declared = [
        (f"systematics.{kind}.{name}", name, value.get("correlated", True))
        for kind, of_kind in analysis.get("systematics", {}).items()
        for name, value in of_kind.items()
    ]
    declared += [(f"corrections.{name}", name, True) for name in analysis.get("corrections", {})]
    seen: dict[str, str] = {}
    for key, name, correlated in declared:
        _check_nuisance(name, f"{file}: {key}")
        for label in [name] if correlated else [f"{name}_{year}" for year in years]:
            if label in coefficients:
                raise ConfigError(
                    f"{file}: {key}: {label!r} is a Wilson coefficient; choose another name"
                )
            if label in seen:
                raise ConfigError(f"{file}: {key}: there is a {seen[label]} already")
            seen[label] = key


def _check_corrections(analysis: Mapping[str, Any], datasets: Mapping[str, Any], file: str) -> None:
    """Refuse corrections of nothing: of no collection of leptons, or a year without simulation."""
    years = {datasets[name].get("year") for name in analysis["datasets"]["simulation"]}
    for name, wanted in analysis.get("corrections", {}).items():
        key = f"{file}: corrections.{name}"
        if "of" in wanted:
            with _told_of(file):
                corrected_collection(name, wanted, analysis["working_points"])
        for year in wanted.get("years", []):
            if year not in years:
                raise ConfigError(f"{key}.years: no simulation of {year} in its datasets")


def _check_theory(
    name: str,
    theory: Mapping[str, Any],
    analysis: Mapping[str, Any],
    datasets: Mapping[str, Any],
    file: str,
) -> None:
    """Refuse theory weights whose sums nobody knows: the ledger has those of branches that are
    called so, and `normalise: declared` needs a declaration of each dataset."""
    key = f"{file}: systematics.theory.{name}"
    if analysis.get("normalise", "ledger") != "declared":
        if not is_theory_weight(theory["branch"]):
            raise ConfigError(
                f"{key}.branch: {theory['branch']!r} is no branch of theory weights, whose names "
                "end in Weight and whose sums the ledger has; others need normalise: declared"
            )
        return
    if "sums" not in theory:
        raise ConfigError(f"{key}.sums: is missing; with normalise: declared they are declared")
    for dataset in analysis["datasets"]["simulation"]:
        declared = datasets[dataset]
        if not varies(theory, declared["process"]):
            continue
        for direction in ("Up", "Down"):
            wanted = theory["sums"] + direction
            if wanted not in declared.get("sums_of_weights", {}):
                key = f"{declared['declared_in']}: {dataset}.sums_of_weights"
                raise ConfigError(
                    f"{key}: there is no {wanted!r}, which systematics.theory.{name} of "
                    f"{analysis['name']} is normalised with"
                )


def _check_nuisance(name: str, key: str) -> None:
    """Refuse names that parameters or templates of the fit have already."""
    if (
        name in ("nominal", "sm")
        or is_reserved(name)
        or name.startswith(("lin_", "quad_", "stat_"))
        or name.endswith(("Up", "Down"))
        or weighed_alone(name) is not None
    ):
        raise ConfigError(f"{key}: {name!r} has a meaning; choose another name")


def _check_rising(edges: list[float], where: str) -> None:
    if sorted(set(edges)) != edges:
        raise ConfigError(f"{where}: {edges} should increase strictly")


def _check_names(analysis: Mapping[str, Any], file: str) -> None:
    """Refuse names of a user's that the program uses itself: one would replace the other."""
    taken = {
        "cuts": (*names.STEPS, names.TRIGGER_STEP),
        "observables": (*names.SPECTRA, *names.RESULTS),
        "corrections": names.VARIATIONS,
    }
    for section, reserved in taken.items():
        for name in analysis.get(section, {}):
            if name in reserved:
                raise ConfigError(f"{file}: {section}: {name!r} has a meaning; choose another name")


def _check_flavours(analysis: Mapping[str, Any], file: str) -> None:
    """Refuse channels that count leptons of which there is no map: there would be none of them."""
    expressions = {f"channels.{name}": text for name, text in analysis["channels"].items()}
    for name, observable in analysis["observables"].items():
        expressions[f"observables.{name}"] = observable["expression"]
    for where, text in expressions.items():
        for quantity, collection in (("n_mu", "Muon"), ("n_ele", "Electron")):
            if quantity in Expression(text).names and collection not in analysis["maps"]:
                raise ConfigError(f"{file}: {where}: {quantity} needs maps.{collection}")


def _check_triggers(analysis: Mapping[str, Any], file: str) -> None:
    prescaled = [trigger for trigger in analysis["triggers"] if trigger.get("prescale", 1) != 1]
    if prescaled and analysis["weights"] == "counts":
        raise ConfigError(f"{file}: triggers: a prescale needs weights: xsec")
    ranges = sorted(
        (trigger.get("pt_min", 0), trigger.get("pt_max", float("inf")))
        for trigger in analysis["triggers"]
    )
    for start, end in ranges:
        if start >= end:
            raise ConfigError(f"{file}: triggers: nothing lies from {start} to {end} GeV")
    for (_, end), (start, _) in pairwise(ranges):
        if start < end:
            raise ConfigError(f"{file}: triggers: the pt ranges overlap at {start} GeV")
        if start > end:
            raise ConfigError(
                f"{file}: triggers: leptons from {end} to {start} GeV would count nowhere"
            )


def _check_fakerate(
    analysis: Mapping[str, Any], datasets: Mapping[str, Any], points: WorkingPoints, file: str
) -> None:
    for axis, edges in analysis["binning"].items():
        _check_rising(edges, f"{file}: binning.{axis}")
    if analysis["weights"] == "xsec" and analysis["interval"] in ("clopper-pearson", "wilson"):
        raise ConfigError(
            f"{file}: interval: {analysis['interval']!r} is for unweighted counts; with "
            "weights: xsec use 'weighted' or 'uncorrelated'"
        )
    if analysis["weights"] == "counts" and analysis["datasets"].get("subtract"):
        raise ConfigError(f"{file}: datasets.subtract: a subtraction needs weights: xsec")
    groups = analysis["datasets"]
    if len({datasets[name]["data"] for name in groups["measure"]}) > 1:
        raise ConfigError(f"{file}: datasets.measure: data and simulation don't add up")
    _check_prompt(analysis, file)
    collection = analysis["lepton"]["collection"]
    tight, below = (
        {cut.text for cut in points.cuts(collection, analysis[role])}
        for role in ("tight", "denominator")
    )
    if not below <= tight:
        raise ConfigError(
            f"{file}: tight: {analysis['tight']!r} lacks the cut {sorted(below - tight)[0]!r} of "
            f"{analysis['denominator']!r}: what is tight has to be loose too"
        )
    _check_names(analysis, file)
    _check_triggers(analysis, file)
    if analysis["eta"] == "signed" and "abs_eta" in analysis.get("systematics", {}).get("tilt", {}):
        raise ConfigError(f"{file}: systematics.tilt.abs_eta: needs eta: absolute")
    if analysis["weights"] == "counts" and "corrections" in analysis:
        raise ConfigError(f"{file}: corrections: they need weights: xsec")


def _check_prompt(analysis: Mapping[str, Any], file: str) -> None:
    groups = analysis["datasets"]
    if "prompt_fit" in analysis:
        needed = [group for group in ("subtract", "non_prompt") if not groups.get(group)]
        if needed:
            raise ConfigError(f"{file}: prompt_fit: needs datasets.{needed[0]} for its templates")
        _check_rising(analysis["prompt_fit"]["edges"], f"{file}: prompt_fit.edges")
    prompt = analysis.get("systematics", {}).get("prompt")
    if prompt is not None and not groups.get("subtract"):
        raise ConfigError(f"{file}: systematics.prompt: there is no datasets.subtract to vary")
    if prompt == "fit" and "prompt_fit" not in analysis:
        raise ConfigError(f"{file}: systematics.prompt: 'fit' needs a prompt_fit")
    if isinstance(prompt, dict) and prompt["up"] < prompt["down"]:
        raise ConfigError(f"{file}: systematics.prompt: up should be more than down")


def _check_datasets(datasets: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    by_das: dict[str, str] = {}
    for name, dataset in datasets.items():
        if name in RESERVED:
            raise ConfigError(f"datasets: {name!r} is the name of a result; choose another")
        if "lumi_mask" in dataset and not dataset["data"]:
            raise ConfigError(f"datasets: {name}.lumi_mask: only data has luminosity sections")
        das = dataset["das"]
        if das in by_das:
            raise ConfigError(f"datasets: {name!r} and {by_das[das]!r} are both {das}")
        by_das[das] = name
        if "sample" in dataset and "files" in dataset:
            raise ConfigError(f"datasets: {name!r} has both 'sample' and 'files': give one")
        for part in dataset.get("sample", {}).get("sum_of", []):
            if "xsec_pb" not in datasets.get(part, {}) or "sample" not in datasets[part]:
                raise ConfigError(
                    f"datasets: {name}.sample.sum_of: {part!r} is no demo sample with an xsec_pb"
                )
