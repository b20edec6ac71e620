"""A stage's processing job as a whole: what stops it before a cluster, what it writes down."""

import csv
import shutil
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
from processors import MuonPt, Undecided, Uneven

from looseleaf.cluster import client_for
from looseleaf.das.lookup import lookup
from looseleaf.errors import ConfigError, DataFileError
from looseleaf.files import read_json, write_json
from looseleaf.histograms.store import read_uhi
from looseleaf.losses import Loss
from looseleaf.objects.analysis import Allow
from looseleaf.processing.fileset import Fileset
from looseleaf.processing.runner import Limits
from looseleaf.processing.stage import DatasetFiles, Reading, Running, process_datasets
from looseleaf.servicex.embedded import Embedded
from looseleaf.servicex.request import request_from_das
from looseleaf.servicex.submission import transform
from looseleaf.stage_files import FileRecord, events_in, write_catalogue
from looseleaf.workerprocess import worthwhile

EVENTS = 50
# in tasks of at most 20 events, and these in pieces of at most 10
EDGES = [0, 8, 16, 24, 33, 41, 50]
# in events 3 and 7 MET_pt is no number
SPOILT = {"b": (3, 7)}
LOCAL = {"kind": "local", "redirectors": []}
# starting a cluster there fails at once
NOWHERE = {**LOCAL, "wheels": ["absent.whl"]}
BEYOND = Loss("beyond the axis", "ht", 2, 50, "events", "ht is beyond its axis in 2 events")


def dataset(folder: Path, name: str) -> DatasetFiles:
    """One file of events, looked up and transformed."""
    path = folder / f"{name}.root"
    met = np.arange(EVENTS, dtype=np.float32)
    met[list(SPOILT.get(name, ()))] = np.nan
    muons = ak.unflatten(np.linspace(1, 99, EVENTS, dtype=np.float32), np.ones(EVENTS, int))
    columns = {
        "run": np.ones(EVENTS, np.uint32),
        "luminosityBlock": np.ones(EVENTS, np.uint32),
        "event": np.arange(EVENTS, dtype=np.uint64),
        # no two datasets hold the same events
        "genWeight": np.full(EVENTS, 1 + ord(name), np.float32),
        "MET_pt": met,
        "Muon": ak.zip({"pt": muons}),
    }
    with uproot.recreate(path) as file:
        types = {key: ak.type(value).content for key, value in columns.items()}
        file.mktree("Events", types).extend(columns)
    record = FileRecord(f"/store/{name}.root", None, None, None, url=str(path))
    write_catalogue(folder / f"{name}.catalogue.json", {f"/{name}/B/C": [record]})
    das, manifest = folder / f"{name}.das.json", folder / f"{name}.manifest.json"
    lookup(f"/{name}/B/C", das, [folder / f"{name}.catalogue.json"])
    wanted = ["run", "luminosityBlock", "event", "genWeight", "MET_pt", "Muon_pt"]
    request = request_from_das(das, wanted, None, "root-file", "test", [])
    transform(request, folder / "volume", name, manifest, Embedded(1), name)
    return DatasetFiles(
        str(manifest), str(folder / f"{name}.out.json"), str(folder / f"{name}.ledger.json")
    )


def running(folder: Path, site: dict[str, Any], report: str | None = None) -> Running:
    return Running(partial(client_for, site, 2), Limits(10, 20), str(folder / "tasks.csv"), report)


def test_workers_are_started_for_many_events(tmp_path: Path) -> None:
    files = {name: dataset(tmp_path, name) for name in "ab"}
    assert events_in([files[name].manifest for name in "ab"]) == 2 * EVENTS
    assert worthwhile(LOCAL, lambda: 99_999, 100_000) == {**LOCAL, "kind": "here"}
    assert worthwhile(LOCAL, lambda: 100_000, 100_000) == LOCAL
    settings = {**LOCAL, "cluster": {"memory_limit": "2 GB"}}
    assert worthwhile(settings, lambda: 10, 100) == settings
    assert worthwhile({**LOCAL, "kind": "htcondor"}, lambda: 10, 100)["kind"] == "htcondor"


