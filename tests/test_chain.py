"""The workflow itself, end to end: the demo, what a change reruns, and what goes wrong."""

import csv
import json
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import correctionlib
import numpy as np
import pytest
import uhi.schema
import uproot
import yaml
from combine_rules import NO_BACKGROUND, read_card
from conftest import REPO, Run, Snakemake, run_snakemake

from looseleaf.histograms.store import read_uhi, write_uhi

pytestmark = pytest.mark.chain

MAPS = ("muon", "muon_data", "electron", "seed2021")
ANALYSES = [f"config/analyses/{name}.yaml" for name in (*MAPS, "closure", "validation", "tth_eft")]


def variant(folder: Path, name: str, file: str = "muon", **changes: Any) -> str:
    """An analysis of the project with some keys changed, as a file of its own."""
    analysis = yaml.safe_load((REPO / f"config/analyses/{file}.yaml").read_text())
    path = folder / f"{name}.yaml"
    # in its order, which tables and pictures keep
    path.write_text(yaml.safe_dump({**analysis, **changes, "name": name}, sort_keys=False))
    return str(path)


def test_every_target_of_the_contract_stands(demo: Path) -> None:
    results = demo / "results"
    for analysis in MAPS:
        for name in ("map.json", "map.root", "map.correctionlib.json"):
            assert (results / "fakerate" / analysis / name).stat().st_size > 0
        for name in ("loose", "tight", "ratio", "projections", "cutflow"):
            for ending in ("png", "pdf"):
                assert (results / "histograms" / analysis / f"{name}.{ending}").is_file()
    for name in ("samples/WJetsToLNu/WJetsToLNu_0.root", "das/WJetsToLNu.json",
                 "servicex/WJetsToLNu.json", "fakerate/muon/QCD_Pt-15to20.json",
                 "fakerate/muon/QCD_Pt-15to20.ledger.json", "topcoffea/tth_eft/ttH_EFT.h5",
                 "fakerate/closure/closure.json",
                 "histograms/closure/closure_2lss_met.png",
                 "histograms/muon_data/prompt_fit.png", "histograms/muon_data/rate_npvs.png",
                 "histograms/muon_data/tight_mt.png", "fakerate/validation/closure.json",
                 "histograms/validation/closure_w_enriched_lep0_mt.png",
                 "topcoffea/tth_eft/yields.json", "benchmark/summary.json",
                 "benchmark/report.html", "config.json"):  # fmt: skip
        assert (results / name).is_file(), name
    manifest = json.loads((results / "servicex/WJetsToLNu.json").read_text())
    folder = results / "volume/transforms" / manifest["request_id"]
    assert (folder / "manifest.json").is_file()
    assert list(results.rglob(".part-*")) == []


@pytest.mark.parametrize("analysis", ["muon", "muon_data", "electron"])
def test_the_measured_map_agrees_with_the_injected_function(demo: Path, analysis: str) -> None:
    found = json.loads((demo / f"results/fakerate/{analysis}/truth.json").read_text())
    assert found["ndf"] == 21
    assert 1e-3 < found["p_value"] < 0.999


def test_a_map_of_a_wrong_selection_is_refused_by_the_same_test(demo: Path) -> None:
    # leptons that aren't isolated count as loose, so what is measured isn't f
    wrong = variant(demo, "wrong", loose="candidate", denominator="candidate")
    override = {"analyses": [*ANALYSES, wrong]}
    run = run_snakemake(demo, "results/fakerate/wrong/truth.json", override=override)
    assert run.status == 0, run.text
    found = json.loads((demo / "results/fakerate/wrong/truth.json").read_text())
    assert found["p_value"] < 1e-6


def closure_p_values(demo: Path, analysis: str) -> dict[str, float]:
    found = json.loads((demo / f"results/fakerate/{analysis}/closure.json").read_text())
    return {
        f"{channel} {name}": table["p_value"]
        for channel, value in found["channels"].items()
        for name, table in value["observables"].items()
    }


