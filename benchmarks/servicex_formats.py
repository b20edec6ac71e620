"""What a skim costs beside bare uproot, and what its format is worth afterwards: three tables.

    python benchmarks/servicex_formats.py [--events 4000000] [--rounds 3] [--tables skims chains]

A dataset of eight demo files is skimmed to the columns and events that the muon fake rate reads: by
a loop of bare uproot in one process, which reads, selects and writes the same, in steps of the same
size, and no more, and by volume requests to services with one and with two workers, from the
submission to the manifest that says all is done. Bare uproot in two processes shows how much a
second core gives just now.

The second table compares the formats: how long to read back, bytes read for one column and for the
tenth of the events that a predicate leaves. The third is the whole chain on one core, the transform
and then the fake-rate processor on what it wrote, beside the processor on the original files: the
workflow's default follows from it. Everything runs in turns in one run.

Ends with 1 if the service is less than 1.7 times as fast as bare uproot on two workers, or less
than 0.9 times on one, or if another format than the default makes the chain 5% faster.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import awkward as ak
import uproot
import yaml

REPO = Path(__file__).parent.parent
# what the tests use too
sys.path[:1] = [str(REPO / "tests"), str(REPO / "tests/support")]

from samples import SETTINGS, TRUTH, qcd  # noqa: E402
from service import Service  # noqa: E402

from looseleaf.fakerate.analysis import FakeRateAnalysis  # noqa: E402
from looseleaf.fakerate.processor import FakeRateProcessor  # noqa: E402
from looseleaf.files import read_json  # noqa: E402
from looseleaf.nanoaod import choose_branches, open_events  # noqa: E402
from looseleaf.objects.corrections import Corrections  # noqa: E402
from looseleaf.objects.leptons import WorkingPoints  # noqa: E402
from looseleaf.parquet import read  # noqa: E402
from looseleaf.processing.fileset import EventsSource, Fileset, chunks_of  # noqa: E402
from looseleaf.processing.ledger import ChunkRecord, ledger_of  # noqa: E402
from looseleaf.processing.runner import process_task  # noqa: E402
from looseleaf.samples.generate import generate  # noqa: E402
from looseleaf.servicex import formats  # noqa: E402
from looseleaf.servicex.formats import SUFFIXES  # noqa: E402
from looseleaf.servicex.transform import (  # noqa: E402
    STEP,
    FileResult,
    FileTask,
    TreeQuery,
    collections_of,
    transform_file,
)
from looseleaf.workerprocess import fork_from  # noqa: E402

CUT = "(nMuon > 0) & (MET_pt < 15)"
FILES = 8
# two formats whose chains differ by less are equally fast
NOISE = 1.05
TABLES = ("skims", "formats", "chains")
AT_LEAST = {1: 0.9, 2: 1.7}
FORMATS = ("root-file", "root-rntuple", "parquet")
# Parquet is compressed by lz4 whatever is said here
CHAINS = {
    "TTree lz4": ("root-file", uproot.LZ4(1)),
    "TTree zstd": ("root-file", uproot.ZSTD(1)),
    "RNTuple lz4": ("root-rntuple", uproot.LZ4(1)),
    "Parquet lz4": ("parquet", uproot.LZ4(1)),
}
POINTS = WorkingPoints(yaml.safe_load((REPO / "config/working_points.yaml").read_text()))


def bare(files: list[str], branches: list[str], folder: Path) -> None:
    """The skim as a loop of uproot."""
    for number, path in enumerate(files):
        with (
            uproot.open(path) as source,
            uproot.recreate(folder / f"{number}.root", compression=uproot.LZ4(1)) as out,
        ):
            tree = source["Events"]
            groups = collections_of(branches, set(tree.keys()))
            made = None
            for arrays in tree.iterate([*branches, "nMuon"], step_size=STEP):
                kept = arrays[(arrays["nMuon"] > 0) & (arrays["MET_pt"] < 15)]
                columns = {
                    name: kept[name]
                    if of == [name]
                    else ak.zip({b[len(name) + 1 :]: kept[b] for b in of}, depth_limit=2)
                    for name, of in groups.items()
                }
                if made is None:
                    types = {name: ak.type(column).content for name, column in columns.items()}
                    made = out.mktree("Events", types)
                made.extend(columns)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def skimmed(
    service: Service, files: list[str], branches: list[str], output: str = "root-file"
) -> list[Path]:
    query = [{"treename": "Events", "filter_name": branches, "cut": CUT}]
    request = service.submit(file_list=files, selection=json.dumps(query), result_format=output)
    # where the manifest stands, all is done; to ask the service costs the client 40 ms of a core
    manifest = service.folder(request) / "manifest.json"
    while not manifest.exists():
        time.sleep(0.01)
    found = read_json(manifest)["files"]
    assert [file["status"] for file in found] == ["success"] * len(files)
    return [manifest.parent / file["result"]["output"] for file in found]


def bytes_read(work: Callable[[], object]) -> int:
    """What a piece of work reads, as the kernel counts it."""

    def count() -> int:
        (line,) = Path("/proc/self/io").read_text().splitlines()[:1]
        return int(line.split()[1])

    before = count()
    work()
    return count() - before


def readers(paths: list[Path], branches: list[str]) -> dict[str, Callable[[], object]]:
    """Ways to read a skim: everything, one column, one column of some events."""
    if paths[0].suffix == ".parquet":
        events = ak.concatenate([*read(paths[:1], ["event"])])["event"]
        low = int(events[len(events) * 9 // 10])
        return {
            "all": lambda: [list(read([path], branches)) for path in paths],
            "one": lambda: [list(read([path], ["MET_pt"])) for path in paths],
            "tenth": lambda: list(read(paths[:1], ["MET_pt"], f"event >= {low}")),
        }

    def events(columns: list[str]) -> None:
        for path in paths:
            with uproot.open(path) as file:
                file["Events"].arrays(columns)

    return {"all": lambda: events(branches), "one": lambda: events(["MET_pt"])}


def fake_rates(
    paths: list[Path], results: list[FileResult] | None, analysis: dict[str, Any]
) -> tuple[float, float]:
    """Seconds and MB read by the fake-rate processor over files, in this process."""
    sources = []
    for index, path in enumerate(paths):
        with open_events(str(path)) as file:
            entries, known = file.tree.num_entries, file.uuid
        result = None if results is None else results[index]
        weights, checksum = (
            (0.0, None) if result is None else (result.sum_of_weights_out, result.adler32)
        )
        size, url = path.stat().st_size, str(path)
        sources.append(EventsSource(path.name, url, url, known, size, checksum, entries, weights))
    fileset = Fileset("q", tuple(sources), {}, {"dataset": "q", "data": False}, "")
    processor = FakeRateProcessor(
        FakeRateAnalysis.from_json(analysis), POINTS, Corrections.from_files({})
    )
    chunks = chunks_of(fileset, 250_000)
    records: list[ChunkRecord] = []
    spent = seconds(lambda: records.extend(process_task(processor, chunks, fileset.metadata)[1]))
    if results is not None:
        # as the workflow does: nothing was lost
        ledger_of(fileset, records, {})
    return spent, sum(record.cost["bytes_read"] for record in records) / 1e6


def compare_skims(
    files: list[str], branches: list[str], services: dict[int, Service], folder: Path, rounds: int
) -> bool:
    """The first table; whether the service is as fast as is asked for."""
    times: dict[Any, list[float]] = {key: [] for key in ("bare", "two", *services)}
    places = [folder / "even", folder / "odd"]
    for place in places:
        place.mkdir()
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:

        def in_one() -> None:
            # not in this process, which has much more in its memory
            pool.submit(bare, files, branches, folder).result()

        def in_two() -> None:
            list(pool.map(bare, [files[::2], files[1::2]], [branches] * 2, places))

        ways: dict[Any, Callable[[], object]] = {
            "bare": in_one,
            "two": in_two,
            **{n: lambda s=s: skimmed(s, files, branches) for n, s in services.items()},
        }
        for work in ways.values():
            work()
        for _ in range(rounds):
            for key, work in ways.items():
                # the service waits until its results are on the disk: not for what others wrote
                os.sync()
                times[key].append(seconds(work))
                # bare uproot writes over what it wrote, in memory that is the machine's already
                for made in folder.glob("[12]/volume/transforms/*"):
                    shutil.rmtree(made)
    middle = {key: statistics.median(values) for key, values in times.items()}
    ratio = {key: middle["bare"] / value for key, value in middle.items()}
    print(f"bare uproot, one process: {middle['bare']:.2f} s")
    print(
        f"bare uproot, two processes: {middle['two']:.2f} s, {ratio['two']:.2f} times as fast: "
        "what a second core gives here"
    )
    for workers, least in AT_LEAST.items():
        print(
            f"service, {workers} worker(s): {middle[workers]:.2f} s, {ratio[workers]:.2f} times as "
            f"fast (at least {least} is asked for)"
        )
    return all(ratio[workers] >= least for workers, least in AT_LEAST.items())


def compare_formats(files: list[str], branches: list[str], service: Service, rounds: int) -> None:
    """The second table."""
    print("format         MB  read all s   one column: s     MB  a tenth: MB")
    for output in FORMATS:
        skim = skimmed(service, files, branches, output)
        ways = readers(skim, branches)
        ways["all"]()
        spent = {
            way: statistics.median(seconds(work) for _ in range(rounds))
            for way, work in ways.items()
        }
        size = sum(path.stat().st_size for path in skim) / 1e6
        got = {way: bytes_read(work) / 1e6 for way, work in ways.items()}
        tenth = f"{got['tenth']:.2f} of one file" if "tenth" in got else "-"
        print(
            f"{output:13} {size:5.1f} {spent['all']:11.2f} "
            f"{spent['one']:15.3f} {got['one']:6.2f}  {tenth}"
        )


def one_chain(
    name: str, files: list[str], branches: list[str], analysis: dict[str, Any], folder: Path
) -> tuple[float, float, float, float]:
    """Seconds and MB of the transform to a format, then of the fake-rate processor on its results;
    of the original files if the name is of none."""
    if name not in CHAINS:
        return (0.0, 0.0, *fake_rates(list(map(Path, files)), None, analysis))
    # the workflow has no choice of compression: what it would be worth is asked here alone
    output, formats.COMPRESSION = CHAINS[name]
    query = TreeQuery(patterns=tuple(branches), cut=CUT)
    paths = [folder / f"{index}{SUFFIXES[output]}" for index in range(len(files))]
    results: list[FileResult] = []

    def transform() -> None:
        for path, file in zip(paths, files, strict=True):
            task = FileTask(file, (file,), None, None, None, (query,), str(path), "q", output)
            results.append(transform_file(task))

    spent = seconds(transform)
    size = sum(path.stat().st_size for path in paths) / 1e6
    return (spent, size, *fake_rates(paths, results, analysis))


def compare_chains(
    files: list[str], branches: list[str], analysis: dict[str, Any], folder: Path, rounds: int
) -> bool:
    """The third table; whether the default is the format that makes the chain fastest."""
    times: dict[str, list[tuple[float, ...]]] = {name: [] for name in (*CHAINS, "originals")}
    # a worker as the workflow's, which keeps its memory
    fork_from("looseleaf.servicex.transform")
    with ProcessPoolExecutor(1, get_context("forkserver")) as pool:

        def run(name: str, files: list[str]) -> tuple[float, ...]:
            place = folder / name.replace(" ", "_")
            return pool.submit(one_chain, name, files, branches, analysis, place).result()

        # the first call compiles
        run("TTree lz4", files[:1])
        for _ in range(rounds):
            for name, rows in times.items():
                rows.append(run(name, files))
    print("chain         transform s    MB  fake rates s  MB read  together s")
    together = {}
    for name, rows in times.items():
        spent, size, process, read = map(statistics.median, zip(*rows, strict=True))
        together[name] = spent + process
        numbers = f"{spent:11.2f} {size:5.0f} {process:13.2f} {read:8.1f} {spent + process:11.2f}"
        print(f"{name:13} {numbers}")
    fastest = min(CHAINS, key=together.__getitem__)
    default = yaml.safe_load((REPO / "config/config.yaml").read_text())["servicex"]["format"]
    print(f"fastest: {fastest}; the default is {default}")
    # lz4, as the workflow writes
    of_default = min(
        t for n, t in together.items() if n.endswith("lz4") and CHAINS[n][0] == default
    )
    return of_default < together[fastest] * NOISE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=4_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    asked = parser.parse_args()
    analysis = yaml.safe_load((REPO / "config/analyses/muon.yaml").read_text())
    dataset = qcd(asked.events, FILES)
    with TemporaryDirectory() as name:
        folder = Path(name)
        settings = {**SETTINGS, "step": 50_000}
        generate("q", {"q": dataset}, settings, folder / "q/catalogue.json", TRUTH)
        files = list(map(str, sorted((folder / "q").glob("*.root"))))
        with uproot.open(files[0]) as file:
            there = file["Events"].keys()
        needed = choose_branches(
            files[0], there, FakeRateAnalysis.from_json(analysis).columns(dataset, POINTS)
        )
        always = {"run", "luminosityBlock", "event", "genWeight", "MET_pt"}
        branches = sorted(always | set(needed))
        print(f"{asked.events} events in {FILES} files, {len(branches)} columns, {CUT}")
        met = True
        with Service(folder / "1", workers=1) as one, Service(folder / "2", workers=2) as two:
            if "skims" in asked.tables:
                services = {1: one, 2: two}
                met &= compare_skims(files, branches, services, folder, asked.rounds)
            if "formats" in asked.tables:
                compare_formats(files, branches, two, asked.rounds)
        if "chains" in asked.tables:
            met &= compare_chains(files, branches, analysis, folder, asked.rounds)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
