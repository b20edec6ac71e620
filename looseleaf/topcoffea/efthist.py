"""Histograms of events whose weight is a quadratic in Wilson coefficients.

An event's weight is w(c) = sum_{i >= j} s_ij c_i c_j with c_0 = 1, so that s_00 is the Standard
Model's. With n coefficients there are K = (n + 1)(n + 2) / 2 terms, in lower-triangular order:
00, 10, 11, 20, 21, 22, ... A bin holds the sum of each term over its events and so is a
quadratic as well. The sum of squared weights is a quartic in c with C(n + 4, 4) terms; it is kept
exactly, term by term.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import combinations_with_replacement
from typing import Any, Self

import hist
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

SM = "sm"
TERM = "term"


def quadratic_terms(coefficients: Sequence[str]) -> list[tuple[str, str]]:
    """The K pairs of names (i, j), i >= j, in lower-triangular order."""
    names = [SM, *coefficients]
    return [(names[i], names[j]) for i in range(len(names)) for j in range(i + 1)]


@cache
def _quartic(number: int) -> tuple[list[tuple[int, ...]], NDArray[np.int64]]:
    """The quartic monomials of indices 0..number, and for each pair of quadratic terms which of
    them their product is; shape (K, K)."""
    pairs = [(i, j) for i in range(number + 1) for j in range(i + 1)]
    quartics = list(combinations_with_replacement(range(number + 1), 4))
    position = {monomial: index for index, monomial in enumerate(quartics)}
    product = np.array([[position[tuple(sorted(a + b))] for b in pairs] for a in pairs])
    return quartics, product


def quartic_terms(coefficients: Sequence[str]) -> list[tuple[str, ...]]:
    """The C(n + 4, 4) monomials of squared weights, as names."""
    names = [SM, *coefficients]
    return [tuple(names[i] for i in term) for term in _quartic(len(coefficients))[0]]


def remapped(terms: NDArray[Any], have: Sequence[str], want: Sequence[str]) -> NDArray[Any]:
    """Terms in the coefficients `have` as terms in `want`; shape (events, K).

    A coefficient that `have` lacks counts as zero coupling, one that `want` lacks is set to zero.
    """
    source = {frozenset(pair): index for index, pair in enumerate(quadratic_terms(have))}
    out = np.zeros((*terms.shape[:-1], len(quadratic_terms(want))), terms.dtype)
    for index, pair in enumerate(quadratic_terms(want)):
        if frozenset(pair) in source:
            out[..., index] = terms[..., source[frozenset(pair)]]
    return out


class EFTHist:
    """A histogram over `axes` (any hist axes) with quadratic bins in `coefficients`.

    `squares=False` leaves the sums of squared weights out: evaluated histograms then have no
    variances. Flow bins are kept like the others.
    """

    def __init__(
        self, *axes: hist.axis.AxesMixin, coefficients: Sequence[str], squares: bool = True
    ) -> None:
        self.coefficients = tuple(coefficients)
        self._sums = self._with_terms(axes, quadratic_terms(coefficients))
        self._squares = self._with_terms(axes, quartic_terms(coefficients)) if squares else None

    @staticmethod
    def _with_terms(axes: Sequence[Any], terms: Sequence[Sequence[str]]) -> hist.Hist:
        names = ["*".join(term) for term in terms]
        term_axis = hist.axis.StrCategory(names, name=TERM, overflow=False)
        return hist.Hist(*axes, term_axis, storage=hist.storage.Double())

    @property
    def axes(self) -> Any:
        return self._sums.axes[:-1]

    def fill(self, *values: Any, weight: Any = None, eft: NDArray[Any] | None = None) -> Self:
        """Fill events; one array for each axis, in order.

        `eft` holds the terms of each event, shape (events, K); without it an event's weight does
        not depend on the coefficients. `weight` multiplies either.

        Raises ValueError if the terms don't fit the coefficients.
        """
        bins, size = self._bins(values)
        factor = np.ones(len(bins)) if weight is None else np.asarray(weight, np.float64)
        if eft is None:
            _add(self._sums, bins, size, factor[:, None], slice(0, 1))
            if self._squares is not None:
                _add(self._squares, bins, size, factor[:, None] ** 2, slice(0, 1))
            return self
        number = len(quadratic_terms(self.coefficients))
        if eft.ndim != 2 or eft.shape[1] != number:
            raise ValueError(
                f"{number} terms are expected for {len(self.coefficients)} coefficients "
                f"({', '.join(self.coefficients)}), there are {eft.shape[-1]}"
            )
        terms = eft.astype(np.float64) * factor[:, None]
        _add(self._sums, bins, size, terms, slice(None))
        if self._squares is not None:
            _add(self._squares, bins, size, _squared(terms, len(self.coefficients)), slice(None))
        return self

    def _bins(self, values: Sequence[Any]) -> tuple[NDArray[np.int64], int]:
        """The flattened flow-inclusive bin of each event, and how many bins there are."""
        flat: Any = 0
        size = 1
        for axis, value in zip(self.axes, values, strict=True):
            index = np.asarray(axis.index(value)) + int(axis.traits.underflow)
            flat = flat * axis.extent + index
            size *= axis.extent
        return np.atleast_1d(flat), size

    def at(self, point: Mapping[str, float] | None = None) -> hist.Hist:
        """The histogram at a point of the coefficients (the Standard Model's if none is given).

        Coefficients that the point doesn't name are zero. Raises LookupError for an unknown one.
        """
        point = point or {}
        unknown = sorted(set(point) - set(self.coefficients))
        if unknown:
            raise LookupError(
                f"no Wilson coefficient {unknown[0]!r} here; there are "
                + ", ".join(self.coefficients)
            )
        c = np.array([1.0, *[point.get(name, 0.0) for name in self.coefficients]])
        number = len(self.coefficients)
        monomials = np.array([c[i] * c[j] for i in range(number + 1) for j in range(i + 1)])
        weighted = self._squares is not None
        storage = hist.storage.Weight() if weighted else hist.storage.Double()
        out = hist.Hist(*self.axes, storage=storage)
        values = self._sums.view(flow=True) @ monomials
        if weighted:
            quartics = np.array([np.prod(c[list(term)]) for term in _quartic(number)[0]])
            out.view(flow=True).value = values
            out.view(flow=True).variance = self._squares.view(flow=True) @ quartics
        else:
            out.view(flow=True)[...] = values
        return out

    def __add__(self, other: "EFTHist") -> "EFTHist":
        out = self.scaled(1.0)
        out += other
        return out

    def __iadd__(self, other: "EFTHist") -> Self:
        if self.coefficients != other.coefficients:
            raise ValueError(
                f"coefficients differ: {', '.join(self.coefficients)} and "
                f"{', '.join(other.coefficients)}"
            )
        self._sums += other._sums
        if self._squares is not None and other._squares is not None:
            self._squares += other._squares
        else:
            self._squares = None
        return self

    def scaled(self, factor: float) -> "EFTHist":
        """All weights multiplied with a number."""
        squares = None if self._squares is None else self._squares * factor**2
        return self._from(self.coefficients, self._sums * factor, squares)

    @classmethod
    def _from(
        cls, coefficients: Sequence[str], sums: hist.Hist, squares: hist.Hist | None
    ) -> "EFTHist":
        out = cls.__new__(cls)
        out.coefficients, out._sums, out._squares = tuple(coefficients), sums, squares
        return out

    def to_hists(self) -> dict[str, hist.Hist]:
        """`sums` and `squares`: plain histograms whose last axis names the terms."""
        out = {"sums": self._sums}
        if self._squares is not None:
            out["squares"] = self._squares
        return out

    @classmethod
    def from_hists(cls, hists: Mapping[str, hist.Hist]) -> "EFTHist":
        """The inverse of `to_hists`; the coefficients are read off the terms' names."""
        terms = [term.split("*") for term in hists["sums"].axes[TERM]]
        coefficients = [first for first, second in terms if second == SM and first != SM]
        return cls._from(coefficients, hists["sums"], hists.get("squares"))


def _squared(terms: NDArray[np.float64], number: int) -> NDArray[np.float64]:
    """The quartic terms of squared quadratics; shape (events, C(n + 4, 4))."""
    quartics, product = _quartic(number)
    out = np.zeros((len(terms), len(quartics)))
    for a in range(terms.shape[1]):
        out[:, product[a, a]] += terms[:, a] ** 2
        for b in range(a):
            out[:, product[a, b]] += 2 * terms[:, a] * terms[:, b]
    return out


def _add(
    histogram: hist.Hist,
    bins: NDArray[np.int64],
    size: int,
    terms: NDArray[np.float64],
    which: slice,
) -> None:
    """Add each event's terms to its bin: a sparse matrix (bins x events) times the terms."""
    events = len(bins)
    occupancy = csr_array((np.ones(events), (bins, np.arange(events))), shape=(size, events))
    sums = occupancy @ terms
    # the view is in Fortran order: it has to be written through its own shape
    view = histogram.view(flow=True)[..., which]
    view += sums.reshape(view.shape)
