"""Expressions, working points and columns."""

import re
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
from coffea.nanoevents import NanoEventsFactory

from looseleaf.errors import ConfigError, DataFileError
from looseleaf.losses import Loss
from looseleaf.objects.branches import first_present
from looseleaf.objects.chunk import Branches
from looseleaf.objects.evaluation import Undecided, taken_losses
from looseleaf.objects.events import Selection, counted_momentum
from looseleaf.objects.expressions import Expression
from looseleaf.objects.flat import Flat
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.needed_branches import cut_columns
from looseleaf.processing.feed import SkimmedNanoAOD

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
        ("hypot(3 > 2.4, 2 < 1) + x", [2, 3, 4]),
        ("x * (300 > 255) ** -1", [1, 2, 3]),
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
        # a value that isn't needed may be missing
        ("where(count(pt) > 0, first(pt), -1)", [10.0, -1.0, 20.0]),
        ("where(first(pt) > 15, met, 9)", [9.0, None, 4.0]),
        ("(met == 2) | (max(pt) > 25)", [True, True, False]),
        ("(met > 3) and max(pt) > 15", [False, False, True]),
        ("(met < 3) & (max(pt) > 15)", [True, None, False]),
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("n - m", [-2, 253, 0]),
        ("n - m > 0", [False, True, False]),
        ("n * 10", [10, 2550, 0]),
        ("-n", [-1, -255, 0]),
        ("abs(n - m)", [2, 253, 0]),
        ("n ** 2 + m", [4, 65027, 0]),
        ("2 ** -n", [0.5, 2.0**-255, 1]),
        ("n / m", [1 / 3, 127.5, None]),
        ("sum(counts)", [510, 0, 1]),
        ("sum(counts > 200)", [2, 0, 0]),
        ("(n > 0) + (m > 0)", [2, 2, 0]),
        ("sqrt(n > 0)", [1, 1, 0]),
        ("n & 1", [1, 1, 0]),
        ("(n | 2) == 3", [True, False, False]),
        ("~n", [-2, -256, -1]),
        ("s < 128", [True, True, True]),
        ("s > -300", [True, True, True]),
        ("s == 18446744073709551615", [False, False, False]),
        ("s < 18446744073709551615", [True, True, True]),
        ("e == 18446744073709551615", [True, False, False]),
        ("e > 9223372036854775807", [True, True, False]),
        ("e > -1", [True, True, True]),
        ("e > s", [True, True, True]),
        ("e & 1", [1, 0, 1]),
        ("minimum(n, m, 1)", [1, 1, 0]),
        ("maximum(n, m, s)", [3, 255, 127]),
        ("where(n > m, n, s)", [-128, 255, 127]),
    ],
)
def test_integers_are_exact_whatever_their_width(text: str, expected: list[Any]) -> None:
    columns = {
        "n": np.array([1, 255, 0], np.uint8),
        "m": np.array([3, 2, 0], np.uint32),
        "s": np.array([-128, 5, 127], np.int8),
        "e": np.array([2**64 - 1, 2**63, 2**53 + 1], np.uint64),
        "counts": ak.values_astype(ak.Array([[255, 255], [], [1]]), np.uint8),
    }
    for wrap in (lambda value: value, ak.Array):
        found = Expression(text)({name: wrap(column) for name, column in columns.items()}).tolist()
        known = [(a, b) for a, b in zip(found, expected, strict=True) if b is not None]
        assert len(known) >= 2
        assert all(a == b for a, b in known), found


@pytest.mark.parametrize(
    "text",
    ["e + 1", "big + 1", "big * big", "-big - 3", "2 ** 64", "abs(-big - 1)", "big ** 2",
     "sum(lists)", "e * 0", "e | s"],
)  # fmt: skip
def test_integers_that_would_wrap_are_refused(text: str) -> None:
    columns = {
        "e": np.array([2**63], np.uint64),
        "s": np.array([-1]),
        "n": np.array([1], np.uint8),
        "big": np.array([2**63 - 1]),
        "lists": ak.Array([[2**63 - 1, 1]]),
    }
    with pytest.raises(ConfigError, match=r"64 bits|2\^63"):
        Expression(text)(columns)


