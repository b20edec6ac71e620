"""Files that a dataset leaves out by name: a loss from the lookup to the ledger, and no bias."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot
import yaml
from analyses import analysis_of
from conftest import Snakemake
from samples import REPO, SETTINGS, TRUTH, qcd

from looseleaf.config.listed import read_samples, write_sample_catalogue
from looseleaf.das.lookup import lookup
from looseleaf.errors import DataFileError, LookupFailed
from looseleaf.files import read_json
from looseleaf.processing.fileset import from_manifest
from looseleaf.processing.ledger import ledger_of
from looseleaf.samples.generate import generate
from looseleaf.servicex.embedded import Embedded
from looseleaf.servicex.request import request_from_das
from looseleaf.servicex.submission import transform
from looseleaf.stage_files import FileRecord, write_catalogue
from looseleaf.topcoffea.normalisation import factors_of

pytestmark = pytest.mark.slow

A, B, C = (FileRecord(f"/store/{n}.root", 100 + i, 10 + i, None) for i, n in enumerate("abc"))


def looked_up(folder: Path, *records: FileRecord, leave_out: list[str]) -> dict[str, Any]:
    write_catalogue(folder / "catalogue.json", {"/A/B/C": records})
    lookup("/A/B/C", folder / "das.json", [folder / "catalogue.json"], leave_out=leave_out)
    return read_json(folder / "das.json")


def test_a_file_is_marked_and_not_counted(tmp_path: Path) -> None:
    out = looked_up(tmp_path, A, B, C, leave_out=["/store/b.root"])
    assert out["summary"] == {
        "files": 2,
        "invalid_files": 0,
        "left_out_files": 1,
        "events": 22,
        "bytes": 202,
    }
    assert [file["left_out"] for file in out["files"]] == [False, True, False]
    # what is taken in again has been added
    again = looked_up(tmp_path, A, B, C, leave_out=["/store/c.root"])
    changes = again["changes"]
    assert changes["added"] == ["/store/b.root"]
    assert changes["left_out"] == ["/store/c.root"]
    assert changes["altered"] == changes["removed"] == changes["invalidated"] == []
    # what was left out before is so still
    third = looked_up(tmp_path, A, C, leave_out=["/store/c.root"])["changes"]
    assert (third["removed"], third["left_out"]) == (["/store/b.root"], [])
    looked_up(tmp_path, A, B, C, leave_out=["/store/c.root"])
    request = request_from_das(tmp_path / "das.json", ["run"], None, "root-file", "1", ["/data"])
    assert [source.record.name for source in request.sources] == [A.name, B.name]
    assert request.losses() == [{"name": "/store/c.root", "events": 12}]
    # what is invalid is no loss
    looked_up(tmp_path, A, B, replace(C, valid=False), leave_out=["/store/c.root"])
    request = request_from_das(tmp_path / "das.json", ["run"], None, "root-file", "1", ["/data"])
    assert request.losses() == []


def test_a_name_that_the_dataset_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(
        LookupFailed,
        match=r"/A/B/C: leave_out: it has no file '/store/d.root'; did you mean /store/[abc].root",
    ):
        looked_up(tmp_path, A, B, C, leave_out=["/store/d.root"])
    with pytest.raises(LookupFailed, match=r"no file 'x'$"):
        looked_up(tmp_path, A, B, leave_out=["x"])
    assert not (tmp_path / "das.json").exists()


def test_all_files(tmp_path: Path) -> None:
    with pytest.raises(LookupFailed, match=r"/A/B/C: leave_out names all of its valid files"):
        looked_up(tmp_path, A, B, leave_out=[A.name, B.name])


def test_a_file_that_cannot_be_opened_is_not(tmp_path: Path) -> None:
    for name, events in (("a.root", 3), ("b.root", 4)):
        with uproot.recreate(tmp_path / name) as root:
            root.mktree("Events", {"run": "u4"}).extend({"run": np.ones(events, "u4")})
    (tmp_path / "b.root").write_bytes(b"no ROOT file")
    output = tmp_path / "das.json"
    lookup("/A/B/C", output, files=["*.root"], files_root=tmp_path, leave_out=["b.root"])
    kept, left = read_json(output)["files"]
    assert (kept["name"], kept["events"], kept["left_out"]) == ("a.root", 3, False)
    assert (left["name"], left["events"], left["bytes"]) == ("b.root", None, 12)
    assert left["left_out"] is True


COLUMNS = ["run", "luminosityBlock", "event", "genWeight", "Muon_pt"]


def made(folder: Path, leave_out: list[str]) -> Path:
    """The manifest of three files without those that are left out."""
    datasets = {"q": qcd(3000, files=3)}
    catalogue = folder / "samples/q/catalogue.json"
    if not catalogue.exists():
        generate("q", datasets, SETTINGS, catalogue, TRUTH)
    das, manifest = folder / "das.json", folder / "manifest.json"
    lookup(datasets["q"]["das"], das, [catalogue], leave_out=leave_out)
    request = request_from_das(das, COLUMNS, None, "root-file", "test", [])
    transform(request, folder / "volume", "sub", manifest, Embedded(1), "q")
    return manifest


def test_the_loss_is_in_manifest_fileset_and_ledger(tmp_path: Path) -> None:
    whole = read_json(made(tmp_path, []))
    assert whole["left_out"] == []
    first, left, last = whole["files"]
    manifest = made(tmp_path, [left["source"]])
    value = read_json(manifest)
    assert value["left_out"] == [{"name": left["source"], "events": 1000}]
    # what was made of the others is used again
    assert value["request_id"] != whole["request_id"]
    assert value["files"] == [first, last]
    expected = first["sum_of_weights_in"] + last["sum_of_weights_in"]
    for data, words in (
        (False, "normalised to the events that are read."),
        (True, "Reduce lumi_ifb by"),
    ):
        fileset = from_manifest("q", manifest, {"data": data})
        assert fileset.original["events"] == 2000
        assert fileset.original["sum_of_weights"] == expected
        (loss,) = fileset.losses
        assert (loss.kind, loss.name, loss.count, loss.of, loss.unit, loss.allowed) == (
            "file left out",
            left["source"],
            1000,
            3000,
            "events",
            "leave_out",
        )
        assert f"{left['source']} is left out with its 1000 events. " in loss.message
        assert words in loss.message
    # a manifest of the same files, none left out, is another
    (tmp_path / "das.json").unlink()
    write_catalogue(
        tmp_path / "samples/q/catalogue.json",
        {
            qcd(1)["das"]: [
                FileRecord(**file)
                for file in read_json(tmp_path / "samples/q/catalogue.json")["datasets"][
                    qcd(1)["das"]
                ]["files"]
                if file["name"] != left["source"]
            ]
        },
    )
    again = made(tmp_path, [])
    assert read_json(again)["left_out"] == []
    assert from_manifest("q", again, {}).losses == ()


def test_files_are_counted_where_events_are_not_known(tmp_path: Path) -> None:
    manifest = made(tmp_path, [])
    value = read_json(manifest)
    value["left_out"] = [{"name": "/store/x.root", "events": None}]
    manifest.write_text(json.dumps(value))
    (loss,) = from_manifest("q", manifest, {}).losses
    assert (loss.count, loss.of, loss.unit) == (1, 4, "files")
    assert loss.message.startswith("/store/x.root is left out. ")
    fileset = from_manifest("q", manifest, {})
    with pytest.raises(Exception, match="were not processed"):
        ledger_of(fileset, [], {})


def listed(folder: Path, **changes: Any) -> Path:
    sample = {
        "xsec": 2.0,
        "year": "2018",
        "treeName": "Events",
        "histAxisName": "t",
        "WCnames": [],
        "files": ["/store/a.root", "/store/b.root"],
        "nEvents": 300,
        "nSumOfWeights": 600.0,
        "isData": False,
        **changes,
    }
    (folder / "t.json").write_text(json.dumps(sample))
    return folder / "t.json"


def test_a_listed_sample_leaves_out_too(tmp_path: Path) -> None:
    (dataset,) = read_samples(listed(tmp_path, leave_out=["/store/b.root"])).values()
    assert dataset["leave_out"] == ["/store/b.root"]
    dataset["declared_in"] = "t.json"
    # it stands on this machine, and is not opened
    bad = tmp_path / "b.root"
    bad.write_bytes(b"bad")
    here = read_samples(listed(tmp_path, files=[str(bad), "root://x//a"], leave_out=[str(bad)]))
    write_sample_catalogue(here["t"], tmp_path / "catalogue.json")
    records = read_json(tmp_path / "catalogue.json")["datasets"]["/t/listed-2018/USER"]["files"]
    assert [record["events"] for record in records] == [None, None]
    # 100 of the 300 events that are stated are in the file that is left out
    original = {"events": 200, "sum_of_weights": 400.0, "theory_sums": {}}
    left_out = [{"name": "/store/b.root", "events": 100}]
    analysis = {"lumi_ifb": 3.0}
    found = factors_of("t", dataset, analysis_of(analysis), {**original, "left_out": left_out})
    assert found["nominal"] == pytest.approx(2.0 * 3.0 * 1000 / 400.0, rel=1e-12)
    unknown = [{"name": "/store/b.root", "events": None}]
    assert (
        factors_of("t", dataset, analysis_of(analysis), {**original, "left_out": unknown}) == found
    )
    more = {**original, "events": 301, "left_out": unknown}
    with pytest.raises(DataFileError, match="nEvents: states 300, but the files of t have 301"):
        factors_of("t", dataset, analysis_of(analysis), more)
    wrong = [{"name": "/store/b.root", "events": 99}]
    with pytest.raises(DataFileError, match="nEvents: states 300, but the files of t have 299"):
        factors_of("t", dataset, analysis_of(analysis), {**original, "left_out": wrong})
    with pytest.raises(DataFileError, match=r"t\.json: leave_out: the stated sums of t"):
        factors_of(
            "t",
            dataset,
            analysis_of({**analysis, "normalise": "declared"}),
            {**original, "left_out": left_out},
        )


def test_a_change_asks_again(snakemake: Snakemake, tmp_path: Path) -> None:
    write_catalogue(tmp_path / "catalogue.json", {"/A/B/C": [A, B]})
    dataset = {"das": "/A/B/C", "process": "qcd", "xsec_pb": 1.0}
    analysis = yaml.safe_load((REPO / "config/analyses/muon.yaml").read_text())
    analysis["datasets"] = {"measure": ["q"]}
    (tmp_path / "muon.yaml").write_text(yaml.safe_dump(analysis))
    override = {
        "datasets": ["datasets.yaml"],
        "analyses": ["muon.yaml"],
        "das": {"catalogues": ["catalogue.json"]},
    }
    for leave_out, left_out in (({}, 0), ({"leave_out": [B.name]}, 1)):
        (tmp_path / "datasets.yaml").write_text(yaml.safe_dump({"q": {**dataset, **leave_out}}))
        run = snakemake("das", override=override)
        assert run.status == 0, run.text
        found = read_json(tmp_path / "results/das/q.json")
        assert found["summary"]["left_out_files"] == left_out
