"""Pictures in CMS style; each function returns a matplotlib figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import hist
import matplotlib as mpl
import mplhep
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.figure import Figure
from numpy.typing import NDArray

from looseleaf.files import whole
from looseleaf.histograms.ratio import Ratio

DPI = 120
# from CMS' palette of six colours
COLOURS = ("#5790fc", "#f89c20", "#e42536", "#964a8b", "#9c9ca1", "#7a21dd")


def figure(width: float = 10, height: float = 9) -> tuple[Figure, Any]:
    """An empty figure in CMS style, without pyplot's global state."""
    with mpl.rc_context(mplhep.style.CMS):
        fig = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        return fig, fig.subplots()


def label(ax: Any, text: str, data: bool, lumi_ifb: float | None, energies: str = "13") -> None:
    """Draw the experiment's label: status, data or simulation, luminosity [fb^-1] and energies
    [TeV]."""
    fig = ax.figure
    # mplhep places parts of the label by their extents, so the layout must be final
    ax.set_title(" ", fontsize=22)
    fig.get_layout_engine().execute(fig)
    fig.set_layout_engine("none")
    right = f"({energies} TeV)"
    if lumi_ifb is not None:
        right = f"{luminosity(lumi_ifb)} {right}"
    # the space keeps the text off the experiment's name
    words = f" {text}" if data else f" Simulation {text}"
    with mpl.rc_context(mplhep.style.CMS):
        # the power of ten goes left of the axis; mplhep would draw the figure to find its width
        ax.yaxis.get_offset_text().set(x=-0.02, ha="right")
        mplhep.cms.label(llabel=words, rlabel=right, ax=ax, fontsize=20, scilocator_adjust=False)


def luminosity(ifb: float) -> str:
    """An integrated luminosity [fb^-1] as text, in the unit that keeps its number readable."""
    units = {"fb": 1.0, "pb": 1e3, "nb": 1e6}
    unit = next((name for name, factor in units.items() if ifb * factor >= 0.1), "nb")
    return f"{ifb * units[unit]:.4g} {unit}$^{{-1}}$"


def save(fig: Figure, stem: str | Path) -> None:
    """Write a figure as `stem`.png and `stem`.pdf."""
    # `savefig` would draw each of them twice
    with whole(f"{stem}.png") as part:
        FigureCanvasAgg(fig).print_png(part)
    with whole(f"{stem}.pdf") as part:
        # without a creation date, so that equal pictures are equal files
        FigureCanvasPdf(fig).print_pdf(part, metadata={"CreationDate": None})


def map2d(
    values: NDArray[Any],
    axes: Sequence[Any],
    title: str,
    colour_label: str,
    texts: NDArray[Any],
    largest: float | None = None,
) -> tuple[Figure, Any]:
    """A 2D map with a text in every cell; `values` and `texts` have the shape of the axes.

    Bins are drawn with equal widths, so that narrow ones have room for their text; the axes show
    the real edges.
    """
    with mpl.rc_context(mplhep.style.CMS):
        fig, ax = figure(13, 8.5)
        columns, rows = values.shape
        top = largest if largest is not None else float(np.nanmax(values, initial=0)) or 1.0
        mesh = ax.pcolormesh(
            np.arange(columns + 1),
            np.arange(rows + 1),
            values.T,
            cmap="viridis",
            vmin=0,
            vmax=top,
        )
        for (column, row), text in np.ndenumerate(texts):
            value = values[column, row]
            dark = not np.isnan(value) and value < 0.6 * top
            ax.text(
                column + 0.5,
                row + 0.5,
                text,
                ha="center",
                va="center",
                fontsize=15,
                color="white" if dark else "black",
            )
        for axis, set_ticks in ((axes[0], ax.set_xticks), (axes[1], ax.set_yticks)):
            set_ticks(np.arange(len(axis.edges)), [f"{edge:g}" for edge in axis.edges])
        ax.minorticks_off()
        ax.set_xlabel(axes[0].label)
        ax.set_ylabel(axes[1].label)
        bar = fig.colorbar(mesh, ax=ax, pad=0.01)
        bar.set_label(colour_label)
        ax.text(0, -0.155, title, transform=ax.transAxes, fontsize=15, va="top")
        return fig, ax


