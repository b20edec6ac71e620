"""What our bookkeeping costs beside coffea's Runner and a bare `client.map`, side by side.

    .venv/bin/python benchmarks/cluster_overhead.py [--files 1400] [--rounds 3] [--workers 2]

All three run one processor over the same files of one small chunk each, in turn, on one cluster:
what is compared is what a chunk costs beside its events. Ours identifies every chunk, sums up on
the workers, keeps each result on disk and closes a ledger; `Runner` (with `DaskExecutor`) opens
each file beforehand to count its entries; `client.map` gathers and adds up results and does
nothing else. Starting a cluster is compared with Dask's own start. Trust the ratios; the times
are this machine's.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import awkward as ak
import hist
from coffea.nanoevents import NanoEventsFactory
from coffea.processor import DaskExecutor, ProcessorABC, Runner, accumulate
from distributed import Client, LocalCluster
from writing import nanoaod

from looseleaf.cluster import Site, client_for
from looseleaf.processing.fileset import Fileset
from looseleaf.processing.job import run
from looseleaf.processing.runner import Limits, SkimmedNanoAOD

LOCAL = {"kind": "local", "redirectors": []}
EVENTS = 2000


class MuonPt(ProcessorABC):
    """A small piece of work: one histogram of one column."""

    def process(self, events: Any) -> dict[str, Any]:
        pt = hist.Hist(hist.axis.Regular(50, 0, 100, name="pt"), storage=hist.storage.Weight())
        pt.fill(ak.to_numpy(events.MET.pt), weight=ak.to_numpy(events.genWeight))
        return {"pt": pt}

    def postprocess(self, accumulator: Any) -> Any:
        return accumulator


def ours(fileset: Fileset, site: Site, task_events: int) -> Any:
    limits = Limits(EVENTS, task_events)
    with TemporaryDirectory() as kept:
        return run(MuonPt(), [fileset], site, limits, "ours", kept)["d"].accumulator


def coffeas(fileset: Fileset, site: Site) -> Any:
    executor = DaskExecutor(client=site.client, status=False)
    runner = Runner(executor=executor, schema=SkimmedNanoAOD, chunksize=EVENTS)
    files = {"d": {"files": [file.url for file in fileset.files], "treename": "Events"}}
    return runner(files, MuonPt(), treename="Events")


def one_file(url: str) -> Any:
    """What a task of the bare map does."""
    events = NanoEventsFactory.from_root(
        {url: "Events"}, schemaclass=SkimmedNanoAOD, metadata={"dataset": "d"}, mode="virtual"
    ).events()
    return MuonPt().process(events)


def bare(fileset: Fileset, site: Site) -> Any:
    urls = [file.url for file in fileset.files]
    return accumulate(site.client.gather(site.client.map(one_file, urls, pure=False)))


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def our_start(workers: int, logs: Path) -> None:
    with client_for(LOCAL, workers, logs) as site:
        site.client.wait_for_workers(workers)


def dasks_start(workers: int) -> None:
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        files = nanoaod(folder / "files", asked.files, EVENTS)
        fileset = Fileset("d", tuple(files), {}, {"dataset": "d"}, "benchmark")
        ways: dict[str, Callable[[Site], Any]] = {
            "client.map": lambda site: bare(fileset, site),
            "coffea Runner": lambda site: coffeas(fileset, site),
            "ours, a task a file": lambda site: ours(fileset, site, EVENTS),
            "ours, small files grouped": lambda site: ours(fileset, site, 100 * EVENTS),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        with client_for(LOCAL, asked.workers, folder / "logs") as site:
            for number in range(asked.rounds + 1):
                for way, work in ways.items():
                    spent, result = seconds(lambda work=work: work(site))
                    if result["pt"].sum(flow=True).value != asked.files * EVENTS:
                        sys.exit(f"{way}: a wrong number of events")
                    # the first round imports and compiles
                    if number:
                        times[way].append(spent)
        starts: dict[str, list[float]] = {"dask": [], "ours": []}
        for _ in range(asked.rounds):
            starts["dask"].append(seconds(lambda: dasks_start(asked.workers))[0])
            starts["ours"].append(seconds(lambda: our_start(asked.workers, folder / "logs"))[0])
    print(f"{asked.files} files of one chunk, {asked.workers} workers, median of {asked.rounds}")
    least = median(times["client.map"])
    for way, spent in times.items():
        each = 1000 * median(spent) / asked.files
        ratio = median(spent) / least
        print(f"{way:26} {median(spent):7.2f} s {each:7.2f} ms a chunk {ratio:6.2f} x client.map")
    ratio = median(starts["ours"]) / median(starts["dask"])
    for way, spent in starts.items():
        print(f"start and end, {way:9} {median(spent):7.2f} s")
    print(f"start and end, ours over Dask's: {ratio:.2f}")


if __name__ == "__main__":
    main()
