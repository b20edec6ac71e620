"""EFT histograms against closed forms, numpy.polyfit and the reference numbers."""

import json
import pickle
from math import comb
from pathlib import Path
from typing import Any

import h5py
import hist
import numpy as np
import pytest

from looseleaf.efthist import (
    EFTHist,
    combine_scaling,
    monomials,
    quadratic_terms,
    quartic_terms,
    remapped,
)
from looseleaf.efthist.histogram import FILL_EVENTS
from looseleaf.efthist.machine import add_terms
from looseleaf.efthist.store import read_histograms, write_histograms

X = hist.axis.Regular(1, 0, 1, name="x")


def one_bin(coefficients: list[str], terms: list[float], events: int = 1, weight: float = 1):
    filled = EFTHist(X, coefficients=coefficients)
    return filled.fill(
        np.full(events, 0.5), weight=np.full(events, weight), eft=np.tile(terms, (events, 1))
    )


def test_one_coefficient() -> None:
    filled = one_bin(["c"], [1, 1.5, 1.25])
    assert filled.at({"c": 1.5}).values() == [6.0625]
    assert filled.at({"c": 0.75}).values() == [2.828125]
    assert filled.at().values() == [1.0]


def test_two_coefficients_with_their_squares() -> None:
    point = {"a": 1.2, "b": 0.4}
    single = one_bin(["a", "b"], [1.15, 1.35, 1.25, 0.25, 0.75, 1]).at(point)
    np.testing.assert_allclose(single.values(), [5.19], rtol=1e-14)
    np.testing.assert_allclose(single.variances(), [26.9361], rtol=1e-14)
    many = one_bin(["a", "b"], [1.15, 1.35, 1.25, 0.25, 0.75, 1], events=5000).at(point)
    np.testing.assert_allclose(many.values(), [25950], rtol=1e-12)
    assert round(float(np.sqrt(many.variances()[0])), 2) == 366.99


def test_squared_weights_of_weighted_events() -> None:
    assert one_bin(["c"], [1, 2, 3], events=4, weight=2).at({"c": 1}).variances() == [576]


@pytest.mark.parametrize(
    ("number", "quadratic", "quartic"),
    [(0, 1, 1), (1, 3, 5), (2, 6, 15), (9, 55, 715), (22, 276, 14950), (26, 378, 27405)],
)
def test_numbers_of_terms(number: int, quadratic: int, quartic: int) -> None:
    names = [f"c{index}" for index in range(number)]
    assert len(quadratic_terms(names)) == quadratic
    assert len(quartic_terms(names)) == quartic == comb(number + 4, 4)


def test_order_of_terms_is_lower_triangular() -> None:
    assert quadratic_terms(["a", "b"]) == [
        ("sm", "sm"),
        ("a", "sm"),
        ("a", "a"),
        ("b", "sm"),
        ("b", "a"),
        ("b", "b"),
    ]


def test_combine_scaling() -> None:
    assert combine_scaling([1, 2, 3]).tolist() == [1, 1, 3]
    assert combine_scaling([[2, 2, 6], [0, 0, 0]]).tolist() == [[1, 0.5, 3], [0, 0, 0]]
    with pytest.raises(ValueError, match="has events, but none in the Standard Model"):
        combine_scaling([0, 0, 1])


def random_fill(seed: int, events: int = 500, squares: Any = True):
    """A histogram of random events over a channel and x, with the events themselves."""
    rng = np.random.default_rng(seed)
    x, terms = rng.uniform(-0.2, 1.2, events), rng.normal(size=(events, 10)).astype(np.float32)
    channel, weight = rng.choice(["ee", "mm"], events), rng.uniform(0.5, 2, events)
    filled = EFTHist(
        hist.axis.StrCategory(["ee", "mm"], name="channel", overflow=False),
        hist.axis.Regular(4, 0, 1, name="x"),
        coefficients=["a", "b", "c"],
        squares=squares,
    ).fill(channel, x, weight=weight, eft=terms)
    return filled, (channel, x, weight, terms)


POINT = {"a": 0.7, "b": -1.3, "c": 2.1}


def at_events(terms: np.ndarray, point: dict[str, float]) -> np.ndarray:
    c = [1, point["a"], point["b"], point["c"]]
    products = np.array([c[i] * c[j] for i in range(4) for j in range(i + 1)])
    return terms.astype(float) @ products


def same(found: hist.Hist, expected: hist.Hist) -> None:
    assert tuple(found.axes) == tuple(expected.axes)
    for part in ("values", "variances"):
        np.testing.assert_allclose(
            getattr(found, part)(flow=True),
            getattr(expected, part)(flow=True),
            rtol=1e-9,
            atol=1e-9,
        )


def test_evaluated_histogram_is_the_histogram_of_evaluated_events() -> None:
    filled, (channel, x, weight, terms) = random_fill(1)
    expected = hist.Hist(*filled.axes, storage=hist.storage.Weight())
    expected.fill(channel, x, weight=weight * at_events(terms, POINT))
    # flow included: a fifth of the events lies beyond the axis
    assert expected.view(flow=True).value[:, [0, -1]].any()
    same(filled.at(POINT), expected)


