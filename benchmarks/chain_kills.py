"""Does a chain come to the same, whichever of its processes is killed at whatever moment?

    python benchmarks/chain_kills.py RECORD [--rounds 200]
    python benchmarks/chain_kills.py RECORD --table

In each round a small chain starts in an empty folder: lookup, transform, histograms. In turn it
starts its own ServiceX and Dask cluster, or uses running ones. At a random
moment a kind is drawn among its processes that live (kinds hit less often so far are likelier),
then a process of that kind, which is killed (kill -9). A service or cluster that it only uses is
started again at once. Twenty seconds after snakemake has ended, no process of the round may be
alive. The chain is unlocked and run again. It has to come to the bits of one that nothing
disturbed, with all events processed once and no part file left.

Rounds are appended to RECORD, a file of JSON lines, until it has so many: a campaign that was
interrupted goes on. Ends with 1 if a round of this run was bad. --table shows RECORD in Markdown.
"""

import argparse
import asyncio
import hashlib
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import certifi
import psutil
import yaml
from servicex.servicex_adapter import ServiceXAdapter

from looseleaf.samples.generate import generate

REPO = Path(__file__).parent.parent
DATASET = {
    "das": "/QCD_kills/looseleaf-v1/NANOAODSIM",
    "process": "qcd",
    "xsec_pb": 1362000,
}
EVENTS, FILES = 2000, 4
SAMPLE = {"kind": "qcd", "flavour": "Muon", "pthat": [30, 50], "events": EVENTS, "files": FILES}
TARGET = "results/fakerate/muon/QCD.json"
WORKERS = 2
# how the processes of a round are told from others
MARK = "LOOSELEAF_ROUND"
ALIVE_S = 20.0
# so long no chain takes, whatever else the machine does
HANGS_S = 900.0
# what a chain's ServiceX and Dask cluster are
MODES = ("its own", "beside it")
KINDS = (
    "snakemake", "script", "forkserver", "resource tracker", "transformer", "worker", "service",
    "scheduler", "nanny",
)  # fmt: skip


class Beside:
    """A ServiceX and a Dask cluster that chains use in turn, and that are started again when they
    were killed."""

    def __init__(self, root: Path) -> None:
        self._root, self._started = root, 0
        ports = (_free_port(), _free_port())
        self._service, self._scheduler = map(str, ports)
        self._commands = {
            "service": [
                *("looseleaf", "servicex", "serve", "--volume", str(root / "volume")),
                *("--state", str(root / "state"), "--port", self._service),
                *("--workers", str(WORKERS), "--allow", str(root / "made")),
            ],
            "scheduler": [
                *("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--no-dashboard"),
                *("--port", self._scheduler),
            ],
            "nanny": [
                *("distributed.cli.dask_worker", f"tcp://127.0.0.1:{self._scheduler}"),
                *("--nworkers", str(WORKERS), "--nthreads", "1", "--no-dashboard"),
                *("--local-directory", str(root / "dask")),
            ],
        }
        self._running: dict[str, tuple[str, subprocess.Popen[bytes]]] = {}

    def start(self) -> None:
        """Start what doesn't run."""
        ended = [name for name, (_, process) in self._running.items() if process.poll() is not None]
        if {"scheduler", "nanny"} & set(ended):
            # workers whose scheduler or nanny has gone are of no use
            for name in ("scheduler", "nanny"):
                _, process = self._running.pop(name)
                process.terminate()
                process.wait()
        if "service" in ended:
            del self._running["service"]
        for name, command in self._commands.items():
            if name not in self._running:
                self._started += 1
                mark = f"{os.getpid()}-{name}-{self._started}"
                self._running[name] = mark, _started(self._root, self._root, mark, command)
        _listens(int(self._service))
        _listens(int(self._scheduler))

    def marks(self) -> list[str]:
        """The marks of what runs."""
        return [mark for mark, process in self._running.values() if process.poll() is None]

    def forget(self) -> None:
        """Delete the service's requests, so that the next chain's transform is new to it."""
        state = self._root / "state/servicex.yaml"
        (endpoint,) = yaml.safe_load(state.read_text())["api_endpoints"]
        adapter = ServiceXAdapter(endpoint["endpoint"], endpoint.get("token"))

        async def deleted() -> None:
            for request in await adapter.get_transforms():
                await adapter.delete_transform(request.request_id)

        asyncio.run(deleted())

    def prepare(self, folder: Path) -> dict[str, Any]:
        """Settings with which a chain uses this."""
        sites = folder / "config/sites"
        sites.mkdir(parents=True)
        address = f"tcp://127.0.0.1:{self._scheduler}"
        site = {"kind": "scheduler", "address": address, "redirectors": ["/nowhere"]}
        (sites / "beside.yaml").write_text(yaml.safe_dump(site))
        (folder / "servicex.yaml").symlink_to(self._root / "state/servicex.yaml")
        mount = str(self._root / "volume/transforms")
        return {"site": "beside", "servicex": {"backend": "remote", "mount": mount}}


