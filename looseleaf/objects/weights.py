"""Normalisation of simulated events to a luminosity."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from looseleaf.errors import DataFileError
from looseleaf.stage_files import original_of


def scale_to_luminosity(
    name: str, dataset: Mapping[str, Any], lumi_ifb: float | None, sum_of_weights: float
) -> float:
    """The factor for the weights of simulated events: xsec x luminosity / sum of weights.

    The sum is over all original events, not only those that a skim kept. For data the factor is 1,
    and no luminosity is needed. Raises `DataFileError` naming the dataset if the sum isn't
    positive.
    """
    if dataset["data"]:
        return 1.0
    if not sum_of_weights > 0:
        raise DataFileError(
            f"dataset {name}: its sum of weights is "
            f"{sum_of_weights:g}; to be normalised, it has to be positive"
        )
    assert lumi_ifb is not None
    xsec_pb: float = dataset["xsec_pb"]
    return xsec_pb * 1000 * lumi_ifb / sum_of_weights


def ledger_scale(
    name: str, dataset: Mapping[str, Any], lumi_ifb: float | None, ledger: str | Path
) -> float:
    """`scale_to_luminosity` with the sum of weights in a dataset's ledger."""
    return scale_to_luminosity(name, dataset, lumi_ifb, original_of(ledger)["sum_of_weights"])
