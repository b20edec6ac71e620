from looseleaf.doorway import doorway

with doorway(snakemake.log[0]):
    from looseleaf.benchmark.report import report

    report(
        snakemake.input.jobs,
        snakemake.input.ledgers,
        snakemake.input.manifests,
        snakemake.input.catalogues,
        snakemake.input.reference,
        snakemake.output.summary,
        snakemake.output.page,
    )
