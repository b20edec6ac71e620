import json

from looseleaf.doorway import doorway

with doorway(snakemake.log[0]):
    from looseleaf.fakerate.process import process

    names = json.loads(snakemake.params.datasets)
    process(
        json.loads(snakemake.params.analysis),
        json.loads(snakemake.params.points),
        dict(zip(names, snakemake.input.manifests, strict=True)),
        dict(zip(names, snakemake.output.processed, strict=True)),
        dict(zip(names, snakemake.output.ledgers, strict=True)),
        json.loads(snakemake.resources.site),
        snakemake.resources.dask_workers or snakemake.threads,
        snakemake.params.chunksize,
        snakemake.params.task_events,
        snakemake.input.truth or None,
    )
