import json

from looseleaf.doorway import doorway

with doorway(snakemake.log[0]):
    from looseleaf.fakerate.measure import measure

    datasets = dict(json.loads(snakemake.params.datasets))
    measure(
        json.loads(snakemake.params.analysis),
        datasets,
        dict(zip(datasets, snakemake.input.processed, strict=True)),
        dict(zip(datasets, snakemake.input.ledgers, strict=True)),
        snakemake.output.uhi,
        snakemake.output.root,
        snakemake.output.correction,
    )
