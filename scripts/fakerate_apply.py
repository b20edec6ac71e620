import json

from looseleaf.doorway import doorway

with doorway(snakemake.log[0], snakemake.resources.site):
    from doors import dataset_files, running

    from looseleaf.fakerate.closure import process

    analysis = json.loads(snakemake.params.analysis)
    declared = dict(json.loads(snakemake.params.datasets))
    process(
        analysis,
        json.loads(snakemake.params.points),
        dict(zip(analysis["maps"], snakemake.input.maps, strict=True)),
        declared,
        dataset_files(snakemake, declared),
        running(snakemake),
    )
