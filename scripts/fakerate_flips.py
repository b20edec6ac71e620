import json

from looseleaf.doorway import doorway

with doorway(snakemake.log[0]):
    from looseleaf.fakerate.flips import measure

    measure(
        json.loads(snakemake.params.analysis),
        snakemake.input.processed,
        snakemake.output.correction,
        snakemake.output.summary,
    )
