"""`divide` for histograms of any axes; its intervals against ROOT; what they cover."""

import json
import os
import runpy
import subprocess
from pathlib import Path
from typing import Any

import hist
import numpy as np
import pytest
from conftest import REPO
from scipy.stats import binom

from looseleaf.histograms import divide, write_root
from looseleaf.histograms.ratio import ONE_SIGMA, CannotDivide, NotASubset

PT = hist.axis.Variable([10, 20, 30, 50, 90], name="pt")
ETA = hist.axis.Regular(3, 0, 2.4, name="abs_eta")
ROOT_PYTHON = REPO / ".venv/root/bin/python"

Axes = tuple[Any, ...]


def pair(*axes: Any, weights: bool = True, size: int = 20000) -> tuple[hist.Hist, hist.Hist]:
    """Tight and loose of leptons within the axes and beyond, filled from the same leptons."""
    rng = np.random.default_rng(8)
    columns = [
        rng.choice(list(axis), size)
        if not axis.traits.continuous
        else rng.uniform(axis.edges[0] - 0.2, axis.edges[-1] + 0.2, size)
        for axis in axes
    ]
    weight = rng.choice([0.5, 1.0, 3.0], size) if weights else None
    passed = rng.random(size) < 0.3
    storage = hist.storage.Weight() if weights else hist.storage.Int64()
    tight, loose = (hist.Hist(*axes, storage=storage) for _ in range(2))
    loose.fill(*columns, weight=weight)
    tight.fill(*(c[passed] for c in columns), weight=None if weight is None else weight[passed])
    return tight, loose


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize(
    "axes",
    [
        (PT,),
        (PT, ETA),
        (PT, ETA, hist.axis.Boolean(name="b")),
        (
            hist.axis.StrCategory(["e", "mu"], name="flavour"),
            ETA,
            hist.axis.Integer(0, 4, name="n"),
        ),
        (
            hist.axis.IntCategory([11, 13], name="id"),
            hist.axis.Regular(2, 0, 1, name="phi", circular=True),
            hist.axis.Regular(2, 0, 1, name="x", overflow=False),
            hist.axis.Regular(3, 1, 1000, name="log", transform=hist.axis.transform.log),
        ),
    ],
    ids=lambda axes: f"{len(axes)}D",
)
def test_any_number_of_axes_of_any_kind(axes: Axes, flow: bool) -> None:
    tight, loose = pair(*axes)
    ratio = divide(tight, loose, flow=flow)
    assert ratio.value.shape == (loose.axes.extent if flow else loose.axes.size)
    all_of_them, passing = loose.values(flow=flow), tight.values(flow=flow)
    assert np.array_equal(ratio.empty, all_of_them == 0)
    assert np.isfinite(ratio.upper).sum() > 3
    expected = np.divide(
        passing, all_of_them, where=all_of_them > 0, out=np.full(passing.shape, np.nan)
    )
    np.testing.assert_array_equal(ratio.value, expected)
    back = ratio.to_hist()
    assert back.axes == loose.axes
    np.testing.assert_array_equal(back.values(flow=flow), np.nan_to_num(expected))
    half = np.nan_to_num(ratio.upper - ratio.lower) / 2
    np.testing.assert_array_equal(back.variances(flow=flow), half**2)


def test_flow_bins_are_divided_and_not_lost() -> None:
    axis = hist.axis.Regular(2, 0, 2, name="x")
    tight, loose = (hist.Hist(axis, storage=hist.storage.Int64()) for _ in range(2))
    loose.fill([-1] * 4 + [0] * 2 + [1] * 5 + [9] * 10)
    tight.fill([-1] * 1 + [0] * 1 + [1] * 1 + [9] * 1)
    assert divide(tight, loose).value.tolist() == [0.5, 0.2]
    assert divide(tight, loose, flow=True).value.tolist() == [0.25, 0.5, 0.2, 0.1]


