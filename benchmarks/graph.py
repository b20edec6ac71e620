"""What it costs to make the graph of many datasets, beside what Snakemake costs by itself.

    python benchmarks/graph.py [--datasets N [N ...]] [--files N] [--topeft FOLDER] [--rounds N]

The configuration has N datasets in TopEFT's form with some 58 files each, and one EFT analysis of
all of them; with `--topeft`, the samples of `FOLDER/cfgs/*.cfg` too. In turns, each as a process
of its own:

- `snakemake --version`,
- a dry run of everything that is still to be done,
- the same where everything has been done: all files and Snakemake's records are there.

What counts are ratios of the medians of CPU times; the times are this machine's.
"""

import argparse
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import yaml

from looseleaf.config.listed import Listed, read_samples

REPO = Path(__file__).parents[1]
TARGET = "topcoffea"


def made_up(folder: Path, datasets: int, files: int) -> list[str]:
    """Sample files of simulation in TopEFT's form and the cfg file that lists them."""
    folder.mkdir(parents=True)
    for number in range(datasets):
        name = f"Sample{number}-TuneCP5_13TeV-powheg-pythia8"
        stated = {
            "xsec": 1.5,
            "year": "2018",
            "treeName": "Events",
            "histAxisName": name,
            "WCnames": [],
            "files": [f"/store/mc/campaign/{name}/{file:08d}.root" for file in range(files)],
            "nEvents": 1000 * files,
            "nGenEvents": 1000 * files,
            "nSumOfWeights": 1000.0 * files,
            "isData": False,
            "path": "/store/mc",
        }
        (folder / f"{name}.json").write_text(json.dumps(stated))
    lines = [f"Sample{number}-TuneCP5_13TeV-powheg-pythia8.json" for number in range(datasets)]
    cfg = folder / "samples.cfg"
    cfg.write_text("\n".join(["root://redirector.example/", *lines]) + "\n")
    return [str(cfg)]


def configure(place: Path, cfgs: list[str]) -> int:
    """Write a configuration with an analysis of all simulation; returns how many datasets."""
    listed = Listed()
    samples = {name: one for cfg in cfgs for name, one in read_samples(Path(cfg), listed).items()}
    simulation = [name for name, one in samples.items() if not one["data"]]
    analysis = yaml.safe_load((REPO / "config/analyses/tth_eft.yaml").read_text())
    years = sorted({samples[name]["year"] for name in simulation})
    analysis |= {"name": "all", "lumi_ifb": dict.fromkeys(years, 10.0), "points": {"SM": {}}}
    analysis["datasets"] = {"simulation": simulation}
    analysis["signal"] = [samples[simulation[0]]["process"]]
    for key in ("systematics", "scan", "datacards"):
        analysis.pop(key, None)
    (place / "all.yaml").write_text(yaml.safe_dump(analysis, sort_keys=False))
    override = {"datasets": cfgs, "analyses": [str(place / "all.yaml")]}
    (place / "override.yaml").write_text(yaml.safe_dump(override))
    return len(simulation)


def run(place: Path, *arguments: str) -> tuple[float, str]:
    """CPU seconds of snakemake with these arguments, and what it says."""
    command = [sys.executable, "-m", "snakemake", "-s", str(REPO / "Snakefile"), *arguments]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command,
        cwd=place,
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def finish(place: Path) -> None:
    """Every file that the graph makes, empty, and Snakemake's records of the jobs."""
    _, said = run(place, TARGET, "--configfile", "override.yaml", "--summary")
    files = [line.split("\t")[0] for line in said.splitlines() if line.startswith("results/")]
    for name in files:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    run(place, TARGET, "--configfile", "override.yaml", "--touch", "--forceall", "--cores", "1")


def measure(place: Path, cfgs: list[str], rounds: int) -> None:
    """Print a row for one configuration."""
    datasets = configure(place, cfgs)
    asked = (TARGET, "--dry-run", "--quiet", "all", "--configfile", "override.yaml")
    ways = {"--version": ("--version",), "dry run": asked, "no-op": asked}
    times: dict[str, list[float]] = {way: [] for way in ways}
    done = place / "results"
    _, said = run(place, TARGET, "--dry-run", "--configfile", "override.yaml")
    if f"servicex_transform {datasets} " not in " ".join(said.split()):
        raise SystemExit(f"the graph of {datasets} datasets has not as many transforms:\n{said}")
    finish(place)
    _, said = run(place, TARGET, "--dry-run", "--configfile", "override.yaml")
    if "Nothing to be done" not in said:
        raise SystemExit(f"what has been done is not done:\n{said[:2000]}")
    aside = place / "aside"
    for _ in range(rounds):
        for way, arguments in ways.items():
            with moved(done, aside) if way == "dry run" else contextlib.nullcontext():
                times[way].append(run(place, *arguments)[0])
    whole = {way: median(values) for way, values in times.items()}
    ratios = "  ".join(
        f"{way} {whole[way] / whole['--version']:5.2f}" for way in ways if way != "--version"
    )
    spread = max(times["--version"]) / min(times["--version"])
    print(
        f"{datasets:6d} datasets  --version {whole['--version']:.2f} s (spread {spread:.2f})  "
        f"times as long: {ratios}",
        flush=True,
    )


@contextlib.contextmanager
def moved(path: Path, aside: Path) -> Iterator[None]:
    """A folder that isn't there for a while."""
    path.rename(aside)
    try:
        yield
    finally:
        shutil.rmtree(path, ignore_errors=True)
        aside.rename(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=int, nargs="+", default=[10, 340, 1000])
    parser.add_argument("--files", type=int, default=58)
    parser.add_argument("--topeft", type=Path, help="a folder of TopEFT's input_samples")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(arguments)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for datasets in chosen.datasets:
        with TemporaryDirectory() as folder:
            place = Path(folder).resolve()
            cfgs = made_up(place / "samples", datasets, chosen.files)
            measure(place, cfgs, chosen.rounds)
    if chosen.topeft:
        with TemporaryDirectory() as folder:
            cfgs = sorted(str(path.resolve()) for path in (chosen.topeft / "cfgs").glob("*.cfg"))
            measure(Path(folder).resolve(), cfgs, chosen.rounds)


if __name__ == "__main__":
    main()
