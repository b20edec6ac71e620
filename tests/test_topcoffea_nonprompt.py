"""Regions, predictions and systematics of the topcoffea processor, against weights by hand."""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import awkward as ak
import hist
import numpy as np
import pytest
import uproot
import yaml
from analyses import analysis_of, columns_of, metadata_of
from coffea.nanoevents import NanoEventsFactory
from coffea.processor import IterativeExecutor, Runner
from conftest import REPO
from ledgers import write_ledger
from samples import TRUTH, sample, skimmed

from looseleaf.errors import ConfigError, DataFileError
from looseleaf.files import read_json
from looseleaf.histograms.store import write_uhi
from looseleaf.nanoaod import choose_branches
from looseleaf.objects.corrections import Corrections
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.rates import RateMap, losses_beyond_maps
from looseleaf.processing.feed import SkimmedNanoAOD
from looseleaf.processing.fileset import Fileset, chunks_of, from_manifest
from looseleaf.processing.runner import ProcessingFailed, process_task
from looseleaf.topcoffea.flip_map import FlipMap
from looseleaf.topcoffea.notebook import configured
from looseleaf.topcoffea.process import squares_of
from looseleaf.topcoffea.processor import TopCoffeaProcessor
from looseleaf.topcoffea.store import read_histograms, write_histograms
from looseleaf.topcoffea.yields import sum_datasets

pytestmark = pytest.mark.slow

DECLARED = yaml.safe_load((REPO / "config/working_points.yaml").read_text())
POINTS = WorkingPoints(DECLARED)
ROLES = {
    collection: {"loose": "loose", "tight": "tight_simple", "momentum": "raw"}
    for collection in ("Muon", "Electron")
}
ANALYSIS: dict[str, Any] = {
    "name": "regions",
    "kind": "topcoffea",
    "lumi_ifb": 2.0,
    "unblind": True,
    "working_points": ROLES,
    "nonprompt": {"maps": {"Muon": "muon", "Electron": "electron"}, "cap": 0.8},
    "flips": {"correction": "flips"},
    "jets": {"pt_min": 30, "abs_eta_max": 2.4, "dr_min": 0.4,
             "btag": {"branch": "btagDeepFlavB", "min": 0.2783}},
    "triggers": [],
    "cuts": {"any": "n_lep > 0"},
    "channels": {
        "2l": {"lep_chan_lst": [["2l", "any"]], "lep_flav_lst": ["ee", "em", "mm"],
               "appl_lst": ["isSR_2lOS", "isAR_2lOS", "isSR_2lSS", "isAR_2lSS"],
               "appl_lst_data": ["isAR_2lSS_OS"]},
        "3l": {"lep_chan_lst": [["3l", "any"]], "appl_lst": ["isSR_3l", "isAR_3l"]},
    },
    "observables": {"ht": {"expression": "ht", "label": "x", "edges": [0, 200, 400]}},
    "points": {"SM": {}},
}  # fmt: skip
DATASETS = {
    "t": sample("ttbar", 6000, files=1, xsec_pb=88.0, year="2017"),
    "u": sample("ttbar", 3000, files=1, xsec_pb=40.0, year="2018"),
    "d": sample("ttbar", 6000, files=1, year="2017"),
}
DATASETS["d"] |= {"data": True, "process": "data"}
DATASETS["d"]["sample"] = {"kind": "data", "files": 1, "sum_of": ["t"], "lumi_ifb": 0.08}
# simulation has electrons of the wrong charge too
DATASETS["t"]["sample"]["charge_flips"] = {"barrel": 0.1, "endcap": 0.2}
DATASETS["u"]["das"] = "/other/looseleaf-v1/NANOAODSIM"
EDGES = np.array([0.0, 20.0, 1000.0]), np.array([0.0, 1.2, 2.5])
RATES = {"Muon": np.array([[0.1, 0.15], [0.2, 0.25]]), "Electron": np.full((2, 2), 0.3)}
MAPS = {name: RateMap(*EDGES, rate, 0.1 * rate, rate < 0) for name, rate in RATES.items()}
MUON = RATES["Muon"]
MAPS["Muon"].systematics["closure"] = 1.2 * MUON, 0.8 * MUON  # type: ignore[index]
FLIPS = json.loads(Path(TRUTH).read_text())
FLIPS["corrections"] = [FLIPS["corrections"][0]]
FLIPS["corrections"][0] |= {"name": "flips"}
FLIPS["corrections"][0]["data"] |= {"expression": "0.01 + 0.001*y"}


@pytest.fixture(scope="module")
def filesets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fileset]:
    folder = tmp_path_factory.mktemp("regions")
    found = {}
    for name, dataset in DATASETS.items():
        columns = sorted(columns_of(ANALYSIS, dataset, POINTS))
        manifest = skimmed(folder, name, DATASETS, columns)
        found[name] = from_manifest(name, manifest, metadata_of(ANALYSIS, dataset))
    return found


def accumulated(
    fileset: Fileset, squares: Any = True, chunksize: int = 10_000, **changes: Any
) -> dict[str, Any]:
    flips = FlipMap(json.dumps(FLIPS), "flips")
    processor = TopCoffeaProcessor(
        analysis_of({**ANALYSIS, **changes}), POINTS, ["c"], squares, MAPS, flips
    )
    return process_task(processor, chunks_of(fileset, chunksize), fileset.metadata)[0]


