"""Parquet results by column and predicate: the same events from fewer bytes."""

import json
from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
from processors import MuonPt
from pyarrow import fs
from samples import qcd, skimmed
from service import Service

from looseleaf.errors import DataFileError
from looseleaf.files import read_json, write_json
from looseleaf.objects.expressions import Expression
from looseleaf.parquet import ParquetTree, _located, is_parquet, read
from looseleaf.processing.fileset import chunks_of, from_manifest
from looseleaf.processing.ledger import ledger_of
from looseleaf.processing.runner import process_task
from looseleaf.servicex.transform import FileTask, TreeQuery, transform_file
from looseleaf.stage_files import MANIFEST_FORMAT

CUT = "(MET_pt > 20) & ~(nMuon < 1)"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("input")
    skimmed(folder, "q", {"q": qcd(3000, files=1)}, ["run", "Muon_pt"], None)
    return folder / "samples/q/q_0.root"


@pytest.mark.slow
def test_a_result_on_the_volume_and_in_the_object_store(source: Path, tmp_path: Path) -> None:
    query = '[{"treename": "Events", "filter_name": ["Muon_*", "MET_pt"]}]'
    events = uproot.open(source)["Events"].arrays()
    wanted = events[(events["MET_pt"] > 20) & (events["nMuon"] >= 1)]
    assert 0 < len(wanted) < len(events)
    with Service(tmp_path, "--no-token", workers=1) as service:
        asked = {"file_list": [str(source)], "selection": query, "result_format": "parquet"}
        request = service.submit(**asked, result_destination="object-store")
        service.finished(request)
        (path,) = service.folder(request).glob("*.parquet")
        store = fs.S3FileSystem(
            endpoint_override=service.url.partition("//")[2],
            scheme="http",
            anonymous=True,
        )
        for place, where in ((path, None), (f"{request}/{path.name}", store)):
            found = ak.concatenate(list(read([place], ["event", "Muon_pt"], CUT, where)))
            assert found.fields == ["event", "Muon_pt"]
            assert ak.all(found["event"] == wanted["event"])
            assert ak.all(found["Muon_pt"] == wanted["Muon_pt"])


def test_every_part_of_a_predicate(tmp_path: Path) -> None:
    x = np.arange(-5, 6)
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": x, "y": x % 3}), path)
    for text, kept in {
        "x < -2": x < -2,
        "x <= 2": x <= 2,
        "(x >= 2) | (y == 0)": (x >= 2) | (x % 3 == 0),
        "(x != 2) & (y > 0)": (x != 2) & (x % 3 > 0),
        "~(x > y)": ~(x > x % 3),
    }.items():
        found = ak.concatenate(list(read([path], ["x"], text)))
        assert found["x"].to_list() == x[kept].tolist(), text


