import json

from looseleaf.doorway import doorway

with doorway(snakemake.log[0]):
    from looseleaf.topcoffea.combine import combine

    files = dict(json.loads(snakemake.resources.declared))
    datasets = {n: {**d, **files[n]} for n, d in json.loads(snakemake.params.datasets)}
    combine(
        json.loads(snakemake.params.analysis),
        datasets,
        dict(zip(datasets, snakemake.input.processed, strict=True)),
        dict(zip(datasets, snakemake.input.ledgers, strict=True)),
        snakemake.output.histograms,
        snakemake.output.yields,
        snakemake.output.table,
    )
