"""The cost of a piece of work: the record that every stage keeps, and the benchmark stage reads."""

import os
import resource
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from resource import RUSAGE_CHILDREN as CHILDREN
from resource import RUSAGE_SELF as SELF

# of getrusage's memory: bytes on macOS, kilobytes on Linux
UNIT = 1 if sys.platform == "darwin" else 1024
UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Cost:
    """The cost of one piece of work in one process.

    `wall_s` and `cpu_s` are in seconds (cpu is user + system time of the process), `bytes_read` are
    the compressed bytes read from storage for opening a file and for columns, not for its checksum,
    `peak_rss_bytes` is the peak memory since the process started.
    """

    events: int
    bytes_read: int
    wall_s: float
    cpu_s: float
    peak_rss_bytes: int

    def to_json(self) -> dict[str, float]:
        """The fields as JSON."""
        return asdict(self)


def peak_rss_bytes() -> int:
    """The peak memory of this process since it started."""
    return _peak_of(os.getpid()) or resource.getrusage(SELF).ru_maxrss * UNIT


def _peak_of(process: int) -> int | None:
    """The peak memory of a process since its program started, where the kernel tells it.

    What `getrusage` tells on Linux is at least the size of the process that started it.
    """
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return None
    lines = [line.split() for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(lines[0][1]) * 1024 if lines else None


@dataclass(frozen=True)
class JobCost:
    """The cost of one run of a rule, with the processes that it started.

    `wall_s` and `cpu_s` are in seconds (cpu is user + system time of all processes),
    `peak_rss_bytes` is the peak memory of the largest process of those that are known at the end.
    """

    wall_s: float
    cpu_s: float
    peak_rss_bytes: int

    def to_json(self) -> dict[str, float]:
        """The fields as JSON."""
        return asdict(self)


def of_this_job(wall_s: float) -> JobCost:
    """The cost so far of this process, which is `wall_s` old, and of those that it started.

    The kernel counts the time of processes that have ended to the one that waited for them. On
    macOS that is known of this process's own alone.
    """
    import psutil  # noqa: PLC0415 - commands and histograms that are installed alone have none

    own, ended = (resource.getrusage(who) for who in (SELF, CHILDREN))
    cpu_s = own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime
    peak = max(peak_rss_bytes(), ended.ru_maxrss * UNIT)
    for process in psutil.Process().children(recursive=True):
        # it may end meanwhile
        with suppress(psutil.Error):
            spent = process.cpu_times()
            cpu_s += spent.user + spent.system + spent.children_user + spent.children_system
            peak = max(peak, _peak_of(process.pid) or process.memory_info().rss)
    return JobCost(round(wall_s, 4), round(cpu_s, 4), peak)


class Stopwatch:
    """Measures the cost of work since it was made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def cost(self, events: int, bytes_read: int) -> Cost:
        """The cost so far, for these numbers of events and bytes."""
        return Cost(
            events=events,
            bytes_read=bytes_read,
            wall_s=round(time.perf_counter() - self._wall, 4),
            cpu_s=round(time.process_time() - self._cpu, 4),
            peak_rss_bytes=peak_rss_bytes(),
        )


def readable_size(value: float) -> str:
    """Bytes in decimal units, to three digits: 950 B, 12.3 MB, 1.25 GB."""
    power = 0
    while round(value) >= 1000 and power < len(UNITS) - 1:
        value, power = value / 1000, power + 1
    return f"{value:{'.0f' if power == 0 or value >= 99.95 else '#.3g'}} {UNITS[power]}"
