"""Reading through a real XRootD server and a real XCache, with what breaks on the way."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import awkward as ak
import fsspec
import pytest
import uproot
import yaml
from conftest import REPO, Run, run_snakemake
from samples import SETTINGS, TRUTH, qcd
from storage import IMPATIENT, Cut, Xrootd

from looseleaf.errors import DataFileError
from looseleaf.files import read_json
from looseleaf.samples.generate import generate
from looseleaf.servicex.request import urls_of
from looseleaf.servicex.transform import FileTask, TreeQuery, transform_file
from looseleaf.stage_files import FileRecord, read_catalogue, write_catalogue

pytestmark = pytest.mark.slow

NOWHERE = "root://127.0.0.1:1/"
DATASETS = {"A": qcd(6000), "B": {**qcd(6000), "das": "/qcd_other/looseleaf-v1/NANOAODSIM"}}


def test_the_addresses_of_a_logical_name() -> None:
    record = FileRecord("/store/a.root", 1, 1, None)
    places = ["root://xcache/", "root://eos.cern.ch:1094//eos/cms/", "/mirror", "file:///mirror/"]
    assert urls_of(record, places) == (
        "root://xcache//store/a.root",
        "root://eos.cern.ch:1094//eos/cms/store/a.root",
        "/mirror/store/a.root",
        "file:///mirror/store/a.root",
    )


@pytest.mark.parametrize("name", ["/store/../../etc/passwd", "store/a.root"])
def test_a_name_that_would_leave_its_folder(name: str) -> None:
    with pytest.raises(DataFileError, match=r"should be a logical name, /store/... without '..'"):
        urls_of(FileRecord(name, 1, 1, None), ["/mirror"])


def test_a_package_that_is_missing_is_named() -> None:
    # in a process of its own: once loaded, the package stays
    code = (
        "import sys; sys.modules['fsspec_xrootd'] = None\n"
        "from looseleaf.nanoaod import open_file; open_file('root://localhost//store/a.root')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "DataFileError: root://localhost//store/a.root: reading it needs a pack" in done.stderr
    assert done.stderr.strip().endswith("type: pip install xrootd fsspec-xrootd")


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of two datasets below /store, and their catalogue."""
    folder = tmp_path_factory.mktemp("mirror")
    known = {}
    for name, dataset in DATASETS.items():
        made = folder / "made" / name / "catalogue.json"
        generate(name, DATASETS, SETTINGS, made, TRUTH)
        (records,) = read_catalogue(made).values()
        known[dataset["das"]] = [
            FileRecord(f"/store/mc/{name}{index}.root", r.bytes, r.events, r.adler32, r.block)
            for index, r in enumerate(records)
        ]
        for record, where in zip(known[dataset["das"]], records, strict=True):
            target = folder / record.name.strip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            assert where.url is not None
            Path(where.url).rename(target)
    write_catalogue(folder / "catalogue.json", known)
    return folder


@pytest.fixture
def origin(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Xrootd]:
    for setting, value in IMPATIENT.items():
        monkeypatch.setenv(setting, value)
    pytest.importorskip("XRootD", reason="no XRootD client: pip install xrootd fsspec-xrootd")
    server = Xrootd("origin")
    for path in (mirror / "store").rglob("*.root"):
        server.add(path, str(path.relative_to(mirror)))
    server.start()
    yield server
    server.close()


@pytest.fixture
def cache(origin: Xrootd) -> Iterator[Xrootd]:
    server = Xrootd("cache", origin.port)
    server.start()
    yield server
    server.close()


def task(mirror: Path, output: Path, *places: str) -> FileTask:
    (record, *_) = read_catalogue(mirror / "catalogue.json")[DATASETS["A"]["das"]]
    return FileTask(
        name=record.name,
        urls=urls_of(record, places),
        expected_bytes=record.bytes,
        expected_events=record.events,
        expected_adler32=record.adler32,
        queries=(TreeQuery(columns=("run", "event", "genWeight", "Muon_pt", "Muon_eta")),),
        output=str(output),
        work="test",
    )


def events(path: Path) -> ak.Array:
    with uproot.open(path) as file:
        return file["Events"].arrays()


def test_through_the_cache_it_is_the_same_file(mirror: Path, cache: Xrootd, tmp_path: Path) -> None:
    near = transform_file(task(mirror, tmp_path / "near.root", str(mirror)))
    far = transform_file(task(mirror, tmp_path / "far.root", cache.url))
    assert far.source_url == f"{cache.url}/store/mc/A0.root"
    assert far.passed_over == []
    assert far.events_in == 3000
    assert far.source_uuid == near.source_uuid
    assert ak.array_equal(events(tmp_path / "far.root"), events(tmp_path / "near.root"))


def test_what_is_cached_is_read_without_the_origin(
    mirror: Path, origin: Xrootd, cache: Xrootd, tmp_path: Path
) -> None:
    transform_file(task(mirror, tmp_path / "before.root", cache.url))
    origin.kill()
    transform_file(task(mirror, tmp_path / "after.root", cache.url))
    assert ak.array_equal(events(tmp_path / "after.root"), events(tmp_path / "before.root"))


