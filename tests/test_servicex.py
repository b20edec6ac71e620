"""Transforms: what stands on the volume is what a direct reading selects, whole or not at all."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
from samples import qcd, sample, skimmed

from looseleaf.errors import ConfigError, DataFileError, LookupFailed, Shortfall
from looseleaf.files import adler32, read_json, write_json
from looseleaf.processing.fileset import from_manifest
from looseleaf.servicex.embedded import Embedded
from looseleaf.servicex.formats import read_original
from looseleaf.servicex.request import (
    REFERENCE,
    Reference,
    Request,
    Source,
    references,
    request_folder,
    request_from_das,
    urls_of,
)
from looseleaf.servicex.submission import transform
from looseleaf.servicex.transform import FileTask, Sums, TreeQuery, transform_file
from looseleaf.servicex.volume import output_name
from looseleaf.stage_files import SNAPSHOT_FORMAT, FileRecord, describe

pytestmark = pytest.mark.slow

COLUMNS = [
    "run",
    "luminosityBlock",
    "event",
    "genWeight",
    "Muon_pt",
    "Muon_charge",
    "Muon_tightId",
    "Electron_pt",
    "HLT_Mu8|HLT_Mu8_TrkIsoVVL",
    "HLT_Mu17|HLT_NotThere",
    # asked for twice, each time beside another
    "HLT_Mu8|HLT_Mu17",
    "MET_pt|PFMET_pt",
]
CUT = "(nMuon == 1) & (MET_pt < 15)"


def task(
    path: Path,
    output: Path,
    columns: tuple[str, ...] = ("run", "event", "Muon_pt"),
    cut: str | None = None,
    **more: object,
) -> FileTask:
    size = path.stat().st_size if path.exists() else 0
    plain = FileTask(
        name="/store/x.root",
        urls=(str(path),),
        expected_bytes=size,
        expected_events=None,
        expected_adler32=None,
        queries=(TreeQuery(columns=columns, cut=cut),),
        output=str(output),
        work="test",
    )
    return replace(plain, **more)


def test_transform_is_what_a_direct_reading_selects(tmp_path: Path) -> None:
    manifest = read_json(skimmed(tmp_path, "w", {"w": sample("wjets", 6000)}, COLUMNS, CUT))
    for index, file in enumerate(manifest["files"]):
        source = uproot.open(tmp_path / f"samples/w/w_{index}.root")["Events"].arrays()
        mask = (source["nMuon"] == 1) & (source["MET_pt"] < 15)
        weights = ak.to_numpy(source["genWeight"]).astype(float)
        path = Path(manifest["folder"]) / file["output"]
        result = uproot.open(path)["Events"].arrays()
        assert set(result.fields) == {
            "nMuon",
            "Muon_pt",
            "Muon_charge",
            "Muon_tightId",
            "nElectron",
            "Electron_pt",
            "run",
            "luminosityBlock",
            "event",
            "genWeight",
            "HLT_Mu8",
            "HLT_Mu8_TrkIsoVVL",
            "HLT_Mu17",
            "MET_pt",
        }
        for field in result.fields:
            assert ak.array_equal(result[field], source[field][mask]), field
        assert file["events_in"] == 3000
        assert file["events_out"] == int(ak.sum(mask))
        assert file["sum_of_weights_in"] == weights.sum()
        assert file["sum_of_weights_out"] == weights[ak.to_numpy(mask)].sum()
        assert file["bytes"] == path.stat().st_size
        assert file["uuid"] == str(uproot.open(path).file.uuid)
    types = uproot.open(path)["Events"].typenames()
    assert types["Muon_tightId"] == "bool[]"
    assert types["event"] == "uint64_t"
    assert manifest["totals"]["events_in"] == 6000


def test_nothing_selected_keeps_the_normalisation(tmp_path: Path) -> None:
    datasets = {"w": sample("wjets", 2000, files=1)}
    manifest = read_json(skimmed(tmp_path, "w", datasets, COLUMNS, "MET_pt < 0"))
    everything = read_json(skimmed(tmp_path / "all", "w", datasets, COLUMNS, None))
    assert manifest["totals"]["events_out"] == 0
    assert manifest["totals"]["sum_of_weights_in"] == everything["totals"]["sum_of_weights_out"]
    path = Path(manifest["folder"]) / manifest["files"][0]["output"]
    assert uproot.open(path)["Events"].num_entries == 0
    assert "Muon_pt" in uproot.open(path)["Events"].typenames()


def test_sums_of_eft_coefficients_travel_with_the_skim(tmp_path: Path) -> None:
    datasets = {"e": sample("eft", 1000, files=1, wc_names=["a", "b"])}
    manifest = read_json(
        skimmed(tmp_path, "e", datasets, [*COLUMNS, "EFTfitCoefficients"], "MET_pt < 50")
    )
    source = uproot.open(tmp_path / "samples/e/e_0.root")["Events"]["EFTfitCoefficients"].array()
    expected = ak.to_numpy(source).astype(float).sum(axis=0)
    np.testing.assert_allclose(manifest["files"][0]["eft_sums_in"], expected, rtol=1e-12)


def test_sums_of_theory_weights_travel_with_the_skim(tmp_path: Path) -> None:
    """Of an EFT sample each counts with the Standard Model's weight, before any selection."""
    datasets = {"e": sample("eft", 1000, files=2, wc_names=["a", "b"])}
    columns = [*COLUMNS, "EFTfitCoefficients", "PSWeight"]
    path = skimmed(tmp_path, "e", datasets, columns, "MET_pt < 50")
    total = np.zeros(4)
    for number, file in enumerate(read_json(path)["files"]):
        events = uproot.open(tmp_path / f"samples/e/e_{number}.root")["Events"].arrays()
        sm = ak.to_numpy(events.EFTfitCoefficients[:, 0]).astype(float)
        expected = sm @ ak.to_numpy(events.PSWeight).astype(float)
        np.testing.assert_allclose(file["theory_sums_in"]["PSWeight"], expected, rtol=1e-12)
        total += expected
    found = from_manifest("e", path, {}).original["theory_sums"]
    np.testing.assert_allclose(found["PSWeight"], total, rtol=1e-12)
    assert not np.allclose(total, total[0], rtol=1e-2)
    # who doesn't keep them needs no sums either
    unasked = skimmed(tmp_path / "unasked", "e", datasets, COLUMNS)
    assert from_manifest("e", unasked, {}).original["theory_sums"] == {}