def test_the_measured_maps_close(demo: Path) -> None:
    found = json.loads((demo / "results/fakerate/closure/closure.json").read_text())
    assert found["capped_leptons"] == 0
    # one, two and three failing leptons are all there
    assert all(found["channels"]["3l"]["events_by_failing_leptons"][1:4])
    assert min(closure_p_values(demo, "closure").values()) > 1e-3


def test_data_is_what_the_map_and_prompt_simulation_predict(demo: Path) -> None:
    found = json.loads((demo / "results/fakerate/validation/closure.json").read_text())
    table = found["channels"]["w_enriched"]["observables"]["lep0_mt"]
    # both parts matter: without either the prediction would be far off
    assert 0.1 < sum(table["predicted"]) / sum(table["observed"]) < 0.2
    assert sum(table["prompt"]) / sum(table["observed"]) > 0.8
    assert min(closure_p_values(demo, "validation").values()) > 1e-3


def test_the_fit_finds_as_many_prompt_leptons_as_there_are(demo: Path) -> None:
    _, metadata = read_uhi(demo / "results/fakerate/muon_data/map.json")
    fit = metadata["prompt_fit"]
    assert abs(fit["factor"] - 1) < 4 * fit["error"]
    assert fit["error"] < 0.15
    assert fit["p_value"] > 1e-3


def test_a_blind_analysis_shows_no_observation(demo: Path) -> None:
    blind = variant(demo, "blind", "validation", unblind=False)
    override = {"analyses": [*ANALYSES, blind]}
    targets = ("blind/closure.json", "blind/closure_histograms.json")
    targets = tuple(f"results/fakerate/{name}" for name in targets)
    picture = "results/histograms/blind/closure_multijet_lep0_pt.png"
    run = run_snakemake(demo, *targets, picture, override=override)
    assert run.status == 0, run.text
    assert not any("observed" in (demo / target).read_text() for target in targets)
    found, seen = (
        json.loads((demo / f"results/fakerate/{name}/closure.json").read_text())["channels"]
        for name in ("blind", "validation")
    )
    for channel, value in found.items():
        assert value["events_by_failing_leptons"][0] is None
        for name, table in value["observables"].items():
            other = seen[channel]["observables"][name]
            assert table["predicted"] == other["predicted"]
            assert table["prompt"] == other["prompt"]


def test_a_wrong_map_does_not_close(demo: Path) -> None:
    path = demo / "misapplied.yaml"
    analysis = yaml.safe_load((REPO / "config/analyses/closure.yaml").read_text())
    path.write_text(yaml.safe_dump({**analysis, "name": "misapplied"}))
    target = "results/fakerate/misapplied/closure.json"
    override = {"analyses": [*ANALYSES, str(path)]}
    maps = [demo / f"results/fakerate/{name}/map.json" for name in ("muon", "electron")]
    right = [file.read_bytes() for file in maps]
    try:
        for file in maps:
            histograms, metadata = read_uhi(file)
            write_uhi(file, {**histograms, "ratio": histograms["ratio"] * 2.0}, metadata)
        run = run_snakemake(demo, target, override=override)
        assert run.status == 0, run.text
        assert min(closure_p_values(demo, "misapplied").values()) < 1e-4
    finally:
        for file, content in zip(maps, right, strict=True):
            file.write_bytes(content)
    run = run_snakemake(demo, target, override=override)
    assert run.status == 0, run.text
    assert closure_p_values(demo, "misapplied") == closure_p_values(demo, "closure")


def test_ledgers_account_for_every_event_and_weight(demo: Path) -> None:
    for path in (demo / "results").glob("*/*/*.ledger.json"):
        ledger = json.loads(path.read_text())
        assert ledger["processed"]["events"] == ledger["expected"]["events"]
        catalogue = demo / f"results/samples/{ledger['dataset']}/catalogue.json"
        (dataset,) = json.loads(catalogue.read_text())["datasets"].values()
        assert ledger["original"]["events"] == sum(file["events"] for file in dataset["files"])
        if ledger["dataset"] == "SingleMuon":
            continue
        total = 0.0
        for file in dataset["files"]:
            total += uproot.open(file["url"])["Runs/genEventSumw"].array()[0]
        assert ledger["original"]["sum_of_weights"] == pytest.approx(total, rel=1e-9)