@dataclass(frozen=True)
class Course:
    """When each script of an undisturbed chain began, in seconds, and how long it took in all."""

    began: dict[str, float]
    length: float

    @classmethod
    def of(cls, run: subprocess.Popen[bytes], folder: Path) -> "Course":
        """Follow a chain to its end."""
        started, began = time.monotonic(), {"": 0.0}
        while run.poll() is None:
            began.setdefault(_script(folder), time.monotonic() - started)
            time.sleep(0.02)
        return cls(began, time.monotonic() - started)

    def wait(self, moment: float, run: subprocess.Popen[bytes], folder: Path) -> "Course | None":
        """Wait for what was a moment of the undisturbed chain: as long after the same script began,
        however fast this one is, but not until the next one has begun.

        If the chain ends before, it was an undisturbed one too, and this is its course.
        """
        names = list(self.began)
        place = sum(began <= moment for began in self.began.values()) - 1
        name, after = names[place], moment - self.began[names[place]]
        started, began = time.monotonic(), {"": 0.0}
        while run.poll() is None:
            now, at = _script(folder), time.monotonic() - started
            began.setdefault(now, at)
            if now in names[place + 1 :] or at >= began.get(name, math.inf) + after:
                return None
            time.sleep(0.02)
        return Course(began, time.monotonic() - started)


def _script(folder: Path) -> str:
    """The script that a chain runs, as Snakemake has laid it out."""
    found = (folder / ".snakemake/scripts").glob("*.*.py")
    return next((path.suffixes[-2].removeprefix(".") for path in found), "")