def test_an_empty_file_has_no_theory_weights_to_miss(tmp_path: Path) -> None:
    datasets = {"e": sample("eft", 1, files=2, wc_names=["a"])}
    path = skimmed(tmp_path, "e", datasets, [*COLUMNS, "PSWeight"])
    value = read_json(path)
    assert sorted(len(file["theory_sums_in"]) for file in value["files"]) == [0, 1]
    assert len(from_manifest("e", path, {}).original["theory_sums"]["PSWeight"]) == 4
    # nor has a sum that is none any number
    next(f for f in value["files"] if f["theory_sums_in"])["theory_sums_in"]["PSWeight"][2] = None
    write_json(path, value)
    found = from_manifest("e", path, {}).original["theory_sums"]["PSWeight"]
    assert [total is None for total in found] == [False, False, True, False]


def test_theory_weights_that_are_no_numbers_have_no_sum(tmp_path: Path) -> None:
    path = tmp_path / "a.root"
    weights = np.array([[1.0, np.nan], [1.0, 1.0]])
    with uproot.recreate(path) as file:
        columns = {"genWeight": np.ones(2), "MET_pt": np.array([1.0, 99.0])}
        columns |= {name: np.ones(2, np.uint32) for name in ("run", "luminosityBlock", "event")}
        jagged = {"PSWeight": ak.from_regular(ak.Array(weights))}
        file["Events"] = {**columns, **jagged}
    out = tmp_path / "out.root"
    found = transform_file(task(path, out, columns=("run", "PSWeight"), cut="MET_pt > 50"))
    assert found.theory_sums_in == {"PSWeight": [2.0, None]}
    assert read_original(out)["theory_sums"] == {"PSWeight": [2.0, None]}


def test_sums_of_theory_weights_are_of_the_places_that_all_events_have() -> None:
    sums = Sums()
    for weights, values in (
        ([1.0, -2.0], [[1.0, 2.0, 5.0], [3.0, 4.0]]),
        ([], []),
        ([0.5], [[10.0, 20.0, 30.0]]),
    ):
        events = {"genWeight": np.array(weights), "PSWeight": ak.Array(values), "met": weights}
        sums.add(ak.Array({**events, "btagWeight": np.array(weights)}), None)
    assert sums.theory_in == {"PSWeight": [1.0 - 6.0 + 5.0, 2.0 - 8.0 + 10.0]}


