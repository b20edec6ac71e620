"""What each stage cost, from the records that the stages and Snakemake leave behind."""
