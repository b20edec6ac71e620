"""Histograms of events whose weight is a quadratic in Wilson coefficients.

An event's weight is

    w(c) = sum_{i >= j} s_ij c_i c_j,    c_0 = 1,

so that s_00 is the Standard Model's. n coefficients make K = (n + 1)(n + 2) / 2 terms, in
lower-triangular order: 00, 10, 11, 20, 21, 22, ... A bin holds the sum of each term over its
events and so is a quadratic as well: N(c) = sum_ij S_ij c_i c_j. The sum of squared weights is a
quartic, sum_e w_e(c)^2 = sum_ijkl Q_ijkl c_i c_j c_k c_l with C(n + 4, 4) monomials; `squares`
says how much of it is kept.

| `squares`    | numbers a bin | variances                    | for 26 coefficients |
|--------------|---------------|------------------------------|---------------------|
| `True`       | C(n + 4, 4)   | exact at every point         | 27,405              |
| a list of P  | P             | exact at these points        | P                   |
| `False`      | 0             | none                         | 0                   |

Points are the cheaper way where there are many terms: those of the pictures and the yields are
known beforehand, and at any other there is no variance rather than a wrong one.

    filled = EFTHist(hist.axis.Regular(20, 0, 1000, name="ht"), coefficients=["ctG", "ctp"])
    filled.fill(ht, weight=weight, eft=events.EFTfitCoefficients)
    filled.at({"ctG": 1.5})          # a hist.Hist with variances
    filled.values(scan)              # shape (points, bins), one matrix product
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from itertools import combinations_with_replacement
from typing import Any, NamedTuple, Self

import h5py
import hist
import numpy as np
from hist.axestuple import NamedAxesTuple
from numpy.typing import ArrayLike, NDArray

from looseleaf.efthist.axes import (
    Lookup,
    axis_from_uhi,
    axis_to_uhi,
    factorized,
    grown,
    is_category,
    joined,
    placement,
)
from looseleaf.efthist.machine import LANES, add_columns, add_terms, address

SM = "sm"
FORMAT = "looseleaf-efthist/1"
Array = NDArray[Any]
Point = Mapping[str, float]
# how many events have their squares computed at a time, and the size of a block of monomials
TILE_EVENTS = 4096
BLOCK_DOUBLES = 1 << 19
# how many events have their bins looked up at a time
FILL_EVENTS = 131_072


def quadratic_terms(coefficients: Sequence[str]) -> list[tuple[str, str]]:
    """The K pairs of names (i, j), i >= j, in lower-triangular order."""
    names = [SM, *coefficients]
    return [(names[i], names[j]) for i in range(len(names)) for j in range(i + 1)]


def _terms_of(number: int) -> int:
    """The number of terms of a quadratic in a number of coefficients."""
    return (number + 1) * (number + 2) // 2


@cache
def _quartic(number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The quartic monomials as indices 0..number, shape (Q, 4), and products of quadratic terms.

    The second array has the monomial of each pair of quadratic terms, shape (K, K).
    """
    pairs = [(i, j) for i in range(number + 1) for j in range(i + 1)]
    quartics = list(combinations_with_replacement(range(number + 1), 4))
    position: dict[tuple[int, ...], int] = {term: index for index, term in enumerate(quartics)}
    product = np.array([[position[tuple(sorted(a + b))] for b in pairs] for a in pairs])
    return np.array(quartics), product


def quartic_terms(coefficients: Sequence[str]) -> list[tuple[str, ...]]:
    """The C(n + 4, 4) monomials of squared weights, as names."""
    names = [SM, *coefficients]
    return [tuple(names[i] for i in term) for term in _quartic(len(coefficients))[0]]