def test_coefficients_that_a_skim_leaves_out_are_known_to_be_there(tmp_path: Path) -> None:
    datasets = {"e": sample("eft", 1, files=2, wc_names=["a"]), "q": sample("ttbar", 10, files=1)}
    for name, expected in (("e", []), ("q", None)):
        fileset = from_manifest(name, skimmed(tmp_path, name, datasets, COLUMNS), {})
        assert fileset.original["eft_sums"] == expected


def test_an_empty_file_of_an_eft_sample_has_no_sums(tmp_path: Path) -> None:
    datasets = {"e": sample("eft", 1, files=2, wc_names=["a"])}
    path = skimmed(tmp_path, "e", datasets, [*COLUMNS, "EFTfitCoefficients"])
    assert [file["eft_sums_in"] is None for file in read_json(path)["files"]] == [True, False]
    fileset = from_manifest("e", path, {})
    assert len(fileset.original["eft_sums"]) == 3


def test_nowhere_to_read_from(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"/store/x\.root: nowhere to read it from"):
        transform_file(task(tmp_path / "a.root", tmp_path / "out.root", urls=()))


def test_same_request_is_used_again_and_another_is_not(tmp_path: Path) -> None:
    skimmed(tmp_path, "q", {"q": qcd(1000, files=1)}, COLUMNS, None)

    def ask(cut: str) -> dict[str, Any]:
        wanted = request_from_das(tmp_path / "q.das.json", COLUMNS, cut, "root-file", "test", [])
        transform(wanted, tmp_path / "volume", "sub", tmp_path / "out.json", Embedded(1), "q")
        return read_json(tmp_path / "out.json")

    first = ask(CUT)
    result = Path(first["folder"]) / first["files"][0]["output"]
    before = result.stat().st_mtime_ns
    assert ask(CUT) == first
    assert result.stat().st_mtime_ns == before
    other = ask("nMuon == 1")
    assert other["request_id"] != first["request_id"]
    assert Path(other["folder"]).parent == Path(first["folder"]).parent
    # a result that has gone, or was cut off, is made again
    result.write_bytes(result.read_bytes()[:100])
    healed = ask(CUT)
    assert healed["request_id"] == first["request_id"]
    assert result.stat().st_size == healed["files"][0]["bytes"] > 100


def asked(tmp_path: Path, *records: FileRecord, cut: str | None = CUT) -> dict[str, Any]:
    """The manifest of a transform of these files, which stand in `tmp_path`."""
    das = das_file(tmp_path, *records)
    wanted = request_from_das(das, COLUMNS, cut, "root-file", "test", [])
    transform(wanted, tmp_path / "volume", "sub", tmp_path / "out.json", Embedded(1), "q")
    return read_json(tmp_path / "out.json")


def inodes(manifest: dict[str, Any]) -> list[int]:
    folder = Path(manifest["folder"])
    return [(folder / file["output"]).stat().st_ino for file in manifest["files"]]


@pytest.fixture
def three(tmp_path: Path) -> list[FileRecord]:
    """The records of three files of a dataset."""
    skimmed(tmp_path, "q", {"q": qcd(900, files=3)}, COLUMNS, None)
    value = read_json(tmp_path / "q.das.json")
    return [FileRecord.from_json(file, "q") for file in value["files"]]


def test_a_new_file_costs_one_file(tmp_path: Path, three: list[FileRecord]) -> None:
    before = asked(tmp_path, *three[:2])
    after = asked(tmp_path, *three)
    assert after["request_id"] != before["request_id"]
    assert [file["source"] for file in after["files"]] == [record.name for record in three]
    assert after["files"][:2] == before["files"]
    assert inodes(after)[:2] == inodes(before)
    assert after["totals"]["events_in"] == 900
    # taken away again, the first request is the one that stands
    assert asked(tmp_path, *three[:2]) == before
    # another selection is other work
    assert set(inodes(asked(tmp_path, *three, cut=None))) & set(inodes(after)) == set()


