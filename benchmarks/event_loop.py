"""The event loop beside coffea's Runner and beside reading alone, in one interleaved run.

    python benchmarks/event_loop.py CACHE [--events N] [--rounds N] [--beside CHECKOUT]

The muon analysis of `config/` runs over files of QCD simulation, which are made once in the folder
CACHE: compressed with zstd, lz4 and LZMA, and one with 1,500 branches. Ways, each on one core:

- `looseleaf`: `process_task`, as a worker runs it, with the check of the file's content,
- `in chunks`: the same with chunks of a tenth,
- `Runner`: the same processor under coffea's Runner, on NanoEvents,
- `before` and `before, Runner`: both, with the looseleaf of another CHECKOUT,
- `read alone`: the baskets that the analysis needs, read and decompressed into one buffer.

Every way opens its file anew. The bins of all ways are compared with those of `looseleaf`. What
counts are the ratios of the medians of CPU times; the times are this machine's.
"""

import argparse
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

for setting in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(setting, "1")

import awkward as ak  # noqa: E402 - after the number of threads is set
import cramjam  # noqa: E402
import hist  # noqa: E402
import numpy as np  # noqa: E402
import uproot  # noqa: E402
import yaml  # noqa: E402
from coffea.processor import IterativeExecutor, Runner  # noqa: E402
from writing import source_of, write  # noqa: E402

from looseleaf.fakerate.analysis import FakeRateAnalysis  # noqa: E402
from looseleaf.fakerate.processor import FakeRateProcessor  # noqa: E402
from looseleaf.objects.corrections import Corrections  # noqa: E402
from looseleaf.objects.leptons import WorkingPoints  # noqa: E402
from looseleaf.processing import runner  # noqa: E402
from looseleaf.processing.fileset import Chunk, cut  # noqa: E402
from looseleaf.processing.stage import columns_read  # noqa: E402
from looseleaf.samples import generate, physics  # noqa: E402
from looseleaf.topcoffea.notebook import SkimmedNanoAOD  # noqa: E402
from looseleaf.workerprocess import ALLOCATOR  # noqa: E402

CONFIG = Path(__file__).parents[1] / "config"
KINDS = {
    "zstd": uproot.ZSTD(1),
    "lz4": uproot.LZ4(1),
    "lzma": uproot.LZMA(9),
    "wide": uproot.ZSTD(1),
}
# of the slower two, a share of the events
SHARE = {"lzma": 0.4, "wide": 0.4}
STEP = 100_000
FLAGS, COLLECTIONS, FIELDS = 700, 20, 35
METADATA = {"dataset": "d", "data": False}
DECLARED = {key: value for key, value in yaml.safe_load(
    (CONFIG / "analyses/muon.yaml").read_text()
).items() if key not in ("truth", "datasets")}  # fmt: skip


def analysis() -> tuple[FakeRateAnalysis, WorkingPoints]:
    points = WorkingPoints(yaml.safe_load((CONFIG / "working_points.yaml").read_text()))
    return FakeRateAnalysis.from_json(DECLARED), points


def processor() -> FakeRateProcessor:
    return FakeRateProcessor(*analysis(), Corrections({}, {}))


def batches(events: int, wide: bool) -> Iterator[dict[str, Any]]:
    """The events of a file in steps, with many more branches if it is wide."""
    rng = np.random.default_rng(2021)
    truth = partial(generate.truth_probability, str(CONFIG / "demo/truth.json"))
    for first in range(0, events, STEP):
        size = min(STEP, events - first)
        made = physics.qcd(rng, size, (20, 30), "Muon")
        columns, _ = generate.branches(rng, made, truth)
        columns["event"] = np.arange(first, first + size, dtype=np.uint64)
        columns["run"] = columns["luminosityBlock"] = np.ones(size, np.uint32)
        columns["genWeight"] = made.gen_weight
        if wide:
            counts = rng.poisson(0.2, size)
            values = rng.random(counts.sum(), np.float32)
            for number in range(COLLECTIONS):
                fields = {f"x{field}": values for field in range(FIELDS)}
                columns[f"Other{number}"] = ak.unflatten(ak.zip(fields), counts)
            columns |= {f"HLT_Other{n}": np.zeros(size, bool) for n in range(FLAGS)}
        yield columns


