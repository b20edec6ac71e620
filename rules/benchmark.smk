# Requires: the costs that the other stages left. Makes: a summary of them and a page.


rule benchmark_report:
    """Tell what each stage cost, beside the figures of 2021."""
    input:
        jobs=job_records(),
        ledgers=[path for name in ANALYSES for path in flat(GRAPH.ledgers(name))],
        results=[GRAPH.result(name, kind.summary) for name, (_, kind) in ANALYSES.items()],
        manifests=expand(PATHS.manifest, dataset=DATASETS),
        catalogues=expand(PATHS.catalogue, dataset=DEMO),
        reference=config_file(config["benchmark"]["reference"]),
        template=f"{PACKAGE}/benchmark/report.html.j2",
    output:
        summary=PATHS.report("summary.json"),
        page=report(PATHS.report("report.html"), category="benchmark"),
    log:
        PATHS.log("benchmark_report"),
    conda:
        ENVIRONMENT
    params:
        stages=as_is(json.dumps({kind.name: kind.stage for _, kind in ANALYSES.values()})),
        code=code_of("benchmark_report"),
    message:
        "benchmark: writing the report"
    script:
        "../scripts/benchmark_report.py"


rule benchmark:
    """Stage target: the benchmark report."""
    input:
        PATHS.report("summary.json"),
        PATHS.report("report.html"),
