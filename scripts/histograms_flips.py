from pathlib import Path

from looseleaf.doorway import doorway

with doorway(snakemake.log[0]):
    from looseleaf.fakerate.pictures import flips_picture

    flips_picture(
        snakemake.input.summary,
        Path(snakemake.output[0]).parent,
        snakemake.params.title,
        snakemake.params.label,
        snakemake.params.data,
        snakemake.params.energies,
    )
