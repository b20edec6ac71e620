"""Normalising the processed datasets of a topcoffea analysis, and tabulating the yields."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from looseleaf.files import read_json, write_json
from looseleaf.objects.weights import scale_to_luminosity
from looseleaf.topcoffea.efthist import EFTHist
from looseleaf.topcoffea.processor import CHANNEL
from looseleaf.topcoffea.store import eft_histograms, read_histograms, write_histograms


def combine(
    analysis: Mapping[str, Any],
    datasets: Mapping[str, Mapping[str, Any]],
    processed: Mapping[str, str],
    ledgers: Mapping[str, str],
    histograms: str | Path,
    yields: str | Path,
) -> None:
    """Normalise the datasets, add them by process, and tabulate the yields.

    Written are the histograms as `<process>.<observable>` and the yields by
    channel, process and EFT point: value and statistical uncertainty.

    An EFT sample is normalised to its sum of Standard Model weights, as its cross section is the
    Standard Model's. Raises `DataFileError` where a sum of weights is not positive.
    """
    total: dict[str, dict[str, EFTHist]] = {}
    for name, dataset in datasets.items():
        original = read_json(ledgers[name])["original"]
        sum_of_weights = original["sum_of_weights"]
        if dataset.get("wc_names"):
            sum_of_weights = original["eft_sums"][0] if original["eft_sums"] else 0.0
        factor = scale_to_luminosity(name, dataset, analysis["lumi_ifb"], sum_of_weights)
        mine = total.setdefault(dataset["process"], {})
        for observable, filled in eft_histograms(read_histograms(processed[name])[0]).items():
            scaled = filled.scaled(factor)
            mine[observable] = mine[observable] + scaled if observable in mine else scaled
    named = {
        f"{process}.{observable}": filled
        for process, observables in total.items()
        for observable, filled in observables.items()
    }
    write_histograms(
        histograms,
        named,
        {"analysis": analysis["name"], "lumi_ifb": analysis["lumi_ifb"]},
    )
    first = next(iter(analysis["observables"]))
    write_json(
        yields,
        {
            "analysis": analysis["name"],
            "lumi_ifb": analysis["lumi_ifb"],
            "channels": {
                channel: {
                    process: {
                        label: _yield(observables[first], channel, point)
                        for label, point in analysis["points"].items()
                    }
                    for process, observables in total.items()
                }
                for channel in analysis["channels"]
            },
        },
    )


def _yield(filled: EFTHist, channel: str, point: Mapping[str, float]) -> dict[str, float]:
    """Events of a channel, what lies beyond the axis included."""
    at = filled.at(point)
    row = at.view(flow=True)[at.axes[CHANNEL].index(channel)]
    return {"value": float(row.value.sum()), "error": float(np.sqrt(row.variance.sum()))}