def ratio_texts(ratio: Ratio) -> NDArray[Any]:
    """The value and uncertainty of each cell; one number if both sides of the interval are
    equal."""
    texts = np.full(ratio.value.shape, "", object)
    for index in np.ndindex(texts.shape):
        if ratio.empty[index]:
            texts[index] = "empty"
            continue
        value, up, down = ratio.value[index], ratio.up[index], ratio.down[index]
        if abs(up - down) <= 0.05 * max(up, down):
            texts[index] = f"{value:.3f}\n±{(up + down) / 2:.3f}"
        else:
            texts[index] = f"{value:.3f}\n$^{{+{up:.3f}}}_{{-{down:.3f}}}$"
    return texts


def count_texts(histogram: hist.Hist[Any]) -> NDArray[Any]:
    """The content of each cell, without decimals if it is a whole number."""
    values = histogram.values()
    texts = np.full(values.shape, "", object)
    for index, value in np.ndenumerate(values):
        whole_number = abs(value) >= 1000 or float(value).is_integer()
        texts[index] = f"{value:,.0f}" if whole_number else f"{value:.4g}"
    return texts


def projections(
    ratio: Ratio, axes: Sequence[Any], expected: NDArray[Any] | None, y_label: str
) -> tuple[Figure, Any]:
    """The ratio against the first axis, with a set of points for each bin of the second.

    `expected`, of the same shape, is drawn as lines if given.
    """
    with mpl.rc_context(mplhep.style.CMS):
        fig, ax = figure(11, 9)
        edges = axes[0].edges
        centres, half = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
        bins = ratio.value.shape[1]
        for row in range(bins):
            low, high = axes[1].edges[row : row + 2]
            # points of neighbouring sets next to each other
            shift = (row - (bins - 1) / 2) * 0.25 * half
            measured = ~ratio.empty[:, row]
            points = ax.errorbar(
                (centres + shift)[measured],
                ratio.value[measured, row],
                xerr=None,
                yerr=[
                    np.maximum(ratio.down[measured, row], 0),
                    np.maximum(ratio.up[measured, row], 0),
                ],
                fmt="o^sDv"[row % 5],
                markersize=8,
                capsize=3,
                label=f"{low:g} ≤ {axes[1].label} < {high:g}",
            )
            if expected is not None:
                ax.stairs(
                    np.nan_to_num(expected[:, row]),
                    edges,
                    baseline=None,
                    color=points.lines[0].get_color(),
                    linestyle="--",
                    linewidth=1.5,
                )
        if expected is not None:
            ax.plot([], [], "--", color="grey", label="injected")
        ax.set_xlim(edges[0], edges[-1])
        high = np.nanmax(np.where(ratio.empty, np.nan, ratio.upper), initial=0)
        ax.set_ylim(0, min(1.0, 1.55 * float(high)) or 1)
        ax.set_xlabel(axes[0].label)
        ax.set_ylabel(y_label)
        ax.legend(loc="upper right", fontsize=17)
        return fig, ax


def rate(ratio: Ratio, axis: Any, y_label: str) -> tuple[Figure, Any]:
    """A ratio against one axis, with asymmetric bars; empty bins have no point."""
    with mpl.rc_context(mplhep.style.CMS):
        fig, ax = figure(11, 9)
        centres, half = (axis.edges[1:] + axis.edges[:-1]) / 2, np.diff(axis.edges) / 2
        measured = ~ratio.empty
        bars = [np.maximum(side[measured], 0) for side in (ratio.down, ratio.up)]
        ax.errorbar(
            centres[measured], ratio.value[measured], bars, half[measured], fmt="ko", capsize=3
        )
        ax.set_xlim(axis.edges[0], axis.edges[-1])
        high = float(np.nanmax(np.where(ratio.empty, np.nan, ratio.upper), initial=0))
        ax.set_ylim(0, min(1.0, 1.3 * high) or 1)
        ax.set_xlabel(axis.label)
        ax.set_ylabel(y_label)
        return fig, ax


