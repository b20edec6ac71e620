"""What our bookkeeping costs beside coffea's Runner and a bare `client.map`, side by side.

    python benchmarks/cluster_overhead.py [--files 1400] [--rounds 3] [--only WAY ...]
    python benchmarks/cluster_overhead.py --files 20000 --memory

All three run one processor over the same files of one small chunk each, in turn, on one cluster:
what is compared is what a chunk costs beside its events. Ours identifies every chunk, sums up on
the workers, keeps each result on disk and closes a ledger; `Runner` (with `DaskExecutor`) opens
each file beforehand to count its entries; `client.map` gathers and adds up results and does
nothing else. `client.map` also runs on two clusters as Dask starts them, one without TLS and one
with it, which shows what TLS costs. A whole job of one file, from the start of its process and its
cluster to its end, is compared with one by coffea's `Runner`. Trust the ratios; the times are this
machine's.

With `--memory`, each way runs once in a process of its own, after a run over 200 files, and what is
told is the memory of this process along the run. The scheduler is in it as well. `--site` names a
file such as those of config/sites; without it, workers are processes of this machine.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import awkward as ak
import hist
import psutil
import yaml
from coffea.nanoevents import NanoEventsFactory
from coffea.processor import DaskExecutor, ProcessorABC, Runner, accumulate
from distributed import Client, LocalCluster, Security
from writing import nanoaod, twins

from looseleaf.cluster import client_for
from looseleaf.processing.feed import SkimmedNanoAOD
from looseleaf.processing.fileset import EventsSource, Fileset
from looseleaf.processing.job import run
from looseleaf.processing.runner import Limits
from looseleaf.processing.site import Site

LOCAL = {"kind": "local", "redirectors": []}
EVENTS = 2000
WORKERS = 2
# files that are written; the others are their copies with identities of their own
MADE = 20
# before memory is looked at
WARM = 200
LOOK_S = 0.2


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


WAYS: dict[str, Callable[[Fileset, Site], Any]] = {
    "client.map": lambda fileset, site: bare(fileset, site.client),
    "coffea Runner": lambda fileset, site: coffeas(fileset, site.client),
    "ours, a task a file": lambda fileset, site: ours(fileset, site, EVENTS),
    "ours, small files grouped": lambda fileset, site: ours(fileset, site, 100 * EVENTS),
}


def resident() -> int:
    """The memory of this process in bytes."""
    return int(psutil.Process().memory_info().rss)


def memory_of(
    way: str, files: list[EventsSource], folder: Path, where: Mapping[str, Any]
) -> tuple[float, list[int]]:
    """The time of a run [s], and the memory of this process at its start, after each quarter of its
    time, and at its highest, in bytes."""
    looked: list[tuple[float, int]] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            looked.append((time.perf_counter(), resident()))

    few, all_of_them = (
        Fileset("d", tuple(part), {}, {"dataset": "d"}, "benchmark")
        for part in (files[:WARM], files)
    )
    with client_for(where, WORKERS, folder / "logs") as site:
        WAYS[way](few, site)
        before, started = resident(), time.perf_counter()
        thread = threading.Thread(target=look)
        thread.start()
        result = WAYS[way](all_of_them, site)
        over.set()
        thread.join()
        looked.append((time.perf_counter(), resident()))
    if result["pt"].sum(flow=True).value != len(files) * EVENTS:
        sys.exit(f"{way}: a wrong number of events")
    ends = [started + quarter / 4 * (looked[-1][0] - started) for quarter in (1, 2, 3, 4)]
    along = [next(memory for at, memory in looked if at >= end) for end in ends]
    return looked[-1][0] - started, [before, *along, max(memory for _, memory in looked)]


def print_memory(
    files: list[EventsSource], folder: Path, ways: list[str], where: Mapping[str, Any]
) -> None:
    """Tell the memory of each way."""
    listed = folder / "files.json"
    listed.write_text(json.dumps([vars(file) for file in files]))
    print(f"{len(files)} files; MB at the start, after each quarter of the time, at most; time")
    for way in ways:
        command = [sys.executable, __file__, "--looked-at", way, str(listed), json.dumps(where)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        spent, along = json.loads(done.stdout.splitlines()[-1])
        told = " ".join(f"{memory / 1e6:6.0f}" for memory in along)
        print(f"{way:26} {told} {spent:7.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--site", type=Path)
    parser.add_argument("--looked-at", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--start", choices=("ours", "coffea"), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.start is not None:
        with TemporaryDirectory() as name:
            job_of_one_file(asked.start, EventsSource(**asked.file), Path(name))
        return
    if asked.looked_at is not None:
        way, listed, where = asked.looked_at
        files = [EventsSource(**one) for one in json.loads(Path(listed).read_text())]
        print(json.dumps(memory_of(way, files, Path(listed).parent, json.loads(where))))
        return
    where = yaml.safe_load(asked.site.read_text()) if asked.site else LOCAL
    with TemporaryDirectory() as name:
        folder = Path(name)
        # workers of a pool may be another user's
        folder.chmod(0o755)
        files = twins(nanoaod(folder / "made", MADE, EVENTS), folder / "files", asked.files)
        if asked.memory:
            print_memory(files, folder, asked.only, where)
            return
        fileset = Fileset("d", tuple(files), {}, {"dataset": "d"}, "benchmark")
        ways: dict[str, Callable[[Site], Any]] = {
            way: partial(WAYS[way], fileset) for way in asked.only
        }
        if asked.only == list(WAYS):
            ways["client.map, Dask's cluster"] = lambda _: bare(fileset, open_to_all)
            ways["the same, with TLS"] = lambda _: bare(fileset, with_keys)
        times: dict[str, list[float]] = {way: [] for way in ways}
        with (
            client_for(where, WORKERS, folder / "logs") as site,
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
    least = median(times[asked.only[0]])
    for way, spent in times.items():
        each = 1000 * median(spent) / asked.files
        ratio = median(spent) / least
        print(
            f"{way:26} {median(spent):7.2f} s {each:7.2f} ms a chunk {ratio:6.2f} x {asked.only[0]}"
        )
    for way, spent in starts.items():
        ratio = spent / starts["coffea"]
        print(f"a job of one file, {way:7} {spent:7.2f} s {ratio:6.2f} x coffea's")


if __name__ == "__main__":
    main()
