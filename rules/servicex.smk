# Requires: a dataset's file list. Makes: its columns and selected events on the volume, and the
# manifest that says where they stand.


rule servicex_transform:
    """Transform one dataset: keep the columns that its analyses read and the selected events."""
    input:
        das=PATHS.das,
    output:
        manifest=PATHS.manifest,
        cost=PATHS.cost("servicex_transform/{dataset}"),
    log:
        PATHS.log("servicex_transform/{dataset}"),
    conda:
        ENVIRONMENT
    threads: 1 if len(DATASETS) >= workflow.cores else workflow.cores
    resources:
        redirectors=" ".join(SETTINGS.site["redirectors"]),
        backend=config["servicex"]["backend"],
        endpoint=config["servicex"]["endpoint"] or "",
        mount=config["servicex"]["mount"] or "",
    params:
        columns=lambda wildcards: canonical(SETTINGS.columns_for(wildcards.dataset)),
        cut=as_is(canonical(config["servicex"]["cut"])),
        format=config["servicex"]["format"],
        volume=config["servicex"]["volume"],
        subdir=config["servicex"]["subdir"],
        verify=config["das"]["verify"],
        code=code_of("servicex_transform"),
    message:
        "servicex: transforming {wildcards.dataset}"
    script:
        "../scripts/servicex_transform.py"


rule servicex:
    """Stage target: all transforms."""
    input:
        expand(PATHS.manifest, dataset=DATASETS),
