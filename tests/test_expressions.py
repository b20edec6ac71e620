"""Expressions held against a slow evaluator of the same grammar in plain Python."""

import math
from collections.abc import Mapping
from typing import Any

import awkward as ak
import numpy as np
import pytest
import scalar
from conftest import MANY
from hypothesis import event as noted
from hypothesis import given
from hypothesis import strategies as st

from looseleaf.errors import LooseleafError
from looseleaf.objects.evaluation import possible
from looseleaf.objects.expressions import Expression

WIDTHS = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
          "float32", "float64"]  # fmt: skip
FLAT, LISTS = ("a", "b", "c"), ("Jet_x", "Jet_y")
KINDS = {"b": "b", "i": "i", "u": "i"}
LITERALS = ["0", "1", "2", "3", "7", "255", "-1", "0.5", "2.4", "25.1", "1e3", "300", "True"]


def kind_of(dtype: np.dtype[Any]) -> str:
    return KINDS.get(dtype.kind, f"f{8 * dtype.itemsize}")


def values_of(name: str) -> st.SearchStrategy[Any]:
    """Values of a type: small ones, and those at its ends."""
    dtype = np.dtype(name)
    if dtype.kind == "b":
        return st.booleans()
    if dtype.kind == "f":
        small = st.sampled_from([0.0, 1.0, -1.0, 0.5, 2.4, 25.1, 30.0, math.nan, math.inf])
        every = st.floats(width=8 * dtype.itemsize)
        return (small | every).map(lambda v: float(dtype.type(v)))
    ends = np.iinfo(dtype)
    least = max(-3, int(ends.min))
    return st.integers(least, 5) | st.integers(int(ends.min), int(ends.max))


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    """Some events: three columns of numbers, and two of lists of one collection."""
    number = draw(st.integers(0, 4))
    counts = draw(st.lists(st.integers(0, 3), min_size=number, max_size=number))
    total, plain = sum(counts), draw(st.booleans())
    out: dict[str, Any] = {}
    for name, size in [*((n, number) for n in FLAT), *((n, total) for n in LISTS)]:
        width = draw(st.sampled_from(WIDTHS))
        drawn = draw(st.lists(values_of(width), min_size=size, max_size=size))
        array = np.array(drawn, width)
        if name in LISTS:
            out[name] = ak.unflatten(ak.Array(array), np.array(counts, np.int64))
        else:
            out[name] = array if plain else ak.Array(array)
    return out


def numbers(depth: int, lists: bool) -> st.SearchStrategy[str]:
    """Expressions that give numbers: for each event, or for each object of its list."""
    names = st.sampled_from([*FLAT, *LISTS, *LISTS] if lists else FLAT)
    leaves = names | st.sampled_from(LITERALS)
    if lists:
        leaves |= st.sampled_from([f"scalar({name})" for name in FLAT])
    if depth == 0:
        return leaves
    inner, condition = numbers(depth - 1, lists), conditions(depth - 1, lists)
    made = [
        leaves,
        st.tuples(inner, st.sampled_from("+-*/&|"), inner).map(" ".join).map("({})".format),
        st.tuples(inner, st.sampled_from(["-1", "0", "2", "3", "0.5"])).map(
            lambda pair: f"(({pair[0]}) ** {pair[1]})"
        ),
        inner.map("-{}".format),
        inner.map("abs({})".format),
        st.tuples(st.sampled_from(["sqrt", "exp", "log", "sin", "cos"]), inner).map(
            lambda pair: f"{pair[0]}({pair[1]})"
        ),
        st.tuples(inner, inner).map(lambda pair: f"hypot({', '.join(pair)})"),
        st.tuples(st.sampled_from(["minimum", "maximum"]), st.lists(inner, min_size=2, max_size=3))
        .map(lambda pair: f"{pair[0]}({', '.join(pair[1])})"),
        st.tuples(condition, inner, inner).map(lambda t: f"where({', '.join(t)})"),
        condition,
    ]  # fmt: skip
    if not lists:
        of = objects(depth - 1)
        made.append(
            st.tuples(st.sampled_from(["sum", "count", "first", "max", "min"]), of).map(
                lambda pair: f"{pair[0]}({pair[1]})"
            )
        )
    return st.one_of(made)


def objects(depth: int) -> st.SearchStrategy[str]:
    """Lists of numbers, whole or chosen from."""
    plain = st.sampled_from(LISTS)
    chosen = st.tuples(plain, conditions(depth, True), plain).map(
        lambda t: f"{t[0]}[({t[1]}) & ({t[2]} == {t[2]})]"
    )
    return plain | chosen


def conditions(depth: int, lists: bool) -> st.SearchStrategy[str]:
    """Expressions that give a yes or no."""
    inner = numbers(max(depth - 1, 0), lists)
    relations = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
    compared = st.tuples(inner, relations, inner).map(lambda t: f"({t[0]}) {t[1]} ({t[2]})")
    if depth == 0:
        return compared.map("({})".format)
    each = conditions(depth - 1, lists)
    made = [
        compared,
        st.tuples(inner, relations, inner, relations, inner).map(
            lambda t: f"({t[0]}) {t[1]} ({t[2]}) {t[3]} ({t[4]})"
        ),
        st.tuples(each, st.sampled_from(["&", "|", "and", "or"]), each).map(" ".join),
        each.map("not {}".format),
        each.map("~{}".format),
        st.tuples(each, each, each).map(lambda t: f"where({', '.join(t)})"),
    ]
    if not lists:
        made.append(
            st.tuples(st.sampled_from(["any", "all"]), conditions(depth - 1, True)).map(
                lambda t: f"{t[0]}({t[1]} | (Jet_x != Jet_x))"
            )
        )
    return st.one_of(made).map("({})".format)