AXES = {
    "variable": (hist.axis.Variable([0, 0.1, 0.5, 1], name="v"), np.float64),
    "no flow": (hist.axis.Regular(5, 0.2, 0.7, name="v", flow=False), np.float64),
    "overflow alone": (hist.axis.Regular(5, 0.2, 0.7, name="v", underflow=False), np.float64),
    "circular": (hist.axis.Regular(4, 0, 0.3, name="v", circular=True), np.float64),
    "logarithmic": (
        hist.axis.Regular(4, 0.01, 0.9, name="v", transform=hist.axis.transform.log),
        np.float64,
    ),
    "integer": (hist.axis.Integer(1, 4, name="v"), np.int64),
    "boolean": (hist.axis.Boolean(name="v"), np.bool_),
    "numbered categories": (hist.axis.IntCategory([3, 1], name="v"), np.int64),
    "growing numbered categories": (hist.axis.IntCategory([], name="v", growth=True), np.int64),
    "growing": (hist.axis.Regular(2, 0.4, 0.5, name="v", growth=True), np.float64),
    "growing integer": (hist.axis.Integer(2, 3, name="v", growth=True), np.int64),
    "named categories": (hist.axis.StrCategory(["3"], name="v"), np.str_),
    "closed categories": (hist.axis.StrCategory(["3"], name="v", overflow=False), np.str_),
    "growing categories": (hist.axis.StrCategory([], name="v", growth=True), np.str_),
}


@pytest.mark.parametrize("kind", AXES)
@pytest.mark.parametrize("first", [True, False])
def test_axes_of_any_kind(kind: str, first: bool) -> None:
    axis, dtype = AXES[kind]
    rng = np.random.default_rng(3)
    values = rng.uniform(0, 1, 300)
    if dtype != np.float64:
        values = (values * 6).astype(np.int64).astype(dtype)
    other, terms = rng.uniform(-0.2, 1.2, 300), rng.normal(size=(300, 10))
    axes = [axis, X] if first else [X, axis]
    filled = EFTHist(*axes, coefficients=["a", "b", "c"])
    expected = hist.Hist(*axes, storage=hist.storage.Weight())
    # in two fills, so that an axis that grows has something to move
    for part in (slice(0, 100), slice(100, 300)):
        both = [values[part], other[part]] if first else [other[part], values[part]]
        filled.fill(*both, eft=terms[part])
        expected.fill(*both, weight=at_events(terms[part], POINT))
    same(filled.at(POINT), expected)
    assert filled.values([POINT])[0].shape == expected.values().shape
    np.testing.assert_allclose(filled.values([POINT])[0], expected.values(), rtol=1e-9, atol=1e-9)


def test_edges_and_what_is_no_number_are_where_boost_histogram_puts_them() -> None:
    edges = np.array([-3, -1e-9, 0, 1e-12, 0.1, 0.3, 7, 1000])
    near = [edges, np.nextafter(edges, -np.inf), np.nextafter(edges, np.inf)]
    values = np.concatenate([*near, [np.nan, np.inf, -np.inf], np.linspace(-4, 1001, 5000)])
    axis = hist.axis.Variable(edges, name="v")
    filled = EFTHist(axis, coefficients=[]).fill(values).at()
    assert filled == hist.Hist(axis, storage=hist.storage.Weight()).fill(values)