@pytest.mark.slow
def test_the_same_comes_out_without_workers_and_with_them(tmp_path: Path) -> None:
    files = {name: dataset(tmp_path, name) for name in "ab"}
    histograms = []
    for kind in ("here", "local"):
        report = tmp_path / f"{kind}.html"
        at = running(tmp_path, {**LOCAL, "kind": kind}, str(report))
        process_datasets(Uneven(), files, at, "test")
        shutil.rmtree(tmp_path / "checkpoints")
        # whose sums depend on the order in which they are made
        histograms.append([read_uhi(files[name].histograms)[0]["h"] for name in "ab"])
        assert "Dask Performance Report" in report.read_text()
    assert histograms[0] == histograms[1]
    assert histograms[0][0].sum().value > 0


def test_what_refuses_a_fileset_is_asked_of_each_before_a_cluster(tmp_path: Path) -> None:
    files = {name: dataset(tmp_path, name) for name in "ac"}
    asked = []

    def refuse(fileset: Fileset) -> None:
        asked.append(fileset.dataset)
        if fileset.dataset == "c":
            raise DataFileError("c is not worth it")

    with pytest.raises(DataFileError, match="c is not worth it"):
        process_datasets(MuonPt(), files, running(tmp_path, NOWHERE), "test", refuse=refuse)
    assert asked == ["a", "c"]


def test_the_columns_of_each_dataset_are_looked_at_before_a_cluster(tmp_path: Path) -> None:
    files = {name: dataset(tmp_path, name) for name in "ab"}
    here = running(tmp_path, NOWHERE)
    for met_of, allow, refused in (
        ("b", Allow(), True),
        ("b", Allow(not_finite=["Muon_pt"]), True),
        ("b", Allow(not_finite=["MET_pt"]), False),
        # whose MET_pt is a number everywhere
        ("a", Allow(), False),
    ):
        columns = {name: {"Muon_pt", *(["MET_pt"] if name == met_of else [])} for name in "ab"}
        problem = DataFileError if refused else ConfigError
        message = "dataset b: MET_pt is NaN or infinite in 2 of" if refused else "absent.whl"
        reading = Reading(columns=columns, allow=allow)
        with pytest.raises(problem, match=message):
            process_datasets(MuonPt(), files, here, "test", reading)


@pytest.mark.slow
def test_losses_and_costs_are_written_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {name: dataset(tmp_path, name) for name in "ab"}
    asked: dict[str, Any] = {}

    def losses(name: str, accumulator: dict[str, Any]) -> list[Loss]:
        asked[name] = accumulator
        return [BEYOND] if name == "b" else []

    def write(path: str, accumulator: Any, metadata: Any) -> None:
        write_json(Path(path), {**accumulator, **metadata})

    process_datasets(
        Undecided(), files, running(tmp_path, LOCAL), "test",
        Reading(columns={name: {"MET_pt"} for name in "ab"}, allow=Allow(not_finite=["MET_pt"])),
        write=write, losses=losses,
    )  # fmt: skip
    # the cut's events count in the ledger, and not among the histograms
    assert asked == {name: {"events": EVENTS, "in all": EVENTS} for name in "ab"}
    assert read_json(tmp_path / "b.out.json") == {**asked["b"], "dataset": "b"}
    ledgers = {name: read_json(files[name].ledger) for name in "ab"}
    found = {
        name: [(loss["kind"], loss["name"], loss["count"]) for loss in ledger["losses"]]
        for name, ledger in ledgers.items()
    }
    undecided = ("not finite", "ss", 13)
    assert found == {
        "a": [undecided],
        "b": [("not finite", "MET_pt", 2), undecided, ("beyond the axis", "ht", 2)],
    }
    told = capsys.readouterr().err
    for name, ledger in ledgers.items():
        for loss in ledger["losses"]:
            assert f"dataset {name}: {loss['message']}\n" in told
    with open(tmp_path / "tasks.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    chunks = [(name, chunk) for name in "ab" for chunk in ledgers[name]["chunks"]]
    assert [(row["dataset"], int(row["start"]), int(row["stop"])) for row in rows] == [
        (name, *edges) for name in "ab" for edges in pairwise(EDGES)
    ]
    for row, (_, chunk) in zip(rows, chunks, strict=True):
        wall, read = chunk["cost"]["wall_s"], chunk["read_s"]
        assert 0 < read < wall
        assert float(row["read_s"]) == read
        assert float(row["process_s"]) == pytest.approx(wall - read, abs=1e-4)
    assert sum(chunk["read_s"] for _, chunk in chunks) > 1e-3
