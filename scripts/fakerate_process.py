import json

from looseleaf.doorway import doorway

with doorway(snakemake.log[0]):
    from doors import dataset_files, running

    from looseleaf.fakerate.process import process

    process(
        json.loads(snakemake.params.analysis),
        json.loads(snakemake.params.points),
        dataset_files(snakemake, json.loads(snakemake.params.datasets)),
        running(snakemake),
        snakemake.input.truth or None,
    )
