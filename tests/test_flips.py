"""Charge flips measured in Z decays: closed forms, toys, and demo events with known flips."""

import json
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import yaml
from conftest import REPO
from samples import sample, skimmed

from looseleaf.errors import DataFileError
from looseleaf.fakerate.flips import FlipProcessor, estimate, measure
from looseleaf.histograms.store import write_uhi
from looseleaf.objects.columns import analysis_columns
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.names import FLIP_CORRECTION
from looseleaf.processing.fileset import chunks_of, from_manifest
from looseleaf.processing.runner import process_task
from looseleaf.topcoffea.flips import FlipMap

POINTS = WorkingPoints(yaml.safe_load((REPO / "config/working_points.yaml").read_text()))
ANALYSIS: dict[str, Any] = {
    "name": "flips",
    "kind": "flips",
    "title": "Flips",
    "electron": "tight_simple",
    "triggers": [],
    # the demo's pairs have no narrow peak
    "mass": {"peak": [20, 400], "beside": 5},
    "binning": {"pt": [10, 40, 60], "abs_eta": [0, 1.479, 2.5]},
    "datasets": {"measure": ["z"]},
}
TRUTH = np.array([0.004, 0.05, 0.01, 0.08])
NONE = np.zeros((4, 4))


def equal(p: np.ndarray) -> np.ndarray:
    """The probability that two charges are seen as equal, by the bins of both."""
    return p[:, None] * (1 - p) + p * (1 - p[:, None])


def test_one_bin_is_solved_by_hand() -> None:
    # 2 p (1 - p) = 0.18 has the root 0.1
    found = estimate([[820.0]], [[180.0]], ([[0.0]], [[0.0]]), 1.0)
    assert found.probability == pytest.approx([0.1], abs=1e-6)
    # of a binomial, less that all pairs are taken as known
    slope = 1000 * 2 * (1 - 2 * 0.1)
    assert np.sqrt(found.covariance[0, 0]) == pytest.approx(np.sqrt(180) / slope, rel=1e-4)


def test_expected_counts_give_back_what_they_were_made_of() -> None:
    total = np.random.default_rng(1).uniform(1e4, 5e4, (4, 4))
    beneath = np.full((4, 4), 300.0), np.full((4, 4), 100.0)
    same = total * equal(TRUTH)
    peak = total - same + 0.5 * beneath[0], same + 0.5 * beneath[1]
    found = estimate(*peak, beneath, 0.5)
    np.testing.assert_allclose(found.probability, TRUTH, rtol=1e-4)
    assert found.chi2 < 1e-3
    assert found.ndf == 6


def test_pulls_of_toys() -> None:
    rng = np.random.default_rng(2)
    total = np.full((4, 4), 20_000)
    beneath = np.full((4, 4), 400.0), np.full((4, 4), 200.0)
    pulls, p_values = [], []
    for _ in range(200):
        same = rng.binomial(total, equal(TRUTH))
        bands = tuple(rng.poisson(counts) for counts in beneath)
        under = [rng.poisson(0.5 * counts) for counts in beneath]
        found = estimate(total - same + under[0], same + under[1], bands, 0.5)
        pulls.append((found.probability - TRUTH) / np.sqrt(np.diag(found.covariance)))
        p_values.append(found.chi2)
    number = np.size(pulls)
    assert abs(np.mean(pulls)) < 3 / np.sqrt(number)
    assert abs(np.std(pulls) - 1) < 3 / np.sqrt(2 * number)
    # chi2 of ten cells and four probabilities
    assert np.mean(p_values) == pytest.approx(6, abs=3 * np.sqrt(12 / 200))


def test_a_bin_without_pairs_is_named() -> None:
    total = np.zeros((4, 4))
    total[:3, :3] = 100
    with pytest.raises(ValueError, match=r"no pair has an electron in the bins \[3\]"):
        estimate(total, NONE, (NONE, NONE), 1.0)


def test_injected_flips_are_measured_and_applied(tmp_path: Path) -> None:
    injected = {"barrel": 0.02, "endcap": 0.08}
    z = sample("dy", 40_000, files=1)
    z["sample"]["charge_flips"] = injected
    columns = sorted(analysis_columns(ANALYSIS, z, POINTS))
    fileset = from_manifest("z", skimmed(tmp_path, "z", {"z": z}, columns), {"data": False})
    processor = FlipProcessor(ANALYSIS, POINTS)
    accumulated = process_task(processor, chunks_of(fileset, 20_000), fileset.metadata)[0]
    write_uhi(tmp_path / "z.json", accumulated, {})
    outputs = tmp_path / "flips.correctionlib.json", tmp_path / "flips.json"
    measure(ANALYSIS, [str(tmp_path / "z.json")], *outputs)
    found = json.loads(outputs[1].read_text())
    value, sigma = np.array(found["probability"]), np.array(found["sigma"])
    truth = np.array([injected["barrel"], injected["endcap"]])
    assert (sigma < 0.3 * value).all()
    assert np.sum(((value - truth) / sigma) ** 2) < 13.3  # p = 0.01 of four
    # topcoffea reads the map as a file
    applied = FlipMap.from_file(outputs[0], FLIP_CORRECTION)
    pt, eta = np.array([20.0, 50.0, 500.0]), np.array([0.5, 2.0, 1.0])
    expected = [value[0, 0], value[1, 1], value[1, 0]]
    np.testing.assert_allclose(applied.probability(pt, eta), expected)
    errors = np.array([sigma[0, 0], sigma[1, 1], sigma[1, 0]])
    up, down = (applied.probability(pt, eta, name) for name in ("stat_up", "stat_down"))
    np.testing.assert_allclose(up, expected + errors)
    np.testing.assert_allclose(down, np.maximum(expected - errors, 0))
    electrons = ak.zip({"pt": ak.Array([[20.0, 50.0], []]), "eta": ak.Array([[-0.5, 2.0], []])})
    weights = applied.weights({"Electron": electrons}, "stat_up")
    np.testing.assert_allclose(weights, [np.sum(up[:2] / (1 - up[:2])), 0.0])


def test_counts_that_do_not_fill_the_map(tmp_path: Path) -> None:
    z = sample("dy", 200, files=1)
    columns = sorted(analysis_columns(ANALYSIS, z, POINTS))
    fileset = from_manifest("z", skimmed(tmp_path, "z", {"z": z}, columns), {"data": False})
    wide = {**ANALYSIS, "binning": {"pt": [10, 400, 600], "abs_eta": [0, 2.5]}}
    processor = FlipProcessor(wide, POINTS)
    counted = process_task(processor, chunks_of(fileset, 200), fileset.metadata)[0]
    write_uhi(tmp_path / "z.json", counted, {})
    outputs = tmp_path / "c.json", tmp_path / "s.json"
    with pytest.raises(DataFileError, match=r"analysis flips: no pair .* bins \[1\] .*binning"):
        measure(wide, [str(tmp_path / "z.json")], *outputs)
    assert not outputs[0].exists()