def test_a_quantity_is_not_written_over() -> None:
    c = np.array([100.0, 5.0])
    columns = {"a": np.array([1.0, 40.0]), "b": np.array([30.0, 2.0]), "c": c}
    assert Expression("maximum(a, b, c)")(columns).tolist() == [100, 40]
    assert Expression("minimum(c, a, b)")(columns).tolist() == [1, 2]
    assert c.tolist() == [100, 5]


def test_float_columns_keep_their_precision() -> None:
    columns = {"x": np.array([25.1, 16777216], np.float32), "n": np.array([0, 1])}
    assert Expression("x > 25.1")(columns).tolist() == [False, True]
    assert Expression("x == 25.1")(ak.Array(columns)).tolist() == [True, False]
    # with an integer in double precision
    assert Expression("x + n")(columns).tolist() == [float(np.float32(25.1)), 16777217]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("abs(x, y)", "abs takes one argument"),
        ("sqrt(x, y)", "sqrt takes one argument"),
        ("exp()", "exp takes one argument"),
        ("hypot(x)", "hypot takes two arguments"),
        ("hypot(x, y, x)", "hypot takes two arguments"),
        ("where(x > 1, y)", "where takes three arguments"),
        ("maximum(x)", "maximum takes two arguments or more"),
        ("count(x, y)", "count takes one argument"),
        (" + ".join(["x"] * 20_000), "it is too long, or nested too deeply"),
        (" + ".join(["x"] * 600), "operations are nested more than 500 deep"),
        ("(" * 3000 + "x" + ")" * 3000, "brackets are nested too deeply"),
        ("-" * 20_000 + "x", "it is too long, or nested too deeply"),
        ("x > \0", "can't be read here"),
        ("x > \ud800", "it has characters that aren't valid text"),
        ("9" * 5000, "can't be read here"),
        ("x < 18446744073709551616", "this integer has more than 64 bits"),
        ("1j", "this is not allowed in an expression"),
        ("", "can't be read here"),
    ],
)
def test_an_expression_that_cannot_be_is_refused_with_a_sentence(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as problem:
        Expression(text)
    assert len(str(problem.value)) < 700


def test_an_expression_of_many_terms() -> None:
    assert Expression(" + ".join(["x"] * 490))(COLUMNS).tolist() == [490, 980, 1470]
    text = " and ".join(["x > 1"] * 3000)
    assert Expression(text)(COLUMNS).tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x & y", "& and | take a yes or no on both sides, or integers"),
        ("where(x, y, 1)", "the first argument of where should be a yes or no"),
        ("~x", "~ takes a yes or no, or integers"),
        ("x[x > 1]", r"\[\] takes a yes or no for each object"),
    ],
)
def test_an_operation_without_meaning_is_refused(text: str, message: str) -> None:
    for columns in (COLUMNS, ak.Array(COLUMNS)):
        with pytest.raises(ConfigError, match=message):
            Expression(text)(columns)


def test_what_is_no_number_is_told_unless_it_decides_nothing() -> None:
    columns = {"a": np.array([0.0, 4.0, -4.0, 1.0]), "n": np.array([0, 1, 2, 4])}
    for cut, kept in {
        # 0/0 in an event that fails anyway, or passes anyway
        "(n > 0) & (a / n > 2)": [False, True, False, False],
        "n == 0 or a / n > 2": [True, True, False, False],
        "not (n > 0 and not a / n > 2)": [True, True, False, False],
        "where(n > 0, a, 1) / where(n > 0, n, 1) > 2": [False, True, False, False],
        # infinite is a number that compares
        "1 / n > 2": [True, False, False, False],
    }.items():
        assert Expression(cut).keeps(columns).tolist() == kept, cut
    for cut, number in {
        "a / n > 2": 1,
        "not a / n > 2": 1,
        "sqrt(a) >= 0": 1,
        "log(a) != 5": 1,
        "(log(a) > 0) | (sqrt(a - 2) > 5)": 3,
    }.items():
        with pytest.raises(DataFileError, match=f"in {number} of 4 events; change the expression"):
            Expression(cut).keeps(columns)


