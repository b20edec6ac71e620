import json
from functools import partial

from looseleaf.doorway import doorway
from looseleaf.workerprocess import prepare

with doorway(snakemake.log[0], snakemake.output.cost):
    # workers import their modules while this process does
    site = json.loads(snakemake.resources.site)
    prepare(site)
    from looseleaf.cluster import client_for
    from looseleaf.entry import imported
    from looseleaf.processing.runner import Limits
    from looseleaf.processing.stage import DatasetFiles, Running

    params, resources = snakemake.params, snakemake.resources
    kind = imported(params.kind)
    stated = json.loads(resources.stated)
    if stated:
        stated["whole"] = kind.from_json(stated["whole"])
    files = json.loads(params.files)
    workers = resources.get("dask_workers", snakemake.threads)
    imported(params.run)(
        kind.from_json(json.loads(params.analysis)),
        json.loads(params.points),
        json.loads(params.datasets),
        {name: DatasetFiles(**paths) for name, paths in files.items()},
        Running(
            partial(client_for, site, workers),
            Limits(**json.loads(resources.limits)),
            snakemake.output.tasks,
            next(iter(snakemake.output.performance), None),
        ),
        **json.loads(params.applied),
        **stated,
    )
