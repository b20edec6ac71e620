# Requires: the merged configuration. Makes: SETTINGS (checked), PATHS, and the helpers of the
# other rule files.
import json
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from looseleaf.codehash import code_hash
from looseleaf.config import find, load, maps_applied
from looseleaf.errors import LooseleafError
from looseleaf.files import canonical, write_json
from looseleaf.objects.years import processed_by_year
from looseleaf.paths import Paths
from looseleaf.records import SNAPSHOT_FORMAT
from looseleaf.topcoffea.channels import channels_of
from looseleaf.yaml_files import read_yaml

try:
    # Snakemake's own reading takes a key given twice, and 0100 for 64
    for path in workflow.configfiles if workflow.is_main_process else ():
        if Path(path).suffix != ".json":
            read_yaml(Path(path))
    SETTINGS = load(config, Path(workflow.basedir))
except LooseleafError as problem:
    raise WorkflowError(str(problem)) from None

for remark in SETTINGS.remarks if workflow.is_main_process else ():
    logger.warning(remark)

PATHS = Paths(config["results"])
DATASETS = SETTINGS.datasets_in_use()
DEMO = [name for name in DATASETS if "sample" in SETTINGS.datasets[name]]
FAKERATE = SETTINGS.of_kind("fakerate")
WITH_TRUTH = [name for name in FAKERATE if "truth" in SETTINGS.analyses[name]]
APPLICATION = SETTINGS.of_kind("application")
FLIPS = SETTINGS.of_kind("flips")
TOPCOFFEA = SETTINGS.of_kind("topcoffea")
FORMATS = ("png", "pdf")
ENVIRONMENT = "../envs/looseleaf.yaml"


wildcard_constraints:
    dataset="[A-Za-z0-9][A-Za-z0-9_.-]*",
    analysis="[A-Za-z][A-Za-z0-9_]*",


def config_file(path):
    """A file named in the configuration, from the working folder or from the Snakefile's."""
    return str(find(path, Path(workflow.basedir), "configuration"))


def of_dataset(*keys):
    """A param: the given keys of a dataset's declaration, as one canonical string."""

    def value(wildcards):
        declared = SETTINGS.datasets[wildcards.dataset]
        return canonical({key: declared[key] for key in keys if key in declared})

    return value


def by_dataset(analysis, pattern):
    """Paths by dataset for what an analysis reads, in the order in which it names them."""
    return [pattern.replace("{dataset}", name) for name in SETTINGS.datasets_of(analysis)]


def as_is(text):
    """A param that Snakemake takes as it is: {T} in a label is no wildcard."""
    return lambda wildcards: text


def events_allow(kept):
    """What an analysis allows of its events: beyond axes and empty bins are judged afterwards."""
    kept = dict(kept)
    allow = {k: v for k, v in kept.pop("allow", {}).items() if k in ("not_finite", "skim")}
    return {**kept, "allow": allow} if allow else kept


def analysis_of(name):
    """An analysis as one string, in its order, as tables and pictures show it."""
    return json.dumps(SETTINGS.analyses[name])


def events_of(name, without, ordered=True):
    """An analysis without what comes after its events, as one string."""
    kept = {k: v for k, v in events_allow(SETTINGS.analyses[name]).items() if k not in without}
    return json.dumps(kept) if ordered else canonical(kept)


def fakerate_processing_of(name, without):
    """A fake-rate analysis without what comes after its events, as one string."""
    kept = {k: v for k, v in events_allow(SETTINGS.analyses[name]).items() if k not in without}
    varied = kept.get("systematics", {})
    kept["systematics"] = {k: v for k, v in varied.items() if k == "away_jet_pt"}
    # pairs, since the cutflow keeps their order
    kept["cuts"] = list(kept.get("cuts", {}).items())
    return canonical(kept)


def lumi_masks(analysis):
    """The golden JSONs of an analysis' datasets, each once."""
    declared = [SETTINGS.datasets[name] for name in SETTINGS.datasets_of(analysis)]
    return list(dict.fromkeys(d["lumi_mask"] for d in declared if "lumi_mask" in d))


