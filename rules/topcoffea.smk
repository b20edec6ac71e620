# Requires: the manifests of an analysis' datasets, and the maps that it applies. Makes: EFT
# histograms and ledgers by dataset, then the normalised histograms, the yields and the datacards.


# what normalising a dataset takes of its declaration
NORMALISED = ("data", "xsec_pb", "process", "wc_names", "year", "listed", "sums_of_weights")


rule topcoffea_samples:
    """Write down the files of a sample that a JSON file of TopEFT's form lists."""
    input:
        lambda w: SETTINGS.datasets[w.dataset]["listed"]["file"],
    output:
        PATHS.listed,
    log:
        PATHS.log("topcoffea_samples/{dataset}"),
    benchmark:
        PATHS.benchmark("topcoffea_samples/{dataset}")
    conda:
        ENVIRONMENT
    params:
        dataset=of_dataset("das", "listed", "leave_out"),
        code=code_hash("looseleaf.topcoffea.samples"),
    message:
        "topcoffea: listing {wildcards.dataset}"
    script:
        "../scripts/topcoffea_samples.py"


for analysis in TOPCOFFEA:

    rule:
        name:
            f"topcoffea_process_{analysis}"
        input:
            manifests=by_dataset(analysis, PATHS.manifest),
            masks=lumi_masks(analysis),
            maps=maps_of(analysis),
            flips=flips_of(analysis),
            corrections=correction_files(analysis),
        output:
            processed=by_dataset(analysis, PATHS.processed("topcoffea", analysis)),
            ledgers=by_dataset(analysis, PATHS.ledger("topcoffea", analysis)),
            tasks=PATHS.tasks("topcoffea", analysis),
            performance=PATHS.performance("topcoffea", analysis),
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
            limits=canonical(config["processing"]),
            # by this datasets are normalised afterwards: what would fail then fails before
            whole=as_is(analysis_of(analysis)),
            stated=declared_for(analysis, *NORMALISED, "declared_in"),
        params:
            analysis=as_is(topcoffea_processing_of(analysis)),
            points=as_is(canonical(SETTINGS.points_of(analysis))),
            # another year of what doesn't go by it is no reason to process again
            datasets=declared_for(
                analysis,
                *("data", "das", "lumi_mask", "wc_names", "process"),
                *(("year",) if processed_by_year(SETTINGS.analyses[analysis]) else ()),
            ),
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
        table=PATHS.topcoffea("yields.txt"),
    log:
        PATHS.log("topcoffea_combine/{analysis}"),
    benchmark:
        PATHS.benchmark("topcoffea_combine/{analysis}")
    conda:
        ENVIRONMENT
    resources:
        # where errors point to
        declared=lambda w: declared_for(w.analysis, "declared_in"),
    params:
        analysis=lambda w: analysis_of(w.analysis),
        datasets=lambda w: declared_for(w.analysis, *NORMALISED),
        code=code_hash("looseleaf.topcoffea.combine"),
    message:
        "topcoffea: normalising {wildcards.analysis}"
    script:
        "../scripts/topcoffea_combine.py"


for analysis in TOPCOFFEA:

    rule:
        name:
            f"topcoffea_datacards_{analysis}"
        input:
            histograms=PATHS.topcoffea("histograms.h5", analysis),
        output:
            cards=[PATHS.datacard(analysis, c, "txt") for c in channel_names(analysis)],
            templates=[PATHS.datacard(analysis, c, "root") for c in channel_names(analysis)],
            workspace=PATHS.topcoffea("workspace.json", analysis),
        log:
            PATHS.log(f"topcoffea_datacards/{analysis}"),
        benchmark:
            PATHS.benchmark(f"topcoffea_datacards/{analysis}")
        conda:
            ENVIRONMENT
        params:
            analysis=as_is(analysis_of(analysis)),
            code=code_hash("looseleaf.topcoffea.datacards"),
        message:
            f"topcoffea: datacards of {analysis}"
        script:
            "../scripts/topcoffea_datacards.py"


rule topcoffea:
    """Stage target: the yields, histograms and datacards of all topcoffea analyses."""
    input:
        expand(
            [
                PATHS.topcoffea("yields.json"),
                PATHS.topcoffea("yields.txt"),
                PATHS.topcoffea("histograms.h5"),
                PATHS.topcoffea("workspace.json"),
            ],
            analysis=TOPCOFFEA,
        ),
