# Requires: the configuration. Makes: the demo's NanoAOD files and, for each of its datasets, the
# catalogue that knows them.


rule samples_generate:
    """Make the synthetic NanoAOD files of one demo dataset and register them."""
    input:
        truth=config_file(config["samples"]["truth"]),
    output:
        catalogue=PATHS.catalogue,
        cost=PATHS.cost("samples_generate/{dataset}"),
    log:
        PATHS.log("samples_generate/{dataset}"),
    conda:
        ENVIRONMENT
    params:
        datasets=sample_parts,
        settings=canonical({k: v for k, v in config["samples"].items() if k != "truth"}),
        code=code_of("samples_generate"),
    message:
        "samples: making {wildcards.dataset}"
    script:
        "../scripts/samples_generate.py"


rule samples:
    """Stage target: the demo's NanoAOD files."""
    input:
        expand(PATHS.catalogue, dataset=DEMO),


rule samples_listed:
    """Write down the files of a sample that a JSON file of TopEFT's form lists."""
    input:
        lambda w: SETTINGS.datasets[w.dataset]["listed"]["file"],
    output:
        listed=PATHS.listed,
        cost=PATHS.cost("samples_listed/{dataset}"),
    log:
        PATHS.log("samples_listed/{dataset}"),
    conda:
        ENVIRONMENT
    params:
        dataset=of_dataset("das", "listed", "leave_out"),
        code=code_of("samples_listed"),
    message:
        "samples: listing {wildcards.dataset}"
    script:
        "../scripts/samples_listed.py"
