"""Demo samples: deterministic, NanoAOD in shape, and true to the probability they claim."""

from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
from samples import SETTINGS, TRUTH, qcd, sample
from scipy.stats import chi2, poisson

from looseleaf.samples.generate import generate, plan, share, truth_probability
from looseleaf.samples.physics import eft_terms
from looseleaf.stage_files import read_catalogue


def arrays(folder: Path, name: str) -> list[ak.Array]:
    return [uproot.open(path)["Events"].arrays() for path in sorted(folder.glob(f"{name}_*.root"))]


def made(folder: Path, datasets: dict[str, Any], name: str, **more: Any) -> list[ak.Array]:
    settings = {**SETTINGS, **{k: v for k, v in more.items() if k != "workers"}}
    generate(
        name, datasets, settings, folder / "catalogue.json", TRUTH, workers=more.get("workers", 1)
    )
    return arrays(folder, name)


def test_same_seed_same_events_whatever_the_workers(tmp_path: Path) -> None:
    datasets = {"q": qcd(5000)}
    one = made(tmp_path / "1", datasets, "q")
    two = made(tmp_path / "2", datasets, "q", workers=2)
    other = made(tmp_path / "3", datasets, "q", seed=8)
    for a, b, c in zip(one, two, other, strict=True):
        assert ak.array_equal(a, b)
        assert not ak.array_equal(a["Muon_pt"], c["Muon_pt"])
    uuids = [uproot.open(tmp_path / run / "q_0.root").file.uuid for run in ("1", "2", "3")]
    assert uuids[0] == uuids[1] != uuids[2]


def test_files_and_datasets_do_not_repeat_each_other(tmp_path: Path) -> None:
    datasets = {"q": qcd(4000), "r": qcd(4000, das="/r/looseleaf-v1/NANOAODSIM")}
    first, second = made(tmp_path / "q", datasets, "q")
    (other, _) = made(tmp_path / "r", datasets, "r")
    assert not ak.array_equal(first["MET_pt"], second["MET_pt"])
    assert not ak.array_equal(first["MET_pt"], other["MET_pt"])
    both = np.concatenate([first["event"], second["event"]])
    assert len(np.unique(both)) == 4000


def test_nanoaod_branches_and_types(tmp_path: Path) -> None:
    (events,) = made(tmp_path, {"q": qcd(1000, files=1)}, "q")
    tree = uproot.open(tmp_path / "q_0.root")["Events"]
    types = tree.typenames()
    expected = {
        "run": "uint32_t",
        "luminosityBlock": "uint32_t",
        "event": "uint64_t",
        "genWeight": "float",
        "nMuon": "int32_t",
        "Muon_pt": "float[]",
        "Muon_charge": "int32_t[]",
        "Muon_tightId": "bool[]",
        "Electron_lostHits": "uint8_t[]",
        "Jet_btagDeepFlavB": "float[]",
        "MET_pt": "float",
        "HLT_Mu8": "bool",
    }
    assert {name: types[name] for name in expected} == expected
    assert ak.all(ak.num(events["Muon_pt"]) == events["nMuon"])
    pt = events["Muon_pt"]
    assert ak.all(pt[:, :-1] >= pt[:, 1:])
    runs = uproot.open(tmp_path / "q_0.root")["Runs"].arrays()
    assert runs["genEventCount"].to_list() == [1000]
    assert runs["genEventSumw"].to_list() == [1000.0]


def test_signed_weights_and_their_sum_agree(tmp_path: Path) -> None:
    (events,) = made(tmp_path, {"w": sample("wjets", 5000, files=1)}, "w")
    weights = ak.to_numpy(events["genWeight"]).astype(float)
    assert set(np.abs(weights)) == {230.0}
    # 16% are negative: five standard deviations of a binomial
    assert abs((weights < 0).mean() - 0.16) < 5 * np.sqrt(0.16 * 0.84 / 5000)
    runs = uproot.open(tmp_path / "w_0.root")["Runs"].arrays()
    assert runs["genEventSumw"][0] == weights.sum()


