# Requires: a service (DBS, DAS, Rucio), catalogues (of demo samples, or named in the
# configuration), or files on disk.
# Makes: for each dataset the list of its files. An existing list is asked for again only by
# --forcerun das_lookup (or if what is asked for changes), and then says what has changed. It is a
# record of what others said and no result of our code: an edit of that is no reason to ask again.


rule das_lookup:
    """Look up the files of one dataset: size, events and checksum of each."""
    input:
        catalogues=dataset_catalogues,
    output:
        das=update(PATHS.das),
        cost=PATHS.cost("das_lookup/{dataset}"),
    log:
        PATHS.log("das_lookup/{dataset}"),
    conda:
        ENVIRONMENT
    resources:
        das_request=1,
        asking=canonical({k: config["das"][k] for k in ("host", "timeout", "tries", "parallel")}),
    params:
        dataset=of_dataset("das", "files", "leave_out"),
        whom=whom_to_ask,
        files_root=lambda w: (
            config["das"]["files_root"] if "files" in SETTINGS.datasets[w.dataset] else ""
        ),
        format=SNAPSHOT_FORMAT,
    message:
        "das: looking up {wildcards.dataset}"
    script:
        "../scripts/das_lookup.py"


rule das:
    """Stage target: the file lists of all datasets in use."""
    input:
        expand(PATHS.das, dataset=DATASETS),
