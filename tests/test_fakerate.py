"""The fake-rate processor and measurement: region, variations, cuts, subtraction."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import awkward as ak
import correctionlib
import hist
import numpy as np
import pytest
import uproot
import yaml
from analyses import analysis_of, columns_of
from coffea.nanoevents import NanoEventsFactory
from conftest import REPO
from correctionlib import schemav2
from ledgers import write_ledger
from samples import qcd, sample, skimmed

from looseleaf.cluster import client_for
from looseleaf.errors import ConfigError, DataFileError
from looseleaf.fakerate.axes import beyond_axes
from looseleaf.fakerate.measure import (
    expectation,
    losses_of_variations,
    measure,
    numbers,
    varied,
)
from looseleaf.fakerate.process import process
from looseleaf.fakerate.processor import FakeRateProcessor
from looseleaf.files import adler32, read_json
from looseleaf.histograms.coverage import beyond, dominated, losses_dominated
from looseleaf.histograms.ratio import divide
from looseleaf.histograms.store import read_uhi, write_uhi
from looseleaf.objects.corrections import Corrections
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.processing.feed import SkimmedNanoAOD
from looseleaf.processing.fileset import Fileset, chunks_of, from_manifest
from looseleaf.processing.runner import Limits, ProcessingFailed, process_task
from looseleaf.processing.stage import DatasetFiles, Running

pytestmark = pytest.mark.slow

POINTS = WorkingPoints(yaml.safe_load((REPO / "config/working_points.yaml").read_text()))
MUON: dict[str, Any] = yaml.safe_load((REPO / "config/analyses/muon.yaml").read_text())
DATASETS = {"q": qcd(30_000), "w": sample("wjets", 30_000, files=1, xsec_pb=0.1)}


@pytest.fixture(scope="module")
def filesets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fileset]:
    folder = tmp_path_factory.mktemp("fakerate")
    found = {}
    for name, dataset in DATASETS.items():
        columns = [*columns_of(MUON, dataset, POINTS), "PV_npvs", "Muon_genPartFlav"]
        columns += ["Muon_jetRelIso", "Muon_jetPtRelv2"]
        found[name] = from_manifest(name, skimmed(folder, name, DATASETS, columns), {})
    return found


def result(fileset: Fileset, is_data: bool = False, **changes: Any) -> dict[str, Any]:
    analysis = {**MUON, **changes}
    corrections = Corrections.from_files(analysis.get("corrections", {}))
    processor = FakeRateProcessor(analysis_of(analysis), POINTS, corrections)
    chunks = chunks_of(fileset, 8000)
    return process_task(processor, chunks, {**fileset.metadata, "data": is_data})[0]


def loose_muons(e: ak.Array) -> ak.Array:
    """The working point `loose` of muons, as a mask over plain branches."""
    return (
        (e.Muon_pt > 10) & (abs(e.Muon_eta) < 2.4) & (abs(e.Muon_dxy) < 0.05)
        & (abs(e.Muon_dz) < 0.1) & (e.Muon_sip3d < 4) & e.Muon_mediumId
        & (e.Muon_ptErr / e.Muon_pt < 0.2) & (e.Muon_tightCharge == 2)
        & (e.Muon_miniPFRelIso_all < 0.4)
    )  # fmt: skip


def region(fileset: Fileset, away_pt: float, npvs: int = -1) -> dict[str, np.ndarray]:
    """Branches of the loose muons in the region of config/analyses/muon.yaml, and `is_tight`."""
    muons = region_muons(fileset, away_pt)
    inside = (muons["met"] < 20) & (muons["mt"] < 20) & (muons["npvs"] > npvs)
    return {name: values[inside] for name, values in muons.items()}


def region_muons(fileset: Fileset, away_pt: float) -> dict[str, np.ndarray]:
    """The same without the cuts on missing momentum and transverse mass."""
    found: dict[str, list[np.ndarray]] = {}
    for file in fileset.files:
        e = uproot.open(file.url)["Events"].arrays()
        loose = loose_muons(e)
        electron = (
            (e.Electron_pt > 10) & (abs(e.Electron_eta) < 2.5) & (abs(e.Electron_dxy) < 0.05)
            & (abs(e.Electron_dz) < 0.1) & (e.Electron_sip3d < 4) & e.Electron_convVeto
            & (e.Electron_lostHits == 0) & (e.Electron_tightCharge == 2)
            & (e.Electron_miniPFRelIso_all < 0.4) & e.Electron_mvaFall17V2noIso_WPL
        )  # fmt: skip
        kept = (ak.sum(loose, axis=1) == 1) & ~ak.any(electron, axis=1)
        e, loose = e[kept], loose[kept]
        pt, eta, phi = (e[f"Muon_{name}"][loose][:, 0] for name in ("pt", "eta", "phi"))
        mt = np.sqrt(2 * pt * e.MET_pt * (1 - np.cos(phi - e.MET_phi)))
        dphi = abs(e.Jet_phi - phi)
        dphi = ak.where(dphi > np.pi, 2 * np.pi - dphi, dphi)
        away = (np.hypot(e.Jet_eta - eta, dphi) > 1) & (abs(e.Jet_eta) < 2.4)
        away = ak.any(away & (e.Jet_pt > away_pt), axis=1)
        low = (pt < 25) & (e.HLT_Mu8 | e.HLT_Mu8_TrkIsoVVL)
        high = (pt >= 25) & (e.HLT_Mu17 | e.HLT_Mu17_TrkIsoVVL)
        kept = away & (low | high)
        tight = e.Muon_tightId[loose][:, 0] & (e.Muon_miniPFRelIso_all[loose][:, 0] < 0.16)
        found.setdefault("is_tight", []).append(ak.to_numpy(tight[kept]))
        for name in ("pt", "eta", "jetRelIso", "jetPtRelv2", "miniPFRelIso_all"):
            found.setdefault(name, []).append(ak.to_numpy(e[f"Muon_{name}"][loose][:, 0][kept]))
        for name, values in (("npvs", e.PV_npvs), ("met", e.MET_pt), ("mt", mt)):
            found.setdefault(name, []).append(ak.to_numpy(values[kept]))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def by_hand(fileset: Fileset, away_pt: float, npvs: int = -1) -> tuple[np.ndarray, np.ndarray]:
    """pT of loose and of tight muons in that region."""
    muons = region(fileset, away_pt, npvs)
    return muons["pt"], muons["pt"][muons["is_tight"]]


def in_bins(pt: np.ndarray) -> np.ndarray:
    edges = MUON["binning"]["pt"]
    return np.histogram(np.clip(pt, None, edges[-1] - 1), edges)[0]


def test_region_and_variations_are_those_of_plain_arrays(filesets: Mapping[str, Fileset]) -> None:
    found = result(filesets["q"])
    for variation, threshold in (("nominal", 25), ("away_jet_pt_up", 35), ("away_jet_pt_down", 20)):
        loose, tight = by_hand(filesets["q"], threshold)
        assert len(loose) > 300
        for key, expected in (("loose", loose), ("tight", tight)):
            histogram = found[key][variation, :, :]
            # everything is in the bins: nothing is lost to the flow
            assert histogram.view(flow=True).value.sum() == len(expected)
            np.testing.assert_array_equal(histogram.values().sum(axis=1), in_bins(expected))


def test_a_cut_of_ones_own(filesets: Mapping[str, Fileset]) -> None:
    found = result(filesets["q"], cuts={"good vertex": "PV_npvs > 32"})
    loose, tight = by_hand(filesets["q"], 25, npvs=32)
    assert found["loose"]["nominal", ...].sum().value == len(loose)
    assert found["tight"]["nominal", ...].sum().value == len(tight)
    assert list(found["cutflow"].axes[0])[-2:] == ["good vertex", "trigger"]


def test_a_cut_on_a_counter(filesets: Mapping[str, Fileset]) -> None:
    every, some = (
        result(filesets["q"], cuts={"jets": text})["loose"].sum().value
        for text in ("nJet >= 0", "nJet >= 3")
    )
    assert 0 < some < every


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ("Tau_pt > 3", "an expression uses 'Tau_pt', which isn't a branch of these events"),
        ("Muon_pt > 3", "the cut 'Muon_pt > 3' should give a yes or no for each event"),
        ("MET_pt * 2", "the cut 'MET_pt \\* 2' should give a yes or no for each event"),
    ],
)
def test_a_cut_that_is_none(filesets: Mapping[str, Fileset], cut: str, message: str) -> None:
    with pytest.raises(ProcessingFailed, match=message):
        result(filesets["q"], cuts={"x": cut})


# no number with 25 primary vertices or fewer, else 1
ODD = "sqrt(PV_npvs - 25) / sqrt(PV_npvs - 25)"


def test_what_is_no_number_is_refused_or_a_loss(
    filesets: Mapping[str, Fileset], tmp_path: Path
) -> None:
    events = [uproot.open(file.url)["Events"].arrays() for file in filesets["q"].files]
    one = ak.concatenate([e.PV_npvs[ak.sum(loose_muons(e), axis=1) == 1] for e in events])
    muons = region(filesets["q"], 25)
    odd, filled = int(ak.sum(one <= 25)), int(np.sum(muons["npvs"] <= 25))
    assert 0 < odd < len(one)
    assert 0 < filled < len(muons["npvs"])
    cut, drawn = (
        {"vertices": f"{ODD} == 1"},
        {"share": {"expression": ODD, "label": "x", "edges": [0, 0.5, 2]}},
    )
    with pytest.raises(ProcessingFailed, match=r"vertices: .* has no finite value .*\[vertices\]"):
        result(filesets["q"], cuts=cut)
    with pytest.raises(ProcessingFailed, match=r"share: .* has no finite value .*\[share\]"):
        result(filesets["q"], observables=drawn)
    found = result(filesets["q"], cuts=cut, allow={"not_finite": ["vertices"]})
    assert found["not_finite"] == {"vertices": {"events": odd}}
    kept = len(muons["npvs"]) - filled
    assert found["loose"]["nominal", ...].sum().value == kept
    # in the job it is a loss of the ledger, and no part of the histograms
    allowed = {**MUON, "observables": drawn, "allow": {"not_finite": ["share"]}}
    site = yaml.safe_load((REPO / "config/sites/local.yaml").read_text())
    running = Running(
        partial(client_for, site, 1),
        Limits(8000, 8000),
        str(tmp_path / "t.csv"),
        str(tmp_path / "p.html"),
    )
    manifest = tmp_path / "q.json"
    columns = [*columns_of(allowed, DATASETS["q"], POINTS)]
    skimmed(tmp_path, "q", DATASETS, columns).rename(manifest)
    files = DatasetFiles(str(manifest), str(tmp_path / "q.h.json"), str(tmp_path / "q.l.json"))
    process(analysis_of(allowed), POINTS.to_json(), {"q": DATASETS["q"]}, {"q": files}, running)
    (loss,) = [loss for loss in read_json(files.ledger)["losses"] if loss["kind"] == "not finite"]
    assert (loss["name"], loss["count"], loss["unit"]) == ("share", filled, "leptons")
    assert loss["allowed"] == "allow.not_finite"
    histograms, _ = read_uhi(files.histograms)
    assert "not_finite" not in histograms
    shares = histograms["share"]["loose", :]
    assert shares.values().tolist() == [0, kept]


def test_columns_of_cuts_are_asked_of_the_transform() -> None:
    analysis = {**MUON, "cuts": {"a": "PV_npvs > 1 and nTau == 0"}}
    extra = columns_of(analysis, DATASETS["q"], POINTS) - columns_of(MUON, DATASETS["q"], POINTS)
    assert extra == {"PV_npvs", "nTau|Tau_pt"}


def test_prescales_multiply_what_their_path_recorded(filesets: Mapping[str, Fileset]) -> None:
    low, high = MUON["triggers"]
    plain = result(filesets["q"])["loose"]["nominal", ...]
    prescaled = [{**low, "prescale": 7}, high]
    scaled = result(filesets["q"], True, triggers=prescaled)["loose"]["nominal", ...]
    # 25 GeV is the fourth edge
    factor = np.array([7, 7, 7, 1, 1, 1, 1])[:, None]
    assert plain.values()[:5, 0].all()
    np.testing.assert_allclose(scaled.values(), factor * plain.values(), rtol=1e-12)
    # simulation isn't prescaled
    simulated = result(filesets["q"], False, triggers=prescaled)["loose"]["nominal", ...]
    np.testing.assert_array_equal(simulated.values(), plain.values())


def test_a_momentum_at_the_edge_of_two_triggers_belongs_to_the_upper(
    filesets: Mapping[str, Fileset],
) -> None:
    pt = region(filesets["q"], 25)["pt"].astype(float)
    edge = float(np.sort(pt[pt < 25])[500])
    low, high = MUON["triggers"]
    # what one trigger covers is no other's, in whatever order they stand
    triggers = [
        high,
        {**low, "pt_min": edge, "pt_max": 25, "prescale": 3},
        {**low, "pt_max": edge, "prescale": 7},
    ]
    found = result(filesets["q"], True, triggers=triggers)["loose"]["nominal", ...]
    expected = 7 * (pt < edge).sum() + 3 * ((pt >= edge) & (pt < 25)).sum() + (pt >= 25).sum()
    assert found.values().sum() == expected


def test_spectra_have_no_cut_on_themselves_and_all_others(
    filesets: Mapping[str, Fileset],
) -> None:
    found = result(filesets["q"])
    muons = region_muons(filesets["q"], 25)
    edges = np.linspace(0, 150, 31)
    for name, other in (("met", "mt"), ("mt", "met")):
        kept = muons[other] < 20
        for point, chosen in (("loose", kept), ("tight", kept & muons["is_tight"])):
            expected = np.histogram(muons[name][chosen], edges)[0]
            assert expected[4:].sum() > 10
            np.testing.assert_array_equal(found[name][point, :].values(), expected)


def test_what_is_expected_of_weighted_leptons(filesets: Mapping[str, Fileset]) -> None:
    text = (REPO / "config/demo/truth.json").read_text()
    analysis = {**MUON, "truth": {"correction": MUON["truth"]["correction"]}}
    processor = FakeRateProcessor(analysis_of(analysis), POINTS, Corrections({}, {}), text)
    chunks = chunks_of(filesets["w"], 8000)
    metadata = {**filesets["w"].metadata, "data": False}
    found = process_task(processor, chunks, metadata)[0]
    muons = region(filesets["w"], 25)
    truth = correctionlib.CorrectionSet.from_string(text)[MUON["truth"]["correction"]]
    f = truth.evaluate(muons["pt"].astype(float), abs(muons["eta"]).astype(float))
    # every weight is plus or minus 230
    expected = 230**2 * np.sum(f * (1 - f))
    assert found["expected_variance"].sum() == pytest.approx(expected, rel=1e-9)


def test_leptons_beyond_signed_edges_go_into_the_outer_bins(
    filesets: Mapping[str, Fileset],
) -> None:
    # in single precision -2.1 lies below itself, and what is clamped to it would be lost
    binning = {"pt": [10, 90], "abs_eta": [-2.1, 0, 2.1]}
    found = result(filesets["q"], eta="signed", binning=binning)["loose"]["nominal", ...]
    everything = result(filesets["q"])["loose"]["nominal", ...].view(flow=True).value.sum()
    assert found.values().sum() == everything


def test_the_expectation_is_subtracted_like_the_leptons(tmp_path: Path) -> None:
    axes = [hist.axis.StrCategory(["nominal"], name="variation", overflow=False)]
    axes += [hist.axis.Regular(1, 0, 1, name=name) for name in ("pt", "abs_eta")]

    def histograms(loose: float, expected: float) -> dict[str, hist.Hist]:
        weighted = hist.Hist(*axes, storage=hist.storage.Weight())
        weighted.view().value[...] = weighted.view().variance[...] = loose
        plain = hist.Hist(*axes[1:], storage=hist.storage.Double())
        plain.view()[...] = expected
        return {"loose": weighted, "tight": weighted, "expected": plain, "expected_variance": plain}

    paths = {
        "d": written(tmp_path, "d", histograms(100, 12), 1.0),
        "w": written(tmp_path, "w", histograms(10, 3), 1.0),
    }
    datasets = {"d": {"data": True}, "w": {"data": False, "xsec_pb": 0.001}}
    analysis = {
        **MUON,
        "lumi_ifb": 2.0,
        "systematics": {},
        "datasets": {"measure": ["d"], "subtract": ["w"]},
    }
    found = numbers(
        analysis_of(analysis),
        datasets,
        {name: path for name, (path, _) in paths.items()},
        {name: path for name, (_, path) in paths.items()},
    )
    # 0.001 pb x 2000 /pb / 1: twice what was simulated
    assert found.nominal[1].values().item() == 80
    value, variance = expectation(found.groups)
    assert value.values().item() == 6
    assert variance.values().item() == 12 + 4 * 3


def test_what_is_not_tight_counts_at_its_cone_momentum(filesets: Mapping[str, Fileset]) -> None:
    cone = {"tight": "tight_2016", "momentum": "cone"}
    raw, found = (
        {key: result(filesets["q"], **changes)[key]["nominal", ...] for key in ("loose", "tight")}
        for changes in ({**cone, "momentum": "raw"}, cone)
    )
    # what is tight stays where it is
    np.testing.assert_array_equal(found["tight"].values(), raw["tight"].values())
    muons = region(filesets["q"], 25)
    pt, rel, iso = muons["pt"], muons["jetPtRelv2"], muons["miniPFRelIso_all"]
    ratio = 1 / (1 + muons["jetRelIso"])
    tight = (iso < 0.16) & ((ratio > 0.76) | (rel > 7.2))
    cone_pt = np.where(
        rel > 7.2, pt * (1 + np.maximum(0, iso - 0.16)), np.maximum(pt, pt / ratio * 0.76)
    )
    expected = in_bins(np.where(tight, pt, cone_pt))
    np.testing.assert_array_equal(found["loose"].values().sum(axis=1), expected)
    assert not np.array_equal(found["loose"].values(), raw["loose"].values())


def test_observables_are_those_of_plain_arrays(filesets: Mapping[str, Fileset]) -> None:
    observables = {
        "npvs": {"expression": "PV_npvs", "label": "", "edges": [0, 25, 30, 35, 60]},
        "iso": {"expression": "2 * Muon_miniPFRelIso_all", "label": "", "edges": [0, 0.2, 0.8]},
    }
    found = result(filesets["q"], observables=observables)
    muons = region(filesets["q"], 25)
    for name, values in (("npvs", muons["npvs"]), ("iso", 2 * muons["miniPFRelIso_all"])):
        edges = observables[name]["edges"]
        for point, chosen in (("loose", slice(None)), ("tight", muons["is_tight"])):
            expected = np.histogram(values[chosen], edges)[0]
            np.testing.assert_array_equal(found[name][point, :].values(), expected)


def pileup_file(path: Path) -> Path:
    """Weights by the number of vertices, 2 below 30 and 0.5 above; half of that `down`."""
    content = [2.0, 0.5]
    correction = schemav2.Correction(
        name="vertices",
        version=1,
        inputs=[
            schemav2.Variable(name="number", type="real"),
            schemav2.Variable(name="side", type="string"),
        ],
        output=schemav2.Variable(name="weight", type="real"),
        data=schemav2.Category(
            nodetype="category",
            input="side",
            content=[
                schemav2.CategoryItem(
                    key=key,
                    value=schemav2.Binning(
                        nodetype="binning",
                        input="number",
                        edges=[0, 30, 100],
                        content=[factor * value for value in content],
                        flow="error",
                    ),
                )
                for key, factor in (("nominal", 1.0), ("low", 0.5))
            ],
        ),
    )
    collection = schemav2.CorrectionSet(schema_version=2, corrections=[correction])
    path.write_text(collection.model_dump_json(exclude_unset=True))
    return path


def test_the_region_of_the_fit_is_that_of_plain_arrays(filesets: Mapping[str, Fileset]) -> None:
    wanted = {"pt_min": 15, "met_min": 8, "edges": [0, 10, 30, 200]}
    region = {"met_max": 1, "mt_max": 1}
    found = result(filesets["q"], prompt_fit=wanted, region=region)["prompt_fit"]
    muons = region_muons(filesets["q"], 25)
    chosen = muons["is_tight"] & (muons["pt"] > 15) & (muons["met"] > 8)
    expected = np.histogram(muons["mt"][chosen], wanted["edges"])[0]
    assert expected.sum() > 50
    np.testing.assert_array_equal(found.values(), expected)


def test_the_fit_scales_what_is_subtracted_and_its_error_varies_it(
    filesets: Mapping[str, Fileset], tmp_path: Path
) -> None:
    # data: three times the non-prompt leptons and half the prompt ones that simulation says
    edges = [0, 20, 40, 60, 200]
    analysis = {
        **MUON,
        "lumi_ifb": 1.0,
        "datasets": {"measure": ["d"], "subtract": ["w"], "non_prompt": ["q"]},
        "prompt_fit": {"pt_min": 10, "met_min": 0, "edges": edges},
        "systematics": {"prompt": "fit"},
        "observables": {"n": {"expression": "PV_npvs", "label": "", "edges": [0, 30, 90]}},
    }
    found = {name: result(filesets[name], **analysis) for name in ("q", "w")}
    for name, shape in (("q", [900, 90, 10, 5]), ("w", [50, 100, 800, 100])):
        found[name]["prompt_fit"].view().value[...] = shape
        found[name]["prompt_fit"].view().variance[...] = np.array(shape) / 1000
    found["d"] = {
        key: histogram * 3 + found["w"][key] * 0.5
        for key, histogram in found["q"].items()
        if "cutflow" not in key
    }
    found["d"] |= {key: found["q"][key] for key in ("cutflow", "weighted_cutflow")}
    paths = {name: written(tmp_path, name, histograms, 1.0) for name, histograms in found.items()}
    # 0.001 pb x 1000 /pb / 1: everything counts as it is
    datasets = {
        "d": {"data": True},
        "w": {"data": False, "xsec_pb": 0.001},
        "q": {"data": False, "xsec_pb": 0.001},
    }
    measured = numbers(
        analysis_of(analysis),
        datasets,
        {name: path for name, (path, _) in paths.items()},
        {name: path for name, (_, path) in paths.items()},
    )
    fit = measured.fit
    assert fit is not None
    assert fit.factor == pytest.approx(0.5, rel=1e-2)
    assert fit.non_prompt_factor == pytest.approx(3, rel=1e-2)
    d, w = (found[name]["loose"]["nominal", ...].values() for name in ("d", "w"))
    for variation, factor in (
        ("nominal", fit.factor),
        ("prompt_up", fit.factor + fit.error),
        ("prompt_down", fit.factor - fit.error),
        ("prompt_off", 0),
    ):
        loose = measured.pairs[variation][1].values()
        np.testing.assert_allclose(loose, d - factor * w, rtol=1e-9, atol=1e-6)
    # the observables lose the prompt leptons like the map, and pictures show as many as data has
    left = measured.less_prompt("n", "loose").values()
    d, w = (found[name]["n"]["loose", :].values() for name in ("d", "w"))
    np.testing.assert_allclose(left, d - fit.factor * w, rtol=1e-9, atol=1e-6)
    shown = measured.groups["non_prompt"]["loose"]["nominal", ...].sum().value
    assert shown == pytest.approx(measured.nominal[1].sum().value)
    np.testing.assert_allclose(
        measured.groups["non_prompt"]["prompt_fit"].values(),
        fit.non_prompt_factor * found["q"]["prompt_fit"].values(),
    )


def vertices(path: Path, **changes: Any) -> dict[str, Any]:
    return {
        "file": str(pileup_file(path / "pileup.json")),
        "correction": "vertices",
        "inputs": {"number": "PV_npvs"},
        "choices": {"side": "nominal"},
        "variations": {"down": {"side": "low"}},
        **changes,
    }


def test_corrections_of_events_weigh_loose_and_tight(
    filesets: Mapping[str, Fileset], tmp_path: Path
) -> None:
    corrections = {"pileup": vertices(tmp_path)}
    found = result(filesets["q"], corrections=corrections)
    muons = region(filesets["q"], 25)
    weight = np.where(muons["npvs"] < 30, 2.0, 0.5)
    for variation, factor in (("nominal", 1), ("pileup_down", 0.5)):
        loose = found["loose"][variation, ...].sum()
        assert loose.value == factor * weight.sum()
        assert loose.variance == factor**2 * (weight**2).sum()
        tight = found["tight"][variation, ...].sum().value
        assert tight == factor * weight[muons["is_tight"]].sum()
    # data isn't corrected
    data = result(filesets["q"], True, corrections=corrections)
    assert data["loose"]["nominal", ...].sum().value == len(weight)


def test_corrections_of_loose_leptons_weigh_the_tight_too(
    filesets: Mapping[str, Fileset], tmp_path: Path
) -> None:
    wanted = vertices(tmp_path, of="loose", inputs={"number": "minimum(Muon_pt, 99)"})
    found = result(filesets["q"], corrections={"id": wanted})
    muons = region(filesets["q"], 25)
    weight = np.where(muons["pt"] < 30, 2.0, 0.5)
    assert found["loose"]["nominal", ...].sum().value == weight.sum()
    assert found["tight"]["nominal", ...].sum().value == weight[muons["is_tight"]].sum()
    # so does the last step of the cutflow, in which leptons are counted
    assert found["weighted_cutflow"]["trigger"].value == weight.sum()


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("Jet_pt", "'Jet_pt' should give one number for each event, or for each selected lepton"),
        ("Jet_pt - Muon_pt", "'Jet_pt - Muon_pt' combines lists of different lengths"),
        ("Tau_pt", "an expression uses 'Tau_pt'"),
    ],
)
def test_an_observable_that_is_none(
    filesets: Mapping[str, Fileset], expression: str, message: str
) -> None:
    observables = {"x": {"expression": expression, "label": "", "edges": [0, 1]}}
    with pytest.raises(ProcessingFailed, match=message):
        result(filesets["q"], observables=observables)


def test_a_constant_is_an_observable(filesets: Mapping[str, Fileset]) -> None:
    observables = {"one": {"expression": "1", "label": "", "edges": [0, 2]}}
    found = result(filesets["q"], observables=observables)
    assert found["one"]["loose", :].sum().value == found["loose"]["nominal", ...].sum().value


def test_corrections_of_tight_leptons_weigh_the_tight_alone(
    filesets: Mapping[str, Fileset], tmp_path: Path
) -> None:
    wanted = vertices(tmp_path, of="tight", inputs={"number": "minimum(Muon_pt, 99)"})
    found = result(filesets["q"], corrections={"id": wanted})
    muons = region(filesets["q"], 25)
    assert found["loose"]["nominal", ...].sum().value == len(muons["pt"])
    pt = muons["pt"][muons["is_tight"]]
    assert found["tight"]["nominal", ...].sum().value == np.where(pt < 30, 2.0, 0.5).sum()
    # varied like any other
    assert found["tight"]["id_down", ...].sum().value == np.where(pt < 30, 1.0, 0.25).sum()
    assert found["loose"]["id_down", ...].sum().value == len(muons["pt"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"correction": "pileup"}, r"pileup\.json: has no correction 'pileup'; it has vertices"),
        ({"inputs": {}}, r"corrections\.x\.inputs: 'vertices' takes number, not none"),
        ({"choices": {}}, r"corrections\.x\.choices: 'vertices' takes side, not none"),
        ({"inputs": {"number": "PV_npvs + 90"}}, r"corrections\.x: .*minimum\(\) and maximum"),
        ({"choices": {"side": "up"}}, r"corrections\.x: .*"),
        ({"inputs": {"number": "Muon_pt"}}, r"corrections\.x: 'Muon_pt' has a value for each lept"),
        (
            {"variations": {"up": {"sid": "low"}}},
            r"corrections\.x\.variations\.up: 'sid' isn't a text",
        ),
        ({"file": __file__}, r"test_fakerate\.py: not a correctionlib file"),
    ],
)
def test_corrections_that_do_not_fit(
    filesets: Mapping[str, Fileset], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    wanted = vertices(tmp_path, **changes)
    with pytest.raises((ConfigError, ProcessingFailed), match=message):
        result(filesets["q"], corrections={"x": wanted})


@pytest.mark.parametrize("of", [{}, {"of": "loose"}])
def test_an_input_without_a_value_has_no_weight(
    filesets: Mapping[str, Fileset], tmp_path: Path, of: dict[str, str]
) -> None:
    path = tmp_path / "clamped.json"
    path.write_text(pileup_file(tmp_path / "pileup.json").read_text().replace('"error"', '"clamp"'))
    assert '"clamp"' in path.read_text()
    muons = region(filesets["q"], 25)
    hand = np.where(muons["npvs"] < 30, 2.0, 0.5)
    # an event without electrons has no first one, and 0/0 jets; clamped, both would weigh 0.5
    for number, lost in (("first(Electron_pt)", True), ("(nJet - nJet) / nElectron", True),
                         ("where(nElectron > 0, first(Electron_pt), PV_npvs)", False)):  # fmt: skip
        wanted = {**vertices(tmp_path, inputs={"number": number}), **of, "file": str(path)}
        if lost:
            with pytest.raises(ProcessingFailed, match=r"corrections\.x: number, .* has no finite"):
                result(filesets["q"], corrections={"x": wanted})
            continue
        found = result(filesets["q"], corrections={"x": wanted})
        assert found["loose"]["nominal", ...].sum().value == hand.sum()


def test_weights_that_are_no_numbers(filesets: Mapping[str, Fileset], tmp_path: Path) -> None:
    root = schemav2.Correction(
        name="root",
        version=1,
        inputs=[schemav2.Variable(name="number", type="real")],
        output=schemav2.Variable(name="weight", type="real"),
        data=schemav2.Formula(
            nodetype="formula", expression="sqrt(x)", parser="TFormula", variables=["number"]
        ),
    )
    collection = schemav2.CorrectionSet(schema_version=2, corrections=[root])
    (tmp_path / "root.json").write_text(collection.model_dump_json(exclude_unset=True))
    wanted = {
        "file": str(tmp_path / "root.json"),
        "correction": "root",
        "inputs": {"number": "30 - PV_npvs"},
    }
    with pytest.raises(ProcessingFailed, match=r"corrections\.x: some weights are NaN"):
        result(filesets["q"], corrections={"x": wanted})


def test_columns_of_corrections_are_asked_of_simulation_alone(tmp_path: Path) -> None:
    analysis = {**MUON, "corrections": {"x": vertices(tmp_path)}}
    assert "PV_npvs" in columns_of(analysis, DATASETS["q"], POINTS)
    assert "PV_npvs" not in columns_of(analysis, {**DATASETS["q"], "data": True}, POINTS)


def test_branches_of_a_later_version_are_read_under_their_new_names(
    filesets: Mapping[str, Fileset], tmp_path: Path
) -> None:
    (file, _) = filesets["q"].files
    with uproot.open(file.url) as old, uproot.recreate(tmp_path / "v15.root") as new:
        arrays = old["Events"].arrays()
        columns = {
            f"PF{name}" if name.startswith("MET_") else name: arrays[name]
            for name in arrays.fields
            if "_" not in name or name.partition("_")[0] in ("MET", "PV", "HLT")
        }
        for name in ("Muon", "Electron", "Jet"):
            del columns[f"n{name}"]
            fields = [field for field in arrays.fields if field.startswith(f"{name}_")]
            columns[name] = ak.zip({f.removeprefix(f"{name}_"): arrays[f] for f in fields})
        tree = new.mktree("Events", {name: ak.type(v).content for name, v in columns.items()})
        tree.extend(columns)
        identity = str(new.file.uuid)
    path = tmp_path / "v15.root"
    later = replace(file, url=str(path), uuid=identity, adler32=adler32(path))
    found = []
    for source in (file, later):
        fileset = replace(
            filesets["q"],
            files=(source,),
            metadata={"aliases": {"MET_pt": ["PFMET_pt"], "MET_phi": ["PFMET_phi"]}},
        )
        found.append(result(fileset))
    assert found[0]["loose"].sum().value > 100
    for key in ("loose", "tight", "met", "mt"):
        assert found[0][key] == found[1][key]


def test_counts_ignore_the_generator_weight(filesets: Mapping[str, Fileset]) -> None:
    counted = result(filesets["w"], weights="counts")["loose"]["nominal", ...]
    weighted = result(filesets["w"])["loose"]["nominal", ...]
    assert set(np.unique(counted.view().value % 1)) == {0.0}
    # every weight is plus or minus 230
    np.testing.assert_allclose(weighted.view().variance, counted.view().value * 230**2)


def written(folder: Path, name: str, found: Mapping[str, Any], sumw: float) -> tuple[str, str]:
    write_uhi(folder / f"{name}.json", found, {})
    write_ledger(folder / f"{name}.ledger.json", {"sum_of_weights": sumw})
    return str(folder / f"{name}.json"), str(folder / f"{name}.ledger.json")


def test_subtraction_and_its_variations(filesets: Mapping[str, Fileset], tmp_path: Path) -> None:
    analysis = {
        **MUON,
        "lumi_ifb": 2.0,
        "datasets": {"measure": ["q"], "subtract": ["w"]},
        "systematics": {"prompt": {"up": 1.5, "down": 0.0}, "closure": 0.2, "tilt": {"pt": 0.3}},
    }
    found = {name: result(filesets[name], **analysis) for name in DATASETS}
    sums = {name: filesets[name].original["sum_of_weights"] for name in DATASETS}
    paths = {name: written(tmp_path, name, found[name], sums[name]) for name in DATASETS}
    pairs = numbers(
        analysis_of(analysis),
        DATASETS,
        {name: path for name, (path, _) in paths.items()},
        {name: path for name, (_, path) in paths.items()},
    ).pairs
    q, w = (found[name]["loose"]["nominal", ...].view() for name in ("q", "w"))
    sq, sw = 1.0 * 2000 / sums["q"], 0.1 * 2000 / sums["w"]
    factors = {"nominal": 1, "prompt_up": 1.5, "prompt_down": 0, "prompt_off": 0}
    for variation, factor in factors.items():
        loose = pairs[variation][1].view()
        np.testing.assert_allclose(loose.value, sq * q.value - factor * sw * w.value, rtol=1e-12)
        expected = sq**2 * q.variance + (factor * sw) ** 2 * w.variance
        np.testing.assert_allclose(loose.variance, expected, rtol=1e-12)
    nominal = divide(*pairs["nominal"], "weighted")
    table = varied(analysis_of(analysis), nominal, pairs)
    names = {"prompt_off", "prompt_up", "prompt_down", "closure_up", "closure_down", "pt1", "pt2"}
    assert set(table) == names
    # seven bins of pT: from 30% down to 30% up in equal steps, the middle one untouched
    base = np.where(nominal.empty, 0, nominal.value)
    tilted = np.array([[0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3]]).T
    np.testing.assert_allclose(table["pt1"], base * tilted)
    np.testing.assert_allclose(table["pt2"], base * tilted[::-1])
    np.testing.assert_allclose(table["closure_up"], np.where(nominal.empty, 0, nominal.value * 1.2))
    plain = divide(*pairs["prompt_down"], "weighted")
    np.testing.assert_array_equal(table["prompt_down"][~plain.empty], plain.value[~plain.empty])


def test_a_variation_that_empties_a_bin_keeps_the_nominal_rate() -> None:
    axes = [hist.axis.Regular(2, 0, 2, name="pt"), hist.axis.Regular(1, 0, 1, name="abs_eta")]

    def counts(*values: float) -> hist.Hist:
        out = hist.Hist(*axes, storage=hist.storage.Double())
        out.view()[:, 0] = values
        return out

    pairs = {
        "nominal": (counts(3, 4), counts(10, 8)),
        "away_jet_pt_up": (counts(0, 1), counts(0, 5)),
    }
    analysis = {**MUON, "systematics": {}, "interval": "clopper-pearson"}
    nominal = divide(*pairs["nominal"], "clopper-pearson")
    assert varied(analysis_of(analysis), nominal, pairs)["away_jet_pt_up"].tolist() == [
        [0.3],
        [0.2],
    ]
    (loss,) = losses_of_variations(analysis_of(analysis), nominal, pairs)
    assert (loss.kind, loss.name, loss.count, loss.of) == ("empty bins", "away_jet_pt_up", 1, 2)
    assert loss.message == (
        "with the variation away_jet_pt_up, 1 of 2 bins have no loose lepton and keep the "
        "nominal rate: pt 0 to 1 GeV, abs_eta 0 to 1"
    )


def test_a_cutflow_counts_events_and_scales_their_weights(
    filesets: Mapping[str, Fileset], tmp_path: Path
) -> None:
    found = result(filesets["w"], binning=WIDE)
    (tmp_path / "w").mkdir()
    _, about = measured(
        tmp_path / "w", {"w": found}, lumi_ifb=0.5, datasets={"measure": ["w"]}, weights="xsec"
    )
    table = about["cutflow"]["datasets"]["w"]
    assert table["events"] == found["cutflow"].values().tolist()
    assert table["events"][0] == 30_000
    weighted = 0.5 * found["weighted_cutflow"].values()
    np.testing.assert_allclose(table["weighted"], weighted)


def test_a_sample_without_positive_weights_is_not_normalised(tmp_path: Path) -> None:
    empty = hist.Hist(hist.axis.Regular(1, 0, 1), storage=hist.storage.Weight())
    path, ledger = written(tmp_path, "q", {"loose": empty}, -5.0)
    analysis = {**MUON, "datasets": {"measure": ["q"]}}
    with pytest.raises(DataFileError, match="dataset q: its sum of weights is -5"):
        numbers(analysis_of(analysis), DATASETS, {"q": path}, {"q": ledger})


# --- what a map doesn't hold, or holds without belief

WIDE = {"pt": [10, 20, 90], "abs_eta": [0, 2.4]}
ONE_GROUP: dict[str, Any] = {
    **MUON,
    "lumi_ifb": 1.0,
    "datasets": {"measure": ["q"]},
    "systematics": {},
    "binning": WIDE,
}


def measured(
    folder: Path, found: Mapping[str, Mapping[str, Any]], **changes: Any
) -> tuple[dict[str, hist.Hist], dict[str, Any]]:
    """The map of accumulators by dataset, and its metadata; everything counts as it is."""
    analysis = {**ONE_GROUP, **changes}
    paths = {name: written(folder, name, histograms, 1.0) for name, histograms in found.items()}
    measure(
        analysis_of(analysis),
        {name: {"data": False, "xsec_pb": 0.001} for name in found},
        {name: path for name, (path, _) in paths.items()},
        {name: ledger for name, (_, ledger) in paths.items()},
        folder / "map.json",
        folder / "map.root",
        folder / "map.correctionlib.json",
    )
    return read_uhi(folder / "map.json")


def test_where_leptons_lie_is_that_of_plain_arrays(filesets: Mapping[str, Fileset]) -> None:
    changes = {
        "binning": {"pt": [12, 15, 20], "abs_eta": [0.3, 0.8, 1.4]},
        "observables": {"npvs": {"expression": "PV_npvs", "label": "", "edges": [20, 30, 40]}},
        "prompt_fit": {"pt_min": 10, "met_min": 0, "edges": [5, 10, 20]},
    }
    found = result(filesets["q"], **changes)["coverage"]
    muons = region(filesets["q"], 25)
    fitted = region_muons(filesets["q"], 25)
    fitted = fitted["mt"][fitted["is_tight"]]
    for axis, values, low, high in (
        ("pt", muons["pt"], 12, 20),
        ("abs_eta", abs(muons["eta"]), 0.3, 1.4),
        ("npvs", muons["npvs"], 20, 40),
        ("prompt_fit", fitted, 5, 20),
    ):
        there = beyond(found, axis)
        expected = ((values < low).sum(), (values >= high).sum(), len(values))
        assert (there.below, there.above, there.all) == expected
        assert min(expected) > 5, axis


def test_what_the_spectra_do_not_show_is_counted(filesets: Mapping[str, Fileset]) -> None:
    (file,) = filesets["w"].files
    events = NanoEventsFactory.from_root(
        {file.url: "Events"}, schemaclass=SkimmedNanoAOD, mode="eager",
        metadata={**filesets["w"].metadata, "data": False},
    ).events()  # fmt: skip
    events["MET"] = ak.with_field(events.MET, 5 * events.MET.pt, "pt")
    region = {"met_max": None, "mt_max": None}
    analysis = {**MUON, "region": region, "weights": "counts"}
    found = FakeRateProcessor(analysis_of(analysis), POINTS, Corrections({}, {})).process(events)
    losses = {loss.name: loss for loss in beyond_axes(analysis_of(analysis), found)}
    for name in ("met", "mt"):
        spectrum = found[name]["loose", :]
        above = spectrum[hist.overflow].value
        assert above > 10
        assert (losses[name].count, losses[name].of) == (above, above + spectrum.values().sum())
        assert losses[name].message.endswith("no bin holds them")


@pytest.mark.parametrize(
    ("overflow", "where"),
    [("clamp", "the outermost bins hold them"), ("drop", "no bin holds them")],
)
def test_what_became_of_leptons_beyond_the_axis_is_told(
    filesets: Mapping[str, Fileset], overflow: str, where: str
) -> None:
    changes = {"binning": {"pt": [10, 15, 20], "abs_eta": [0, 2.4]}, "overflow": overflow}
    found = result(filesets["q"], **changes)
    pt = region(filesets["q"], 25)["pt"]
    inside = found["loose"]["nominal", ...].values().sum()
    assert inside == (len(pt) if overflow == "clamp" else (pt < 20).sum())
    (loss,) = beyond_axes(analysis_of({**MUON, **changes}), found)
    assert (loss.name, loss.count, loss.of) == ("pt", (pt >= 20).sum(), len(pt))
    assert loss.message.endswith(where)


def test_edges_in_mev_are_refused(filesets: Mapping[str, Fileset], tmp_path: Path) -> None:
    binning = {"pt": [10000, 20000, 50000], "abs_eta": [0, 2.4]}
    found = {"q": result(filesets["q"], binning=binning)}
    number = len(region(filesets["q"], 25)["pt"])
    message = (
        rf"analysis muon: {number:,} of {number:,} leptons, 100\.0% of their weights, are outside "
        r"the edges of pt, 10000 to 50000, at values between 10 and \d+: are the edges in GeV\?"
    )
    allow = {"beyond": ["pt"]}
    with pytest.raises(DataFileError, match=message):
        measured(tmp_path, found, binning=binning)
    assert not (tmp_path / "map.json").exists()
    # the second bin has nobody in it
    with pytest.raises(DataFileError, match=r"1 of 2 bins have no loose lepton, .*pt 20000 to 50"):
        measured(tmp_path, found, binning=binning, allow=allow)
    _, about = measured(tmp_path, found, binning=binning, allow={**allow, "empty_bins": True})
    assert [(loss["kind"], loss["allowed"]) for loss in about["losses"]] == [
        ("beyond the axis", "allow.beyond"),
        ("empty bins", "allow.empty_bins"),
    ]
    assert about["losses"][0]["count"] == about["losses"][0]["of"] == number


def test_most_is_of_all_datasets_by_their_weights(
    filesets: Mapping[str, Fileset], tmp_path: Path
) -> None:
    # of the first sample most leptons lie beyond, of the second, with a larger cross section, few
    found = {
        "q": result(filesets["q"], binning={"pt": [10, 11, 12], "abs_eta": [0, 2.4]}),
        "r": result(filesets["q"], binning={"pt": [10, 40, 90], "abs_eta": [0, 2.4]}),
    }
    axes = found["r"]["loose"].axes
    for key in ("loose", "tight", "map_entries"):
        other = hist.Hist(*axes, storage=hist.storage.Weight())
        if key == "map_entries":
            other = hist.Hist(found["r"][key].axes[0], *axes[1:], storage=hist.storage.Weight())
        other.view()[...] = found["q"][key].view()
        found["q"][key] = other
    binning = {"pt": [10, 40, 90], "abs_eta": [0, 2.4]}
    datasets = {"measure": ["q", "r"]}
    for name, factor, refused in (("q", 10.0, True), ("r", 10.0, False)):
        scaled = {key: dict(histograms) for key, histograms in found.items()}
        scaled[name]["coverage"] = scaled[name]["coverage"] * factor
        if refused:
            with pytest.raises(DataFileError, match="are outside the edges of pt"):
                measured(tmp_path, scaled, binning=binning, datasets=datasets)
        else:
            measured(tmp_path, scaled, binning=binning, datasets=datasets)


def test_empty_bins_are_named(filesets: Mapping[str, Fileset], tmp_path: Path) -> None:
    binning = {"pt": [10, 20, 90, 900], "abs_eta": [0, 2.4, 3.0]}
    found = {"q": result(filesets["q"], binning=binning)}
    number = len(region(filesets["q"], 25)["pt"])
    message = (
        rf"analysis muon: 4 of 6 bins have no loose lepton, of {number:,} that were counted: "
        r"pt 10 to 20 GeV, abs_eta 2\.4 to 3; pt 20 to 90 GeV, abs_eta 2\.4 to 3; "
        r"pt 90 to 900 GeV, abs_eta 0 to 2\.4; pt 90 to 900 GeV, abs_eta 2\.4 to 3\. Make the bins"
    )
    with pytest.raises(DataFileError, match=message):
        measured(tmp_path, found, binning=binning)
    _, about = measured(tmp_path, found, binning=binning, allow={"empty_bins": True})
    assert about["empty_bins"] == [[0, 1], [1, 1], [2, 0], [2, 1]]


def test_a_map_without_a_lepton(filesets: Mapping[str, Fileset], tmp_path: Path) -> None:
    found = {"q": {key: h * 0 for key, h in result(filesets["q"], binning=WIDE).items()}}
    with pytest.raises(DataFileError, match="analysis muon: no bin has a loose lepton"):
        measured(tmp_path, found, allow={"empty_bins": True})


def test_more_tight_than_loose_is_refused_where_nothing_is_subtracted(
    filesets: Mapping[str, Fileset], tmp_path: Path
) -> None:
    found = {"q": result(filesets["q"], binning=WIDE)}
    loose = found["q"]["loose"]["nominal", ...].values()
    tight = found["q"]["tight"].view()
    # as many of both, but for what is rounded
    tight.value[0, 1, 0] = loose[1, 0] * (1 + 1e-12)
    maps, _ = measured(tmp_path, found)
    assert maps["ratio"].values()[1, 0] == pytest.approx(1)
    tight.value[0, 1, 0] = loose[1, 0] + 2
    for interval in ("weighted", "uncorrelated"):
        message = (
            rf"analysis muon: the tight leptons of pt 20 to 90 GeV, abs_eta 0 to 2\.4 weigh "
            rf"{loose[1, 0] + 2:g}, the loose ones {loose[1, 0]:g} \(variation nominal\): a rate"
        )
        with pytest.raises(DataFileError, match=message):
            measured(tmp_path, found, interval=interval)
    # tight leptons among loose ones whose weights add up to less than nothing
    found["q"]["loose"].view().value[0, 0, 0] = -3.0
    tight.value[0, 1, 0] = 0.0
    with pytest.raises(DataFileError, match=r"pt 10 to 20 GeV, .* the loose ones -3 "):
        measured(tmp_path, found, allow={"empty_bins": True})


def test_a_subtraction_may_leave_a_rate_above_one_and_says_so(
    filesets: Mapping[str, Fileset], tmp_path: Path
) -> None:
    q = result(filesets["q"], binning=WIDE)
    w = {key: histogram * 0 for key, histogram in q.items()}
    loose, tight = (q[key].view().value[0, :, 0] for key in ("loose", "tight"))
    w["loose"].view().value[0, 1, 0] = loose[1] - tight[1] / 2
    groups = {"datasets": {"measure": ["q"], "subtract": ["w"]}}
    maps, about = measured(tmp_path, {"q": q, "w": w}, **groups)
    assert maps["ratio"].values()[1, 0] == pytest.approx(2)
    (loss,) = about["losses"]
    assert loss["kind"] == "rate above one"
    assert loss["message"] == (
        "after the subtraction, the rate in pt 20 to 90 GeV, abs_eta 0 to 2.4 is 2, which is "
        "above one"
    )
    # without the subtraction there is nothing that could make it
    q["tight"].view().value[0, 1, 0] = loose[1] + 5
    with pytest.raises(DataFileError, match=r"\(variation prompt_off\): a rate can't be above one"):
        measured(tmp_path, {"q": q, "w": w}, **groups)


def test_one_weight_among_many_is_told_by_dataset_and_bin(
    filesets: Mapping[str, Fileset], tmp_path: Path
) -> None:
    # a correction that makes the hardest muon weigh 400,000 times what others do
    pt = np.sort(region(filesets["q"], 25)["pt"])
    hardest = f"10 + 40 * (Muon_pt > {(pt[-1] + pt[-2]) / 2})"
    wanted = vertices(tmp_path, of="loose", inputs={"number": hardest})
    text = Path(wanted["file"]).read_text()
    assert text.count("[2.0,0.5]") == 1
    Path(wanted["file"]).write_text(text.replace("[2.0,0.5]", "[1.0,400000.0]"))
    found = result(filesets["q"], binning=WIDE, corrections={"id": wanted})
    (loss,) = losses_dominated(found["entries"], "leptons")
    number = int(in_bins(pt)[2:].sum())
    assert loss.name == "loose"
    assert f"of the sum of {len(pt):,} leptons (loose)" in loss.message
    assert dominated(result(filesets["q"], binning=WIDE)["entries"]) == []
    _, about = measured(tmp_path, {"q": found})
    (loss,) = about["losses"]
    assert loss["kind"] == "one weight dominates"
    assert loss["name"] == "pt 20 to 90 GeV, abs_eta 0 to 2.4"
    assert f"of the sum of {number:,} loose leptons" in loss["message"]