def leptons_of(fileset: Fileset) -> tuple[ak.Array, ak.Array]:
    """The events, and their loose leptons with flavour, rate and whether they are tight."""
    e = ak.concatenate([uproot.open(file.url)["Events"].arrays() for file in fileset.files])
    found = []
    for name, isolation, largest in (("Muon", 0.16, 2.4), ("Electron", 0.12, 2.5)):
        one = ak.zip({
            key.removeprefix(f"{name}_"): e[key] for key in e.fields if key.startswith(f"{name}_")
        })  # fmt: skip
        good = (one.pt > 10) & (abs(one.eta) < largest) & (abs(one.dxy) < 0.05)
        good = good & (abs(one.dz) < 0.1) & (one.sip3d < 4) & (one.tightCharge == 2)
        good = good & (one.miniPFRelIso_all < 0.4)
        if name == "Muon":
            good = good & one.mediumId & (one.ptErr / one.pt < 0.2)
        else:
            good = good & one.convVeto & (one.lostHits == 0) & one.mvaFall17V2noIso_WPL
        tight = one.miniPFRelIso_all < isolation
        one["tight"] = tight & one.tightId if name == "Muon" else tight
        rates = RATES[name]
        high, far = one.pt >= 20, abs(one.eta) >= 1.2
        one["rate"] = ak.where(
            high,
            ak.where(far, rates[1, 1], rates[1, 0]),
            ak.where(far, rates[0, 1], rates[0, 0]),
        )
        one["flip"] = (0.01 + 0.001 * abs(one.eta)) * (name == "Electron")
        one["electron"] = ak.full_like(one.charge, name == "Electron")
        if "genPartFlav" not in one.fields:
            one["genPartFlav"] = ak.full_like(one.charge, 1)
        one["wrong"] = ak.zeros_like(one.charge)
        if "GenPart_pdgId" in e.fields and name == "Electron":
            made = -np.sign(e.GenPart_pdgId[one.genPartIdx])
            one["wrong"] = ak.values_astype(made != one.charge, np.int64)
        keep = ["pt", "eta", "phi", "charge", "tight", "rate", "flip", "electron", "genPartFlav",
                "wrong"]  # fmt: skip
        found.append(ak.zip({field: one[field] for field in keep})[good])
    return e, ak.concatenate(found, axis=1)


def by_hand(
    fileset: Fileset, scale: float = 1.0, electrons: bool = False
) -> dict[tuple[str, str], np.ndarray]:
    """The weight of each event by channel and region, all of H_T taken together; with the rates of
    muons, or of electrons, scaled."""
    e, leptons = leptons_of(fileset)
    weight = ak.to_numpy(e.genWeight).astype(float) if "genWeight" in e.fields else np.ones(len(e))
    if "genWeight" in e.fields:
        weight = weight * ak.to_numpy(ak.all(leptons.genPartFlav == 1, axis=1))
    number, charge = ak.to_numpy(ak.num(leptons)), ak.to_numpy(ak.sum(leptons.charge, axis=1))
    rate = leptons.rate * ak.where((leptons.electron == 1) == electrons, scale, 1.0)
    electrons = ak.to_numpy(ak.sum(leptons.electron, axis=1))
    failing = ~leptons.tight
    k = ak.to_numpy(ak.sum(failing, axis=1))
    odds = ak.to_numpy(ak.prod(ak.where(failing, rate / (1 - rate), 1.0), axis=1))
    predicted = np.where(k > 0, -((-1.0) ** k) * odds, 0.0)
    flip = ak.to_numpy(ak.sum(leptons.flip / (1 - leptons.flip), axis=1))
    out = {}
    for name, n_ele in (("2l_ee", 2), ("2l_em", 1), ("2l_mm", 0), ("3l", None)):
        here = (number == 3) if n_ele is None else (number == 2) & (electrons == n_ele)
        # flips are predicted where a channel of two leptons asks for one charge, not of three
        right = ak.to_numpy(ak.sum(leptons.wrong, axis=1) == 0) | (charge == 0) | (n_ele is None)
        out[name, "signal"] = weight[here & (k == 0) & right]
        out[name, "nonprompt"] = (weight * predicted)[here & (k > 0)]
        opposite = here & (k == 0) & (charge == 0) & (number == 2)
        out[name, "flips"] = (weight * flip)[opposite & ("genWeight" not in e.fields)]
    return out


@pytest.mark.parametrize("name", ["t", "d"])
def test_regions_are_weighted_as_by_hand(filesets: dict[str, Fileset], name: str) -> None:
    filled = accumulated(filesets[name], chunksize=2500)["ht"]
    assert len(leptons_of(filesets[name])[0]) > 2000
    for scale, systematic in ((1.0, "nominal"), (1.1, "nonprompt_rate_muonUp"),
                              (0.9, "nonprompt_rate_muonDown"),
                              (1.1, "nonprompt_rate_electronUp"),
                              (0.9, "nonprompt_rate_electronDown"),
                              (1.2, "nonprompt_Muon_closureUp"),
                              (0.8, "nonprompt_Muon_closureDown")):  # fmt: skip
        hand = by_hand(filesets[name], scale, "electron" in systematic)
        for (channel, region), weight in hand.items():
            if systematic != "nominal" and region != "nonprompt":
                continue
            one = filled.select(channel=channel, region=region, systematic=systematic)
            total = one.project().at()
            assert total.view().value == pytest.approx(weight.sum(), rel=1e-6, abs=1e-9)
            assert total.view().variance == pytest.approx((weight**2).sum(), rel=1e-6, abs=1e-9)
    assert (by_hand(filesets["d"])["2l_em", "flips"] > 0).any()


def test_failing_leptons_beyond_the_maps_are_counted(filesets: dict[str, Fileset]) -> None:
    rates = replace(MAPS["Muon"], pt_edges=np.array([15.0, 20.0, 40.0]))
    maps = {**MAPS, "Muon": rates}
    processor = TopCoffeaProcessor(
        analysis_of(ANALYSIS), POINTS, ["c"], True, maps, FlipMap(json.dumps(FLIPS), "flips")
    )
    fileset = filesets["d"]
    found, _ = process_task(processor, chunks_of(fileset, 2500), fileset.metadata)
    _, leptons = leptons_of(fileset)
    number = ak.num(leptons)
    here = leptons[((number == 2) | (number == 3)) & ak.any(~leptons.tight, axis=1)]
    muons = here[~here.tight & (here.electron == 0)]
    (loss,) = losses_beyond_maps(found["coverage"], maps)
    beyond_pt = (muons.pt < 15) | (muons.pt >= 40)
    assert (loss.name, loss.count, loss.of) == (
        "maps.Muon.pt", ak.sum(beyond_pt), ak.count(muons.pt),
    )  # fmt: skip
    assert loss.count > 10


def test_rates_above_the_cap_count_as_the_cap(filesets: dict[str, Fileset]) -> None:
    """Electrons, whose rate is 0.3, with 0.25; muons' rates end there."""
    capped = accumulated(filesets["d"], nonprompt={**ANALYSIS["nonprompt"], "cap": 0.25})["ht"]
    _, leptons = leptons_of(filesets["d"])
    failing = ~leptons.tight
    rate = ak.where(leptons.electron == 1, 0.25, leptons.rate)
    odds = ak.prod(ak.where(failing, rate / (1 - rate), 1.0), axis=1)
    k = ak.sum(failing, axis=1)
    em = (ak.num(leptons) == 2) & (ak.sum(leptons.electron, axis=1) == 1) & (k > 0)
    expected = ak.sum((-((-1.0) ** k) * odds)[em])
    found = capped.select(channel="2l_em", region="nonprompt", systematic="nominal").project()
    assert found.values()[0] == pytest.approx(expected, rel=1e-6)


