# Requires: the manifests of an analysis' datasets. Makes: its histograms and ledgers by dataset,
# then the measured map as UHI JSON, ROOT and correctionlib.


# what comes after the events: they are processed with the rest of an analysis
MEASURE_KEYS = ("title", "datasets", "lumi_ifb", "interval")
CLOSURE_KEYS = ("title", "lumi_ifb")


for analysis in FAKERATE:

    rule:
        name:
            f"fakerate_process_{analysis}"
        input:
            manifests=by_dataset(analysis, PATHS.manifest),
            masks=lumi_masks(analysis),
            corrections=correction_files(analysis),
            truth=fakerate_truth(analysis),
        output:
            processed=by_dataset(analysis, PATHS.processed("fakerate", analysis)),
            ledgers=by_dataset(analysis, PATHS.ledger("fakerate", analysis)),
            tasks=PATHS.tasks("fakerate", analysis),
            performance=PATHS.performance("fakerate", analysis),
        log:
            PATHS.log(f"fakerate_process/{analysis}"),
        benchmark:
            PATHS.benchmark(f"fakerate_process/{analysis}")
        conda:
            ENVIRONMENT
        threads: workflow.cores
        resources:
            dask_cluster=1,
            site=canonical(SETTINGS.site),
            limits=canonical(config["processing"]),
        params:
            analysis=as_is(fakerate_processing_of(analysis, without=MEASURE_KEYS)),
            points=as_is(canonical(SETTINGS.points_of(analysis))),
            datasets=declared_for(analysis, "data", "lumi_mask"),
            code=code_hash("looseleaf.fakerate.process"),
        message:
            f"fakerate: processing {analysis}"
        script:
            "../scripts/fakerate_process.py"


rule fakerate_measure:
    """Measure the fake-rate map of one analysis from its processed datasets."""
    input:
        processed=lambda w: by_dataset(w.analysis, PATHS.processed("fakerate", w.analysis)),
        ledgers=lambda w: by_dataset(w.analysis, PATHS.ledger("fakerate", w.analysis)),
    output:
        uhi=PATHS.fakerate("map.json"),
        root=PATHS.fakerate("map.root"),
        correction=PATHS.fakerate("map.correctionlib.json"),
    log:
        PATHS.log("fakerate_measure/{analysis}"),
    benchmark:
        PATHS.benchmark("fakerate_measure/{analysis}")
    conda:
        ENVIRONMENT
    params:
        analysis=lambda w: analysis_of(w.analysis),
        datasets=lambda w: declared_for(w.analysis, "data", "xsec_pb"),
        code=code_hash("looseleaf.fakerate.measure"),
    message:
        "fakerate: measuring {wildcards.analysis}"
    script:
        "../scripts/fakerate_measure.py"


rule fakerate_truth:
    """Compare a measured map with the probability that was injected into the demo samples."""
    input:
        processed=lambda w: by_dataset(w.analysis, PATHS.processed("fakerate", w.analysis)),
        ledgers=lambda w: by_dataset(w.analysis, PATHS.ledger("fakerate", w.analysis)),
        uhi=PATHS.fakerate("map.json"),
    output:
        PATHS.fakerate("truth.json"),
    log:
        PATHS.log("fakerate_truth/{analysis}"),
    benchmark:
        PATHS.benchmark("fakerate_truth/{analysis}")
    conda:
        ENVIRONMENT
    params:
        analysis=lambda w: analysis_of(w.analysis),
        datasets=lambda w: declared_for(w.analysis, "data", "xsec_pb"),
        code=code_hash("looseleaf.fakerate.measure"),
    message:
        "fakerate: comparing {wildcards.analysis} with the truth"
    script:
        "../scripts/fakerate_truth.py"


