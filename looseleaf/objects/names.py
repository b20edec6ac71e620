"""The names that a fake-rate analysis gives its steps, spectra and variations.

Light enough to be imported while Snakemake parses the graph: what users name is held against them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

VARIATION, NOMINAL = "variation", "nominal"
POINT, POINTS = "point", ("loose", "tight")
STEPS = ("all", "certified", "one loose lepton", "no other lepton", "away jet", "met", "mt")
TRIGGER_STEP = "trigger"
# distributions of these are always made
SPECTRA = ("pt", "abs_eta", "met", "mt")
# where values lie on their axes, and how weights are spread over events and over a map's bins
COVERAGE, ENTRIES, MAP_ENTRIES = "coverage", "entries", "map_entries"
# what else stands in a result by name
RESULTS = (
    *POINTS, POINT, VARIATION, "expected", "expected_variance", "cutflow", "weighted_cutflow",
    "prompt_fit", "ratio", "not_finite", COVERAGE, ENTRIES, MAP_ENTRIES,
)  # fmt: skip
# the correction in a measured map of charge flips
FLIP_CORRECTION = "electron_charge_flip"
# the map's variations are called after these, or after a correction
VARIATIONS = ("stat", "away_jet_pt", "prompt", "closure")


def correction_variations(declared: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
    """The names of the variations of declared corrections: `<correction>_<side>`."""
    return [
        f"{name}_{side}"
        for name, correction in declared.items()
        for side in correction.get("variations", {})
    ]
