"""What an analysis of several years of data is in one of them."""

from collections.abc import Mapping
from typing import Any

# of data-taking, as datasets and samples declare them; config/schemas/datasets.schema.yaml has
# the same
YEARS = (
    *("2016APV", "2016", "2017", "2018"),
    *("2022", "2022EE", "2023", "2023BPix", "2024", "2025", "2026"),
)


def of_year(analysis: Mapping[str, Any], year: str | None) -> dict[str, Any]:
    """An EFT analysis as it is for the datasets of a year, None where they declare none.

    Kept are the triggers and corrections of that year, or of every, and its b-tag threshold.
    """

    def holds(declared: Mapping[str, Any]) -> bool:
        return year in declared.get("years", [year])

    out = {**analysis, "triggers": [one for one in analysis["triggers"] if holds(one)]}
    corrections = analysis.get("corrections", {})
    out["corrections"] = {name: one for name, one in corrections.items() if holds(one)}
    btag = analysis["jets"]["btag"]
    if isinstance(btag["min"], Mapping):
        out["jets"] = {**analysis["jets"], "btag": {**btag, "min": btag["min"][year]}}
    return out


def processed_by_year(analysis: Mapping[str, Any]) -> list[str]:
    """The keys of an EFT analysis that go by year in `of_year`."""
    sections = {
        "triggers": dict(enumerate(analysis["triggers"])),
        "corrections": analysis.get("corrections", {}),
    }
    found = [
        f"{section}.{name}"
        for section, of_section in sections.items()
        for name, value in of_section.items()
        if "years" in value
    ]
    return found + ["jets.btag.min"] * isinstance(analysis["jets"]["btag"]["min"], Mapping)


def by_year(analysis: Mapping[str, Any]) -> list[str]:
    """The keys of an EFT analysis that go by year."""
    found = processed_by_year(analysis)
    found += [
        f"systematics.{kind}.{name}"
        for kind, of_kind in analysis.get("systematics", {}).items()
        for name, value in of_kind.items()
        if not value.get("correlated", True)
    ]
    return found + ["lumi_ifb"] * isinstance(analysis["lumi_ifb"], Mapping)
