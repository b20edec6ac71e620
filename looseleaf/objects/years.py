"""The years of data-taking, as datasets and samples declare them.

config/schemas/datasets.schema.yaml has the same.
"""

YEARS = (
    *("2016APV", "2016", "2017", "2018"),
    *("2022", "2022EE", "2023", "2023BPix", "2024", "2025", "2026"),
)
