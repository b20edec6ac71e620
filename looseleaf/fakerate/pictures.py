"""The pictures of a measured fake-rate map, from its histograms alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hist
import numpy as np

from looseleaf.files import read_json
from looseleaf.histograms import plots
from looseleaf.histograms.ratio import Ratio
from looseleaf.histograms.store import read_uhi


def stored_ratio(maps: Mapping[str, hist.Hist], metadata: Mapping[str, Any]) -> Ratio:
    """The ratio of a map file, empty bins marked again."""
    value = maps["ratio"].values()
    empty = np.zeros(value.shape, bool)
    for index in metadata["empty_bins"]:
        empty[tuple(index)] = True
    lower, upper = maps["ratio_lower"].values(), maps["ratio_upper"].values()
    parts = [np.where(empty, np.nan, part) for part in (value, lower, upper)]
    return Ratio(*parts, empty, metadata["interval"])


def pictures(
    uhi: str | Path, folder: str | Path, label: str, truth: str | Path | None = None
) -> None:
    """Loose, tight and ratio as 2D maps, and the ratio's projections, from a measured map."""
    maps, metadata = read_uhi(uhi)
    ratio = stored_ratio(maps, metadata)
    axes = maps["loose"].axes
    is_data = metadata["is_data"]
    counted = "leptons" if metadata["weights"] == "counts" else "leptons, weighted"
    for name in ("loose", "tight"):
        fig, ax = plots.map2d(
            maps[name].values(),
            axes,
            metadata["title"],
            f"{name.capitalize()} {counted}",
            plots.count_texts(maps[name]),
        )
        plots.label(ax, label, is_data, metadata["lumi_ifb"])
        plots.save(fig, Path(folder) / name)
    fig, ax = plots.map2d(
        ratio.value,
        axes,
        f"{metadata['title']}; {ratio.interval} interval at 68.27%",
        "N(tight) / N(loose)",
        plots.ratio_texts(ratio),
        largest=0.5,
    )
    plots.label(ax, label, is_data, metadata["lumi_ifb"])
    plots.save(fig, Path(folder) / "ratio")
    expected = None
    if truth is not None:
        table = read_json(truth)["expected"]
        expected = np.array(table, dtype=np.float64).T
    fig, ax = plots.projections(ratio, axes, expected, "N(tight) / N(loose)")
    plots.label(ax, label, is_data, metadata["lumi_ifb"])
    plots.save(fig, Path(folder) / "projections")


def closure_pictures(
    analysis: Mapping[str, Any], closure: str | Path, folder: str | Path, label: str
) -> None:
    """Observed against predicted, a picture for each channel and observable."""
    channels = read_json(closure)["channels"]
    for channel, found in channels.items():
        for name, table in found["observables"].items():
            fig, ax = plots.closure(
                table, analysis["observables"][name]["label"], f"{analysis['title']}, {channel}"
            )
            plots.label(ax, label, data=False, lumi_ifb=analysis["lumi_ifb"])
            plots.save(fig, Path(folder) / f"closure_{channel}_{name}")
