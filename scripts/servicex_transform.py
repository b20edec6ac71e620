import json

from looseleaf.doorway import doorway

with doorway(snakemake.log[0]):
    from looseleaf.servicex.embedded import transform
    from looseleaf.servicex.request import request_from_das

    request = request_from_das(
        snakemake.input.das,
        json.loads(snakemake.params.columns),
        json.loads(snakemake.params.cut),
        snakemake.params.format,
        snakemake.params.code,
        snakemake.resources.redirectors.split(),
    )
    transform(
        request,
        snakemake.params.volume,
        snakemake.params.subdir,
        snakemake.output.manifest,
        snakemake.threads,
        snakemake.wildcards.dataset,
    )
