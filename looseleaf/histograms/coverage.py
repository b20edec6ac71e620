"""How well histograms cover what is filled: values outside of axes, and dominant weights.

Both are kept in histograms of their own, which add up like others. Values outside of an axis are
reported; if they have most of the weight, it is an error unless the analysis allows it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import hist
import numpy as np
from numpy.typing import ArrayLike, NDArray

from looseleaf.errors import DataFileError
from looseleaf.histograms.typed import Plain, S, Weighted, part
from looseleaf.losses import Loss
from looseleaf.objects import loops
from looseleaf.objects.analysis import Analysis

NUMBER, WEIGHT = "number", "weight"
SIDES = ("below", "within", "above")
# the values' range is known to the steps 1, 2 and 5 of each power of ten
_STEPS = [digit * 10.0**power for power in range(-2, 7) for digit in (1, 2, 5)]
STEPS = [*(-step for step in reversed(_STEPS)), 0.0, *_STEPS]
# with so few entries, one weight may well dominate
FEW = 10
Edges = Sequence[float] | NDArray[np.float64]


def coverage(axes: Iterable[str]) -> Plain:
    """A histogram of where values are: by axis; below, within or above it; and by value."""
    return hist.Hist(
        _of(),
        hist.axis.StrCategory(list(axes), name="axis", overflow=False),
        hist.axis.StrCategory(SIDES, name="side", overflow=False),
        hist.axis.Variable(STEPS, name="value"),
        storage=hist.storage.Double(),
    )


def cover(out: Plain, axis: str, edges: Edges, values: ArrayLike, weight: NDArray[Any]) -> None:
    """Fill where values are relative to an axis.

    Entries with a weight of zero and NaN are left out.
    """
    counts, sums = loops.cover(edges[0], edges[-1], out.axes["value"].edges, values, weight)
    view, index = out.view(flow=True), out.axes["axis"].index(axis)
    for of, added in enumerate((counts, sums)):
        view[of, index] += added


def weighed(histogram: hist.Hist[S], factor: float) -> hist.Hist[S]:
    """A coverage or entries histogram with scaled weights; numbers of entries are unchanged."""
    out = histogram * factor
    out[NUMBER, ...] = part(histogram, (NUMBER, ...)).view(flow=True)
    return out


class Beyond(NamedTuple):
    """The entries outside of an axis.

    The numbers below, above and in total, their share of all weights, and the range of their
    values.
    """

    below: int
    above: int
    all: int
    share: float
    smallest: float
    largest: float

    @property
    def number(self) -> int:
        """The number of entries outside."""
        return self.below + self.above


def beyond(histogram: Plain, axis: str) -> Beyond:
    """The entries outside of an axis, from a coverage histogram."""
    number, weight = (part(histogram, (of, axis, ...)).view(flow=True) for of in (NUMBER, WEIGHT))
    outside = [SIDES.index("below"), SIDES.index("above")]
    below, above = (int(number[side].sum()) for side in outside)
    ends = np.array([-np.inf, *STEPS, np.inf])
    filled = np.flatnonzero(number[outside].sum(axis=0))
    return Beyond(
        below,
        above,
        int(number.sum()),
        float(weight[outside].sum() / weight.sum()) if weight.any() else 0.0,
        ends[filled[0]] if len(filled) else np.nan,
        ends[filled[-1] + 1] if len(filled) else np.nan,
    )


def losses_beyond(
    histogram: Plain,
    edges: Mapping[str, Edges],
    unit: str,
    where: str,
    allowed: Collection[str] = (),
) -> list[Loss]:
    """One loss for each axis with entries outside.

    `edges` is by axis. `unit` names the entries, and `where` ends the message: what happened to
    them. `allowed` are the axes for which the analysis allows it.
    """
    out = []
    for axis, its in edges.items():
        outside = beyond(histogram, axis)
        if outside.number:
            message = (
                f"{axis}: {outside.number:,} of {outside.all:,} {unit} are outside its edges "
                f"{its[0]:g} to {its[-1]:g} ({outside.below:,} below, {outside.above:,} above, "
                f"between {outside.smallest:g} and {outside.largest:g}): {where}"
            )
            key = "allow.beyond" if axis in allowed else None
            out.append(
                Loss("beyond the axis", axis, outside.number, outside.all, unit, message, key)
            )
    return out


def refuse_most_beyond(
    analysis: Analysis,
    histogram: Plain,
    edges: Mapping[str, Edges],
    unit: str,
) -> None:
    """Raise `DataFileError` if more than half of the weights are outside of an axis.

    An axis that the analysis allows is skipped.
    """
    for axis, its in edges.items():
        outside = beyond(histogram, axis)
        if outside.share > 0.5 and axis not in analysis.allow.beyond:
            signed = axis == "abs_eta" and outside.smallest < 0
            why = "is eta meant to be absolute?" if signed else "are the edges in GeV?"
            raise DataFileError(
                f"analysis {analysis.name}: {outside.number:,} of {outside.all:,} {unit}, "
                f"{outside.share:.1%} of their weights, are outside the edges of {axis}, "
                f"{its[0]:g} to {its[-1]:g}, at values between {outside.smallest:g} and "
                f"{outside.largest:g}: {why} If this is intended, add allow: {{beyond: [{axis}]}} "
                "to the analysis"
            )


def observable_edges(analysis: Analysis) -> dict[str, Sequence[float]]:
    """The edges of an analysis' observables, by name."""
    return {name: one["edges"] for name, one in analysis.observables.items()}