def panels(*heights: float) -> tuple[Figure, Any]:
    """An empty figure in CMS style with panels of these relative heights on one x axis."""
    fig = Figure(figsize=(11, 10), dpi=DPI, layout="constrained")
    return fig, fig.subplots(len(heights), 1, sharex=True, height_ratios=heights)


@dataclass(frozen=True)
class Words:
    """The texts of a picture of points over a prediction."""

    x: str
    y: str
    ratio: str
    points: str
    band: str
    title: str


def over_prediction(
    edges: NDArray[Any],
    parts: Mapping[str, NDArray[Any]],
    band: NDArray[Any],
    points: tuple[NDArray[Any], NDArray[Any]] | None,
    words: Words,
) -> tuple[Figure, Any]:
    """Points over stacked parts of a prediction, and below their ratio, with both uncertainties.

    `parts` are values by bin, the lowest first, `band` the uncertainty of their sum, and `points`
    values with their uncertainties; a blind picture has none. Where nothing is predicted there is
    no ratio.
    """
    predicted = np.sum(list(parts.values()), axis=0)
    scale = np.where(predicted > 0, predicted, np.nan)
    ends = [predicted + band, [1e-9]]
    lowest = [[0.0]]
    with mpl.rc_context(mplhep.style.CMS):
        fig, (ax, below) = panels(3, 1)
        bottom = np.zeros_like(predicted)
        for (text, values), colour in zip(parts.items(), cycle(COLOURS), strict=False):
            ax.stairs(bottom + values, edges, baseline=bottom, fill=True, color=colour, label=text)
            bottom = bottom + values
        draw_band(ax, edges, predicted, band, words.band)
        draw_band(below, edges, scale / scale, band / scale)
        if points is not None:
            observed, error = points
            centres, half = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
            style = {"fmt": "ko", "markersize": 7}
            ax.errorbar(centres, observed, error, half, label=words.points, **style)
            below.errorbar(centres, observed / scale, error / scale, half, **style)
            ends.append(observed + error)
            lowest.append(observed - error)
        ax.set_ylim(np.min(np.concatenate(lowest)), 1.65 * np.max(np.concatenate(ends)))
        ax.set_ylabel(words.y)
        ax.legend(loc="upper right", fontsize=17, title=words.title, title_fontsize=15)
        below.axhline(1, color="grey", linewidth=1)
        below.set_ylim(0, 2)
        below.set_ylabel(words.ratio, fontsize=20)
        below.set_xlabel(words.x)
        below.set_xlim(edges[0], edges[-1])
        return fig, ax


def table(
    rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[str]], title: str
) -> tuple[Figure, Any]:
    """A table of texts with names for its rows and columns."""
    with mpl.rc_context(mplhep.style.CMS):
        fig, ax = figure(4 + 1.7 * len(columns), 1.3 + 0.6 * len(rows))
        ax.axis("off")
        drawn = ax.table(
            cells, rowLabels=rows, colLabels=columns, bbox=(0, 0, 1, 1), cellLoc="right"
        )
        drawn.auto_set_font_size(False)
        drawn.set_fontsize(13)
        ax.set_title(title, fontsize=17)
        return fig, ax


def draw_band(ax: Any, edges: Any, middle: Any, half: Any, text: str | None = None) -> None:
    """A hatched band around values by bin."""
    ax.stairs(
        middle + half,
        edges,
        baseline=middle - half,
        fill=True,
        facecolor="none",
        edgecolor="black",
        hatch="////",
        linewidth=0,
        label=text,
    )