def made(folder: Path, kind: str, events: int) -> Path:
    """A file of so many events, written if it isn't there."""
    events = round(events * SHARE.get(kind, 1))
    path = folder / f"{kind}_{events}.root"
    if not path.exists():
        write(path, batches(events, kind == "wide"), KINDS[kind])
    return path


def by_looseleaf(path: str, parts: int = 1) -> dict[str, Any]:
    runner._opened.cache_clear()
    with uproot.open(path) as file:
        events = file["Events"].num_entries
    source = source_of(Path(path), events, 0.0)
    chunks = cut(Chunk("d", source, 0, events), -(-events // parts))
    declared, points = analysis()
    columns = columns_read(declared, {"d": METADATA}, points)["d"]
    counts = processor()
    started = time.process_time()
    found, _ = runner.process_task(counts, chunks, {**METADATA, "columns": sorted(columns)})
    return found | {"cpu_s": time.process_time() - started}


def by_coffea(path: str) -> dict[str, Any]:
    run = Runner(IterativeExecutor(status=False), schema=SkimmedNanoAOD, chunksize=1 << 30)
    fileset = {"d": {"files": {path: "Events"}, "metadata": {"data": False}}}
    counts = processor()
    started = time.process_time()
    found: dict[str, Any] = run(fileset, counts)
    return found | {"cpu_s": time.process_time() - started}


def baskets(path: str) -> list[tuple[int, int, int]]:
    """Where the baskets are that the analysis needs: positions, sizes, and sizes unpacked."""
    declared, points = analysis()
    names = {
        name for column in declared.columns(METADATA, points) for name in column.split("|")
    } | {"nMuon", "nElectron", "nJet"}
    with uproot.open(path) as file:
        branches = [branch for branch in file["Events"].branches if branch.name in names]
        return [
            (int(branch.member("fBasketSeek")[number]), int(key.fNbytes), int(key.fObjlen))
            for branch in branches
            for number in range(branch.num_baskets)
            for key in (branch.basket_key(number),)
        ]


def read_alone(path: str) -> dict[str, Any]:
    places = baskets(path)
    buffer = np.empty(max(size for _, _, size in places), np.uint8)
    started = time.process_time()
    with open(path, "rb") as file:
        for seek, packed, unpacked in places:
            file.seek(seek)
            data = memoryview(file.read(packed))
            unpack(data[int.from_bytes(data[14:16], "big") :], unpacked, buffer)
    return {"cpu_s": time.process_time() - started}


def unpack(data: memoryview, unpacked: int, buffer: Any) -> None:
    if len(data) == unpacked:
        buffer[:unpacked] = np.frombuffer(data, np.uint8)
        return
    filled = 0
    while filled < unpacked:
        size = int.from_bytes(data[3:6], "little")
        content, more = data[9 : 9 + size], int.from_bytes(data[6:9], "little")
        into = buffer[filled : filled + more]
        match bytes(data[:2]):
            case b"ZS":
                cramjam.zstd.decompress_into(content, into)
            case b"L4":
                cramjam.lz4.decompress_block_into(content[8:], into)
            case b"XZ":
                cramjam.xz.decompress_into(content, into)
        data, filled = data[9 + size :], filled + more


WAYS: dict[str, Callable[[str], dict[str, Any]]] = {
    "looseleaf": by_looseleaf,
    "in chunks": lambda path: by_looseleaf(path, 10),
    "Runner": by_coffea,
    "read alone": read_alone,
}


def serve(ways: Mapping[str, Callable[[str], dict[str, Any]]]) -> None:
    """Answer each line, the way and the file, with a file of its result."""
    # coffea prints
    told = os.dup(1)
    os.dup2(2, 1)
    for line in sys.stdin:
        way, path, answer = json.loads(line)
        Path(answer).write_bytes(pickle.dumps(ways[way](path)))
        os.write(told, b"done\n")


class Server:
    """A process of a benchmark with the looseleaf of a checkout, and the allocator of a worker."""

    def __init__(self, benchmark: str, checkout: Path, answer: Path) -> None:
        command = [sys.executable, benchmark, "--serve", str(answer)]
        environment = {**os.environ, **ALLOCATOR, "PYTHONPATH": str(checkout)}
        self._answer = answer
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def result(self, way: str, path: Path) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([way, str(path), str(self._answer)]) + "\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != "done\n":
            raise SystemExit(f"{way} failed on {path}")
        found: dict[str, Any] = pickle.loads(self._answer.read_bytes())
        return found

    def close(self) -> None:
        self._process.communicate()


def options_of(parser: argparse.ArgumentParser, events: int) -> argparse.Namespace:
    """The options of a benchmark of an event loop, which has `events` by default."""
    parser.add_argument("cache", type=Path)
    parser.add_argument("--events", type=int, default=events)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--beside", type=Path)
    parser.add_argument("--serve", action="store_true")
    options = parser.parse_args()
    if options.beside and not (options.beside / "looseleaf").is_dir():
        # Python would take this checkout's package, and compare it with itself
        parser.error(f"--beside: no checkout in {options.beside}")
    return options


@contextmanager
def side_by_side(
    benchmark: str, options: argparse.Namespace, ways: Iterable[str], again: Mapping[str, str]
) -> Iterator[dict[str, tuple[Server, str]]]:
    """By name, the ways of this checkout, and some `again` of another, each with its server."""
    options.cache.mkdir(parents=True, exist_ok=True)
    here = Server(benchmark, Path(__file__).parents[1], options.cache / "here.pickle")
    asked, servers = {way: (here, way) for way in ways}, [here]
    if options.beside:
        before = Server(benchmark, options.beside, options.cache / "before.pickle")
        servers.append(before)
        asked |= {name: (before, way) for name, way in again.items()}
    yield asked
    for server in servers:
        server.close()


def in_turn(
    ways: Mapping[str, tuple[Server, str]], path: Path, rounds: int
) -> tuple[dict[str, list[float]], dict[str, dict[str, Any]]]:
    """The CPU seconds of each way over a file, round by round, and its last result."""
    times: dict[str, list[float]] = {way: [] for way in ways}
    results: dict[str, dict[str, Any]] = {}
    # the first round only warms up
    for turn in range(rounds + 1):
        for way, (server, asked) in ways.items():
            results[way] = server.result(asked, path)
            cpu_s = results[way].pop("cpu_s")
            if turn:
                times[way].append(cpu_s)
    return times, results


def difference(found: dict[str, Any], expected: dict[str, Any]) -> str:
    """How two results differ: the largest relative difference of a bin, or `same bits`."""
    if not found:
        return ""
    if set(found) != set(expected):
        return f"OTHER NAMES {sorted(set(found) ^ set(expected))}"
    largest, same = 0.0, True
    for name, value in expected.items():
        if not isinstance(value, hist.Hist):
            continue
        mine, other = (np.asarray(h.view(flow=True)) for h in (found[name], value))
        same &= mine.tobytes() == other.tobytes()
        for a, b in zip(*(h.values(flow=True).ravel() for h in (found[name], value)), strict=True):
            largest = max(largest, abs(a - b) / max(abs(a), abs(b), 1e-300))
    return "same bits" if same else f"up to {largest:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    options = options_of(parser, 300_000)
    if options.serve:
        serve(WAYS)
        return
    again = {"before": "looseleaf", "before, Runner": "Runner"}
    with side_by_side(__file__, options, WAYS, again) as ways:
        for kind in options.kinds:
            path = made(options.cache, kind, options.events)
            times, results = in_turn(ways, path, options.rounds)
            print(f"\n{path.name}")
            alone = median(times["read alone"])
            for way, measured in times.items():
                spread = f"{min(measured) * 1e3:.0f}-{max(measured) * 1e3:.0f}"
                told = difference(results[way], results["looseleaf"])
                middle = median(measured)
                print(
                    f"{way:16} {middle * 1e3:7.0f} ms ({spread:>11})"
                    f" {middle / median(times['looseleaf']):6.2f} looseleaf"
                    f" {middle / alone:6.2f} read alone  {told}"
                )


if __name__ == "__main__":
    main()
