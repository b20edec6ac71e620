import json

from looseleaf.doorway import doorway

with doorway(snakemake.log[0], snakemake.resources.site):
    from doors import dataset_files, running

    from looseleaf.topcoffea.process import process

    analysis = json.loads(snakemake.params.analysis)
    declared = dict(json.loads(snakemake.params.datasets))
    collections = analysis.get("nonprompt", {}).get("maps", {})
    process(
        analysis,
        json.loads(snakemake.params.points),
        declared,
        dataset_files(snakemake, declared),
        running(snakemake),
        dict(zip(collections, snakemake.input.maps, strict=True)),
        snakemake.input.get("flips") or None,
        json.loads(snakemake.resources.whole),
        dict(json.loads(snakemake.resources.stated)),
    )