def test_leptons_of_prompt_taus_are_prompt(filesets: dict[str, Fileset]) -> None:
    (file,) = filesets["t"].files
    events = NanoEventsFactory.from_root(
        {file.url: "Events"}, schemaclass=SkimmedNanoAOD, mode="eager",
        metadata=dict(filesets["t"].metadata),
    ).events()  # fmt: skip
    processor = TopCoffeaProcessor(analysis_of(ANALYSIS), POINTS, ["c"], maps=MAPS)
    expected = processor.process(events)["ht"]
    for flavour, same in ((15, True), (5, False)):
        for collection in ("Muon", "Electron"):
            leptons = events[collection]
            origin = ak.where(leptons.genPartFlav == 5, 5, flavour)
            events[collection] = ak.with_field(leptons, origin, "genPartFlav")
        assert (processor.process(events)["ht"] == expected) == same


def test_leptons_without_a_rate_of_their_own_are_told(
    filesets: dict[str, Fileset], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Muons above 20 GeV and |eta| 1.2 were not measured, electrons have a rate above the cap."""
    empty = np.array([[False, False], [False, True]])
    maps = {
        "Muon": RateMap(*EDGES, np.where(empty, 0, RATES["Muon"]), RATES["Muon"], empty),
        "Electron": RateMap(*EDGES, np.full((2, 2), 0.9), RATES["Electron"], empty & False),
    }
    processor = TopCoffeaProcessor(
        analysis_of(ANALYSIS), POINTS, ["c"], True, maps, FlipMap(json.dumps(FLIPS), "flips")
    )
    for name in ("t", "d"):
        fileset = filesets[name]
        found, _ = process_task(processor, chunks_of(fileset, 2500), fileset.metadata)
        write_histograms(tmp_path / f"{name}.h5", found, {})
        write_ledger(tmp_path / f"{name}.ledger.json", fileset.original)
    _, leptons = leptons_of(filesets["d"])
    number = ak.num(leptons)
    here = leptons[((number == 2) | (number == 3)) & ak.any(~leptons.tight, axis=1)]
    failing = here[~here.tight]
    far = (failing.electron == 0) & (failing.pt >= 20) & (abs(failing.eta) >= 1.2)
    unmeasured, capped = int(ak.sum(far)), int(ak.sum(failing.electron))
    assert min(unmeasured, capped) > 10
    run_combine(tmp_path, ANALYSIS, {n: DATASETS[n] for n in ("t", "d")})
    yields = read_json(tmp_path / "y.json")
    assert (yields["leptons_in_empty_bins"], yields["capped_leptons"]) == (unmeasured, capped)
    assert f"topcoffea regions: {unmeasured} failing leptons of data are" in capsys.readouterr().err


def test_flips_count_with_the_charges_that_they_lead_to(filesets: dict[str, Fileset]) -> None:
    """After an electron's flip both leptons have the other one's charge, and are no Z boson."""
    block = {"lep_flav_lst": ["ee", "em"], "appl_lst": ["isSR_2lSS", "isAR_2lSS"],
             "appl_lst_data": ["isAR_2lSS_OS"]}  # fmt: skip
    cuts = {"p": "lep0_charge > 0", "m": "lep0_charge < 0", "onZ": "abs(m_z - 91.2) < 30"}
    channels = {
        name: {**block, "lep_chan_lst": [[name, *named]]}
        for name, named in {"p": ["p", "~onZ"], "m": ["m", "~onZ"], "any": ["~onZ"]}.items()
    }
    observables = {"charge": {"expression": "charge", "label": "x", "edges": [-3, -1, 1, 3]}}
    counted = accumulated(filesets["d"], channels=channels, cuts=cuts, observables=observables)
    found = counted["charge"].select(region="flips", systematic="nominal")
    _, leptons = leptons_of(filesets["d"])
    opposite = (ak.num(leptons) == 2) & ak.all(leptons.tight, axis=1)
    two = leptons[opposite & (ak.sum(leptons.charge, axis=1) == 0)]
    odds = two.flip / (1 - two.flip)
    asymmetric = 0.0
    for flavour, electrons in (("ee", 2), ("em", 1)):
        here = ak.sum(two.electron, axis=1) == electrons
        after = {
            sign: ak.to_numpy(ak.sum(odds[two.charge == -sign], axis=1)[here]) for sign in (1, -1)
        }
        for name, signs in (("p", [1]), ("m", [-1]), ("any", [1, -1])):
            expected = [after[-1].sum() * (-1 in signs), 0.0, after[1].sum() * (1 in signs)]
            values = found.select(channel=f"{name}_{flavour}").values()[0]
            np.testing.assert_allclose(values, expected, rtol=1e-6)
        asymmetric += abs(after[1].sum() - after[-1].sum())
    assert asymmetric > 0


def test_a_cut_may_be_the_same_for_every_event(filesets: dict[str, Fileset]) -> None:
    found = accumulated(filesets["d"], cuts={"any": "1 < 2"})
    assert found["ht"] == accumulated(filesets["d"])["ht"]


def test_signal_regions_of_data_are_not_looked_at_before_they_may(
    filesets: dict[str, Fileset],
) -> None:
    blind, seen = (accumulated(filesets["d"], unblind=unblind) for unblind in (False, True))
    regions = {name: seen["ht"].select(region=name) for name in ("signal", "nonprompt", "flips")}
    assert regions["signal"].project().values()[0] > 100
    assert blind["ht"].select(region="signal").nbytes == 0
    for name in ("nonprompt", "flips"):
        assert blind["ht"].select(region=name) == regions[name]
    assert [blind["cutflow"][name] for name in ("2l_em", "3l")] == [0, 0]
    assert min(seen["cutflow"][name] for name in ("2l_em", "3l")) > 0
    # simulation is looked at as ever
    blind, seen = (accumulated(filesets["t"], unblind=unblind) for unblind in (False, True))
    assert blind["ht"] == seen["ht"]


def test_flips_of_simulation_are_left_to_the_prediction(filesets: dict[str, Fileset]) -> None:
    """Data is the simulation's own mixture: what is expected of it should not count flips twice."""
    _, leptons = leptons_of(filesets["t"])
    two = (ak.num(leptons) == 2) & ak.all(leptons.tight, axis=1)
    same = ak.to_numpy(two & (ak.sum(leptons.charge, axis=1) != 0))
    prompt = ak.to_numpy(ak.all(leptons.genPartFlav == 1, axis=1))
    wrong = ak.to_numpy(ak.any(leptons.wrong == 1, axis=1))
    # ttbar has two prompt leptons of one charge by a flip alone
    assert (same & prompt).sum() == (same & prompt & wrong).sum() > 20
    filled = accumulated(filesets["t"], channels={
        "2l": {**ANALYSIS["channels"]["2l"], "appl_lst": ["isSR_2lSS", "isAR_2lSS"]},
        "no_prediction": {"lep_chan_lst": [["other", "any"]], "appl_lst": ["isSR_2lSS"]},
    })["ht"].select(region="signal", systematic="nominal")  # fmt: skip
    assert filled.select(channel="2l_em").project().values() == 0
    assert filled.select(channel="other").project().values() > 0


def test_other_jet_energies_and_weights(filesets: dict[str, Fileset]) -> None:
    shape = {
        "jes": {"jet_scale": {"up": 1.1, "down": 0.9}},
        "sf": {"weight": {"up": "1 + 0.1 * n_jet", "down": "1 - 0.1 * n_jet"}},
        "idle": {"weight": {"up": "2", "down": "1"}, "processes": ["other"]},
    }
    found = accumulated(filesets["t"], systematics={"shape": shape})["ht"]
    assert found.categories("systematic") == [
        "nominal", "sfUp", "sfDown", "nonprompt_rate_muonUp", "nonprompt_rate_muonDown",
        "nonprompt_Muon_closureUp", "nonprompt_Muon_closureDown",
        "nonprompt_rate_electronUp", "nonprompt_rate_electronDown", "jesUp", "jesDown",
    ]  # fmt: skip
    # jets above 30 GeV after a factor are those above 30 GeV / factor before it
    for direction, factor in (("Up", 1.1), ("Down", 0.9)):
        jets = {**ANALYSIS["jets"], "pt_min": 30 / factor}
        scaled = {"ht": {**ANALYSIS["observables"]["ht"], "expression": f"{factor} * ht"}}
        other = accumulated(filesets["t"], jets=jets, observables=scaled)["ht"]
        np.testing.assert_allclose(
            found.select(systematic=f"jes{direction}").values(flow=True),
            other.select(systematic="nominal").values(flow=True),
            rtol=1e-6, atol=1e-6,
        )  # fmt: skip
    # a weight linear in the number of jets, from a histogram of that number
    counted = {"n": {"expression": "n_jet", "label": "x", "edges": [i - 0.5 for i in range(16)]}}
    jets_of = accumulated(filesets["t"], observables=counted)["n"]
    by_number = jets_of.select(channel="2l_em", region="signal", systematic="nominal").values()[0]
    for systematic, slope in (("sfUp", 0.1), ("sfDown", -0.1)):
        expected = (by_number * (1 + slope * np.arange(15))).sum()
        one = found.select(channel="2l_em", region="signal", systematic=systematic).project()
        assert one.values()[0] == pytest.approx(expected, rel=1e-6)


def scale_factors(path: Path, formula: str, **sides: float) -> str:
    """A correctionlib file of a weight by formula of x, times a number for each side."""
    content = [
        {"key": side, "value": {
            "nodetype": "formula", "parser": "TFormula", "variables": ["x"],
            "expression": f"{factor} * ({formula})",
        }}
        for side, factor in {"nominal": 1.0, **sides}.items()
    ]  # fmt: skip
    correction = {
        "name": "sf", "version": 1, "output": {"name": "weight", "type": "real"},
        "inputs": [{"name": "x", "type": "real"}, {"name": "side", "type": "string"}],
        "data": {"nodetype": "category", "input": "side", "content": content},
    }  # fmt: skip
    path.write_text(json.dumps({"schema_version": 2, "corrections": [correction]}))
    return str(path)


def test_corrections_weigh_events_and_leptons(filesets: dict[str, Fileset], tmp_path: Path) -> None:
    """Of events, of tight leptons of one flavour and of loose ones of another; data has none."""
    common = {"correction": "sf", "choices": {"side": "nominal"}}
    sides = {side: {"side": side} for side in ("up", "down")}
    corrections = {
        "met": {**common, "file": scale_factors(tmp_path / "met.json", "1 + 0.002 * x"),
                "inputs": {"x": "MET_pt"}},
        "id": {**common, "of": "tight", "inputs": {"x": "Muon_pt"}, "variations": sides,
               "file": scale_factors(tmp_path / "id.json", "0.9 + 0.001 * x", up=1.1, down=0.8)},
        "reco": {**common, "of": "loose", "inputs": {"x": "abs(Electron_eta)"}, "years": ["2017"],
                 "variations": sides,
                 "file": scale_factors(tmp_path / "reco.json", "1 - 0.1 * x", up=1.2, down=0.9)},
        "other": {**common, "of": "loose", "inputs": {"x": "Muon_pt"}, "years": ["2018"],
                  "variations": sides,
                  "file": scale_factors(tmp_path / "other.json", "7 + 0 * x", up=2, down=3)},
    }  # fmt: skip
    analysis = {**ANALYSIS, "corrections": corrections}
    flips = FlipMap(json.dumps(FLIPS), "flips")
    processor = TopCoffeaProcessor(
        analysis_of(analysis), POINTS, ["c"], True, MAPS, flips, Corrections.from_files(corrections)
    )
    found = {}
    for name in ("t", "d"):
        metadata = filesets[name].metadata | metadata_of(analysis, DATASETS[name])
        found[name] = process_task(processor, chunks_of(filesets[name], 10_000), metadata)[0]
    assert found["d"]["ht"] == accumulated(filesets["d"])["ht"]
    e, leptons = leptons_of(filesets["t"])
    prompt, failing = ak.all(leptons.genPartFlav == 1, axis=1), ak.sum(~leptons.tight, axis=1)
    odds = ak.prod(ak.where(leptons.tight, 1.0, leptons.rate / (1 - leptons.rate)), axis=1)
    predicted = -((-1.0) ** failing) * odds
    tight_muons = leptons[leptons.tight & (leptons.electron == 0)]
    electrons = leptons[leptons.electron == 1]
    one = (1 + 0.002 * e.MET_pt) * ak.prod(0.9 + 0.001 * tight_muons.pt, axis=1)
    weight = e.genWeight * one * ak.prod(1 - 0.1 * abs(electrons.eta), axis=1)
    em = (ak.num(leptons) == 2) & (ak.sum(leptons.electron, axis=1) == 1) & prompt
    # flips of tight leptons are predicted from data
    right = (ak.sum(leptons.wrong, axis=1) == 0) | (ak.sum(leptons.charge, axis=1) == 0)
    assert ak.sum(em & (failing == 1)) > 20
    histogram = found["t"]["ht"].select(channel="2l_em")
    for systematic, factor in (
        ("nominal", 1.0),
        ("idUp", 1.1 ** ak.num(tight_muons)),
        ("idDown", 0.8 ** ak.num(tight_muons)),
        ("recoUp", 1.2 ** ak.num(electrons)),
        ("recoDown", 0.9 ** ak.num(electrons)),
    ):
        for region, here, by_rate in (
            ("signal", em & (failing == 0) & right, 1.0),
            ("nonprompt", em & (failing > 0), predicted),
        ):
            hand = ak.to_numpy((weight * factor * by_rate)[here])
            total = histogram.select(region=region, systematic=systematic).project().at()
            assert total.view().value == pytest.approx(hand.sum(), rel=1e-6)
            assert total.view().variance == pytest.approx((hand**2).sum(), rel=1e-6)
    assert not [name for name in histogram.categories("systematic") if name.startswith("other")]


def test_a_correction_that_takes_events_away_may_give_them_back(
    filesets: dict[str, Fileset], tmp_path: Path
) -> None:
    """Where only a variation has a weight, the variation has the events."""
    step = scale_factors(tmp_path / "a.json", "x > 30", up=2.0).replace("a.json", "b.json")
    text = (tmp_path / "a.json").read_text().replace("2.0 * (x > 30)", "2.0")
    Path(step).write_text(text)
    wanted = {"a": {"file": step, "correction": "sf", "inputs": {"x": "MET_pt"},
                    "choices": {"side": "nominal"},
                    "variations": {side: {"side": "up"} for side in ("up", "down")}}}  # fmt: skip
    processor = TopCoffeaProcessor(
        analysis_of({**ANALYSIS, "corrections": wanted}), POINTS, ["c"], True, MAPS, None,
        Corrections.from_files(wanted),
    )  # fmt: skip
    fileset = filesets["t"]
    found = process_task(processor, chunks_of(fileset, 2500), fileset.metadata)[0]["ht"]
    plain = TopCoffeaProcessor(analysis_of(ANALYSIS), POINTS, ["c"], True, MAPS)
    every = process_task(plain, chunks_of(fileset, 2500), fileset.metadata)[0]["ht"]
    at = {"channel": "2l_em", "region": "signal"}
    twice = every.select(**at, systematic="nominal").values()
    np.testing.assert_allclose(found.select(**at, systematic="aUp").values(), 2 * twice, rtol=1e-12)
    assert 0 < found.select(**at, systematic="nominal").values().sum() < 0.9 * twice.sum()


def test_masses_and_leptons_by_their_order(filesets: dict[str, Fileset]) -> None:
    # the sum of a quantity over events is a histogram weighted with it
    shape = {"q": {"weight": {"up": "m_z", "down": "lep0_charge * lep1_pt"}}}
    found = accumulated(filesets["t"], systematics={"shape": shape})["ht"]
    e, leptons = leptons_of(filesets["t"])
    leptons = leptons[ak.argsort(leptons.pt, axis=1, ascending=False)]
    good = ak.all(leptons.genPartFlav == 1, axis=1) & ak.all(leptons.tight, axis=1)
    weight = ak.to_numpy(e.genWeight).astype(float)
    two = ak.to_numpy(good & (ak.num(leptons) == 2) & (ak.sum(leptons.electron, axis=1) == 0))
    a, b = leptons[two][:, 0], leptons[two][:, 1]
    mass = np.sqrt(2 * a.pt * b.pt * (np.cosh(a.eta - b.eta) - np.cos(a.phi - b.phi)))
    mass = ak.to_numpy(ak.where(a.charge != b.charge, mass, 0.0))
    one = found.select(channel="2l_mm", region="signal", systematic="qUp").project().values()
    assert (mass > 0).sum() > 100
    assert one[0] == pytest.approx((weight[two] * mass).sum(), rel=1e-4)
    product = ak.to_numpy(a.charge * b.pt)
    one = found.select(channel="2l_mm", region="signal", systematic="qDown").project().values()
    assert one[0] == pytest.approx((weight[two] * product).sum(), rel=1e-4)


def with_theory(fileset: Fileset, path: Path) -> Path:
    """The events of a file with theory weights: up 1.2, nominal 1, down 0.7 of even events."""
    arrays = uproot.open(fileset.files[0].url)["Events"].arrays()
    even = np.arange(len(arrays)) % 2 == 0
    weights = np.where(even[:, None], [1.2, 1.0, 0.7], [1.0, 1.0, 1.0]).astype(np.float32)
    columns: dict[str, Any] = {}
    for name in arrays.fields:
        collection = name.partition("_")[0]
        if collection in ("Muon", "Electron", "Jet"):
            continue
        if not name.startswith("n"):
            columns[name] = arrays[name]
    for collection in ("Muon", "Electron", "Jet"):
        columns[collection] = ak.zip({
            name.removeprefix(f"{collection}_"): arrays[name]
            for name in arrays.fields if name.startswith(f"{collection}_")
        })  # fmt: skip
    columns["PSWeight"] = ak.from_regular(ak.Array(weights))
    with uproot.recreate(path) as root:
        root.mktree("Events", {n: ak.type(v).content for n, v in columns.items()}).extend(columns)
    return path


THEORY = {"ISR": {"branch": "PSWeight", "up": 0, "down": 2, "sums": "ISR"}}


def test_theory_weights_have_sums_of_their_own(
    filesets: dict[str, Fileset], tmp_path: Path
) -> None:
    path = with_theory(filesets["t"], tmp_path / "theory.root")
    events = NanoEventsFactory.from_root(
        {str(path): "Events"}, schemaclass=SkimmedNanoAOD, mode="eager",
        metadata=dict(filesets["t"].metadata),
    ).events()  # fmt: skip
    analysis = {**ANALYSIS, "systematics": {"theory": THEORY}}
    found = TopCoffeaProcessor(analysis_of(analysis), POINTS, ["c"], maps=MAPS).process(events)
    write_histograms(tmp_path / "t.h5", found, {})
    # sums of weights of all original events, which the skim knows nothing of
    whole = filesets["t"].original["sum_of_weights"]
    of_t = {**DATASETS["t"], "declared_in": "datasets.yaml"}
    original = {
        **filesets["t"].original,
        "theory_sums": {"PSWeight": [1.1 * whole, whole, 0.85 * whole, whole]},
    }
    write_ledger(tmp_path / "t.ledger.json", original)
    combined = run_combine(tmp_path, analysis, {"t": DATASETS["t"]})
    # each year by itself
    by_year = {"ISR": {**THEORY["ISR"], "correlated": False}}
    of_year = run_combine(
        tmp_path, {**ANALYSIS, "systematics": {"theory": by_year}}, {"t": DATASETS["t"]}
    )
    for name, label in (("ISR_2017Up", "ISRUp"), ("ISR_2017Down", "ISRDown")):
        one, other = of_year.select(systematic=name), combined.select(systematic=label)
        np.testing.assert_array_equal(one.values(), other.values())
    assert "ISRUp" not in of_year.categories("systematic")
    stated = {"ISRUp": 1.1 * whole * (1 + 1e-6), "ISRDown": 0.85 * whole}
    declared = {"t": {**of_t, "sums_of_weights": stated}}
    # what is declared is held against the ledger's, which counts
    assert run_combine(tmp_path, analysis, declared) == combined
    stated["ISRDown"] *= 1.001
    with pytest.raises(
        DataFileError,
        match=r"datasets\.yaml: t\.sums_of_weights\.ISRDown: states .*, but in the 6000 events "
        r"of t "
        r"PSWeight\[2\] adds up to",
    ):
        run_combine(tmp_path, analysis, declared)
    listed = {"t": {**declared["t"], "declared_in": "jsons/t.json", "listed": {
        "events": 6000, "sum_of_weights": whole}}}  # fmt: skip
    with pytest.raises(DataFileError, match=r"jsons/t\.json: nSumOfWeights_ISRDown: "):
        run_combine(tmp_path, analysis, listed)
    skim = {**analysis, "normalise": "declared"}
    by_file = run_combine(tmp_path, skim, listed).select(process="ttbar", systematic="ISRDown")
    np.testing.assert_allclose(
        1.001 * by_file.values(),
        combined.select(process="ttbar", systematic="ISRDown").values(),
        rtol=1e-12,
    )
    for sums in ({}, {"PSWeight": [whole, whole]}):
        write_ledger(tmp_path / "t.ledger.json", {**original, "theory_sums": sums})
        with pytest.raises(
            DataFileError,
            match=r"dataset t: its files have sums of \d weights of PSWeight, but number",
        ):
            run_combine(tmp_path, analysis, {"t": DATASETS["t"]})
    one = combined.select(process="ttbar", channel="2l_em").project("systematic")
    values = dict(zip(one.categories("systematic"), one.values()[0], strict=True))
    e, leptons = leptons_of(filesets["t"])
    weight = ak.to_numpy(e.genWeight).astype(float)
    good = ak.all(leptons.genPartFlav == 1, axis=1) & ak.all(leptons.tight, axis=1)
    good = good & (ak.num(leptons) == 2) & (ak.sum(leptons.electron, axis=1) == 1)
    kept, even = ak.to_numpy(good), np.arange(len(e)) % 2 == 0
    for direction, factor, mean in (("Up", 1.2, 1.1), ("Down", 0.7, 0.85)):
        varied = (weight * np.where(even, factor, 1.0))[kept].sum() / weight[kept].sum() / mean
        ratio = values[f"ISR{direction}"] / values["nominal"]
        assert ratio == pytest.approx(varied, rel=1e-5)
    short = {"ISR": {**THEORY["ISR"], "up": 3}}
    wrong = {**ANALYSIS, "systematics": {"theory": short}}
    with pytest.raises(DataFileError, match="dataset t: PSWeight has fewer than 4 values"):
        TopCoffeaProcessor(analysis_of(wrong), POINTS, ["c"], maps=MAPS).process(events)


def run_combine(folder: Path, analysis: dict[str, Any], datasets: dict[str, Any]) -> Any:
    sum_datasets(
        analysis_of(analysis), datasets,
        {name: str(folder / f"{name}.h5") for name in datasets},
        {name: str(folder / f"{name}.ledger.json") for name in datasets},
        folder / "h.h5", folder / "y.json", folder / "y.txt",
    )  # fmt: skip
    return read_histograms(folder / "h.h5")[0]["ht"]


@pytest.fixture(scope="module")
def histograms(filesets: dict[str, Fileset], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Histograms and ledgers of every dataset, made once."""
    folder = tmp_path_factory.mktemp("histograms")
    for name, fileset in filesets.items():
        shape = {"jes": {"jet_scale": {"up": 1.1, "down": 0.9}, "correlated": False}}
        found = accumulated(fileset, systematics={"shape": shape})
        write_histograms(folder / f"{name}.h5", found, {})
        write_ledger(folder / f"{name}.ledger.json", fileset.original)
    return folder


@pytest.fixture
def processed(histograms: Path, tmp_path: Path) -> Path:
    """A copy of the histograms for a test to combine or to spoil."""
    shutil.copytree(histograms, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_prediction_is_data_less_prompt_simulation(
    filesets: dict[str, Fileset], processed: Path
) -> None:
    combined = run_combine(processed, ANALYSIS, {n: DATASETS[n] for n in ("t", "d")})
    factor = 88.0 * 1000 * 2.0 / filesets["t"].original["sum_of_weights"]
    hands = {name: by_hand(filesets[name]) for name in ("t", "d")}
    table = read_json(processed / "y.json")["channels"]
    text = (processed / "y.txt").read_text()
    for channel in ("2l_ee", "2l_em", "2l_mm", "3l"):
        region = (channel, "nonprompt")
        expected = hands["d"][region].sum() - factor * hands["t"][region].sum()
        error = (hands["d"][region] ** 2).sum() + ((factor * hands["t"][region]) ** 2).sum()
        found = table[channel]["nonprompt"]["SM"]
        assert found["value"] == pytest.approx(expected, rel=1e-6)
        assert found["error"] == pytest.approx(np.sqrt(error), rel=1e-6)
        flips = hands["d"][channel, "flips"].sum()
        assert table[channel]["flips"]["SM"]["value"] == pytest.approx(flips, rel=1e-6)
        assert table[channel]["data"]["SM"]["value"] == len(hands["d"][channel, "signal"])
        assert f"{found['value']:.2f} +- {found['error']:.2f}" in text
        block = text.split(channel)[1].split("\n\n")[0].strip().split("\n")[1:]
        rows = dict(line.split("  ", 1) for line in block)
        parts = [at["SM"] for process, at in table[channel].items() if process != "data"]
        total = sum(part["value"] for part in parts), np.hypot.reduce([p["error"] for p in parts])
        assert rows["all expected"].strip() == f"{total[0]:.2f} +- {total[1]:.2f}"
        assert list(rows)[-1] == "data"
    run_combine(processed, {**ANALYSIS, "unblind": False}, {n: DATASETS[n] for n in ("t", "d")})
    assert "data" not in read_json(processed / "y.json")["channels"]["3l"]
    one = combined.select(process="ttbar", channel="3l", systematic="nominal").project()
    assert one.values()[0] == pytest.approx(factor * hands["t"]["3l", "signal"].sum(), rel=1e-6)


def test_squares_at_points_give_the_same_yields_and_errors(
    filesets: dict[str, Fileset], processed: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    analysis = {**ANALYSIS, "squares": "points", "points": {"SM": {}, "c = 1": {"c": 1.0}}}
    run_combine(processed, {**analysis, "squares": "exact"}, DATASETS)
    exact = read_json(processed / "y.json")
    folder = tmp_path_factory.mktemp("points")
    for name, fileset in filesets.items():
        found = accumulated(fileset, squares_of(analysis_of(analysis), ["c"]))
        write_histograms(folder / f"{name}.h5", found, {})
        write_ledger(folder / f"{name}.ledger.json", fileset.original)
    run_combine(folder, analysis, DATASETS)
    for channel, processes in read_json(folder / "y.json")["channels"].items():
        for process, at in processes.items():
            for point, value in at.items():
                assert value == pytest.approx(exact["channels"][channel][process][point])


def test_weights_that_are_no_number_are_told(processed: Path, filesets: dict[str, Fileset]) -> None:
    nothing = accumulated(filesets["t"])["ht"].scaled(np.nan)
    write_histograms(processed / "t.h5", {"ht": nothing}, {})
    with pytest.raises(
        DataFileError, match="dataset t: the weights in ht don't add up to a finite number"
    ):
        run_combine(processed, ANALYSIS, {n: DATASETS[n] for n in ("t", "d")})


def test_years_vary_by_themselves(processed: Path) -> None:
    analysis = copy.deepcopy(ANALYSIS)
    analysis["lumi_ifb"] = {"2017": 2.0, "2018": 3.0}
    analysis["systematics"] = {
        "shape": {"jes": {"correlated": False}},
        "rate": {
            "trigger": {"value": [0.9, 1.2], "correlated": False},
            "of_others": {"value": 1.5, "correlated": False, "processes": ["dy"]},
        },
    }
    combined = run_combine(processed, analysis, DATASETS)
    one = combined.select(process="ttbar").project("systematic")
    total = dict(zip(one.categories("systematic"), one.values()[0], strict=True))
    parts = {}
    for name, lumi in (("t", 2.0), ("u", 3.0)):
        alone = run_combine(
            processed, {**ANALYSIS, "lumi_ifb": lumi}, {name: DATASETS[name], "d": DATASETS["d"]}
        )
        one = alone.select(process="ttbar").project("systematic")
        parts[name] = dict(zip(one.categories("systematic"), one.values()[0], strict=True))
    t, u = parts["t"], parts["u"]
    assert total["nominal"] == pytest.approx(t["nominal"] + u["nominal"])
    assert total["jes_2017Up"] == pytest.approx(t["jesUp"] + u["nominal"])
    assert total["jes_2018Down"] == pytest.approx(t["nominal"] + u["jesDown"])
    assert total["trigger_2017Up"] == pytest.approx(1.2 * t["nominal"] + u["nominal"])
    assert total["trigger_2018Down"] == pytest.approx(t["nominal"] + 0.9 * u["nominal"])
    assert "jesUp" not in total
    assert not [name for name in total if name.startswith("of_others")]
    # the rates move the prediction alone
    assert total.get("nonprompt_rate_muonUp", 0) == 0


def test_sums_of_weights_are_held_against_the_sample_file(
    filesets: dict[str, Fileset], processed: Path
) -> None:
    whole = filesets["t"].original["sum_of_weights"]

    def listed(stated: float) -> dict[str, Any]:
        about = {"events": 6000, "sum_of_weights": stated}
        t = {**DATASETS["t"], "declared_in": "jsons/t.json", "listed": about}
        return {"t": t, "d": DATASETS["d"]}

    right = run_combine(processed, ANALYSIS, listed(whole * (1 + 1e-6)))
    with pytest.raises(DataFileError, match=r"jsons/t\.json: nSumOfWeights: .* the 6000 events"):
        run_combine(processed, ANALYSIS, listed(2 * whole))
    # a file of data that is not listed is missed by nothing else
    events = filesets["d"].original["events"]
    of_data = {**DATASETS["d"], "declared_in": "jsons/d.json", "listed": {"events": events}}
    same = run_combine(processed, ANALYSIS, {**listed(whole), "d": of_data})
    assert same.values().sum() == pytest.approx(right.values().sum(), rel=1e-12)
    of_data["listed"] = {"events": events + 1}
    with pytest.raises(
        DataFileError, match=rf"jsons/d\.json: nEvents: states {events + 1}, but the"
    ):
        run_combine(processed, ANALYSIS, {**listed(whole), "d": of_data})
    skim = {**ANALYSIS, "normalise": "declared"}
    run_combine(processed, skim, {**listed(whole), "d": of_data})
    half = run_combine(processed, skim, listed(2 * whole)).select(process="ttbar")
    np.testing.assert_allclose(2 * half.values(), right.select(process="ttbar").values(), rtol=1e-5)


def test_flip_maps_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "flips.json").write_text(json.dumps(FLIPS))
    found = FlipMap.from_file(tmp_path / "flips.json", "flips")
    assert found.probability(np.array([30.0]), np.array([1.0])) == pytest.approx([0.011])
    with pytest.raises(DataFileError, match="has no correction 'electron'; it has flips"):
        FlipMap.from_file(tmp_path / "flips.json", "electron")
    (tmp_path / "none.json").write_text("{}")
    with pytest.raises(DataFileError, match=r"none\.json: not a correctionlib file"):
        FlipMap.from_file(tmp_path / "none.json", "flips")


def test_three_lines_of_a_notebook(filesets: dict[str, Fileset], tmp_path: Path) -> None:
    listed = {"xsec": 88.0, "year": "2018", "treeName": "Events", "histAxisName": "tt",
              "WCnames": [], "files": [file.url for file in filesets["t"].files],
              "nEvents": 6000, "nSumOfWeights": 1.0, "isData": False}  # fmt: skip
    (tmp_path / "t.json").write_text(json.dumps(listed))
    (tmp_path / "samples.cfg").write_text("t.json")
    channels = {"2l": "n_lep == 2"}
    settings = {
        key: value for key, value in ANALYSIS.items() if key not in ("working_points", "flips")
    }
    settings |= {
        "title": "x", "signal": [], "datasets": {"simulation": ["t"]}, "channels": channels,
    }  # fmt: skip
    (tmp_path / "analysis.yaml").write_text(yaml.safe_dump(settings))
    measured = [REPO / f"config/analyses/{name}.yaml" for name in ("muon", "electron")]
    maps = {}
    for name, one in MAPS.items():
        axes = [hist.axis.Variable(edges, name=n) for edges, n in zip(EDGES, "pe", strict=True)]
        ratio = hist.Hist(*axes, storage=hist.storage.Weight())
        ratio.view().value, ratio.view().variance = one.rate, one.sigma**2
        maps[name] = str(tmp_path / f"{name}.json")
        written = {"ratio": ratio, "ratio_lower": ratio, "ratio_prompt_off": ratio}
        for systematic, pair in one.systematics.items():
            for direction, rate in zip(("up", "down"), pair, strict=True):
                varied = written[f"ratio_{systematic}_{direction}"] = hist.Hist(*axes)
                varied.view()[...] = rate
        write_uhi(maps[name], written, {"empty_bins": []})
    # configuration -> dictionary -> processor
    fileset, processor = configured(
        tmp_path / "analysis.yaml", tmp_path / "samples.cfg", REPO / "config/working_points.yaml",
        measured, maps,
    )  # fmt: skip
    out = Runner(IterativeExecutor(status=False), schema=SkimmedNanoAOD)(fileset, processor)
    expected = accumulated(filesets["t"], channels=channels)["ht"]
    np.testing.assert_allclose(out["ht"].values(flow=True), expected.values(flow=True), rtol=1e-9)
    assert out["cutflow"]["all"] == 6000
    ways = [tmp_path / "samples.cfg", REPO / "config/working_points.yaml", measured, maps]
    for changes, message in (
        ({"observables": {"ht": {**ANALYSIS["observables"]["ht"], "expression": "n_taus"}}},
         "observables.ht.expression: 'n_taus' uses 'n_taus'"),
        ({"sqares": "exact"}, "unknown key 'sqares'; did you mean 'squares'"),
        ({"channels": {"2l": {**ANALYSIS["channels"]["2l"], "lep_chan_lst": [["2l", "no"]]}}},
         "channels.2l.lep_chan_lst: 2l: the cut 'no' is not defined"),
    ):  # fmt: skip
        (tmp_path / "wrong.yaml").write_text(yaml.safe_dump({**settings, **changes}))
        with pytest.raises(ConfigError) as problem:
            configured(tmp_path / "wrong.yaml", *ways)
        assert f"{tmp_path / 'wrong.yaml'}: " in str(problem.value)
        assert message in str(problem.value)
    # data of two primary datasets, which may hold one event
    of_data = {**listed, "isData": True}
    for primary in ("SingleMuon", "EGamma"):
        value = {**of_data, "files": [f"/{primary}.root"]}
        (tmp_path / f"{primary}.json").write_text(json.dumps(value))
    (tmp_path / "data.cfg").write_text("SingleMuon.json\nEGamma.json")
    with pytest.raises(ConfigError, match="SingleMuon and EGamma of 2018 may hold the same events"):
        configured(tmp_path / "analysis.yaml", tmp_path / "data.cfg", *ways[1:])
    # part of the data is as good, here, if it is some trigger's
    both = [{"paths": [path], "primary": [primary]} for path, primary in
            (("HLT_IsoMu24", "SingleMuon"), ("HLT_Ele32_WPTight_Gsf", "EGamma"))]  # fmt: skip
    (tmp_path / "both.yaml").write_text(yaml.safe_dump({**settings, "triggers": both}))
    fileset, _ = configured(tmp_path / "both.yaml", tmp_path / "SingleMuon.json", *ways[1:])
    assert fileset["SingleMuon"]["metadata"]["primary"] == ["SingleMuon"]
    (tmp_path / "both.yaml").write_text(yaml.safe_dump({**settings, "triggers": both[1:]}))
    with pytest.raises(ConfigError, match="'SingleMuon': no trigger has primary SingleMuon"):
        configured(tmp_path / "both.yaml", tmp_path / "SingleMuon.json", *ways[1:])
    # a file that is left out isn't read
    (tmp_path / "t.json").write_text(
        json.dumps({**listed, "files": [*listed["files"], "/bad.root"], "leave_out": ["/bad.root"]})
    )
    fileset, _ = configured(tmp_path / "analysis.yaml", *ways)
    assert list(fileset["t"]["files"]) == listed["files"]
    # 22 coefficients keep no quartics unless they are asked for
    many = {**listed, "WCnames": [f"c{index}" for index in range(22)]}
    (tmp_path / "t.json").write_text(json.dumps(many))
    _, processor = configured(tmp_path / "analysis.yaml", *ways)
    assert processor._empty("ht")._square_columns == 1 + 4 * 22 + 22 * 21 // 2


def test_coefficients_and_their_list_come_together(filesets: dict[str, Fileset]) -> None:
    metadata = {**filesets["t"].metadata, "wc_names": ["c"]}
    processor = TopCoffeaProcessor(analysis_of(ANALYSIS), POINTS, ["c"], maps=MAPS)
    with pytest.raises(ProcessingFailed, match="dataset t: has no EFTfitCoefficients"):
        process_task(processor, chunks_of(filesets["t"], 6000), metadata)


def test_a_branch_that_two_columns_ask_for_is_kept_once() -> None:
    assert choose_branches("f", ["A", "B", "C"], ["A|B", "A", "C"]) == ["A", "B", "C"]


def test_paths_that_the_events_do_not_have(filesets: dict[str, Fileset]) -> None:
    with pytest.raises(ProcessingFailed, match="the events have none of the HLT paths HLT_X"):
        accumulated(filesets["t"], triggers=[{"paths": ["HLT_X"]}])