def monomials(points: Array) -> NDArray[np.float64]:
    """c_i c_j for i >= j at each point; `points` has shape (P, n), the result (K, P)."""
    c = np.vstack([np.ones(len(points)), np.asarray(points, np.float64).T])
    out = np.empty((len(c) * (len(c) + 1) // 2, len(points)))
    start = 0
    for i in range(len(c)):
        np.multiply(c[: i + 1], c[i], out=out[start : start + i + 1])
        start += i + 1
    return out


def remapped(terms: Array, have: Sequence[str], want: Sequence[str]) -> Array:
    """Terms in the coefficients `have` as terms in `want`; shape (events, K).

    A coefficient missing in `have` has no coupling, and one missing in `want` is set to zero.
    """
    return _rearranged(terms, quadratic_terms(have), quadratic_terms(want))


def _rearranged(array: Array, have: Sequence[Any], want: Sequence[Any]) -> Array:
    """Columns named `have` as columns named `want`; the order within a name doesn't matter."""
    source = {tuple(sorted(term)): index for index, term in enumerate(have)}
    out = np.zeros((*array.shape[:-1], len(want)), array.dtype)
    for index, term in enumerate(want):
        if (column := source.get(tuple(sorted(term)))) is not None:
            out[..., index] = array[..., column]
    return out


def combine_scaling(terms: Array) -> NDArray[np.float64]:
    """Quadratics as Combine's scaling matrices, shape (..., K).

    They are divided by the Standard Model's term, with the off-diagonal terms halved: (1, 2, 3)
    becomes (1, 1, 3). An empty bin stays empty. Raises ValueError for a bin that is empty in the
    Standard Model only, since no scaling can give it events.
    """
    terms = np.asarray(terms, np.float64)
    sm = terms[..., :1]
    if np.any((sm == 0) & (terms != 0).any(axis=-1, keepdims=True)):
        raise ValueError("a bin has events, but none in the Standard Model; merge bins")
    number = round((np.sqrt(8 * terms.shape[-1] + 1) - 1) / 2)
    halves = [1.0 if i == j else 0.5 for i in range(number) for j in range(i + 1)]
    return terms / np.where(sm == 0, 1.0, sm) * halves


class _Cell(NamedTuple):
    """One combination of categories: `sums` (bins, K), and the squares that are kept.

    Both are doubles, contiguous for each bin. There may be padding between two bins.
    """

    sums: NDArray[np.float64]
    squares: NDArray[np.float64] | None

    @property
    def kept_squares(self) -> NDArray[np.float64]:
        """The squares, in a histogram that keeps some."""
        assert self.squares is not None
        return self.squares


class _Events(NamedTuple):
    """Events to fill: a number or an array for each axis and for the weights, and the terms.

    The terms are in the order of the events unless `rows` has the row of each event.
    """

    values: list[Array]
    weights: NDArray[np.float64]
    terms: Array | None
    rows: NDArray[np.int64] | None
    squared: Array | None
    size: int

    def tile(self, start: int) -> "_Events":
        """The next FILL_EVENTS events, each with a weight."""
        tile = slice(start, min(start + FILL_EVENTS, self.size))
        number = tile.stop - start
        return _Events(
            [value[tile] if value.ndim else value for value in self.values],
            _tile(self.weights, tile, number),
            self._of_tile(self.terms, tile),
            None if self.rows is None else _tile(self.rows, tile, number),
            self._of_tile(self.squared, tile),
            number,
        )

    def _of_tile(self, array: Array | None, tile: slice) -> Array | None:
        return array if array is None or self.rows is not None else array[tile]


class EFTHist:
    """A histogram over `axes` (any hist axes) with quadratic bins in `coefficients`.

    Category axes are sparse: only filled combinations take memory. Axes can grow, and flow bins are
    kept like others. The module's docstring explains `squares`.

    Raises ValueError for coefficients that are given twice or called `sm`, and LookupError for a
    point of `squares` with an unknown coefficient.
    """

    def __init__(
        self,
        *axes: Any,
        coefficients: Sequence[str],
        squares: bool | Sequence[Point] = True,
    ) -> None:
        names = tuple(coefficients)
        if len({SM, *names}) != len(names) + 1:
            raise ValueError(
                f"coefficients should be different, and none called {SM!r}: {', '.join(names)}"
            )
        self.coefficients = names
        self.axes: Any = NamedAxesTuple(axes)
        self._exact = squares is True
        self._points = None if isinstance(squares, bool) else _distinct(self.points(squares))
        self._cells: dict[tuple[int, ...], _Cell] = {}

    def __repr__(self) -> str:
        names = ", ".join(axis.name or "?" for axis in self.axes)
        return (
            f"<EFTHist over {names}: {len(self.coefficients)} coefficients, "
            f"{len(self._cells)} cells>"
        )

    def __eq__(self, other: object) -> bool:
        """Whether axes, coefficients and all numbers are equal."""
        if not isinstance(other, EFTHist) or self.coefficients != other.coefficients:
            return False
        same_kind = self._exact == other._exact and np.array_equal(
            self._square_points, other._square_points
        )
        return (
            same_kind
            and tuple(self.axes) == tuple(other.axes)
            and self._cells.keys() == other._cells.keys()
            and all(
                b is not None and np.array_equal(a, b)
                for key, cell in self._cells.items()
                for a, b in zip(cell, other._cells[key], strict=True)
                if a is not None
            )
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def nbytes(self) -> int:
        """The memory of the filled cells in bytes."""
        arrays = [a for cell in self._cells.values() for a in cell if a is not None]
        return sum(len(a) * a.strides[0] for a in arrays)

    @property
    def _square_points(self) -> NDArray[np.float64]:
        return np.zeros((0, len(self.coefficients))) if self._points is None else self._points

    @property
    def _square_columns(self) -> int | None:
        if self._exact:
            return len(_quartic(len(self.coefficients))[0])
        return None if self._points is None else len(self._points)

    def points(self, points: Point | Sequence[Point] | Array | None) -> NDArray[np.float64]:
        """Points as an array of shape (P, n), in the order of `coefficients`.

        A coefficient that a point doesn't name is zero. Raises LookupError for an unknown one, and
        ValueError for an array of another width.
        """
        if isinstance(points, np.ndarray):
            if points.ndim != 2 or points.shape[1] != len(self.coefficients):
                raise ValueError(
                    f"points should have the shape (points, {len(self.coefficients)}), "
                    f"not {points.shape}"
                )
            return np.asarray(points, np.float64)
        listed = [points or {}] if points is None or isinstance(points, Mapping) else points
        for point in listed:
            for name in point:
                if name not in self.coefficients:
                    raise LookupError(
                        f"no Wilson coefficient {name!r} here; there are "
                        + (", ".join(self.coefficients) or "none")
                    )
        rows = [[float(p.get(name, 0.0)) for name in self.coefficients] for p in listed]
        return np.array(rows, np.float64).reshape(len(listed), len(self.coefficients))

    # filling

    def fill(
        self,
        *values: Any,
        weight: ArrayLike | None = None,
        eft: Any = None,
        coefficients: Sequence[str] | None = None,
        rows: ArrayLike | None = None,
        squared: Array | None = None,
        **named: Any,
    ) -> Self:
        """Fill events, with an array or a single value for each axis, in order or by name.

        `eft` has the terms of each event, shape (events, K); without it, an event's weight doesn't
        depend on the coefficients. `weight` multiplies either. `coefficients` are those of `eft`,
        if they differ from this histogram's: one that only the histogram has is without coupling,
        and one that only `eft` has is set to zero. `rows` has the row of `eft` for each event, so
        that a selection needs no copy of it. `squared` is what the method of this name gives for
        `eft`; without it, each fill computes it.

        A category axis is filled fastest with a single value at a time. Raises ValueError if the
        terms don't fit the coefficients, an axis has no value, lengths differ or an event has more
        than one number, and TypeError for text on an axis of numbers.
        """
        given = self._in_order(values, named)
        names = self.coefficients if coefficients is None else tuple(coefficients)
        terms = None if eft is None else self._terms(eft, names)
        events = self._events(given, weight, terms, rows, self._fitting(squared, terms))
        self._grow(events.values)
        columns = None if names == self.coefficients else self._columns(names)
        # in tiles, so that bins take little memory compared to the terms
        for start in range(0, events.size, FILL_EVENTS):
            self._fill_tile(events.tile(start), columns)
        return self

    def squared(
        self, eft: Any, coefficients: Sequence[str] | None = None
    ) -> NDArray[np.float64] | None:
        """The squares of the events' quadratics at the points of `squares`, shape (events, P).

        `fill` takes them, so that events that are filled several times need them once. None if
        squares aren't kept at points. Raises ValueError as `fill` does.
        """
        names = self.coefficients if coefficients is None else tuple(coefficients)
        terms = self._terms(eft, names).astype(np.float64, copy=False)
        if self._points is None:
            return None
        if names != self.coefficients:
            terms = _moved(terms, self._columns(names), _terms_of(len(self.coefficients)))
        at_points = terms @ monomials(self._points)
        return np.square(at_points, out=at_points)

    def _fitting(self, squared: Array | None, terms: Array | None) -> Array | None:
        if squared is None or self._points is None:
            return None
        expected = 0 if terms is None else len(terms), len(self._points)
        if squared.shape != expected:
            raise ValueError(f"squared should have the shape {expected}, not {squared.shape}")
        return np.ascontiguousarray(squared, np.float64)

    def _events(
        self,
        given: Sequence[Any],
        weight: ArrayLike | None,
        terms: Array | None,
        rows: ArrayLike | None,
        squared: Array | None,
    ) -> _Events:
        values = [np.asarray(value) for value in given]
        weights = np.asarray(1.0 if weight is None else weight, np.float64)
        index = None if rows is None else np.asarray(rows, np.int64)
        each = [*values, weights] if index is None else [*values, weights, index]
        size = self._size(each, terms if index is None else None)
        if (
            terms is not None
            and index is not None
            and size
            and not 0 <= index.min() <= index.max() < len(terms)
        ):
            raise ValueError(f"rows should lie within the {len(terms)} rows of eft")
        return _Events(values, weights, terms, index, squared, size)

    def _fill_tile(self, tile: _Events, columns: NDArray[np.int64] | None) -> None:
        bins = self._dense_bins(tile.values, tile.size)
        for key, chosen in self._by_cell(tile.values):
            cell = self._cells.get(key) or self._new_cell()
            self._cells[key] = cell
            if chosen is None:
                self._add(cell, bins, tile.rows, tile.weights, tile, columns)
            else:
                rows = chosen if tile.rows is None else tile.rows[chosen]
                self._add(cell, bins[chosen], rows, tile.weights[chosen], tile, columns)

    def _in_order(self, values: Sequence[Any], named: Mapping[str, Any]) -> list[Any]:
        if not named and len(values) == len(self.axes):
            return list(values)
        names = [axis.name for axis in self.axes]
        unknown = sorted(set(named) - set(names[len(values) :]))
        missing = [name for name in names[len(values) :] if name not in named]
        if unknown or missing or len(values) > len(names):
            raise ValueError(f"one value is expected for each of the axes {', '.join(names)}")
        return [*values, *[named[name] for name in names[len(values) :]]]

    def _terms(self, eft: Any, coefficients: Sequence[str]) -> Array:
        terms = np.asarray(eft)
        number = _terms_of(len(coefficients))
        if terms.ndim != 2 or terms.shape[1] != number:
            raise ValueError(
                f"{number} terms are expected for the {len(coefficients)} coefficients "
                f"({', '.join(coefficients)}), there are {terms.shape[-1]}"
            )
        dtype = terms.dtype if terms.dtype in (np.float32, np.float64) else np.float64
        return np.ascontiguousarray(terms, dtype)

    @staticmethod
    def _size(arrays: Sequence[Array], terms: Array | None) -> int:
        """The number of events; a single number counts for as many as the arrays have."""
        sizes = set() if terms is None else {len(terms)}
        for array in arrays:
            if array.ndim > 1:
                raise ValueError(
                    f"one number for each event is expected, not the shape {array.shape}"
                )
            if array.ndim:
                sizes.add(len(array))
        if len(sizes) > 1:
            raise ValueError(f"arrays of one length are expected, not of {sorted(sizes)}")
        return sizes.pop() if sizes else 1

    def _columns(self, coefficients: Sequence[str]) -> NDArray[np.int64]:
        """The index in this histogram of each term of a fill, -1 for terms without one."""
        places = {frozenset(term): i for i, term in enumerate(quadratic_terms(self.coefficients))}
        return np.array([places.get(frozenset(t), -1) for t in quadratic_terms(coefficients)])

    def _new_cell(self) -> _Cell:
        bins = math.prod(self._dense_shape)
        columns = self._square_columns
        return _Cell(
            _in_lanes(bins, _terms_of(len(self.coefficients))),
            None if columns is None else np.zeros((bins, columns)),
        )

    @cached_property
    def _categories(self) -> list[int]:
        """The indices of the category axes; the others are dense."""
        return [i for i, axis in enumerate(self.axes) if is_category(axis)]

    @cached_property
    def _dense(self) -> list[int]:
        return [i for i in range(len(self.axes)) if i not in self._categories]

    @cached_property
    def _growing(self) -> list[int]:
        return [i for i, axis in enumerate(self.axes) if axis.traits.growth]

    @cached_property
    def _lookups(self) -> list[Lookup]:
        """The lookups of the current dense axes."""
        return [Lookup(self.axes[i]) for i in self._dense]

    def __getstate__(self) -> dict[str, Any]:
        # faster to compute again than to send between processes
        return {name: value for name, value in vars(self).items() if name != "_lookups"}

    @property
    def _dense_shape(self) -> tuple[int, ...]:
        return tuple(lookup.extent for lookup in self._lookups)

    def _grow(self, given: Sequence[Array]) -> None:
        """Let growing axes take in the values."""
        if not self._growing:
            return
        axes = list(self.axes)
        for i in self._growing:
            seen = factorized(given[i])[0] if i in self._categories else given[i]
            axes[i] = grown(axes[i], seen)
        self._placed_on(axes)

    def _placed_on(self, axes: Sequence[Any]) -> None:
        """Move the cells to axes that contain the current ones; categories keep their indices."""
        moved = any(axes[i] != self.axes[i] for i in self._dense)
        old, shape = self.axes, self._dense_shape
        self.axes = NamedAxesTuple(axes)
        if not moved:
            return
        del self._lookups
        where = np.ix_(*[placement(old[i], axes[i]) for i in self._dense])
        for key, cell in self._cells.items():
            new = self._new_cell()
            for source, target in zip(cell, new, strict=True):
                if source is not None and target is not None:
                    into = target.reshape(*self._dense_shape, -1)
                    into[where] = source.reshape(*shape, -1)
            self._cells[key] = new

    def _dense_bins(self, given: Sequence[Array], size: int) -> NDArray[np.int64]:
        """The flattened bin of each event, flow bins included; -1 if an axis has none."""
        flat: Any = 0
        outside = None
        for i, lookup in zip(self._dense, self._lookups, strict=True):
            index = lookup(given[i])
            flat = index if i == self._dense[0] else flat * lookup.extent + index
            if not lookup.everywhere:
                beyond = (index < 0) | (index >= lookup.extent)
                outside = beyond if outside is None else outside | beyond
        if outside is not None:
            flat = np.where(outside, -1, flat)
        return flat if np.ndim(flat) else np.full(size, flat)

    def _by_cell(
        self, given: Sequence[Array]
    ) -> Iterator[tuple[tuple[int, ...], NDArray[np.int64] | None]]:
        """The events of each combination of categories; None stands for all of them."""
        fixed: list[int | None] = []
        codes: Any = 0
        tables: list[list[int]] = []
        for i in self._categories:
            labels, code = factorized(given[i])
            known = {label: index for index, label in enumerate(self.axes[i])}
            table = [known.get(label, len(known)) for label in labels.tolist()]
            tables.append(table)
            if given[i].ndim == 0:
                fixed.append(table[0])
                continue
            fixed.append(None)
            codes = codes * len(table) + code
        single = [index for index in fixed if index is not None]
        if len(single) == len(fixed):
            if self._inside(single):
                yield tuple(single), None
            return
        order = np.argsort(codes, kind="stable")
        present, starts = np.unique(codes[order], return_index=True)
        for code, events in zip(present.tolist(), np.split(order, starts[1:]), strict=True):
            key, rest = [0 if index is None else index for index in fixed], code
            for position in reversed(range(len(key))):
                if fixed[position] is None:
                    rest, digit = divmod(rest, len(tables[position]))
                    key[position] = tables[position][digit]
            if self._inside(key):
                yield tuple(key), events

    def _inside(self, key: Sequence[int]) -> bool:
        """Whether these categories have bins.

        An unlisted category goes to the axis' overflow, or is left out if it has none, as in hist.
        """
        return all(i < self.axes[a].extent for a, i in zip(self._categories, key, strict=True))

    def _add(
        self,
        cell: _Cell,
        bins: NDArray[np.int64],
        rows: NDArray[np.int64] | None,
        weights: NDArray[np.float64],
        tile: _Events,
        columns: NDArray[np.int64] | None,
    ) -> None:
        terms = tile.terms
        if terms is None:
            inside = bins >= 0
            total = np.bincount(bins[inside], weights[inside], len(cell.sums))
            cell.sums[:, 0] += total
            if cell.squares is not None:
                total = np.bincount(bins[inside], weights[inside] ** 2, len(cell.sums))
                cell.squares[:, slice(0, 1) if self._exact else slice(None)] += total[:, None]
            return
        if columns is None:
            add_terms(cell.sums, bins, rows, weights, terms)
        else:
            add_columns(cell.sums, bins, rows, weights, terms, columns)
        if cell.squares is None:
            return
        if tile.squared is not None:
            add_terms(cell.squares, bins, rows, np.square(weights), tile.squared)
            return
        # in the order of bins, so that each bin's events are one matrix product
        order = np.argsort(bins, kind="stable")
        order = order[np.searchsorted(bins[order], 0) :]
        for start in range(0, len(order), TILE_EVENTS):
            part = order[start : start + TILE_EVENTS]
            chosen = part if rows is None else rows[part]
            weighted = terms[chosen].astype(np.float64) * weights[part, None]
            if columns is not None:
                weighted = _moved(weighted, columns, cell.sums.shape[1])
            if self._exact:
                _add_quartics(cell.squares, bins[part], weighted, len(self.coefficients))
            else:
                at_points = (weighted @ monomials(self._square_points)) ** 2
                ones = np.ones(len(part))
                add_terms(cell.squares, bins[part], None, ones, at_points)

    # evaluation

    def at(
        self, point: Point | None = None, variances: bool = True
    ) -> hist.Hist[hist.storage.Weight] | hist.Hist[hist.storage.Double]:
        """The histogram at a point of the coefficients, by default the Standard Model.

        Coefficients that the point doesn't name are zero. With `variances`, and if squares are
        kept, the storage is Weight, else Double. Raises LookupError for an unknown coefficient, or
        for a point without squares.
        """
        where = self.points(point)
        values = self._evaluated(where, flow=True)[0]
        if not variances or self._square_columns is None:
            plain: hist.Hist[hist.storage.Double] = hist.Hist(
                *self.axes, storage=hist.storage.Double()
            )
            plain.view(flow=True)[...] = values
            return plain
        out: hist.Hist[hist.storage.Weight] = hist.Hist(*self.axes, storage=hist.storage.Weight())
        view = out.view(flow=True)
        view.value = values
        view.variance = self.variances(where, flow=True)[0]
        return out

    def values(self, points: Any = None, flow: bool = False) -> NDArray[np.float64]:
        """The contents at many points, shape (points, *axes), with one matrix product for each
        cell.

        `points` are mappings or an array of shape (points, coefficients).
        """
        return self._evaluated(self.points(points), flow)

    def variances(self, points: Any = None, flow: bool = False) -> NDArray[np.float64]:
        """The sums of squared weights at many points, shape (points, *axes).

        Raises LookupError if squares weren't kept, or not at one of the points.
        """
        where = self.points(points)
        if self._exact:
            # if weights cancel, rounding may give a negative number
            return np.maximum(self._evaluated(where, flow, quartic=True), 0.0)
        columns = self._square_columns_at(where)
        out = self._empty(len(where), flow)
        for key, cell in self._cells.items():
            chosen = self._bins(cell.kept_squares, flow)[:, columns]
            out[key] = chosen.T.reshape(out[key].shape)
        return self._ordered(out, flow)

    def _square_columns_at(self, where: Array) -> NDArray[np.int64]:
        """The index of each point among those of `squares`; LookupError if it isn't one of them."""
        same = (where[:, None, :] == self._square_points).all(axis=2)
        if not same.any(axis=1).all():
            first = where[~same.any(axis=1)][0]
            point = dict(zip(self.coefficients, first.tolist(), strict=True))
            raise LookupError(
                f"no squared weights were kept at {point}: list the point in `squares` when the "
                "histogram is made, or evaluate without variances"
            )
        columns: NDArray[np.int64] = same.argmax(axis=1)
        return columns

    def _evaluated(self, where: Array, flow: bool, quartic: bool = False) -> NDArray[np.float64]:
        out = self._empty(len(where), flow)
        cells = {
            key: np.ascontiguousarray(
                self._bins(cell.kept_squares if quartic else cell.sums, flow).T
            )
            for key, cell in self._cells.items()
        }
        number = len(self.coefficients)
        columns = len(_quartic(number)[0]) if quartic else _terms_of(number)
        block = max(BLOCK_DOUBLES // columns, 1)
        for start in range(0, len(where), block):
            part = where[start : start + block]
            factors = _quartic_monomials(part) if quartic else monomials(part)
            for key, contents in cells.items():
                into = out[key][start : start + block]
                into[...] = (factors.T @ contents).reshape(into.shape)
        return self._ordered(out, flow)

    def _extents(self, which: Sequence[int], flow: bool) -> tuple[int, ...]:
        return tuple(self.axes[i].extent if flow else self.axes[i].size for i in which)

    def _empty(self, points: int, flow: bool) -> NDArray[np.float64]:
        """Zeros by category, then point, then dense bin, so that each cell's row is contiguous."""
        return np.zeros(
            (*self._extents(self._categories, True), points, *self._extents(self._dense, flow))
        )

    def _ordered(self, out: NDArray[np.float64], flow: bool) -> NDArray[np.float64]:
        """From the order of `_empty` to points first, then the axes in their order."""
        sizes = self._extents(self._categories, flow)
        inside = out[tuple(slice(0, size) for size in sizes)]
        places = [*self._categories, None, *self._dense]
        return inside.transpose([places.index(i) for i in [None, *range(len(self.axes))]])

    def _bins(self, contents: NDArray[np.float64], flow: bool) -> NDArray[np.float64]:
        """A cell's rows (bins, columns), without flow bins unless `flow`."""
        if flow or not self._dense:
            return contents
        inner = tuple(
            slice(int(self.axes[i].traits.underflow), None)
            if not self.axes[i].traits.overflow
            else slice(int(self.axes[i].traits.underflow), -1)
            for i in self._dense
        )
        shaped = contents.reshape(*self._dense_shape, -1)[inner]
        return shaped.reshape(-1, contents.shape[1])

    def terms(self, flow: bool = False) -> NDArray[np.float64]:
        """The sums of each term, shape (*axes, K), in the order of `quadratic_terms`."""
        number = _terms_of(len(self.coefficients))
        out = self._empty(number, flow)
        for key, cell in self._cells.items():
            out[key] = self._bins(cell.sums, flow).T.reshape(out[key].shape)
        return np.moveaxis(self._ordered(out, flow), 0, -1)

    # histograms made from others

    def _like(self, axes: Sequence[Any] | None = None, coefficients: Any = None) -> "EFTHist":
        """An empty histogram of the same kind."""
        out = EFTHist(
            *(self.axes if axes is None else axes),
            coefficients=self.coefficients if coefficients is None else coefficients,
            squares=self._exact,
        )
        out._points = self._points
        return out

    def _accumulate(self, key: tuple[int, ...], cell: _Cell) -> None:
        if key not in self._cells:
            self._cells[key] = self._new_cell()
        for total, added in zip(self._cells[key], cell, strict=True):
            if total is not None and added is not None:
                np.add(total, added, out=total)

    def copy(self) -> "EFTHist":
        """A copy that shares no memory."""
        out = self._like()
        for key, cell in self._cells.items():
            out._accumulate(key, cell)
        return out

    def __add__(self, other: "EFTHist") -> "EFTHist":
        out = self.copy()
        out += other
        return out

    def __iadd__(self, other: "EFTHist") -> Self:
        """Add another histogram; growing axes take in its bins.

        Squares are dropped unless both keep the same. Raises ValueError if coefficients or axes
        differ.
        """
        if self.coefficients != other.coefficients:
            raise ValueError(
                f"coefficients differ: {', '.join(self.coefficients)} and "
                f"{', '.join(other.coefficients)}; `remapped` brings them to one list"
            )
        if len(self.axes) != len(other.axes):
            raise ValueError(f"{len(self.axes)} axes and {len(other.axes)} axes can't be added")
        both = [joined(a, b) for a, b in zip(self.axes, other.axes, strict=True)]
        self._placed_on(both)
        same_squares = self._exact == other._exact and np.array_equal(
            self._square_points, other._square_points
        )
        if not same_squares:
            self._exact, self._points = False, None
            self._cells = {key: _Cell(cell.sums, None) for key, cell in self._cells.items()}
        moved = other.copy()
        moved._placed_on([
            axis if is_category(axis) else common
            for axis, common in zip(other.axes, both, strict=True)
        ])  # fmt: skip
        places = [placement(other.axes[i], both[i]) for i in self._categories]
        for key, cell in moved._cells.items():
            target = tuple(int(place[index]) for place, index in zip(places, key, strict=True))
            self._accumulate(target, cell)
        return self

    def scaled(self, factor: float) -> "EFTHist":
        """A histogram with all weights multiplied by a number."""
        out = self._like()
        for key, cell in self._cells.items():
            squares = None if cell.squares is None else cell.squares * factor**2
            out._cells[key] = _Cell(cell.sums * factor, squares)
        return out

    def frozen(self, point: Point | None = None) -> "EFTHist":
        """The histogram at a point, with events that no longer depend on the coefficients.

        Raises LookupError as `at` does.
        """
        where = self.points(point)
        out = self._like()
        for key, cell in self._cells.items():
            new = out._cells[key] = out._new_cell()
            new.sums[:, 0] = cell.sums @ monomials(where)[:, 0]
            if self._exact:
                new.kept_squares[:, 0] = cell.kept_squares @ _quartic_monomials(where)[:, 0]
            elif self._points is not None:
                new.kept_squares[...] = cell.kept_squares[:, self._square_columns_at(where)]
        return out

    def remapped(self, coefficients: Sequence[str]) -> "EFTHist":
        """The same histogram in another list of coefficients.

        A new coefficient is without coupling. One that is left out is set to zero, and points of
        `squares` where it isn't zero are dropped.
        """
        out = self._like(coefficients=coefficients)
        kept = None
        if self._points is not None:
            named = [dict(zip(self.coefficients, row, strict=True)) for row in self._points]
            left_out = set(self.coefficients) - set(coefficients)
            kept = [i for i, point in enumerate(named) if not any(point[n] for n in left_out)]
            out._points = out.points([
                {n: v for n, v in named[i].items() if n not in left_out} for i in kept
            ])  # fmt: skip
        terms = [quadratic_terms(names) for names in (self.coefficients, coefficients)]
        for key, cell in self._cells.items():
            squares = cell.squares
            if self._exact:
                squares = _rearranged(
                    cell.kept_squares, quartic_terms(self.coefficients), quartic_terms(coefficients)
                )
            elif kept is not None:
                squares = np.ascontiguousarray(cell.kept_squares[:, kept])
            out._cells[key] = _Cell(_rearranged(cell.sums, *terms), squares)
        return out

    def project(self, *names: str) -> "EFTHist":
        """The sum over all axes but these, flow bins included."""
        keep = [self._position(name) for name in names]
        out = self._like([self.axes[i] for i in keep])
        dense = [self._dense.index(i) for i in keep if i in self._dense]
        gone = tuple(i for i in range(len(self._dense)) if i not in dense)
        categories = [self._categories.index(i) for i in keep if i in self._categories]
        order: list[int] = np.argsort(np.argsort(dense)).tolist()

        def summed(array: Any) -> Any:
            if array is None:
                return None
            shaped = array.reshape(*self._dense_shape, -1).sum(axis=gone)
            shaped = np.moveaxis(shaped, order, range(len(order))) if order else shaped
            return shaped.reshape(-1, array.shape[1])

        for key, cell in self._cells.items():
            out._accumulate(tuple(key[i] for i in categories), _Cell(*map(summed, cell)))
        return out

    def grouped(self, name: str, groups: Mapping[str, Sequence[Any]]) -> "EFTHist":
        """Categories of an axis, added under new names; categories without a group are left out.

        Raises LookupError for a category that doesn't exist.
        """
        position = self._position(name)
        old = self.axes[position]
        new = hist.axis.StrCategory(list(groups), name=old.name, label=old.label, overflow=False)
        which = self._categories.index(position)
        out = self._like([new if i == position else axis for i, axis in enumerate(self.axes)])
        for index, members in enumerate(groups.values()):
            for source in {self._label_index(position, member) for member in members}:
                for key, cell in self._cells.items():
                    if key[which] == source:
                        out._accumulate((*key[:which], index, *key[which + 1 :]), cell)
        return out

    def select(self, **chosen: Any) -> "EFTHist":
        """One category of an axis, `select(channel="ee")`, which removes the axis, or a list of
        categories.

        A list keeps the axis. Raises LookupError for a category that doesn't exist.
        """
        out = self
        for name, labels in chosen.items():
            position = out._position(name)
            several = isinstance(labels, (list, tuple))
            members = labels if several else [labels]
            kept = out.grouped(name, {str(label): [label] for label in members})
            others = [axis.name for axis in out.axes if axis.name != name]
            out = kept if several else kept.project(*others)
            if several and isinstance(self.axes[position], hist.axis.IntCategory):
                axes = list(out.axes)
                axes[position] = hist.axis.IntCategory(labels, name=name, overflow=False)
                out.axes = NamedAxesTuple(axes)
        return out

    def with_category(self, name: str, label: str) -> "EFTHist":
        """The histogram with a growing category axis before the others, all of it in category
        `label`."""
        out = self._like([hist.axis.StrCategory([label], name=name, growth=True), *self.axes])
        for key, cell in self._cells.items():
            out._accumulate((0, *key), cell)
        return out

    def categories(self, name: str) -> list[Any]:
        """The categories of an axis."""
        return list(self.axes[self._position(name)])

    def _position(self, name: str) -> int:
        names = [axis.name for axis in self.axes]
        if name not in names:
            raise LookupError(f"no axis {name!r}; there are {', '.join(names)}")
        return names.index(name)

    def _label_index(self, position: int, label: Any) -> int:
        axis = self.axes[position]
        if not is_category(axis) or label not in list(axis):
            raise LookupError(f"no category {label!r} on the axis {axis.name!r}")
        return int(axis.index(label))

    # files

    def write(self, group: h5py.Group) -> None:
        """Write into an HDF5 group, in a self-describing form.

        Datasets: `sums` (cells, *dense axes with flow, terms), `terms` (their names), `cells`
        (their category indices) and, for squares, `squares` with `quartics` (names) or `points`.
        Attributes: `format`, `coefficients`, `axes` (each in UHI's form).
        """
        group.attrs["format"] = FORMAT
        group.attrs["coefficients"] = json.dumps(list(self.coefficients))
        group.create_dataset("axes", data=json.dumps([axis_to_uhi(axis) for axis in self.axes]))
        cells = sorted(self._cells)
        shape = (len(cells), *self._dense_shape)
        packed: dict[str, Any] = {
            "cells": np.array(cells, np.int64).reshape(len(cells), len(self._categories))
        }

        def stack(which: int, columns: int) -> Any:
            stacked = np.zeros((len(cells), math.prod(self._dense_shape), columns))
            for row, key in enumerate(cells):
                stacked[row] = self._cells[key][which]
            return stacked.reshape(*shape, columns)

        packed["sums"] = stack(0, _terms_of(len(self.coefficients)))
        group.create_dataset("terms", data=_joined_names(quadratic_terms(self.coefficients)))
        if self._square_columns is not None:
            packed["squares"] = stack(1, self._square_columns)
        if self._exact:
            group.create_dataset("quartics", data=_joined_names(quartic_terms(self.coefficients)))
        if self._points is not None:
            packed["points"] = self._points
        for name, data in packed.items():
            # an empty array can't be compressed or chunked
            options = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
            group.create_dataset(name, data=data, **(options if data.size else {}))

    @classmethod
    def read(cls, group: h5py.Group) -> "EFTHist":
        """The histogram in a group that `write` wrote; ValueError for any other group."""
        if group.attrs.get("format") != FORMAT:
            raise ValueError(f"{group.name} is not an EFT histogram (no format {FORMAT!r})")
        axes = [axis_from_uhi(axis) for axis in json.loads(group["axes"][()])]
        out = cls(
            *axes,
            coefficients=json.loads(group.attrs["coefficients"]),
            squares="quartics" in group,
        )
        if "points" in group:
            out._points = group["points"][...]
        sums = group["sums"][...].astype(np.float64)
        squares = group["squares"][...].astype(np.float64) if "squares" in group else None
        bins = math.prod(out._dense_shape)
        for row, key in enumerate(group["cells"][...].tolist()):
            out._cells[tuple(key)] = _Cell(
                sums[row].reshape(bins, -1),
                None if squares is None else squares[row].reshape(bins, -1),
            )
        return out


def _distinct(points: NDArray[np.float64]) -> NDArray[np.float64]:
    different = list(dict.fromkeys(map(tuple, points.tolist())))
    return np.array(different, np.float64).reshape(len(different), points.shape[1])


def _in_lanes(bins: int, number: int) -> NDArray[np.float64]:
    """Zeros of shape (bins, number), with rows padded and aligned to `LANES` doubles for fast
    addition."""
    if number < LANES:
        return np.zeros((bins, number))
    wide = -(-number // LANES) * LANES
    room = np.zeros((bins + 1) * wide)
    first = -(address(room) // room.itemsize) % LANES
    return room[first : first + bins * wide].reshape(bins, wide)[:, :number]


def _tile(values: Array, tile: slice, number: int) -> Array:
    """A contiguous part of an array, or a number repeated."""
    return np.ascontiguousarray(values[tile]) if values.ndim else np.full(number, values)


def _joined_names(terms: Sequence[Sequence[str]]) -> list[str]:
    return ["*".join(term) for term in terms]


def _quartic_monomials(points: Array) -> NDArray[np.float64]:
    """c_i c_j c_k c_l at each point, shape (Q, P)."""
    c = np.vstack([np.ones(len(points)), points.T])
    i, j, k, m = _quartic(points.shape[1])[0].T
    product: NDArray[np.float64] = c[i] * c[j] * c[k] * c[m]
    return product


def _moved(terms: Array, columns: NDArray[np.int64], number: int) -> Array:
    out = np.zeros((len(terms), number))
    out[:, columns[columns >= 0]] = terms[:, columns >= 0]
    return out


def _add_quartics(
    squares: NDArray[np.float64], bins: NDArray[np.int64], terms: Array, number: int
) -> None:
    """Add the squares of quadratics to their bins; events are in the order of their bins.

    The products of all pairs of terms, summed over a bin's events, are one matrix product.
    """
    product = _quartic(number)[1].ravel()
    filled, starts = np.unique(bins, return_index=True)
    for index, of_bin in zip(filled, np.split(terms, starts[1:]), strict=True):
        pairs = of_bin.T @ of_bin
        squares[index] += np.bincount(product, pairs.ravel(), squares.shape[1])
