"""TTree, RNTuple and Parquet: the same skim, and the same numbers of whatever is made from it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow.parquet as pq
import pytest
import uproot
import yaml
from analyses import analysis_of, columns_of, metadata_of
from coffea.nanoevents import NanoEventsFactory
from conftest import REPO
from samples import qcd, sample, skimmed

from looseleaf.fakerate.processor import FakeRateProcessor
from looseleaf.files import read_json
from looseleaf.nanoaod import open_events
from looseleaf.objects.corrections import Corrections
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.processing.feed import SkimmedNanoAOD
from looseleaf.processing.fileset import Fileset, chunks_of, from_manifest
from looseleaf.processing.ledger import ledger_of
from looseleaf.processing.runner import (
    ChunkReadFailed,
    ProcessingFailed,
    process_task,
)
from looseleaf.servicex.formats import read_original
from looseleaf.servicex.transform import FileTask, TreeQuery, transform_file
from looseleaf.topcoffea.processor import TopCoffeaProcessor

pytestmark = pytest.mark.slow

FORMATS = ("root-file", "root-rntuple", "parquet")
POINTS = WorkingPoints(yaml.safe_load((REPO / "config/working_points.yaml").read_text()))
MUON: dict[str, Any] = yaml.safe_load((REPO / "config/analyses/muon.yaml").read_text())
DATASET = qcd(24_000)
COLUMNS = [*columns_of(MUON, DATASET, POINTS), "Muon_genPartFlav"]
CUT = "(nMuon > 0) & (MET_pt < 30)"

Skims = Mapping[str, Path]


@pytest.fixture(scope="module")
def skims(tmp_path_factory: pytest.TempPathFactory) -> Skims:
    """The manifest of the same skim by format, all of one sample."""
    folder = tmp_path_factory.mktemp("formats")
    samples = folder / "samples"
    return {
        output: skimmed(folder / output, "q", {"q": DATASET}, COLUMNS, CUT, output, samples)
        for output in FORMATS
    }


def processed(fileset: Fileset, chunksize: int = 2800) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fake-rate histograms and the ledger."""
    processor = FakeRateProcessor(analysis_of(MUON), POINTS, Corrections.from_files({}))
    metadata = {**fileset.metadata, "data": False}
    found, records = process_task(processor, chunks_of(fileset, chunksize), metadata)
    return found, ledger_of(fileset, records, {})


def bits(found: Mapping[str, Any]) -> dict[str, bytes]:
    return {name: value.view(flow=True).tobytes() for name, value in found.items()}


def test_fake_rates_are_the_same_to_the_last_bit(skims: Skims) -> None:
    filesets = {output: from_manifest("q", path, {}) for output, path in skims.items()}
    results = {output: processed(fileset) for output, fileset in filesets.items()}
    expected, ledger = results["root-file"]
    assert expected["loose"].sum(flow=True).value > 0
    assert len(expected) > 5
    assert ledger["original"]["events"] == 24_000
    assert 8_000 < ledger["processed"]["events"] < 24_000
    for output, (found, other) in results.items():
        assert bits(found) == bits(expected), output
        # the ledgers agree on all that isn't where, when and how large
        for part in ("original", "expected", "processed", "empty_files"):
            assert other[part] == ledger[part], (output, part)
    folder = skims["root-file"].parent.parent
    weights = np.concatenate(
        [
            uproot.open(path)["Events/genWeight"].array(library="np").astype(float)
            for path in sorted((folder / "samples/q").glob("*.root"))
        ]
    )
    assert ledger["original"]["sum_of_weights"] == pytest.approx(weights.sum(), rel=1e-12)


def test_bytes_read_are_those_of_the_columns(tmp_path: Path) -> None:
    """The ledger says what was asked of the storage: less than the file, more than nothing."""
    for output in FORMATS:
        datasets = {"q": qcd(40_000, files=1)}
        fileset = from_manifest(
            "q",
            skimmed(tmp_path / output, "q", datasets, COLUMNS, CUT, output, tmp_path / "samples"),
            {},
        )
        _, ledger = processed(fileset, 100_000)
        (file,), (chunk,) = fileset.files, ledger["chunks"]
        assert 0.5 * file.bytes < chunk["cost"]["bytes_read"] < file.bytes, output
        # reading one column of the Parquet file takes as much as its footer says
    with open_events(fileset.files[0].url) as file:
        before = file.bytes_read
        rows = file.tree.rows(0, file.tree.num_entries, ["MET_pt"])
        spent = file.bytes_read - before
    groups = pq.read_metadata(fileset.files[0].url)
    number = groups.schema.names.index("MET_pt")
    size = sum(
        groups.row_group(g).column(number).total_compressed_size
        for g in range(groups.num_row_groups)
    )
    assert rows.num_rows == fileset.files[0].events
    assert size <= spent < 1.1 * size