def test_the_table_of_tasks_has_a_line_for_each_chunk(demo: Path) -> None:
    for folder in (demo / "results/fakerate/muon", demo / "results/topcoffea/tth_eft"):
        with open(folder / "tasks.csv") as stream:
            rows = list(csv.DictReader(stream))
        ledgers = [json.loads(path.read_text()) for path in folder.glob("*.ledger.json")]
        assert len(rows) == sum(len(ledger["chunks"]) for ledger in ledgers)
        for name in ("events", "bytes_read"):
            spent = sum(chunk["cost"][name] for ledger in ledgers for chunk in ledger["chunks"])
            assert sum(int(row[name]) for row in rows) == spent
        assert all(float(row["read_s"]) > 0 for row in rows if int(row["events"]))


def test_cutflow_begins_with_every_event_that_was_read(demo: Path) -> None:
    folder = demo / "results/fakerate/muon"
    for path in folder.glob("*.ledger.json"):
        ledger = json.loads(path.read_text())
        histograms, _ = read_uhi(folder / f"{ledger['dataset']}.json")
        cutflow = histograms["cutflow"].values()
        assert cutflow[0] == ledger["processed"]["events"]
        assert all(np.diff(cutflow) <= 0)


def test_the_correction_is_the_map(demo: Path) -> None:
    folder = demo / "results/fakerate/muon"
    maps, _ = read_uhi(folder / "map.json")
    correction = correctionlib.CorrectionSet.from_file(str(folder / "map.correctionlib.json"))
    evaluate = correction["muon_fake_rate"].evaluate
    pt, eta = (axis.centers for axis in maps["ratio"].axes)
    found = evaluate("nominal", *np.meshgrid(pt, eta, indexing="ij"))
    np.testing.assert_allclose(found, maps["tight"].values() / maps["loose"].values(), rtol=1e-14)
    with uproot.open(folder / "map.root") as root:
        np.testing.assert_array_equal(root["ratio"].values(), maps["ratio"].values())


def test_seed_preset_loses_half_of_the_muons(demo: Path) -> None:
    # signed eta on an axis that begins at 0: what the corrected selection mends
    maps, _ = read_uhi(demo / "results/fakerate/seed2021/map.json")
    inside = maps["loose"].values().sum()
    everything = maps["cutflow"]["trigger"]
    assert 0.4 < inside / everything < 0.6


def test_yields_are_the_parabola_that_the_cards_hold(demo: Path) -> None:
    folder = demo / "results/topcoffea/tth_eft"
    table = json.loads((folder / "yields.json").read_text())
    assert list(table["channels"]) == ["2lss_4j", "2los_4j", "3l_2j"]
    workspace = json.loads((folder / "workspace.json").read_text())
    names = [channel["name"] for channel in workspace["channels"]]
    assert names == list(table["card_channels"].values())
    for channel, processes in table["channels"].items():
        path = folder / f"datacards/{channel}.txt"
        # a card without a background says which option Combine needs
        options = [NO_BACKGROUND] if NO_BACKGROUND in path.read_text() else []
        card = read_card(path, options, coefficients=["ctG", "ctp"])
        assert card.channels == [table["card_channels"][channel]] == [f"ch_{channel}"]
        rate = {column.process: column.rate for column in card.columns}
        for label, name, c in (
            ("SM", "ctp", 0.0),
            ("ctG = 1", "ctG", 1.0),
            ("ctp = 5", "ctp", 5.0),
        ):
            expected = (
                rate["ttH_sm"] * (1 - c)
                + rate[f"ttH_lin_{name}"] * c
                + rate[f"ttH_quad_{name}"] * (c * c - c)
            )
            assert processes["ttH"][label]["value"] == pytest.approx(expected, rel=1e-9)
        # the three points differ, and a background doesn't know of them
        signal = [processes["ttH"][label]["value"] for label in ("SM", "ctG = 1", "ctp = 5")]
        assert 0 < signal[0] < min(signal[1:])
        assert signal[1] != pytest.approx(signal[2], rel=1e-3)
        for process in ("ttbar", "dy"):
            (value,) = {point["value"] for point in processes[process].values()}
            assert value == pytest.approx(rate.get(process, 0.0), rel=1e-9)


