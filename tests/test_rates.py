"""Applying rates: weights against their formula, slopes against differences, closure by hand."""

from pathlib import Path

import awkward as ak
import hist
import numpy as np
import pytest
from analyses import analysis_of
from ledgers import write_ledger

from looseleaf.application.closure import agreement, merging, totals
from looseleaf.errors import DataFileError
from looseleaf.histograms.store import write_uhi
from looseleaf.objects.rates import RateMap, predict, stacked

EMPTY = np.zeros((2, 2), bool)
RATES = np.array([0.1, 0.25, 0.0, 0.9])


def weights(
    bins: list[list[int]], tight: list[list[bool]], rates: np.ndarray = RATES
) -> np.ndarray:
    return predict(ak.Array(bins), ak.Array(tight), rates, cap=0.8).weight


def test_weights_of_one_two_and_three_failing_leptons() -> None:
    found = weights(
        [[0, 1], [0, 1], [0, 1, 0], [0, 1, 0], [0, 0]],
        [[True, False], [False, False], [False] * 3, [True, False, False], [True, True]],
    )
    a, b = 0.1 / 0.9, 0.25 / 0.75
    np.testing.assert_allclose(found, [b, -a * b, a * b * a, -a * b, 0], rtol=1e-14)


def test_rates_above_the_cap_count_as_the_cap() -> None:
    prediction = predict(
        ak.Array([[3], [3], [0]]), ak.Array([[False], [True], [False]]), RATES, 0.8
    )
    np.testing.assert_allclose(prediction.weight, [4.0, 0.0, 0.1 / 0.9])
    assert prediction.capped.tolist() == [True, False]


def test_slopes_are_the_derivatives() -> None:
    rng = np.random.default_rng(1)
    counts = rng.integers(1, 4, 200)
    bins = ak.unflatten(rng.integers(0, 3, counts.sum()), counts)
    tight = ak.unflatten(rng.random(counts.sum()) < 0.4, counts)
    for rates in (np.array([0.1, 0.25, 0.4]), np.array([0.1, 0.25, 0.0])):
        prediction = predict(bins, tight, rates, 0.8)
        for index in range(3):
            step = 1e-6
            up, down = rates.copy(), rates.copy()
            up[index] += step
            down[index] = max(down[index] - step, 0.0)
            width = up[index] - down[index]
            numeric = (
                predict(bins, tight, up, 0.8).weight - predict(bins, tight, down, 0.8).weight
            ) / width
            mine = prediction.bin == index
            exact = np.bincount(prediction.event[mine], prediction.slope[mine], minlength=200)
            np.testing.assert_allclose(exact, numeric, atol=2e-5)


def test_the_method_is_exact_in_expectation() -> None:
    # leptons pass with probability f: failing ones, weighted, predict the all-tight events
    rng = np.random.default_rng(2)
    events = 200_000
    bins = rng.integers(0, 2, (events, 2))
    tight = rng.random((events, 2)) < RATES[bins]
    prediction = predict(
        ak.from_regular(ak.Array(bins)), ak.from_regular(ak.Array(tight)), RATES, 1
    )
    observed = tight.all(axis=1).sum()
    predicted = prediction.weight.sum()
    # two leptons that aren't prompt: sum = 2 f(1-f) f/(1-f) - (1-f)^2 f^2/(1-f)^2 = f^2
    error = np.sqrt(observed + (prediction.weight**2).sum())
    assert abs(observed - predicted) < 4 * error
    assert error / observed < 0.03


def rate_map() -> RateMap:
    edges = np.array([10.0, 20.0, 50.0]), np.array([0.0, 1.2, 2.4])
    return RateMap(
        *edges, rate=np.array([[0.1, 0.2], [0.3, 0.4]]), sigma=np.full((2, 2), 0.01), empty=EMPTY
    )


def test_leptons_beyond_the_edges_take_the_last_bins() -> None:
    pt = np.array([5.0, 15.0, 20.0, 500.0, 15.0], np.float32)
    eta = np.array([0.5, 1.2, 2.4, 3.0, 0.0], np.float32)
    assert rate_map().bins(pt, eta).tolist() == [0, 1, 3, 3, 0]


def test_maps_of_two_flavours_stand_one_behind_the_other() -> None:
    offsets, rates = stacked({"Muon": rate_map(), "Electron": rate_map()})
    assert offsets == {"Muon": 0, "Electron": 4}
    assert rates.tolist() == [0.1, 0.2, 0.3, 0.4] * 2


def test_a_file_without_a_ratio_is_no_map(tmp_path: Path) -> None:
    write_uhi(tmp_path / "x.json", {"loose": hist.Hist(hist.axis.Regular(1, 0, 1))}, {})
    with pytest.raises(DataFileError, match=r"x\.json: has no ratio"):
        RateMap.from_file(str(tmp_path / "x.json"))


def test_variations_of_a_map_that_go_both_ways(tmp_path: Path) -> None:
    axes = [hist.axis.Regular(2, 10, 30, name="pt"), hist.axis.Regular(1, 0, 2, name="abs_eta")]

    def rates(*values: float) -> hist.Hist:
        out = hist.Hist(*axes, storage=hist.storage.Weight())
        out.view().value[:, 0] = values
        return out

    names = {
        "ratio": (0.2, 0.3),
        "ratio_pt1": (0.1, 0.4),
        "ratio_pt2": (0.3, 0.25),
        "ratio_be1": (0.5, 0.5),
        "ratio_prompt_up": (0.6, 0.7),
        "ratio_prompt_down": (0.8, 0.9),
        "ratio_prompt_off": (0.0, 0.0),
    }
    write_uhi(
        tmp_path / "m.json", {n: rates(*v) for n, v in names.items()}, {"empty_bins": [[1, 0]]}
    )
    found = RateMap.from_file(str(tmp_path / "m.json"))
    read = {
        name: [side.ravel().tolist() for side in sides] for name, sides in found.systematics.items()
    }
    # one of two turns alone, and a check, are none
    assert read == {"pt": [[0.1, 0.4], [0.3, 0.25]], "prompt": [[0.6, 0.7], [0.8, 0.9]]}
    assert found.empty.tolist() == [[False], [True]]