def test_the_interval_follows_the_storage() -> None:
    for storage, interval in (
        (hist.storage.Int64(), "clopper-pearson"),
        (hist.storage.Double(), "clopper-pearson"),
        (hist.storage.Unlimited(), "clopper-pearson"),
        (hist.storage.AtomicInt64(), "clopper-pearson"),
        (hist.storage.Weight(), "weighted"),
    ):
        tight, loose = (hist.Hist(PT, storage=storage) for _ in range(2))
        loose.fill([15, 15, 25])
        tight.fill([15])
        assert divide(tight, loose).interval == interval
    # weights on one side are weights
    plain = hist.Hist(PT, storage=hist.storage.Int64())
    assert divide(plain, loose).interval == "weighted"
    # and a sum of counts is still counts, which boost-histogram no longer knows
    assert divide(plain + plain, plain + plain).interval == "clopper-pearson"


def by_flavour(categories: dict[Any, int], **options: bool) -> hist.Hist:
    """Counts by a category axis before an axis of two bins, the second bin with twice as many."""
    kind = (
        hist.axis.StrCategory if isinstance(next(iter(categories)), str) else hist.axis.IntCategory
    )
    out = hist.Hist(
        kind(list(categories) if not options.get("growth") else [], name="flavour", **options),
        hist.axis.Regular(2, 0, 2, name="x"),
        storage=hist.storage.Int64(),
    )
    for category, number in categories.items():
        out.fill([category] * number, 0)
        out.fill([category] * 2 * number, 1)
    return out


@pytest.mark.parametrize("options", [{}, {"growth": True}])
@pytest.mark.parametrize("names", [("e", "mu", "tau"), (11, 13, 15)])
def test_categories_are_matched_by_name(names: tuple[Any, ...], options: dict[str, bool]) -> None:
    e, mu, tau = names
    loose = by_flavour({e: 10, mu: 20, tau: 40}, **options)
    # in another order, and one of them missing
    tight = by_flavour({mu: 5, e: 1}, **options)
    ratio = divide(tight, loose)
    assert ratio.value.tolist() == [[0.1, 0.1], [0.25, 0.25], [0, 0]]
    assert ratio.upper[2, 0] > 0
    assert list(ratio.to_hist().axes[0]) == list(names)
    flow = divide(tight, loose, flow=True)
    assert flow.value[:3, 1:3].tolist() == ratio.value.tolist()
    assert flow.value.shape == loose.axes.extent


def test_growing_numerator_and_fixed_denominator() -> None:
    ratio = divide(by_flavour({"mu": 5}, growth=True), by_flavour({"e": 10, "mu": 20}), flow=True)
    assert ratio.value[:2, 1].tolist() == [0, 0.25]
    # the denominator's overflow of no category
    assert ratio.empty[2].all()


def test_a_category_of_the_numerator_only_is_refused() -> None:
    with pytest.raises(
        NotASubset, match=r"axis flavour: categories \['mu'\] are in the numerator only.*\['e'\]"
    ):
        divide(by_flavour({"e": 1, "mu": 1}), by_flavour({"e": 2}))


def test_entries_of_no_category_cannot_stand_for_a_missing_one() -> None:
    tight = by_flavour({"e": 1})
    # not one of its categories: in its overflow, where it has lost its name
    tight.fill("mu", 0)
    with pytest.raises(CannotDivide, match=r"axis flavour: .*entries outside its categories.*'mu'"):
        divide(tight, by_flavour({"e": 2, "mu": 2}))


@pytest.mark.parametrize(
    ("axes", "others", "message"),
    [
        ((PT,), (PT, ETA), "the numerator has 1 axes, the denominator 2"),
        ((PT,), (ETA,), "axis abs_eta of the denominator is 'pt' in the numerator"),
        (
            (PT, hist.axis.Regular(3, 0, 2.5, name="abs_eta")),
            (PT, ETA),
            r"axis abs_eta: \[0\. .*2\.5 +\] in the numerator, \[0\. .*2\.4\] in the denominator",
        ),
        (
            (hist.axis.Regular(2, 0, 1),),
            (hist.axis.Regular(3, 0, 1),),
            r"axis 0: \[0\. , 0\.5, 1\. \] in the numerator",
        ),
        (
            (hist.axis.Variable([1, np.inf], name="x"),),
            (hist.axis.Variable([2, np.inf], name="x"),),
            r"axis x: \[ 1\., inf\] in the numerator",
        ),
        (
            (hist.axis.Integer(0, 2, name="n"),),
            (hist.axis.IntCategory([0, 1], name="n"),),
            r"axis n: \[0\., 1\., 2\.\] in the numerator, \[0, 1\] in the denominator",
        ),
    ],
)
def test_axes_that_differ_are_refused_with_both(axes: Axes, others: Axes, message: str) -> None:
    with pytest.raises(CannotDivide, match=message):
        divide(hist.Hist(*axes), hist.Hist(*others))