def test_files_of_histograms_are_valid_in_uhis_schema(demo: Path) -> None:
    names = [f"{name}/map.json" for name in MAPS]
    names += [f"{name}/closure_histograms.json" for name in ("closure", "validation")]
    for name in names:
        uhi.schema.validate(uhi.schema.load(demo / "results/fakerate" / name))


def test_what_lies_beyond_axes_stands_in_ledgers_and_maps(demo: Path) -> None:
    results = demo / "results/fakerate"
    losses = json.loads((results / "muon/QCD_Pt-120to170.ledger.json").read_text())["losses"]
    assert [(loss["kind"], loss["name"]) for loss in losses] == [
        ("beyond the axis", "pt"),
        ("beyond the axis", "met"),
    ]
    maps, metadata = read_uhi(results / "seed2021/map.json")
    found = {loss["name"]: loss for loss in metadata["losses"]}
    # half the leptons have a negative eta, which the axis of 2021 had no room for
    eta = found["abs_eta"]
    assert abs(eta["count"] - eta["of"] / 2) < 4 * np.sqrt(eta["of"] / 4)
    assert eta["allowed"] == "allow.beyond"
    inside = maps["loose"].values().sum()
    assert eta["of"] - eta["count"] - found["pt"]["count"] <= inside <= eta["of"] - eta["count"]


def test_nothing_is_done_twice(demo: Path) -> None:
    run = run_snakemake(demo, "-n")
    assert run.status == 0
    assert "Nothing to be done" in run.text


def rerun(demo: Path, **override: Any) -> dict[str, int]:
    run = run_snakemake(demo, "-n", override=override)
    assert run.status == 0, run.text
    return run.jobs


# a new map is applied anew
APPLIED = {
    "application_process_closure": 1,
    "application_closure_closure": 1,
    "histograms_application_closure": 1,
}


def changed(demo: Path, analysis: str, **changes: Any) -> list[str]:
    path = variant(demo, analysis, analysis, **changes)
    return [path if name.endswith(f"/{analysis}.yaml") else name for name in ANALYSES]


def test_a_cut_reruns_what_depends_on_it_and_nothing_else(demo: Path) -> None:
    region = {"met_max": 30, "mt_max": 20}
    jobs = rerun(demo, analyses=changed(demo, "muon", region=region))
    assert jobs == {
        "fakerate_process_muon": 1,
        "fakerate_measure_muon": 1,
        "fakerate_truth_muon": 1,
        **APPLIED,
        "histograms_fakerate_muon": 1,
        "benchmark_report": 1,
        "all": 1,
    }


@pytest.mark.parametrize(
    "changes",
    [{"interval": "uncorrelated"}, {"allow": {"beyond": ["pt"], "empty_bins": True}}],
    ids=["interval", "allow"],
)
def test_what_is_measured_reruns_no_processing(demo: Path, changes: dict[str, Any]) -> None:
    jobs = rerun(demo, analyses=changed(demo, "muon", **changes))
    assert jobs == {
        "fakerate_measure_muon": 1,
        "fakerate_truth_muon": 1,
        **APPLIED,
        "histograms_fakerate_muon": 1,
        "benchmark_report": 1,
        "all": 1,
    }


@pytest.mark.parametrize(
    ("analysis", "first"),
    [("validation", "application_closure_validation"), ("tth_eft", "topcoffea_combine_tth_eft")],
)
def test_what_is_allowed_beyond_an_axis_reruns_no_processing(
    demo: Path, analysis: str, first: str
) -> None:
    jobs = rerun(demo, analyses=changed(demo, analysis, allow={"beyond": ["lep0_pt"]}))
    assert jobs[first] == 1
    assert not [job for job in jobs if "_process" in job]