def test_uncertainties_of_map_bins_are_independent() -> None:
    axes = [
        hist.axis.StrCategory(["c"], name="channel", overflow=False),
        hist.axis.Regular(1, 0, 1, name="x"),
    ]
    predicted = hist.Hist(*axes, storage=hist.storage.Weight())
    slopes = hist.Hist(*axes, hist.axis.Integer(0, 2, name="map_bin", flow=False))
    slopes.view(flow=True)[0, :, :] = [[0, 0], [300, -200], [0, 0]]
    found = agreement({"x.predicted": predicted, "x.slopes": slopes}, "x", "c", np.array([1, 2]))
    assert found["predicted_map"] == [500.0]


def test_bins_merge_by_effective_events() -> None:
    # 20 is one event's weight, and then that of twenty
    rows = merging(np.array([20.0, 60.0, 20.0]), np.array([400.0, 60.0, 20.0]))
    assert rows.tolist() == [[1, 1, 0], [0, 0, 1]]


def test_chi2_takes_the_maps_covariance() -> None:
    axes = [
        hist.axis.StrCategory(["c"], name="channel", overflow=False),
        hist.axis.Regular(2, 0, 2, name="x"),
    ]
    observed, predicted = (hist.Hist(*axes, storage=hist.storage.Weight()) for _ in range(2))
    slopes = hist.Hist(*axes, hist.axis.Integer(0, 1, name="map_bin", flow=False))
    # the overflow of the second histogram counts in its last bin
    observed.view(flow=True)[0] = [(0, 0), (110, 100), (50, 60), (0, 0)]
    predicted.view(flow=True)[0] = [(0, 0), (100, 25), (30, 10), (14, 6)]
    slopes.view(flow=True)[0, :, 0] = [0, 1000, 300, 140]
    found = agreement(
        {"x.observed": observed, "x.predicted": predicted, "x.slopes": slopes},
        "x",
        "c",
        np.array([0.01]),
    )
    covariance = np.array([[125 + 100, 44], [44, 76 + 4.4**2]])
    covariance[0, 1] = covariance[1, 0] = 10 * 4.4
    d = np.array([10.0, 6.0])
    assert found["chi2"] == pytest.approx(d @ np.linalg.inv(covariance) @ d, rel=1e-12)
    assert found["ndf"] == 2
    assert found["predicted"] == [100, 44]
    assert found["predicted_map"] == pytest.approx([10, 4.4])


def group(observed: float, predicted: float, slope: float) -> dict[str, hist.Hist]:
    axes = [
        hist.axis.StrCategory(["c"], name="channel", overflow=False),
        hist.axis.Regular(1, 0, 1, name="x"),
    ]
    out = {}
    for name, value in (("observed", observed), ("predicted", predicted)):
        out[f"x.{name}"] = hist.Hist(*axes, storage=hist.storage.Weight())
        out[f"x.{name}"].view()[...] = [[(value, value)]]
    out["x.slopes"] = hist.Hist(*axes, hist.axis.Integer(0, 1, name="map_bin", flow=False))
    out["x.slopes"].view()[...] = slope
    number = hist.axis.Integer(0, 5, name="failing")
    out["by_failing"] = hist.Hist(axes[0], number, storage=hist.storage.Int64())
    out["capped"] = hist.Hist(hist.axis.Integer(0, 1, name="capped"), storage=hist.storage.Int64())
    return out


def test_prompt_leptons_are_taken_from_the_prediction_and_added_beside_it(tmp_path: Path) -> None:
    analysis = {
        "lumi_ifb": 2.0,
        "datasets": {"observe": ["d"], "prompt": ["w"]},
    }
    declared = {"d": {"data": True}, "w": {"data": False, "xsec_pb": 0.001}}
    found = {"d": group(120, 50, 400), "w": group(35, 5, 40)}
    for name, histograms in found.items():
        write_uhi(tmp_path / f"{name}.json", histograms, {})
        write_ledger(tmp_path / f"{name}.ledger.json", {"sum_of_weights": 1.0})
    total = totals(
        analysis_of(analysis, "application"),
        declared,
        {name: str(tmp_path / f"{name}.json") for name in declared},
        {name: str(tmp_path / f"{name}.ledger.json") for name in declared},
    )
    # 0.001 pb x 2000 /pb / 1: what is simulated counts twice, its variance four times
    table = agreement(total, "x", "c", np.array([0.01]))
    assert table["observed"] == [120]
    assert table["predicted"] == [50 - 10]
    assert table["prompt"] == [70]
    assert table["predicted_stat"] == pytest.approx([np.sqrt(50 + 4 * 5)])
    assert table["predicted_map"] == pytest.approx([0.01 * (400 - 80)])
    variance = 120 + (50 + 20) + 4 * 35 + 3.2**2
    assert table["chi2"] == pytest.approx((120 - 110) ** 2 / variance)


def test_bins_of_few_events_are_merged() -> None:
    values = np.array([2.0, 20.0, 1.0, 3.0, 12.0, 1.0])
    rows = merging(values, values)
    assert rows.tolist() == [[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1]]
    assert merging(np.array([1.0, 2.0]), np.array([1.0, 2.0])).tolist() == [[1, 1]]
