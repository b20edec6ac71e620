"""Expressions, working points and columns."""

from typing import Any

import awkward as ak
import numpy as np
import pytest

from looseleaf.errors import ConfigError
from looseleaf.objects.branches import first_present
from looseleaf.objects.expressions import Expression
from looseleaf.objects.leptons import WorkingPoints

COLUMNS = {"x": np.array([1.0, 2.0, 3.0]), "y": np.array([3.0, 2.0, 1.0])}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x + 2 * y", [7, 6, 5]),
        ("1 < x <= 2", [False, True, False]),
        ("(x > 1) & (y > 1)", [False, True, False]),
        ("x > 2 or y > 2", [True, False, True]),
        ("not x > 1", [True, False, False]),
        ("~(x > 1)", [True, False, False]),
        ("abs(x - y)", [2, 0, 2]),
        ("maximum(x, y) ** 2", [9, 4, 9]),
        ("((x > 1) & (y > 1)) == (x > 5)", [True, False, True]),
        ("-x / y", [-1 / 3, -1, -3]),
    ],
)
def test_expression_gives_what_numpy_gives(text: str, expected: list[float]) -> None:
    np.testing.assert_allclose(Expression(text)(COLUMNS), expected, rtol=1e-15)


def test_expression_on_jagged_arrays() -> None:
    arrays = {"pt": ak.Array([[10.0, 30.0], [], [20.0]]), "eta": ak.Array([[0.1, -2.5], [], [1.0]])}
    result = Expression("pt > 15 and abs(eta) < 2.4")(arrays)
    assert result.to_list() == [[False, False], [], [True]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pt[pt > 15]", [[30.0], [], [20.0]]),
        ("count(pt[abs(eta) < 2.4])", [1, 0, 1]),
        ("sum(pt)", [40.0, 0.0, 20.0]),
        ("any(pt > 25)", [True, False, False]),
        ("all(pt > 5)", [True, True, True]),
        ("first(pt)", [10.0, None, 20.0]),
        ("max(pt) - min(pt)", [20.0, None, 0.0]),
        ("pt / scalar(met)", [[10.0, 30.0], [], [5.0]]),
    ],
)
def test_expression_on_the_list_of_each_event(text: str, expected: list[Any]) -> None:
    arrays = {
        "pt": ak.Array([[10.0, 30.0], [], [20.0]]),
        "eta": ak.Array([[0.1, -2.5], [], [1.0]]),
        "met": ak.Array([1.0, 2.0, 4.0]),
    }
    assert Expression(text)(arrays).to_list() == expected
    assert Expression("first(pt) > 15").keeps(arrays).tolist() == [False, False, True]
    assert Expression("not first(pt) > 15").keeps(arrays).tolist() == [True, False, False]
    for wrong in ("count(met)", "scalar(pt)", "pt[met > 1]", "pt[eta]", "pt[count(pt) > 1]"):
        with pytest.raises(ConfigError, match="each"):
            Expression(wrong)(arrays)


@pytest.mark.parametrize(
    "text",
    [
        "first(x, 1)",
        "x[1:]",
        "__import__('os').system('id')",
        "x.__class__",
        "x[0]",
        "(lambda: 1)()",
        "[y for y in x]",
        "'text'",
        "open(x)",
        "x if y else x",
        "abs(x, out=y)",
        "f'{x}'",
        "x == 2 & y == 0",
        "x & y == 1",
    ],
)
def test_expression_refuses_everything_but_arithmetic(text: str) -> None:
    with pytest.raises(ConfigError, match="expression"):
        Expression(text)


def test_expression_names_its_columns() -> None:
    assert Expression("abs(pt - x) < 3 * eta").names == {"pt", "x", "eta"}


POINTS = WorkingPoints(
    {
        "Muon": {
            "loose": {"cuts": ["pt > 10", "iso < 0.4"]},
            "tight": {"like": "loose", "cuts": ["iso < 0.1"]},
        }
    }
)


def test_a_working_point_includes_the_one_it_builds_on() -> None:
    muons = ak.zip({"pt": [[5.0, 20.0, 20.0]], "iso": [[0.05, 0.05, 0.2]]})
    assert POINTS.passes("Muon", "loose", muons).to_list() == [[False, True, True]]
    assert POINTS.passes("Muon", "tight", muons).to_list() == [[False, True, False]]
    assert POINTS.columns("Muon", "tight") == {"Muon_pt", "Muon_iso"}


def test_first_of_the_alternatives_that_is_there() -> None:
    assert first_present("MET_pt|PFMET_pt", {"PFMET_pt"}) == "PFMET_pt"
    assert first_present("MET_pt|PFMET_pt", {"PFMET_pt", "MET_pt"}) == "MET_pt"
    assert first_present("MET_pt|PFMET_pt", set()) is None
