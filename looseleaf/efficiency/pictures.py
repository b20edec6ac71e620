"""The pictures of measured efficiencies and of their fits, from the summary alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hist
import matplotlib as mpl
import mplhep
import numpy as np
from matplotlib.figure import Figure

from looseleaf.efficiency.analysis import PROBES, EfficiencyAnalysis
from looseleaf.efficiency.declaration import fit_picture
from looseleaf.files import read_json
from looseleaf.histograms import plots
from looseleaf.histograms.ratio import Ratio

MAPS = {
    "data": "Efficiency in data",
    "simulation": "Efficiency in simulation",
    "scale_factor": "Efficiency of data over simulation",
}


def pictures(
    analysis: EfficiencyAnalysis,
    summary: str | Path,
    folder: str | Path,
    label: str,
    energies: str = "13",
) -> None:
    """Draw the maps of efficiencies and of their ratio, and the fitted spectra of each bin."""
    measured = read_json(summary)
    axes = [
        hist.axis.Variable(measured["pt"], label=f"{analysis.collection} $p_T$ [GeV]"),
        hist.axis.Variable(measured["abs_eta"], label=f"{analysis.collection} $|\\eta|$"),
    ]
    for name, text in MAPS.items():
        value, lower, upper = (np.array(measured[name][key]) for key in ("value", "lower", "upper"))
        ratio = Ratio(value, lower, upper, np.zeros(value.shape, bool), "likelihood")
        texts = plots.ratio_texts(ratio)
        fig, ax = plots.map2d(ratio.value, axes, analysis.title, text, texts)
        is_data = measured["is_data"] and name != "simulation"
        plots.label(ax, label, is_data, analysis.lumi_ifb, energies)
        plots.save(fig, Path(folder) / name)
    bins = iter(measured["bins"])
    for pt in range(len(measured["pt"]) - 1):
        for abs_eta in range(len(measured["abs_eta"]) - 1):
            fig, ax = _spectra(next(bins), np.array(measured["mass"]), analysis.title)
            plots.label(ax, label, measured["is_data"], analysis.lumi_ifb, energies)
            plots.save(fig, Path(folder) / fit_picture(pt, abs_eta))


def _spectra(of_bin: Mapping[str, Any], edges: Any, title: str) -> tuple[Figure, Any]:
    """The masses of passing probes above those of failing ones, with the fit and its background."""
    fitted = of_bin["fit"]
    centres = (edges[1:] + edges[:-1]) / 2
    with mpl.rc_context(mplhep.style.CMS):
        fig = Figure(figsize=(11, 12), dpi=plots.DPI, layout="constrained")
        panels = fig.subplots(2, 1, sharex=True)
        for side, ax in zip((1, 0), panels, strict=True):
            name = PROBES[side]
            spectrum = of_bin["spectra"][name]
            values, errors = (np.array(spectrum[key]) for key in ("values", "errors"))
            expected, background = (np.array(fitted[k][side]) for k in ("expected", "background"))
            ax.errorbar(centres, values, errors, fmt="ko", markersize=5, label=f"{name} probes")
            ax.stairs(expected, edges, color=plots.COLOURS[0], linewidth=2, label="Fit")
            ax.stairs(
                background,
                edges,
                color=plots.COLOURS[2],
                linestyle="--",
                linewidth=2,
                label="Background",
            )
            ax.set_ylim(0, 1.7 * max(np.max(values + errors), np.max(expected), 1e-9))
            ax.set_ylabel("Pairs / bin")
            ax.set_xlim(edges[0], edges[-1])
            ax.legend(loc="upper right", fontsize=17)
        (low, high), eta = of_bin["pt"], of_bin["abs_eta"]
        efficiency = fitted["efficiency"]
        up, down = (
            efficiency["upper"] - efficiency["value"],
            efficiency["value"] - efficiency["lower"],
        )
        text = (
            f"{title}\n{low:g} ≤ $p_T$ < {high:g} GeV, {eta[0]:g} ≤ $|\\eta|$ < {eta[1]:g}\n"
            f"efficiency {efficiency['value']:.4f} $^{{+{up:.4f}}}_{{-{down:.4f}}}$\n"
            f"$\\chi^2$/ndf = {fitted['chi2']:.1f}/{fitted['ndf']}, p = {fitted['p_value']:.2g}"
        )
        panels[0].text(0.03, 0.95, text, transform=panels[0].transAxes, va="top", fontsize=15)
        panels[1].set_xlabel("Mass of tag and probe [GeV]")
        return fig, panels[0]
