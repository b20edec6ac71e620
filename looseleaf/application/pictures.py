"""The pictures of observed and predicted events, from the closure file alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from looseleaf.application.analysis import ApplicationAnalysis
from looseleaf.files import read_json
from looseleaf.histograms import plots


def pictures(
    analysis: ApplicationAnalysis,
    closure: str | Path,
    folder: str | Path,
    label: str,
    energies: str = "13",
) -> None:
    """Draw observed and predicted events, a picture for each channel and observable."""
    summary = read_json(closure)
    channels = summary["channels"]
    for channel, results in channels.items():
        for name, table in results["observables"].items():
            fig, ax = _agreement(
                table, analysis.observables[name]["label"], f"{analysis.title}, {channel}"
            )
            plots.label(ax, label, summary["is_data"], analysis.lumi_ifb, energies)
            plots.save(fig, Path(folder) / f"closure_{channel}_{name}")


def _agreement(table: Mapping[str, Any], x_label: str, title: str) -> tuple[Figure, Any]:
    """Observed events over predicted ones.

    `table` is the result of `closure.agreement`: by bin, the predicted events; with data, the
    expected prompt events; and unless blind, the observed events.
    """
    parts = {"Non-prompt, predicted": np.array(table["predicted"])}
    if "prompt" in table:
        parts["Prompt, simulated"] = np.array(table["prompt"])
    band = np.sqrt(
        np.square(table["predicted_stat"])
        + np.square(table["predicted_map"])
        + np.square(table.get("prompt_stat", 0))
    )
    points, agreement = None, "observation blinded"
    if "observed" in table:
        points = np.array(table["observed"]), np.array(table["observed_error"])
        agreement = "nothing to compare"
        if table["ndf"]:
            agreement = (
                f"$\\chi^2$/ndf = {table['chi2']:.1f}/{table['ndf']}, p = {table['p_value']:.2g}"
            )
    words = plots.Words(
        x=x_label,
        y="Events / bin",
        ratio="Obs. / pred.",
        points="Observed",
        band="Uncertainty of the prediction",
        title=f"{title}\n{agreement}",
    )
    return plots.over_prediction(np.array(table["edges"]), parts, band, points, words)
