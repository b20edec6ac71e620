"""Measuring efficiencies in data and simulation and their ratio, from processed datasets."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import hist
import numpy as np
from numpy.typing import NDArray

from looseleaf.efficiency.analysis import BEYOND, PROBES, EfficiencyAnalysis
from looseleaf.efficiency.estimate import (
    Estimate,
    Fit,
    NoEfficiency,
    Spectra,
    bands,
    count,
    fit,
)
from looseleaf.errors import DataFileError
from looseleaf.files import write_json
from looseleaf.histograms.coverage import losses_beyond, named_bins, refuse_most_beyond, weighed
from looseleaf.histograms.ratio import Ratio, divide
from looseleaf.histograms.store import read_uhi, write_correction
from looseleaf.histograms.typed import Plain, Weighted, part
from looseleaf.losses import say
from looseleaf.objects.names import COVERAGE, NOMINAL
from looseleaf.objects.weights import ledger_scale

# a scale factor isn't computed from a smaller efficiency
SMALLEST = 1e-3
# a fit with a smaller p-value is reported
POOR = 1e-3
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """The measurement of one bin.

    `data` is the fitted efficiency, `counted` that of the count, and `alternative` that of the fit
    with the other background. `syst` has the differences of both to the first, added in quadrature.
    """

    data: Estimate
    counted: Estimate
    alternative: Estimate
    syst: float
    fit: Fit


def measure(
    analysis: EfficiencyAnalysis,
    datasets: Mapping[str, Mapping[str, Any]],
    processed: Mapping[str, str],
    ledgers: Mapping[str, str],
    summary: str | Path,
    scale_factor: str | Path,
    data: str | Path,
    simulation: str | Path,
) -> None:
    """Measure efficiencies and scale factors, and write them as correctionlib and as JSON.

    The efficiency of data is that of the fit; that of the simulation is the fraction of prompt
    pairs in the mass window that pass. The scale factor takes `nominal`, `stat_up`, `stat_down`,
    `syst_up`, `syst_down` or a variation of a correction, pT [GeV] and |eta|.

    Raises `DataFileError` naming the bin if no efficiency can be measured there, and if most probes
    are outside the edges of an axis and the analysis doesn't allow it.
    """
    groups = {
        group: _summed(names, analysis, datasets, processed, ledgers)
        for group, names in analysis.datasets.items()
    }
    for histograms in groups.values():
        refuse_most_beyond(analysis, histograms[COVERAGE], analysis.binning, "probes")
    measured, simulated = (groups[group]["pairs"] for group in ("measure", "simulation"))
    like: Plain = hist.Hist(
        hist.axis.Variable(analysis.binning["pt"], name="pt", label="pT [GeV]"),
        hist.axis.Variable(analysis.binning["abs_eta"], name="abs_eta", label="|eta|"),
    )
    expected = {name: _simulated(analysis, simulated, name) for name in analysis.variations}
    cells = {
        index: _cell(
            analysis, measured, simulated, index, float(start), named_bins(like.axes, index)
        )
        for index, start in np.ndenumerate(expected[NOMINAL].value)
    }
    _tell(analysis, cells, like)
    of_data, syst = _of_data(cells, expected[NOMINAL].value.shape)
    ratio = _over(of_data, expected[NOMINAL])
    varied = {name: one for name, one in expected.items() if name != NOMINAL}
    title = f"{analysis.title}: " if analysis.title else ""
    write_correction(
        scale_factor,
        "scale_factor",
        f"{title}efficiency of data over simulation.",
        ratio,
        like,
        {
            **_sides(ratio.value, ratio.value * syst / of_data.value),
            **{name: of_data.value / one.value for name, one in varied.items()},
        },
    )
    write_correction(
        data,
        "efficiency_data",
        f"{title}efficiency in data.",
        of_data,
        like,
        {name: np.minimum(one, 1.0) for name, one in _sides(of_data.value, syst).items()},
    )
    write_correction(
        simulation,
        "efficiency_simulation",
        f"{title}efficiency in simulation.",
        expected[NOMINAL],
        like,
        {name: one.value for name, one in varied.items()},
    )
    write_json(
        summary,
        {
            "analysis": analysis.name,
            "is_data": any(datasets[name]["data"] for name in analysis.datasets["measure"]),
            "pt": list(analysis.binning["pt"]),
            "abs_eta": list(analysis.binning["abs_eta"]),
            "mass": analysis.mass_edges,
            "data": {**_shown(of_data), "syst": syst.tolist()},
            "simulation": _shown(expected[NOMINAL]),
            "scale_factor": {
                **_shown(ratio),
                "syst": (ratio.value * syst / of_data.value).tolist(),
            },
            "bins": [_bin(cell, measured, index, like) for index, cell in cells.items()],
            "losses": [
                loss.to_json()
                for summed in groups.values()
                for loss in losses_beyond(
                    summed[COVERAGE], analysis.binning, allowed=analysis.allow.beyond, **BEYOND
                )
            ],
        },
    )


def _summed(
    names: Sequence[str],
    analysis: EfficiencyAnalysis,
    datasets: Mapping[str, Mapping[str, Any]],
    processed: Mapping[str, str],
    ledgers: Mapping[str, str],
) -> dict[str, hist.Hist[Any]]:
    """The histograms of several datasets, each scaled to its cross section, and added."""
    total: dict[str, hist.Hist[Any]] = {}
    for name in names:
        histograms, _ = read_uhi(processed[name])
        scale = ledger_scale(name, datasets[name], analysis.lumi_ifb or 1.0, ledgers[name])
        parts = {
            "pairs": histograms["pairs"] * scale,
            COVERAGE: weighed(histograms[COVERAGE], scale),
        }
        total = {key: total[key] + part if key in total else part for key, part in parts.items()}
    return total


def _simulated(analysis: EfficiencyAnalysis, pairs: Weighted, variation: str) -> Ratio:
    """The fraction of the simulated prompt pairs that pass.

    Raises `DataFileError` naming the first bin without pairs, or with almost none that pass.
    """
    prompt = part(pairs, (variation, slice(None), "prompt", sum, ...))
    passing, every = part(prompt, ("passing", ...)), part(prompt, (sum, ...))
    ratio = divide(passing, every, "weighted")
    for index in np.ndindex(ratio.value.shape):
        where = named_bins(every.axes, index)
        if ratio.empty[index]:
            raise _refused(analysis, where, "no pairs of prompt leptons in the simulation")
        if ratio.value[index] < SMALLEST:
            problem = f"the efficiency of the simulation is {ratio.value[index]:.2g}"
            raise _refused(analysis, where, f"{problem}, too small to divide by")
    return ratio


def _refused(analysis: EfficiencyAnalysis, where: str, problem: Any) -> DataFileError:
    return DataFileError(
        f"analysis {analysis.name}: {where}: {problem}: widen this bin or drop it, "
        "process more events, or see the cutflow in the files of its datasets"
    )


def _spectra(pairs: Weighted, index: tuple[int, ...]) -> Spectra:
    """The masses in a bin of the map, of failing and of passing probes."""
    view = pairs.view()
    place: tuple[Any, ...] = (..., *index)
    return Spectra(view.value[place], view.variance[place])


def _cell(
    analysis: EfficiencyAnalysis,
    measured: Weighted,
    simulated: Weighted,
    index: tuple[int, ...],
    start: float,
    where: str,
) -> Cell:
    data = _spectra(part(measured, (NOMINAL, slice(None), sum, ...)), index)
    peaks = _spectra(part(simulated, (NOMINAL, slice(None), "prompt", ...)), index)
    edges = np.array(analysis.mass_edges)
    try:
        counted = count(data, *bands(edges, analysis.mass["peak"], analysis.mass["beside"]))
        nominal = fit(data, peaks, edges, start, "polynomial")
        exponential = fit(data, peaks, edges, nominal.efficiency.value, "exponential").efficiency
    except NoEfficiency as problem:
        raise _refused(analysis, where, problem) from None
    value = nominal.efficiency.value
    if value < SMALLEST:
        raise _refused(analysis, where, f"the efficiency of the data is {value:.2g}")
    syst = float(np.hypot(counted.value - value, exponential.value - value))
    return Cell(nominal.efficiency, counted, exponential, syst, nominal)


def _of_data(cells: Mapping[tuple[int, ...], Cell], shape: tuple[int, ...]) -> tuple[Ratio, Array]:
    """The fitted efficiencies by bin, and their systematic uncertainties."""
    flat = [
        [cell.data.value, cell.data.lower, cell.data.upper, cell.syst] for cell in cells.values()
    ]
    value, lower, upper, syst = np.array(flat).T.reshape(4, *shape)
    return Ratio(value, lower, upper, np.zeros(shape, bool), "likelihood"), syst


def _sides(value: Array, syst: Array) -> dict[str, Array]:
    return {"syst_up": value + syst, "syst_down": np.maximum(value - syst, 0.0)}


def _over(of_data: Ratio, of_simulation: Ratio) -> Ratio:
    """The ratio of two independent efficiencies."""
    value = of_data.value / of_simulation.value
    up, down = (
        value * np.hypot(error_data / of_data.value, error_simulation / of_simulation.value)
        for error_data, error_simulation in (
            (of_data.up, of_simulation.down),
            (of_data.down, of_simulation.up),
        )
    )
    return Ratio(value, value - down, value + up, of_data.empty, "likelihood")


def _tell(
    analysis: EfficiencyAnalysis, cells: Mapping[tuple[int, ...], Cell], like: hist.Hist[Any]
) -> None:
    """Log the remarks on the fits of the bins."""
    messages = []
    for index, cell in cells.items():
        where = named_bins(like.axes, index)
        of_bin = cell.fit
        messages += [f"{where}: {remark}" for remark in of_bin.remarks]
        if of_bin.p_value < POOR:
            messages.append(
                f"{where}: the fit describes the data poorly, chi2/ndf = {of_bin.chi2:.1f}/"
                f"{of_bin.ndf}, p = {of_bin.p_value:.2g}: look at its picture"
            )
    say(f"analysis {analysis.name}", messages)


def _shown(ratio: Ratio) -> dict[str, Any]:
    return {name: getattr(ratio, name).tolist() for name in ("value", "lower", "upper")}


def _bin(
    cell: Cell, measured: Weighted, index: tuple[int, ...], like: hist.Hist[Any]
) -> dict[str, Any]:
    """The summary of one bin, including what its picture shows."""
    spectra = _spectra(part(measured, (NOMINAL, slice(None), sum, ...)), index)
    return {
        "pt": like.axes[0].edges[index[0] : index[0] + 2].tolist(),
        "abs_eta": like.axes[1].edges[index[1] : index[1] + 2].tolist(),
        "count": asdict(cell.counted),
        "alternative": asdict(cell.alternative),
        "fit": cell.fit.to_json(),
        "spectra": {
            name: {
                "values": spectra.values[side].tolist(),
                "errors": np.sqrt(spectra.variances[side]).tolist(),
            }
            for side, name in enumerate(PROBES)
        },
    }