def entries(*axes: Any) -> Weighted:
    """A histogram of how weights are spread over entries: their number, and their sizes."""
    return hist.Hist(_of(), *axes, storage=hist.storage.Weight())


def enter(out: Weighted, *values: Any, weight: NDArray[Any]) -> None:
    """Add entries with their weights, at one value or an array of values on each axis.

    Entries with a weight of zero are left out.
    """
    view = out.view(flow=True)
    shape = view.shape[1:]
    axes = zip(out.axes[1:], values, strict=True)
    place = [axis.index(value) + int(axis.traits.underflow) for axis, value in axes]
    at = np.ravel_multi_index(tuple(np.broadcast_arrays(*place)), shape) if place else 0
    counts = np.zeros(shape)
    sums, squares = (np.ascontiguousarray(sums[1]) for sums in (view.value, view.variance))
    loops.enter(np.atleast_1d(at), weight, counts, sums, squares)
    view.value[...] = view.value[0] + counts, sums
    view.variance[...] = view.variance[0] + counts, squares


def dominated(histogram: Weighted) -> list[tuple[tuple[int, ...], int, float]]:
    """The bins in which one weight has most of the sum of absolute weights.

    Each comes with its index, its entries, and a lower limit on the largest weight's share,
    sum w^2 / (sum |w|)^2. Bins with few entries are left out, since there an ordinary weight can
    dominate.
    """
    number = part(histogram, (NUMBER, ...)).values()
    view = part(histogram, (WEIGHT, ...)).view()
    with np.errstate(divide="ignore", invalid="ignore"):
        share = view.variance / view.value**2
    return [
        (tuple(int(i) for i in index), int(number[tuple(index)]), float(share[tuple(index)]))
        for index in np.argwhere((number >= FEW) & (share > 0.5))
    ]


def losses_dominated(histogram: Weighted, unit: str, within: str = "") -> list[Loss]:
    """One loss for each bin that one weight dominates; `within` names the histogram."""
    out = []
    for index, number, share in dominated(histogram):
        place = named_bins(histogram.axes[1:], index)
        message = (
            f"one weight has at least {share:.1%} of the sum of {number:,} {unit} "
            f"({within}{place}): check genWeight and the corrections for outliers"
        )
        out.append(Loss("one weight dominates", place, share, 1.0, "of the weights", message))
    return out


def named_bins(axes: Sequence[Any], index: Sequence[int]) -> str:
    """A bin of several axes as messages name it: `pt 10 to 20 GeV, abs_eta 0 to 1.2`."""
    return ", ".join(_named(axis, i) for axis, i in zip(axes, index, strict=True))


def _named(axis: Any, index: int) -> str:
    if isinstance(axis, hist.axis.StrCategory):
        return str(axis.value(index))
    unit = " GeV" if axis.name == "pt" else ""
    return f"{axis.name} {axis.edges[index]:g} to {axis.edges[index + 1]:g}{unit}"


def _of() -> hist.axis.StrCategory:
    return hist.axis.StrCategory([NUMBER, WEIGHT], name="of", overflow=False)
