# looseleaf: from dataset names to a fake-rate map, EFT histograms and a benchmark report.
# What can be asked for is at the end; which file comes from which is in rules/.
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

from looseleaf.disk import sentence
from looseleaf.errors import LooseleafError
from looseleaf.lease import Lease, sweep
from looseleaf.servicex.request import is_request
from looseleaf.yaml_files import read_yaml

min_version("9.27")

DEFAULTS = f"{workflow.basedir}/config/config.yaml"

try:
    # Snakemake itself ends in a traceback at bytes that aren't UTF-8
    read_yaml(Path(DEFAULTS))
except LooseleafError as problem:
    raise WorkflowError(str(problem)) from None


configfile: DEFAULTS


include: "rules/common.smk"
include: "rules/samples.smk"
include: "rules/das.smk"
include: "rules/servicex.smk"
include: "rules/process.smk"
include: "rules/results.smk"
include: "rules/pictures.smk"
include: "rules/benchmark.smk"


LEASE = Lease(Path(PATHS.root))


onstart:
    try:
        LEASE.take()
        # requests on a volume, which other results may share, are held one by one
        sweep(Path(PATHS.root), apart=is_request)
        write_json(PATHS.config, SETTINGS.to_json())
    except LooseleafError as problem:
        raise WorkflowError(str(problem)) from None
    except OSError as problem:
        LEASE.release()
        raise WorkflowError(sentence(problem) or str(problem)) from None


onerror:
    LEASE.release()


onsuccess:
    LEASE.release()
    for what, path in (
        ("pictures", f"{PATHS.root}/histograms"),
        ("what it cost", PATHS.report("report.html")),
    ):
        if Path(path).exists():
            print(f"{what}: {path}")


rule all:
    default_target: True
    input:
        [results_of(stage) for stage in stages()],
        rules.histograms.input,
        rules.benchmark.input,
