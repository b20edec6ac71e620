"""The workflow on a real HTCondor pool: end to end, and what happens to workers and jobs."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from pool import REPO, Pool, running_pool, shipped_processors, worker_python
from processors import MuonPt
from samples import qcd, skimmed

from looseleaf.cluster import client_for
from looseleaf.processing.fileset import from_manifest
from looseleaf.processing.job import run
from looseleaf.processing.runner import Limits

MUON = [f"Muon_{field}" for field in ("pt", "eta", "phi", "mass", "charge")]
# as tests/support/pool.sh calls its user
PHYSICIST = "physicist"
RUNNING = "2"
COLUMNS = ["run", "luminosityBlock", "event", "genWeight", *MUON]

pytestmark = pytest.mark.chain


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    with running_pool(tmp_path_factory.mktemp("pool")) as pool:
        yield pool


@pytest.fixture(scope="module")
def python(pool: Pool) -> Path:
    """A worker's Python, from which this project can't be imported."""
    return worker_python(pool.folder / "worker")


def cluster(python: Path, **more: Any) -> dict[str, Any]:
    """The settings of a small cluster on the pool."""
    return {
        "kind": "htcondor",
        "redirectors": [],
        "cluster": {
            "cores": 1,
            "memory": "1 GB",
            "disk": "100 MB",
            "death_timeout": "20",
            "python": str(python),
            "scheduler_options": {"host": "127.0.0.1"},
        },
        **more,
    }


def prepared(pool: Pool, name: str, python: Path, **override: Any) -> Path:
    """A working folder with a site, and an analysis of few datasets."""
    folder = pool.folder / name
    (folder / "config/sites").mkdir(parents=True)
    (folder / "config/sites/htcondor.yaml").write_text(yaml.safe_dump(cluster(python)))
    muon = yaml.safe_load((REPO / "config/analyses/muon.yaml").read_text())
    muon["datasets"]["measure"] = ["QCD_Pt-20to30", "QCD_Pt-30to50"]
    # so few events may leave bins empty
    muon["allow"] = {"empty_bins": True}
    (folder / "muon.yaml").write_text(yaml.safe_dump(muon))
    settings = {
        "samples": {"scale": 0.02},
        "analyses": [str(folder / "muon.yaml")],
        "processing": {"chunksize": 500, "task_events": 500, "dask_report": True},
        **override,
    }
    (folder / "override.yaml").write_text(yaml.safe_dump(settings))
    return folder


def eventually(what: Callable[[], Any], seconds: float = 90) -> Any:
    """What a function gives as soon as it isn't empty."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.2)
    return found


def test_the_chain_runs_on_the_pool(pool: Pool, python: Path) -> None:
    folder = prepared(pool, "chain", python)
    with pool.snakemake(folder, "--default-resources", "dask_workers=3") as run:
        text, _ = run.communicate(timeout=500)
    assert run.returncode == 0, text
    results = folder / "results"
    workers = set()
    for path in (results / "fakerate/muon").glob("*.ledger.json"):
        ledger = json.loads(path.read_text())
        assert ledger["processed"]["events"] == ledger["expected"]["events"]
        workers |= set(ledger["workers"])
    assert len(workers) > 1
    assert all(worker.startswith("HTCondorCluster-") for worker in workers)
    for name in ("map.json", "tasks.csv", "performance.html"):
        assert (results / "fakerate/muon" / name).stat().st_size > 0
    assert (results / "benchmark/report.html").is_file()
    assert pool.empty_within(20)