def test_different_flow_bins_matter_where_flow_is_asked_for() -> None:
    tight, loose = (
        hist.Hist(hist.axis.Regular(2, 0, 1, name="x", overflow=o)) for o in (True, False)
    )
    loose.fill([0.1, 0.9])
    tight.fill([0.9])
    assert divide(tight, loose).value.tolist() == [0, 1]
    with pytest.raises(CannotDivide, match="axis x: numerator and denominator have different flow"):
        divide(tight, loose, flow=True)


def test_the_same_edges_by_another_computation() -> None:
    edges = [0.1 * number for number in range(11)]
    loose = hist.Hist(hist.axis.Regular(10, 0, 1, name="x"))
    tight = hist.Hist(hist.axis.Variable(edges, name="x", label="another label"))
    assert edges != list(loose.axes[0].edges)
    loose.fill([0.55, 0.55])
    tight.fill([0.55])
    assert divide(tight, loose).value[5] == 0.5


def test_axes_without_an_entry() -> None:
    axis = hist.axis.StrCategory([], name="flavour", growth=True)
    assert divide(hist.Hist(axis, PT), hist.Hist(axis, PT)).value.shape == (0, 4)
    overflowing = hist.Hist(hist.axis.Variable([2, np.inf], name="x"))
    assert divide(overflowing, overflowing).empty.tolist() == [True]


def test_storages_without_counts_or_squares_are_refused() -> None:
    means = hist.Hist(PT, storage=hist.storage.Mean())
    with pytest.raises(CannotDivide, match="the denominator has means"):
        divide(hist.Hist(PT), means)
    weights = hist.Hist(PT, storage=hist.storage.Double())
    weights.fill([15, 15], weight=0.3)
    with pytest.raises(CannotDivide, match=r"the numerator has weights.*hist\.storage\.Weight"):
        divide(weights, hist.Hist(PT))


def test_unknown_interval() -> None:
    with pytest.raises(ValueError, match="'poisson' is not one of clopper-pearson, wilson"):
        divide(hist.Hist(PT), hist.Hist(PT), "poisson")


