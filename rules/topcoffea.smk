# Requires: the manifests of an analysis' datasets. Makes: EFT histograms and ledgers by dataset,
# then the normalised histograms and the yields.


TOPCOFFEA_COMBINE_KEYS = ("title", "lumi_ifb", "points", "signal")


for analysis in TOPCOFFEA:

    rule:
        name:
            f"topcoffea_process_{analysis}"
        input:
            manifests=by_dataset(analysis, PATHS.manifest),
        output:
            processed=by_dataset(analysis, PATHS.processed("topcoffea", analysis)),
            ledgers=by_dataset(analysis, PATHS.ledger("topcoffea", analysis)),
        log:
            PATHS.log(f"topcoffea_process/{analysis}"),
        benchmark:
            PATHS.benchmark(f"topcoffea_process/{analysis}")
        conda:
            ENVIRONMENT
        threads: workflow.cores
        resources:
            dask_cluster=1,
            site=canonical(SETTINGS.site),
            chunksize=config["processing"]["chunksize"],
            task_events=config["processing"]["task_events"],
        params:
            analysis=as_is(analysis_of(analysis, without=TOPCOFFEA_COMBINE_KEYS, ordered=False)),
            points=as_is(canonical(SETTINGS.points_of(analysis))),
            datasets=declared_for(analysis, "data", "wc_names"),
            code=code_hash("looseleaf.topcoffea.process"),
        message:
            f"topcoffea: processing {analysis}"
        script:
            "../scripts/topcoffea_process.py"


rule topcoffea_combine:
    """Normalise the histograms of one analysis, add them by process, tabulate the yields."""
    input:
        processed=lambda w: by_dataset(w.analysis, PATHS.processed("topcoffea", w.analysis)),
        ledgers=lambda w: by_dataset(w.analysis, PATHS.ledger("topcoffea", w.analysis)),
    output:
        histograms=PATHS.topcoffea("histograms.h5"),
        yields=PATHS.topcoffea("yields.json"),
    log:
        PATHS.log("topcoffea_combine/{analysis}"),
    benchmark:
        PATHS.benchmark("topcoffea_combine/{analysis}")
    conda:
        ENVIRONMENT
    params:
        analysis=lambda w: analysis_of(w.analysis),
        datasets=lambda w: declared_for(w.analysis, "data", "xsec_pb", "process", "wc_names"),
        code=code_hash("looseleaf.topcoffea.combine"),
    message:
        "topcoffea: normalising {wildcards.analysis}"
    script:
        "../scripts/topcoffea_combine.py"


rule topcoffea:
    """Stage target: the yields and histograms of all topcoffea analyses."""
    input:
        expand(
            [PATHS.topcoffea("yields.json"), PATHS.topcoffea("histograms.h5")],
            analysis=TOPCOFFEA,
        ),