def correction_files(analysis):
    """The correctionlib files that weigh an analysis' simulated events, each once."""
    declared = SETTINGS.analyses[analysis].get("corrections", {})
    return list(dict.fromkeys(correction["file"] for correction in declared.values()))


# what comes after the events are processed
TOPCOFFEA_COMBINE_KEYS = (
    "title",
    "lumi_ifb",
    "signal",
    "normalise",
    "datacards",
    "scan",
)


def topcoffea_processing_of(analysis):
    """An analysis as its processing sees it; squares at points depend on the points."""
    declared = SETTINGS.analyses[analysis]
    exact = declared.get("squares", "exact") == "exact"
    without = (*TOPCOFFEA_COMBINE_KEYS, *(("points",) if exact else ()))
    kept = {k: v for k, v in events_allow(declared).items() if k not in without}
    varied = kept.get("systematics", {})
    kept["systematics"] = {k: v for k, v in varied.items() if k != "rate"}
    if "theory" in varied:
        # the sums are held against what is declared afterwards
        kept["systematics"]["theory"] = {
            name: {k: v for k, v in theory.items() if k != "sums"}
            for name, theory in varied["theory"].items()
        }
    return json.dumps(kept)


def declared_for(analysis, *keys):
    """The given keys of the datasets that an analysis reads, in its order, as one string."""
    return canonical(
        [
            [name, {k: v for k, v in SETTINGS.datasets[name].items() if k in keys}]
            for name in SETTINGS.datasets_of(analysis)
        ]
    )


def sample_parts(wildcards):
    """The declaration of a demo dataset and of those that it is the sum of."""
    sample = SETTINGS.datasets[wildcards.dataset].get("sample", {})
    names = [wildcards.dataset, *sample.get("sum_of", [])]
    kept = ("das", "data", "sample", "wc_names")
    # a cross section matters to events only where it says how many of them data has
    kept += ("xsec_pb",) if len(names) > 1 else ()
    return canonical(
        {name: {k: v for k, v in SETTINGS.datasets[name].items() if k in kept} for name in names}
    )


def dataset_catalogues(wildcards):
    """Where a dataset is looked up: its own demo catalogue, its files, or the configured ones."""
    declared = SETTINGS.datasets[wildcards.dataset]
    if "sample" in declared:
        return [PATHS.catalogue.format(dataset=wildcards.dataset)]
    if "listed" in declared:
        return [PATHS.listed.format(dataset=wildcards.dataset)]
    if "files" in declared or config["das"]["backend"] not in ("catalogue", "auto"):
        return []
    return [config_file(path) for path in config["das"]["catalogues"]]


def whom_to_ask(wildcards):
    """The backend of a dataset's lookup, and its instance where there are several."""
    declared = SETTINGS.datasets[wildcards.dataset]
    if {"sample", "files", "listed"} & set(declared):
        return canonical({"backend": "catalogue"})
    return canonical({key: config["das"][key] for key in ("backend", "instance")})


def fakerate_truth(analysis):
    """The correctionlib file of the injected probability, where an analysis names one."""
    if analysis not in WITH_TRUTH:
        return []
    return config_file(SETTINGS.analyses[analysis]["truth"]["file"])


def maps_of(analysis):
    """The map files that an analysis applies, by collection in its order."""
    applied = maps_applied(SETTINGS.analyses[analysis])
    return [PATHS.fakerate("map.json", name) for name in applied.values()]


def flips_of(analysis):
    """The correctionlib file of charge flips, where an analysis names one or who measures it."""
    flips = SETTINGS.analyses[analysis].get("flips")
    if flips and "map" in flips:
        return PATHS.fakerate("flips.correctionlib.json", flips["map"])
    return config_file(flips["file"]) if flips else []