def test_an_altered_file_is_made_again(tmp_path: Path, three: list[FileRecord]) -> None:
    before = asked(tmp_path, *three)
    other = tmp_path / "samples/q/other.root"
    Path(str(three[1].url)).rename(other)
    skimmed(tmp_path / "again", "q", {"q": qcd(1200, files=3)}, COLUMNS, None)
    value = read_json(tmp_path / "again/q.das.json")["files"][1]
    altered = replace(FileRecord.from_json(value, "q"), name=three[1].name)
    after = asked(tmp_path, three[0], altered, three[2])
    assert [file["events_in"] for file in after["files"]] == [300, 400, 300]
    same = [old == new for old, new in zip(inodes(before), inodes(after), strict=True)]
    assert same == [True, False, True]


def test_a_broken_off_request_goes_on_where_it_was(tmp_path: Path, three: list[FileRecord]) -> None:
    gone = Path(str(three[2].url))
    aside = gone.rename(tmp_path / "aside.root")
    with pytest.raises(Shortfall, match=r"1 of 3 files.*q_2\.root: no such file; was it moved"):
        asked(tmp_path, *three)
    assert not (tmp_path / "out.json").exists()
    (folder,) = [
        path for path in (tmp_path / "volume/sub").iterdir() if len(list(path.glob("*.root"))) == 2
    ]
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.root")}
    aside.rename(gone)
    manifest = asked(tmp_path, *three)
    assert Path(manifest["folder"]) == folder
    assert {name: (folder / name).stat().st_mtime_ns for name in kept} == kept
    assert manifest["totals"]["events_in"] == 900


def request(das: Path, **more: object) -> Request:
    plain = request_from_das(das, ("run", "event"), None, "root-file", "1", [])
    return replace(plain, **more)


def das_file(tmp_path: Path, *records: FileRecord) -> Path:
    path = tmp_path / "das.json"
    known = {"format": SNAPSHOT_FORMAT, "dataset": "/A/B/C", "time": "2026-01-01"}
    write_json(path, {**known, "files": [record.to_json() for record in records]})
    return path


RECORD = FileRecord("/store/a.root", 100, 10, "0000000a", url="/nowhere/a.root")


def test_identity_of_a_request(tmp_path: Path) -> None:
    plain = request(das_file(tmp_path, RECORD))
    assert plain.id == request(das_file(tmp_path, RECORD)).id
    # the order of the columns and the place of the file say nothing
    assert plain.id == replace(plain, columns=("event", "run")).id
    assert plain.id == request(das_file(tmp_path, replace(RECORD, url="/else/a.root"))).id
    for change in (
        request(das_file(tmp_path, replace(RECORD, adler32="0000000b"))),
        replace(plain, cut="nMuon > 0"),
        replace(plain, columns=("run",)),
        replace(plain, software="2"),
        replace(plain, dataset="/A/B/D"),
    ):
        assert change.id != plain.id


def test_invalid_files_are_left_out(tmp_path: Path) -> None:
    das = das_file(tmp_path, RECORD, replace(RECORD, name="/store/b.root", valid=False))
    assert [source.record.name for source in request(das).sources] == ["/store/a.root"]
    with pytest.raises(LookupFailed, match="every file of /A/B/C is marked invalid"):
        request(das_file(tmp_path, replace(RECORD, valid=False)))


def test_urls_follow_the_sites_redirectors() -> None:
    record = replace(RECORD, name="/store/mc/a.root", url=None)
    assert urls_of(record, ["root://xcache/", "root://cmsxrootd.fnal.gov/"]) == (
        "root://xcache//store/mc/a.root",
        "root://cmsxrootd.fnal.gov//store/mc/a.root",
    )
    assert urls_of(RECORD, ["root://xcache/"]) == ("/nowhere/a.root",)


def test_results_do_not_share_a_name_and_fit_a_file_system() -> None:
    def name(lfn: str) -> str:
        return output_name(Source(replace(RECORD, name=lfn), ()), "root-file")

    assert name("/store/x/1/a.root") == "store:x:1:a.root"
    long = ["/store/" + "d" * 300 + f"/{number}/a.root" for number in (1, 2)]
    assert name(long[0]) != name(long[1])
    assert all(len(name(lfn)) <= 200 and name(lfn).endswith("a.root") for lfn in long)
    # a file system counts bytes
    assert len(name("/store/" + "µ" * 150 + ".root").encode()) <= 200
    alike = ["/store/a/b.root", "/store/a:b.root", "/store/a/b", "/store:a/b.root"]
    assert len({name(lfn) for lfn in alike}) == 4


