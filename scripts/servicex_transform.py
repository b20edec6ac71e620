import json
from pathlib import Path

from looseleaf.doorway import doorway
from looseleaf.workerprocess import fork_from

with doorway(snakemake.log[0], snakemake.output.cost):
    from looseleaf.servicex.request import request_from_das

    request = request_from_das(
        snakemake.input.das,
        json.loads(snakemake.params.columns),
        json.loads(snakemake.params.cut),
        snakemake.params.format,
        snakemake.params.code,
        snakemake.resources.redirectors.split(),
        snakemake.params.verify,
    )
    where = (snakemake.params.volume, snakemake.params.subdir, snakemake.output.manifest)
    mount = snakemake.resources.mount
    if snakemake.resources.backend == "remote":
        from looseleaf.servicex.remote import Remote

        backend = Remote(snakemake.resources.endpoint or None, Path(mount) if mount else None)
    else:
        fork_from("looseleaf.servicex.transform")
        from looseleaf.servicex.embedded import Embedded

        backend = Embedded(snakemake.threads)
    from looseleaf.servicex.submission import transform

    transform(request, *where, backend, snakemake.wildcards.dataset)