def fakerate_picture_names(analysis):
    """The pictures of a fake-rate analysis, without their endings."""
    declared = SETTINGS.analyses[analysis]
    observables = list(declared.get("observables", {}))
    names = ["loose", "tight", "ratio", "projections", "cutflow"]
    names += [f"rate_{name}" for name in observables]
    if "non_prompt" in declared["datasets"]:
        spectra = ["pt", "abs_eta", "met", "mt", *observables]
        names += [f"{point}_{name}" for point in ("loose", "tight") for name in spectra]
    return names + (["prompt_fit"] if "prompt_fit" in declared else [])


def closure_picture_names(analysis):
    declared = SETTINGS.analyses[analysis]
    return [f"closure_{c}_{o}" for c in declared["channels"] for o in declared["observables"]]


def channel_names(analysis):
    """The channels of a topcoffea analysis, multiplied out."""
    return list(channels_of(SETTINGS.analyses[analysis]))


def eft_picture_names(analysis):
    """A stack for each channel and observable, and a curve for each coefficient to scan."""
    declared = SETTINGS.analyses[analysis]
    stacks = [f"{c}_{o}" for c in channel_names(analysis) for o in declared["observables"]]
    return [*stacks, *(f"curve_{name}" for name in declared.get("scan", {}))]


def pictures_of(names, analysis="{analysis}"):
    return [PATHS.picture(f"{name}.{end}", analysis) for name in names for end in FORMATS]


def results_with_losses():
    """The results over all datasets of an analysis that say what they don't hold."""
    return [
        *expand(PATHS.fakerate("map.json"), analysis=FAKERATE),
        *expand(PATHS.fakerate("closure.json"), analysis=APPLICATION),
        *expand(PATHS.fakerate("flips.json"), analysis=FLIPS),
        *expand(PATHS.topcoffea("yields.json"), analysis=TOPCOFFEA),
    ]


def job_records():
    """The records that Snakemake leaves of every job the report speaks of."""
    return [
        *expand(PATHS.benchmark("samples_generate/{dataset}"), dataset=DEMO),
        *expand(PATHS.benchmark("das_lookup/{dataset}"), dataset=DATASETS),
        *expand(PATHS.benchmark("servicex_transform/{dataset}"), dataset=DATASETS),
        *expand(PATHS.benchmark("fakerate_process/{analysis}"), analysis=FAKERATE),
        *expand(PATHS.benchmark("fakerate_measure/{analysis}"), analysis=FAKERATE),
        *expand(PATHS.benchmark("fakerate_apply/{analysis}"), analysis=APPLICATION),
        *expand(PATHS.benchmark("fakerate_closure/{analysis}"), analysis=APPLICATION),
        *expand(PATHS.benchmark("fakerate_flips_process/{analysis}"), analysis=FLIPS),
        *expand(PATHS.benchmark("fakerate_flips/{analysis}"), analysis=FLIPS),
        *expand(PATHS.benchmark("topcoffea_process/{analysis}"), analysis=TOPCOFFEA),
        *expand(PATHS.benchmark("topcoffea_combine/{analysis}"), analysis=TOPCOFFEA),
        *expand(PATHS.benchmark("topcoffea_datacards/{analysis}"), analysis=TOPCOFFEA),
        *expand(PATHS.benchmark("histograms_fakerate/{analysis}"), analysis=FAKERATE),
        *expand(PATHS.benchmark("histograms_flips/{analysis}"), analysis=FLIPS),
        *expand(PATHS.benchmark("histograms_closure/{analysis}"), analysis=APPLICATION),
        *expand(PATHS.benchmark("histograms_topcoffea/{analysis}"), analysis=TOPCOFFEA),
    ]


def all_ledgers():
    """Every analysis' ledgers."""
    kinds = [("fakerate", FAKERATE + APPLICATION + FLIPS), ("topcoffea", TOPCOFFEA)]
    return [
        path
        for kind, analyses in kinds
        for analysis in analyses
        for path in by_dataset(analysis, PATHS.ledger(kind, analysis))
    ]
