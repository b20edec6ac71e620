import json
from pathlib import Path

from looseleaf.doorway import doorway

with doorway(snakemake.log[0]):
    from looseleaf.topcoffea.pictures import pictures

    pictures(
        json.loads(snakemake.params.analysis),
        snakemake.input.histograms,
        Path(snakemake.output[0]).parent,
        snakemake.params.label,
        snakemake.params.energies,
    )