def test_a_label_reruns_pictures_alone(demo: Path) -> None:
    jobs = rerun(demo, histograms={"label": "Preliminary"})
    assert jobs == {
        **{f"histograms_fakerate_{name}": 1 for name in MAPS},
        "histograms_application_closure": 1,
        "histograms_application_validation": 1,
        "histograms_topcoffea_tth_eft": 1,
        "benchmark_report": 1,
        "all": 1,
    }


def test_a_working_point_reruns_the_analyses_that_use_it(demo: Path) -> None:
    points = yaml.safe_load((REPO / "config/working_points.yaml").read_text())
    points["Muon"]["seed2021_tight"]["cuts"][-1] = "miniPFRelIso_all < 0.12"
    (demo / "points.yaml").write_text(yaml.safe_dump(points, sort_keys=False))
    jobs = rerun(demo, working_points="points.yaml")
    assert jobs == {
        "fakerate_process_seed2021": 1,
        "fakerate_measure_seed2021": 1,
        "histograms_fakerate_seed2021": 1,
        "benchmark_report": 1,
        "all": 1,
    }


def test_where_it_runs_reruns_nothing(demo: Path) -> None:
    for arguments in (
        ["--set-resources", "fakerate_process_muon:dask_workers=7"],
        ["--config", "site=htcondor"],
    ):
        run = run_snakemake(demo, "-n", *arguments)
        assert "Nothing to be done" in run.text
    assert rerun(demo, processing={"chunksize": 1000}) == {}


SMALL = {
    "kind": "fakerate",
    "title": "small",
    "lepton": {"collection": "Muon"},
    "datasets": {"measure": ["small"]},
    "loose": "loose",
    "denominator": "loose",
    "tight": "tight_simple",
    "veto": {},
    "away_jet": {"pt_min": 15, "abs_eta_max": 2.4, "dr_min": 1.0},
    "region": {"met_max": None, "mt_max": None},
    "triggers": [],
    "binning": {"pt": [10, 20, 50], "abs_eta": [0, 1.2, 2.4]},
    "eta": "absolute",
    "momentum": "raw",
    "overflow": "clamp",
    "weights": "counts",
    "interval": "clopper-pearson",
    "name": "small",
}


def small(folder: Path, **dataset: Any) -> dict[str, Any]:
    """The override for one small dataset and analysis; `dataset` changes the declaration."""
    sample = {"kind": "qcd", "flavour": "Muon", "pthat": [20, 30], "events": 20_000, "files": 2}
    declared = {"das": "/small/looseleaf-v1/NANOAODSIM", "process": "qcd", "sample": sample}
    declared |= dataset
    if declared["sample"] is None:
        del declared["sample"]
    (folder / "datasets.yaml").write_text(yaml.safe_dump({"small": declared}))
    (folder / "analysis.yaml").write_text(yaml.safe_dump(SMALL))
    return {
        "datasets": [str(folder / "datasets.yaml")],
        "analyses": [str(folder / "analysis.yaml")],
    }


def refusal(run: Run, target: Path) -> str:
    """What a failed run printed; no traceback, and no target or part of one."""
    assert run.status != 0
    assert "Traceback" not in run.text, run.text
    assert not target.exists()
    assert list(run.folder.rglob(".part-*")) == []
    return run.text


def test_dataset_that_the_catalogue_does_not_know(snakemake: Snakemake, tmp_path: Path) -> None:
    override = small(tmp_path, sample=None)
    text = refusal(snakemake("das", override=override), tmp_path / "results/das/small.json")
    assert "error: dataset /small/looseleaf-v1/NANOAODSIM: the backend catalogue: no cat" in text
    assert "das.catalogues is empty" in text


def test_file_cut_in_half_after_the_lookup(snakemake: Snakemake, tmp_path: Path) -> None:
    override = small(tmp_path)
    assert snakemake("das", override=override).status == 0
    path = tmp_path / "results/samples/small/small_1.root"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    manifest = tmp_path / "results/servicex/small.json"
    text = refusal(snakemake("fakerate", override=override), manifest)
    assert "small_1.root: is cut off: it has" in text
    assert "Copy it again, or leave it out (leave_out of the dataset)" in text