@pytest.mark.parametrize("axes", [(PT,), (PT, ETA)], ids=["TH1", "TH2"])
@pytest.mark.parametrize("weights", [False, True], ids=["counts", "weights"])
def test_intervals_are_those_of_root(tmp_path: Path, axes: Axes, weights: bool) -> None:
    if not ROOT_PYTHON.exists():
        pytest.skip(
            "ROOT isn't installed (250 MB): python3 -m venv .venv/root && "
            ".venv/root/bin/pip install --no-deps --require-hashes -r .ci/root.txt"
        )
    tight, loose = pair(*axes, weights=weights, size=2000)
    path = tmp_path / "pair.root"
    # ROOT's own counts are doubles with no squares
    sides = {"passing": tight, "total": loose}
    if not weights:
        for name, side in sides.items():
            sides[name] = hist.Hist(*axes, storage=hist.storage.Double())
            sides[name].view(flow=True)[...] = side.view(flow=True)
    write_root(path, sides)
    answer = subprocess.run(
        [ROOT_PYTHON, "-W", "ignore", REPO / "tests/support/root_oracle.py", path],
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    root = json.loads(answer.stdout)
    methods = {"weighted": "weighted", "uncorrelated": "uncorrelated"}
    # TEfficiency knows normal errors alone for weights, and its normal is our weighted
    methods |= {"normal": "weighted"} if weights else {m: m for m in ("clopper-pearson", "wilson")}
    for name, method in methods.items():
        ratio = divide(tight, loose, method, flow=True)
        # with fewer, the weighted interval is wider than ROOT's
        failing = loose.values(flow=True) - tight.values(flow=True)
        enough = np.minimum(tight.values(flow=True), failing) > 40
        known = enough if method == "weighted" else ~ratio.empty
        assert known.sum() >= 4
        for side in ("value", "down", "up"):
            np.testing.assert_allclose(
                getattr(ratio, side)[known],
                np.array(root[name][side])[known],
                rtol=1e-9,
                atol=1e-12,
                err_msg=f"{name} {side}",
            )


@pytest.fixture(scope="session")
def coverage() -> dict[str, Any]:
    return runpy.run_path(str(REPO / "benchmarks/intervals.py"))


@pytest.mark.parametrize(
    ("method", "rate", "outcomes", "value"),
    [
        ("clopper-pearson", 0.1, [0, 1, 2], 0.929809),
        ("clopper-pearson", 0.3, [2, 3, 4], 0.700423),
        ("clopper-pearson", 0.5, [3, 4, 5, 6, 7], 0.890625),
        ("wilson", 0.1, [1], 0.387420),
        ("wilson", 0.3, [2, 3, 4], 0.700423),
        ("wilson", 0.5, [4, 5, 6], 0.656250),
    ],
)
def test_exact_coverage_of_ten_entries(
    coverage: dict[str, Any], method: str, rate: float, outcomes: list[int], value: float
) -> None:
    found = coverage["exact"](method, 10, np.array([rate]))
    assert found == pytest.approx(binom.pmf(outcomes, 10, rate).sum(), abs=1e-12)
    assert found == pytest.approx(value, abs=1e-6)


def test_wilson_covers_what_it_says_on_average_and_clopper_pearson_everywhere(
    coverage: dict[str, Any],
) -> None:
    rates = np.linspace(0, 1, 2002)[1:-1]
    for n, least, mean in ((10, 0.3856, 0.6939), (100, 0.3697, 0.6835)):
        wilson = coverage["exact"]("wilson", n, rates)
        assert (wilson.min(), wilson.mean()) == pytest.approx((least, mean), abs=1e-4)
        assert coverage["exact"]("clopper-pearson", n, rates).min() >= ONE_SIGMA


@pytest.mark.slow
def test_toys_cover_what_is_promised(coverage: dict[str, Any]) -> None:
    rows = list(coverage["table"](1000, np.random.default_rng(2)))
    assert [row for row in rows if not row.kept] == []


def test_edges_off_by_more_than_rounding_are_others() -> None:
    # a two-thousandth of the narrowest bin
    shifted = hist.axis.Variable([10, 20.005, 30, 50, 90], name="pt")
    with pytest.raises(CannotDivide, match="axis pt: "):
        divide(hist.Hist(shifted), hist.Hist(PT))


def weighed_bins(*bins: tuple[float, float]) -> hist.Hist:
    """Sums of weights and of their squares, bin by bin."""
    out = hist.Hist(hist.axis.Regular(len(bins), 0, 1, name="x"), storage=hist.storage.Weight())
    out.view()[...] = bins
    return out


@pytest.mark.parametrize("interval", ["weighted", "uncorrelated"])
def test_a_denominator_below_zero_is_no_rate(interval: str) -> None:
    ratio = divide(weighed_bins((1, 1), (-1, 1)), weighed_bins((-2, 6), (-2, 6)), interval)
    assert ratio.empty.tolist() == [True, True]
    assert np.isnan([*ratio.value, *ratio.lower, *ratio.upper]).all()


def test_the_interval_of_a_rate_above_one_holds_it() -> None:
    # as a subtraction can leave: few effective entries, and more that pass than are left
    ratio = divide(weighed_bins((3, 0.1)), weighed_bins((2, 1)), "weighted")
    assert ratio.value.tolist() == [1.5]
    assert ratio.lower[0] < 1.5 <= ratio.upper[0]
