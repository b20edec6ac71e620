import json

from looseleaf.doorway import doorway

with doorway(snakemake.log[0], snakemake.output.cost):
    from looseleaf.samples.generate import generate

    generate(
        snakemake.wildcards.dataset,
        json.loads(snakemake.params.datasets),
        json.loads(snakemake.params.settings),
        snakemake.output.catalogue,
        snakemake.input.truth,
        snakemake.threads,
    )
