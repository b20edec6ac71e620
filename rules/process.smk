# Requires: the manifests of an analysis' datasets, and the maps that it applies. Makes: its
# histograms and ledgers by dataset.

DASK_REPORT = config["processing"]["dask_report"]
LIMITS = canonical({k: v for k, v in config["processing"].items() if k != "dask_report"})


for name, (analysis, kind) in ANALYSES.items():

    rule:
        """Process the events of all datasets of one analysis on one cluster."""
        name:
            f"{kind.name}_process_{name}"
        input:
            manifests=flat(GRAPH.manifests(name)),
            masks=GRAPH.lumi_masks(name),
            corrections=GRAPH.corrections(name),
            applied=flat(GRAPH.applied(name)),
        output:
            processed=flat(GRAPH.processed(name)),
            ledgers=flat(GRAPH.ledgers(name)),
            tasks=GRAPH.result(name, "tasks.csv"),
            performance=[GRAPH.result(name, "performance.html")] if DASK_REPORT else [],
            cost=PATHS.cost(f"{kind.name}_process/{name}"),
        log:
            PATHS.log(f"{kind.name}_process/{name}"),
        conda:
            ENVIRONMENT
        threads: threads_of(name)
        resources:
            dask_cluster=clusters_of(name),
            site=site_of(name),
            limits=LIMITS,
            # by this datasets are normalised afterwards: what would fail then fails before
            stated=stated_of(name),
        params:
            kind=name_of(kind.analysis),
            run=kind.process,
            analysis=as_is(json.dumps(analysis.of_events().to_params())),
            points=as_is(canonical(SETTINGS.points_of(name))),
            datasets=declared_for(name, kind.declares(analysis)),
            files=as_is(json.dumps(GRAPH.datasets(name))),
            applied=as_is(json.dumps(GRAPH.applied(name))),
            code=code_of("process", kind.process),
        message:
            f"{kind.name}: processing {name}"
        script:
            "../scripts/process.py"
