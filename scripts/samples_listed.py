import json

from looseleaf.doorway import doorway

with doorway(snakemake.log[0], snakemake.output.cost):
    from looseleaf.config.listed import write_sample_catalogue

    write_sample_catalogue(json.loads(snakemake.params.dataset), snakemake.output.listed)
