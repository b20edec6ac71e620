"""The processor that applies a map, against weights made by hand from the file's branches."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
import yaml
from analyses import analysis_of, columns_of
from coffea.nanoevents import NanoEventsFactory
from conftest import REPO
from ledgers import write_ledger
from runners import of_both_runners
from samples import sample, skimmed
from test_fakerate import loose_muons, vertices

from looseleaf.application.closure import write_closure
from looseleaf.application.processor import ApplicationProcessor
from looseleaf.errors import DataFileError
from looseleaf.files import adler32
from looseleaf.histograms.coverage import beyond
from looseleaf.histograms.store import write_uhi
from looseleaf.objects.corrections import Corrections
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.rates import RateMap, losses_beyond_maps
from looseleaf.processing.feed import SkimmedNanoAOD
from looseleaf.processing.fileset import Fileset, chunks_of, from_manifest
from looseleaf.processing.runner import ProcessingFailed, process_task

POINTS = WorkingPoints(yaml.safe_load((REPO / "config/working_points.yaml").read_text()))
ANALYSIS: dict[str, Any] = {
    **yaml.safe_load((REPO / "config/analyses/validation.yaml").read_text()),
    "working_points": {"Muon": {"loose": "loose", "tight": "tight_2016", "momentum": "cone"}},
    "triggers": [],
    "channels": {"one": "n_lep == 1"},
    "observables": {"pt": {"expression": "lep0_pt", "label": "", "edges": [0, 20, 30, 45, 200]}},
}
RATES = RateMap(
    pt_edges=np.array([10.0, 25.0, 40.0, 90.0]),
    eta_edges=np.array([0.0, 1.2, 2.4]),
    rate=np.array([[0.1, 0.2], [0.3, 0.4], [0.0, 0.6]]),
    sigma=np.full((3, 2), 0.01),
    empty=np.array([[False, False], [False, False], [True, False]]),
)
DATASET = sample("wjets", 20_000, files=1)


@pytest.fixture(scope="module")
def fileset(tmp_path_factory: pytest.TempPathFactory) -> Fileset:
    columns = [*columns_of(ANALYSIS, DATASET, POINTS), "PV_npvs"]
    folder = tmp_path_factory.mktemp("application")
    return from_manifest("w", skimmed(folder, "w", {"w": DATASET}, columns), {})


def applied(fileset: Fileset, metadata: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    analysis = {**ANALYSIS, **changes}
    corrections = Corrections.from_files(analysis.get("corrections", {}))
    processor = ApplicationProcessor(analysis_of(analysis), POINTS, {"Muon": RATES}, corrections)
    fileset = replace(fileset, metadata=metadata)
    return process_task(processor, chunks_of(fileset, 6000), fileset.metadata)[0]


def muons(fileset: Fileset) -> dict[str, np.ndarray]:
    """The only loose muon of the events with just one."""
    (file,) = fileset.files
    e = uproot.open(file.url)["Events"].arrays()
    loose = loose_muons(e)
    place = np.flatnonzero(ak.sum(loose, axis=1) == 1)
    e, loose = e[ak.sum(loose, axis=1) == 1], loose[ak.sum(loose, axis=1) == 1]
    names = ("pt", "eta", "jetRelIso", "jetPtRelv2", "miniPFRelIso_all", "genPartFlav")
    found = {name: ak.to_numpy(e[f"Muon_{name}"][loose][:, 0]) for name in names}
    for name in ("genWeight", "luminosityBlock", "PV_npvs"):
        found[name] = ak.to_numpy(e[name])
    found["place"] = place
    ratio = 1 / (1 + found["jetRelIso"])
    iso, rel = found["miniPFRelIso_all"], found["jetPtRelv2"]
    found["tight"] = (iso < 0.16) & ((ratio > 0.76) | (rel > 7.2))
    cone = np.where(
        rel > 7.2,
        found["pt"] * (1 + np.maximum(0, iso - 0.16)),
        np.maximum(found["pt"], found["pt"] / ratio * 0.76),
    )
    found["at"] = np.where(found["tight"], found["pt"], cone)
    row = np.clip(np.searchsorted(RATES.pt_edges, found["at"], side="right") - 1, 0, 2)
    column = (abs(found["eta"]) >= 1.2).astype(int)
    found["rate"], found["empty"] = RATES.rate[row, column], RATES.empty[row, column]
    return found


def expected(found: Mapping[str, np.ndarray], chosen: np.ndarray, weight: Any) -> np.ndarray:
    odds = found["rate"] / (1 - found["rate"])
    edges = ANALYSIS["observables"]["pt"]["edges"]
    return np.histogram(found["at"][chosen], edges, weights=(weight * odds)[chosen])[0]


def test_data_is_weighted_by_what_fails_at_its_cone_momentum(fileset: Fileset) -> None:
    found = muons(fileset)
    fails = ~found["tight"]
    out = applied(fileset, {"data": True, "role": "observe", "aliases": {}})
    values = out["pt.predicted"]["one", :].values()
    np.testing.assert_allclose(values, expected(found, fails, found["genWeight"]), rtol=1e-6)
    assert out["by_failing"]["one", 1] == fails.sum() > 100
    assert out["by_failing"]["one", 0] == found["tight"].sum() > 1000
    # leptons where nothing was measured predict nothing, and are counted
    assert out["unmeasured"].sum() == (fails & found["empty"]).sum() > 5


def test_predictions_are_those_of_coffeas_runner(fileset: Fileset) -> None:
    processor = ApplicationProcessor(
        analysis_of(ANALYSIS), POINTS, {"Muon": RATES}, Corrections({}, {})
    )
    metadata = {"data": False, "role": "predict"}
    ours, theirs = of_both_runners(processor, fileset.files[0].url, **metadata)
    assert ours == theirs


def test_data_outside_certified_sections_does_not_count(fileset: Fileset) -> None:
    found = muons(fileset)
    inside = found["luminosityBlock"] <= 20
    golden = '{"1": [[1, 20]]}'
    metadata = {"data": True, "role": "observe", "aliases": {}, "lumi_mask": golden}
    out = applied(fileset, metadata)
    chosen = ~found["tight"] & inside
    assert 0 < chosen.sum() < (~found["tight"]).sum()
    values = out["pt.predicted"]["one", :].values()
    np.testing.assert_allclose(values, expected(found, chosen, found["genWeight"]), rtol=1e-6)


@pytest.mark.parametrize("role", ["predict", "prompt"])
def test_simulation_counts_by_its_leptons_origin_and_is_corrected(
    fileset: Fileset, tmp_path: Path, role: str
) -> None:
    found = muons(fileset)
    prompt = np.isin(found["genPartFlav"], (1, 15))
    chosen = ~found["tight"] & (prompt == (role == "prompt"))
    assert chosen.sum() > 20
    weight = found["genWeight"] * np.where(found["PV_npvs"] < 30, 2.0, 0.5)
    out = applied(
        fileset,
        {"data": False, "role": role, "aliases": {}},
        corrections={"pileup": vertices(tmp_path)},
    )
    values = out["pt.predicted"]["one", :].values()
    np.testing.assert_allclose(values, expected(found, chosen, weight), rtol=1e-6)


def with_taus(fileset: Fileset, folder: Path) -> Fileset:
    """The same file with every other prompt muon from a tau."""
    (file,) = fileset.files
    with uproot.open(file.url) as old, uproot.recreate(folder / "taus.root") as new:
        arrays = old["Events"].arrays()
        origin = arrays["Muon_genPartFlav"]
        odd = ak.local_index(origin, axis=0) % 2 == 1
        arrays["Muon_genPartFlav"] = ak.values_astype(
            ak.where((origin == 1) & odd, 15, origin), np.uint8
        )
        columns = {
            name: arrays[name]
            for name in arrays.fields
            if "_" not in name or name.partition("_")[0] in ("MET", "PV", "HLT")
        }
        for name in ("Muon", "Jet"):
            columns.pop(f"n{name}", None)
            fields = [field for field in arrays.fields if field.startswith(f"{name}_")]
            columns[name] = ak.zip({f.removeprefix(f"{name}_"): arrays[f] for f in fields})
        tree = new.mktree("Events", {name: ak.type(v).content for name, v in columns.items()})
        tree.extend(columns)
        identity = str(new.file.uuid)
    path = folder / "taus.root"
    changed = replace(file, url=str(path), uuid=identity, adler32=adler32(path))
    return replace(fileset, files=(changed,))


def test_leptons_from_prompt_taus_are_prompt(fileset: Fileset, tmp_path: Path) -> None:
    changed = with_taus(fileset, tmp_path)
    found = muons(changed)
    from_tau = found["genPartFlav"] == 15
    assert from_tau.sum() > 1000
    for role, prompt in (("prompt", True), ("predict", False)):
        out = applied(changed, {"data": False, "role": role, "aliases": {}})
        chosen = (from_tau | (found["genPartFlav"] == 1)) == prompt
        assert out["by_failing"]["one", :].values().sum() == chosen.sum()


def test_where_observables_lie_is_that_of_plain_arrays(fileset: Fileset) -> None:
    found = muons(fileset)
    observables = {"pt": {**ANALYSIS["observables"]["pt"], "edges": [20, 30, 45]}}
    metadata = {"data": True, "role": "observe", "aliases": {}}
    out = applied(fileset, metadata, observables=observables, unblind=True)
    # what fails where nothing was measured, or the rate is 0, has no weight
    counts = found["tight"] | (found["rate"] > 0)
    at = found["at"][counts]
    there = beyond(out["coverage"], "pt")
    assert (there.below, there.above, there.all) == (
        (at < 20).sum(),
        (at >= 45).sum(),
        counts.sum(),
    )
    assert min(there.below, there.above) > 100
    odds = np.where(found["tight"], 1.0, found["rate"] / (1 - found["rate"]))[counts]
    beyond_both = odds[(at < 20) | (at >= 45)].sum() / odds.sum()
    assert there.share == pytest.approx(beyond_both, rel=1e-6)


def test_leptons_beyond_the_map_are_counted(fileset: Fileset) -> None:
    found = muons(fileset)
    low, high = RATES.pt_edges[0], RATES.pt_edges[-1]
    for role, data, chosen in (
        ("observe", True, ~found["tight"]),
        ("prompt", False, ~found["tight"] & np.isin(found["genPartFlav"], (1, 15))),
    ):
        out = applied(fileset, {"data": data, "role": role, "aliases": {}})
        losses = {loss.name: loss for loss in losses_beyond_maps(out["coverage"], {"Muon": RATES})}
        beyond_pt = (found["at"] < low) | (found["at"] >= high)
        loss = losses["maps.Muon.pt"]
        assert (loss.count, loss.of) == ((chosen & beyond_pt).sum(), chosen.sum())
        assert loss.count > 5
        assert loss.message.endswith("they take the rates of the outermost bins")


def test_most_events_beyond_an_observables_axis_are_refused(
    fileset: Fileset, tmp_path: Path
) -> None:
    observables = {"pt": {**ANALYSIS["observables"]["pt"], "edges": [20_000, 30_000]}}
    metadata = {"data": False, "role": "predict", "aliases": {}}
    found = applied(fileset, metadata, observables=observables)
    write_uhi(tmp_path / "w.json", found, {})
    write_ledger(tmp_path / "w.ledger.json", {"sum_of_weights": 1.0})
    analysis = {**ANALYSIS, "observables": observables, "datasets": {"predict": ["w"]}}
    files = ({"w": str(tmp_path / name)} for name in ("w.json", "w.ledger.json"))
    outputs = tmp_path / "histograms.json", tmp_path / "closure.json"
    with pytest.raises(
        DataFileError, match=r"events, 100\.0% of their weights, are outside .* pt, "
    ):
        write_closure(analysis_of(analysis), {"w": DATASET}, {}, *files, *outputs)
    assert not outputs[0].exists()


def test_a_blind_analysis_does_not_look_at_tight_data(fileset: Fileset) -> None:
    metadata = {"data": True, "role": "observe", "aliases": {}}
    seen, blind = (applied(fileset, metadata, unblind=value) for value in (True, False))
    assert blind["pt.predicted"] == seen["pt.predicted"]
    assert seen["pt.observed"].sum().value != 0
    assert blind["pt.observed"].sum().value == 0
    assert blind["by_failing"]["one", 0] == 0


def test_a_channel_that_is_no_yes_or_no(fileset: Fileset) -> None:
    metadata = {"data": True, "role": "observe", "aliases": {}}
    with pytest.raises(Exception, match="all: the cut 'n_lep' should give a yes or no for"):
        applied(fileset, metadata, channels={"all": "n_lep"})


@pytest.mark.parametrize(("role", "counts"), [("prompt", (1, 15)), ("predict", (5, 3))])
def test_a_muon_from_a_prompt_tau_is_prompt(
    fileset: Fileset, role: str, counts: tuple[int, ...]
) -> None:
    """Of NanoAOD's origins, 1 and 15 are prompt, b and light quarks aren't: all of them in turn."""
    (file,) = fileset.files
    metadata = {"data": False, "role": role, "aliases": {}}
    events = NanoEventsFactory.from_root(
        {file.url: "Events"}, schemaclass=SkimmedNanoAOD, mode="eager", metadata=metadata
    ).events()
    origin = np.resize([1, 15, 5, 3, 15], len(events))
    muon = events.Muon
    flavour = ak.broadcast_arrays(origin, muon.charge)[0]
    events["Muon"] = ak.with_field(muon, flavour, "genPartFlav")
    processor = ApplicationProcessor(
        analysis_of(ANALYSIS), POINTS, {"Muon": RATES}, Corrections.from_files({})
    )
    out = processor.process(events)
    found = muons(fileset)
    chosen = ~found["tight"] & np.isin(origin[found["place"]], counts)
    assert chosen.sum() > 20
    values = out["pt.predicted"]["one", :].values()
    np.testing.assert_allclose(values, expected(found, chosen, found["genWeight"]), rtol=1e-6)


def test_a_momentum_that_is_infinite_is_told(fileset: Fileset) -> None:
    """By the name of the point, and by that of the observable that is drawn of it."""
    declared = copy.deepcopy(POINTS.to_json())
    declared["Muon"]["tight_2016"]["cone_pt"] = "pt / (charge + 1)"
    metadata = {"data": False, "role": "predict", "aliases": {}}

    def found(*names: str) -> dict[str, Any]:
        analysis = {**ANALYSIS, "allow": {"not_finite": list(names)}}
        maps = {"Muon": RATES}
        processor = ApplicationProcessor(
            analysis_of(analysis), WorkingPoints(declared), maps, Corrections.from_files({})
        )
        chunks = chunks_of(replace(fileset, metadata=metadata), 20_000)
        return process_task(processor, chunks, metadata)[0]

    e = uproot.open(fileset.files[0].url)["Events"].arrays()
    loose, ratio = loose_muons(e), 1 / (1 + e.Muon_jetRelIso)
    tight = (e.Muon_miniPFRelIso_all < 0.16) & ((ratio > 0.76) | (e.Muon_jetPtRelv2 > 7.2))
    endless = loose & ~tight & (e.Muon_charge == -1)
    single = (ak.sum(loose, axis=1) == 1) & ~ak.all(
        (abs(e.Muon_genPartFlav) == 1) | (e.Muon_genPartFlav == 15) | ~loose, axis=1
    )
    number, drawn = int(ak.sum(endless)), int(ak.sum(ak.any(endless, axis=1) & single))
    assert 0 < drawn < number
    cone = "Muon.tight_2016.cone_pt"
    with pytest.raises(ProcessingFailed, match=rf"{cone}: .* in {number} of \d+ leptons"):
        found()
    with pytest.raises(ProcessingFailed, match=rf"pt: 'lep0_pt' .* in {drawn} of \d+ events"):
        found(cone)
    both = found(cone, "pt")["not_finite"]
    assert both == {cone: {"leptons": number}, "pt": {"events": drawn}}
