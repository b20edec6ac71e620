"""From a CMS dataset name to a fake-rate map, EFT histograms and a benchmark report.

Nothing is imported here: Snakemake parses the workflow with this package, and must stay quick.
"""

__version__ = "0.1.0"
