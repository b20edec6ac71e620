"""EFT histograms side by side with the other ways of filling and evaluating them, in one run.

    python benchmarks/efthist.py [--seconds S]

Fills are of 100,000-event chunks over 100 bins, on one core, with equal bins, whose index is a
multiplication, and with edges, whose index is a search and which analyses are declared with:

- a boost-histogram filled once per term,
- events expanded by the number of terms, with the term on an integer axis,
- looseleaf's EFTHist,
- for comparison, a copy of the coefficients: what reading and writing them takes without adding.

Histograms are made before, as a processor makes them once and fills them for each channel and
variation. Every way finds the coefficients and its own code as the others leave them, out of the
caches. What counts are the ratios; the fastest of the repetitions stands for each way: a fill of
a millisecond goes by main memory, which others use as well. The sums of the three are compared
before anything is timed.
"""

import argparse
import os
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

THREADS = "1"
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, THREADS)

import boost_histogram as bh  # noqa: E402 - after the number of threads is set
import hist  # noqa: E402
import numpy as np  # noqa: E402

from looseleaf.efthist import EFTHist, monomials  # noqa: E402

EVENTS, BINS = 100_000, 100
EQUAL = hist.axis.Regular(BINS, 0, 1, name="x")
EDGES = hist.axis.Variable(np.linspace(0, 1, BINS + 1) ** 1.5, name="x")


def one_per_term(histograms: list[bh.Histogram], x: Any, weight: Any, terms: Any) -> None:
    for index, histogram in enumerate(histograms):
        histogram.fill(x, weight=terms[:, index] * weight)


def expanded(histogram: bh.Histogram, x: Any, weight: Any, terms: Any) -> None:
    number = terms.shape[1]
    index = np.tile(np.arange(number), len(x))
    weights = terms.ravel() * np.repeat(weight, number)
    histogram.fill(np.repeat(x, number), index, weight=weights)


def eft(histogram: EFTHist, x: Any, weight: Any, terms: Any) -> None:
    histogram.fill(x, weight=weight, eft=terms)


def fastest(ways: dict[str, Callable[[], Any]], seconds: float) -> dict[str, float]:
    """Seconds of each way, the fastest of repetitions in turns for so long."""
    times: dict[str, float] = dict.fromkeys(ways, float("inf"))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, call in ways.items():
            start = time.perf_counter()
            call()
            times[name] = min(times[name], time.perf_counter() - start)
    return times


def peak(call: Callable[[], Any]) -> int:
    """Bytes that a call has allocated at most at one time."""
    tracemalloc.start()
    call()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def coefficients(number: int) -> list[str]:
    return [f"c{index}" for index in range(number)]


def events(number: int) -> tuple[Any, Any, Any]:
    """A position, a weight and the terms of each event, for a number of coefficients."""
    rng = np.random.default_rng(number)
    terms = rng.normal(size=(EVENTS, (number + 1) * (number + 2) // 2)).astype(np.float32)
    return rng.uniform(0, 1, EVENTS), rng.uniform(0.5, 2, EVENTS), terms


def fills(number: int, duration: float) -> None:
    arrays = events(number)
    terms = arrays[2]
    names = coefficients(number)
    columns = range(terms.shape[1])
    double = bh.storage.Double()
    for kind, axis in {"equal bins": EQUAL, "edges": EDGES}.items():
        per_term = [bh.Histogram(axis, storage=double) for _ in columns]
        by_integer = bh.Histogram(axis, bh.axis.Integer(0, len(columns)), storage=double)
        ours = EFTHist(axis, coefficients=names, squares=False)
        ways: dict[str, Callable[[], Any]] = {
            "a boost-histogram per term": partial(one_per_term, per_term, *arrays),
            "events expanded": partial(expanded, by_integer, *arrays),
            "EFTHist": partial(eft, ours, *arrays),
            "a copy of the coefficients": terms.copy,
        }
        for fill in ways.values():
            fill()
        stacked = np.stack([histogram.view() for histogram in per_term], axis=1)
        np.testing.assert_allclose(stacked, ours.terms(), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(by_integer.view(), ours.terms(), rtol=1e-6, atol=1e-6)
        times = fastest(ways, duration)
        print(f"\nfill, {len(columns)} terms, {EVENTS:,} events in {BINS} bins, {kind}")
        for name, seconds in times.items():
            ratio = seconds / times["EFTHist"]
            speed = f"{EVENTS / seconds / 1e3:9.0f} k events/s"
            print(f"  {name:28s} {speed}   {ratio:6.1f}")

    def empty(squares: Any) -> EFTHist:
        return EFTHist(EDGES, coefficients=names, squares=squares)

    extra = peak(lambda: eft(empty(False), *arrays))
    total = (terms.nbytes + extra) / terms.nbytes
    print(f"  memory, coefficients included: {total:.2f} of the coefficients alone")
    few = [{}, *({name: 1.0} for name in names[:7])]
    for name, squares in {"squares at 8 points": few, "exact squares": True}.items():
        histogram = empty(squares)
        eft(histogram, *[array[:10] for array in arrays])
        seconds = fastest({name: partial(eft, histogram, *arrays)}, duration / 10)[name]
        print(f"  with {name:23s} {EVENTS / seconds / 1e3:9.0f} k events/s")


def evaluation(duration: float) -> None:
    points, number = 10_000, 26
    filled = EFTHist(EDGES, coefficients=coefficients(number), squares=False)
    eft(filled, *events(number))
    where = np.random.default_rng(1).normal(size=(points, number))
    factors, sums = monomials(where), filled.terms()
    np.testing.assert_allclose(filled.values(where), factors.T @ sums.T, rtol=1e-9, atol=1e-6)
    times = fastest(
        {
            "a dense matrix product": lambda: factors.T @ sums.T,
            "EFTHist.values": lambda: filled.values(where),
        },
        duration,
    )
    print(f"\nevaluation, {points:,} points, {len(factors)} terms, {BINS} bins")
    for name, seconds in times.items():
        ratio = seconds / times["a dense matrix product"]
        print(f"  {name:28s} {1e3 * seconds:9.1f} ms   {ratio:6.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10)
    arguments = parser.parse_args()
    for number in (9, 26):
        fills(number, arguments.seconds)
    evaluation(arguments.seconds / 4)