def test_what_is_allowed_is_counted_and_not_kept() -> None:
    columns = {"a": np.array([0.0, 4.0, -4.0]), "n": np.array([0.0, 1.0, 2.0])}
    counter = Undecided(["ratio", "Muon.tight"])
    assert counter.keeps("ratio", [Expression("not a / n > 2")], columns).tolist() == [
        False, False, True,
    ]  # fmt: skip
    # of no interest where other cuts fail
    among = np.array([False, True, True])
    Undecided().keeps("other", [Expression("a / n > 2")], columns, among)
    with pytest.raises(DataFileError, match=r"other: 'a / n > 2' has no finite value .* in 1 of 3 "
                       r"events; .*allow\.not_finite: \[other\] in the analysis"):  # fmt: skip
        counter.keeps("other", [Expression("a / n > 2")], columns)
    counter.keeps("ratio", [Expression("a / n > 2")], columns)
    assert taken_losses(counter.counted()) == [
        Loss("not finite", "ratio", 2, None, "events",
             "ratio has no finite value in 2 events; the cut or histogram ratio leaves them out",
             "allow.not_finite")
    ]  # fmt: skip


def test_events_without_a_value_are_told() -> None:
    jets = ak.Array([[40.0], [], [20.0], [], []])
    columns = {"Jet_pt": jets, "nJet": ak.num(jets)}
    counter, among = Undecided(), np.array([True, True, True, True, False])
    veto = Expression("max(Jet_pt) < 30")
    assert counter.keeps("veto", [veto], columns, among).tolist() == [0, 0, 1, 0, 0]
    counter.keeps("veto", [veto], columns, among)
    # another cut decides these
    handled = [Expression("(nJet == 0) | (max(Jet_pt) < 30)")]
    assert counter.keeps("handled", handled, columns, among).tolist() == [0, 1, 1, 1, 1]
    counter.keeps("beside", [Expression("nJet > 0"), veto], columns, among)
    assert taken_losses(counter.counted()) == [
        Loss(
            "no value", "veto", 4, None, "events",
            "veto drops 4 events in which 'max(Jet_pt) < 30' has no value, since a list is empty; "
            "if they should stay, say so, as in (nJet == 0) | (max(Jet_pt) < 30)",
        )
    ]  # fmt: skip


def test_what_a_column_has_is_not_told_again() -> None:
    columns = {"a": np.array([np.nan, np.inf, 0.0]), "n": np.array([1, 2, 3])}
    assert Expression("a / n < 5").keeps(columns).tolist() == [False, False, True]
    assert Expression("a - a == 0").keeps(columns).tolist() == [False, False, True]
    assert Expression("not a > 5").keeps(columns).tolist() == [False, False, True]


def test_an_object_that_may_or_may_not_pass() -> None:
    columns = ak.Array({"pt": [[4.0, 0.0], [], [9.0]], "err": [[1.0, 0.0], [], [1.0]]})
    with pytest.raises(DataFileError, match="in 1 of 3 events"):
        Expression("count(pt[err / pt < 0.5]) >= 1").keeps(columns)
    with pytest.raises(DataFileError, match="in 1 of 3 events"):
        Expression("all(err / pt < 0.5)").keeps(columns)
    # one that surely passes is enough
    assert Expression("any(err / pt < 0.5)").keeps(columns).tolist() == [True, False, True]


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


@pytest.mark.parametrize("cut", ["tightCharge", "tightCharge + 1", "pt", "2", "max(pt) > 3"])
def test_a_working_point_says_yes_or_no(cut: str) -> None:
    points = WorkingPoints({"Muon": {"loose": {"cuts": ["pt > 10", cut]}}}, "points.yaml")
    muons = ak.zip({"pt": [[5.0, 20.0], [30.0]], "tightCharge": [[2, 0], [2]]})
    message = f"Muon.loose: the cut {cut!r} should give a yes or no for each object"
    with pytest.raises(ConfigError, match=re.escape(message)):
        points.passes("Muon", "loose", muons)
    good = WorkingPoints({"Muon": {"loose": {"cuts": ["tightCharge - 3 < 0", "not pt < 10"]}}})
    records = ak.zip({"pt": [[5.0, 20.0]], "tightCharge": ak.values_astype([[2, 0]], np.uint8)})
    assert good.passes("Muon", "loose", records).to_list() == [[False, True]]


