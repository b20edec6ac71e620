"""The names of steps, spectra and variations in results of fake-rate analyses.

They are checked against names that users choose. Light enough to be imported while Snakemake parses
the graph.
"""

from collections.abc import Mapping, Sequence
from typing import Any

VARIATION, NOMINAL = "variation", "nominal"
POINT, POINTS = "point", ("loose", "tight")
STEPS = ("all", "certified", "one loose lepton", "no other lepton", "away jet", "met", "mt")
TRIGGER_STEP = "trigger"
# spectra of these are always filled
SPECTRA = ("pt", "abs_eta", "met", "mt")
# where values are on their axes, and how weights are spread over events and over a map's bins
COVERAGE, ENTRIES, MAP_ENTRIES = "coverage", "entries", "map_entries"
# the other names in a result
RESULTS = (
    *POINTS, POINT, VARIATION, "expected", "expected_variance", "cutflow", "weighted_cutflow",
    "prompt_fit", "ratio", "not_finite", COVERAGE, ENTRIES, MAP_ENTRIES,
)  # fmt: skip
# the name of the correction in a measured map of charge flips
FLIP_CORRECTION = "electron_charge_flip"
# the map's variations have one of these names, or that of a correction
VARIATIONS = ("stat", "away_jet_pt", "prompt", "closure")


def correction_variations(declared: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
    """The names of the variations of declared corrections: `<correction>_<side>`."""
    return [
        f"{name}_{side}"
        for name, correction in declared.items()
        for side in correction.get("variations", {})
    ]