def loose_and_tight(events: ak.Array, flavour: str) -> tuple[ak.Array, ak.Array]:
    """The working points `loose` and `tight_simple`, written out by hand."""
    lepton = {
        name.partition("_")[2]: events[name]
        for name in events.fields
        if name.startswith(f"{flavour}_")
    }
    loose = (
        (abs(lepton["dxy"]) < 0.05)
        & (abs(lepton["dz"]) < 0.1)
        & (lepton["sip3d"] < 4)
        & (lepton["tightCharge"] == 2)
        & (lepton["miniPFRelIso_all"] < 0.4)
    )
    if flavour == "Muon":
        loose = loose & lepton["mediumId"] & (lepton["ptErr"] / lepton["pt"] < 0.2)
        tight = loose & lepton["tightId"] & (lepton["miniPFRelIso_all"] < 0.16)
    else:
        loose = loose & lepton["convVeto"] & (lepton["lostHits"] == 0)
        tight = loose & (lepton["miniPFRelIso_all"] < 0.12)
    return loose, tight


@pytest.mark.parametrize("flavour", ["Muon", "Electron"])
def test_loose_to_tight_probability_is_the_written_function(tmp_path: Path, flavour: str) -> None:
    declared = sample("qcd", 200_000, files=1, pthat=[20, 80], flavour=flavour)
    (events,) = made(tmp_path, {"q": declared}, "q", step=50_000)
    loose, tight = loose_and_tight(events, flavour)
    pt = ak.to_numpy(ak.flatten(events[f"{flavour}_pt"][loose])).astype(float)
    eta = ak.to_numpy(ak.flatten(abs(events[f"{flavour}_eta"][loose]))).astype(float)
    passed = ak.to_numpy(ak.flatten(tight[loose]))
    if flavour == "Muon":
        f = 0.05 + 0.08 * np.exp(-(pt - 10) / 15) + 0.02 * eta + 0.0006 * pt
    else:
        f = 0.08 + 0.10 * np.exp(-(pt - 10) / 12) + 0.03 * eta + 0.0004 * pt
    np.testing.assert_allclose(truth_probability(TRUTH, flavour, pt, eta), f, rtol=1e-12)
    # each cell: observed minus expected over the exact binomial spread
    total, cells = 0.0, 0
    for low, high in ((5, 10), (10, 15), (15, 20), (20, 30), (30, 80)):
        for inner, outer in ((0, 0.8), (0.8, 1.6), (1.6, 2.7)):
            cell = (pt >= low) & (pt < high) & (eta >= inner) & (eta < outer)
            spread = (f[cell] * (1 - f[cell])).sum()
            total += (passed[cell].sum() - f[cell].sum()) ** 2 / spread
            cells += 1
    assert chi2.sf(total, cells) > 1e-3
    assert chi2.cdf(total, cells) > 1e-3


def test_data_is_the_sum_of_its_parts_without_generator_weights(tmp_path: Path) -> None:
    datasets = {
        "q": qcd(0, xsec_pb=2000.0),
        "w": sample("wjets", 0, xsec_pb=500.0),
        "d": {
            "das": "/d/looseleaf-v1/NANOAOD",
            "process": "data",
            "data": True,
            "sample": {"kind": "data", "files": 2, "sum_of": ["q", "w"], "lumi_ifb": 1e-3},
        },
    }
    files = plan("d", datasets, SETTINGS, tmp_path, TRUTH)
    for kind, expected in (("qcd", 2000), ("wjets", 500)):
        number = sum(part.events for file in files for part in file.parts if part.kind == kind)
        assert poisson.cdf(number, expected) > 1e-4
        assert poisson.sf(number, expected) > 1e-4
    # scaling the simulation leaves the luminosity of data alone
    scaled = plan("d", datasets, {**SETTINGS, "scale": 3.0}, tmp_path, TRUTH)
    assert [f.parts for f in scaled] == [f.parts for f in files]
    events = ak.concatenate(made(tmp_path, datasets, "d"))
    assert "genWeight" not in events.fields
    assert "Muon_genPartFlav" not in events.fields
    recorded = np.any(
        [events[p] for p in events.fields if p.startswith(("HLT_Mu", "HLT_IsoMu"))], axis=0
    )
    assert recorded.all()
    assert "Runs" not in uproot.open(tmp_path / "d_0.root")