def test_request_stays_on_the_volume(tmp_path: Path) -> None:
    assert request_folder(tmp_path, "a/b", "id") == tmp_path.resolve() / "a/b/id"
    with pytest.raises(ConfigError, match="leaves the volume"):
        request_folder(tmp_path, "../x", "id")
    (tmp_path / "link").symlink_to("/")
    with pytest.raises(ConfigError, match="leaves the volume"):
        request_folder(tmp_path, "link", "id")


def test_vanished_file(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"a\.root: no such file; was it moved or deleted\?"):
        transform_file(task(tmp_path / "a.root", tmp_path / "out.root"))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def big(tmp_path: Path) -> Path:
    skimmed(tmp_path, "q", {"q": qcd(20_000, files=1)}, COLUMNS, None)
    return tmp_path / "samples/q/q_0.root"


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.98])
def test_a_file_cut_off_names_itself_and_leaves_no_result(big: Path, kept: float) -> None:
    half = big.with_name("half.root")
    half.write_bytes(big.read_bytes()[: int(big.stat().st_size * kept)])
    out = big.parent / "out" / "out.root"
    with pytest.raises(DataFileError, match=r"half\.root"):
        transform_file(task(half, out, expected_bytes=big.stat().st_size))
    assert not out.parent.exists() or list(out.parent.iterdir()) == []


def test_a_damaged_basket_names_the_file(big: Path) -> None:
    data = bytearray(big.read_bytes())
    middle = len(data) // 2
    # more than the baskets of counters, which aren't read
    length = len(data) // 10
    data[middle : middle + length] = bytes(length)
    damaged = big.with_name("damaged.root")
    damaged.write_bytes(data)
    columns = tuple(
        name for name in uproot.open(big)["Events"].typenames() if not name.startswith("n")
    )
    with pytest.raises(DataFileError, match=r"damaged\.root: can't be read to the end"):
        transform_file(task(damaged, big.parent / "out/out.root", columns=columns))


def test_a_file_that_changed_since_the_lookup(big: Path) -> None:
    out = big.parent / "out.root"
    with pytest.raises(DataFileError, match="has 20000 events, but the lookup said 19999"):
        transform_file(task(big, out, expected_events=19999))
    data = bytearray(big.read_bytes())
    data[len(data) // 2] ^= 1
    before = adler32(big)
    big.write_bytes(data)
    with pytest.raises(DataFileError, match=f"as its adler32, but the lookup said {before}"):
        transform_file(task(big, out, expected_adler32=before))


def test_missing_branch_is_named_with_its_alternatives(big: Path) -> None:
    with pytest.raises(DataFileError, match=r"q_0\.root: the Events tree lacks Tau_pt, X or Y;"):
        transform_file(task(big, big.parent / "out.root", columns=("run", "Tau_pt", "X|Y")))


def test_missing_coefficients_are_those_that_the_dataset_declares(big: Path) -> None:
    with pytest.raises(DataFileError, match=r"lacks EFTfitCoefficients; its dataset declares Wil"):
        transform_file(task(big, big.parent / "o.root", columns=("run", "EFTfitCoefficients")))


def test_missing_luminosity_block_of_a_real_file(nanoaod: Path, tmp_path: Path) -> None:
    path = nanoaod / "missing_luminosityBlock.root"
    with pytest.raises(
        DataFileError, match=r"missing_luminosityBlock\.root: the Events tree lacks luminosityBlock"
    ):
        transform_file(
            task(path, tmp_path / "out.root", columns=("run", "luminosityBlock", "event"))
        )


def test_no_events_tree_of_a_real_file(nanoaod: Path, tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"bad_delphes\.root: no Events tree"):
        transform_file(task(nanoaod / "bad_delphes.root", tmp_path / "out.root"))


@pytest.mark.parametrize(
    "name", ["nano_dy.root", "nano_tt_v12.root", "nanoAOD_2015_CMS_Open_Data_ttbar.root"]
)
def test_real_nanoaod_stays_what_it_is(nanoaod: Path, tmp_path: Path, name: str) -> None:
    columns = ("run", "luminosityBlock", "event", "genWeight", "Muon_pt", "Muon_charge", "Jet_pt")
    cut = "nJet >= 3"
    result = transform_file(task(nanoaod / name, tmp_path / "o.root", columns=columns, cut=cut))
    source = uproot.open(nanoaod / name)["Events"].arrays([*columns, "nJet"])
    kept = source[source["nJet"] >= 3]
    found = uproot.open(tmp_path / "o.root")["Events"].arrays()
    assert 0 < result.events_out == len(kept) == len(found)
    for column in columns:
        assert ak.array_equal(found[column], kept[column], check_parameters=False), column


def test_empty_real_file_is_processed_as_empty(nanoaod: Path, tmp_path: Path) -> None:
    result = transform_file(task(nanoaod / "nano_dy_empty.root", tmp_path / "o.root"))
    assert (result.events_in, result.events_out, result.sum_of_weights_in) == (0, 0, 0.0)
    assert uproot.open(tmp_path / "o.root")["Events"].num_entries == 0


def test_the_next_url_is_tried(big: Path) -> None:
    urls = ("/nowhere/q_0.root", str(big))
    result = transform_file(task(big, big.parent / "o.root", urls=urls))
    assert result.source_url == str(big)
    with pytest.raises(DataFileError, match=r"/nowhere/a.*; /nowhere/b"):
        transform_file(task(big, big.parent / "p.root", urls=("/nowhere/a", "/nowhere/b")))


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ("nMuon + 1", "should give a yes or no for each event"),
        ("Muon_pt > 20", "should give a yes or no for each event"),
        ("nTau > 0", "lacks nTau"),
    ],
)
def test_a_cut_that_is_none(big: Path, cut: str, message: str) -> None:
    with pytest.raises((ConfigError, DataFileError), match=message):
        transform_file(task(big, big.parent / "out/out.root", cut=cut))
    assert list((big.parent / "out").iterdir()) == []