class Campaign:
    """Rounds of small chains below one folder."""

    def __init__(self, root: Path, beside: Beside) -> None:
        self._root, self._beside = root, beside
        declared = {"QCD": {**DATASET, "data": False, "sample": SAMPLE}}
        settings = {"seed": 7, "scale": 1.0, "step": EVENTS, "compression": "lz4"}
        catalogue, truth = root / "made/catalogue.json", str(REPO / "config/demo/truth.json")
        generate("QCD", declared, settings, catalogue, truth)
        beside.start()
        self._calm = {}
        self._expected = ""
        for mode in MODES:
            folder = self._prepared(f"calm {mode}", mode)
            run = self._chain(folder, f"{os.getpid()}-calm")
            self._calm[mode] = Course.of(run, folder)
            if run.returncode != 0:
                sys.exit((folder / "log").read_text())
            bits, problems = products(folder)
            if problems or self._expected not in ("", bits):
                sys.exit(f"{mode}, undisturbed: {problems or 'another result'}")
            self._expected = bits

    def _prepared(self, name: str, mode: str) -> Path:
        """The folder of a chain, with its configuration."""
        folder = self._root / name
        folder.mkdir()
        analysis = yaml.safe_load((REPO / "config/analyses/muon.yaml").read_text())
        del analysis["truth"]
        analysis["datasets"] = {"measure": ["QCD"]}
        settings = {
            "datasets": ["data.yaml"],
            "analyses": ["muon.yaml"],
            "das": {"catalogues": [str(self._root / "made/catalogue.json")]},
            "processing": {"chunksize": 250, "task_events": 250},
        }
        if mode == "beside it":
            self._beside.start()
            self._beside.forget()
            settings |= self._beside.prepare(folder)
        else:
            sites = folder / "config/sites"
            sites.mkdir(parents=True)
            # with settings of its own, it starts workers for few events too
            own = {"kind": "local", "redirectors": ["/nowhere"], "cluster": {"processes": True}}
            (sites / "own.yaml").write_text(yaml.safe_dump(own))
            settings["site"] = "own"
        for file, content in (
            ("data.yaml", {"QCD": DATASET}),
            ("muon.yaml", analysis),
            ("my.yaml", settings),
        ):
            (folder / file).write_text(yaml.safe_dump(content))
        return folder

    def _chain(self, folder: Path, mark: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = ["snakemake", "--snakefile", str(REPO / "Snakefile"), "--quiet", "all"]
        command += ["--cores", str(WORKERS), *(arguments or (TARGET,)), "--configfile", "my.yaml"]
        return _started(self._root, folder, mark, command)

    def round(
        self, number: int, mode: str, hits: Counter[str], rng: random.Random
    ) -> dict[str, Any]:
        """One round; what was killed, when, and what was wrong then."""
        started, mark = time.monotonic(), f"{os.getpid()}-{number}"
        for attempt in count():
            folder = self._prepared(f"{number}-{attempt}", mode)
            before = self._beside.marks() if mode == "beside it" else []
            calm = self._calm[mode]
            moment = rng.uniform(0, calm.length)
            run = self._chain(folder, mark)
            undisturbed = calm.wait(moment, run, folder)
            if undisturbed is None:
                break
            if run.returncode != 0:
                sys.exit((folder / "log").read_text())
            self._calm[mode] = undisturbed
        victim = self._killed([mark, *before], hits, rng, _script(folder))
        if mode == "beside it":
            self._beside.start()
        faults, details = [], []
        if _hangs(run, mark):
            faults.append("hangs")
        ended = [mark, *set(before).difference(self._beside.marks())]
        alive = _alive_after(ended, ALIVE_S)
        if alive:
            faults.append("alive")
            details += alive
        if any((folder / ".snakemake/locks").glob("*")):
            self._chain(folder, mark, "--unlock").wait()
        again = self._chain(folder, mark)
        if _hangs(again, mark):
            faults.append("hangs")
        if again.wait() != 0:
            faults.append("failed")
            details.append((folder / "log").read_text()[-3000:])
        else:
            bits, problems = products(folder)
            faults += problems
            faults += ["differs"] if bits != self._expected else []
        if alive := _alive_after([mark], ALIVE_S):
            faults.append("alive")
            details += alive
        left = [path for path in folder.rglob("*") if path.name.startswith(".part-")]
        left += list(folder.rglob("incoming")) + list(folder.rglob("downloads"))
        if left:
            faults.append("parts")
            details += map(str, left)
        return {
            "round": number,
            "mode": mode,
            "moment_s": round(moment, 2),
            "of_s": round(calm.length, 2),
            **victim,
            "faults": faults,
            "details": details,
            "took_s": round(time.monotonic() - started, 1),
        }

    def _killed(
        self, marks: Sequence[str], hits: Counter[str], rng: random.Random, during: str
    ) -> dict[str, str]:
        """Kill a process of one of the kinds that live; which it was."""
        by_kind: dict[str, list[psutil.Process]] = {}
        for process in _marked(marks):
            with suppress(psutil.Error):
                by_kind.setdefault(_kind_of(process), []).append(process)
        if not by_kind:
            return {"kind": "none", "during": during}
        kinds = sorted(by_kind)
        (kind,) = rng.choices(kinds, [1 / (1 + hits[kind]) ** 2 for kind in kinds])
        victim = rng.choice(by_kind[kind])
        victim.kill()
        with suppress(psutil.TimeoutExpired):
            victim.wait(5)
        return {"kind": kind, "during": during}


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


def _listens(port: int) -> None:
    """Wait until somebody listens at a port."""
    for _ in range(600):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    sys.exit(f"nothing listens on port {port}")


def _started(
    root: Path, folder: Path, mark: str, command: Sequence[str]
) -> subprocess.Popen[bytes]:
    """A Python module, run in a folder with what it keeps below `root`."""
    places = {
        "XDG_CACHE_HOME": root / "cache",
        "XDG_STATE_HOME": root / "state of the user",
        "TMPDIR": folder / "tmp",
    }
    for place in places.values():
        place.mkdir(exist_ok=True)
    environment = {name: str(place) for name, place in places.items()}
    # ServiceX's client loads the certificates of the whole web for each question; one will do here
    certificate = root / "one.pem"
    if not certificate.exists():
        text, end, _ = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----")
        certificate.write_text(f"{text}{end}\n")
    environment["SSL_CERT_FILE"] = str(certificate)
    with open(folder / "log", "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=folder,
            env={**os.environ, **environment, MARK: mark},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _hangs(run: subprocess.Popen[bytes], mark: str) -> bool:
    """Wait for a chain; whether it had to be ended."""
    try:
        run.wait(HANGS_S)
    except subprocess.TimeoutExpired:
        for process in _marked([mark]):
            with suppress(psutil.Error):
                process.kill()
        return True
    return False


def _all_marked() -> Iterator[tuple[str, psutil.Process]]:
    """The processes of this campaign with their marks, whoever their parent is by now."""
    for process in psutil.process_iter():
        try:
            mark = process.environ().get(MARK, "")
            if mark.startswith(f"{os.getpid()}-") and process.status() != psutil.STATUS_ZOMBIE:
                yield mark, process
        except psutil.Error:
            continue


def _marked(marks: Sequence[str]) -> Iterator[psutil.Process]:
    """The processes with one of these marks."""
    return (process for mark, process in _all_marked() if mark in marks)


def _end_all() -> None:
    """End all processes of this campaign."""
    for _, process in _all_marked():
        with suppress(psutil.Error):
            process.kill()


def _alive_after(marks: Sequence[str], seconds: float) -> list[str]:
    """Kill processes that are still alive after so many seconds; what each was doing."""
    until = time.monotonic() + seconds
    used: dict[int, float] = {}
    while alive := list(_marked(marks)):
        used = {process.pid: used.get(process.pid, _cpu_s(process)) for process in alive}
        if time.monotonic() >= until:
            break
        time.sleep(0.2)
    told = []
    for process in alive:
        with suppress(psutil.Error):
            waits = Path(f"/proc/{process.pid}/wchan")
            told.append(
                f"{process.pid} of {process.ppid()}: {' '.join(process.cmdline())[:200]}: "
                f"{process.status()} in {waits.read_text() if waits.exists() else '?'}, "
                f"{_cpu_s(process) - used[process.pid]:.1f} s of CPU while it was waited for"
            )
            process.kill()
    return told


def _cpu_s(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0


def _line(process: psutil.Process | None) -> str:
    return " ".join(process.cmdline()) if process is not None else ""


def _kind_of(process: psutil.Process) -> str:
    line = _line(process)
    for words, kind in (
        ("-m snakemake", "snakemake"),
        (".snakemake/scripts/", "script"),
        ("servicex serve", "service"),
        ("dask_scheduler", "scheduler"),
        ("dask_worker", "nanny"),
        ("resource_tracker", "resource tracker"),
        ("spawn_main", "worker"),
    ):
        if words in line:
            return kind
    # the forkserver's children have its command line
    parent = process.parent()
    if "forkserver" not in line:
        return f"other: {line[:80]}"
    if "forkserver" not in _line(parent):
        return "forkserver"
    of_it = _line(parent.parent() if parent is not None else None)
    return "transformer" if "servicex" in of_it else "worker"


def products(folder: Path) -> tuple[str, list[str]]:
    """The bits of a chain's histograms, and what is wrong with its numbers of events."""
    bits = hashlib.sha256((folder / TARGET).read_bytes()).hexdigest()
    ledger = json.loads((folder / TARGET).with_suffix(".ledger.json").read_text())
    manifest = json.loads((folder / "results/servicex/QCD.json").read_text())
    read = [file["source"] for file in manifest["files"]]
    expected, processed = (ledger[key]["events"] for key in ("expected", "processed"))
    lost = processed < expected or ledger["original"]["events"] < EVENTS or len(set(read)) < FILES
    twice = processed > expected or ledger["original"]["events"] > EVENTS or len(read) > FILES
    return bits, ["lost"] * lost + ["twice"] * twice


def table(rounds: Sequence[dict[str, Any]]) -> str:
    """Rounds in Markdown: a line for each kind of process that was killed."""
    faults = {
        "lost": "events lost",
        "twice": "events twice",
        "alive": f"processes alive after {ALIVE_S:.0f} s",
        "parts": "part files left",
        "differs": "other bits",
        "failed": "failed when run again",
        "hangs": "hung",
    }
    lines = [f"| killed | rounds | {' | '.join(faults.values())} |", "|---|" + "---|" * 8]
    kinds = [one["kind"] for one in rounds]
    for kind in [*KINDS, *sorted(set(kinds) - set(KINDS)), None]:
        of_kind = [one for one in rounds if kind in (None, one["kind"])]
        counts = [sum(fault in one["faults"] for one in of_kind) for fault in faults]
        title = "all" if kind is None else kind
        lines.append(f"| {title} | {len(of_kind)} | {' | '.join(map(str, counts))} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    lines = arguments.record.read_text().splitlines() if arguments.record.exists() else []
    rounds = [json.loads(line) for line in lines]
    before = len(rounds)
    # so that what it has started ends with it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if not arguments.table:
        with TemporaryDirectory(prefix="kills-", ignore_cleanup_errors=True) as name:
            beside = Beside(Path(name))
            try:
                campaign = Campaign(Path(name), beside)
                for number in range(before, arguments.rounds):
                    mode, rng = MODES[number % 2], random.Random(f"{arguments.seed} {number}")
                    hits = Counter(one["kind"] for one in rounds)
                    rounds.append(campaign.round(number, mode, hits, rng))
                    with open(arguments.record, "a") as record:
                        record.write(json.dumps(rounds[-1]) + "\n")
                    if rounds[-1]["faults"]:
                        print(json.dumps(rounds[-1], indent=1), flush=True)
            finally:
                _end_all()
    print(table(rounds))
    return 1 if any(one["faults"] for one in rounds[before:]) else 0


if __name__ == "__main__":
    sys.exit(main())
