"""The picture of measured charge flips, from their summary alone."""

from pathlib import Path

import hist
import numpy as np

from looseleaf.files import read_json
from looseleaf.flips.analysis import FlipsAnalysis
from looseleaf.histograms import plots


def pictures(
    analysis: FlipsAnalysis,
    summary: str | Path,
    folder: str | Path,
    label: str,
    energies: str = "13",
) -> None:
    """Draw the map of charge flips from the summary of its measurement."""
    measured = read_json(summary)
    value, sigma = (np.array(measured[name]) for name in ("probability", "sigma"))
    axes = [
        hist.axis.Variable(measured["pt"], label="Electron $p_T$ [GeV]"),
        hist.axis.Variable(measured["abs_eta"], label="Electron $|\\eta|$"),
    ]
    texts = np.empty(value.shape, object)
    for index in np.ndindex(value.shape):
        texts[index] = f"{value[index]:.4f}\n±{sigma[index]:.4f}"
    name = "Probability that the charge is wrong"
    fig, ax = plots.map2d(value, axes, analysis.title, name, texts)
    plots.label(ax, label, measured["is_data"], None, energies)
    plots.save(fig, Path(folder) / "flips")
