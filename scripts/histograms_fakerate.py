from pathlib import Path

from looseleaf.doorway import doorway

with doorway(snakemake.log[0]):
    from looseleaf.fakerate.pictures import pictures

    pictures(
        snakemake.input.uhi,
        Path(snakemake.output[0]).parent,
        snakemake.params.label,
        snakemake.input.truth or None,
        snakemake.params.energies,
    )
