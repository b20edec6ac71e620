"""The topcoffea processor and its normalisation, against plain arrays."""

from functools import partial
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
import yaml
from analyses import analysis_of, columns_of, metadata_of
from coffea.processor import IterativeExecutor, Runner
from conftest import REPO
from ledgers import write_ledger
from samples import sample, skimmed

import looseleaf.topcoffea.processor
from looseleaf.cluster import client_for
from looseleaf.efthist import EFTHist
from looseleaf.errors import DataFileError
from looseleaf.files import read_json, write_json
from looseleaf.histograms.coverage import beyond
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.processing.feed import SkimmedNanoAOD
from looseleaf.processing.fileset import Fileset, chunks_of, from_manifest
from looseleaf.processing.runner import Limits, ProcessingFailed, process_task
from looseleaf.processing.stage import DatasetFiles, Running
from looseleaf.topcoffea import process as stage
from looseleaf.topcoffea.processor import TopCoffeaProcessor
from looseleaf.topcoffea.store import read_histograms, write_histograms
from looseleaf.topcoffea.yields import sum_datasets

pytestmark = pytest.mark.slow

POINTS = WorkingPoints(yaml.safe_load((REPO / "config/working_points.yaml").read_text()))
ANALYSIS: dict[str, Any] = yaml.safe_load((REPO / "config/analyses/tth_eft.yaml").read_text())
ANALYSIS["working_points"] = {
    collection: {"loose": point, "tight": point, "momentum": "raw"}
    for collection, point in ANALYSIS["leptons"].items()
}
NAMES = ["ctG", "ctp"]
DATASETS = {
    "e": sample("eft", 6000, wc_names=NAMES, xsec_pb=0.2),
    "t": sample("ttbar", 12_000, files=1, xsec_pb=88.0),
}
POINT = {"ctG": 1.5, "ctp": -2.0}


@pytest.fixture(scope="module")
def filesets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fileset]:
    folder = tmp_path_factory.mktemp("topcoffea")
    found = {}
    for name, dataset in DATASETS.items():
        columns = sorted(columns_of(ANALYSIS, dataset, POINTS))
        manifest = skimmed(folder, name, DATASETS, columns, "nMuon + nElectron >= 1")
        found[name] = from_manifest(name, manifest, metadata_of(ANALYSIS, dataset))
    return found


# events at a time where sums of several chunks are no matter
WHOLE = 20_000
FILLED: dict[tuple[str, ...], dict[str, Any]] = {}


def accumulated(fileset: Fileset, coefficients: list[str] = NAMES) -> dict[str, Any]:
    """What the processor makes of a fileset; made once of each."""
    key = (fileset.request_id, *coefficients)
    if key not in FILLED:
        processor = TopCoffeaProcessor(analysis_of(ANALYSIS), POINTS, coefficients)
        FILLED[key] = process_task(processor, chunks_of(fileset, 1700), fileset.metadata)[0]
    return FILLED[key]


def nominal(filled: EFTHist) -> EFTHist:
    return filled.select(region="signal", systematic="nominal")


