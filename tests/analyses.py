"""Analyses as processors take them, of what a configuration file declares."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import Any

import yaml
from conftest import REPO

from looseleaf.config.kinds import KINDS
from looseleaf.processing.stage import event_metadata

# one of the project's own analyses of each kind
SHIPPED = {
    "fakerate": "muon",
    "application": "closure",
    "flips": "flips",
    "efficiency": "muon_id",
    "topcoffea": "tth_eft",
}


def analysis_of(declared: Mapping[str, Any], kind: str = "topcoffea") -> Any:
    """An analysis of the kind that it declares, or else of `kind`, without a look at its schema.

    Fields that have no default and aren't declared are those of an analysis of the project.
    """
    kind = declared.get("kind", kind)
    return KINDS[kind].analysis.from_json({**required(kind), **declared})


@cache
def required(kind: str) -> dict[str, Any]:
    path = REPO / f"config/analyses/{SHIPPED[kind]}.yaml"
    shipped = yaml.safe_load(path.read_text())
    return {
        field.name: shipped[field.name]
        for field in fields(KINDS[kind].analysis)
        if field.default is MISSING and field.default_factory is MISSING
    }


def columns_of(declared: Mapping[str, Any], dataset: Mapping[str, Any], points: Any) -> set[str]:
    """The branches that a declared analysis reads from a dataset."""
    return analysis_of(declared).columns(dataset, points)


def metadata_of(declared: Mapping[str, Any], dataset: Mapping[str, Any]) -> dict[str, Any]:
    """What a processor is told of a dataset, both as declared."""
    analysis = analysis_of(declared)
    return {**event_metadata(analysis, dataset), **analysis.metadata("", dataset)}
