"""Charge flips measured in Z decays: closed forms, toys, and demo events with known flips."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import awkward as ak
import hist
import numpy as np
import pytest
import yaml
from analyses import analysis_of, columns_of
from coffea.nanoevents.methods import candidate
from conftest import REPO
from runners import of_both_runners
from samples import sample, skimmed

from looseleaf.config.settings import load
from looseleaf.errors import ConfigError, DataFileError
from looseleaf.flips.measure import estimate, measure
from looseleaf.flips.processor import BANDS, SIGNS, FlipProcessor
from looseleaf.histograms.coverage import beyond, cover, coverage
from looseleaf.histograms.store import read_uhi, write_uhi
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.names import FLIP_CORRECTION
from looseleaf.processing.fileset import chunks_of, from_manifest
from looseleaf.processing.runner import process_task
from looseleaf.topcoffea.flip_map import FlipMap

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
Z = {"z": {"data": False}}


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


@pytest.mark.slow
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


def test_pairs_count_in_either_order() -> None:
    total = np.random.default_rng(4).uniform(1e4, 5e4, (4, 4))
    same = np.rint(total * equal(TRUTH) * np.random.default_rng(5).uniform(0.5, 1.5, (4, 4)))
    folded = []
    for counts in (total - same, same):
        one = np.zeros((4, 4))
        for i in range(4):
            for j in range(4):
                one[min(i, j), max(i, j)] += counts[i, j]
        folded.append(one)
    found = estimate(total - same, same, (NONE, NONE), 1.0)
    expected = estimate(*folded, (NONE, NONE), 1.0)
    np.testing.assert_allclose(found.probability, expected.probability, rtol=1e-9)
    np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-9)
    assert found.chi2 == pytest.approx(expected.chi2)


def test_what_lies_beneath_the_peak_adds_to_the_uncertainty() -> None:
    # 1000 pairs of which 180 are seen as equal, on 500 of equal charge from a band as wide
    found = estimate([[820.0]], [[680.0]], ([[0.0]], [[500.0]]), 1.0)
    assert found.probability == pytest.approx([0.1], abs=1e-6)
    slope = 1000 * 2 * (1 - 2 * 0.1)
    # Poisson of what is seen, and of the band
    sigma = np.sqrt(680 + 500) / slope
    assert np.sqrt(found.covariance[0, 0]) == pytest.approx(sigma, rel=1e-4)


class Events:
    """Electrons back to back at eta 0, as NanoEvents have them: (pT, charge) by event."""

    metadata: Mapping[str, Any] = {"data": False}

    def __init__(self, pairs: list[list[tuple[float, int]]]) -> None:
        electrons = [
            [
                {"pt": pt, "eta": 0.0, "phi": np.pi * i, "mass": 0.0, "charge": charge}
                for i, (pt, charge) in enumerate(event)
            ]
            for event in pairs
        ]
        self.Electron = ak.Array(
            electrons, with_name="PtEtaPhiMCandidate", behavior=candidate.behavior
        )

    def __len__(self) -> int:
        return len(self.Electron)

    def __getitem__(self, collection: str) -> ak.Array:
        return getattr(self, collection)


def test_pairs_are_counted_by_band_and_bins() -> None:
    # the mass is 2 sqrt(pt1 pt2), with 50 GeV the other has mass^2 / 200
    def pair(mass: float, charge: int = -1) -> list[tuple[float, int]]:
        return [(mass**2 / 200, charge), (50.0, 1)]

    masses = [69, 71, 79, 80, 99, 101, 109, 111]
    three = [*pair(90), (1.0, 1)]
    events = Events([*map(pair, masses), pair(90, 1), three, [(50.0, 1)], []])
    analysis = {
        **ANALYSIS,
        "electron": "any",
        "mass": {"peak": [80, 100], "beside": 10},
        "binning": {"pt": [10, 45, 60], "abs_eta": [0, 2.5]},
    }
    points = WorkingPoints({"Electron": {"any": {"cuts": ["pt > 0.5"]}}})
    out = FlipProcessor(analysis_of(analysis), points).process(events)
    counts = out["pairs"]
    # the harder one has 50 GeV until the other has more, at a mass of 100
    expected = {
        ("opposite", "peak"): [[0, 0], [1, 1]],
        ("opposite", "beside"): [[0, 0], [2, 2]],
        ("same", "peak"): [[0, 0], [1, 0]],
        ("same", "beside"): [[0, 0], [0, 0]],
    }
    for (sign, band), of_both in expected.items():
        assert counts[sign, band, :, :].values().tolist() == of_both, (sign, band)
    assert out["cutflow"].values().tolist() == [12, 12, 9, 7]
    # a mass of 111 GeV is outside the bands, those at 109 and 101 have electrons of 50 to 60 GeV
    there = beyond(out["coverage"], "pt")
    assert (there.below, there.above, there.all) == (0, 0, 14)


def written_pairs(path: Path, opposite: int, same: int, beside: tuple[int, int]) -> str:
    """Counts in a map of one bin, as the processor leaves them."""
    axes = [
        hist.axis.StrCategory(SIGNS, name="sign", overflow=False),
        hist.axis.StrCategory(BANDS, name="band", overflow=False),
        *(hist.axis.Integer(0, 1, name=name, flow=False) for name in ("first", "second")),
    ]
    pairs = hist.Hist(*axes, storage=hist.storage.Int64())
    pairs.view()[:, :, 0, 0] = [[opposite, beside[0]], [same, beside[1]]]
    covered = coverage(["pt", "abs_eta"])
    number = opposite + same + sum(beside)
    cover(covered, "pt", ONE_BIN["binning"]["pt"], np.full(number, 30.0), np.ones(number))
    write_uhi(path, {"pairs": pairs, "coverage": covered}, {})
    return str(path)


ONE_BIN = {
    **ANALYSIS,
    "mass": {"peak": [80, 100], "beside": 10},
    "binning": {"pt": [10, 60], "abs_eta": [0, 2.5]},
}


def test_files_add_and_bands_beside_are_both_counted(tmp_path: Path) -> None:
    # a peak 20 GeV wide with 10 GeV beside it on either side: what is beside is what is beneath
    files = {
        "a": written_pairs(tmp_path / "a.json", 600, 50, (100, 5)),
        "b": written_pairs(tmp_path / "b.json", 400, 150, (80, 15)),
    }
    declared = {"a": {"data": False}, "b": {"data": True}}
    measure(analysis_of(ONE_BIN), declared, files, tmp_path / "c.json", tmp_path / "s.json")
    found = json.loads((tmp_path / "s.json").read_text())
    # 1000 - 180 and 200 - 20: 2 p (1 - p) = 0.18 has the root 0.1
    assert found["probability"] == [[pytest.approx(0.1, abs=1e-6)]]
    assert found["pairs"] == {
        "opposite_peak": 1000, "opposite_beside": 180, "same_peak": 200, "same_beside": 20,
    }  # fmt: skip
    assert found["losses"] == []
    assert found["is_data"] is True


def test_most_electrons_beyond_the_map_are_refused(tmp_path: Path) -> None:
    analysis = {**ONE_BIN, "binning": {"pt": [10_000, 60_000], "abs_eta": [0, 2.5]}}
    path = tmp_path / "a.json"
    written_pairs(path, 600, 50, (100, 5))
    found, _ = read_uhi(path)
    found["coverage"] = coverage(["pt", "abs_eta"])
    cover(found["coverage"], "pt", [10_000, 60_000], np.full(9, 30.0), np.ones(9))
    write_uhi(path, found, {})
    outputs = tmp_path / "c.json", tmp_path / "s.json"
    with pytest.raises(DataFileError, match=r"analysis flips: 9 of 9 electrons, .* edges of pt"):
        measure(analysis_of(analysis), Z, {"z": str(path)}, *outputs)
    allowing = analysis_of({**analysis, "allow": {"beyond": ["pt"]}})
    measure(allowing, Z, {"z": str(path)}, *outputs)
    (loss,) = json.loads(outputs[1].read_text())["losses"]
    assert (loss["count"], loss["allowed"]) == (9, "allow.beyond")


def test_a_bin_without_pairs_is_named() -> None:
    total = np.zeros((4, 4))
    total[:3, :3] = 100
    with pytest.raises(ValueError, match=r"no pair has an electron in the bins \[3\]"):
        estimate(total, NONE, (NONE, NONE), 1.0)


def test_injected_flips_are_measured_and_applied(tmp_path: Path) -> None:
    injected = {"barrel": 0.02, "endcap": 0.08}
    z = sample("dy", 40_000, files=1)
    z["sample"]["charge_flips"] = injected
    columns = sorted(columns_of(ANALYSIS, z, POINTS))
    fileset = from_manifest("z", skimmed(tmp_path, "z", {"z": z}, columns), {"data": False})
    processor = FlipProcessor(analysis_of(ANALYSIS), POINTS)
    ours, theirs = of_both_runners(processor, fileset.files[0].url, data=False)
    assert ours == theirs
    accumulated = process_task(processor, chunks_of(fileset, 20_000), fileset.metadata)[0]
    write_uhi(tmp_path / "z.json", accumulated, {})
    outputs = tmp_path / "flips.correctionlib.json", tmp_path / "flips.json"
    measure(analysis_of(ANALYSIS), Z, {"z": str(tmp_path / "z.json")}, *outputs)
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
    columns = sorted(columns_of(ANALYSIS, z, POINTS))
    fileset = from_manifest("z", skimmed(tmp_path, "z", {"z": z}, columns), {"data": False})
    wide = {**ANALYSIS, "binning": {"pt": [10, 400, 600], "abs_eta": [0, 2.5]}}
    processor = FlipProcessor(analysis_of(wide), POINTS)
    counted = process_task(processor, chunks_of(fileset, 200), fileset.metadata)[0]
    write_uhi(tmp_path / "z.json", counted, {})
    outputs = tmp_path / "c.json", tmp_path / "s.json"
    with pytest.raises(
        DataFileError, match=r"analysis flips: no pair .* bins \[1\] .*widen the bins"
    ):
        measure(analysis_of(wide), Z, {"z": str(tmp_path / "z.json")}, *outputs)
    assert not outputs[0].exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"datasets": {"measure": ["DYJetsToEE", "SingleMuon"]}},
            "datasets.measure: has data and simulation; keep one kind",
        ),
        ({"mass": {"peak": [76, 106], "beside": 80}}, "mass.beside: the band below the peak"),
        ({"mass": {"peak": [106, 76], "beside": 15}}, "mass.peak: .* should increase strictly"),
    ],
)
def test_what_is_wrong_with_a_measurement_of_flips_is_said(
    main_config: dict[str, Any], repo: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    shipped = yaml.safe_load((REPO / "config/analyses/flips.yaml").read_text())
    path = tmp_path / "mine.yaml"
    for declared, why in ((shipped, None), ({**shipped, **changes}, message)):
        path.write_text(yaml.safe_dump(declared))
        config = {**main_config, "analyses": [str(path)]}
        if why is None:
            load(config, repo)
            continue
        with pytest.raises(ConfigError, match=rf"mine\.yaml: {why}"):
            load(config, repo)
