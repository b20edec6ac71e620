"""A job ends with the snakemake that started it: what it did would come to nobody.

Snakemake may die at any moment, also before its job has imported this module. It therefore says who
it is in the environment of its jobs. A process is known by its number and by when it started, since
numbers are used again.
"""

import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

ENVIRONMENT = "LOOSELEAF_SNAKEMAKE"
LOOK_EVERY_S = 1.0
# the place of a process's start in /proc/PID/stat, counted after its program: see proc(5)
STARTTIME = 19


def announce() -> None:
    """Tell the jobs of this process whom to end with: this one, and whom it ends with itself."""
    own = name_of_this()
    names = _announced()
    if own not in names:
        os.environ[ENVIRONMENT] = ",".join([*names, own])


def end_with_snakemake() -> None:
    """End this process as soon as one of those who were announced has ended, also now."""
    names = _announced()
    if not all(map(lives, names)):
        _end()
    threading.Thread(target=_watch, args=[names], daemon=True).start()


def _announced() -> list[str]:
    return list(filter(None, os.environ.get(ENVIRONMENT, "").split(",")))


def _watch(names: Sequence[str]) -> None:
    while all(map(lives, names)):
        time.sleep(LOOK_EVERY_S)
    _end()


def _end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def name_of_this() -> str:
    """The name of this process."""
    return _name(psutil.Process())


def _name(process: psutil.Process) -> str:
    return f"{process.pid}:{_start(process):.2f}"


def _start(process: psutil.Process) -> float:
    """When a process started [s], by a clock that nobody sets.

    Linux counts from the start of the machine. psutil adds the time of day of that start, which
    moves whenever the clock is set: every process would then seem to be another one.
    """
    if not psutil.LINUX:
        return process.create_time()
    try:
        # the name of the program, in brackets, may hold spaces and brackets
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        raise psutil.NoSuchProcess(process.pid) from None
    return int(fields[STARTTIME]) / os.sysconf("SC_CLK_TCK")


def age_of_this() -> float:
    """The time [s] since this process started, which setting the clock doesn't change on Linux."""
    now = time.clock_gettime(time.CLOCK_BOOTTIME) if psutil.LINUX else time.time()
    return now - _start(psutil.Process())


def lives(name: str) -> bool:
    """Whether the process of this name, on this machine, still runs."""
    try:
        process = psutil.Process(int(name.partition(":")[0]))
        return _name(process) == name and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
