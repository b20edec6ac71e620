import json

from looseleaf.doorway import doorway

with doorway(snakemake.log[0], snakemake.output.cost):
    from looseleaf.das.ask import Asking
    from looseleaf.das.lookup import lookup

    dataset = json.loads(snakemake.params.dataset)
    lookup(
        dataset["das"],
        snakemake.output.das,
        snakemake.input.catalogues,
        dataset.get("files", []),
        snakemake.params.files_root,
        Asking(**json.loads(snakemake.params.whom), **json.loads(snakemake.resources.asking)),
        dataset.get("leave_out", []),
    )
