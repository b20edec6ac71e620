"""What our bookkeeping costs beside coffea's Runner and a bare `client.map`, side by side.

    .venv/bin/python benchmarks/cluster_overhead.py [--files 1400] [--rounds 3]

All three run one processor over the same files of one small chunk each, in turn, on one cluster:
what is compared is what a chunk costs beside its events. Ours identifies every chunk, sums up on
the workers, keeps each result on disk and closes a ledger; `Runner` (with `DaskExecutor`) opens
each file beforehand to count its entries; `client.map` gathers and adds up results and does
nothing else. `client.map` also runs on two clusters as Dask starts them, one without TLS and one
with it, which shows what TLS costs. A whole job of one file, from the start of its process and its
cluster to its end, is compared with one by coffea's `Runner`. Trust the ratios; the times are this
machine's.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import awkward as ak
import hist
from coffea.nanoevents import NanoEventsFactory
from coffea.processor import DaskExecutor, ProcessorABC, Runner, accumulate
from distributed import Client, LocalCluster, Security
from writing import nanoaod

from looseleaf.cluster import client_for
from looseleaf.processing.feed import SkimmedNanoAOD
from looseleaf.processing.fileset import EventsSource, Fileset
from looseleaf.processing.job import run
from looseleaf.processing.runner import Limits
from looseleaf.processing.site import Site

LOCAL = {"kind": "local", "redirectors": []}
EVENTS = 2000
WORKERS = 2


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


def coffeas(fileset: Fileset, client: Client) -> Any:
    executor = DaskExecutor(client=client, status=False)
    runner = Runner(executor=executor, schema=SkimmedNanoAOD, chunksize=EVENTS)
    files = {"d": {"files": [file.url for file in fileset.files], "treename": "Events"}}
    return runner(files, MuonPt(), treename="Events")


def one_file(url: str) -> Any:
    """What a task of the bare map does."""
    events = NanoEventsFactory.from_root(
        {url: "Events"}, schemaclass=SkimmedNanoAOD, metadata={"dataset": "d"}, mode="virtual"
    ).events()
    return MuonPt().process(events)


def bare(fileset: Fileset, client: Client) -> Any:
    urls = [file.url for file in fileset.files]
    return accumulate(client.gather(client.map(one_file, urls, pure=False)))


@contextmanager
def plain(security: Security | None) -> Iterator[Client]:
    """A cluster as Dask starts it."""
    with (
        LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            security=security,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def job_of_one_file(way: str, file: EventsSource, folder: Path) -> None:
    """A whole job, from its cluster to its end: what is started for thousands of files, or one."""
    fileset = Fileset("d", (file,), {}, {"dataset": "d"}, "benchmark")
    if way == "ours":
        with client_for(LOCAL, WORKERS, folder / "logs") as site:
            result = ours(fileset, site, EVENTS)
    else:
        with plain(None) as client:
            result = coffeas(fileset, client)
    if result["pt"].sum(flow=True).value != EVENTS:
        sys.exit(f"{way}: a wrong number of events")


def start_s(way: str, file: EventsSource) -> float:
    """Seconds of such a job in a process of its own, imports included."""
    command = [sys.executable, __file__, "--start", way, "--file", json.dumps(vars(file))]
    return seconds(lambda: subprocess.run(command, check=True, stderr=subprocess.DEVNULL))[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--start", choices=("ours", "coffea"), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.start is not None:
        with TemporaryDirectory() as name:
            job_of_one_file(asked.start, EventsSource(**asked.file), Path(name))
        return
    with TemporaryDirectory() as name:
        folder = Path(name)
        files = nanoaod(folder / "files", asked.files, EVENTS)
        fileset = Fileset("d", tuple(files), {}, {"dataset": "d"}, "benchmark")
        ways: dict[str, Callable[[Site], Any]] = {
            "client.map": lambda site: bare(fileset, site.client),
            "the same, Dask's cluster": lambda _: bare(fileset, open_to_all),
            "the same, with TLS": lambda _: bare(fileset, with_keys),
            "coffea Runner": lambda site: coffeas(fileset, site.client),
            "ours, a task a file": lambda site: ours(fileset, site, EVENTS),
            "ours, small files grouped": lambda site: ours(fileset, site, 100 * EVENTS),
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        with (
            client_for(LOCAL, WORKERS, folder / "logs") as site,
            plain(None) as open_to_all,
            plain(Security.temporary()) as with_keys,
        ):
            for number in range(asked.rounds + 1):
                for way, work in ways.items():
                    spent, result = seconds(lambda work=work: work(site))
                    if result["pt"].sum(flow=True).value != asked.files * EVENTS:
                        sys.exit(f"{way}: a wrong number of events")
                    # the first round imports and compiles
                    if number:
                        times[way].append(spent)
        starts = {
            way: median(start_s(way, files[0]) for _ in range(asked.rounds))
            for way in ("ours", "coffea")
        }
    print(f"{asked.files} files of one chunk, {WORKERS} workers, median of {asked.rounds}")
    least = median(times["client.map"])
    for way, spent in times.items():
        each = 1000 * median(spent) / asked.files
        ratio = median(spent) / least
        print(f"{way:26} {median(spent):7.2f} s {each:7.2f} ms a chunk {ratio:6.2f} x client.map")
    for way, spent in starts.items():
        ratio = spent / starts["coffea"]
        print(f"a job of one file, {way:7} {spent:7.2f} s {ratio:6.2f} x coffea's")


if __name__ == "__main__":
    main()
