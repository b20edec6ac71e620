"""The workflow on a real HTCondor pool: end to end, and what happens to workers and jobs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pool import Pool, running_pool, worker_python

pytestmark = pytest.mark.chain


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    with running_pool(tmp_path_factory.mktemp("pool")) as pool:
        yield pool


@pytest.fixture(scope="module")
def python(pool: Pool) -> Path:
    """A worker's Python, from which this project can't be imported."""
    return worker_python(pool.folder / "worker")


def prepared(pool: Pool, name: str, python: Path, **override: Any) -> Path:
    """A working folder with a small demo and a site for it."""
    folder = pool.folder / name
    (folder / "config/sites").mkdir(parents=True)
    site = {
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
    }
    (folder / "config/sites/htcondor.yaml").write_text(yaml.safe_dump(site))
    settings = {
        "samples": {"scale": 0.02},
        "analyses": ["config/analyses/muon.yaml"],
        "processing": {"chunksize": 2000, "task_events": 2000},
        **override,
    }
    (folder / "override.yaml").write_text(yaml.safe_dump(settings))
    folder.chmod(0o777)
    return folder


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
