"""Faults at random moments on a real HTCondor pool: what is lost, how long it takes, what is left.

    LOOSELEAF_POOL=/a/folder .venv/bin/python benchmarks/faults.py [FAULT...] [--rounds 10]

takes root and apt, like tests/test_pool.py, whose jobs and faults these are. A job of two workers
and 80 tasks, of 0.2 s each on average, is disturbed at a moment between the submission of its first
worker and its usual end. Its result has to have the bits of a job that nothing happened to, also
where it had to be run again, and the queue has to be empty after 40 seconds.
"""

import argparse
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

REPO = Path(__file__).parent.parent
# what the tests use too
sys.path[:0] = [str(REPO / "tests"), str(REPO / "tests/support")]

from pool import Pool, running_pool, shipped_processors, worker_python  # noqa: E402
from samples import qcd, skimmed  # noqa: E402
from schedulers import attached, dask_scheduler  # noqa: E402
from test_pool import (  # noqa: E402
    COLUMNS,
    PHYSICIST,
    WORKERS_FAULTS,
    Disturbed,
    eventually,
    prepared,
)

LONGEST_S = "0.4"
EMPTY_S = 40.0
EVENTS = 4000


@dataclass(frozen=True)
class Round:
    """Seconds that a disturbed job took, and until the queue was empty then; jobs left in it."""

    whole_s: float
    empty_s: float
    lost: bool
    leaked: int


class Campaign:
    """Rounds of faults on one pool."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.number = pool, 0
        self.python = worker_python(pool.folder / "worker")
        data = pool.folder / "data"
        data.mkdir()
        self.manifest = skimmed(data, "q", {"q": qcd(EVENTS, files=4)}, COLUMNS)
        # the first fills caches of the machine
        self.calm()
        self.bits, _, self.submitted_s = self.calm()

    def job(self) -> Disturbed:
        self.number += 1
        return Disturbed(self.pool, self.python, self.manifest, f"job{self.number}", LONGEST_S)

    def ended(self, job: Disturbed) -> str | None:
        """The bits of a job's result, once it has ended; None if it failed."""
        job.process.communicate(timeout=180)
        path = job.folder / "result.json"
        if not path.exists():
            return None
        result = json.loads(path.read_text())
        return result["bits"] if result["ledger"]["processed"]["events"] == EVENTS else None

    def calm(self) -> tuple[str, float, float]:
        """The bits of an undisturbed job, its seconds, and those from its first submission."""
        started = time.monotonic()
        job = self.job()
        eventually(self.pool.jobs)
        submitted = time.monotonic()
        bits = self.ended(job)
        if bits is None:
            sys.exit("an undisturbed job failed")
        now = time.monotonic()
        self.emptied()
        return bits, now - started, now - submitted

    def emptied(self) -> tuple[float, int]:
        started = time.monotonic()
        self.pool.empty_within(EMPTY_S)
        return time.monotonic() - started, len(self.pool.jobs())

    def of_workers(self, fault: Callable[[Pool, list[str]], None]) -> Round:
        started = time.monotonic()
        job = self.job()
        eventually(self.pool.jobs)
        time.sleep(random.uniform(0, self.submitted_s))
        jobs = [number for (number,) in self.pool.jobs("ClusterId")]
        # there may be no such worker yet, or none any more
        with suppress(AssertionError, IndexError):
            fault(self.pool, random.sample(jobs, len(jobs)))
        bits = self.ended(job)
        return Round(time.monotonic() - started, *self.judged(bits))

    def judged(self, bits: str | None) -> tuple[float, bool, int]:
        empty, leaked = self.emptied()
        return empty, bits != self.bits, leaked

    def kill(self, pattern: str, *options: str) -> None:
        """Kill what there is of a kind, if it hasn't ended already."""
        command = ["pkill", "-KILL", "-u", PHYSICIST, *options, "-f", pattern]
        self.pool.run("sh", "-c", f"{shlex.join(command)} || true")

    def rule_killed(self) -> Round:
        started = time.monotonic()
        job = self.job()
        eventually(self.pool.jobs)
        time.sleep(random.uniform(0, self.submitted_s))
        self.kill(f"[p]ool_job.py .*{job.folder.name} ")
        job.process.communicate(timeout=180)
        empty, leaked = self.emptied()
        job.process = job.start()
        bits = self.ended(job)
        whole = time.monotonic() - started - empty
        return Round(whole, empty, bits != self.bits, leaked + self.emptied()[1])

    def snakemake_killed(self) -> Round:
        """Killed in the processing of a small demo, then unlocked and run again."""
        folder = self.pool.folder / "snakemake"
        asked = ("fakerate", "--default-resources", "dask_workers=2")
        histogram = folder / "results/fakerate/muon"
        if not folder.exists():
            prepared(self.pool, "snakemake", self.python, samples={"scale": 0.1})
            self.pool.snakemake(folder, *asked).communicate(timeout=300)
            self.calm_histograms = self.histograms(histogram)
            self.emptied()
            self.calm_s = self.processing_s(folder, asked)
        again = ("--forcerun", "fakerate_process_muon")
        self.forget(histogram)
        started = time.monotonic()
        run = self.pool.snakemake(folder, *asked, *again)
        eventually(self.pool.jobs)
        time.sleep(random.uniform(0, self.calm_s / 2))
        self.kill("[s]nakemake --profile htcondor", "-o")
        run.communicate(timeout=120)
        empty, leaked = self.emptied()
        self.pool.snakemake(folder, "--unlock").communicate(timeout=60)
        self.pool.snakemake(folder, *asked).communicate(timeout=300)
        whole = time.monotonic() - started - empty
        lost = self.histograms(histogram) != self.calm_histograms
        return Round(whole, empty, lost, leaked + self.emptied()[1])

    def processing_s(self, folder: Path, asked: tuple[str, ...]) -> float:
        self.forget(folder / "results/fakerate/muon")
        started = time.monotonic()
        self.pool.snakemake(folder, *asked).communicate(timeout=300)
        spent = time.monotonic() - started
        self.emptied()
        return spent

    @staticmethod
    def forget(folder: Path) -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                path.unlink()

    @staticmethod
    def histograms(folder: Path) -> dict[str, str]:
        """The bins of what was processed, by dataset."""
        return {
            path.name: json.dumps(json.loads(path.read_text()))
            for path in folder.glob("*.json")
            if not path.name.endswith(".ledger.json")
        }

    def scheduler_killed(self) -> Round:
        """A scheduler that isn't ours, on this machine; the job is run again with another."""
        self.number += 1
        folder = self.pool.folder / f"job{self.number}"
        folder.mkdir()
        started, codes = time.monotonic(), []
        for _ in range(2):
            with dask_scheduler(folder, self.python) as (process, address):
                site = {**attached(address), "wheels": [shipped_processors(folder)]}
                (folder / "site.json").write_text(json.dumps(site))
                job = subprocess.Popen(
                    [
                        sys.executable,
                        REPO / "tests/support/pool_job.py",
                        folder,
                        self.manifest,
                        LONGEST_S,
                    ],
                    env={**os.environ, "PYTHONPATH": f"{REPO}:{REPO}/tests/support"},
                    stderr=subprocess.DEVNULL,
                )
                if not codes:
                    time.sleep(random.uniform(3, 15))
                    os.kill(process, signal.SIGKILL)
                codes.append(job.wait(timeout=180))
                print(f"  status {codes[-1]}", end="", flush=True)
        result = json.loads((folder / "result.json").read_text())
        return Round(time.monotonic() - started, *self.judged(result["bits"]))


