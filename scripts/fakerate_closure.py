import json

from looseleaf.doorway import doorway

with doorway(snakemake.log[0]):
    from looseleaf.fakerate.closure import combine

    analysis = json.loads(snakemake.params.analysis)
    datasets = dict(json.loads(snakemake.params.datasets))
    combine(
        analysis,
        datasets,
        dict(zip(analysis["maps"], snakemake.input.maps, strict=True)),
        dict(zip(datasets, snakemake.input.processed, strict=True)),
        dict(zip(datasets, snakemake.input.ledgers, strict=True)),
        snakemake.output.histograms,
        snakemake.output.closure,
    )