def test_scale_multiplies_simulation(tmp_path: Path) -> None:
    files = plan("q", {"q": qcd(1001)}, {**SETTINGS, "scale": 2.0}, tmp_path, TRUTH)
    assert [part.events for file in files for part in file.parts] == [1001, 1001]


def test_shares_add_up() -> None:
    assert [share(10, 3, index) for index in range(3)] == [3, 3, 4]
    assert sum(share(123457, 7, index) for index in range(7)) == 123457


def test_a_sample_of_no_events_is_still_nanoaod(tmp_path: Path) -> None:
    (events,) = made(tmp_path, {"q": qcd(0, files=1)}, "q")
    assert len(events) == 0
    assert "Muon_pt" in events.fields
    (records,) = read_catalogue(tmp_path / "catalogue.json").values()
    assert [record.events for record in records] == [0]


def test_eft_terms_are_a_positive_quadratic() -> None:
    ht = np.array([100.0, 500.0, 900.0])
    terms = eft_terms(np.random.default_rng(1), ht, 2).astype(float)
    assert terms.shape == (3, 6)
    rng = np.random.default_rng(2)
    for a, b in rng.uniform(-20, 20, (200, 2)):
        assert np.all(terms @ np.array([1, a, a * a, b, a * b, b * b]) > 0)
    # (1 + l_a a + l_b b)^2 + (s_a a)^2 + (s_b b)^2: the mixed term is the product of the linear
    np.testing.assert_allclose(terms[:, 4] * terms[:, 0] * 2, terms[:, 1] * terms[:, 3], rtol=1e-6)


def test_catalogue_states_what_is_on_disk(tmp_path: Path) -> None:
    made(tmp_path, {"q": qcd(3000)}, "q")
    (records,) = read_catalogue(tmp_path / "catalogue.json").values()
    for record in records:
        path = tmp_path / Path(record.name).name
        assert record.bytes == path.stat().st_size
        assert record.events == uproot.open(path)["Events"].num_entries == 1500
        assert record.url == str(path.resolve())


def test_trigger_objects_are_the_muons_that_fire(tmp_path: Path) -> None:
    declared = sample("z", 4000, files=1)
    declared["sample"]["muon_trigger"] = 0.7
    (events,) = made(tmp_path, {"z": declared}, "z")
    above = events["Muon_pt"] > 24
    assert ak.all(events["TrigObj_pt"] > 24)
    assert ak.all((events["TrigObj_id"] == 13) & (events["TrigObj_filterBits"] == 8))
    assert ak.all(events["HLT_IsoMu24"] == (events["nTrigObj"] > 0))
    number, fired = ak.sum(above), ak.sum(events["nTrigObj"])
    assert abs(fired - 0.7 * number) < 3 * np.sqrt(0.7 * 0.3 * number)
    # each is one of the muons of its event
    pairs = ak.cartesian([events["TrigObj_pt"], events["Muon_pt"]], nested=True)
    left, right = ak.unzip(pairs)
    assert ak.all(ak.any(left == right, axis=2))
    # nothing else changes: the muons are those without trigger objects
    del declared["sample"]["muon_trigger"]
    (plain,) = made(tmp_path / "plain", {"z": declared}, "z")
    assert ak.array_equal(events["Muon_pt"], plain["Muon_pt"])
    assert "nTrigObj" not in plain.fields
