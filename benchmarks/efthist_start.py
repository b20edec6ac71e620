"""What a process pays before its first EFT histogram is filled, side by side.

    python benchmarks/efthist_start.py [--repeat 3]

Each row is the fastest of processes of their own: `import hist` alone, `import looseleaf.efthist`,
and a first fill of 1,000 events with equal bins and with edges, with an empty folder of compiled
functions and with one that an earlier process has left. CPU seconds count only that process: they
tell more than seconds of the clock on a machine that does other things. What is kept runs without
numba, whose import and first call, with the packages that extend it (awkward and vector do), are
in the row before.
"""

import argparse
import json
import os
import subprocess
import sys
from tempfile import TemporaryDirectory

PREPARED = """
import hist
import numpy as np
from looseleaf.efthist import EFTHist
x = np.linspace(0, 1, 1000)
edges = np.linspace(0, 1, 21) ** 1.5
axes = [hist.axis.Regular(20, 0, 1, name="x"), hist.axis.Variable(edges, name="x")]
histograms = [EFTHist(axis, coefficients=["a", "b"]) for axis in axes]
"""
FILL = """
for histogram in histograms:
    histogram.fill(x, weight=np.ones(1000), eft=np.ones((1000, 6), np.float32))
assert histograms[0].at({"a": 1}).sum(flow=True).value == 3000
"""
TIMED = """
import json, time
{before}
wall, cpu = time.perf_counter(), time.process_time()
{code}
print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]))
"""


def timed(code: str, cache: str, before: str = "") -> list[float]:
    """Seconds by the clock and of the processor that code takes in a process of its own."""
    kept = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    result = subprocess.run(
        [sys.executable, "-c", TIMED.format(before=before, code=code)],
        env={**kept, "XDG_CACHE_HOME": cache},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(result.stdout)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    turns = range(parser.parse_args().repeat)
    times: dict[str, list[list[float]]] = {}
    for _ in turns:
        with TemporaryDirectory() as cache:
            for name, code, before in (
                ("import hist", "import hist", ""),
                ("import looseleaf.efthist", "import looseleaf.efthist", ""),
                ("first fill, nothing kept", FILL, PREPARED),
                ("first fill, kept by an earlier process", FILL, PREPARED),
            ):
                times.setdefault(name, []).append(timed(code, cache, before))
    for name, all_turns in times.items():
        wall, cpu = (min(column) for column in zip(*all_turns, strict=True))
        print(f"  {name:40s} {wall:6.2f} s   {cpu:6.2f} s CPU")
