"""The memory of a worker over 2 to 100 million events, and its rate.

    python benchmarks/memory.py FOLDER [--kind fakerate] [--millions 2 20 100]
    python benchmarks/memory.py FOLDER --kind topcoffea --millions 0.5 2 10

The muon analysis of `config/`, or the EFT one, runs as a job does: on a cluster of one worker, with
checkpoints and a ledger. Its files have the columns of a skim and 500,000 events each (EFT:
50,000). Four are made in FOLDER, and copied with identities of their own: 15 GB for 100 million
events, which are removed at the end. Every size has a new worker, and a process of its
own for the job. The sums of all histograms are held to those of the smallest size.

The worker's memory is its peak (VmHWM), which the ledger has, and the job's is that of the process
that submits. Rates are events by the CPU time of the chunks; trust their ratios.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import awkward as ak
import numpy as np
import uproot
import yaml
from coffea.processor import ProcessorABC
from writing import source_of, twins, write

from looseleaf.cluster import client_for
from looseleaf.config import settings
from looseleaf.cost import peak_rss_bytes
from looseleaf.fakerate.analysis import FakeRateAnalysis
from looseleaf.fakerate.processor import FakeRateProcessor
from looseleaf.objects.corrections import Corrections
from looseleaf.processing.fileset import EventsSource, Fileset
from looseleaf.processing.job import run
from looseleaf.processing.runner import Limits
from looseleaf.processing.stage import Reading
from looseleaf.samples import generate, physics
from looseleaf.topcoffea.analysis import TopCoffeaAnalysis
from looseleaf.topcoffea.process import processor_of

REPO = Path(__file__).parents[1]
LOCAL = {"kind": "local", "redirectors": []}
SETTINGS = settings.load(yaml.safe_load((REPO / "config/config.yaml").read_text()), REPO)
# files that are made, and events in them
MADE, STEP = 4, 50_000
LIST = "files.json"
EVENTS = {"fakerate": 500_000, "topcoffea": 50_000}
ANALYSIS = {"fakerate": "muon", "topcoffea": "tth_eft"}
DATASET = {"fakerate": "QCD_Pt-20to30", "topcoffea": "ttH_EFT"}


def work(kind: str) -> tuple[ProcessorABC, Reading]:
    """The processor of an analysis, and what it reads."""
    name = DATASET[kind]
    analysis = SETTINGS.analyses[ANALYSIS[kind]]
    datasets = {name: {**SETTINGS.datasets[name], "data": False}}
    reading = Reading.of(analysis, datasets, SETTINGS.working_points)
    if isinstance(analysis, FakeRateAnalysis):
        nothing = Corrections({}, {})
        return FakeRateProcessor(analysis, SETTINGS.working_points, nothing), reading
    assert isinstance(analysis, TopCoffeaAnalysis)
    points = SETTINGS.points_of(analysis.name)
    return processor_of(analysis, points, datasets, {}), reading


def steps(kind: str, seed: int, columns: set[str]) -> Iterator[dict[str, Any]]:
    """The events of a file in steps, with the columns of a skim."""
    rng = np.random.default_rng(seed)
    truth = partial(generate.truth_probability, str(REPO / "config/demo/truth.json"))
    for first in range(0, EVENTS[kind], STEP):
        number = np.arange(first, first + STEP, dtype=np.uint64)
        if kind == "fakerate":
            events = physics.qcd(rng, STEP, (20, 30), "Muon")
        else:
            events = physics.eft(rng, STEP, len(SETTINGS.datasets[DATASET[kind]]["wc_names"]))
        made, _ = generate.branches(rng, events, truth)
        made |= {"genWeight": events.gen_weight, "event": number}
        made |= {name: np.ones(STEP, np.uint32) for name in ("run", "luminosityBlock")}
        for name, values in (("EFTfitCoefficients", events.eft), ("PSWeight", events.ps_weight)):
            if values is not None:
                made[name] = ak.unflatten(values.ravel(), np.full(STEP, values.shape[1]))
        for name in list(made):
            fields = [f for f in ak.fields(made[name]) if f"{name}_{f}" in columns]
            if fields:
                made[name] = made[name][fields]
            elif name not in columns:
                del made[name]
        yield made


def files_of(folder: Path, kind: str, number: int) -> list[EventsSource]:
    """So many files as a transform leaves them."""
    _, reading = work(kind)
    columns = {c for column in reading.columns[DATASET[kind]] for c in column.split("|")}
    columns |= {"run", "luminosityBlock", "event", "genWeight"}
    made = []
    for seed in range(MADE):
        path = folder / f"{seed}.root"
        write(path, steps(kind, seed, columns), uproot.LZ4(1))
        with uproot.open(path) as root:
            weights = float(root["Events/genWeight"].array(library="np").sum(dtype=np.float64))
        made.append(source_of(path, EVENTS[kind], weights))
    return twins(made, folder / "files", number)


def sums_of(accumulator: dict[str, Any]) -> dict[str, float]:
    """The sum of each histogram, flow included, at the Standard Model."""
    out = {}
    for name, value in sorted(accumulator.items()):
        values: Callable[..., Any] | None = getattr(value, "values", None)
        if values is not None and not isinstance(value, dict):
            out[name] = float(np.sum(values(flow=True)))
    return out


def measure(folder: Path, kind: str, number: int) -> dict[str, Any]:
    """A job over so many files."""
    processor, reading = work(kind)
    name = DATASET[kind]
    listed = json.loads((folder / LIST).read_text())
    files = [EventsSource(**one) for one in listed[:number]]
    metadata = {"dataset": name, **reading.metadata[name]}
    fileset = Fileset(name, tuple(files), {}, metadata, "benchmark")
    declared = SETTINGS.general["processing"]
    limits = Limits(declared["chunksize"], declared["task_events"])
    with TemporaryDirectory(dir=folder) as kept, client_for(LOCAL, 1, folder / "logs") as site:
        started = time.perf_counter()
        result = run(processor, [fileset], site, limits, kind, kept)[name]
        wall_s = time.perf_counter() - started
        (worker,) = site.client.run(peak_rss_bytes).values()
    cpu_s = sum(chunk["cost"]["cpu_s"] for chunk in result.ledger["chunks"])
    (told,) = result.ledger["workers"].values()
    return {
        "events": result.ledger["processed"]["events"],
        "files": len(files),
        "worker_bytes": worker,
        "ledger_bytes": told["peak_rss_bytes"],
        "job_bytes": peak_rss_bytes(),
        "events_per_cpu_s": result.ledger["processed"]["events"] / cpu_s,
        "wall_s": wall_s,
        "sums": sums_of(result.accumulator),
    }


def compare(folder: str, kind: str, sizes: list[int]) -> None:
    """Measure jobs over so many files each, in a process of its own, and compare with the first."""
    first: dict[str, Any] = {}
    for number in sizes:
        command = [sys.executable, __file__, folder, "--kind", kind, "--measure", str(number)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        first = first or found
        times = found["events"] / first["events"]
        for name, value in first["sums"].items():
            if not np.isclose(found["sums"][name], times * value, rtol=1e-9, atol=0):
                sys.exit(f"{name}: {found['sums'][name]}, not {times} x {value}")
        events = number * EVENTS[kind]
        if found["events"] != events:
            sys.exit(f"{found['events']} events of {events}")
        print(
            f"{kind} {events / 1e6:6.1f} M events {found['files']:5} files"
            f" worker {found['worker_bytes'] / 1e6:6.0f} MB"
            f" ({found['worker_bytes'] / first['worker_bytes']:.2f})"
            f" job {found['job_bytes'] / 1e6:6.0f} MB"
            f" {found['events_per_cpu_s'] / 1e6:6.2f} M events/CPU s"
            f" ({found['events_per_cpu_s'] / first['events_per_cpu_s']:.2f})"
            f" {found['wall_s']:6.0f} s",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kind", choices=list(EVENTS), default="fakerate")
    parser.add_argument("--millions", type=float, nargs="+", default=[2, 20, 100])
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    if asked.measure is not None:
        print(json.dumps(measure(asked.folder, asked.kind, asked.measure)))
        return
    # all contents are used equally often
    sizes = [
        MADE * max(1, round(1e6 * millions / (MADE * EVENTS[asked.kind])))
        for millions in asked.millions
    ]
    with TemporaryDirectory(dir=asked.folder) as name:
        files = files_of(Path(name), asked.kind, max(sizes))
        (Path(name) / LIST).write_text(json.dumps([vars(file) for file in files]))
        compare(name, asked.kind, sizes)


if __name__ == "__main__":
    main()
