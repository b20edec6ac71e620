"""Parquet results by column and predicate: the same events from fewer bytes."""

from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
from pyarrow import fs
from samples import qcd, skimmed
from service import Service

from looseleaf.errors import DataFileError
from looseleaf.objects.expressions import Expression
from looseleaf.parquet import ParquetTree, read

CUT = "(MET_pt > 20) & ~(nMuon < 1)"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("input")
    skimmed(folder, "q", {"q": qcd(3000, files=1)}, ["run", "Muon_pt"], None)
    return folder / "samples/q/q_0.root"


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


def groups_read(path: Path, cut: str) -> list[int]:
    return ParquetTree(str(path), pa.OSFile(str(path))).left(cut)


def test_the_same_events_whatever_is_left_out(tmp_path: Path) -> None:
    """A cut gives the events that numpy selects, also among values that are no numbers and at the
    edge of single precision; row groups are left out only where that is certain."""
    edge = np.float32(15.1)
    table = {
        "x": np.array([edge, edge, 20, 30, np.nan, 5, 5, 5, 1, 1, 1, 1], np.float32),
        "n": np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], np.uint64),
    }
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table(table), path, row_group_size=4)
    for cut, groups in {
        "x > 18": [0],
        "x <= 15.1": [0, 1, 2],
        "(x < 3) | (n == 1)": [0, 2],
        "~(n < 4) & (n != 9)": [1, 2],
        "4 <= n": [1, 2],
        # what is no number passes these
        "x != 5": [0, 1, 2],
        "~(x > 3)": [0, 1, 2],
        # what statistics can't tell of
        "abs(x) > 18": [0, 1, 2],
        "x > 18 and n > 2": [0, 1, 2],
        # of two columns they can
        "x > n": [0, 1],
        "x != n": [0, 1, 2],
    }.items():
        found = list(read([path], ["n"], cut))
        expected = table["n"][Expression(cut)(table)]
        assert [n for part in found for n in part["n"].to_list()] == expected.tolist(), cut
        assert groups_read(path, cut) == groups, cut


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(DataFileError, match="there is no column y, z"):
        list(read([tmp_path / "x.parquet"], ["y"], "z > 1"))
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(DataFileError, match=r"bad\.parquet: can't be read as Parquet"):
        list(read([tmp_path / "bad.parquet"], ["y"]))
