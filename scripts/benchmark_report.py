import json
from collections import defaultdict
from pathlib import Path

from looseleaf.doorway import doorway

with doorway(snakemake.log[0]):
    from looseleaf.benchmark.report import report

    ledgers = defaultdict(list)
    for path in snakemake.input.ledgers:
        ledgers[Path(path).parent.name].append(path)
    report(
        snakemake.input.jobs,
        ledgers,
        {Path(path).parent.name: path for path in snakemake.input.results},
        snakemake.input.manifests,
        snakemake.input.catalogues,
        snakemake.input.reference,
        json.loads(snakemake.params.stages),
        snakemake.output.summary,
        snakemake.output.page,
    )
