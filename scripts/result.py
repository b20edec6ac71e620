import json

from looseleaf.doorway import doorway

with doorway(snakemake.log[0], snakemake.output.cost):
    from looseleaf.entry import imported

    params = snakemake.params
    datasets = json.loads(params.datasets)
    imported(params.run)(
        imported(params.kind).from_json(json.loads(params.analysis)),
        **({"datasets": datasets} if datasets else {}),
        **json.loads(params.files),
    )
