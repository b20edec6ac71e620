"""The ratio of two histograms, one counting a subset of the other, with its interval."""

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import hist
import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from looseleaf.errors import LooseleafError
from looseleaf.histograms.typed import Weighted

INTERVALS = ("clopper-pearson", "wilson", "weighted", "uncorrelated")
# the probability of a normal distribution within one standard deviation
ONE_SIGMA = 0.6826894921370859
# with fewer effective entries that pass, or fail, the interval is widened
FEW = 10


class CannotDivide(LooseleafError):
    """Two histograms can't be divided; the message names the axis or bin."""


class NotASubset(CannotDivide):
    """The numerator has entries that the denominator lacks."""


class Ratio(NamedTuple):
    """A ratio by bin; all arrays have the shape of the axes, with flow bins if `flow`.

    `value` is NaN in bins with an empty denominator, which `empty` marks. `lower` and `upper` are
    the ends of the interval (not distances from the value), NaN where `empty`.
    """

    value: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    empty: NDArray[np.bool_]
    interval: str
    axes: Sequence[Any] = ()
    flow: bool = False

    @property
    def down(self) -> NDArray[np.float64]:
        """Distance from the value to the lower end."""
        return self.value - self.lower

    @property
    def up(self) -> NDArray[np.float64]:
        """Distance from the value to the upper end."""
        return self.upper - self.value

    def to_hist(self) -> Weighted:
        """The ratio as a histogram with Weight storage, for programs with one error for each bin.

        The variance is the square of half the interval; an empty bin has value and variance 0.
        """
        out: Weighted = hist.Hist(*self.axes, storage=hist.storage.Weight())
        view = out.view(flow=self.flow)
        view.value = np.where(self.empty, 0.0, self.value)
        view.variance = np.where(self.empty, 0.0, (self.upper - self.lower) / 2) ** 2
        return out


def divide(
    passing: hist.Hist[Any],
    total: hist.Hist[Any],
    interval: str | None = None,
    *,
    flow: bool = False,
) -> Ratio:
    """The ratio of a histogram of those that pass to one of all, bin by bin.

    The histograms may have any number of axes of any kind. Axes have to have the same edges;
    categories are matched by name, in the denominator's order, and one that the numerator lacks
    holds nothing. With `flow`, underflow and overflow bins are part of the result.

    `interval` is, at 68.27%,

    - `clopper-pearson`, the default for counts: covers at least that much; or `wilson`: covers
      that much on average over the rate. For unweighted counts only;
    - `weighted`, the default with Weight storage: sigma^2 = ((1 - 2f) sum w_pass^2 + f^2 sum
      w_all^2) / (sum w_all)^2, the binomial error with weights that ROOT calls option "B" of
      TH2::Divide, also of what is left of a subtraction that added to the variances. It covers
      68.27% where a hundred effective entries or more pass, and fail; with fewer and widely spread
      weights up to 3% less. Where fewer than ten do, their spread misses the weights that none of
      them happened to have: there the interval is widened to Clopper-Pearson's at the effective
      number of entries, and covers at least 68.27%, to half a percent;
    - `uncorrelated`: as if the two were independent, which overstates the error of a subset;
      what plain division prints.

    `benchmarks/intervals.py` shows what each of them covers. A negative numerator, as a
    subtraction can leave, counts as zero.

    Raises `NotASubset` if the numerator has a category of its own or, with a binomial interval,
    more pass than there are; `CannotDivide` if axes differ, for storages of other than counts and
    weights, and for a binomial interval of weights; `ValueError` for an unknown interval.
    """
    if interval is None:
        weights = any(h.storage_type is hist.storage.Weight for h in (passing, total))
        interval = "weighted" if weights else "clopper-pearson"
    if interval not in INTERVALS:
        raise ValueError(f"interval {interval!r} is not one of {', '.join(INTERVALS)}")
    den, den_var = _moments(total, total.axes, "denominator", flow)
    num, num_var = _moments(passing, total.axes, "numerator", flow)
    for side, values in (("denominator", den), ("numerator", num)):
        if not np.isfinite(values).all():
            index = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
            raise CannotDivide(f"bin {index} of the {side} is {values[index]}, which isn't finite")
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
            lower, upper = _widened(value, lower, upper, den, den_var, empty)
    lower, upper = np.where(empty, np.nan, lower), np.where(empty, np.nan, upper)
    return Ratio(value, lower, upper, empty, interval, tuple(total.axes), flow)


