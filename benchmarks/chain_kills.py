"""Does a chain come to the same, whichever of its processes is killed at whatever moment?

    python benchmarks/chain_kills.py [--rounds 20] [--seed 0]

In each round a small chain starts in an empty folder: samples, lookup, transform, fake rates. One
of its processes (snakemake, a script, a forkserver, a nanny, a worker of Dask or of the embedded
ServiceX) is chosen at random at a random moment and killed (kill -9). Twenty seconds after
snakemake has ended, no process of the round may be alive. The chain is unlocked and run again. It
has to come to the bits of one that nothing disturbed, with all events processed once and no part
file left. Ends with 1 if a round doesn't.
"""

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import yaml

REPO = Path(__file__).parent.parent
TARGET = "fakerate"
# how the processes of a round are told from others
MARK = "LOOSELEAF_ROUND"
ALIVE_S = 20.0


def prepare(folder: Path) -> None:
    """The configuration of a small chain."""
    folder.mkdir()
    analysis = yaml.safe_load((REPO / "config/analyses/muon.yaml").read_text())
    # so few events may leave bins empty
    analysis["allow"] = {"empty_bins": True}
    (folder / "muon.yaml").write_text(yaml.safe_dump(analysis))
    settings = {
        "samples": {"scale": 0.02},
        "analyses": [str(folder / "muon.yaml")],
        "processing": {"chunksize": 2000, "task_events": 2000},
    }
    (folder / "my.yaml").write_text(yaml.safe_dump(settings))


def start(folder: Path, mark: str, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPO / "Snakefile")]
    command += ["--directory", str(folder), "--quiet", "all", *arguments]
    with open(folder / "log", "ab") as log:
        return subprocess.Popen(
            [*command, "--configfile", str(folder / "my.yaml")],
            cwd=REPO,
            env={**os.environ, MARK: mark, "XDG_CACHE_HOME": str(folder.parent / "cache")},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def of_round(mark: str) -> Iterator[psutil.Process]:
    """The processes of a round, whoever their parent is by now."""
    for process in psutil.process_iter():
        try:
            zombie = process.status() == psutil.STATUS_ZOMBIE
            if not zombie and process.environ().get(MARK) == mark:
                yield process
        except psutil.Error:
            continue


def kind_of(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    for word, kind in (
        ("-m snakemake", "snakemake"),
        (".snakemake/scripts", "script"),
        ("forkserver", "forkserver or worker"),
        ("resource_tracker", "resource tracker"),
        ("spawn_main", "worker"),
    ):
        if word in line:
            return kind
    return "other"


def products(folder: Path) -> tuple[str, int, int]:
    """The bits of the map, and the events expected and processed."""
    place = folder / "results/fakerate/muon"
    bits = hashlib.sha256((place / "map.json").read_bytes()).hexdigest()
    ledgers = [json.loads(path.read_text()) for path in sorted(place.glob("*.ledger.json"))]
    sums = [sum(ledger[key]["events"] for ledger in ledgers) for key in ("expected", "processed")]
    return bits, sums[0], sums[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    killed: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    with TemporaryDirectory() as name:
        calm = Path(name) / "calm"
        prepare(calm)
        started = time.monotonic()
        if start(calm, "calm", TARGET).wait() != 0:
            sys.exit((calm / "log").read_text())
        length, expected = time.monotonic() - started, products(calm)
        for number in range(arguments.rounds):
            folder, mark = Path(name) / str(number), f"{os.getpid()}-{number}"
            prepare(folder)
            run = start(folder, mark, TARGET)
            moment = time.monotonic() + rng.uniform(0, length)
            while time.monotonic() < moment and run.poll() is None:
                time.sleep(0.01)
            victims = list(of_round(mark))
            if victims:
                victim = rng.choice(victims)
                killed[kind_of(victim)] += 1
                victim.kill()
            run.wait()
            until = time.monotonic() + ALIVE_S
            while (alive := list(of_round(mark))) and time.monotonic() < until:
                time.sleep(0.2)
            start(folder, mark, "--unlock").wait()
            again = start(folder, mark, TARGET).wait()
            faults = {
                "alive": bool(alive),
                "failed": again != 0,
                "differs": again == 0 and products(folder) != expected,
                "parts": bool(list((folder / "results").rglob(".part-*"))),
            }
            for fault in (fault for fault, there in faults.items() if there):
                bad[fault] += 1
                print(f"round {number}: {fault}", flush=True)
                if fault == "failed":
                    print((folder / "log").read_text()[-3000:], flush=True)
                for process in alive:
                    print(f"  {process.pid} {' '.join(process.cmdline())[:120]}", flush=True)
                    process.kill()
    print(f"{arguments.rounds} rounds of {length:.0f} s undisturbed; killed: {dict(killed)}")
    print(f"faults: {dict(bad) or 'none'}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