class Disturbed:
    """A job of tests/support/pool_job.py on the pool, whose workers wait until they are let go."""

    def __init__(
        self, pool: Pool, python: Path, manifest: Path, name: str, longest_s: str | None = None
    ) -> None:
        self.pool, self.manifest, self.longest_s = pool, manifest, longest_s
        self.folder = pool.folder / name
        self.folder.mkdir()
        settings = cluster(python, wheels=[shipped_processors(self.folder)])
        (self.folder / "site.json").write_text(json.dumps(settings))
        self.process = self.start()

    def start(self) -> subprocess.Popen[str]:
        return self.pool.start(
            self.folder,
            "env",
            f"PYTHONPATH={REPO}:{REPO}/tests/support",
            # where the facility's cluster says that its scheduler is
            "POD_IP=127.0.0.1",
            "HOSTNAME=pool",
            sys.executable,
            f"{REPO}/tests/support/pool_job.py",
            str(self.folder),
            str(self.manifest),
            *([self.longest_s] if self.longest_s else []),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def given(self) -> list[str]:
        """The chunks that workers were given so far."""
        journal = self.folder / "journal"
        return journal.read_text().splitlines() if journal.exists() else []

    def busy(self, given: int) -> list[str]:
        """The job ids of the workers, once so many chunks were given to them."""
        eventually(lambda: len(self.given()) >= given)
        jobs = self.pool.jobs("ClusterId", "JobStatus")
        return [cluster for cluster, status in jobs if status == RUNNING]

    def finish(self) -> dict[str, Any]:
        """Let the workers go; the job's result."""
        (self.folder / "gate").touch()
        text, _ = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, text
        return json.loads((self.folder / "result.json").read_text())


@pytest.fixture(scope="module")
def manifest(pool: Pool) -> Path:
    folder = pool.folder / "data"
    folder.mkdir()
    return skimmed(folder, "q", {"q": qcd(4000, files=4)}, COLUMNS)


@pytest.fixture(scope="module")
def undisturbed(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The bits of the histogram that a job without faults makes, on this machine."""
    folder = tmp_path_factory.mktemp("undisturbed")
    fileset = from_manifest("q", manifest, {})
    with client_for({"kind": "local", "redirectors": []}, 1, folder) as site:
        result = run(MuonPt(), [fileset], site, Limits(500, 500), "local", folder / "kept")["q"]
    return result.accumulator["pt"].view(flow=True).tobytes().hex()


def removed(pool: Pool, jobs: list[str]) -> None:
    pool.run("condor_rm", jobs[0])


def all_removed(pool: Pool, jobs: list[str]) -> None:
    pool.run("condor_rm", *jobs)


def held(pool: Pool, jobs: list[str]) -> None:
    pool.run("condor_hold", jobs[0])


def vacated(pool: Pool, jobs: list[str]) -> None:
    pool.run("condor_vacate_job", jobs[0])


def killed(pool: Pool, jobs: list[str]) -> None:
    pool.run("pkill", "-KILL", "-u", PHYSICIST, "-n", "-f", "multiprocessing.spawn")


WORKERS_FAULTS = (removed, all_removed, held, vacated, killed)


@pytest.mark.parametrize("faults", [(removed, held, vacated), (killed, all_removed)])
def test_a_job_outlives_its_workers(
    pool: Pool,
    python: Path,
    manifest: Path,
    undisturbed: str,
    faults: Sequence[Callable[[Pool, list[str]], None]],
) -> None:
    job = Disturbed(pool, python, manifest, faults[0].__name__)
    given = 2
    for fault in faults:
        fault(pool, job.busy(given))
        # a chunk that was lost is given again
        given += 2 if fault is all_removed else 1
    job.busy(given)
    result = job.finish()
    assert result["ledger"]["processed"]["events"] == 4000
    assert result["bits"] == undisturbed
    assert pool.empty_within(30)


def test_jobs_that_are_removed_before_their_workers_come(
    pool: Pool, python: Path, manifest: Path, undisturbed: str
) -> None:
    job = Disturbed(pool, python, manifest, "removed_early")
    eventually(lambda: len(pool.jobs()) == 2)
    pool.run("condor_rm", *[cluster for (cluster,) in pool.jobs("ClusterId")])
    assert not job.given()
    job.busy(2)
    assert job.finish()["bits"] == undisturbed
    assert pool.empty_within(30)


def test_a_job_that_is_killed_leaves_none_behind_and_resumes(
    pool: Pool, python: Path, manifest: Path, undisturbed: str
) -> None:
    job = Disturbed(pool, python, manifest, "killed_job")
    jobs = job.busy(2)
    # one worker's job is held and would wait for ever
    pool.run("condor_hold", jobs[0])
    pool.run("pkill", "-KILL", "-u", PHYSICIST, "-f", "pool_job.py .*killed_job")
    job.process.communicate()
    assert pool.empty_within(30)
    job.process = job.start()
    assert job.finish()["bits"] == undisturbed
    assert pool.empty_within(30)


def spooled() -> dict[str, Any]:
    """The facility's cluster, with its spooled jobs, on a pool that has no containers."""
    return {
        "kind": "coffea-casa",
        "redirectors": [],
        "cluster": {
            "worker_image": "none",
            "scheduler_port": 0,
            "dashboard_port": 0,
            "cores": 1,
            "memory": "1 GB",
            "disk": "100 MB",
            "python": "/nowhere/python",
            "job_extra_directives": {"universe": "vanilla", "docker_image": ""},
        },
    }


def test_workers_that_never_start_are_told_with_their_logs(pool: Pool, manifest: Path) -> None:
    processes = []
    for settings in (cluster(Path("/nowhere/python")), spooled()):
        settings["dask"] = {"distributed.scheduler.no-workers-timeout": "10s"}
        folder = pool.folder / f"no_python_{settings['kind']}"
        folder.mkdir()
        (folder / "gate").touch()
        job = Disturbed.__new__(Disturbed)
        job.pool, job.manifest, job.folder, job.longest_s = pool, manifest, folder, None
        (folder / "site.json").write_text(json.dumps(settings))
        processes.append(job.start())
    for process in processes:
        text, _ = process.communicate(timeout=300)
        assert "the workers died or never started (NoWorkerError)" in text
        assert ".err ends:" in text
        assert "/nowhere/python: not found" in text
    assert pool.empty_within(30)


def test_snakemake_that_is_killed_and_run_again(pool: Pool, python: Path) -> None:
    folder = prepared(pool, "killed_snakemake", python, samples={"scale": 0.1})
    arguments = ("fakerate", "--default-resources", "dask_workers=2")
    run = pool.snakemake(folder, *arguments)
    kept = folder / "results/fakerate/muon/checkpoints"
    eventually(lambda: kept.is_dir() and len(list(kept.glob("*.result"))) > 3, 200)
    pool.run("pkill", "-KILL", "-u", PHYSICIST, "-o", "-f", "snakemake .*killed_snakemake")
    run.communicate(timeout=60)
    assert pool.empty_within(40)
    # one that was being written is none
    before = len(list(kept.glob("[!.]*.result")))
    with pool.snakemake(folder, "--unlock") as run:
        run.communicate(timeout=60)
    with pool.snakemake(folder, *arguments) as run:
        text, _ = run.communicate(timeout=300)
    assert run.returncode == 0, text
    log = text + "".join(path.read_text() for path in folder.rglob("*.log"))
    assert int(re.search(r"(\d+) of \d+ tasks were done before", log)[1]) >= before
    assert pool.empty_within(30)
