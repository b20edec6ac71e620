"""Measuring how often an electron's charge is reconstructed wrongly, in Z boson decays.

A Z boson decays into opposite charges. Of two electrons in bins i and j of (pT, |eta|), whose
charges are wrong with probabilities p_i and p_j, the observed charges are equal with

    P_ij = p_i (1 - p_j) + p_j (1 - p_i),

so pairs of equal and of opposite charge at the Z boson's mass determine all p at once: N_ij P_ij
are expected with equal charges, where N_ij are all pairs minus the background under the peak, which
is measured in the bands beside it. Source: the likelihood method of charge misidentification, as
CMS and ATLAS use it with same-sign leptons.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hist
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import chdtrc

from looseleaf.errors import DataFileError
from looseleaf.files import write_json
from looseleaf.flips.analysis import FlipsAnalysis
from looseleaf.flips.axes import BANDS, SIGNS, beyond_axes
from looseleaf.histograms.coverage import refuse_most_beyond
from looseleaf.histograms.ratio import Ratio
from looseleaf.histograms.store import read_uhi, write_correction
from looseleaf.histograms.typed import Plain, part
from looseleaf.objects.names import COVERAGE, FLIP_CORRECTION

# the largest probability that the fit tries
LARGEST = 0.5
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Flips:
    """Flip probabilities by bin, their covariance, and the quality of the fit."""

    probability: Array
    covariance: Array
    chi2: float
    ndf: int


def estimate(
    opposite: NDArray[Any],
    same: NDArray[Any],
    beside: tuple[NDArray[Any], NDArray[Any]],
    scale: float,
) -> Flips:
    """The flip probabilities that maximise the likelihood of the observed pairs.

    `opposite` and `same` count pairs at the peak by the bins of the two electrons, shape (bins,
    bins); `beside` counts those in the bands beside it, and `scale` times as many are
    expected beneath the peak. The likelihood is Poisson in each cell, with N_ij P_ij plus the
    background expected. chi2 is Pearson's, over cells with at least five expected pairs of equal
    charge. The covariance comes from the expected curvature of the likelihood, and includes the
    statistics of the bands.

    Raises ValueError naming the bins without an electron in any pair.
    """
    opposite, same, *bands = (_folded(counts) for counts in (opposite, same, *beside))
    beneath = scale * bands[1]
    total = np.maximum(opposite + same - scale * (bands[0] + bands[1]), 0.0)
    i, j = np.triu_indices(len(total))
    pairs, seen, below = total[i, j], same[i, j], beneath[i, j]
    met = np.zeros(len(total), bool)
    met[i[pairs > 0]] = met[j[pairs > 0]] = True
    if not met.all():
        raise ValueError(f"no pair has an electron in the bins {np.flatnonzero(~met).tolist()}")

    def expected(p: Array) -> tuple[Array, Array]:
        value = pairs * (p[i] * (1 - p[j]) + p[j] * (1 - p[i])) + below
        slope = np.zeros((len(i), len(p)))
        rows = np.arange(len(i))
        np.add.at(slope, (rows, i), pairs * (1 - 2 * p[j]))
        np.add.at(slope, (rows, j), pairs * (1 - 2 * p[i]))
        return value, slope

    def negative(p: Array) -> tuple[float, Array]:
        value, slope = expected(p)
        value = np.maximum(value, 1e-12)
        log = np.where(seen > 0, seen * np.log(value), 0.0)
        return float(np.sum(value - log)), (1 - seen / value) @ slope

    everywhere = max(float(np.maximum(seen - below, 0).sum() / pairs.sum() / 2), 1e-5)
    best = minimize(
        negative, np.full(len(total), everywhere), jac=True, method="L-BFGS-B",
        bounds=[(0.0, LARGEST)] * len(total),
        options={"ftol": 1e-14, "gtol": 1e-9, "maxiter": 10_000, "maxfun": 100_000},
    )  # fmt: skip
    value, slope = expected(best.x)
    # a bin without a flip still has an uncertainty, as if one pair were expected in all its cells
    floor = np.maximum(value, 1.0 / len(i))
    variance = floor + scale * below
    curvature = slope.T @ (slope / variance[:, None])
    used = value >= 5
    pull = (seen - value)[used] ** 2 / variance[used]
    free = int(used.sum()) - len(total)
    probability = np.asarray(best.x, np.float64)
    covariance = np.asarray(np.linalg.pinv(curvature), np.float64)
    return Flips(probability, covariance, float(pull.sum()), max(free, 0))


def _folded(counts: Any) -> Array:
    """Pairs by bins in either order, added above the diagonal."""
    pairs = np.asarray(counts, np.float64)
    return np.triu(pairs) + np.tril(pairs, -1).T


def measure(
    analysis: FlipsAnalysis,
    datasets: Mapping[str, Mapping[str, Any]],
    processed: Mapping[str, str],
    correction: str | Path,
    summary: str | Path,
) -> None:
    """Measure the flip probabilities, and write them as correctionlib and as JSON.

    `datasets` and `processed` are by name: the declarations and the files. The correction
    `electron_charge_flip` takes `nominal`, `stat_up` or `stat_down`, pT [GeV] and |eta|. Raises
    `DataFileError` for bins without pairs, and if most electrons are outside the edges of an axis
    and the analysis doesn't allow it.
    """
    first, *rest = (read_uhi(path)[0] for path in processed.values())
    histograms: dict[str, hist.Hist[Any]] = {
        key: sum((one[key] for one in rest), start=first[key]) for key in first
    }
    refuse_most_beyond(analysis, histograms[COVERAGE], analysis.binning, "electrons")
    counted = histograms["pairs"]
    counts = {
        (sign, band): part(counted, (sign, band, ...)).values() for sign in SIGNS for band in BANDS
    }
    low, high = analysis.mass["peak"]
    scale = (high - low) / (2 * analysis.mass["beside"])
    binning = analysis.binning
    shape = [len(binning["pt"]) - 1, len(binning["abs_eta"]) - 1]
    try:
        flips = estimate(
            counts["opposite", "peak"],
            counts["same", "peak"],
            (counts["opposite", "beside"], counts["same", "beside"]),
            scale,
        )
    except ValueError as problem:
        raise DataFileError(
            f"analysis {analysis.name}: {problem} (by pT, then |eta|): widen the bins, or "
            "see the cutflow in the files of its datasets"
        ) from None
    value = flips.probability.reshape(shape)
    sigma = np.sqrt(np.diag(flips.covariance)).reshape(shape)
    like: Plain = hist.Hist(
        hist.axis.Variable(binning["pt"], name="pt", label="pT [GeV]"),
        hist.axis.Variable(binning["abs_eta"], name="abs_eta", label="|eta|"),
    )
    up, down = np.minimum(value + sigma, LARGEST), np.maximum(value - sigma, 0.0)
    empty = np.zeros(shape, bool)
    ratio = Ratio(value, down, up, empty, "likelihood")
    text = f"{analysis.title}: probability that an electron's charge is wrong."
    write_correction(correction, FLIP_CORRECTION, text, ratio, like)
    write_json(
        summary,
        {
            "analysis": analysis.name,
            "is_data": any(dataset["data"] for dataset in datasets.values()),
            "pt": list(binning["pt"]),
            "abs_eta": list(binning["abs_eta"]),
            "probability": value.tolist(),
            "sigma": sigma.tolist(),
            "covariance": flips.covariance.tolist(),
            "pairs": {f"{sign}_{band}": float(c.sum()) for (sign, band), c in counts.items()},
            "chi2": flips.chi2,
            "ndf": flips.ndf,
            "p_value": float(chdtrc(flips.ndf, flips.chi2)) if flips.ndf else None,
            "losses": [loss.to_json() for loss in beyond_axes(analysis, histograms)],
        },
    )
