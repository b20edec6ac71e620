# Requires: measured maps and normalised histograms. Makes: the pictures of each analysis.


for analysis in FAKERATE:

    rule:
        name:
            f"histograms_fakerate_{analysis}"
        input:
            uhi=PATHS.fakerate("map.json", analysis),
            truth=PATHS.fakerate("truth.json", analysis) if analysis in WITH_TRUTH else [],
        output:
            report(
                pictures_of(fakerate_picture_names(analysis), analysis),
                category="fake rate",
                subcategory=analysis,
            ),
        log:
            PATHS.log(f"histograms_fakerate/{analysis}"),
        benchmark:
            PATHS.benchmark(f"histograms_fakerate/{analysis}")
        conda:
            ENVIRONMENT
        params:
            label=as_is(config["histograms"]["label"]),
            energies=SETTINGS.energies_of(analysis),
            code=code_hash("looseleaf.fakerate.pictures"),
        message:
            f"histograms: drawing {analysis}"
        script:
            "../scripts/histograms_fakerate.py"


for analysis in FLIPS:

    rule:
        name:
            f"histograms_flips_{analysis}"
        input:
            summary=PATHS.fakerate("flips.json", analysis),
        output:
            report(
                pictures_of(["flips"], analysis),
                category="fake rate",
                subcategory=analysis,
            ),
        log:
            PATHS.log(f"histograms_flips/{analysis}"),
        benchmark:
            PATHS.benchmark(f"histograms_flips/{analysis}")
        conda:
            ENVIRONMENT
        params:
            title=as_is(SETTINGS.analyses[analysis]["title"]),
            data=any(SETTINGS.datasets[name]["data"] for name in SETTINGS.datasets_of(analysis)),
            label=as_is(config["histograms"]["label"]),
            energies=SETTINGS.energies_of(analysis),
            code=code_hash("looseleaf.fakerate.pictures"),
        message:
            f"histograms: drawing {analysis}"
        script:
            "../scripts/histograms_flips.py"


for analysis in APPLICATION:

    rule:
        name:
            f"histograms_closure_{analysis}"
        input:
            closure=PATHS.fakerate("closure.json", analysis),
        output:
            report(
                pictures_of(closure_picture_names(analysis), analysis),
                category="fake rate",
                subcategory=analysis,
            ),
        log:
            PATHS.log(f"histograms_closure/{analysis}"),
        benchmark:
            PATHS.benchmark(f"histograms_closure/{analysis}")
        conda:
            ENVIRONMENT
        params:
            analysis=as_is(analysis_of(analysis)),
            label=as_is(config["histograms"]["label"]),
            energies=SETTINGS.energies_of(analysis),
            code=code_hash("looseleaf.fakerate.pictures"),
        message:
            f"histograms: drawing {analysis}"
        script:
            "../scripts/histograms_closure.py"


for analysis in TOPCOFFEA:

    rule:
        name:
            f"histograms_topcoffea_{analysis}"
        input:
            histograms=PATHS.topcoffea("histograms.h5", analysis),
        output:
            report(
                pictures_of(eft_picture_names(analysis), analysis),
                category="EFT",
                subcategory=analysis,
            ),
        log:
            PATHS.log(f"histograms_topcoffea/{analysis}"),
        benchmark:
            PATHS.benchmark(f"histograms_topcoffea/{analysis}")
        conda:
            ENVIRONMENT
        params:
            analysis=as_is(analysis_of(analysis)),
            label=as_is(config["histograms"]["label"]),
            energies=SETTINGS.energies_of(analysis),
            code=code_hash("looseleaf.topcoffea.pictures"),
        message:
            f"histograms: drawing {analysis}"
        script:
            "../scripts/histograms_topcoffea.py"


rule histograms:
    """Stage target: all pictures."""
    input:
        [pictures_of(fakerate_picture_names(analysis), analysis) for analysis in FAKERATE],
        [pictures_of(["flips"], analysis) for analysis in FLIPS],
        [pictures_of(closure_picture_names(analysis), analysis) for analysis in APPLICATION],
        [pictures_of(eft_picture_names(analysis), analysis) for analysis in TOPCOFFEA],
