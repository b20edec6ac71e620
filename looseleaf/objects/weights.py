"""Normalising simulated events to a luminosity."""

from collections.abc import Mapping
from typing import Any

from looseleaf.errors import DataFileError


def scale_to_luminosity(
    name: str, dataset: Mapping[str, Any], lumi_ifb: float | None, sum_of_weights: float
) -> float:
    """What a simulated event's weight is multiplied with: xsec x luminosity / sum of weights.

    The sum is over all original events, not those that a skim kept. Data counts as it is, and
    needs no luminosity. Raises `DataFileError` naming the dataset if the sum isn't positive.
    """
    if dataset["data"]:
        return 1.0
    if not sum_of_weights > 0:
        raise DataFileError(
            f"dataset {name}: its sum of weights is {sum_of_weights:g}; "
            "a sample to be normalised needs a positive one"
        )
    assert lumi_ifb is not None
    xsec_pb: float = dataset["xsec_pb"]
    return xsec_pb * 1000 * lumi_ifb / sum_of_weights
