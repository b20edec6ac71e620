"""Names of NanoAOD branches, and the choice between alternative names."""

from typing import Any

EFT_COEFFICIENTS = "EFTfitCoefficients"
WEIGHT = "genWeight"


def is_theory_weight(name: str) -> bool:
    """Whether a branch holds weights relative to the event's own weight.

    LHEScaleWeight, LHEPdfWeight and PSWeight do; no other branch with several values ends in
    Weight.
    """
    return name.endswith("Weight") and name != WEIGHT


def is_trigger(alternatives: str) -> bool:
    """Whether `A|B` are trigger paths. A path that is missing in a file has not fired there."""
    return all(name.startswith("HLT_") for name in alternatives.split("|"))


def first_present(alternatives: str, present: Any) -> str | None:
    """The first name of `A|B` that is in `present`, or None."""
    return next((name for name in alternatives.split("|") if name in present), None)