def _moments(
    histogram: hist.Hist[Any], axes: Sequence[Any], side: str, flow: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of weights and of squared weights in the bins of `axes`; for counts they are the same.

    `side` names the histogram in messages.
    """
    if histogram.kind != "COUNT":
        raise CannotDivide(f"the {side} has means, which can't be divided; use counts or weights")
    if len(histogram.axes) != len(axes):
        raise CannotDivide(
            f"the numerator has {len(histogram.axes)} axes, the denominator {len(axes)}"
        )
    values = np.asarray(histogram.values(flow=True), np.float64)
    variances = values
    if histogram.storage_type is hist.storage.Weight:
        variances = np.asarray(histogram.variances(flow=True), np.float64)
    elif np.any(values != np.rint(values)):
        # filled with weights, but without the sum of their squares
        raise CannotDivide(
            f"the {side} has weights without their squares; fill it with "
            "storage=hist.storage.Weight()"
        )
    places = []
    for number, (axis, target) in enumerate(zip(histogram.axes, axes, strict=True)):
        places.append(_places(axis, target, f"axis {target.name or number}", flow))
        if -1 in places[-1] and axis.traits.overflow and np.any(np.take(values, -1, number)):
            raise CannotDivide(
                f"axis {target.name or number}: the numerator has entries outside its categories; "
                f"give it those of the denominator, {list(target)}"
            )
    # an empty bin at the end of each axis, which index -1 selects
    grid = np.ix_(*places)
    return np.pad(values, (0, 1))[grid], np.pad(variances, (0, 1))[grid]


def _places(axis: Any, target: Any, name: str, flow: bool) -> list[int]:
    """The indices on `axis` of the bins of `target`, flow bins included; -1 for missing ones."""
    if axis.name and target.name and axis.name != target.name:
        raise CannotDivide(f"{name} of the denominator is {axis.name!r} in the numerator")
    if not (axis.traits.ordered or target.traits.ordered):
        present, categories = list(axis), list(target)
        if extra := [category for category in present if category not in categories]:
            raise NotASubset(
                f"{name}: categories {extra} are in the numerator only; the denominator has "
                f"{categories}"
            )
        places = [present.index(category) if category in present else -1 for category in categories]
        if flow and target.traits.overflow:
            places.append(axis.size if axis.traits.overflow else -1)
        return places
    bins, target_bins = (list(a.edges) if a.traits.ordered else list(a) for a in (axis, target))
    if axis.traits.ordered != target.traits.ordered or not _same(bins, target_bins):
        raise CannotDivide(
            f"{name}: {_short(bins)} in the numerator, {_short(target_bins)} in the denominator"
        )
    first = int(axis.traits.underflow)
    if not flow:
        return list(range(first, first + axis.size))
    if (first, axis.extent) != (int(target.traits.underflow), target.extent):
        raise CannotDivide(f"{name}: numerator and denominator have different flow bins")
    return list(range(axis.extent))


def _same(edges: Sequence[float], others: Sequence[float]) -> bool:
    """Whether edges are equal up to rounding."""
    if len(edges) != len(others):
        return False
    # edges can be infinite
    width = np.min(
        np.diff(others), initial=np.max(np.abs(others), where=np.isfinite(others), initial=0)
    )
    return np.allclose(edges, others, rtol=1e-12, atol=1e-9 * width)


def _short(edges: Sequence[Any]) -> str:
    return np.array2string(np.asarray(edges), separator=", ", threshold=20)


def _binomial(
    num: NDArray[np.float64],
    num_var: NDArray[np.float64],
    den: NDArray[np.float64],
    den_var: NDArray[np.float64],
    interval: str,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Clopper-Pearson or Wilson intervals of counts."""
    if not (np.array_equal(num, num_var) and np.array_equal(den, den_var)):
        raise CannotDivide(f"{interval} is for unweighted counts; use 'weighted'")
    if np.any(num > den):
        index = tuple(int(i) for i in np.argwhere(num > den)[0])
        raise NotASubset(
            f"bin {index}: {num[index]:g} pass of {den[index]:g}: entries that pass must be part "
            "of all; is the tight working point built on the loose one?"
        )
    if interval == "clopper-pearson":
        return _clopper_pearson(num, den)
    z = NormalDist().inv_cdf(0.5 + ONE_SIGMA / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = num / den
        middle = (rate + z**2 / (2 * den)) / (1 + z**2 / den)
        half = z / (1 + z**2 / den) * np.sqrt(rate * (1 - rate) / den + z**2 / (4 * den**2))
    return middle - half, middle + half


def _clopper_pearson(
    passed: NDArray[np.float64], tried: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The interval in which the binomial tails beyond each end have half of what is left.

    Its ends are quantiles of beta distributions. scipy.stats, from which hist takes them, costs
    each job half a second.
    """
    tail = (1 - ONE_SIGMA) / 2
    lower = np.where(passed > 0, betaincinv(passed, tried - passed + 1, tail), 0.0)
    upper = np.where(passed < tried, betaincinv(passed + 1, tried - passed, 1 - tail), 1.0)
    return lower, upper


def _widened(
    value: NDArray[np.float64],
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    den: NDArray[np.float64],
    den_var: NDArray[np.float64],
    empty: NDArray[np.bool_],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Intervals widened in bins where few effective entries pass, or fail, and limited to [0, 1].

    The effective entries are (sum w)^2 / sum w^2 of the denominator. The wider of the two intervals
    is used: after a subtraction, the spread of weights can exceed that of the counts.
    """
    measured = ~empty & (den_var > 0)
    effective = np.where(measured, den**2 / np.where(measured, den_var, 1.0), 1.0)
    passed = np.where(measured, np.clip(value, 0, 1), 0.0) * effective
    low, high = _clopper_pearson(passed, effective)
    few = measured & (np.minimum(passed, effective - passed) < FEW)
    lower = np.where(few, np.maximum(np.minimum(lower, low), 0.0), lower)
    # a subtraction can leave a rate above one
    widest = np.where(value > 1, np.inf, 1.0)
    upper = np.where(few, np.minimum(np.maximum(upper, high), widest), upper)
    return lower, upper
