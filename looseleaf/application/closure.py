"""Closure: predicted against observed events, with the uncertainties of both and of the map."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc

from looseleaf.application.analysis import ApplicationAnalysis
from looseleaf.application.axes import beyond_axes
from looseleaf.files import write_json
from looseleaf.histograms.coverage import (
    observable_edges,
    refuse_most_beyond,
    weighed,
)
from looseleaf.histograms.store import read_uhi, write_uhi
from looseleaf.losses import say
from looseleaf.objects.names import COVERAGE, ENTRIES
from looseleaf.objects.rates import RateMap
from looseleaf.objects.weights import ledger_scale

# bins with fewer events are merged into the next, since they would distort chi2
MINIMUM_EVENTS = 10


def totals(
    analysis: ApplicationAnalysis,
    declared: Mapping[str, Mapping[str, Any]],
    processed: Mapping[str, str],
    ledgers: Mapping[str, str],
) -> dict[str, Any]:
    """The datasets' histograms, normalised and added.

    With data, simulated events with prompt leptons are subtracted from the prediction, and those
    without a failing lepton are in `<name>.prompt`.
    """
    total: dict[str, Any] = {}

    def add(key: str, histogram: Any) -> None:
        total[key] = total[key] + histogram if key in total else histogram

    for name, dataset in declared.items():
        histograms, _ = read_uhi(processed[name])
        scale = ledger_scale(name, dataset, analysis.lumi_ifb, ledgers[name])
        prompt = analysis.role_of(name) == "prompt"
        for key, histogram in histograms.items():
            observable, _, kind = key.partition(".")
            if key in (COVERAGE, ENTRIES):
                add(key, weighed(histogram, scale))
            elif not kind:
                # these counts are of events in data, and simulation isn't added to them
                if not prompt:
                    add(key, histogram)
            elif prompt and kind == "observed":
                add(f"{observable}.prompt", histogram * scale)
            else:
                add(key, histogram * (-scale if prompt else scale))
    return total


def write_closure(
    analysis: ApplicationAnalysis,
    datasets: Mapping[str, Mapping[str, Any]],
    maps: Mapping[str, str],
    processed: Mapping[str, str],
    ledgers: Mapping[str, str],
    histograms: str | Path,
    closure: str | Path,
) -> None:
    """Normalise and add the datasets, and compare the prediction with the observation.

    `datasets`, `processed` and `ledgers` are by dataset name. For each channel and observable, the
    closure file has observed and predicted events by bin with their uncertainties, and chi2,
    degrees of freedom and p-value with the full covariance: the uncertainty of a map bin is common
    to all bins that it contributes to. With data, it also has the expected prompt events, and
    observed events only if the analysis is unblinded. Raises `DataFileError` if most events are
    outside the edges of an observable and the analysis doesn't allow it.
    """
    total = totals(analysis, datasets, processed, ledgers)
    refuse_most_beyond(analysis, total[COVERAGE], observable_edges(analysis), "events")
    losses = beyond_axes(analysis, total)
    say(f"application {analysis.name}", (loss.message for loss in losses))
    seen = analysis.unblind
    if not seen:
        total = {key: h for key, h in total.items() if not key.endswith(".observed")}
    write_uhi(histograms, total, {"analysis": analysis.name, "lumi_ifb": analysis.lumi_ifb})
    sigma = np.concatenate([rates.sigma.ravel() for rates in RateMap.from_files(maps).values()])
    channels: dict[str, Any] = {}
    for channel in analysis.channels:
        failing = total["by_failing"][channel, :].values()
        channels[channel] = {
            # events without a failing lepton are the observed ones
            "events_by_failing_leptons": [
                int(number) if seen or index else None for index, number in enumerate(failing)
            ],
            "observables": {
                name: agreement(total, name, channel, sigma) for name in analysis.observables
            },
        }
    unmeasured = int(total["unmeasured"].sum())
    if unmeasured:
        message = (
            f"{unmeasured} failing leptons are in empty bins of the maps and predict "
            "nothing; use wider bins"
        )
        say(f"application {analysis.name}", [message])
    write_json(
        closure,
        {
            "analysis": analysis.name,
            "is_data": any(dataset["data"] for dataset in datasets.values()),
            "capped_leptons": int(total["capped"].sum()),
            "leptons_in_empty_bins": unmeasured,
            "losses": [loss.to_json() for loss in losses],
            "channels": channels,
        },
    )


def agreement(
    total: Mapping[str, Any], name: str, channel: str, sigma: NDArray[np.float64]
) -> dict[str, Any]:
    """Observed and predicted events in one channel; the outermost bins include the flow bins.

    `sigma` is the uncertainty of each map bin. If prompt events are expected too, chi2 compares the
    sum of both predictions with the observation. A blind total has no chi2.
    """
    predicted = _with_flow(total[f"{name}.predicted"][channel, :].view(flow=True))
    slopes = _with_flow(total[f"{name}.slopes"][channel, :, :].view(flow=True))
    from_map = slopes * sigma
    out = {
        "edges": total[f"{name}.predicted"].axes[1].edges.tolist(),
        "predicted": predicted["value"].tolist(),
        "predicted_stat": np.sqrt(predicted["variance"]).tolist(),
        "predicted_map": np.sqrt(np.sum(from_map**2, axis=1)).tolist(),
    }
    value, variance = predicted["value"], predicted["variance"]
    if f"{name}.prompt" in total:
        prompt = _with_flow(total[f"{name}.prompt"][channel, :].view(flow=True))
        out |= {
            "prompt": prompt["value"].tolist(),
            "prompt_stat": np.sqrt(prompt["variance"]).tolist(),
        }
        value, variance = value + prompt["value"], variance + prompt["variance"]
    if f"{name}.observed" not in total:
        return out
    observed = _with_flow(total[f"{name}.observed"][channel, :].view(flow=True))
    covariance = from_map @ from_map.T + np.diag(observed["variance"] + variance)
    merge = merging(value, variance)
    difference = merge @ (observed["value"] - value)
    # a bin without observed or predicted events carries no information
    informative = np.diag(merge @ covariance @ merge.T) > 0
    merge, difference = merge[informative], difference[informative]
    chi2 = float(difference @ np.linalg.solve(merge @ covariance @ merge.T, difference))
    ndf = len(difference)
    return out | {
        "observed": observed["value"].tolist(),
        "observed_error": np.sqrt(observed["variance"]).tolist(),
        "chi2": chi2,
        "ndf": ndf,
        "p_value": float(chdtrc(ndf, chi2)) if ndf else None,
    }


def _with_flow(view: Any) -> Any:
    """The bins with the underflow added to the first and the overflow to the last."""
    if view.dtype.names is None:
        out = view[1:-1].copy()
        out[0] += view[0]
        out[-1] += view[-1]
        return out
    return {field: _with_flow(np.asarray(view[field])) for field in ("value", "variance")}


def merging(values: NDArray[np.float64], variances: NDArray[np.float64]) -> NDArray[np.float64]:
    """A matrix that adds neighbouring bins until each has enough effective events."""
    rows: list[NDArray[np.float64]] = []
    open_row = np.zeros(len(values))
    for index in range(len(values)):
        open_row[index] = 1.0
        value, variance = open_row @ values, open_row @ variances
        if variance > 0 and value > 0 and value**2 / variance >= MINIMUM_EVENTS:
            rows.append(open_row)
            open_row = np.zeros(len(values))
    if rows:
        rows[-1] = rows[-1] + open_row
    else:
        rows.append(np.ones(len(values)))
    return np.stack(rows)
