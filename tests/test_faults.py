"""Faults of files, workers and schedulers: nothing is lost, and what can't be mended is told."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot
from distributed import LocalCluster
from pool import shipped_processors, worker_python
from processors import Kill, Link, MuonPt, Traced, devour, die
from samples import qcd, skimmed
from schedulers import attached, dask_scheduler

from looseleaf.cluster import client_for
from looseleaf.errors import ConfigError
from looseleaf.parents import announce
from looseleaf.processing.fileset import Fileset, from_manifest
from looseleaf.processing.job import Processed, run
from looseleaf.processing.runner import Limits, ProcessingFailed
from looseleaf.processing.site import Site, WorkersGone

pytestmark = pytest.mark.slow

MUON = [f"Muon_{field}" for field in ("pt", "eta", "phi", "mass", "charge")]
COLUMNS = ["run", "luminosityBlock", "event", "genWeight", *MUON]
LIMITS = Limits(chunksize=500, task_events=500)


@pytest.fixture(scope="module")
def fileset(tmp_path_factory: pytest.TempPathFactory) -> Fileset:
    folder = tmp_path_factory.mktemp("faults")
    return from_manifest("q", skimmed(folder, "q", {"q": qcd(4000, files=4)}, COLUMNS), {})


@pytest.fixture(scope="module")
def undisturbed(fileset: Fileset, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The muons' histogram as it comes out when nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with local(folder) as site:
        return bits(run(MuonPt(), [fileset], site, LIMITS, "test", folder / "kept")["q"])


def bits(result: Processed) -> bytes:
    assert result.ledger["processed"]["events"] == result.ledger["expected"]["events"] == 4000
    return result.accumulator["pt"].view(flow=True).tobytes()


@contextmanager
def local(folder: Path, workers: int = 2, **cluster: Any) -> Iterator[Site]:
    settings = {"kind": "local", "redirectors": [], "cluster": cluster}
    with client_for(settings, workers, folder / "workers") as site:
        yield site


def test_a_worker_that_is_killed(tmp_path: Path, fileset: Fileset, undisturbed: bytes) -> None:
    with local(tmp_path) as site:
        processor = Traced(tmp_path / "journal", act=die)
        results = run(processor, [fileset], site, LIMITS, "test", tmp_path / "kept")
    assert (tmp_path / "journal.act").exists()
    assert bits(results["q"]) == undisturbed


def test_workers_that_run_out_of_memory(tmp_path: Path, fileset: Fileset) -> None:
    with (
        local(tmp_path, 1, memory_limit="700 MB") as site,
        pytest.raises(
            ProcessingFailed, match=r"q_\d\.root entries \d+- .*enough memory\? A smaller"
        ),
    ):
        run(Devouring(), [fileset], site, LIMITS, "test", tmp_path / "kept")


class Devouring(MuonPt):
    def process(self, events: Any) -> dict[str, Any]:
        devour()
        return {}


def without(path: Path, fileset: Fileset) -> Fileset:
    """The fileset with its first file at a path where there is none."""
    return replace(fileset, files=(replace(fileset.files[0], url=str(path)), *fileset.files[1:]))


def test_a_file_that_fails_to_open_once(
    tmp_path: Path, fileset: Fileset, undisturbed: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    late = tmp_path / "late.root"
    # the one worker fails on it first, and makes it appear with the chunk that follows
    act = Link(fileset.files[0].url, str(late))
    with local(tmp_path, 1) as site:
        processor = Traced(tmp_path / "journal", act=act)
        results = run(processor, [without(late, fileset)], site, LIMITS, "test", tmp_path / "kept")
    assert bits(results["q"]) == undisturbed
    tries = {chunk["file"]: chunk["tries"] for chunk in results["q"].ledger["chunks"]}
    assert list(tries.values()) == [2, 1, 1, 1]
    assert f"once more: dataset q, {fileset.files[0].name} entries 0-500" in capfd.readouterr().err


def test_a_file_that_always_fails_to_open(tmp_path: Path, fileset: Fileset) -> None:
    limits = replace(LIMITS, tries=2)
    missing = without(tmp_path / "missing.root", fileset)
    with local(tmp_path) as site:
        with pytest.raises(ProcessingFailed) as problem:
            run(MuonPt(), [missing], site, limits, "test", tmp_path / "kept")
        message = str(problem.value)
        assert f"dataset q, {fileset.files[0].name} entries " in message
        assert "missing.root: no such file" in message
        assert message.endswith("(tried 2 times)")
        # the other files were done meanwhile, and are kept
        assert len(list((tmp_path / "kept").iterdir())) == 6


def test_a_file_that_returns_garbage(tmp_path: Path, fileset: Fileset) -> None:
    # these numbers don't compress, so that uproot would read others in their place unawares
    with uproot.open(fileset.files[0].url) as file:
        branch = file["Events/Muon_pt"]
        assert branch.compressed_bytes == branch.uncompressed_bytes
        middle = branch.member("fBasketSeek")[0] + branch.compressed_bytes // 2
    content = bytearray(Path(fileset.files[0].url).read_bytes())
    content[middle : middle + 4] = np.array(1e6, ">f4").tobytes()
    (tmp_path / "garbage.root").write_bytes(content)
    garbage = without(tmp_path / "garbage.root", fileset)
    with (
        local(tmp_path) as site,
        pytest.raises(
            ProcessingFailed,
            match=r"dataset q, .*q_0\.root entries .*garbage\.root: its content has changed",
        ),
    ):
        run(MuonPt(), [garbage], site, replace(LIMITS, tries=1), "test", tmp_path / "kept")


def test_a_read_that_hangs(tmp_path: Path, fileset: Fileset) -> None:
    # who opens a pipe waits until someone writes
    os.mkfifo(tmp_path / "hanging.root")
    limits = replace(LIMITS, tries=1, chunk_s=5.0)
    hanging = without(tmp_path / "hanging.root", fileset)
    with (
        local(tmp_path) as site,
        pytest.raises(ProcessingFailed, match=r"q_0\.root entries \d+-\d+: not done after 5 s"),
    ):
        run(MuonPt(), [hanging], site, limits, "test", tmp_path / "kept")


def test_an_exception_is_told_once(
    tmp_path: Path, fileset: Fileset, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "journal.broken").touch()
    processor = Traced(tmp_path / "journal", fails_in="q")
    with (
        local(tmp_path) as site,
        pytest.raises(ProcessingFailed, match="ZeroDivisionError: the user's mistake"),
    ):
        run(processor, [fileset], site, replace(LIMITS, task_events=50), "test", tmp_path / "k")
    printed = capfd.readouterr()
    assert "the user's mistake" not in printed.err + printed.out


def test_a_scheduler_and_a_worker_without_our_code_and_then_killed(
    tmp_path: Path, fileset: Fileset, undisturbed: bytes
) -> None:
    python = worker_python(tmp_path / "environment")
    wheel = shipped_processors(tmp_path)
    with dask_scheduler(tmp_path, python) as (process, address):
        with (
            client_for(attached(address), 1, tmp_path / "w") as site,
            pytest.raises(ProcessingFailed, match=r"load the processor: No module .*as a wheel in"),
        ):
            run(MuonPt(), [fileset], site, LIMITS, "test", tmp_path / "unknown")
        settings = {**attached(address), "wheels": [wheel]}
        with client_for(settings, 1, tmp_path / "w") as site:
            results = run(MuonPt(), [fileset], site, LIMITS, "test", tmp_path / "straight")
        assert bits(results["q"]) == undisturbed
        processor = Traced(tmp_path / "journal", act=Kill(process))
        with (
            client_for(settings, 1, tmp_path / "w") as site,
            pytest.raises(ProcessingFailed, match="the Dask scheduler is gone; run again"),
        ):
            run(processor, [fileset], site, LIMITS, "test", tmp_path / "kept")
    with local(tmp_path) as site:
        results = run(processor, [fileset], site, LIMITS, "test", tmp_path / "kept")
    assert bits(results["q"]) == undisturbed


def test_a_scheduler_whose_workers_are_gone(tmp_path: Path, fileset: Fileset) -> None:
    settings = {
        "wheels": [shipped_processors(tmp_path)],
        "dask": {"distributed.scheduler.no-workers-timeout": "4s"},
    }
    processor = Traced(tmp_path / "journal", act=die)
    with (
        dask_scheduler(tmp_path, Path(sys.executable)) as (_, address),
        client_for({**attached(address), **settings}, 1, tmp_path / "w") as site,
        pytest.raises(WorkersGone, match=rf"{address} has had no workers for 4s: start some"),
    ):
        run(processor, [fileset], site, LIMITS, "test", tmp_path / "kept")
    assert (tmp_path / "journal.act").exists()


def test_a_worker_with_another_version_of_a_package(tmp_path: Path, fileset: Fileset) -> None:
    other = tmp_path / "other/awkward-2.8.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: awkward\nVersion: 2.8.1\n")
    environment = {"PYTHONPATH": str(other.parent)}
    wheel = shipped_processors(tmp_path)
    with (
        dask_scheduler(tmp_path, Path(sys.executable), **environment) as (_, address),
        client_for({**attached(address), "wheels": [wheel]}, 1, tmp_path / "w") as site,
        pytest.raises(
            ProcessingFailed, match=r"worker .* on tcp://127.* awkward is 2\.8\.1 there and 2\."
        ),
    ):
        run(MuonPt(), [fileset], site, LIMITS, "test", tmp_path / "kept")


def test_two_jobs_with_different_code_on_one_scheduler(tmp_path: Path, fileset: Fileset) -> None:
    where = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=2, threads_per_worker=1, **where) as cluster:
        settings = attached(cluster.scheduler_address)
        more = {**settings, "wheels": [shipped_processors(tmp_path)]}
        with (
            client_for(settings, 2, tmp_path / "v") as site,
            client_for(more, 2, tmp_path / "w") as other,
        ):
            assert other.code != site.code
            with pytest.raises(
                ProcessingFailed, match=f"runs the code {other.code} of another .* {site.code}: let"
            ):
                run(MuonPt(), [fileset], site, LIMITS, "test", tmp_path / "kept")


def test_a_wheel_that_is_not_there(tmp_path: Path) -> None:
    settings = {"kind": "local", "redirectors": [], "wheels": ["nowhere-1.0-py3-none-any.whl"]}
    with (
        pytest.raises(ConfigError, match=r"nowhere-1\.0-py3-none-any\.whl: No such file"),
        client_for(settings, 1, tmp_path),
    ):
        pass


def test_a_job_ends_with_its_snakemake(tmp_path: Path) -> None:
    # a process that says who it is, as the graph has snakemake do, and the job that it starts
    job = (
        "import os, time; from looseleaf.doorway import doorway\n"
        f"with doorway({str(tmp_path / 'log')!r}):\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(600)\n"
    )
    parent = (
        "import subprocess, sys; from looseleaf.parents import announce; announce()\n"
        f"subprocess.run([sys.executable, '-c', {job!r}], check=False)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        int(process.stdout.readline())
        process.kill()
        # the job holds the pipe's other end: it is read to its end when the job has gone
        assert process.stdout.read() == ""


def test_a_job_whose_snakemake_died_before_it_looked(tmp_path: Path) -> None:
    parent = (
        "import os; from looseleaf.parents import ENVIRONMENT, announce; announce()\n"
        "print(os.environ[ENVIRONMENT])\n"
    )
    announced = subprocess.run(
        [sys.executable, "-c", parent], capture_output=True, text=True, check=True
    ).stdout.strip()
    job = (
        "import time; from looseleaf.doorway import doorway\n"
        f"with doorway({str(tmp_path / 'log')!r}):\n"
        "    time.sleep(600)\n"
    )
    # another process may have the number since
    reused = f"{os.getpid()}:{announced.partition(':')[2]}"
    for name in (announced, reused):
        ended = subprocess.run(
            [sys.executable, "-c", job],
            env={**os.environ, "LOOSELEAF_SNAKEMAKE": name},
            timeout=60,
            check=False,
        )
        assert ended.returncode == -signal.SIGTERM


def test_a_job_ends_with_the_snakemake_of_its_snakemake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOSELEAF_SNAKEMAKE", "1:2.00")
    announce()
    announce()
    outer, own = os.environ["LOOSELEAF_SNAKEMAKE"].split(",")
    assert outer == "1:2.00"
    assert own.startswith(f"{os.getpid()}:")
