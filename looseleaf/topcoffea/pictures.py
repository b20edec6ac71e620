"""The pictures of a topcoffea analysis, from its normalised histograms alone."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib as mpl
import mplhep
import numpy as np
from hist.intervals import poisson_interval
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import xlogy

from looseleaf.efthist import EFTHist
from looseleaf.histograms import plots
from looseleaf.histograms.typed import Weighted, part
from looseleaf.topcoffea.analysis import TopCoffeaAnalysis
from looseleaf.topcoffea.axes import CHANNEL, NOMINAL, PROCESS, SYSTEMATIC
from looseleaf.topcoffea.channels import DATA
from looseleaf.topcoffea.store import eft_histograms, read_histograms, weighted_at
from looseleaf.topcoffea.templates import folded

SCAN_POINTS = 401
# lines of EFT points must differ from the colours of processes, which repeat, and from each other
POINT_COLOURS = ("black", "#832db6", "#a96b59", "#717581", "#3f90da", "#b9ac70")
POINT_STYLES = ("--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
# the largest ratio that is drawn
LARGEST_RATIO = 6.0


def pictures(
    analysis: TopCoffeaAnalysis,
    histograms: str | Path,
    folder: str | Path,
    label: str,
    energies: str = "13",
) -> None:
    """Draw each observable in each channel, and the curve of each coefficient to scan."""
    lumi = analysis.lumi_ifb
    lumi = sum(lumi.values()) if isinstance(lumi, Mapping) else lumi
    by_observable = eft_histograms(read_histograms(histograms)[0])
    caption = partial(plots.label, lumi_ifb=lumi, energies=energies)
    nominal = {
        name: filled.select(**{SYSTEMATIC: NOMINAL}) for name, filled in by_observable.items()
    }
    for observable, filled in nominal.items():
        for channel in analysis.multiplied_channels():
            fig, ax = stack(analysis, filled.select(**{CHANNEL: channel}), observable, channel)
            caption(ax, label, data=analysis.unblind)
            plots.save(fig, Path(folder) / f"{channel}_{observable}")
    first = analysis.card_observable
    for name, (low, high) in analysis.scan.items():
        scan = np.linspace(low, high, SCAN_POINTS)
        fig, ax = curve(analysis, nominal[first], name, scan)
        caption(ax, label, data=False)
        plots.save(fig, Path(folder) / f"curve_{name}")


def by_process(filled: EFTHist, point: Mapping[str, float]) -> dict[str, Weighted]:
    """One channel's histograms at a point; the outermost bins include the flow bins.

    Yields and cards count them in the same way.
    """
    at = weighted_at(filled, point)
    return {
        process: _folded(part(at, {PROCESS: process})) for process in filled.categories(PROCESS)
    }


def _folded(histogram: Weighted) -> Weighted:
    view = histogram.view(flow=True)
    for sums in (view.value, view.variance):
        sums[1:-1] = folded(sums)
        sums[[0, -1]] = 0.0
    return histogram


def stack(
    analysis: TopCoffeaAnalysis, filled: EFTHist, observable: str, title: str
) -> tuple[Figure, Any]:
    """Processes stacked at the Standard Model, with the total at each EFT point as a line.

    The panel below has the ratios to the Standard Model with its statistical uncertainty. Data is
    drawn if the analysis is unblinded.
    """
    sm = by_process(filled, {})
    data = sm.pop(DATA, None)
    signals = [process for process in sm if process in analysis.signal]
    order = [*(process for process in sm if process not in signals), *signals]
    total = _total([sm[process] for process in order])
    expected = np.where(total.values() > 0, total.values(), np.nan)
    edges = total.axes[0].edges
    with mpl.rc_context(mplhep.style.CMS):
        fig, (ax, below) = plots.panels(3, 1)
        mplhep.histplot(
            [sm[process] for process in order],
            label=order,
            stack=True,
            histtype="fill",
            ax=ax,
            flow="none",
        )
        error = np.sqrt(total.variances())
        plots.draw_band(ax, edges, total.values(), error, "Statistical uncertainty")
        plots.draw_band(below, edges, np.where(np.isnan(expected), np.nan, 1.0), error / expected)
        top, top_ratio = np.max(total.values() + error, initial=1e-9), 2.0
        beyond: list[tuple[NDArray[np.float64], str]] = []
        moved = {label: point for label, point in analysis.points.items() if point}
        for (label, point), colour, style in zip(
            moved.items(), cycle(POINT_COLOURS), cycle(POINT_STYLES), strict=False
        ):
            at_point = by_process(filled, point)
            values = _total([at_point[process] for process in order]).values()
            line = {"linewidth": 2, "baseline": None, "color": colour, "linestyle": style}
            ax.stairs(values, edges, label=label, **line)
            below.stairs(values / expected, edges, **line)
            beyond.append((values / expected, colour))
            top = max(top, np.max(values))
            top_ratio = np.nanmax(values / expected, initial=top_ratio)
        if data is not None and analysis.unblind:
            values, centres = data.values(), (edges[1:] + edges[:-1]) / 2
            # Garwood's interval: a bin without events has an upper end
            bars = np.abs(poisson_interval(values) - values)
            ax.errorbar(centres, values, bars, fmt="ko", label="Data")
            below.errorbar(centres, values / expected, bars / expected, fmt="ko")
            beyond.append((values / expected, "black"))
            top = max(top, np.max(values + bars[1]))
        ax.set_ylim(min(0.0, float(np.min(total.values()))), 1.7 * top)
        ax.set_ylabel("Events / bin")
        # the panel below has the label
        ax.set_xlabel("")
        ax.legend(loc="upper right", fontsize=16, ncols=2, title=title, title_fontsize=16)
        highest = min(1.1 * top_ratio, LARGEST_RATIO)
        below.set_ylim(0, highest)
        for ratio, colour in beyond:
            # a point above the axis is drawn at its end
            out = ratio > highest
            centres = (edges[1:] + edges[:-1])[out] / 2
            below.plot(centres, np.full(len(centres), 0.95 * highest), "^", color=colour)
        below.set_ylabel("Ratio to SM", fontsize=20)
        below.set_xlabel(filled.axes[observable].label)
        below.set_xlim(edges[0], edges[-1])
        return fig, ax


def _total(histograms: Sequence[Weighted]) -> Weighted:
    return sum(histograms[1:], start=histograms[0])


def twice_delta_nll(filled: EFTHist, name: str, scan: NDArray[np.float64]) -> NDArray[np.float64]:
    """-2 Delta ln L of one coefficient on the Standard Model's Asimov data, with the others zero.

    Poisson in every bin of every channel without systematics: with n expected in the Standard Model
    and m(c) at c, the sum of 2 (m - n + n ln(n / m)).
    """
    points = np.zeros((len(scan), len(filled.coefficients)))
    points[:, filled.coefficients.index(name)] = scan
    # processes are added first, since some predictions alone are negative
    expected = _expected(filled, points)
    asimov = _expected(filled, np.zeros((1, points.shape[1])))
    # a bin that is empty in the Standard Model still counts the events of other points
    possible = (asimov >= 0) & (expected > 0)
    ratio = np.where(possible & (asimov > 0), asimov, 1.0) / np.where(possible, expected, 1.0)
    terms = 2 * (expected - asimov + xlogy(asimov, ratio))
    summed: NDArray[np.float64] = np.where(possible, terms, 0.0).sum(axis=1)
    return summed


def _expected(filled: EFTHist, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Expected events by point and bin, channel by channel."""
    names = [process for process in filled.categories(PROCESS) if process != DATA]
    values = filled.select(**{PROCESS: names}).values(points, flow=True)
    total: NDArray[np.float64] = values.sum(axis=1)
    return total.reshape(len(points), -1)


