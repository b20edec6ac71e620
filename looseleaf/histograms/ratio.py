"""The ratio of two histograms, one a subset of the other, with its interval."""

from typing import NamedTuple

import hist
import numpy as np
from hist.intervals import clopper_pearson_interval
from numpy.typing import NDArray
from scipy.stats import norm

from looseleaf.errors import LooseleafError

INTERVALS = ("clopper-pearson", "wilson", "weighted", "uncorrelated")
# the part of a normal distribution within one standard deviation
ONE_SIGMA = 0.6826894921370859


class NotASubset(LooseleafError):
    """The numerator counts what the denominator does not."""


class Ratio(NamedTuple):
    """A ratio by bin, without flow; all arrays have the shape of the histogram's axes.

    `value` is NaN where the denominator is empty, and `empty` says so. `lower` and `upper` are
    the ends of the interval (not distances from the value), NaN where `empty`.
    """

    value: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    empty: NDArray[np.bool_]
    interval: str

    @property
    def down(self) -> NDArray[np.float64]:
        """Distance from the value to the lower end."""
        return self.value - self.lower

    @property
    def up(self) -> NDArray[np.float64]:
        """Distance from the value to the upper end."""
        return self.upper - self.value


def _moments(histogram: hist.Hist) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of weights and of squared weights; for plain counts the two are the same."""
    values = np.asarray(histogram.values(), np.float64)
    variances = histogram.variances()
    return values, values if variances is None else np.asarray(variances, np.float64)


def divide(passing: hist.Hist, total: hist.Hist, interval: str) -> Ratio:
    """The ratio of a histogram of those that pass to one of all, bin by bin.

    `interval` is, at 68.27%,

    - `clopper-pearson` or `wilson`: binomial, for unweighted counts only;
    - `weighted`: sigma^2 = ((1 - 2f) sum w_pass^2 + f^2 sum w_all^2) / (sum w_all)^2, the
      binomial error with weights that ROOT calls option "B" of TH2::Divide. Where less than one
      effective entry passes, or fails, there is no spread to estimate it from: there the
      Clopper-Pearson interval at the effective number of entries holds if it is wider;
    - `uncorrelated`: as if the two were independent, which overstates the error of a subset;
      what plain division prints.

    A negative numerator, as a subtraction can leave, counts as zero.

    Raises `NotASubset` if, with a binomial interval, more pass than there are, and `ValueError`
    for an unknown interval or histograms of different axes.
    """
    if interval not in INTERVALS:
        raise ValueError(f"interval {interval!r} is not one of {', '.join(INTERVALS)}")
    if passing.axes != total.axes:
        raise ValueError("the two histograms have different axes")
    num, num_var = _moments(passing)
    den, den_var = _moments(total)
    num = np.maximum(num, 0.0)
    empty = ~(den > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = np.where(empty, np.nan, num / den)
    if interval in ("clopper-pearson", "wilson"):
        lower, upper = _binomial(num, num_var, den, den_var, interval)
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            if interval == "weighted":
                square = ((1 - 2 * value) * num_var + value**2 * den_var) / den**2
            else:
                square = num_var / den**2 + num**2 * den_var / den**4
        sigma = np.sqrt(np.maximum(square, 0.0))
        lower, upper = value - sigma, value + sigma
        if interval == "weighted":
            lower, upper = _at_the_ends(value, lower, upper, den, den_var, empty)
    lower, upper = np.where(empty, np.nan, lower), np.where(empty, np.nan, upper)
    return Ratio(value, lower, upper, empty, interval)


def _binomial(
    num: NDArray[np.float64],
    num_var: NDArray[np.float64],
    den: NDArray[np.float64],
    den_var: NDArray[np.float64],
    interval: str,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not (np.array_equal(num, num_var) and np.array_equal(den, den_var)):
        raise ValueError(f"{interval} is for unweighted counts; use 'weighted'")
    if np.any(num > den):
        index = tuple(int(i) for i in np.argwhere(num > den)[0])
        raise NotASubset(
            f"bin {index}: {num[index]:g} pass of {den[index]:g}: what passes must be part of "
            "all; is the tight working point built on the loose one?"
        )
    if interval == "clopper-pearson":
        lower, upper = clopper_pearson_interval(num, den, coverage=ONE_SIGMA)
        return lower, upper
    z = norm.ppf(0.5 + ONE_SIGMA / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = num / den
        middle = (rate + z**2 / (2 * den)) / (1 + z**2 / den)
        half = z / (1 + z**2 / den) * np.sqrt(rate * (1 - rate) / den + z**2 / (4 * den**2))
    return middle - half, middle + half


def _at_the_ends(
    value: NDArray[np.float64],
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    den: NDArray[np.float64],
    den_var: NDArray[np.float64],
    empty: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Intervals widened where less than one effective entry passes, or fails.

    The effective entries are (sum w)^2 / sum w^2 of all. The wider of the two intervals holds:
    with a subtraction, the weights' own spread can exceed that of the counts.
    """
    known = ~empty & (den_var > 0)
    effective = np.where(known, den**2 / np.where(known, den_var, 1.0), 1.0)
    passed = np.where(known, np.clip(value, 0, 1), 0.0) * effective
    low, high = clopper_pearson_interval(passed, effective, coverage=ONE_SIGMA)
    few_pass, few_fail = known & (passed < 1), known & (effective - passed < 1)
    upper = np.where(few_pass, np.maximum(upper, high), upper)
    lower = np.where(few_pass, np.maximum(lower, 0.0), lower)
    lower = np.where(few_fail, np.minimum(lower, low), lower)
    upper = np.where(few_fail, np.minimum(upper, 1.0), upper)
    return lower, upper
