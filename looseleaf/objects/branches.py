"""Names of NanoAOD branches, and what a list of alternatives comes to in a file."""

from typing import Any

EFT_COEFFICIENTS = "EFTfitCoefficients"


def first_present(alternatives: str, present: Any) -> str | None:
    """The first name of `A|B` that is in `present`, or None."""
    return next((name for name in alternatives.split("|") if name in present), None)
