"""What large accumulators cost on their way to the client, beside coffea's Runner.

    .venv/bin/python benchmarks/eft_reduction.py [--tasks 96] [--workers 2]

The accumulator is that of an EFT analysis with 26 Wilson coefficients: ten histograms over 20
channels and 30 bins with 378 terms in each, squares at three points, 20 MB in all. Each way runs in
a process of its own, with a cluster of its own: ours; ours with every task's result sent to the
client; coffea's `Runner` with `DaskExecutor`, which sums on the workers and keeps nothing. The
coefficients are drawn and not read, as it is sums that are compared. "Received" is what the client
and the scheduler, one process here, read from sockets: what comes to the client counts twice, as it
comes through the scheduler.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import awkward as ak
import hist
import numpy as np
from coffea.processor import DaskExecutor, ProcessorABC, Runner
from distributed.comm import tcp
from writing import nanoaod

from looseleaf.cluster import client_for
from looseleaf.efthist import EFTHist
from looseleaf.processing import job
from looseleaf.processing.feed import SkimmedNanoAOD
from looseleaf.processing.fileset import EventsSource, Fileset
from looseleaf.processing.runner import Limits
from looseleaf.processing.site import Site

EVENTS = 2000
COEFFICIENTS = [f"c{number}" for number in range(26)]
TERMS = 378
POINTS = [{}, {"c0": 1.0}, {"c1": -2.0, "c2": 0.5}]
WAYS = ("ours", "ours, every result sent", "coffea Runner")


class Terms(ProcessorABC):
    """Ten histograms of 378 terms over 20 channels."""

    def process(self, events: Any) -> dict[str, Any]:
        number = ak.to_numpy(events.event).astype(np.int64)
        draw = np.random.default_rng(int(number[0]) if len(number) else 0)
        terms = draw.normal(1, 0.1, (len(number), TERMS)).astype(np.float32)
        channel = number % 20
        out = {}
        for index in range(10):
            h = EFTHist(
                hist.axis.StrCategory([], growth=True, name="channel"),
                hist.axis.Regular(30, 0, 1, name="x"),
                coefficients=COEFFICIENTS,
                squares=POINTS,
            )
            x = draw.random(len(number))
            for name in range(20):
                rows = np.flatnonzero(channel == name)
                h.fill(f"ch{name}", x[rows], eft=terms, rows=rows)
            out[f"h{index}"] = h
        return out

    def postprocess(self, accumulator: Any) -> Any:
        return accumulator


def ours(fileset: Fileset, site: Site, folder: Path) -> tuple[Any, float]:
    result = job.run(Terms(), [fileset], site, Limits(EVENTS, EVENTS), "eft", folder)["d"]
    peaks = [worker["peak_rss_bytes"] for worker in result.ledger["workers"].values()]
    return result.accumulator, max(peaks)


def coffeas(fileset: Fileset, site: Site) -> tuple[Any, float]:
    executor = DaskExecutor(client=site.client, status=False)
    runner = Runner(executor=executor, schema=SkimmedNanoAOD, chunksize=EVENTS)
    files = {"d": {"files": [file.url for file in fileset.files], "treename": "Events"}}
    result = runner(files, Terms(), treename="Events")
    return result, max(site.client.run(peak).values())


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(way: str, fileset: Fileset, workers: int, folder: Path) -> dict[str, float]:
    received = [0]
    read = tcp.read_bytes_rw

    async def counted(stream: Any, n: int) -> Any:
        received[0] += n
        return await read(stream, n)

    tcp.read_bytes_rw = counted
    if way == "ours, every result sent":
        job.LARGE_BYTES = sys.maxsize
    with client_for({"kind": "local", "redirectors": []}, workers, folder / "logs") as site:
        # workers import what they need
        ours(Fileset("d", fileset.files[:workers], {}, {"dataset": "d"}, "r"), site, folder / "w")
        received[0], before, started = 0, peak(), time.perf_counter()
        total, worker = coffeas(fileset, site) if way == WAYS[2] else ours(
            fileset, site, folder / "kept"
        )  # fmt: skip
        seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "client": peak(),
        "before": before,
        "worker": worker,
        "received": received[0],
        "kept": sum(path.stat().st_size for path in (folder / "kept").glob("*")),
        "size": sum(h.nbytes for h in total.values()),
        "sum": float(sum(h.values().sum() for h in total.values())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=96)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--files", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.way is not None:
        sources = [EventsSource(**file) for file in json.loads(asked.files.read_text())]
        fileset = Fileset("d", tuple(sources), {}, {"dataset": "d"}, "benchmark")
        with TemporaryDirectory() as name:
            print(json.dumps(measured(asked.way, fileset, asked.workers, Path(name))))
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        files = nanoaod(folder, asked.tasks, EVENTS)
        (folder / "files.json").write_text(json.dumps([vars(file) for file in files]))
        found = {}
        for way in WAYS:
            command = [sys.executable, __file__, "--way", way, "--files", folder / "files.json"]
            done = subprocess.run(
                [*command, "--workers", str(asked.workers)], capture_output=True, check=False
            )
            if done.returncode != 0:
                sys.exit(done.stderr.decode())
            found[way] = json.loads(done.stdout)
    if len({round(one["sum"]) for one in found.values()}) != 1:
        sys.exit(f"the sums differ: {found}")
    size = found["ours"]["size"] / 1e6
    print(f"{asked.tasks} tasks, {asked.workers} workers, an accumulator of {size:.1f} MB")
    print(f"{'MB':26}{'time':>8}{'client':>10}{'worker':>8}{'received':>10}{'kept':>8}")
    for way, one in found.items():
        print(
            f"{way:26}{one['seconds']:6.1f} s{(one['client'] - one['before']) / 1e6:+10.0f}"
            f"{one['worker'] / 1e6:8.0f}{one['received'] / 1e6:10.0f}{one['kept'] / 1e6:8.0f}"
        )


if __name__ == "__main__":
    main()