def curve(
    analysis: TopCoffeaAnalysis, filled: EFTHist, name: str, scan: NDArray[np.float64]
) -> tuple[Figure, Any]:
    """-2 Delta ln L against a coefficient, and below it the signals' yields over the SM's."""
    signals = [process for process in analysis.signal if process in filled.categories(PROCESS)]
    points = np.zeros((len(scan), len(filled.coefficients)))
    points[:, filled.coefficients.index(name)] = scan
    with mpl.rc_context(mplhep.style.CMS):
        fig, (ax, below) = plots.panels(2, 1)
        ax.plot(scan, twice_delta_nll(filled, name, scan), linewidth=2)
        for level, text in ((1.0, "68%"), (3.84, "95%")):
            ax.axhline(level, color="grey", linestyle="--", linewidth=1)
            # next to the ticks, which point inwards
            place = scan[0] + 0.03 * (scan[-1] - scan[0])
            ax.text(place, level, text, va="bottom", fontsize=15, color="grey")
        ax.set_ylim(0, 10)
        ax.set_ylabel(r"$-2\,\Delta\ln L$ (expected, statistical)", fontsize=20)
        for process in signals:
            total = filled.select(**{PROCESS: process}).project()
            below.plot(scan, total.values(points) / total.values(), linewidth=2, label=process)
        below.set_ylabel("Yield / SM", fontsize=20)
        below.set_xlabel(name)
        below.set_xlim(scan[0], scan[-1])
        below.legend(fontsize=16)
        return fig, ax
