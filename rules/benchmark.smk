# Requires: the costs that the other stages left. Makes: a summary of them and a page.


rule benchmark_report:
    """Tell what each stage cost, beside the figures of 2021."""
    input:
        jobs=job_records(),
        ledgers=all_ledgers(),
        results=results_with_losses(),
        manifests=expand(PATHS.manifest, dataset=DATASETS),
        catalogues=expand(PATHS.catalogue, dataset=DEMO),
        reference=config_file(config["benchmark"]["reference"]),
        template=f"{workflow.basedir}/looseleaf/benchmark/report.html.j2",
    output:
        summary=PATHS.report("summary.json"),
        page=report(PATHS.report("report.html"), category="benchmark"),
    log:
        PATHS.log("benchmark_report"),
    conda:
        ENVIRONMENT
    params:
        code=code_hash("looseleaf.benchmark.report"),
    message:
        "benchmark: writing the report"
    script:
        "../scripts/benchmark_report.py"


rule benchmark:
    """Stage target: the benchmark report."""
    input:
        PATHS.report("summary.json"),
        PATHS.report("report.html"),
