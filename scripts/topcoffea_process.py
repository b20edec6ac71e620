import json

from looseleaf.doorway import doorway

with doorway(snakemake.log[0]):
    from looseleaf.topcoffea.process import process

    datasets = dict(json.loads(snakemake.params.datasets))
    process(
        json.loads(snakemake.params.analysis),
        json.loads(snakemake.params.points),
        datasets,
        dict(zip(datasets, snakemake.input.manifests, strict=True)),
        dict(zip(datasets, snakemake.output.processed, strict=True)),
        dict(zip(datasets, snakemake.output.ledgers, strict=True)),
        json.loads(snakemake.resources.site),
        snakemake.resources.dask_workers or snakemake.threads,
        snakemake.params.chunksize,
        snakemake.params.task_events,
    )
