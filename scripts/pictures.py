import json

from looseleaf.doorway import doorway

with doorway(snakemake.log[0]):
    from looseleaf.entry import imported

    params = snakemake.params
    imported(params.run)(
        imported(params.kind).from_json(json.loads(params.analysis)),
        folder=params.folder,
        label=params.label,
        energies=params.energies,
        **json.loads(params.files),
    )