for analysis in APPLICATION:

    rule:
        name:
            f"fakerate_apply_{analysis}"
        input:
            manifests=by_dataset(analysis, PATHS.manifest),
            masks=lumi_masks(analysis),
            corrections=correction_files(analysis),
            maps=maps_of(analysis),
        output:
            processed=by_dataset(analysis, PATHS.processed("fakerate", analysis)),
            ledgers=by_dataset(analysis, PATHS.ledger("fakerate", analysis)),
            tasks=PATHS.tasks("fakerate", analysis),
            performance=PATHS.performance("fakerate", analysis),
        log:
            PATHS.log(f"fakerate_apply/{analysis}"),
        benchmark:
            PATHS.benchmark(f"fakerate_apply/{analysis}")
        conda:
            ENVIRONMENT
        threads: workflow.cores
        resources:
            dask_cluster=1,
            site=canonical(SETTINGS.site),
            limits=canonical(config["processing"]),
        params:
            analysis=as_is(events_of(analysis, without=CLOSURE_KEYS)),
            points=as_is(canonical(SETTINGS.points_of(analysis))),
            datasets=declared_for(analysis, "data", "das", "lumi_mask"),
            code=code_hash("looseleaf.fakerate.application", "looseleaf.processing.stage"),
        message:
            f"fakerate: applying rates in {analysis}"
        script:
            "../scripts/fakerate_apply.py"


rule fakerate_closure:
    """Hold what the rates predict against what is observed."""
    input:
        processed=lambda w: by_dataset(w.analysis, PATHS.processed("fakerate", w.analysis)),
        ledgers=lambda w: by_dataset(w.analysis, PATHS.ledger("fakerate", w.analysis)),
        maps=lambda w: maps_of(w.analysis),
    output:
        histograms=PATHS.fakerate("closure_histograms.json"),
        closure=PATHS.fakerate("closure.json"),
    log:
        PATHS.log("fakerate_closure/{analysis}"),
    benchmark:
        PATHS.benchmark("fakerate_closure/{analysis}")
    conda:
        ENVIRONMENT
    params:
        analysis=lambda w: analysis_of(w.analysis),
        datasets=lambda w: declared_for(w.analysis, "data", "xsec_pb"),
        code=code_hash("looseleaf.fakerate.closure"),
    message:
        "fakerate: closure of {wildcards.analysis}"
    script:
        "../scripts/fakerate_closure.py"


for analysis in FLIPS:

    rule:
        name:
            f"fakerate_flips_process_{analysis}"
        input:
            manifests=by_dataset(analysis, PATHS.manifest),
            masks=lumi_masks(analysis),
        output:
            processed=by_dataset(analysis, PATHS.processed("fakerate", analysis)),
            ledgers=by_dataset(analysis, PATHS.ledger("fakerate", analysis)),
            tasks=PATHS.tasks("fakerate", analysis),
            performance=PATHS.performance("fakerate", analysis),
        log:
            PATHS.log(f"fakerate_flips_process/{analysis}"),
        benchmark:
            PATHS.benchmark(f"fakerate_flips_process/{analysis}")
        conda:
            ENVIRONMENT
        threads: workflow.cores
        resources:
            dask_cluster=1,
            site=canonical(SETTINGS.site),
            limits=canonical(config["processing"]),
        params:
            analysis=as_is(events_of(analysis, without=("title",), ordered=False)),
            points=as_is(canonical(SETTINGS.points_of(analysis))),
            datasets=declared_for(analysis, "data", "das", "lumi_mask"),
            code=code_hash("looseleaf.fakerate.flips"),
        message:
            f"fakerate: counting pairs for {analysis}"
        script:
            "../scripts/fakerate_flips_process.py"


rule fakerate_flips:
    """Measure the probabilities of charge flips of one analysis."""
    input:
        processed=lambda w: by_dataset(w.analysis, PATHS.processed("fakerate", w.analysis)),
    output:
        correction=PATHS.fakerate("flips.correctionlib.json"),
        summary=PATHS.fakerate("flips.json"),
    log:
        PATHS.log("fakerate_flips/{analysis}"),
    benchmark:
        PATHS.benchmark("fakerate_flips/{analysis}")
    conda:
        ENVIRONMENT
    params:
        analysis=lambda w: analysis_of(w.analysis),
        code=code_hash("looseleaf.fakerate.flips"),
    message:
        "fakerate: measuring {wildcards.analysis}"
    script:
        "../scripts/fakerate_flips.py"


rule fakerate:
    """Stage target: all fake-rate maps, and their closure."""
    input:
        expand(
            [
                PATHS.fakerate("map.json"),
                PATHS.fakerate("map.root"),
                PATHS.fakerate("map.correctionlib.json"),
            ],
            analysis=FAKERATE,
        ),
        expand(PATHS.fakerate("truth.json"), analysis=WITH_TRUTH),
        expand(PATHS.fakerate("closure.json"), analysis=APPLICATION),
        expand(PATHS.fakerate("flips.correctionlib.json"), analysis=FLIPS),
