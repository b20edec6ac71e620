import json
from pathlib import Path

from looseleaf.doorway import doorway

with doorway(snakemake.log[0]):
    from looseleaf.fakerate.pictures import closure_pictures

    closure_pictures(
        json.loads(snakemake.params.analysis),
        snakemake.input.closure,
        Path(snakemake.output[0]).parent,
        snakemake.params.label,
        snakemake.params.energies,
    )
