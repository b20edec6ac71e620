import json

from looseleaf.doorway import doorway

with doorway(snakemake.log[0]):
    from looseleaf.topcoffea.datacards import write_datacards

    write_datacards(
        json.loads(snakemake.params.analysis),
        snakemake.input.histograms,
        snakemake.output.cards,
        snakemake.output.templates,
        snakemake.output.workspace,
    )
