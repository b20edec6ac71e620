"""The pictures of a measured fake-rate map, from its histograms alone."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from looseleaf.fakerate.analysis import FakeRateAnalysis
from looseleaf.files import read_json
from looseleaf.histograms import plots
from looseleaf.histograms.ratio import Ratio, divide
from looseleaf.histograms.store import empty_bins, read_uhi
from looseleaf.histograms.typed import Weighted


def stored_ratio(maps: Mapping[str, Weighted], metadata: Mapping[str, Any]) -> Ratio:
    """The ratio in a map file, with empty bins marked."""
    empty = empty_bins(metadata, maps["ratio"].shape)
    value, lower, upper = (
        np.where(empty, np.nan, maps[key].values())
        for key in ("ratio", "ratio_lower", "ratio_upper")
    )
    return Ratio(value, lower, upper, empty, metadata["interval"], tuple(maps["ratio"].axes))


def pictures(
    analysis: FakeRateAnalysis,
    uhi: str | Path,
    folder: str | Path,
    label: str,
    energies: str = "13",
    truth: str | Path | None = None,
) -> None:
    """All pictures of a measured map: 2D maps, projections, rates, data and simulation, cutflow."""
    maps, metadata = read_uhi(uhi)
    ratio = stored_ratio(maps, metadata)
    axes = maps["loose"].axes
    beams = {"data": metadata["is_data"], "lumi_ifb": metadata["lumi_ifb"], "energies": energies}
    counted = "leptons" if metadata["weights"] == "counts" else "leptons, weighted"
    for name in ("loose", "tight"):
        fig, ax = plots.map2d(
            maps[name].values(),
            axes,
            metadata["title"],
            f"{name.capitalize()} {counted}",
            plots.count_texts(maps[name]),
        )
        plots.label(ax, label, **beams)
        plots.save(fig, Path(folder) / name)
    fig, ax = plots.map2d(
        ratio.value,
        axes,
        f"{metadata['title']}; {ratio.interval} interval at 68.27%",
        "N(tight) / N(loose)",
        plots.ratio_texts(ratio),
        largest=0.5,
    )
    plots.label(ax, label, **beams)
    plots.save(fig, Path(folder) / "ratio")
    expected = None
    if truth is not None:
        table = read_json(truth)["expected"]
        expected = np.array(table, dtype=np.float64).T
    fig, ax = plots.projections(ratio, axes, expected, "N(tight) / N(loose)")
    plots.label(ax, label, **beams)
    plots.save(fig, Path(folder) / "projections")
    for name in metadata["observables"]:
        own = divide(maps[f"{name}_tight"], maps[f"{name}_loose"], metadata["interval"])
        fig, ax = plots.rate(own, maps[f"{name}_loose"].axes[0], "N(tight) / N(loose)")
        plots.label(ax, label, **beams)
        plots.save(fig, Path(folder) / f"rate_{name}")
    if "non_prompt" in metadata["groups"]:
        _data_and_simulation(maps, metadata, Path(folder), label, beams)
    cutflow(metadata, Path(folder))


def _data_and_simulation(
    maps: Mapping[str, Weighted],
    metadata: Mapping[str, Any],
    folder: Path,
    label: str,
    beams: Mapping[str, Any],
) -> None:
    """Draw measured over simulated loose and tight leptons, and the fit of the prompt ones."""
    groups = {"non_prompt": "Non-prompt", "subtract": "Prompt"}
    fit = metadata["prompt_fit"]
    title = metadata["title"]
    if fit is not None:
        title += (
            f"\nprompt $\\times$ {fit['factor']:.3f} ± {fit['error']:.3f}, "
            "non-prompt to the loose data"
        )
    for key, data in maps.items():
        group, _, spectrum = key.partition(".")
        if group != "measure":
            continue
        parts = {
            text: maps[f"{group}.{spectrum}"]
            for group, text in groups.items()
            if f"{group}.{spectrum}" in maps
        }
        text = title
        if spectrum == "prompt_fit":
            text = (
                f"{metadata['title']}\nprompt $\\times$ {fit['factor']:.3f} ± {fit['error']:.3f}"
                f", non-prompt $\\times$ {fit['non_prompt_factor']:.3f} ± "
                f"{fit['non_prompt_error']:.3f}\n$\\chi^2$/ndf = {fit['chi2']:.1f}/{fit['ndf']}, "
                f"p = {fit['p_value']:.2g}"
            )
        words = plots.Words(
            x=data.axes[0].label,
            y="Leptons / bin",
            ratio="Data / sim.",
            points="Data",
            band="Statistics of the simulation",
            title=text,
        )
        fig, ax = plots.over_prediction(
            data.axes[0].edges,
            {name: histogram.values() for name, histogram in parts.items()},
            _errors(*parts.values()),
            (data.values(), _errors(data)),
            words,
        )
        plots.label(ax, label, **beams)
        plots.save(fig, folder / spectrum.replace(".", "_"))


def _errors(*histograms: Weighted) -> NDArray[Any]:
    """The errors of a sum of histograms, by bin."""
    return np.asarray(np.sqrt(np.sum([one.variances() for one in histograms], axis=0)))


def cutflow(metadata: Mapping[str, Any], folder: Path) -> None:
    """The table of events after each step, by dataset, weighted and unweighted."""
    table = metadata["cutflow"]
    cells = [
        [
            f"{weighted:,.4g}\n({events:,})" if metadata["weights"] == "xsec" else f"{events:,}"
            for weighted, events in zip(dataset["weighted"], dataset["events"], strict=True)
        ]
        for dataset in table["datasets"].values()
    ]
    steps = [textwrap.fill(step, 10) for step in table["steps"]]
    fig, _ = plots.table(list(table["datasets"]), steps, cells, metadata["title"])
    plots.save(fig, folder / "cutflow")