def test_leptons_on_which_a_point_cannot_decide() -> None:
    points = WorkingPoints({"Muon": {"loose": {"cuts": ["pt > 10", "err / iso < 0.2"]}}})
    muons = ak.zip(
        {"pt": [[5.0, 20.0], [30.0]], "err": [[0.0, 0.0], [1.0]], "iso": [[0.0, 0.0], [10.0]]}
    )
    # of two leptons 0/0 the one below 10 GeV fails anyway
    with pytest.raises(DataFileError, match=r"Muon\.loose: .* in 1 of 3 leptons"):
        points.passes("Muon", "loose", muons)
    counter = Undecided(["Muon.loose"])
    assert points.passes("Muon", "loose", muons, counter).to_list() == [[False, False], [True]]
    # another role of the same point loses no other leptons
    assert points.passes("Muon", "loose", muons, counter).to_list() == [[False, False], [True]]
    assert counter.counts == {"Muon.loose": {"leptons": 1}}


def test_a_momentum_at_which_a_lepton_cannot_count() -> None:
    declared = {"tight": {"cuts": ["iso < 0.1"], "cone_pt": "pt * (1 + 1 / ratio)"}}
    points = WorkingPoints({"Muon": declared})
    muons = ak.zip(
        {
            "pt": [[10.0, 20.0, 30.0], [40.0], [np.nan]],
            "iso": [[0.2, 0.2, 0.0], [0.2], [0.2]],
            "ratio": [[1.0, 0.0, 0.0], [0.0], [1.0]],
        }
    )
    loose = ak.Array([[True, True, True], [False], [True]])
    tight = points.passes("Muon", "tight", muons)
    roles = {"momentum": "cone", "tight": "tight"}
    # of three without a value the third is tight, the fourth isn't loose, the transform told of
    # the last
    with pytest.raises(DataFileError, match=r"Muon\.tight\.cone_pt: .* in 1 of 3 leptons"):
        counted_momentum(points, "Muon", roles, muons, loose, tight, Undecided())
    counter = Undecided(["Muon.tight.cone_pt"])
    found = counted_momentum(points, "Muon", roles, muons, loose, tight, counter)
    assert found.to_list()[0] == [20.0, np.inf, 30.0]
    assert counter.counts == {"Muon.tight.cone_pt": {"leptons": 1}}
    (loss,) = taken_losses(counter.counted())
    assert (loss.kind, loss.unit) == ("not finite", "leptons")
    raw = {**roles, "momentum": "raw"}
    found = counted_momentum(points, "Muon", raw, muons, loose, tight, Undecided())
    assert found.to_list()[0] == [10.0, 20.0, 30.0]


def test_what_is_computed_of_branches_is_told() -> None:
    """The transform tells of branches, and not of what is made of them."""
    every = np.ones(3, bool)
    columns = {
        "lep0_pt": np.array([1.0, np.inf, 2.0]),
        "m_z": np.array([np.nan, 91.0, 90.0]),
        "met": np.array([np.nan, 1.0, 2.0]),
    }
    counter = Undecided(["hardest", "z"])
    counter.numbers("hardest", Expression("lep0_pt"), columns, every)
    assert counter.keeps("z", [Expression("m_z > 80")], columns, every).tolist() == [0, 1, 1]
    counter.numbers("missing", Expression("met"), columns, every)
    assert counter.counts == {"hardest": {"events": 1}, "z": {"events": 1}}
    with pytest.raises(DataFileError, match=r"far: .* in 1 of 3 events"):
        counter.numbers("far", Expression("lep0_pt"), columns, every)


def test_a_cut_that_is_the_same_for_all_is_refused() -> None:
    message = "the cut '1 < 2' is the same for every event; remove it"
    with pytest.raises(ConfigError, match=message):
        Expression("1 < 2").keeps({})
    points = WorkingPoints({"Muon": {"loose": {"cuts": ["1 < 2"]}}})
    with pytest.raises(ConfigError, match="is the same for every object; remove it"):
        points.passes("Muon", "loose", ak.zip({"pt": [[5.0]]}))


