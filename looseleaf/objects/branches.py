"""Names of NanoAOD branches, and what a list of alternatives comes to in a file."""

from typing import Any

EFT_COEFFICIENTS = "EFTfitCoefficients"
WEIGHT = "genWeight"


def is_theory_weight(name: str) -> bool:
    """Whether a branch holds other weights of an event relative to its own, as LHEScaleWeight,
    LHEPdfWeight and PSWeight do; nobody else ends in Weight and has several values."""
    return name.endswith("Weight") and name != WEIGHT


def is_trigger(alternatives: str) -> bool:
    """Whether `A|B` are trigger paths; one that a file lacks has not fired there."""
    return all(name.startswith("HLT_") for name in alternatives.split("|"))


def first_present(alternatives: str, present: Any) -> str | None:
    """The first name of `A|B` that is in `present`, or None."""
    return next((name for name in alternatives.split("|") if name in present), None)