def by_hand(
    fileset: Fileset, point: dict[str, float] = POINT
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """H_T and weight at a point of the events in each channel, written out."""
    e = ak.concatenate([uproot.open(file.url)["Events"].arrays() for file in fileset.files])
    muon = (
        (e.Muon_pt > 10) & (abs(e.Muon_eta) < 2.4) & (abs(e.Muon_dxy) < 0.05)
        & (abs(e.Muon_dz) < 0.1) & (e.Muon_sip3d < 4) & e.Muon_mediumId
        & (e.Muon_ptErr / e.Muon_pt < 0.2) & (e.Muon_tightCharge == 2)
        & e.Muon_tightId & (e.Muon_miniPFRelIso_all < 0.16)
    )  # fmt: skip
    electron = (
        (e.Electron_pt > 10) & (abs(e.Electron_eta) < 2.5) & (abs(e.Electron_dxy) < 0.05)
        & (abs(e.Electron_dz) < 0.1) & (e.Electron_sip3d < 4) & e.Electron_convVeto
        & (e.Electron_lostHits == 0) & (e.Electron_tightCharge == 2)
        & e.Electron_mvaFall17V2noIso_WPL & (e.Electron_miniPFRelIso_all < 0.12)
    )  # fmt: skip
    number = ak.sum(muon, axis=1) + ak.sum(electron, axis=1)
    charge = ak.sum(e.Muon_charge[muon], axis=1) + ak.sum(e.Electron_charge[electron], axis=1)
    jet = (e.Jet_pt > 30) & (abs(e.Jet_eta) < 2.4)
    for name, mask in (("Muon", muon), ("Electron", electron)):
        eta, phi = (e[f"{name}_{field}"][mask] for field in ("eta", "phi"))
        pairs = ak.cartesian({"j": ak.local_index(e.Jet_pt), "e": eta}, nested=True)["e"]
        angles = ak.cartesian({"j": ak.local_index(e.Jet_pt), "p": phi}, nested=True)["p"]
        dphi = abs(angles - e.Jet_phi)
        dphi = ak.where(dphi > np.pi, 2 * np.pi - dphi, dphi)
        jet = jet & ak.all(np.hypot(pairs - e.Jet_eta, dphi) > 0.4, axis=2)
    jets = ak.sum(jet, axis=1)
    tags = ak.sum(jet & (e.Jet_btagDeepFlavB > 0.2783), axis=1)
    ht = ak.sum(e.Jet_pt[jet], axis=1)
    fired = e.HLT_IsoMu24 | e.HLT_Ele32_WPTight_Gsf
    if "EFTfitCoefficients" in e.fields:
        a, b = point.get("ctG", 0.0), point.get("ctp", 0.0)
        terms = ak.to_numpy(e.EFTfitCoefficients).astype(float)
        weight = terms @ np.array([1, a, a * a, b, a * b, b * b])
    else:
        weight = ak.to_numpy(e.genWeight).astype(float)
    channels = {
        "2lss_4j": (number == 2) & (abs(charge) == 2) & (jets >= 4) & (tags >= 1),
        "2los_4j": (number == 2) & (charge == 0) & (jets >= 4) & (tags >= 1),
        "3l_2j": (number == 3) & (abs(charge) == 1) & (jets >= 2) & (tags >= 1),
    }
    out = {}
    for name, mask in channels.items():
        kept = ak.to_numpy(mask & fired)
        out[name] = (ak.to_numpy(ht)[kept], weight[kept])
    return out


@pytest.mark.parametrize("name", ["e", "t"])
def test_channels_and_weights_are_those_of_plain_arrays(
    filesets: dict[str, Fileset], name: str
) -> None:
    found = nominal(accumulated(filesets[name])["ht"]).at(POINT)
    edges = ANALYSIS["observables"]["ht"]["edges"]
    seen = 0
    for channel, (ht, weight) in by_hand(filesets[name]).items():
        inside = np.histogram(ht, edges, weights=weight)[0]
        row = found[channel, :]
        np.testing.assert_allclose(row.values(), inside, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(
            row.variances(), np.histogram(ht, edges, weights=weight**2)[0], rtol=1e-6, atol=1e-9
        )
        total = row.view(flow=True).value.sum()
        assert total == pytest.approx(weight.sum(), rel=1e-6)
        seen += len(ht)
    assert seen > 100


@pytest.mark.parametrize("name", ["e", "t"])
def test_where_observables_lie_and_what_events_weigh(
    filesets: dict[str, Fileset], name: str
) -> None:
    analysis = {**ANALYSIS, "observables": {"ht": {**ANALYSIS["observables"]["ht"]}}}
    analysis["observables"]["ht"]["edges"] = [200, 300, 400]
    processor = TopCoffeaProcessor(analysis_of(analysis), POINTS, NAMES)
    fileset = filesets[name]
    found = process_task(processor, chunks_of(fileset, 1700), fileset.metadata)[0]
    hand = by_hand(fileset, {})
    ht, weight = (np.concatenate(parts) for parts in zip(*hand.values(), strict=True))
    there = beyond(found["coverage"], "ht")
    below, above = ht < 200, ht >= 400
    assert (there.below, there.above, there.all) == (below.sum(), above.sum(), len(ht))
    assert min(there.below, there.above) > 5
    share = abs(weight[below | above]).sum() / abs(weight).sum()
    assert there.share == pytest.approx(share, rel=1e-6)
    for channel, (_, of_channel) in hand.items():
        number, spread = (found["entries"][of, channel] for of in ("number", "weight"))
        assert number.value == len(of_channel)
        assert spread.value == pytest.approx(abs(of_channel).sum(), rel=1e-6)
        assert spread.variance == pytest.approx((of_channel**2).sum(), rel=1e-6)


def test_most_events_beyond_an_observables_axis_are_refused(
    filesets: dict[str, Fileset], tmp_path: Path
) -> None:
    ht = {**ANALYSIS["observables"]["ht"], "edges": [1e5, 2e5]}
    analysis = {**ANALYSIS, "observables": {"ht": ht}, "points": {"SM": {}}}
    processor = TopCoffeaProcessor(analysis_of(analysis), POINTS, NAMES)
    fileset = filesets["t"]
    found = process_task(processor, chunks_of(fileset, 1700), fileset.metadata)[0]
    write_histograms(tmp_path / "t.h5", found, {})
    original = {"sum_of_weights": 1.0, "eft_sums": None, "events": 1}
    write_ledger(tmp_path / "t.ledger.json", original)
    outputs = [tmp_path / name for name in ("all.h5", "yields.json", "yields.txt")]
    files = [{"t": str(tmp_path / name)} for name in ("t.h5", "t.ledger.json")]
    with pytest.raises(DataFileError, match=r"of their weights, are outside the edges of ht, 1000"):
        sum_datasets(analysis_of(analysis), {"t": DATASETS["t"]}, *files, *outputs)
    assert not outputs[0].exists()
    sum_datasets(
        analysis_of({**analysis, "allow": {"beyond": ["ht"]}}),
        {"t": DATASETS["t"]},
        *files,
        *outputs,
    )
    (loss,) = read_json(outputs[1])["losses"]
    assert loss["count"] == loss["of"] > 50
    assert loss["allowed"] == "allow.beyond"


@pytest.mark.parametrize("squares", [True, [{}, POINT], False])
def test_histograms_under_coffeas_runner_have_the_same_bits(
    filesets: dict[str, Fileset], squares: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With jets and weights varied; the worker's way in tiles of events of which few are chosen."""
    shape = {**ANALYSIS["systematics"]["shape"], "jer": {"jet_scale": {"up": 1.1, "down": 0.9}}}
    declared = {**ANALYSIS, "systematics": {**ANALYSIS["systematics"], "shape": shape}}
    processor = TopCoffeaProcessor(analysis_of(declared), POINTS, NAMES, squares)
    fileset = filesets["e"]
    files = {file.url: "Events" for file in fileset.files}
    told = {key: value for key, value in fileset.metadata.items() if key != "dataset"}
    listed = {"e": {"files": files, "metadata": told}}
    run = Runner(IterativeExecutor(status=False), schema=SkimmedNanoAOD, chunksize=WHOLE)
    expected = run(listed, processor)
    monkeypatch.setattr(looseleaf.topcoffea.processor, "TILE_EVENTS", 700)
    found, _ = process_task(processor, chunks_of(fileset, WHOLE), fileset.metadata)
    for name in ANALYSIS["observables"]:
        ours, theirs = found[name], expected[name]
        assert set(ours.categories("systematic")) >= {"nominal", "jesUp", "jerDown", "lepton_sfUp"}
        assert ours.terms(flow=True).tobytes() == theirs.terms(flow=True).tobytes()
        for point in ({}, POINT) if squares else ():
            ours_at, theirs_at = (h.variances(point, flow=True) for h in (ours, theirs))
            # a product of matrices rounds by the number of its rows
            np.testing.assert_allclose(ours_at, theirs_at, rtol=1e-12)
    assert found["cutflow"] == expected["cutflow"]


def test_samples_are_brought_to_one_list_of_coefficients(filesets: dict[str, Fileset]) -> None:
    plain = accumulated(filesets["e"])["ht"].at(POINT)
    wider = accumulated(filesets["e"], ["cpt", "ctp", "ctG"])["ht"].at({**POINT, "cpt": 9.0})
    np.testing.assert_allclose(wider.values(), plain.values(), rtol=1e-6)


def test_coefficients_that_do_not_fit_their_list(filesets: dict[str, Fileset]) -> None:
    fileset = filesets["e"]
    processor = TopCoffeaProcessor(analysis_of(ANALYSIS), POINTS, ["ctG"])
    with pytest.raises(ProcessingFailed, match=r"an event has 6 EFTfitCoefficients; .* make 3"):
        process_task(processor, chunks_of(fileset, 1700), {**fileset.metadata, "wc_names": ["ctG"]})


def test_data_counts_once_whatever_datasets_hold_it(filesets: dict[str, Fileset]) -> None:
    """Of each event, the dataset of the first trigger that fired; of simulation, any does."""
    triggers = [
        {"paths": ["HLT_IsoMu24"], "primary": ["SingleMuon"]},
        {"paths": ["HLT_Ele32_WPTight_Gsf"], "primary": ["SingleElectron", "EGamma"]},
    ]
    fileset = filesets["t"]
    events = uproot.concatenate([f"{file.url}:Events" for file in fileset.files])
    muon, electron = (ak.to_numpy(events[trigger["paths"][0]]) for trigger in triggers)
    assert (muon & electron).any()

    def found(order: list[dict[str, Any]], **metadata: Any) -> int:
        processor = TopCoffeaProcessor(
            analysis_of({**ANALYSIS, "triggers": order, "unblind": True}), POINTS, []
        )
        more = {**fileset.metadata, **metadata}
        found, _ = process_task(processor, chunks_of(fileset, WHOLE), more)
        return int(found["cutflow"]["trigger"])

    both = [
        metadata_of(ANALYSIS, {"process": "data", "data": True, "das": das})
        for das in (
            "/SingleMuon/Run2018A-02Apr2020-v1/NANOAOD",
            "/EGamma_A-UL2018/listed-2018/USER",
        )
    ]
    assert [of["primary"] for of in both] == [["SingleMuon"], ["EGamma"]]
    assert [found(triggers, **of) for of in both] == [muon.sum(), (electron & ~muon).sum()]
    assert [found(triggers[::-1], **of) for of in both] == [
        (muon & ~electron).sum(), electron.sum()
    ]  # fmt: skip
    assert found(triggers) == (muon | electron).sum()


def test_triggers_and_thresholds_are_those_of_the_year(filesets: dict[str, Fileset]) -> None:
    mu, ele = ({"paths": [path]} for path in ("HLT_IsoMu24", "HLT_Ele32_WPTight_Gsf"))
    btag = ANALYSIS["jets"]["btag"]

    def found(year: str | None, triggers: list[dict[str, Any]], threshold: Any) -> Any:
        jets = {**ANALYSIS["jets"], "btag": {**btag, "min": threshold}}
        processor = TopCoffeaProcessor(
            analysis_of({**ANALYSIS, "triggers": triggers, "jets": jets}), POINTS, NAMES
        )
        more = {**filesets["t"].metadata, "year": year}
        return process_task(processor, chunks_of(filesets["t"], WHOLE), more)[0]

    by_year = [{**mu, "years": ["2016", "2017"]}, {**ele, "years": ["2018"]}]
    thresholds = {"2017": 0.2, "2018": 0.6}
    expected = {"2017": found(None, [mu], 0.2), "2018": found(None, [ele], 0.6)}
    for year, one in expected.items():
        assert found(year, by_year, thresholds) == one
    assert expected["2017"]["ht"] != expected["2018"]["ht"]
    # nor is a path of another year asked of the files
    dataset = {**DATASETS["t"], "year": "2018"}
    columns = columns_of({**ANALYSIS, "triggers": by_year}, dataset, POINTS)
    assert {name for name in columns if name.startswith("HLT")} == {"HLT_Ele32_WPTight_Gsf"}


def test_what_is_no_number_in_a_channel(filesets: dict[str, Fileset]) -> None:
    """Told by channel and observable, where an event would count."""

    def found(allow: list[str], **changes: Any) -> dict[str, Any]:
        analysis = {**ANALYSIS, "allow": {"not_finite": allow}, **changes}
        processor = TopCoffeaProcessor(analysis_of(analysis), POINTS, [])
        return process_task(processor, chunks_of(filesets["t"], 1700), filesets["t"].metadata)[0]

    plain = found(["x"])
    number = plain["cutflow"]["2los_4j"]
    tags = ANALYSIS["channels"]["2los_4j"]
    ones = f"({tags}) & (n_bjet == 1)"
    single = found(["x"], channels={"a": ones})["cutflow"]["a"]
    assert 0 < single < number
    # 0/0 with one b jet, else one; of interest in events that pass what else is asked for
    ratio = "(n_bjet - 1) / (n_bjet - 1)"
    channels = {"a": f"({tags}) & ({ratio} == 1)"}
    with pytest.raises(
        ProcessingFailed, match=r"a: .* has no finite value .*\[a\] in the analysis"
    ):
        found(["x"], channels=channels)
    allowed = found(["a"], channels=channels)
    assert allowed["cutflow"]["a"] == number - single
    assert allowed["not_finite"] == {"a": {"events": single}}
    drawn = {"r": {"expression": ratio, "label": "r", "edges": [0, 0.5, 2]}}
    with pytest.raises(
        ProcessingFailed, match=r"r: .* has no finite value .*\[r\] in the analysis"
    ):
        found(["x"], channels={"a": tags}, observables=drawn)
    # elsewhere it is of no interest
    assert "not_finite" not in found(
        ["x"], channels={"a": f"({tags}) & (n_bjet > 1)"}, observables=drawn
    )
    with pytest.raises(ProcessingFailed, match=r"a: the cut 'n_jet' should give a yes or no"):
        found(["x"], channels={"a": "n_jet"})


def refusal(folder: Path, **declared: Any) -> str:
    """Why an EFT sample with this declaration isn't processed, before a cluster is started."""
    declarations = {"e": {**DATASETS["e"], "declared_in": "sets.yaml", **declared}}
    files = DatasetFiles(str(folder / "e.manifest.json"), "e.h5", "e.ledger.json")
    # no cluster has this site
    running = Running(
        partial(client_for, {}, 1),
        Limits(1700, 3400),
        str(folder / "tasks.csv"),
        str(folder / "report.html"),
    )
    with pytest.raises(DataFileError) as problem:
        stage.process(analysis_of(ANALYSIS), POINTS.to_json(), declarations, {"e": files}, running)
    return str(problem.value)


def test_declared_coefficients_that_are_not_those_of_the_files(tmp_path: Path) -> None:
    columns = sorted(columns_of(ANALYSIS, DATASETS["e"], POINTS))
    manifest = skimmed(tmp_path, "e", {"e": DATASETS["e"]}, columns)
    manifest.rename(tmp_path / "e.manifest.json")
    assert refusal(tmp_path, wc_names=["ctG"]) == (
        "sets.yaml: e.wc_names: 1 coefficients (ctG) make 3 terms, but an event of the files has 6"
    )
    assert refusal(tmp_path, wc_names=["a", "b", "c"], declared_in="jsons/e.json") == (
        "jsons/e.json: WCnames: 3 coefficients (a, b, c) make 10 terms, but an event of the files "
        "has 6"
    )
    assert refusal(tmp_path, wc_names=[]) == (
        "sets.yaml: e.wc_names: is missing, but the files have EFTfitCoefficients; name their "
        "Wilson "
        "coefficients"
    )
    # also if nobody has asked for them
    manifest = skimmed(tmp_path / "few", "e", {"e": DATASETS["e"]}, ["Muon_pt"])
    manifest.rename(tmp_path / "e.manifest.json")
    assert "e.wc_names: is missing, but the files have" in refusal(tmp_path, wc_names=[])


def test_what_normalises_is_held_against_what_is_declared_before_processing(
    tmp_path: Path,
) -> None:
    columns = sorted(columns_of(ANALYSIS, DATASETS["e"], POINTS))
    manifest = skimmed(tmp_path, "e", {"e": DATASETS["e"]}, columns)
    manifest.rename(tmp_path / "e.manifest.json")
    listed = {"events": 5999, "sum_of_weights": 1.0}
    more = {"declared_in": "jsons/e.json", "listed": listed}
    assert "jsons/e.json: nEvents: states 5999" in refusal(tmp_path, **more)
    listed["events"] = 6000
    assert "jsons/e.json: nSumOfWeights: states 1 for 6000" in refusal(tmp_path, **more)
    # a skim that doesn't say how many coefficients it has
    value = read_json(tmp_path / "e.manifest.json")
    for file in value["files"]:
        file["eft_sums_in"] = None
    write_json(tmp_path / "e.manifest.json", value)
    assert "dataset e: its files have no EFTfitCoefficients from which" in refusal(tmp_path)


def test_files_of_one_sample_with_other_coefficients(tmp_path: Path) -> None:
    columns = sorted(columns_of(ANALYSIS, DATASETS["e"], POINTS))
    path = skimmed(tmp_path, "e", {"e": DATASETS["e"]}, columns)
    value = read_json(path)
    value["files"][1]["eft_sums_in"] = [1.0, 2.0, 3.0]
    write_json(path, value)
    first, second = (file["source"] for file in value["files"])
    with pytest.raises(DataFileError) as problem:
        from_manifest("e", path, {})
    assert str(problem.value) == (
        "dataset e: its files have different numbers of EFTfitCoefficients: "
        f"6 in {first} and 3 in {second}"
    )


def combined(filesets: dict[str, Fileset], folder: Path, **original: Any) -> dict[str, Any]:
    processed, ledgers = {}, {}
    for name, fileset in filesets.items():
        processed[name] = str(folder / f"{name}.h5")
        ledgers[name] = str(folder / f"{name}.ledger.json")
        write_histograms(processed[name], accumulated(fileset), {})
        write_ledger(Path(ledgers[name]), {**fileset.original, **original})
    analysis = {**ANALYSIS, "lumi_ifb": 3.0, "points": {"SM": {}, "p": POINT}}
    sum_datasets(
        analysis_of(analysis),
        DATASETS,
        processed,
        ledgers,
        folder / "h.h5",
        folder / "y.json",
        folder / "y.txt",
    )
    table = read_json(folder / "y.json")
    assert table["card_channels"] == {name: f"ch_{name}" for name in ANALYSIS["channels"]}
    return table["channels"]


def test_yields_are_normalised_to_cross_section_and_luminosity(
    filesets: dict[str, Fileset], tmp_path: Path
) -> None:
    found = combined(filesets, tmp_path)
    for name, process, xsec in (("e", "eft", 0.2), ("t", "ttbar", 88.0)):
        # all original events, not those that the transform kept
        source = [
            uproot.open(path)["Events"].arrays()
            for path in sorted(Path(filesets[name].files[0].url).parents[3].glob(
                f"samples/{name}/*.root"))
        ]  # fmt: skip
        events = ak.concatenate(source)
        if name == "e":
            sum_of_weights = ak.to_numpy(events.EFTfitCoefficients)[:, 0].sum(dtype=float)
        else:
            sum_of_weights = ak.to_numpy(events.genWeight).sum(dtype=float)
        for channel, (_, weight) in by_hand(filesets[name]).items():
            expected = weight.sum() * xsec * 1000 * 3.0 / sum_of_weights
            assert found[channel][process]["p"]["value"] == pytest.approx(expected, rel=1e-6)
            error = np.sqrt((weight**2).sum()) * xsec * 3000 / sum_of_weights
            assert found[channel][process]["p"]["error"] == pytest.approx(error, rel=1e-6)


def test_eft_sample_without_sums_is_not_normalised(
    filesets: dict[str, Fileset], tmp_path: Path
) -> None:
    with pytest.raises(DataFileError, match="dataset e: its files have no EFTfitCoefficients from"):
        combined(filesets, tmp_path, eft_sums=None)


def test_histograms_come_back_from_their_file(filesets: dict[str, Fileset], tmp_path: Path) -> None:
    accumulator = accumulated(filesets["t"])
    write_histograms(tmp_path / "h.h5", accumulator, {"dataset": "t"})
    found, metadata = read_histograms(tmp_path / "h.h5")
    assert (found, metadata) == (accumulator, {"dataset": "t"})
    assert accumulator["cutflow"]["all"] == sum(file.events for file in filesets["t"].files)


def test_files_that_hold_no_histograms(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(DataFileError, match=r"text\.h5: not an HDF5 file"):
        read_histograms(tmp_path / "text.h5")
    with pytest.raises(DataFileError, match=r"none\.h5: no such file"):
        read_histograms(tmp_path / "none.h5")
