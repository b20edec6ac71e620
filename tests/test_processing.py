"""Running processors: nothing lost, nothing twice, and errors that say where."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import awkward as ak
import hist
import numpy as np
import pytest
import uproot
from coffea.processor import IterativeExecutor, Runner
from distributed import Client, LocalCluster
from processors import Deadly, MuonPt
from samples import qcd, sample, skimmed

from looseleaf.cluster import client_for
from looseleaf.cost import Cost
from looseleaf.errors import ConfigError, DataFileError, Shortfall
from looseleaf.processing.feed import SkimmedNanoAOD
from looseleaf.processing.fileset import Chunk, Fileset, chunks_of, from_manifest, tasks_of
from looseleaf.processing.job import run
from looseleaf.processing.ledger import ChunkRecord, ledger_of
from looseleaf.processing.runner import (
    Limits,
    ProcessingFailed,
    process_task,
)
from looseleaf.processing.site import Site

MUON = [f"Muon_{field}" for field in ("pt", "eta", "phi", "mass", "charge")]
COLUMNS = ["run", "luminosityBlock", "event", "genWeight", *MUON]
LOCAL = {"kind": "local", "redirectors": []}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with client_for(LOCAL, 2, tmp_path_factory.mktemp("logs")) as site:
        yield site


@pytest.fixture(scope="module")
def filesets(tmp_path_factory: pytest.TempPathFactory) -> list[Fileset]:
    folder = tmp_path_factory.mktemp("processing")
    datasets = {
        "q": qcd(5000),
        "w": sample("wjets", 3001, files=3),
        "empty": qcd(0, files=1, das="/empty/looseleaf-v1/NANOAODSIM"),
    }
    return [
        from_manifest(name, skimmed(folder, name, datasets, COLUMNS, "nMuon >= 1"), {})
        for name in datasets
    ]


def direct(fileset: Fileset) -> hist.Hist:
    """The same histogram from plain arrays, without chunks, coffea or Dask."""
    pt = hist.Hist(hist.axis.Regular(20, 0, 100, name="pt"), storage=hist.storage.Weight())
    for file in fileset.files:
        events = uproot.open(file.url)["Events"].arrays(["Muon_pt", "genWeight"])
        weight = ak.broadcast_arrays(events["genWeight"], events["Muon_pt"])[0]
        pt.fill(ak.flatten(events["Muon_pt"]), weight=ak.flatten(weight))
    return pt


def test_results_are_those_of_plain_arrays(
    site: Site, filesets: list[Fileset], tmp_path: Path
) -> None:
    results = run(MuonPt(), filesets, site, Limits(700, 1500), "test", tmp_path)
    for fileset in filesets:
        result, expected = results[fileset.dataset], direct(fileset)
        np.testing.assert_allclose(
            result.accumulator["pt"].values(flow=True), expected.values(flow=True), rtol=1e-12
        )
        np.testing.assert_allclose(
            result.accumulator["pt"].variances(flow=True),
            expected.variances(flow=True),
            rtol=1e-12,
        )
        total = sum(file.events for file in fileset.files)
        ledger = result.ledger
        assert ledger["processed"]["events"] == ledger["expected"]["events"] == total
        assert ledger["processed"]["files"] == len(fileset.files)
        assert result.accumulator["events"] == {fileset.dataset: total}
        assert sum(worker["chunks"] for worker in ledger["workers"].values()) == len(
            ledger["chunks"]
        )
        # a worker that has imported coffea takes some hundred MB
        peaks = [worker["peak_rss_bytes"] for worker in ledger["workers"].values()]
        assert all(100e6 < peak < 4e9 for peak in peaks)
    assert results["w"].ledger["original"]["events"] == 3001
    assert results["empty"].ledger["empty_files"] == [filesets[2].files[0].name]
    assert results["empty"].ledger["processed"]["chunks"] == 1


def test_a_repeated_run_gives_the_same_bits(
    site: Site, filesets: list[Fileset], tmp_path: Path
) -> None:
    first, second = (
        run(MuonPt(), filesets, site, Limits(300, 600), "test", tmp_path / name)["w"].accumulator[
            "pt"
        ]
        for name in ("a", "b")
    )
    assert first.view(flow=True).tobytes() == second.view(flow=True).tobytes()


def test_the_processor_runs_unchanged_under_coffeas_runner(filesets: list[Fileset]) -> None:
    files = {
        fileset.dataset: {
            "files": [file.url for file in fileset.files],
            "treename": "Events",
        }
        for fileset in filesets[:2]
    }
    runner = Runner(executor=IterativeExecutor(status=False), schema=SkimmedNanoAOD, chunksize=700)
    out = runner(files, MuonPt(), treename="Events")
    expected = direct(filesets[0]) + direct(filesets[1])
    np.testing.assert_allclose(out["pt"].values(), expected.values(), rtol=1e-12)


def test_chunks_cover_every_entry_once(filesets: list[Fileset]) -> None:
    for size in (1, 7, 700, 10_000):
        for fileset in filesets:
            chunks = chunks_of(fileset, size)
            for file in fileset.files:
                mine = [chunk for chunk in chunks if chunk.file == file]
                entries = [e for chunk in mine for e in range(chunk.start, chunk.stop)]
                assert entries == list(range(file.events))
                assert all(chunk.events <= size for chunk in mine)
                assert max(c.events for c in mine) - min(c.events for c in mine) <= 1


def test_tasks_keep_the_order_and_their_size(filesets: list[Fileset]) -> None:
    chunks = chunks_of(filesets[1], 100)
    tasks = tasks_of(chunks, 350)
    assert [chunk for task in tasks for chunk in task] == chunks
    assert all(sum(chunk.events for chunk in task) <= 350 for task in tasks)
    assert tasks_of(chunks_of(filesets[1], 10_000), 1) == [
        (c,) for c in chunks_of(filesets[1], 10_000)
    ]


def test_an_exception_says_where_it_was_raised(
    site: Site, filesets: list[Fileset], tmp_path: Path
) -> None:
    file = filesets[0].files[1]
    first = int(uproot.open(file.url)["Events/event"].array()[0])
    with pytest.raises(ProcessingFailed) as problem:
        run(MuonPt(fails_at=first), filesets[:1], site, Limits(700, 700), "test", tmp_path)
    message = str(problem.value)
    assert message.startswith(f"dataset q, {file.name} entries 0-")
    assert "ZeroDivisionError: the user's mistake" in message
    assert "processors.py, line" in message
    assert 'raise ZeroDivisionError("the user\'s mistake")' in message


@pytest.mark.slow
def test_workers_that_die_of_a_chunk(filesets: list[Fileset], tmp_path: Path) -> None:
    with (
        client_for(LOCAL, 2, tmp_path / "logs") as site,
        pytest.raises(ProcessingFailed, match=r"q_\d\.root.*the workers died"),
    ):
        run(Deadly(), filesets[:1], site, Limits(10_000, 10_000), "test", tmp_path)


def test_a_column_that_is_not_there_is_named(filesets: list[Fileset]) -> None:
    class Wrong(MuonPt):
        def process(self, events: Any) -> dict[str, Any]:
            return {"x": ak.sum(events.Muon.notThere)}

    chunk = chunks_of(filesets[0], 10_000)[0]
    with pytest.raises(ProcessingFailed, match="notThere"):
        process_task(Wrong(), [chunk], {"dataset": "q"})


def test_another_file_of_the_same_name_is_refused(filesets: list[Fileset], tmp_path: Path) -> None:
    mine, other = filesets[0].files
    swapped = Chunk("q", replace(mine, url=other.url), 0, mine.events)
    with pytest.raises(ProcessingFailed, match="is another file"):
        process_task(MuonPt(), [swapped], {"dataset": "q"})


def test_a_result_that_has_gone_from_the_volume(tmp_path: Path) -> None:
    manifest = skimmed(tmp_path, "q", {"q": qcd(500)}, COLUMNS)
    fileset = from_manifest("q", manifest, {})
    Path(fileset.files[1].url).unlink()
    with pytest.raises(DataFileError, match=r"q_1\.root: gone from the volume; make it again"):
        from_manifest("q", manifest, {})


def test_a_result_cut_in_half(tmp_path: Path) -> None:
    manifest = skimmed(tmp_path, "q", {"q": qcd(20_000)}, COLUMNS)
    path = Path(from_manifest("q", manifest, {}).files[0].url)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2])
    with pytest.raises(DataFileError) as problem:
        from_manifest("q", manifest, {})
    assert f"q_0.root: holds {size // 2} bytes, but the manifest says {size}" in str(problem.value)


def test_a_result_damaged_while_it_is_read(tmp_path: Path, site: Site) -> None:
    fileset = from_manifest("q", skimmed(tmp_path, "q", {"q": qcd(20_000)}, COLUMNS), {})
    path = Path(fileset.files[0].url)
    path.write_bytes(path.read_bytes()[:15_000])
    with pytest.raises(ProcessingFailed, match=r"dataset q, .*q_0\.root"):
        run(MuonPt(), [fileset], site, Limits(5000, 5000, tries=1), "test", tmp_path / "kept")


def records(fileset: Fileset, chunks: list[Chunk]) -> list[ChunkRecord]:
    cost = Cost(0, 0, 0.0, 0.0, 0).to_json()
    return [
        ChunkRecord(
            chunk.file.name,
            chunk.file.url,
            chunk.start,
            chunk.stop,
            chunk.events,
            chunk.file.sum_of_weights * chunk.events / max(chunk.file.events, 1),
            "w",
            1,
            0.0,
            cost,
        )
        for chunk in chunks
    ]


def test_ledger_names_what_is_missing(filesets: list[Fileset]) -> None:
    chunks = chunks_of(filesets[0], 1000)
    done = records(filesets[0], chunks)
    assert ledger_of(filesets[0], done, {})["processed"]["chunks"] == len(chunks)
    last = chunks[-1]
    with pytest.raises(Shortfall) as problem:
        ledger_of(filesets[0], done[:-1], {})
    assert f"{last.file.name} entries {last.start}-{last.stop} were not processed" in str(
        problem.value
    )


def test_ledger_refuses_what_is_counted_twice_or_differs(filesets: list[Fileset]) -> None:
    chunks = chunks_of(filesets[0], 1000)
    done = records(filesets[0], chunks)
    with pytest.raises(Shortfall, match="counted twice"):
        ledger_of(filesets[0], [*done, done[0]], {})
    with pytest.raises(Shortfall, match="gave 3 events"):
        ledger_of(filesets[0], [replace(done[0], events=3), *done[1:]], {})
    off = replace(done[0], sum_of_weights=done[0].sum_of_weights + 1)
    with pytest.raises(Shortfall, match="the manifest says"):
        ledger_of(filesets[0], [off, *done[1:]], {})


def test_workers_do_not_trim_their_memory(site: Site) -> None:
    def environment() -> dict[str, str]:
        import os  # noqa: PLC0415 - on the worker

        return dict(os.environ)

    for values in site.client.run(environment).values():
        assert int(values["MALLOC_TRIM_THRESHOLD_"]) == 1 << 30
        # a thread's own memory is returned whatever the threshold
        assert values["MALLOC_ARENA_MAX"] == "1"


def test_local_cluster_listens_on_the_loopback_only(site: Site) -> None:
    addresses = [site.client.scheduler.address, *site.client.scheduler_info()["workers"]]
    assert all(address.startswith("tls://127.0.0.1:") for address in addresses)


def test_several_clusters_run_side_by_side(site: Site, tmp_path: Path) -> None:
    with client_for(LOCAL, 1, tmp_path) as other:
        assert other.client.scheduler.address != site.client.scheduler.address
        assert other.client.submit(sum, [1, 2]).result() == 3


@pytest.mark.slow
def test_attaching_to_a_scheduler_leaves_it_running(tmp_path: Path) -> None:
    where = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=1, **where) as cluster, Client(cluster) as client:
        address = cluster.scheduler_address
        settings = {"kind": "scheduler", "address": address, "redirectors": []}
        with client_for(settings, 1, tmp_path) as attached:
            assert attached.client.submit(sum, [1, 2]).result() == 3
        assert client.submit(sum, [2, 2]).result() == 4


def test_a_cluster_package_that_is_not_installed_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # what Python does with a package that can't be imported
    monkeypatch.setitem(sys.modules, "coffea_casa", None)
    with (
        pytest.raises(ConfigError, match="needs the package coffea_casa"),
        client_for({"kind": "coffea-casa", "redirectors": []}, 1, tmp_path),
    ):
        pass


def test_a_machine_that_submits_no_htcondor_jobs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with (
        pytest.raises(ConfigError, match="condor_submit is not on the PATH"),
        client_for({"kind": "htcondor", "redirectors": []}, 1, tmp_path),
    ):
        pass


def test_a_scheduler_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("looseleaf.cluster.CONNECT_TIMEOUT", "1 s")
    site = {"kind": "scheduler", "address": "tcp://127.0.0.1:1", "redirectors": []}
    with (
        pytest.raises(ConfigError, match=r"no Dask scheduler answers at tcp://127.0.0.1:1"),
        client_for(site, 1, tmp_path),
    ):
        pass
