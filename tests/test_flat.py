"""Collections as flat arrays: cuts, distances and sums are those of lists."""

from typing import Any

import awkward as ak
import numpy as np
import pytest
from coffea.nanoevents.methods import nanoaod

from looseleaf.objects.chunk import Branches
from looseleaf.objects.evaluation import Undecided
from looseleaf.objects.events import Selection
from looseleaf.objects.expressions import Expression
from looseleaf.objects.flat import Flat
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.loops import cutflow, farther, number_of, places_of

NAN = float("nan")


@pytest.fixture
def muons() -> Any:
    rng = np.random.default_rng(5)
    counts = rng.poisson(1.2, 2000)
    size = int(counts.sum())
    return ak.unflatten(
        ak.zip(
            {
                "pt": rng.exponential(20, size).astype("f4"),
                "ratio": rng.choice(np.array([0, 1, 2], "f4"), size),
                "id": rng.integers(0, 200, size).astype("u1"),
            }
        ),
        counts,
    )


@pytest.mark.parametrize(
    "cut",
    [
        "pt > 10",
        "(id + id > 255) | (pt / 3 < 2.1)",
        "pt * ratio / ratio > 15 and id != 7",
        "pt >= max(pt)",
        "where(ratio > 1, pt, 2 * pt) > 25.1",
    ],
)
def test_a_cut_on_flat_objects_is_that_on_lists(muons: Any, cut: str) -> None:
    points = WorkingPoints({"Muon": {"mine": {"cuts": [cut]}}})
    counter, flat = Undecided(["Muon.mine"]), Flat(muons)
    found = points.passes("Muon", "mine", flat, counter)
    columns = {name: muons[name] for name in muons.fields}
    assert found.tolist() == ak.flatten(Expression(cut)(columns)).to_list()
    assert 0 < found.sum() < len(flat)
    # 0/0 is undecided, whether the leptons are flat or not
    undecided = "/ ratio" in cut
    assert bool(counter.counts) == undecided
    again = Undecided(["Muon.mine"])
    assert ak.flatten(points.passes("Muon", "mine", muons, again)).to_list() == found.tolist()
    assert again.counts == counter.counts


def test_flat_objects_of_chosen_events_are_theirs(muons: Any) -> None:
    """Lists that begin anywhere, or lie apart."""
    for chosen in (slice(100, 300), np.arange(2000) % 3 == 0, muons.pt > 10):
        part = muons[chosen]
        flat = Flat(part)
        assert isinstance(flat["pt"], np.ndarray)
        assert flat["pt"].tolist() == ak.flatten(part.pt).to_list()
        assert flat.counts.tolist() == ak.num(part).to_list()
        hard = flat["pt"] > 20
        assert flat.number(hard).tolist() == ak.sum(part.pt > 20, axis=1).to_list()
        assert flat.listed(hard).to_list() == (part.pt > 20).to_list()


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_the_largest_value_of_an_event(kind: str) -> None:
    lists = ak.Array([[9, 3, 5, NAN], [], [NAN], [], [2, 7, 1], [NAN, 4, 8], [NAN, NAN]])
    flat = Flat(ak.values_astype(ak.zip({"pt": lists}), kind))
    chosen = flat["pt"] != 9
    some = Selection.of(Branches(None), flat, chosen)
    found = some.largest("pt", some.take(flat["pt"]) != 7)
    np.testing.assert_array_equal(found, [5, 0, NAN, 0, 2, 8, NAN])
    assert found.dtype == np.float64


def directions(rng: np.random.Generator, size: int) -> Any:
    pt, eta = rng.exponential(20, size).astype("f4"), rng.normal(0, 2, size).astype("f4")
    phi = rng.uniform(-np.pi, np.pi, size).astype("f4")
    phi[:4] = np.float32(np.pi), -np.float32(np.pi), 7, NAN
    return ak.zip(
        {"pt": pt, "eta": eta, "phi": phi, "mass": 0 * pt},
        with_name="PtEtaPhiMLorentzVector",
        behavior=nanoaod.behavior,
    )


def test_distances_are_those_of_coffea_to_the_bit() -> None:
    """For some limits: a pair is farther than the next smaller distance, and not than its own."""
    rng = np.random.default_rng(3)
    one, other = directions(rng, 50_000), directions(rng, 50_000)
    other = other[rng.permutation(len(other))]
    expected, event = ak.to_numpy(one.delta_r(other)), np.arange(50_000)
    sides = [tuple(ak.to_numpy(side[name]) for name in ("eta", "phi")) for side in (one, other)]
    assert np.isnan(expected).any()
    limits = rng.choice(expected[np.isfinite(expected)], 200)
    for limit in [*limits, *np.nextafter(limits, np.float32(0))]:
        found = farther(event, event, sides[0], event, event, sides[1], limit)
        assert np.array_equal(found, expected > limit)


def test_lists_that_do_not_fit_are_refused() -> None:
    """A loop in machine code would read and write beyond its arrays."""
    marks, every = np.ones(5, bool), np.ones(2, bool)
    assert places_of(np.array([0, 2, 5]), marks, every)[1].tolist() == [0, 0, 1, 1, 1]
    assert number_of(np.array([0, 2, 5]), marks).tolist() == [2, 3]
    for offsets in ([0, 10, 5], [0, 6, 6], [0, 3, 4], [-1, 3, 5]):
        with pytest.raises(ValueError, match="as many objects"):
            places_of(np.array(offsets), marks, every)
        with pytest.raises(ValueError, match="as many objects"):
            number_of(np.array(offsets), marks)
    for offsets in ([0, 5], [0, 1, 2, 5]):
        with pytest.raises(ValueError, match="as many objects"):
            places_of(np.array(offsets), marks, every)


def test_chosen_objects_are_counted_by_event() -> None:
    chosen = np.array([True, False, True, True, False])
    assert number_of(np.array([0, 0, 3, 3, 5]), chosen).tolist() == [0, 2, 0, 1]
    assert number_of(np.array([0]), np.zeros(0, bool)).tolist() == []


def test_a_cutflow_counts_who_has_passed_all_cuts_so_far() -> None:
    first, second = np.array([True, True, False, True]), np.array([True, False, True, True])
    weights = np.array([1.0, 2.0, 4.0, -8.0])
    counts, sums, squares = cutflow([first, second], weights)
    assert counts.tolist() == [4, 3, 2]
    assert sums.tolist() == [-1, -5, -7]
    assert squares.tolist() == [85, 69, 65]
    assert [of.tolist() for of in cutflow([], weights)] == [[4], [-1], [85]]
    with pytest.raises(ValueError, match="inhomogeneous"):
        cutflow([first, second[:2]], weights)


def test_what_is_away_from_every_lepton_of_its_event() -> None:
    rng = np.random.default_rng(4)
    leptons, jets = (
        ak.unflatten(directions(rng, int(counts.sum())), counts)
        for counts in (rng.poisson(0.8, 3000), rng.poisson(3, 3000))
    )
    expected = ak.all(jets.metric_table(leptons) > 1.0, axis=2)
    every = [
        Selection.of(Branches(None), flat, np.ones(len(flat), bool))
        for flat in (Flat(leptons), Flat(jets))
    ]
    found = every[0].distant(every[1], 1.0)
    assert found.tolist() == ak.flatten(expected).to_list()
    assert 0 < found.sum() < len(found)
