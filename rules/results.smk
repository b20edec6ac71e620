# Requires: the histograms and ledgers of an analysis' datasets. Makes: what its kind makes of them,
# such as a measured map or datacards.

for name, step in GRAPH.steps():
    kind = ANALYSES[name][1]

    rule:
        """Make one kind of result of one analysis."""
        name:
            f"{kind.name}_{step.name}_{name}"
        input:
            taken=flat(GRAPH.taken(name, step)),
            after=[GRAPH.result(name, file) for file in step.after],
        output:
            made=flat(GRAPH.files(name, step.makes)),
            cost=PATHS.cost(f"{kind.name}_{step.name}/{name}"),
        log:
            PATHS.log(f"{kind.name}_{step.name}/{name}"),
        conda:
            ENVIRONMENT
        params:
            kind=name_of(kind.analysis),
            run=step.run,
            analysis=analysis_of(name),
            datasets=declared_for(name, step.datasets),
            files=as_is(json.dumps({**GRAPH.taken(name, step), **GRAPH.files(name, step.makes)})),
            code=code_of("result", step.run),
        message:
            f"{kind.name}: {step.name} of {name}"
        script:
            "../scripts/result.py"


for stage in stages():

    rule:
        """Stage target: the results of all its analyses."""
        name:
            stage
        input:
            results_of(stage),
