"""What lies beyond axes, and weights that outweigh all others, against plain arrays."""

from typing import Any

import hist
import numpy as np
import pytest
from analyses import analysis_of

from looseleaf.errors import DataFileError
from looseleaf.histograms.coverage import (
    beyond,
    cover,
    coverage,
    dominated,
    enter,
    entries,
    losses_beyond,
    losses_dominated,
    refuse_most_beyond,
    weighed,
)

EDGES = {"pt": [10, 30, 90], "eta": [-1, 0, 2]}


def covered(pt: Any, weight: Any = None) -> hist.Hist:
    out = coverage(EDGES)
    pt = np.asarray(pt, float)
    weight = np.ones(len(pt)) if weight is None else np.asarray(weight, float)
    cover(out, "pt", EDGES["pt"], pt, weight)
    return out


def test_numbers_and_weights_on_each_side_are_those_of_plain_arrays() -> None:
    rng = np.random.default_rng(1)
    pt, weight = rng.uniform(0, 100, 1000), rng.choice([-1.0, 0.0, 0.5, 3.0], 1000)
    out = coverage(EDGES)
    # as chunks are added
    for part in (slice(0, 600), slice(600, 1000)):
        more = coverage(EDGES)
        cover(more, "pt", EDGES["pt"], pt[part], weight[part])
        out = out + more
    found, counts = beyond(out, "pt"), weight != 0
    assert found.below == (counts & (pt < 10)).sum() > 50
    assert found.above == (counts & (pt >= 90)).sum() > 50
    assert found.all == counts.sum() < 1000
    outside = (pt < 10) | (pt >= 90)
    assert found.share == pytest.approx(abs(weight[outside]).sum() / abs(weight).sum())
    # another axis has nothing of this
    assert beyond(out, "eta").all == 0


def test_an_edge_belongs_to_the_bin_above_it() -> None:
    found = beyond(covered([10, 90, 9.999, 89.999]), "pt")
    assert (found.below, found.above, found.all) == (1, 1, 4)


@pytest.mark.parametrize(
    ("values", "smallest", "largest"),
    [
        ([3, 4, 50, 120], 2, 200),
        ([-0.3, -7, 50], -10, -0.2),
        ([0, 50], 0, 0.01),
        ([1e9, 50], 5e6, np.inf),
        ([-np.inf, 50], -np.inf, -5e6),
    ],
)
def test_where_values_beyond_lie(values: list[float], smallest: float, largest: float) -> None:
    found = beyond(covered(values), "pt")
    assert (found.smallest, found.largest) == (smallest, largest)


def test_a_luminosity_scales_weights_and_not_numbers() -> None:
    # one sample below and one above the axis
    total = weighed(covered([5] * 8), 0.5) + weighed(covered([100] * 2), 10.0)
    found = beyond(total + weighed(covered([50] * 6), 1.0), "pt")
    assert (found.below, found.above, found.all) == (8, 2, 16)
    assert found.share == pytest.approx((4 + 20) / (4 + 20 + 6))


def test_what_lies_beyond_is_told_by_axis() -> None:
    (loss,) = losses_beyond(covered([5, 20, 30, 95, 99]), EDGES, "leptons", "no bin holds them")
    assert (loss.kind, loss.name, loss.count, loss.of) == ("beyond the axis", "pt", 3, 5)
    assert loss.message == (
        "pt: 3 of 5 leptons are outside its edges 10 to 90 (1 below, 2 above, between 5 and 100): "
        "no bin holds them"
    )
    assert loss.allowed is None
    (loss,) = losses_beyond(covered([5]), EDGES, "leptons", "", ["pt"])
    assert loss.allowed == "allow.beyond"
    assert losses_beyond(covered([20]), EDGES, "leptons", "") == []


def test_most_beyond_is_refused_unless_it_is_allowed() -> None:
    analysis = {"name": "muon"}
    half = covered([5, 5, 50, 50])
    refuse_most_beyond(analysis_of(analysis), half, EDGES, "leptons")
    most = half + covered([95])
    message = (
        r"^analysis muon: 3 of 5 leptons, 60\.0% of their weights, are outside the edges of pt, 10 "
        r"to 90, at values between 5 and 100: are the edges in GeV\? "
        r".*allow: {beyond: \[pt\]} to the analysis$"
    )
    with pytest.raises(DataFileError, match=message):
        refuse_most_beyond(analysis_of(analysis), most, EDGES, "leptons")
    with pytest.raises(DataFileError, match="edges of pt"):
        refuse_most_beyond(
            analysis_of({**analysis, "allow": {"beyond": ["eta"]}}), most, EDGES, "leptons"
        )
    refuse_most_beyond(
        analysis_of({**analysis, "allow": {"beyond": ["pt"]}}), most, EDGES, "leptons"
    )
    # a signed eta on an axis for its magnitude
    signed = coverage(["abs_eta"])
    cover(signed, "abs_eta", [0, 2.4], [-2, -1, 1], np.ones(3))
    with pytest.raises(DataFileError, match=r"between -2 and -0\.5: is eta meant to be absolute\?"):
        refuse_most_beyond(analysis_of(analysis), signed, {"abs_eta": [0, 2.4]}, "leptons")
    # neither does what has no value lie beyond
    refuse_most_beyond(analysis_of(analysis), half + covered([np.nan] * 3), EDGES, "leptons")
    # nothing at all is another matter
    refuse_most_beyond(analysis_of(analysis), coverage(EDGES), EDGES, "leptons")


AXIS = hist.axis.StrCategory(["a", "b"], name="channel", overflow=False)


def entered(weight: Any, channel: str = "a") -> hist.Hist:
    out = entries(AXIS)
    enter(out, channel, weight=np.asarray(weight, float))
    return out


def test_one_weight_among_many_is_found() -> None:
    out = entered([1.0] * 399) + entered([4e5]) + entered([1.0] * 50, "b")
    ((index, number, part),) = dominated(out)
    assert (index, number) == ((0,), 400)
    # the largest is 4e5 of 400,399; what is told of it is no more than that
    assert 0.99 < part <= 4e5 / 400_399
    (loss,) = losses_dominated(out, "events", "channel ")
    assert loss.kind == "one weight dominates"
    assert "one weight has at least 99." in loss.message
    assert "of the sum of 400 events (channel a)" in loss.message


@pytest.mark.parametrize(
    "weight",
    [
        [1.0] * 400,
        # no weight is large, though the sum is small
        [1.0, -1.0] * 200 + [0.5],
        # two that share it
        [1.0] * 100 + [1e4, 1e4],
        # few entries
        [1.0] * 8 + [100.0],
        [],
    ],
)
def test_weights_that_no_single_one_dominates(weight: list[float]) -> None:
    assert dominated(entered(weight)) == []


def test_what_is_told_is_never_more_than_the_largest_weight() -> None:
    rng = np.random.default_rng(3)
    told = 0
    for _ in range(300):
        weight = rng.lognormal(0, rng.uniform(0, 6), 30) * rng.choice([-1, 1], 30)
        largest = abs(weight).max() / abs(weight).sum()
        found = dominated(entered(weight))
        told += len(found)
        assert all(part <= largest + 1e-12 for _, _, part in found)
        # none that makes 71% or more is missed
        assert found or largest < np.sqrt(0.5) + 1e-12
    assert 30 < told < 270


def test_a_sample_of_few_events_with_a_large_cross_section_dominates_a_bin() -> None:
    small, large = entered([1.0]), entered([1.0] * 500)
    assert dominated(small + large) == []
    assert [part > 0.9 for _, _, part in dominated(weighed(small, 1e4) + large)] == [True]