@pytest.mark.slow
@pytest.mark.parametrize("token", [True, False])
def test_an_object_store_as_the_input_of_transforms_and_of_processing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: bool
) -> None:
    query = {"treename": "Events", "filter_name": ["Muon_*", "MET_*", "HLT_*"], "cut": "nMuon > 0"}
    options = [] if token else ["--no-token"]
    with Service(tmp_path, *options, workers=1) as service:
        request = service.submit(
            file_list=[str(source)],
            selection=json.dumps([query]),
            result_format="parquet",
            result_destination="object-store",
        )
        status = service.finished(request)
        monkeypatch.setenv("AWS_ENDPOINT_URL", service.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", status.minio_access_key or "nobody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", status.minio_secret_key or "nothing")
        (entry,) = read_json(service.folder(request) / "manifest.json")["files"]
        made = entry["result"]
        url = f"s3://{request}/{made['output']}"
        asked = TreeQuery(columns=("event", "Muon_pt"), cut="MET_pt > 20")
        output = str(tmp_path / "again.parquet")
        again = transform_file(
            FileTask("q", (url,), made["bytes"], None, None, (asked,), output, "test", "parquet")
        )
        manifest = tmp_path / "manifest.json"
        totals = {key: made[key] for key in ("events_in", "sum_of_weights_in")}
        value = {"folder": f"s3://{request}", "files": [made], "totals": totals}
        value |= {"request": {"cut": None}, "left_out": []}
        write_json(manifest, {**value, "format": MANIFEST_FORMAT, "request_id": request})
        fileset = from_manifest("q", manifest, {})
        pieces = chunks_of(fileset, 5000)
        found, records = process_task(MuonPt(), pieces, fileset.metadata)
        ledger = ledger_of(fileset, records, {})
        made["output"] = "other.parquet"
        write_json(manifest, {**value, "format": MANIFEST_FORMAT, "request_id": request})
        with pytest.raises(DataFileError, match=r"s3://.*/other\.parquet: gone from"):
            from_manifest("q", manifest, {})
    events = uproot.open(source)["Events"].arrays()
    wanted = events[events["nMuon"] > 0]
    muons = ak.flatten(wanted["Muon_pt"])
    assert found["pt"].sum(flow=True).value == len(muons) > 0
    assert found["events"] == {"q": len(wanted)}
    # of 11 muon columns, MET and triggers it reads pT, mass and the like
    assert sum(chunk["cost"]["bytes_read"] for chunk in ledger["chunks"]) > 0
    assert ledger["original"]["events"] == again.events_in == len(events)
    passed = wanted[wanted["MET_pt"] > 20]
    kept = ak.from_parquet(output)
    assert ak.all(kept["Muon_pt"] == passed["Muon_pt"])
    assert again.cost["bytes_read"] < made["bytes"]


def groups_read(path: Path, cut: str) -> list[int]:
    return ParquetTree(str(path), pa.OSFile(str(path))).left(cut)


def test_the_same_events_whatever_is_left_out(tmp_path: Path) -> None:
    """A cut gives the events that numpy selects, also among values that are no numbers and at the
    edge of single precision; row groups are left out only where that is certain."""
    edge = np.float32(15.1)
    table = {
        "x": np.array([edge, edge, 20, 30, np.nan, 5, 5, 5, 1, 1, 1, 1], np.float32),
        "n": np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], np.uint64),
        "y": np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], np.float32),
    }
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table(table), path, row_group_size=4)
    for cut, groups in {
        "x > 18": [0],
        "x <= 15.1": [0, 1, 2],
        "(x < 3) | (n == 1)": [0, 2],
        "~(n < 4) & (n != 9)": [1, 2],
        "4 <= n": [1, 2],
        # arrow's statistics don't tell of what is no number
        "x != 5": [0, 1, 2],
        "~(x > 3)": [0, 1, 2],
        # what statistics can't tell of
        "abs(x) > 18": [0, 1, 2],
        "x > 18 and n > 2": [0, 1, 2],
        # of two columns they can, where both are of one type
        "x > y": [0, 1],
        "x > n": [0, 1, 2],
        "x != n": [0, 1, 2],
        "n > -1": [0, 1, 2],
    }.items():
        found = list(read([path], ["n"], cut))
        expected = table["n"][Expression(cut)(table)]
        assert [n for part in found for n in part["n"].to_list()] == expected.tolist(), cut
        assert groups_read(path, cut) == groups, cut


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(DataFileError, match="has no column y, z"):
        list(read([tmp_path / "x.parquet"], ["y"], "z > 1"))
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(DataFileError, match=r"bad\.parquet: can't be read as Parquet"):
        list(read([tmp_path / "bad.parquet"], ["y"]))


def test_an_address_may_have_what_names_have(monkeypatch: pytest.MonkeyPatch) -> None:
    # with an endpoint no bucket is asked for its region
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    for url in ("s3://b/a[1] x:y*.parquet", "s3://b/a%5B1%5D%20x:y*.parquet"):
        assert _located(url)[1] == "b/a[1] x:y*.parquet"
    assert is_parquet("s3://b/a[1].parquet?region=x")
    assert is_parquet("/data/a#1?.parquet")
    assert not is_parquet("s3://b/a.root?x=.parquet")