def table(name: str, rounds: list[Round], calm_s: float) -> str:
    whole, empty = [r.whole_s for r in rounds], [r.empty_s for r in rounds]
    lost, leaked = sum(r.lost for r in rounds), sum(r.leaked for r in rounds)
    return (
        f"| {name} | {len(rounds)} | {lost} | {calm_s:.0f} "
        f"| {median(whole):.0f} ({max(whole):.0f}) | {max(empty):.1f} | {leaked} |"
    )


def main() -> None:
    workers = {f"worker_{fault.__name__}": fault for fault in WORKERS_FAULTS}
    others = ("rule_killed", "snakemake_killed", "scheduler_killed")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("faults", nargs="*", help=f"of {', '.join([*workers, *others])}")
    parser.add_argument("--rounds", type=int, default=10)
    asked = parser.parse_args()
    lines = []
    with TemporaryDirectory() as name, running_pool(Path(name)) as pool:
        campaign = Campaign(pool)
        for fault in asked.faults or [*workers, *others]:
            rounds, calm = [], [campaign.calm()[1]]
            for _ in range(asked.rounds):
                if fault in workers:
                    rounds.append(campaign.of_workers(workers[fault]))
                else:
                    rounds.append(getattr(campaign, fault)())
                print(fault, rounds[-1], flush=True)
            # others may use the machine too: it is as fast as on average
            calm.append(campaign.calm()[1])
            calm_s = campaign.calm_s if fault == "snakemake_killed" else median(calm)
            print(f"undisturbed: {calm_s:.1f} s", flush=True)
            lines.append(table(fault, rounds, calm_s))
    print("| fault | tried | lost | s undisturbed | s disturbed (most) | s to empty, most | left |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
