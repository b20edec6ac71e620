"""The cost of a piece of work: the record that every stage keeps, and the benchmark stage reads."""

import resource
import sys
import time
from dataclasses import asdict, dataclass

UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class Cost:
    """The cost of one piece of work in one process.

    `wall_s` and `cpu_s` are in seconds (cpu is user + system time of the process), `bytes_read` are
    the compressed bytes read from storage, `peak_rss_bytes` is the peak memory since the process
    started.
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
    # kilobytes on Linux, bytes on macOS
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


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
