"""What a skim costs beside bare uproot, and what its format is worth afterwards: two tables.

    python benchmarks/servicex_formats.py [--events 4000000] [--rounds 3]

A dataset of eight demo files is skimmed to the columns and events that the muon fake rate reads: by
a loop of bare uproot in one process, which reads, selects and writes the same and no more, and by
volume requests to services with one and with two workers, from the submission to the manifest that
says all is done. Bare uproot in two processes shows how much a second core gives just now. The
second table compares the formats: how large, how long to write and to read back, bytes read for one
column and for the tenth of the events that a predicate leaves; then the fake-rate processor on the
skim and on the original files. Everything runs in turns in one run.

Ends with 1 if the service is less than 1.7 times as fast as bare uproot on two workers, or less
than 0.9 times on one.
"""

import argparse
import json
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
# in place of this folder, whose coverage.py is not the module that numba looks for
sys.path[0] = str(REPO / "tests")

from samples import SETTINGS, TRUTH, qcd  # noqa: E402
from service import Service  # noqa: E402

from looseleaf.fakerate.processor import FakeRateProcessor  # noqa: E402
from looseleaf.files import read_json  # noqa: E402
from looseleaf.nanoaod import choose_branches, open_events  # noqa: E402
from looseleaf.objects.columns import analysis_columns  # noqa: E402
from looseleaf.objects.corrections import Corrections  # noqa: E402
from looseleaf.objects.leptons import WorkingPoints  # noqa: E402
from looseleaf.parquet import read  # noqa: E402
from looseleaf.processing.fileset import EventsSource, Fileset, chunks_of  # noqa: E402
from looseleaf.processing.runner import process_task  # noqa: E402
from looseleaf.samples.generate import generate  # noqa: E402
from looseleaf.servicex.transform import STEP, collections_of  # noqa: E402

CUT = "(nMuon > 0) & (MET_pt < 15)"
FILES = 8
AT_LEAST = {1: 0.9, 2: 1.7}
FORMATS = ("root-file", "root-rntuple", "parquet")


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


def fake_rates(paths: list[Path], analysis: dict[str, Any], points: WorkingPoints) -> float:
    """Seconds of the fake-rate processor over files, in this process."""
    sources = []
    for path in paths:
        with open_events(str(path)) as file:
            entries, known = file.tree.num_entries, file.uuid
        sources.append(EventsSource(path.name, str(path), str(path), known, entries, 0.0))
    fileset = Fileset("q", tuple(sources), {}, {"dataset": "q", "data": False}, "")
    processor = FakeRateProcessor(analysis, points, Corrections.from_files({}))
    return seconds(lambda: process_task(processor, chunks_of(fileset, 250_000), fileset.metadata))


def compare_skims(
    files: list[str], branches: list[str], services: dict[int, Service], folder: Path, rounds: int
) -> bool:
    """The first table; whether the service is as fast as is asked for."""
    times: dict[Any, list[float]] = {key: [] for key in ("bare", "two", *services)}
    places = [folder / "even", folder / "odd"]
    for place in places:
        place.mkdir()
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:

        def in_two() -> None:
            list(pool.map(bare, [files[::2], files[1::2]], [branches] * 2, places))

        ways: dict[Any, Callable[[], object]] = {
            "bare": lambda: bare(files, branches, folder),
            "two": in_two,
            **{n: lambda s=s: skimmed(s, files, branches) for n, s in services.items()},
        }
        for work in ways.values():
            work()
        for _ in range(rounds):
            for key, work in ways.items():
                times[key].append(seconds(work))
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


def compare_formats(
    files: list[str], branches: list[str], service: Service, rounds: int
) -> list[Path]:
    """The second table; the skim as ROOT TTrees."""
    print("format        write s    MB  read all s   one column: s     MB  a tenth: MB")
    skims: dict[str, list[Path]] = {}
    for output in FORMATS:
        write = [
            seconds(lambda f=output: skims.update({f: skimmed(service, files, branches, f)}))
            for _ in range(rounds)
        ]
        ways = readers(skims[output], branches)
        ways["all"]()
        spent = {
            way: statistics.median(seconds(work) for _ in range(rounds))
            for way, work in ways.items()
        }
        size = sum(path.stat().st_size for path in skims[output]) / 1e6
        got = {way: bytes_read(work) / 1e6 for way, work in ways.items()}
        tenth = f"{got['tenth']:.2f} of one file" if "tenth" in got else "-"
        print(
            f"{output:13} {statistics.median(write):7.2f} {size:5.1f} {spent['all']:11.2f} "
            f"{spent['one']:15.3f} {got['one']:6.2f}  {tenth}"
        )
    return skims["root-file"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=4_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    analysis = yaml.safe_load((REPO / "config/analyses/muon.yaml").read_text())
    points = WorkingPoints(yaml.safe_load((REPO / "config/working_points.yaml").read_text()))
    dataset = qcd(asked.events, FILES)
    with TemporaryDirectory() as name:
        folder = Path(name)
        settings = {**SETTINGS, "step": 50_000}
        generate("q", {"q": dataset}, settings, folder / "q/catalogue.json", TRUTH)
        originals = sorted((folder / "q").glob("*.root"))
        files = list(map(str, originals))
        with uproot.open(files[0]) as file:
            there = file["Events"].keys()
        needed = choose_branches(files[0], there, analysis_columns(analysis, dataset, points))
        always = {"run", "luminosityBlock", "event", "genWeight", "MET_pt"}
        branches = sorted(always | set(needed))
        print(f"{asked.events} events in {FILES} files, {len(branches)} columns, {CUT}")
        with Service(folder / "1", workers=1) as one, Service(folder / "2", workers=2) as two:
            met = compare_skims(files, branches, {1: one, 2: two}, folder, asked.rounds)
            skim = compare_formats(files, branches, two, asked.rounds)
            manifest = read_json(skim[0].parent / "manifest.json")
            times = [
                (fake_rates(originals, analysis, points), fake_rates(skim, analysis, points))
                for _ in range(asked.rounds + 1)
            ]
    out = sum(file["result"]["events_out"] for file in manifest["files"])
    # the first round compiles
    slow, fast = (statistics.median(column) for column in zip(*times[1:], strict=True))
    print(
        f"fake rates of the {out} events of the skim: {fast:.2f} s, of the originals: {slow:.2f} s "
        f"(ratio {slow / fast:.1f})"
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