def test_file_that_vanished_after_the_lookup(snakemake: Snakemake, tmp_path: Path) -> None:
    override = small(tmp_path)
    assert snakemake("das", override=override).status == 0
    (tmp_path / "results/samples/small/small_0.root").unlink()
    manifest = tmp_path / "results/servicex/small.json"
    text = refusal(snakemake("fakerate", override=override), manifest)
    assert "small_0.root: no such file; was it moved or deleted?" in text


@pytest.mark.parametrize("damage", ["cut", "one wrong bit"])
def test_result_that_was_damaged_on_the_volume(
    snakemake: Snakemake, tmp_path: Path, damage: str
) -> None:
    override = small(tmp_path)
    assert snakemake("servicex", override=override).status == 0
    (path, _) = sorted((tmp_path / "results/volume").rglob("*.root"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content[:-1000] if damage == "cut" else content)
    text = refusal(
        snakemake("fakerate", override=override), tmp_path / "results/fakerate/small/small.json"
    )
    assert "the manifest says" in text
    assert "make it again (snakemake --forcerun servicex_transform)" in text
    # what the message says to do helps
    healed = snakemake("fakerate", "--forcerun", "servicex_transform", override=override)
    assert healed.status == 0, healed.text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bad_delphes.root", "no Events tree"),
        ("missing_luminosityBlock.root", "the Events tree lacks luminosityBlock"),
    ],
)
def test_real_files_that_are_no_nanoaod(
    snakemake: Snakemake, tmp_path: Path, nanoaod: Path, name: str, message: str
) -> None:
    override = small(tmp_path, sample=None, files=[name])
    override["das"] = {"files_root": str(nanoaod)}
    run = snakemake("fakerate", override=override)
    text = refusal(run, tmp_path / "results/fakerate/small/map.json")
    assert f"{name}: {message}" in text


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes root")
@pytest.mark.parametrize("target", ["samples", "servicex"])
def test_full_disk(snakemake: Snakemake, tmp_path: Path, target: str) -> None:
    override = small(tmp_path)
    if target == "servicex":
        assert snakemake("das", override=override).status == 0
    place = {"samples": "results/samples", "servicex": "results/volume"}[target]
    disk = tmp_path / place
    disk.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        run = snakemake(target, override=override)
        text = refusal(run, tmp_path / "results/servicex/small.json")
        assert "no space left on the disk while writing" in text
        assert str(disk) in text or place in text
        assert list(disk.rglob("*.root")) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_real_nanoaod_through_the_whole_chain(
    snakemake: Snakemake, tmp_path: Path, nanoaod: Path
) -> None:
    override = yaml.safe_load((REPO / "config/real.yaml").read_text())
    override["das"]["files_root"] = str(nanoaod)
    run = snakemake(override=override)
    assert run.status == 0, run.text
    results = tmp_path / "results/real"
    ledger = json.loads((results / "fakerate/real_muon/DYJets_empty.ledger.json").read_text())
    assert ledger["original"]["events"] == ledger["processed"]["events"] == 0
    assert ledger["empty_files"] == ["nano_dy_empty.root"]
    originals = {
        path.name.removesuffix(".ledger.json"): json.loads(path.read_text())["original"]["events"]
        for path in (results / "fakerate/real_muon").glob("*.ledger.json")
    }
    assert originals == {
        # of which 40 are in the file: its tree Runs knows
        "DYJets_2018": 850098,
        "TT_v12": 200,
        "TT_2015_OpenData": 200,
        "DYJets_empty": 0,
    }
    # the same muons, counted by hand from the original files
    loose = tight = 0
    for name in ("nano_dy.root", "nano_tt_v12.root", "nanoAOD_2015_CMS_Open_Data_ttbar.root"):
        a, b = muons_by_hand(uproot.open(nanoaod / name)["Events"].arrays(filter_name=BRANCHES))
        loose, tight = loose + a, tight + b
    maps, _ = read_uhi(results / "fakerate/real_muon/map.json")
    assert (maps["loose"].values().sum(), maps["tight"].values().sum()) == (loose, tight)
    assert loose > 50


