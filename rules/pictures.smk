# Requires: the results of an analysis. Makes: its pictures.

for name, (analysis, kind) in ANALYSES.items():
    pictures = kind.pictures(analysis)

    rule:
        """Draw the pictures of one analysis."""
        name:
            f"histograms_{kind.name}_{name}"
        input:
            flat(GRAPH.files(name, pictures.uses)),
        output:
            pictures=report(pictures_of(name), category=kind.category, subcategory=name),
            cost=PATHS.cost(f"histograms_{kind.name}/{name}"),
        log:
            PATHS.log(f"histograms_{kind.name}/{name}"),
        conda:
            ENVIRONMENT
        params:
            kind=name_of(kind.analysis),
            run=pictures.run,
            analysis=analysis_of(name),
            files=as_is(json.dumps(GRAPH.files(name, pictures.uses))),
            label=as_is(config["histograms"]["label"]),
            energies=SETTINGS.energies_of(name),
            code=code_of("pictures", pictures.run),
        message:
            f"histograms: drawing {name}"
        script:
            "../scripts/pictures.py"


rule histograms:
    """Stage target: all pictures."""
    input:
        [pictures_of(name) for name in ANALYSES],