def test_one_bad_file_of_a_request_leaves_no_manifest(tmp_path: Path) -> None:
    skimmed(tmp_path, "q", {"q": qcd(2000)}, COLUMNS, None)
    das = tmp_path / "q.das.json"
    bad = tmp_path / "samples/q/q_1.root"
    bad.write_bytes(bad.read_bytes()[:5000])
    wanted = request_from_das(das, COLUMNS, CUT, "root-file", "test", [])
    with pytest.raises(
        Shortfall, match=r"1 of 2 files: .*q_1\.root: the Events tree can't be read"
    ):
        transform(wanted, tmp_path / "volume", "sub", tmp_path / "out.json", Embedded(2), "q")
    assert not (tmp_path / "out.json").exists()
    folder = request_folder(tmp_path / "volume", "sub", wanted.id)
    assert not (folder / "manifest.json").exists()
    assert [path.name for path in folder.glob(".part-*")] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes root")
def test_full_disk_is_told_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    skimmed(tmp_path, "q", {"q": qcd(60_000, files=1)}, COLUMNS, None)
    volume = tmp_path / "small"
    volume.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(volume)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        wanted = request_from_das(tmp_path / "q.das.json", COLUMNS, None, "root-file", "t", [])
        with pytest.raises(Shortfall, match=r"q_0\.root: no space left on the disk while"):
            transform(wanted, volume, "sub", tmp_path / "out.json", Embedded(1), "q")
        left = [path.name for path in volume.rglob("*") if path.is_file()]
        assert [name for name in left if not name.startswith(REFERENCE)] == []
        assert not (tmp_path / "out.json").exists()
        # with room it goes through
        subprocess.run(["mount", "-o", "remount,size=20m", str(volume)], check=True)
        transform(wanted, volume, "sub", tmp_path / "out.json", Embedded(1), "q")
        assert read_json(tmp_path / "out.json")["totals"]["events_out"] == 60_000
    finally:
        subprocess.run(["umount", str(volume)], check=True)


def test_manifest_is_json_that_says_what_was_asked(tmp_path: Path) -> None:
    path = skimmed(tmp_path, "q", {"q": qcd(500, files=1)}, COLUMNS, CUT)
    manifest = json.loads(path.read_text())
    # for `looseleaf clean`
    (reference,) = references(Path(manifest["folder"]))
    assert reference == Reference(socket.gethostname(), str(path.resolve()))
    assert manifest["request"]["cut"] == CUT
    assert manifest["request"]["columns"] == sorted(COLUMNS)
    on_volume = read_json(Path(manifest["folder"]) / "manifest.json")
    assert on_volume == manifest
    assert Path(manifest["folder"]).name == manifest["request_id"]
    assert Path(manifest["folder"]).parent == (tmp_path / "volume/sub").resolve()