def test_the_next_address_where_nobody_answers(
    mirror: Path, origin: Xrootd, tmp_path: Path
) -> None:
    result = transform_file(task(mirror, tmp_path / "out.root", NOWHERE, origin.url))
    assert result.source_url == f"{origin.url}/store/mc/A0.root"
    (reason,) = result.passed_over
    assert reason.startswith(f"{NOWHERE}/store/mc/A0.root: can't be opened as a ROOT file: ")


def test_an_origin_killed_halfway_through_a_file(
    mirror: Path, origin: Xrootd, tmp_path: Path
) -> None:
    whole = transform_file(task(mirror, tmp_path / "whole.root", str(mirror)))
    line = Cut(origin.port, int(whole.cost["bytes_read"] / 2), origin.kill)
    result = transform_file(task(mirror, tmp_path / "out.root", line.url, str(mirror)))
    assert line.done.is_set()
    assert result.source_url == str(mirror / "store/mc/A0.root")
    (reason,) = result.passed_over
    # it had been opened
    assert reason.startswith(f"{line.url}/store/mc/A0.root: can't be read to the end: ")
    assert ak.array_equal(events(tmp_path / "out.root"), events(tmp_path / "whole.root"))


def test_an_origin_killed_halfway_and_nowhere_else(
    mirror: Path, origin: Xrootd, tmp_path: Path
) -> None:
    line = Cut(origin.port, 50_000, origin.kill)
    with pytest.raises(DataFileError, match=rf"^{line.url}/store/mc/A0\.root: "):
        transform_file(task(mirror, tmp_path / "out.root", line.url))
    assert line.done.is_set()
    assert list(tmp_path.iterdir()) == []


# --- the chain


def chain(folder: Path, mirror: Path, target: str, *places: str) -> Run:
    """The fake-rate chain over both datasets in a folder of its own, reading from `places`."""
    site = folder / "config/sites/far.yaml"
    site.parent.mkdir(parents=True, exist_ok=True)
    site.write_text(yaml.safe_dump({"kind": "local", "redirectors": list(places)}))
    declared = {
        name: {key: dataset[key] for key in ("das", "process", "xsec_pb")}
        for name, dataset in DATASETS.items()
    }
    (folder / "datasets.yaml").write_text(yaml.safe_dump(declared))
    analysis = yaml.safe_load((REPO / "config/analyses/muon.yaml").read_text())
    changes: dict[str, Any] = {"name": "far", "datasets": {"measure": ["A", "B"]}}
    # so few events leave bins empty
    changes["allow"] = {"empty_bins": True}
    (folder / "analysis.yaml").write_text(yaml.safe_dump({**analysis, **changes}))
    override = {
        "site": "far",
        "datasets": [str(folder / "datasets.yaml")],
        "analyses": [str(folder / "analysis.yaml")],
        "das": {"catalogues": [str(mirror / "catalogue.json")]},
    }
    return run_snakemake(folder, target, override=override)


MAP = "results/fakerate/far/map.json"


@pytest.mark.chain
def test_the_chain_through_a_cache_whose_origin_dies(
    mirror: Path, origin: Xrootd, cache: Xrootd, tmp_path: Path
) -> None:
    near, far = tmp_path / "near", tmp_path / "far"
    near.mkdir()
    far.mkdir()
    assert chain(near, mirror, MAP, str(mirror)).status == 0
    # the first dataset is there when the origin dies
    run = chain(far, mirror, "results/servicex/A.json", cache.url)
    assert run.status == 0, run.text
    manifest = far / "results/servicex/A.json"
    first = manifest.stat().st_mtime_ns
    # and of the second one file is in the cache
    with fsspec.open(f"{cache.url}/store/mc/B0.root") as file:
        file.read()
    origin.kill()
    run = chain(far, mirror, MAP, cache.url)
    assert run.status != 0
    assert f"{cache.url}/store/mc/B1.root" in run.text
    assert "Traceback" not in run.text
    assert not (far / MAP).exists()
    # another place is added; only what is missing is read
    run = chain(far, mirror, MAP, NOWHERE, str(mirror))
    assert run.status == 0, run.text
    assert run.text.count("servicex: transforming") == 1
    assert manifest.stat().st_mtime_ns == first
    ledgers = [read_json(far / f"results/fakerate/far/{name}.ledger.json") for name in DATASETS]
    sources = {name: url for ledger in ledgers for name, url in ledger["sources"].items()}
    assert sources == {
        "/store/mc/A0.root": f"{cache.url}/store/mc/A0.root",
        "/store/mc/A1.root": f"{cache.url}/store/mc/A1.root",
        "/store/mc/B0.root": f"{cache.url}/store/mc/B0.root",
        "/store/mc/B1.root": str(mirror / "store/mc/B1.root"),
    }
    assert [ledger["original"]["events"] for ledger in ledgers] == [6000, 6000]
    found, expected = (json.loads((folder / MAP).read_text()) for folder in (far, near))
    assert found == expected