REGULAR = {
    "decimal": (50, 0, 500),
    "rounded": (7, -0.1, 0.3),
    "many": (10_000, -3, 3),
    "far from zero": (100, 1e6, 1e6 + 1),
    "narrower than doubles are": (5000, 1e12, 1e12 + 0.5),
    "wide": (3, -1e300, 1e300),
    "too narrow to divide by": (10, 0, 1e-310),
    "upside down": (48, 0.000850934, 0.000691293),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
@pytest.mark.parametrize("flow", [{}, {"underflow": False}, {"overflow": False}, {"flow": False}])
@pytest.mark.parametrize("kind", REGULAR)
def test_equal_bins_are_those_of_boost_histogram(kind: str, flow: Any, dtype: Any) -> None:
    axis = hist.axis.Regular(*REGULAR[kind], name="v", **flow)
    edges = axis.edges
    between = np.random.default_rng(1).uniform(0, axis.size, 1000)
    values = [edges, np.interp(between, np.arange(axis.size + 1), edges)]
    for direction in (-np.inf, np.inf):
        near = edges
        for _ in range(3):
            near = np.nextafter(near, direction)
            values.append(near)
    width = edges[-1] / 9 - edges[0] / 9
    values.append([edges[0] - width, edges[-1] + width, np.nan, np.inf, -np.inf])
    cast = np.concatenate(values)
    if dtype != np.float64:
        cast = np.nan_to_num(cast).clip(-1e15, 1e15).astype(dtype)
    filled = EFTHist(axis, coefficients=[]).fill(cast).at()
    assert filled == hist.Hist(axis, storage=hist.storage.Weight()).fill(cast)
    # one at a time, where errors of two values can't make up for each other
    indices = np.array([axis.index(value) for value in cast.tolist()])
    weights = np.random.default_rng(2).uniform(0, 1, len(cast))
    filled = EFTHist(axis, coefficients=[]).fill(cast, weight=weights).at().values(flow=True)
    indices += axis.traits.underflow
    there = (indices >= 0) & (indices < axis.extent)
    np.testing.assert_allclose(filled, np.bincount(indices[there], weights[there], axis.extent))


@pytest.mark.parametrize("edges", [[0, 0.5, 1], [0, 1e-309, 3e-309], [-1e308, 0, 1e308]])
@pytest.mark.parametrize("flow", [{}, {"underflow": False}, {"overflow": False}, {"flow": False}])
def test_ends_of_edges_are_where_boost_histogram_puts_them(edges: list[float], flow: Any) -> None:
    axis = hist.axis.Variable(edges, name="v", **flow)
    values = np.array([*edges, *np.nextafter(edges, -np.inf), *np.nextafter(edges, np.inf)])
    filled = EFTHist(axis, coefficients=[]).fill(values).at()
    assert filled == hist.Hist(axis, storage=hist.storage.Weight()).fill(values)


def test_values_near_the_edges_of_grown_axes_are_where_boost_histogram_puts_them() -> None:
    """Growth moves an axis' ends by roundings, which are wide for bins far from zero."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        start = rng.choice([-1, 1]) * 10 ** rng.uniform(-1, 9)
        width = 10 ** rng.uniform(-2, 2)
        bins = rng.integers(2, 30)
        axis = hist.axis.Regular(bins, start, start + width, name="v", growth=True)
        grown = hist.Hist(axis).fill([start - width * rng.uniform(), start + width * 1.5]).axes[0]
        # all but the last edge, which would have it grow once more
        edges = grown.edges[:-1]
        below, above = np.nextafter(edges, -np.inf)[1:], np.nextafter(edges, np.inf)
        values = np.concatenate([edges[1:], below, above])
        filled = EFTHist(grown, coefficients=[]).fill(values).at()
        assert filled == hist.Hist(grown, storage=hist.storage.Weight()).fill(values)


def test_no_axes_and_many() -> None:
    terms = np.random.default_rng(4).normal(size=(50, 10))
    total = EFTHist(coefficients=["a", "b", "c"]).fill(eft=terms)
    np.testing.assert_allclose(total.at(POINT).values(), at_events(terms, POINT).sum())
    axes = [hist.axis.Regular(2, 0, 1, name=name) for name in "pqrs"]
    axes.insert(2, hist.axis.StrCategory([], name="k", growth=True))
    values = [np.linspace(0, 1, 50)] * 2 + ["one"] + [np.linspace(1, 0, 50)] * 2
    filled = EFTHist(*axes, coefficients=["a", "b", "c"]).fill(*values, eft=terms)
    expected = hist.Hist(*axes, storage=hist.storage.Weight())
    expected.fill(*values, weight=at_events(terms, POINT))
    same(filled.at(POINT), expected)


def test_axes_are_filled_by_name_too() -> None:
    filled, (channel, x, weight, terms) = random_fill(5)
    named = EFTHist(*filled.axes, coefficients=["a", "b", "c"])
    assert named.fill(channel, x=x, weight=weight, eft=terms) == filled
    with pytest.raises(ValueError, match="one value is expected for each of the axes channel, x"):
        named.fill(channel, y=x)
    with pytest.raises(ValueError, match="arrays of one length are expected, not of"):
        named.fill("ee", x[:3], eft=terms)


def test_categories_that_were_not_filled_take_no_memory() -> None:
    names = [f"channel {index}" for index in range(1000)]
    filled = EFTHist(
        hist.axis.StrCategory(names, name="channel"),
        hist.axis.Regular(100, 0, 1, name="x"),
        coefficients=["a", "b", "c"],
        squares=False,
    )
    filled.fill("channel 7", np.array([0.5]), eft=np.ones((1, 10)))
    # ten terms, filled up to twelve
    assert filled.nbytes == 102 * 12 * 8


def test_rows_choose_events_without_a_copy() -> None:
    filled, (channel, x, weight, terms) = random_fill(6)
    kept = np.flatnonzero(x > 0.5)
    by_rows = EFTHist(*filled.axes, coefficients=["a", "b", "c"])
    by_rows.fill(channel[kept], x[kept], weight=weight[kept], eft=terms, rows=kept)
    by_copy = EFTHist(*filled.axes, coefficients=["a", "b", "c"])
    by_copy.fill(channel[kept], x[kept], weight=weight[kept], eft=terms[kept])
    assert by_rows == by_copy
    with pytest.raises(ValueError, match="rows should lie within the 500 rows of eft"):
        by_rows.fill("ee", 0.5, eft=terms, rows=[500])


@pytest.mark.parametrize("names", [["a", "b"], ["b", "d"]])
def test_squares_at_points_may_be_computed_once_for_several_fills(names: list[str]) -> None:
    """By hand, for terms in other coefficients as well: one that is missing has no coupling."""
    rng = np.random.default_rng(7)
    terms, weight = rng.normal(size=(40, 6)).astype(np.float32), rng.normal(size=30)
    rows, x = np.arange(5, 35), rng.uniform(-0.2, 1.2, 30)
    filled = EFTHist(X, coefficients=["a", "b"], squares=[{}, {"b": 2.0}])
    squared = filled.squared(terms, names)
    filled.fill(x, weight=weight, eft=terms, coefficients=names, rows=rows, squared=squared)
    inside = (x >= 0) & (x < 1)
    exact = terms[rows].astype(float)
    # 00, 10, 11, 20, 21, 22
    at = exact @ ([1, 0, 0, 2, 0, 4] if names == ["a", "b"] else [1, 2, 4, 0, 0, 0])
    for point, value in (({}, exact[:, 0]), ({"b": 2.0}, at)):
        found, expected = filled.at(point), (weight * value)[inside]
        np.testing.assert_allclose(found.values(), [expected.sum()], rtol=1e-12)
        np.testing.assert_allclose(found.variances(), [(expected**2).sum()], rtol=1e-12)
    with pytest.raises(ValueError, match=r"squared should have the shape \(40, 2\), not \(30, 2\)"):
        filled.fill(x, weight=weight, eft=terms, rows=rows, squared=squared[rows])
    assert EFTHist(X, coefficients=["a", "b"]).squared(terms) is None


@pytest.mark.parametrize("number", range(7))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("way", ["new", "read", "rows"])
def test_rows_of_any_length_keep_to_themselves(
    number: int, dtype: Any, way: str, tmp_path: Path
) -> None:
    """Terms are added several at once: neither the next event's nor the next bin's may mix in."""
    names = [f"c{index}" for index in range(number)]
    rng = np.random.default_rng(5)
    axis = hist.axis.Regular(9, 0, 9, name="x")
    terms = rng.normal(size=(60, (number + 1) * (number + 2) // 2)).astype(dtype)
    x, weight = rng.integers(0, 9, 60) + 0.5, rng.uniform(0.5, 2, 60)
    # every other event is no number, and fills bins that no one else does
    terms[::2], x[::2] = np.nan, 2 * (x[::2] // 2) + 0.5
    x[1::2] = 2 * (x[1::2] // 2) % 8 + 1.5
    filled = EFTHist(axis, coefficients=names, squares=False)
    if way == "read":
        filled.fill(x[:1], weight=[0.0], eft=np.zeros((1, terms.shape[1])))
        with h5py.File(tmp_path / "h.h5", "w") as file:
            filled.write(file)
            filled = EFTHist.read(file)
    rows = np.arange(60)[::-1] if way == "rows" else slice(None)
    chosen = {"rows": rows} if way == "rows" else {}
    filled.fill(x[rows], weight=weight[rows], eft=terms, **chosen)
    expected = [
        np.bincount(x.astype(int), weight * terms[:, term].astype(np.float64), 9)
        for term in range(terms.shape[1])
    ]
    np.testing.assert_allclose(filled.terms(), np.transpose(expected), rtol=1e-12, atol=1e-12)
    assert np.isfinite(filled.terms()[1::2]).all()
    assert np.isnan(filled.terms()[::2]).any()


def test_bins_are_parabolas() -> None:
    filled, _ = random_fill(2)

    def f(value: float) -> np.ndarray:
        return filled.at({"a": value}).values()

    left = f(2) + f(-2) - 2 * f(0)
    np.testing.assert_allclose(left, 4 * (f(1) + f(-1) - 2 * f(0)), atol=1e-10)


def test_polynomials_fitted_to_scans_are_the_terms() -> None:
    filled, _ = random_fill(11)
    scan = np.linspace(-2, 2, 9)
    points = [{"b": value} for value in scan]
    terms = filled.terms()[0]
    names = quadratic_terms(["a", "b", "c"])
    wanted = [names.index(term) for term in (("b", "b"), ("b", "sm"), ("sm", "sm"))]
    fitted = np.polyfit(scan, filled.values(points)[:, 0], 2)
    np.testing.assert_allclose(fitted, terms[:, wanted].T, atol=1e-9)
    quartic = np.polyfit(scan, filled.variances(points)[:, 0], 4)
    at = filled.at({"b": 1.5}).variances()[0]
    np.testing.assert_allclose([np.polyval(q, 1.5) for q in quartic.T], at, rtol=1e-9)


def test_many_points_are_one_point_at_a_time() -> None:
    filled, _ = random_fill(12)
    scan = np.random.default_rng(1).normal(size=(3000, 3))
    values, variances = filled.values(scan), filled.variances(scan, flow=True)
    assert values.shape == (3000, 2, 4)
    assert variances.shape == (3000, 2, 6)
    for index in (0, 1500, 2999):
        single = filled.at(dict(zip("abc", scan[index], strict=True)))
        np.testing.assert_allclose(values[index], single.values(), rtol=1e-12)
        np.testing.assert_allclose(variances[index], single.variances(flow=True), rtol=1e-12)
    with pytest.raises(ValueError, match=r"the shape \(points, 3\), not \(3000, 2\)"):
        filled.values(scan[:, :2])


def test_monomials_are_in_the_order_of_the_terms() -> None:
    assert monomials(np.array([[2.0, 3.0]]))[:, 0].tolist() == [1, 2, 4, 3, 6, 9]


def test_plain_events_do_not_depend_on_the_coefficients() -> None:
    for squares in (True, [{}, {"a": 17.0}]):
        filled = EFTHist(X, coefficients=["a"], squares=squares)
        filled.fill(np.array([0.5, 0.5]), weight=np.array([2.0, 3.0]))
        for point in ({}, {"a": 17.0}):
            assert filled.at(point).values() == [5]
            assert filled.at(point).variances() == [13]


def test_unknown_coefficient_is_named() -> None:
    with pytest.raises(LookupError, match="no Wilson coefficient 'd' here; there are a, b, c"):
        random_fill(3, 1)[0].at({"d": 1.0})


def test_what_is_no_number_for_each_event_is_refused() -> None:
    filled = EFTHist(X, coefficients=["a"])
    terms, x = np.ones((3, 3)), np.full(3, 0.5)
    before = filled.copy()
    for arguments in ({"weight": np.ones((3, 2))}, {"weight": np.ones((3, 1))}, {"rows": [[0, 1]]}):
        with pytest.raises(ValueError, match="one number for each event is expected, not the sha"):
            filled.fill(x, eft=terms, **arguments)
    with pytest.raises(ValueError, match="one number for each event is expected, not the shape"):
        filled.fill(np.ones((3, 2)), eft=terms)
    for axis in (X, hist.axis.Variable([0, 1, 2], name="x")):
        with pytest.raises(TypeError):
            EFTHist(axis, coefficients=["a"]).fill(np.array(["0.5", "0.5", "0.5"]), eft=terms)
    assert filled == before


def test_terms_of_no_coefficients() -> None:
    """What doesn't depend on the coefficients, given as the one term that there is then."""
    x, terms = np.array([0.5, 0.5]), np.array([[2.0], [3.0]])
    for squares in (True, [{}]):
        some = EFTHist(X, coefficients=["a"]).fill(x, eft=terms, coefficients=[])
        none = EFTHist(X, coefficients=[], squares=squares).fill(x, eft=terms)
        for found in (some, none):
            assert (found.at().values(), found.at().variances()) == ([5], [13])
    with pytest.raises(ValueError, match="1 terms are expected for the 0 coefficients"):
        EFTHist(X, coefficients=["a"]).fill(x, eft=np.ones((2, 3)), coefficients=[])


def test_wrong_number_of_terms_is_refused() -> None:
    with pytest.raises(ValueError, match="6 terms are expected for the 2 coefficients"):
        EFTHist(X, coefficients=["a", "b"]).fill(np.array([0.5]), eft=np.ones((1, 3)))


@pytest.mark.parametrize("names", [["a", "a"], ["sm"]])
def test_coefficients_that_can_not_be_told_apart(names: list[str]) -> None:
    with pytest.raises(ValueError, match="coefficients should be different, and none called 'sm'"):
        EFTHist(X, coefficients=names)


def test_remapping() -> None:
    assert remapped(np.array([[1, 2, 3]]), ["a"], ["b", "a"]).tolist() == [[1, 0, 0, 2, 0, 3]]
    assert remapped(np.array([[1, 2, 3, 4, 5, 6]]), ["a", "b"], ["b"]).tolist() == [[1, 4, 6]]


OTHER = ["c", "a", "x"]


@pytest.mark.parametrize("squares", [True, [{"a": 0.7, "c": 2.1}, {}]])
def test_remapped_histograms_and_fills_are_those_of_remapped_events(squares: Any) -> None:
    filled, (channel, x, weight, terms) = random_fill(4, squares=squares)
    point = {"a": 0.7, "c": 2.1}
    moved = filled.remapped(OTHER)
    by_events = EFTHist(*filled.axes, coefficients=OTHER, squares=squares)
    by_events.fill(channel, x, weight=weight, eft=remapped(terms, ["a", "b", "c"], OTHER))
    directly = EFTHist(*filled.axes, coefficients=OTHER, squares=squares)
    directly.fill(channel, x, weight=weight, eft=terms, coefficients=["a", "b", "c"])
    for found in (moved, by_events, directly):
        same(found.at(point), filled.at(point))
        assert found.coefficients == ("c", "a", "x")
    # and go on like them
    moved.fill(channel, x, weight=weight, eft=remapped(terms, ["a", "b", "c"], OTHER))
    same(moved.at(point), (filled + filled).at(point))
    at_once = EFTHist(filled.axes[1], coefficients=OTHER, squares=squares)
    at_once.fill(x, weight=weight, eft=terms, coefficients=["a", "b", "c"])
    same(at_once.at(point), filled.project("x").at(point))


def test_addition_and_scaling() -> None:
    first, second = random_fill(5)[0], random_fill(6)[0]
    total = (first + second).scaled(3.0).at(POINT)
    a, b = first.at(POINT), second.at(POINT)
    np.testing.assert_allclose(total.values(), 3 * (a.values() + b.values()), rtol=1e-9)
    np.testing.assert_allclose(total.variances(), 9 * (a.variances() + b.variances()), rtol=1e-9)
    with pytest.raises(ValueError, match="coefficients differ: a, b, c and a"):
        first + EFTHist(*first.axes, coefficients=["a"])
    with pytest.raises(ValueError, match="axes differ"):
        first + EFTHist(first.axes[0], X, coefficients=["a", "b", "c"])


def test_axes_that_grow_add_up_whatever_came_first() -> None:
    def grown(names: str, values: list[int]) -> EFTHist:
        filled = EFTHist(
            hist.axis.StrCategory([], name="k", growth=True),
            hist.axis.Integer(0, 1, name="n", growth=True),
            coefficients=["a"],
        )
        for name, value in zip(names, values, strict=True):
            filled.fill(name, value, eft=np.array([[1.0, value, 2.0]]))
        return filled

    first, second = grown("pq", [3, 1]), grown("rqp", [-2, 1, 5])
    total = (first + second).at({"a": 2.0})
    together = grown("pqrqp", [3, 1, -2, 1, 5]).at({"a": 2.0})
    same(total, together)
    assert total["q", hist.loc(1)].value == 2 * (1 + 2 + 8)


def test_adding_leaves_the_summands_alone() -> None:
    first, second = random_fill(7)[0], random_fill(8)[0]
    before = first.at(POINT).values().copy()
    _ = first + second
    np.testing.assert_array_equal(first.at(POINT).values(), before)


def test_squares_at_points_are_exact_there_and_refused_elsewhere() -> None:
    exact, _ = random_fill(9)
    cheap, _ = random_fill(9, squares=[{}, POINT])
    same(cheap.at(POINT), exact.at(POINT))
    same(cheap.at(), exact.at())
    with pytest.raises(LookupError, match=r"no squared weights were kept at \{'a': 1\.0"):
        cheap.at({"a": 1.0})
    assert cheap.at({"a": 1.0}, variances=False).storage_type is hist.storage.Double
    assert cheap.nbytes == 12 * (12 + 2) * 8
    # what only one of the two knows can't be added up
    assert (exact + cheap).at(POINT).storage_type is hist.storage.Double


def test_squares_of_more_events_than_a_tile_holds() -> None:
    filled, (_, _, weight, terms) = random_fill(10, events=10_000)
    total = filled.project().at(POINT)
    expected = ((weight * at_events(terms, POINT)) ** 2).sum()
    np.testing.assert_allclose(total.view(flow=True).variance, expected, rtol=1e-9)


@pytest.mark.parametrize("squares", [True, False, [{}, POINT]])
def test_frozen_histograms_stay_what_they_are_at_a_point(squares: Any) -> None:
    filled, _ = random_fill(16, squares=squares)
    still = filled.frozen(POINT)
    for point in ({}, POINT):
        np.testing.assert_allclose(still.at(point).values(), filled.at(POINT).values(), rtol=1e-9)
        if squares:
            same(still.at(point), filled.at(POINT))


def test_projection_and_grouping() -> None:
    filled, _ = random_fill(13)
    whole = filled.at(POINT)
    same(filled.project("x").at(POINT), whole.project("x"))
    same(filled.project("channel").at(POINT), whole.project("channel"))
    same(filled.project("x", "channel").at(POINT), whole.project("x", "channel"))
    same(filled.select(channel="mm").at(POINT), whole["mm", :])
    both = filled.grouped("channel", {"ll": ["ee", "mm"], "muons": ["mm"]}).at(POINT)
    np.testing.assert_allclose(both["ll", :].values(), whole.project("x").values(), rtol=1e-9)
    np.testing.assert_allclose(both["muons", :].values(), whole["mm", :].values(), rtol=1e-9)
    with pytest.raises(LookupError, match="no category 'em' on the axis 'channel'"):
        filled.select(channel="em")
    with pytest.raises(LookupError, match="no axis 'y'; there are channel, x"):
        filled.project("y")


def test_projection_of_several_dense_axes_in_another_order() -> None:
    axes = [hist.axis.Regular(n, 0, 1, name=name) for n, name in ((2, "p"), (3, "q"), (4, "r"))]
    rng = np.random.default_rng(14)
    filled = EFTHist(*axes, coefficients=["a", "b", "c"])
    filled.fill(*rng.uniform(-0.1, 1.1, (3, 200)), eft=rng.normal(size=(200, 10)))
    same(filled.project("r", "p").at(POINT), filled.at(POINT).project("r", "p"))


@pytest.mark.parametrize("squares", [True, False, [{}, POINT]])
def test_files_bring_it_back(tmp_path: Path, squares: Any) -> None:
    filled, _ = random_fill(9, squares=squares)
    with h5py.File(tmp_path / "h.h5", "w") as file:
        filled.write(file.create_group("h"))
    with h5py.File(tmp_path / "h.h5") as file:
        assert EFTHist.read(file["h"]) == filled
    assert pickle.loads(pickle.dumps(filled)) == filled


@pytest.mark.parametrize("kind", AXES)
def test_files_bring_every_kind_of_axis_back(tmp_path: Path, kind: str) -> None:
    axis, dtype = AXES[kind]
    filled = EFTHist(axis, coefficients=["a"]).fill(np.array([3]).astype(dtype))
    with h5py.File(tmp_path / "h.h5", "w") as file:
        filled.write(file.create_group("h"))
        again = EFTHist.read(file["h"])
    assert again.axes[0].traits == filled.axes[0].traits
    # UHI keeps a transformed axis by its edges
    np.testing.assert_allclose(again.axes[0].edges, filled.axes[0].edges, rtol=1e-12)
    assert again.axes[0].name == "v"


def test_a_file_can_be_read_without_looseleaf(tmp_path: Path) -> None:
    filled, _ = random_fill(15)
    with h5py.File(tmp_path / "h.h5", "w") as file:
        filled.write(file)
    with h5py.File(tmp_path / "h.h5") as file:
        names = json.loads(file.attrs["coefficients"])
        point = {"sm": 1.0, **{name: POINT[name] for name in names}}
        products = [
            np.prod([point[name] for name in term.decode().split("*")]) for term in file["terms"]
        ]
        found = file["sums"][...] @ products
        axes = json.loads(file["axes"][()])
    assert [axis["metadata"]["name"] for axis in axes] == ["channel", "x"]
    np.testing.assert_allclose(found, filled.at(POINT).values(flow=True), rtol=1e-12)


def test_another_file_is_refused(tmp_path: Path) -> None:
    with (
        h5py.File(tmp_path / "h.h5", "w") as file,
        pytest.raises(ValueError, match="not an EFT hist"),
    ):
        EFTHist.read(file)


def test_without_squares_there_are_no_variances() -> None:
    filled = EFTHist(X, coefficients=["a"], squares=False)
    filled.fill(np.array([0.5]), eft=np.array([[1.0, 2.0, 3.0]]))
    assert filled.at({"a": 1}).values() == [6]
    assert filled.at({"a": 1}).storage_type is hist.storage.Double


def test_numbered_categories_are_selected_too() -> None:
    axis = hist.axis.IntCategory([7, 3, 5], name="k", overflow=False)
    filled = EFTHist(axis, X, coefficients=[])
    filled.fill(np.array([3, 5, 5, 7]), np.full(4, 0.5))
    assert filled.select(k=5).at().values() == [2]
    some = filled.select(k=[5, 3]).at()
    assert (list(some.axes[0]), some.values()[:, 0].tolist()) == ([5, 3], [2, 1])


def test_fills_of_several_tiles_lose_nothing() -> None:
    size = 2 * FILL_EVENTS + 5
    rng = np.random.default_rng(4)
    x, weight = rng.uniform(-0.5, 4.5, size), rng.uniform(0, 1, size)
    label = rng.choice(["e", "m"], size)
    terms, rows = rng.normal(size=(100, 3)), rng.integers(0, 100, size)
    axes = hist.axis.StrCategory([], name="c", growth=True), hist.axis.Regular(4, 0, 4, name="x")
    one = EFTHist(*axes, coefficients=["a"], squares=False)
    one.fill(label, x, weight=weight, eft=terms, rows=rows)
    for name in ("e", "m"):
        mine = label == name
        bins = np.floor(x[mine]).astype(int).clip(-1, 4) + 1
        for term in range(3):
            expected = np.bincount(bins, weight[mine] * terms[rows[mine], term], 6)
            found = one.select(c=name).terms(flow=True)[:, term]
            np.testing.assert_allclose(found, expected, atol=1e-9)


# what numbers that are all positive, or alike, don't show


def test_scaling_of_a_bin_of_negative_weight() -> None:
    """A sample with negative weights may leave a bin below zero; its ratios keep their signs."""
    assert combine_scaling([-2, 4, 6]).tolist() == [1, -1, -3]
    for beyond in ([0, -1, 0], [0, 0, -1]):
        with pytest.raises(ValueError, match="has events, but none in the Standard Model"):
            combine_scaling(beyond)


@pytest.mark.parametrize("squares", [True, [{}, POINT]])
def test_taking_away_adds_the_variances(squares: Any) -> None:
    first, second = random_fill(21, squares=squares)[0], random_fill(22, squares=squares)[0]
    left = (first + second.scaled(-2.0)).at(POINT)
    a, b = first.at(POINT), second.at(POINT)
    np.testing.assert_allclose(left.values(), a.values() - 2 * b.values(), rtol=1e-9)
    np.testing.assert_allclose(left.variances(), a.variances() + 4 * b.variances(), rtol=1e-9)


def test_numbers_that_grow_to_either_side_add_up() -> None:
    def grown(values: list[int]) -> EFTHist:
        filled = EFTHist(hist.axis.Integer(0, 1, name="n", growth=True), coefficients=["a"])
        return filled.fill(values, eft=[[1.0, value, 2.0] for value in values])

    for one, other in (([-2, 1, 5], [1, 3]), ([-3, 0], [0, 4, 6]), ([2], [-1])):
        same((grown(one) + grown(other)).at({"a": 2.0}), grown([*one, *other]).at({"a": 2.0}))


def test_axes_may_be_turned_around() -> None:
    """Orders that are not undone by themselves: the first axis last, and the last one first."""
    axes = [hist.axis.Regular(n, 0, 1, name=name) for n, name in ((2, "p"), (3, "q"), (4, "r"))]
    rng = np.random.default_rng(23)
    filled = EFTHist(*axes, coefficients=["a", "b", "c"])
    filled.fill(*rng.uniform(-0.1, 1.1, (3, 200)), eft=rng.normal(size=(200, 10)))
    for order in ("qrp", "rpq"):
        same(filled.project(*order).at(POINT), filled.at(POINT).project(*order))


def test_a_category_counts_once_in_its_group() -> None:
    filled, _ = random_fill(24)
    both = filled.grouped("channel", {"ll": ["ee", "mm", "ee"]})
    same(both.project("x").at(POINT), filled.project("x").at(POINT))


def test_squares_at_a_point_that_is_left_out_are_not_those_of_another() -> None:
    """With b set to zero, what was kept at b = -0.5 says nothing of the events at b = 0."""
    points = [{"a": 1.0}, {"a": 2.0, "b": -0.5}, {"a": 3.0, "b": 0.5}]
    filled, (_, _, weight, terms) = random_fill(25, squares=points)
    less = filled.remapped(["a", "c"]).project()
    expected = (weight * at_events(terms, {"a": 1.0, "b": 0.0, "c": 0.0})) ** 2
    assert less.at({"a": 1.0}).view().variance == pytest.approx(expected.sum(), rel=1e-9)
    for value in (2.0, 3.0):
        with pytest.raises(LookupError, match="no squared weights were kept at"):
            less.at({"a": value})


def test_weights_that_cancel_have_no_negative_variance() -> None:
    """(1 - c)^2 is nothing at c = 1, and so is its square, whatever rounding leaves of it."""
    events = 400
    bins = hist.axis.Regular(events, 0, 1, name="x")
    scale = np.random.default_rng(26).uniform(1, 9, events)
    filled = EFTHist(bins, coefficients=["c"])
    filled.fill(bins.centers, eft=np.outer(scale, [1.0, -2.0, 1.0]) / 3)
    variances = filled.variances([{"c": 1.0}, {"c": 1 + 1e-5}])
    assert variances.min() >= 0
    assert variances.max() < 1e-12


@pytest.mark.parametrize("flow", [{"overflow": False}, {"underflow": False}, {"flow": False}])
def test_bins_beside_an_axis_of_one_flow_bin(flow: dict[str, bool]) -> None:
    """Two axes with edges, either of which may have no bin for an event."""
    axes = [hist.axis.Regular(n, 0, 1, name=name, **flow) for n, name in ((3, "p"), (2, "q"))]
    rng = np.random.default_rng(27)
    values, terms = rng.uniform(-0.3, 1.3, (2, 300)), rng.normal(size=(300, 10))
    filled = EFTHist(*axes, coefficients=["a", "b", "c"]).fill(*values, eft=terms)
    expected = hist.Hist(*axes, storage=hist.storage.Weight())
    expected.fill(*values, weight=at_events(terms, POINT))
    same(filled.at(POINT), expected)
    np.testing.assert_allclose(filled.values([POINT])[0], expected.values(), rtol=1e-9, atol=1e-9)
    assert filled.terms().shape == (3, 2, 10)


def test_events_of_every_tile_have_their_own_terms() -> None:
    events = FILL_EVENTS + 3
    filled = EFTHist(X, coefficients=["a"], squares=False)
    # only the last events move with the coefficient
    terms = np.zeros((events, 3))
    terms[:, 0], terms[-3:, 2] = 1.0, [1.0, 2.0, 4.0]
    filled.fill(np.full(events, 0.5), eft=terms)
    assert filled.terms().tolist() == [[events, 0, 7]]


def test_bins_that_grow_to_either_side_keep_what_they_had() -> None:
    def grown(*fills: list[float]) -> EFTHist:
        filled = EFTHist(hist.axis.Regular(2, 0.4, 0.5, name="x", growth=True), coefficients=["a"])
        for values in fills:
            filled.fill(values, eft=[[1.0, value, 2.0] for value in values])
        return filled

    fills = [0.41, 0.47], [0.1, 0.46], [0.9, 0.42]
    expected = hist.Hist(
        hist.axis.Regular(2, 0.4, 0.5, name="x", growth=True), storage=hist.storage.Weight()
    )
    for values in fills:
        expected.fill(values, weight=1 + 2 * np.array(values) + 8)
    same(grown(*fills).at({"a": 2.0}), expected)
    same((grown(*fills[:2]) + grown(fills[2])).at({"a": 2.0}), expected)


def test_more_points_than_are_evaluated_at_a_time() -> None:
    filled = one_bin(["c"], [1.0, -4.0, 3.0])
    c = np.linspace(-2, 2, 200_001)
    np.testing.assert_allclose(filled.values(c[:, None])[:, 0], 1 - 4 * c + 3 * c**2, atol=1e-12)
    variances = filled.variances(c[:, None])[:, 0]
    np.testing.assert_allclose(variances, (1 - 4 * c + 3 * c**2) ** 2, atol=1e-9)


@pytest.mark.parametrize(("low", "high"), [(0.42, 0.52), (0.4, 0.6)])
def test_growing_bins_that_do_not_meet_do_not_add_up(low: float, high: float) -> None:
    one, other = (
        EFTHist(hist.axis.Regular(2, a, b, name="x", growth=True), coefficients=["a"])
        for a, b in ((0.4, 0.5), (low, high))
    )
    other.fill([0.55], eft=[[1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match="axes differ"):
        one + other


def test_events_with_two_lists_of_categories() -> None:
    """Each pair of categories has its own events; groups are those of the axis that is named."""
    first, second = ["a", "b", "a", "b", "c", "a"], ["x", "x", "y", "y", "y", "z"]
    filled = EFTHist(
        hist.axis.StrCategory([], name="one", growth=True),
        hist.axis.Regular(1, 0, 1, name="x"),
        hist.axis.StrCategory([], name="other", growth=True),
        coefficients=["c"],
    )
    filled.fill(first, 0.5, second, weight=[1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    assert filled.at().values()[:, 0].tolist() == [[1, 4, 32], [2, 8, 0], [0, 16, 0]]
    groups = filled.grouped("other", {"later": ["y", "z"], "x": ["x"]})
    assert groups.at().values()[:, 0].tolist() == [[36, 1], [8, 2], [16, 0]]
    assert filled.select(other="y").at().values()[:, 0].tolist() == [4, 8, 16]


def test_histograms_that_keep_other_squares_are_not_equal() -> None:
    """Of events that no coefficient moves, the squares at every point are the same numbers."""
    kinds: list[Any] = [True, False, [{"c": 1.0}], [{"c": 2.0}], [{}, {"c": 1.0}]]
    made = [
        EFTHist(hist.axis.Regular(2, 0, 1, name="x"), coefficients=["c"], squares=squares)
        for squares in kinds
    ]
    for filled in ([], [0.2, 0.7]):
        for histogram in made:
            histogram.fill(np.array(filled))
        for i, one in enumerate(made):
            assert [one == other for other in made] == [i == j for j in range(len(made))]


def test_sums_of_a_bin_that_are_apart_are_refused() -> None:
    """The loop would write between them."""
    sums, bins, one = np.zeros((2, 6)), np.zeros(1, np.int64), np.ones(1)
    with pytest.raises(ValueError, match="should be contiguous"):
        add_terms(sums[:, ::2], bins, None, one, np.ones((1, 3)))
    assert not sums.any()
    add_terms(sums[:, :3], bins, None, one, np.ones((1, 3)))
    assert sums.tolist() == [[1, 1, 1, 0, 0, 0], [0] * 6]


@pytest.mark.parametrize("said", ["looseleaf-eft-histograms/2", None])
def test_a_file_of_another_format_is_refused(tmp_path: Path, said: str | None) -> None:
    path = tmp_path / "h.h5"
    write_histograms(path, {"x": one_bin(["c"], [1, 2, 3])}, {"made": "here"})
    histograms, metadata = read_histograms(path)
    assert (list(histograms), metadata) == (["x"], {"made": "here"})
    with h5py.File(path, "r+") as file:
        del file.attrs["format"]
        if said is not None:
            file.attrs["format"] = said
    with pytest.raises(ValueError, match=r"h\.h5: not a file of EFT histograms"):
        read_histograms(path)


def test_metadata_that_json_can_not_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_histograms(tmp_path / "h.h5", {}, {"lumi": float("nan")})
    assert not (tmp_path / "h.h5").exists()
