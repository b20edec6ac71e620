# Requires: the configuration. Makes: the demo's NanoAOD files and, for each of its datasets, the
# catalogue that knows them.


rule samples_generate:
    """Make the synthetic NanoAOD files of one demo dataset and register them."""
    input:
        truth=config_file(config["samples"]["truth"]),
    output:
        catalogue=PATHS.catalogue,
    log:
        PATHS.log("samples_generate/{dataset}"),
    benchmark:
        PATHS.benchmark("samples_generate/{dataset}")
    conda:
        ENVIRONMENT
    params:
        datasets=sample_parts,
        settings=canonical({k: v for k, v in config["samples"].items() if k != "truth"}),
        code=code_hash("looseleaf.samples.generate"),
    message:
        "samples: making {wildcards.dataset}"
    script:
        "../scripts/samples_generate.py"


rule samples:
    """Stage target: the demo's NanoAOD files."""
    input:
        expand(PATHS.catalogue, dataset=DEMO),
