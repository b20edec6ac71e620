"""Ledgers as normalisations read them, for tests that process nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from looseleaf.files import write_json
from looseleaf.stage_files import LEDGER_FORMAT

ORIGINAL = {
    "events": 1,
    "sum_of_weights": 1.0,
    "eft_sums": None,
    "theory_sums": {},
    "lumi_sections": None,
    "certified_sections": None,
    "left_out": [],
}


def write_ledger(path: Path, original: Mapping[str, Any]) -> None:
    """Write a ledger that says `original` of the events before the skim."""
    value = {"format": LEDGER_FORMAT, "original": {**ORIGINAL, **original}, "losses": []}
    write_json(path, value)