@pytest.mark.parametrize("output", FORMATS)
def test_nanoaod_stays_what_it_is(skims: Skims, output: str) -> None:
    """Counters and run, luminosityBlock, event are there; coffea's NanoAODSchema reads it."""
    fileset = from_manifest("q", skims[output], {})
    source = uproot.open(skims[output].parent.parent / "samples/q/q_0.root")["Events"].arrays()
    wanted = source[(source["nMuon"] > 0) & (source["MET_pt"] < 30)]
    url = fileset.files[0].url
    with open_events(url) as file:
        keys = set(file.tree.keys(recursive=False))
        assert {"nMuon", "nElectron", "nJet", "run", "luminosityBlock", "event"} < keys
        assert file.uuid == fileset.files[0].uuid
    how = {"schemaclass": SkimmedNanoAOD, "mode": "eager"}
    if output == "parquet":
        events = NanoEventsFactory.from_parquet(url, **how).events()
    else:
        events = NanoEventsFactory.from_root({url: "Events"}, **how).events()
    for name in ("pt", "charge", "tightId"):
        assert ak.all(events.Muon[name] == wanted[f"Muon_{name}"])
    for name in ("run", "luminosityBlock", "event"):
        assert ak.all(events[name] == wanted[name])
    assert ak.all(ak.num(events.Muon) == wanted["nMuon"])


@pytest.mark.parametrize("output", FORMATS)
def test_nothing_selected_is_processed_and_normalised(tmp_path: Path, output: str) -> None:
    path = skimmed(tmp_path, "q", {"q": qcd(2000)}, COLUMNS, "MET_pt < 0", output)
    found, ledger = processed(from_manifest("q", path, {}))
    assert found["loose"].sum(flow=True).value == 0
    assert len(ledger["empty_files"]) == 2
    assert ledger["original"]["events"] == 2000
    weights = sum(
        uproot.open(file)["Events/genWeight"].array(library="np").astype(float).sum()
        for file in sorted((tmp_path / "samples/q").glob("*.root"))
    )
    assert ledger["original"]["sum_of_weights"] == pytest.approx(weights, rel=1e-12)


def test_eft_histograms_and_sums_are_the_same(tmp_path: Path) -> None:
    analysis = yaml.safe_load((REPO / "config/analyses/tth_eft.yaml").read_text())
    analysis["working_points"] = {
        collection: {"loose": point, "tight": point, "momentum": "raw"}
        for collection, point in analysis["leptons"].items()
    }
    names = ["ctG", "ctp"]
    dataset = sample("eft", 6000, files=1, wc_names=names, process="ttH")
    columns = sorted(columns_of(analysis, dataset, POINTS))
    found = []
    for output in FORMATS:
        manifest = skimmed(
            tmp_path / output, "e", {"e": dataset}, columns, "nMuon + nElectron >= 1", output,
            tmp_path / "samples",
        )  # fmt: skip
        fileset = from_manifest("e", manifest, metadata_of(analysis, dataset))
        processor = TopCoffeaProcessor(analysis_of(analysis), POINTS, names)
        pieces = chunks_of(fileset, 2500)
        found.append(process_task(processor, pieces, fileset.metadata)[0]["ht"])
        source = uproot.open(tmp_path / "samples/e/e_0.root")["Events"]
        terms = ak.to_numpy(source["EFTfitCoefficients"].array()).astype(float)
        np.testing.assert_allclose(fileset.original["eft_sums"], terms.sum(axis=0), rtol=1e-12)
        theory = terms[:, 0] @ ak.to_numpy(source["PSWeight"].array()).astype(float)
        np.testing.assert_allclose(fileset.original["theory_sums"]["PSWeight"], theory, rtol=1e-12)
    assert found[0].values().sum() > 0
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("output", FORMATS)
def test_another_result_of_the_same_name_is_refused(skims: Skims, output: str) -> None:
    mine, other = from_manifest("q", skims[output], {}).files
    fileset = from_manifest("q", skims[output], {})
    swapped = replace(fileset, files=(replace(mine, url=other.url),))
    with pytest.raises(ProcessingFailed, match="is another file"):
        processed(swapped)


