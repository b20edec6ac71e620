import json

from looseleaf.doorway import doorway

with doorway(snakemake.log[0], snakemake.resources.site):
    from doors import dataset_files, running

    from looseleaf.fakerate.flips import process

    declared = dict(json.loads(snakemake.params.datasets))
    process(
        json.loads(snakemake.params.analysis),
        json.loads(snakemake.params.points),
        declared,
        dataset_files(snakemake, declared),
        running(snakemake),
    )