@pytest.fixture
def few(tmp_path: Path) -> Any:
    """Four NanoEvents of which collections have a field or two."""
    number = np.arange(4)
    columns: dict[str, Any] = {
        name: number.astype(np.uint32) for name in ("run", "luminosityBlock")
    }
    columns |= {"event": number.astype(np.uint64), "nPhoton": number.astype(np.int32)}
    columns |= {
        f"{name}_pt": number.astype(np.float32)
        for name in ("PuppiMET", "GenMET", "CaloMET", "RawMET", "ChsMET", "TkMET")
    }
    columns["Tau"] = ak.zip({"pt": ak.Array([[31.0, 10.0], [], [40.0, 50.0, 2.0], [35.0]])})
    path = tmp_path / "few.root"
    with uproot.recreate(path) as file:
        kinds = {
            name: ak.type(value).content if isinstance(value, ak.Array) else value.dtype
            for name, value in columns.items()
        }
        file.mktree("Events", kinds).extend(columns)
    return NanoEventsFactory.from_root(
        {str(path): "Events"}, schemaclass=SkimmedNanoAOD, mode="virtual"
    ).events()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("PuppiMET_pt", [0, 1, 2, 3]),
        ("GenMET_pt + CaloMET_pt", [0, 2, 4, 6]),
        ("RawMET_pt > 1", [False, False, True, True]),
        ("ChsMET_pt * TkMET_pt", [0, 1, 4, 9]),
        ("nPhoton >= 2", [False, False, True, True]),
        ("nTau", [2, 0, 3, 1]),
        ("count(Tau_pt[Tau_pt > 30]) >= 2", [False, False, True, False]),
        ("count(Tau_pt[Tau_pt > 30])", [1, 0, 2, 1]),
        ("max(Tau_pt)", [31, None, 50, 35]),
    ],
)
def test_branches_of_collections_that_are_not_whole(
    few: Any, text: str, expected: list[Any]
) -> None:
    assert Expression(text)(Branches(few)).to_list() == expected


def test_the_type_of_a_power_is_not_that_of_its_values() -> None:
    base, exponents = np.array([2, 2]), np.array([3, 1])
    for kind, result in ((np.int32, np.float64), (np.uint8, np.int64), (bool, np.int64)):
        columns = {"a": base.astype(np.int32), "b": exponents.astype(kind)}
        found = Expression("a ** b")(columns)
        assert found.dtype == result
        assert found.tolist() == (base ** exponents.astype(kind).astype(int)).tolist()
    assert Expression("a ** 2")({"a": base}).dtype == np.int64
    assert Expression("a ** b")({"a": base, "b": np.array([-1, -2])}).tolist() == [0.5, 0.25]


def test_a_collection_is_no_branch(few: Any) -> None:
    with pytest.raises(ConfigError, match="'Tau' is not a numeric branch"):
        Expression("count(Tau) > 1")(Branches(few))


def test_no_value_is_no_loss_and_no_number_is_one(few: Any) -> None:
    every = np.ones(4, bool)
    one = Selection.of(Branches(few), Flat(ak.zip({"one": [[1], [1], [1], [1]]})), every)
    found = one.observable("hardest", "max(Tau_pt)", Undecided(), every)
    assert found.tolist()[2:] == [50, 35]
    assert np.isnan(found[1])
    with pytest.raises(DataFileError, match=r"ratio: .* in 1 of 4 leptons.*\[ratio\]"):
        one.observable("ratio", "PuppiMET_pt / RawMET_pt", Undecided(), every)
    with pytest.raises(ConfigError, match=r"r: 'log\(0\)' is the same for every lepton, and not"):
        one.observable("r", "log(0)", Undecided(), every)
    counter = Undecided(["ratio"])
    one.observable("ratio", "PuppiMET_pt / RawMET_pt", counter, every)
    # of no interest where no trigger has fired
    one.observable("other", "PuppiMET_pt / RawMET_pt", Undecided(), np.array([0, 1, 1, 1], bool))
    assert counter.counts == {"ratio": {"leptons": 1}}


def test_a_counter_is_read_by_itself() -> None:
    assert cut_columns(["nPhoton > 1 and PV_npvs > 3"]) == {"nPhoton|Photon_pt", "PV_npvs"}


def test_first_of_the_alternatives_that_is_there() -> None:
    assert first_present("MET_pt|PFMET_pt", {"PFMET_pt"}) == "PFMET_pt"
    assert first_present("MET_pt|PFMET_pt", {"PFMET_pt", "MET_pt"}) == "MET_pt"
    assert first_present("MET_pt|PFMET_pt", set()) is None