@pytest.mark.parametrize("output", FORMATS)
def test_a_damaged_result_is_named(skims: Skims, tmp_path: Path, output: str) -> None:
    mine = from_manifest("q", skims[output], {}).files[0]
    data = bytearray(Path(mine.url).read_bytes())
    bad = tmp_path / Path(mine.url).name
    half = bytes(len(data) // 2 - 1000)
    wrong = len(data) // 2
    if output == "parquet":
        # its pages are checked when they are read, which some columns aren't
        group = pq.read_metadata(mine.url).row_group(0)
        columns = [group.column(number) for number in range(group.num_columns)]
        wrong = next(c.data_page_offset for c in columns if c.path_in_schema[:7] == "Muon_pt") + 500
    flipped = bytearray(data)
    flipped[wrong] ^= 1
    # cut off, with a hole in it, with one wrong bit; a Parquet file's footer tells of the first
    for content in (data[: len(data) // 2], data[:1000] + half + data[len(data) // 2 :], flipped):
        bad.write_bytes(content)
        fileset = from_manifest("q", skims[output], {})
        with pytest.raises(ChunkReadFailed, match=str(bad)):
            processed(replace(fileset, files=(replace(mine, url=str(bad)),)))


# --- as the input of a transform


def again(path: Path, output: Path, cut: str | None, **more: Any) -> Any:
    query = TreeQuery(patterns=("Muon_*", "MET_pt", "n*"), cut=cut)
    task = FileTask(
        path.name, (str(path),), None, None, None, (query,), str(output), "test", **more
    )
    return transform_file(task)


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("output", FORMATS)
def test_a_skim_of_a_skim(skims: Skims, tmp_path: Path, source: str, output: str) -> None:
    """From any format to any: the events of the cut, and the sums stay those of the original."""
    manifest = read_json(skims[source])
    entry = manifest["files"][0]
    path = Path(manifest["folder"]) / entry["output"]
    ending = ".parquet" if output == "parquet" else ".root"
    result = again(path, tmp_path / f"o{ending}", "(nMuon > 1) & (MET_pt < 20)", format=output)
    events = uproot.open(skims[source].parent.parent / "samples/q/q_0.root")["Events"].arrays()
    wanted = events[(events["nMuon"] > 1) & (events["MET_pt"] < 20)]
    assert result.events_out == len(wanted) > 0
    for name in (
        "events_in",
        "sum_of_weights_in",
        "eft_sums_in",
        "theory_sums_in",
        "lumi_sections",
    ):
        assert getattr(result, name) == entry[name], name
    assert result.source_uuid == entry["uuid"]
    assert read_original(tmp_path / f"o{ending}")["events"] == 12_000
    if output == "parquet":
        found = ak.from_parquet(tmp_path / "o.parquet")
    else:
        found = uproot.open(tmp_path / "o.root")["Events"].arrays()
    for name in ("nMuon", "Muon_pt", "Muon_tightId", "MET_pt", "event"):
        assert ak.all(found[name] == wanted[name]), name


def test_row_groups_without_selected_events_are_not_read(tmp_path: Path) -> None:
    """A file in the order of its events: the cut reads a few row groups, and the weights of all
    where nothing says what the original held."""
    skim = skimmed(tmp_path, "q", {"q": qcd(100_000, files=1)}, COLUMNS, None, "parquet")
    manifest = read_json(skim)
    path = Path(manifest["folder"]) / manifest["files"][0]["output"]
    events = pq.read_table(path, columns=["event", "genWeight"])
    last = events["event"].to_pylist()[90_000]
    cut = f"event >= {last}"
    result = again(path, tmp_path / "a.parquet", cut, format="parquet")
    whole = again(path, tmp_path / "b.parquet", "event >= 0", format="parquet")
    assert (result.events_in, result.events_out, whole.events_out) == (100_000, 10_000, 100_000)
    assert result.cost["bytes_read"] < 0.3 * whole.cost["bytes_read"] < 0.3 * path.stat().st_size
    foreign = tmp_path / "foreign.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata(), foreign, row_group_size=20_000)
    other = again(foreign, tmp_path / "c.parquet", cut, format="parquet")
    weights = events["genWeight"].to_numpy().astype(float)
    assert (other.events_in, other.events_out) == (100_000, 10_000)
    assert other.sum_of_weights_in == pytest.approx(weights.sum(), rel=1e-12)
    assert other.sum_of_weights_out == pytest.approx(weights[90_000:].sum(), rel=1e-12)
    assert other.cost["bytes_read"] < 0.4 * whole.cost["bytes_read"]