BRANCHES = ["nMuon", "nElectron", "nJet", "Muon_*", "Electron_*", "Jet_pt", "Jet_eta", "Jet_phi"]


def muons_by_hand(events: Any) -> tuple[int, int]:
    """Loose and tight muons of config/analyses/real_muon.yaml, event by event in plain Python."""
    loose_count = tight_count = 0
    for e in events:
        loose = []
        for i in range(e["nMuon"]):
            good = (
                e["Muon_pt"][i] > 10 and abs(e["Muon_eta"][i]) < 2.4
                and abs(e["Muon_dxy"][i]) < 0.05 and abs(e["Muon_dz"][i]) < 0.1
                and e["Muon_sip3d"][i] < 4 and e["Muon_mediumId"][i]
                and e["Muon_ptErr"][i] / e["Muon_pt"][i] < 0.2 and e["Muon_tightCharge"][i] == 2
                and e["Muon_miniPFRelIso_all"][i] < 0.4
            )  # fmt: skip
            if good:
                loose.append(i)
        electrons = [
            i
            for i in range(e["nElectron"])
            if e["Electron_pt"][i] > 10 and abs(e["Electron_eta"][i]) < 2.5
            and abs(e["Electron_dxy"][i]) < 0.05 and abs(e["Electron_dz"][i]) < 0.1
            and e["Electron_sip3d"][i] < 4 and e["Electron_convVeto"][i]
            and e["Electron_lostHits"][i] == 0 and e["Electron_tightCharge"][i] == 2
            and e["Electron_miniPFRelIso_all"][i] < 0.4
        ]  # fmt: skip
        if len(loose) != 1 or electrons:
            continue
        (i,) = loose
        for j in range(e["nJet"]):
            dphi = abs(e["Jet_phi"][j] - e["Muon_phi"][i])
            dphi = min(dphi, 2 * np.pi - dphi)
            distance = np.hypot(e["Jet_eta"][j] - e["Muon_eta"][i], dphi)
            if e["Jet_pt"][j] > 15 and abs(e["Jet_eta"][j]) < 2.4 and distance > 1:
                loose_count += 1
                isolated = e["Muon_miniPFRelIso_all"][i] < 0.16
                tight_count += bool(e["Muon_tightId"][i] and isolated)
                break
    return loose_count, tight_count


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRESS]
    plain = subprocess.run(command, capture_output=True, text=True, check=True)
    assert plain.stderr == "stage x: 300 of 300 events, " + plain.stderr.partition("events, ")[2]
    assert plain.stderr.count("\n") == 1
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 100))
    with subprocess.Popen(command, stderr=follower) as process:
        process.wait()
    os.close(follower)
    bar = os.read(leader, 100_000).decode()
    os.close(leader)
    assert "\r" in bar
    assert "100%" in bar
    assert "300/300" in bar
    assert "events/s" in bar


PROGRESS = """
from looseleaf.progress import Progress
with Progress("stage x", 300) as progress:
    for _ in range(3):
        progress.add(100)
"""


def test_skims_of_every_format_give_the_same_map(tmp_path: Path) -> None:
    # so few events leave bins empty
    few = variant(
        tmp_path, "few", datasets={"measure": ["QCD_Pt-20to30"]}, allow={"empty_bins": True}
    )
    target = "results/fakerate/few/map.json"
    maps = []
    for choice in ("root-file", "root-rntuple", "parquet"):
        override = {
            "samples": {"scale": 0.02},
            "analyses": [few],
            "servicex": {"format": choice},
        }
        run = run_snakemake(tmp_path, target, override=override)
        assert run.status == 0, run.text
        manifest = json.loads((tmp_path / "results/servicex/QCD_Pt-20to30.json").read_text())
        assert manifest["request"]["format"] == choice
        maps.append(json.loads((tmp_path / target).read_text()))
    assert maps[0] == maps[1] == maps[2]