def test_files_that_a_servicex_cant_be_asked_for(tmp_path: Path, three: list[FileRecord]) -> None:
    nowhere = replace(three[0], name="/store/a.root", url=None)
    with pytest.raises(DataFileError, match=r"/store/a\.root: nowhere to read it from"):
        asked(tmp_path, nowhere)
    with pytest.raises(DataFileError, match=r"/a,b/q\.root: a comma divides addresses"):
        asked(tmp_path, replace(three[0], url="/a,b/q.root"))


def test_a_batch_systems_token_is_not_for_the_embedded_service(
    tmp_path: Path, three: list[FileRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("for others")
    monkeypatch.setenv("BEARER_TOKEN_FILE", str(tmp_path / "token"))
    assert asked(tmp_path, *three)["totals"]["events_in"] == 900


def test_a_file_that_is_not_as_it_was_looked_up_is_no_result(
    tmp_path: Path, three: list[FileRecord]
) -> None:
    altered = replace(three[1], events=299)
    with pytest.raises(Shortfall, match=r"q_1\.root: has 300 events, but the lookup said 299"):
        asked(tmp_path, three[0], altered)


def test_a_relative_path_is_held_to_what_was_looked_up_too(
    tmp_path: Path, three: list[FileRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Path(str(three[0].url))
    monkeypatch.chdir(place.parent)
    near = replace(three[0], url=place.name)
    assert asked(tmp_path, near)["totals"]["events_in"] == 300
    with pytest.raises(
        Shortfall, match=r"q_0\.root: has .* as its adler32, but the lookup said 00000000"
    ):
        asked(tmp_path, replace(near, adler32="00000000"))


def test_a_skim_may_be_a_dataset(tmp_path: Path, three: list[FileRecord]) -> None:
    first = asked(tmp_path, *three)
    folder = Path(first["folder"])
    records = [
        describe(folder / file["output"], f"/store/skim/{file['output']}", "/a/b/c#1")
        for file in first["files"]
    ]
    assert sum(record.events or 0 for record in records) == first["totals"]["events_out"] < 900
    again = asked(tmp_path, *records, cut="nMuon == 1")
    assert again["totals"]["events_in"] == 900
    assert again["totals"]["sum_of_weights_in"] == first["totals"]["sum_of_weights_in"]


WORKER_KILLED = """
import sys
import threading
import psutil
from looseleaf.servicex.embedded import Embedded
from looseleaf.servicex.formats import read_original
from looseleaf.servicex.request import request_from_das
from looseleaf.servicex.submission import transform

def kill():
    # the workers are forked from a process of their own
    while True:
        for child in psutil.Process().children(recursive=True):
            if child.ppid() != psutil.Process().pid and child.cpu_times().user > 0.05:
                print("killed", child.pid, flush=True)
                child.kill()
                return

if __name__ == "__main__":
    folder, das, *columns = sys.argv[1:]
    request = request_from_das(das, columns, None, "root-file", "test", [])
    threading.Thread(target=kill, daemon=True).start()
    transform(request, f"{folder}/volume", "sub", f"{folder}/out.json", Embedded(1), "q")
"""


def test_an_embedded_worker_that_is_killed_is_replaced(tmp_path: Path) -> None:
    calm = read_json(skimmed(tmp_path, "q", {"q": qcd(400_000, files=2)}, COLUMNS, None))
    script = tmp_path / "script.py"
    script.write_text(WORKER_KILLED)
    command = [sys.executable, script, tmp_path / "again", tmp_path / "q.das.json", *COLUMNS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("killed")
    found = read_json(tmp_path / "again/out.json")
    for name in ("events_in", "events_out", "sum_of_weights_in", "sum_of_weights_out"):
        assert found["totals"][name] == calm["totals"][name]
    # the same work on the same file is known by the same name
    assert [file["uuid"] for file in found["files"]] == [file["uuid"] for file in calm["files"]]
    assert not list((tmp_path / "again").rglob(".part-*"))