def events_of(table: Mapping[str, Any]) -> list[dict[str, tuple[str, Any]]]:
    """The table event by event, in Python's numbers."""
    kinds = {
        name: kind_of(np.asarray(ak.flatten(column, axis=None)).dtype)
        for name, column in table.items()
    }
    size = len(table["a"])
    return [{n: (kinds[n], table[n].tolist()[i]) for n in table} for i in range(size)]


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    if expected is None or found is None:
        return found is expected
    value = expected.value
    if value == scalar.UNDECIDED:
        return found is False
    if math.isnan(value):
        return math.isnan(found)
    if expected.rough:
        return math.isclose(found, value, rel_tol=1e-4, abs_tol=1e-30) or not math.isfinite(value)
    return found == value


def answer(text: str, table: Mapping[str, Any]) -> list[Any] | None:
    """What the slow evaluator makes of an expression; None if it depends on last digits.

    Raises `scalar.Refused` for integers of more than 64 bits.
    """
    try:
        return [scalar.evaluate(text, one) for one in events_of(table)]
    except scalar.Skip:
        return None


def attempted(text: str, table: Mapping[str, Any], keeps: bool) -> tuple[Any, str]:
    """What an expression gives, or why it is refused."""
    expression = Expression(text)
    try:
        return (expression.keeps if keeps else expression)(table), ""
    except LooseleafError as problem:
        return None, str(problem)


def has_large(table: Mapping[str, Any]) -> bool:
    """Whether a column has integers that no signed one can have, which may be compared only."""
    columns = [ak.to_numpy(ak.flatten(column, axis=None)) for column in table.values()]
    return any(c.dtype == np.uint64 and (c >= 2**63).any() for c in columns)


@pytest.mark.slow
@MANY
@given(table=tables(), text=numbers(3, False) | numbers(2, True) | conditions(3, False))
def test_an_expression_gives_what_a_slow_evaluator_gives(table: Any, text: str) -> None:
    found, refused = attempted(text, table, keeps=False)
    if "& and | take" in refused or (refused and has_large(table)):
        noted("refused")
        return
    try:
        expected = answer(text, table)
    except scalar.Refused:
        assert "64 bits" in refused
        return
    if expected is None:
        noted("depends on last digits")
        return
    assert refused == ""
    found = found.tolist() if hasattr(found, "tolist") else found
    found = found if isinstance(found, list) else [found] * len(expected)
    assert all(map(same, found, expected)), (text, found, expected)


@pytest.mark.slow
@MANY
@given(table=tables(), text=conditions(3, False))
def test_a_cut_keeps_what_it_surely_wants_and_tells_of_the_rest(table: Any, text: str) -> None:
    kept, refused = attempted(text, table, keeps=True)
    names = Expression(text).names
    if not names or "64 bits" in refused or "2^63" in refused or "& and | take" in refused:
        return
    events = events_of(table)
    expected = answer(text, table)
    if expected is None:
        return
    undecided = [one is not None and one.value == scalar.UNDECIDED for one in expected]
    finite = [
        all(map(math.isfinite, np.ravel([one[name][1] for name in names if name in FLAT])))
        and all(math.isfinite(v) for name in names if name in LISTS for v in one[name][1])
        for one in events
    ]
    lost = sum(u and f for u, f in zip(undecided, finite, strict=True))
    if lost:
        assert f"in {lost} of {len(events)} events" in refused
    else:
        assert refused == ""
        assert kept.tolist() == [one is not None and one.value is True for one in expected]


@MANY
@given(st.text() | st.text("abxy01.+-*/&|~<>=()[], \n\\'\"#@:e"))
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    try:
        expression = Expression(text)
        if expression.names <= {"a", "b", "x", "y"}:
            column = ak.Array([[1.0, 2.0], []])
            expression({"a": np.array([1, 2]), "b": np.array([0.5, 2.0]), "x": column, "y": column})
    except LooseleafError:
        pass


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a == 2", ["a == 2"]),
        ("(a == 2) & (abs(b) < 2.5) & (1 < c <= 3)", ["a == 2", "abs(b) < 2.5", "1 < c <= 3"]),
        ("a == 2 and (b > 1 and c > 1)", ["a == 2", "b > 1", "c > 1"]),
        # neither has to be passed, or isn't a comparison
        ("(a == 2) | (b > 1)", []),
        ("(a == 2) & ((b > 1) | (c > 1)) & ~(c > 9)", ["a == 2"]),
        ("not (a == 2 and b > 1)", []),
        ("a & b", []),
        ("(a & 3) == 1", ["(a & 3) == 1"]),
        ("(a\n == 2) & (b > 1)", ["a == 2", "b > 1"]),
    ],
)
def test_comparisons_that_have_to_be_passed(text: str, parts: list[str]) -> None:
    found = Expression(text).conjuncts
    assert [one.text for one in found] == parts


def test_what_a_cut_may_still_keep() -> None:
    columns = {"a": np.array([1.0, 2.0, np.nan, 2.0]), "b": np.array([1.0, 1.0, 1.0, 0.0])}
    cuts = [Expression("a == 2"), Expression("b > 0"), Expression("1 < 2")]
    # the third isn't decided
    assert possible(cuts, columns, 4).tolist() == [False, True, True, False]
    assert possible([], columns, 4).tolist() == [True] * 4
    assert possible([Expression("1 > 2")], columns, 4).tolist() == [False] * 4
