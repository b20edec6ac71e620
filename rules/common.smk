# Requires: the merged configuration. Makes: SETTINGS (checked), PATHS, GRAPH, and the helpers of
# the other rule files.
import json
from functools import partial
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from looseleaf.errors import LooseleafError
from looseleaf.parents import announce
from looseleaf.preflight import check_machine

announce()

try:
    for remark in check_machine() if workflow.is_main_process else ():
        logger.warning(remark)
except LooseleafError as problem:
    raise WorkflowError(str(problem)) from None

from looseleaf.codehash import code_hash
from looseleaf.config.graph import Graph, flat
from looseleaf.config.kinds import kind_of, stages
from looseleaf.config.settings import find, load
from looseleaf.entry import module_of, name_of
from looseleaf.files import canonical, write_json
from looseleaf.layout import PACKAGE
from looseleaf.paths import Paths
from looseleaf.stage_files import SNAPSHOT_FORMAT, events_in
from looseleaf.workerprocess import HERE, worthwhile
from looseleaf.yaml_files import read_yaml

try:
    # Snakemake's own reading takes a key given twice, and 0100 for 64; the Snakefile has read the
    # defaults
    for path in workflow.configfiles if workflow.is_main_process else ():
        if Path(path).suffix != ".json" and str(path) != DEFAULTS:
            read_yaml(Path(path))
    SETTINGS = load(config, Path(workflow.basedir))
except LooseleafError as problem:
    raise WorkflowError(str(problem)) from None

for remark in SETTINGS.remarks if workflow.is_main_process else ():
    logger.warning(remark)


def config_file(path):
    """A file named in the configuration, from the working folder or from the Snakefile's."""
    return str(find(path, Path(workflow.basedir), "configuration"))


PATHS = Paths(config["results"])
GRAPH = Graph(SETTINGS, PATHS, config_file)
DATASETS = SETTINGS.datasets_in_use()
DEMO = [name for name in DATASETS if "sample" in SETTINGS.datasets[name]]
# every analysis with its kind, by name
ANALYSES = {name: (analysis, kind_of(analysis)) for name, analysis in SETTINGS.analyses.items()}
FORMATS = ("png", "pdf")
ENVIRONMENT = "../envs/looseleaf.yaml"


wildcard_constraints:
    dataset="[A-Za-z0-9][A-Za-z0-9_.-]*",


def as_is(text):
    """A param that Snakemake takes as it is: {T} in a label is no wildcard."""
    return lambda wildcards: text


def of_dataset(*keys):
    """A param: the given keys of a dataset's declaration, as one canonical string."""

    def value(wildcards):
        declared = SETTINGS.datasets[wildcards.dataset]
        return canonical({key: declared[key] for key in keys if key in declared})

    return value


def analysis_of(name):
    """A param: an analysis as one string, in its order, as tables and pictures show it."""
    return as_is(json.dumps(SETTINGS.analyses[name].to_json()))


def declared_for(analysis, keys):
    """A param: the given keys of the datasets that an analysis reads, in its order; without keys
    nothing."""
    declared = GRAPH.declared(analysis, keys) if keys else {}
    return as_is(json.dumps({name: json.loads(canonical(d)) for name, d in declared.items()}))


def code_of(script, *runs):
    """A param: the hash of a script and what it imports, and of the modules of the `module:name`s
    that it is told to run."""
    path = Path(workflow.basedir) / "scripts" / f"{script}.py"
    return code_hash(*map(module_of, runs), script=path)


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


def stated_of(analysis):
    """What normalises an analysis afterwards, where that is tried before it is processed."""
    declared, kind = ANALYSES[analysis]
    if not kind.tried:
        return as_is("{}")
    stated = GRAPH.declared(analysis, (*kind.tried, "declared_in"))
    return as_is(json.dumps({"whole": declared.to_json(), "stated": stated}))


def where(analysis, manifests):
    """Where an analysis is processed, which may depend on how many events it has."""
    few = ANALYSES[analysis][1].few_events
    try:
        return worthwhile(SETTINGS.site, partial(events_in, manifests), few)
    except LooseleafError:
        # not known before the transforms have ended; what is damaged, the job says
        return SETTINGS.site


def site_of(analysis):
    """A resource: where an analysis is processed."""
    return lambda wildcards, input: canonical(where(analysis, input.manifests))


def clusters_of(analysis):
    """A resource: the number of Dask clusters that an analysis takes."""
    return lambda wildcards, input: int(where(analysis, input.manifests)["kind"] != HERE)


def threads_of(analysis):
    """All cores for workers, one where an analysis is processed without."""
    return lambda wildcards, input: (
        1 if where(analysis, input.manifests)["kind"] == HERE else workflow.cores
    )


def pictures_of(analysis):
    """The pictures of an analysis, in every format."""
    declared, kind = ANALYSES[analysis]
    names = kind.pictures(declared).names
    return [PATHS.picture(analysis, f"{name}.{end}") for name in names for end in FORMATS]


def results_of(stage):
    """What the analyses of a stage make after processing."""
    return [
        path
        for analysis, step in GRAPH.steps()
        if GRAPH.stage_of(analysis) == stage
        for path in flat(GRAPH.files(analysis, step.makes))
    ]


def job_records():
    """The costs that the jobs of which the report speaks leave."""
    of_datasets = [
        *expand(PATHS.cost("samples_generate/{dataset}"), dataset=DEMO),
        *expand(PATHS.cost("das_lookup/{dataset}"), dataset=DATASETS),
        *expand(PATHS.cost("servicex_transform/{dataset}"), dataset=DATASETS),
    ]
    processing = [f"{kind.name}_process/{name}" for name, (_, kind) in ANALYSES.items()]
    steps = [f"{ANALYSES[name][1].name}_{step.name}/{name}" for name, step in GRAPH.steps()]
    pictures = [f"histograms_{kind.name}/{name}" for name, (_, kind) in ANALYSES.items()]
    return of_datasets + [PATHS.cost(job) for job in (*processing, *steps, *pictures)]
