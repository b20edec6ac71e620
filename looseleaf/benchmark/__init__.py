"""The cost of each stage, from the records of the stages and of Snakemake."""
