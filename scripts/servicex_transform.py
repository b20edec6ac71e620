import json
from pathlib import Path

from looseleaf.doorway import doorway

with doorway(snakemake.log[0]):
    from looseleaf.servicex.request import request_from_das

    request = request_from_das(
        snakemake.input.das,
        json.loads(snakemake.params.columns),
        json.loads(snakemake.params.cut),
        snakemake.params.format,
        snakemake.params.code,
        snakemake.resources.redirectors.split(),
    )
    where = (snakemake.params.volume, snakemake.params.subdir, snakemake.output.manifest)
    dataset, mount = snakemake.wildcards.dataset, snakemake.resources.mount
    if snakemake.resources.backend == "remote":
        from looseleaf.servicex.remote import Endpoint, transform

        endpoint = Endpoint(snakemake.resources.endpoint or None, Path(mount) if mount else None)
        transform(request, *where, endpoint, dataset)
    else:
        from looseleaf.servicex.embedded import transform

        transform(request, *where, snakemake.threads, dataset)
