import json

from looseleaf.doorway import doorway

with doorway(snakemake.log[0]):
    from looseleaf.fakerate.measure import compare_with_truth

    datasets = dict(json.loads(snakemake.params.datasets))
    compare_with_truth(
        json.loads(snakemake.params.analysis),
        datasets,
        dict(zip(datasets, snakemake.input.processed, strict=True)),
        dict(zip(datasets, snakemake.input.ledgers, strict=True)),
        snakemake.output[0],
    )
