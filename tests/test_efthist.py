"""EFT histograms against closed forms and the reference numbers of the specification."""

import hist
import numpy as np
import pytest

from looseleaf.topcoffea.efthist import EFTHist, quadratic_terms, quartic_terms, remapped
from looseleaf.topcoffea.store import eft_histograms, flat

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


@pytest.mark.parametrize(("number", "quadratic", "quartic"), [(0, 1, 1), (1, 3, 5), (2, 6, 15)])
def test_numbers_of_terms(number: int, quadratic: int, quartic: int) -> None:
    names = [f"c{index}" for index in range(number)]
    assert len(quadratic_terms(names)) == quadratic
    assert len(quartic_terms(names)) == quartic


def test_order_of_terms_is_lower_triangular() -> None:
    assert quadratic_terms(["a", "b"]) == [
        ("sm", "sm"),
        ("a", "sm"),
        ("a", "a"),
        ("b", "sm"),
        ("b", "a"),
        ("b", "b"),
    ]


def random_fill(seed: int, events: int = 500):
    """A histogram of random events over a channel and x, with the events themselves."""
    rng = np.random.default_rng(seed)
    x, terms = rng.uniform(-0.2, 1.2, events), rng.normal(size=(events, 10)).astype(np.float32)
    channel, weight = rng.choice(["ee", "mm"], events), rng.uniform(0.5, 2, events)
    filled = EFTHist(
        hist.axis.StrCategory(["ee", "mm"], name="channel", overflow=False),
        hist.axis.Regular(4, 0, 1, name="x"),
        coefficients=["a", "b", "c"],
    ).fill(channel, x, weight=weight, eft=terms)
    return filled, (channel, x, weight, terms)


POINT = {"a": 0.7, "b": -1.3, "c": 2.1}


def at_events(terms: np.ndarray, point: dict[str, float]) -> np.ndarray:
    c = [1, point["a"], point["b"], point["c"]]
    monomials = np.array([c[i] * c[j] for i in range(4) for j in range(i + 1)])
    return terms.astype(float) @ monomials


def test_evaluated_histogram_is_the_histogram_of_evaluated_events() -> None:
    filled, (channel, x, weight, terms) = random_fill(1)
    expected = hist.Hist(*filled.axes, storage=hist.storage.Weight())
    expected.fill(channel, x, weight=weight * at_events(terms, POINT))
    found = filled.at(POINT)
    # flow included: a fifth of the events lies beyond the axis
    assert expected.view(flow=True).value[:, [0, -1]].any()
    np.testing.assert_allclose(
        found.values(flow=True), expected.values(flow=True), rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(
        found.variances(flow=True), expected.variances(flow=True), rtol=1e-9, atol=1e-9
    )


def test_bins_are_parabolas() -> None:
    filled, _ = random_fill(2)

    def f(value: float) -> np.ndarray:
        return filled.at({"a": value}).values()

    left = f(2) + f(-2) - 2 * f(0)
    np.testing.assert_allclose(left, 4 * (f(1) + f(-1) - 2 * f(0)), atol=1e-10)


def test_plain_events_do_not_depend_on_the_coefficients() -> None:
    filled = EFTHist(X, coefficients=["a"]).fill(np.array([0.5, 0.5]), weight=np.array([2.0, 3.0]))
    for point in ({}, {"a": 17.0}):
        assert filled.at(point).values() == [5]
        assert filled.at(point).variances() == [13]


def test_unknown_coefficient_is_named() -> None:
    with pytest.raises(LookupError, match="no Wilson coefficient 'd' here; there are a, b, c"):
        random_fill(3, 1)[0].at({"d": 1.0})


def test_wrong_number_of_terms_is_refused() -> None:
    with pytest.raises(ValueError, match="6 terms are expected for 2 coefficients"):
        EFTHist(X, coefficients=["a", "b"]).fill(np.array([0.5]), eft=np.ones((1, 3)))


def test_remapping() -> None:
    assert remapped(np.array([[1, 2, 3]]), ["a"], ["b", "a"]).tolist() == [[1, 0, 0, 2, 0, 3]]
    assert remapped(np.array([[1, 2, 3, 4, 5, 6]]), ["a", "b"], ["b"]).tolist() == [[1, 4, 6]]


def test_remapped_events_evaluate_to_the_same() -> None:
    _, (_, _, _, terms) = random_fill(4)
    other = remapped(terms, ["a", "b", "c"], ["c", "a", "x", "b"])
    filled = EFTHist(X, coefficients=["c", "a", "x", "b"]).fill(np.full(500, 0.5), eft=other)
    expected = at_events(terms, POINT).sum()
    np.testing.assert_allclose(filled.at({**POINT, "x": 5.0}).values(), [expected], rtol=1e-6)


def test_addition_and_scaling() -> None:
    first, second = random_fill(5)[0], random_fill(6)[0]
    total = (first + second).scaled(3.0).at(POINT)
    a, b = first.at(POINT), second.at(POINT)
    np.testing.assert_allclose(total.values(), 3 * (a.values() + b.values()), rtol=1e-9)
    np.testing.assert_allclose(total.variances(), 9 * (a.variances() + b.variances()), rtol=1e-9)
    with pytest.raises(ValueError, match="coefficients differ: a, b, c and a"):
        first + EFTHist(*first.axes, coefficients=["a"])


def test_adding_leaves_the_summands_alone() -> None:
    first, second = random_fill(7)[0], random_fill(8)[0]
    before = first.at(POINT).values().copy()
    _ = first + second
    np.testing.assert_array_equal(first.at(POINT).values(), before)


def test_plain_histograms_bring_it_back() -> None:
    filled, _ = random_fill(9)
    plain = flat({"ttH.x": filled})
    assert sorted(plain) == ["ttH.x.squares", "ttH.x.sums"]
    assert list(plain["ttH.x.sums"].axes["term"])[:3] == ["sm*sm", "a*sm", "a*a"]
    back = eft_histograms(plain)["ttH.x"]
    assert back.coefficients == ("a", "b", "c")
    assert back.at(POINT) == filled.at(POINT)


def test_without_squares_there_are_no_variances() -> None:
    filled = EFTHist(X, coefficients=["a"], squares=False)
    filled.fill(np.array([0.5]), eft=np.array([[1.0, 2.0, 3.0]]))
    assert filled.at({"a": 1}).values() == [6]
    assert filled.at({"a": 1}).storage_type is hist.storage.Double
