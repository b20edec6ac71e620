"""What the scripts of processing rules share: how their rule says what to read and to write."""

import json

from looseleaf.processing.runner import Limits
from looseleaf.processing.stage import DatasetFiles, Running


def running(snakemake):
    """Where and how the rule's processors run."""
    return Running(
        json.loads(snakemake.resources.site),
        snakemake.resources.get("dask_workers", snakemake.threads),
        Limits(**json.loads(snakemake.resources.limits)),
        snakemake.output.tasks,
        snakemake.output.performance,
    )


def dataset_files(snakemake, names):
    """The files of each dataset; a rule lists them in the order of its datasets."""
    files = zip(
        snakemake.input.manifests,
        snakemake.output.processed,
        snakemake.output.ledgers,
        strict=True,
    )
    return dict(zip(names, (DatasetFiles(*paths) for paths in files), strict=True))
