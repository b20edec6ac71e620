import json
from pathlib import Path

from looseleaf.doorway import doorway

with doorway(snakemake.log[0], snakemake.output.cost):
    from looseleaf.entry import imported
    from looseleaf.files import remove_other_pictures

    params = snakemake.params
    folder = Path(snakemake.output.pictures[0]).parent
    imported(params.run)(
        imported(params.kind).from_json(json.loads(params.analysis)),
        folder=folder,
        label=params.label,
        energies=params.energies,
        **json.loads(params.files),
    )
    remove_other_pictures(folder, snakemake.output.pictures)
