"""What each interval of `looseleaf.histograms.divide` covers: a table, by sums and by toys.

    python benchmarks/intervals.py [--toys 20000] [--seed 1]

The unweighted intervals are summed over all outcomes, without toys. The others are tried on toys
whose number of entries is drawn from a Poisson distribution of mean n, each of which passes with
probability f. Kept are promises of

- `at least`: 68.27% or more, within three times the toys' error;
- `68.27%`: neither more nor less than that, within three times the toys' error;
- `-`: nothing is promised, and the row shows how far off it is.

Exits with 1 if a promise isn't kept.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import hist
import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from looseleaf.histograms import Ratio, divide
from looseleaf.histograms.ratio import ONE_SIGMA

AT_LEAST, EXACT, NOTHING = "at least", "68.27%", "-"
# effective entries that pass, and fail: below the one the weighted interval covers at least what it
# says, from the other on just that
FEW, MANY = 10, 100
# entries drawn at a time
BATCH = 5_000_000

Array = NDArray[np.float64]
# sums of weights and of squared weights of those that pass, and of all, by toy
Toys = tuple[Array, Array, Array, Array]
Weights = Callable[[np.random.Generator, int], Array]

WEIGHTS: dict[str, Weights] = {
    "1": lambda rng, size: np.ones(size),
    "0.1, 1 or 5": lambda rng, size: rng.choice([0.1, 1.0, 5.0], size),
    "lognormal": lambda rng, size: rng.lognormal(0.0, 1.0, size),
    "3% of 20": lambda rng, size: np.where(rng.random(size) < 0.03, 20.0, 1.0),
}


class Row(NamedTuple):
    """One line of the table; `few` is the mean effective number that pass or fail, if fewer."""

    method: str
    sample: str
    n: int
    f: float | str
    few: float
    coverage: float
    error: float
    promise: str

    @property
    def kept(self) -> bool:
        off = self.coverage - ONE_SIGMA
        if self.promise == AT_LEAST:
            return off >= -3 * self.error
        return self.promise == NOTHING or abs(off) <= 3 * self.error


def exact(method: str, n: int, rates: Array) -> Array:
    """The coverage of n unweighted entries at each rate, summed over all outcomes."""
    ratio = one_bin_a_toy(*(np.arange(n + 1.0),) * 2, *(np.full(n + 1, float(n)),) * 2, method)
    covered = (ratio.lower <= rates[:, None]) & (rates[:, None] <= ratio.upper)
    return np.sum(binom.pmf(np.arange(n + 1), n, rates[:, None]) * covered, axis=1)


def one_bin_a_toy(
    passing: Array, passing_sw2: Array, total: Array, total_sw2: Array, method: str
) -> Ratio:
    """The ratio of all toys at once, each of them a bin."""
    sides = []
    for value, variance in ((passing, passing_sw2), (total, total_sw2)):
        side = hist.Hist(hist.axis.Integer(0, value.size), storage=hist.storage.Weight())
        side.view().value, side.view().variance = value, variance
        sides.append(side)
    return divide(*sides, method)


def draw(rng: np.random.Generator, toys: int, n: float, f: float, weights: Weights) -> Toys:
    """Toys of n entries on average that pass with probability f."""
    parts = []
    step = max(int(BATCH / n), 1)
    for first in range(0, toys, step):
        number = min(step, toys - first)
        toy = np.repeat(np.arange(number), rng.poisson(n, number))
        weight = weights(rng, toy.size)
        passed = np.where(rng.random(toy.size) < f, weight, 0.0)
        parts.append([np.bincount(toy, w, number) for w in (passed, passed**2, weight, weight**2)])
    passing, passing_sw2, total, total_sw2 = np.concatenate(parts, axis=1)
    return passing, passing_sw2, total, total_sw2


def subtract(toys: Toys, prompt: Toys, simulated: Toys, weight: float) -> Toys:
    """Toys with prompt leptons in them, less simulated ones of a weight; the variances add up."""
    return tuple(
        a + b + (-weight if number in (0, 2) else weight**2) * c
        for number, (a, b, c) in enumerate(zip(toys, prompt, simulated, strict=True))
    )  # type: ignore[return-value]


def row(method: str, sample: str, n: int, f: float, toys: Toys, promise: str | None = None) -> Row:
    """The coverage of toys; by default the promise follows the effective entries."""
    passing, passing_sw2, total, total_sw2 = (array[toys[2] > 0] for array in toys)
    few = min(f, 1 - f) * float(np.mean(total**2 / total_sw2))
    if promise is None:
        promise = AT_LEAST if few < FEW else EXACT if few >= MANY else NOTHING
    ratio = one_bin_a_toy(passing, passing_sw2, total, total_sw2, method)
    coverage = float(np.mean((ratio.lower <= f) & (f <= ratio.upper)))
    error = float(np.sqrt(ONE_SIGMA * (1 - ONE_SIGMA) / passing.size))
    return Row(method, sample, n, f, few, coverage, error, promise)


def table(toys: int, rng: np.random.Generator) -> Iterator[Row]:
    """All rows: the unweighted by sums, the others by toys."""
    for n in (10, 100):
        rates = np.linspace(0, 1, 2002)[1:-1]
        for method in ("clopper-pearson", "wilson"):
            found = exact(method, n, rates)
            promise = AT_LEAST if method == "clopper-pearson" else NOTHING
            yield Row(method, "least of all f", n, "any", 0, float(found.min()), 0.0, promise)
            yield Row(method, "mean over f", n, "mean", 0, float(found.mean()), 0.0, promise)
    for name, weights in WEIGHTS.items():
        for n in (20, 100, 400, 4000):
            for f in (0.05, 0.2, 0.5):
                sample = f"weights {name}"
                yield row("weighted", sample, n, f, draw(rng, toys, n, f, weights))
    unit = WEIGHTS["1"]
    for n in (100, 1000, 10000):
        for prompts, weight in ((0.1, 0.2), (0.5, 0.2), (0.5, 1.0)):
            for f in (0.05, 0.2):
                drawn = subtract(
                    draw(rng, toys, n, f, unit),
                    draw(rng, toys, prompts * n, 0.9, unit),
                    draw(rng, toys, prompts * n / weight, 0.9, unit),
                    weight,
                )
                sample = f"less {prompts:.0%} prompt, simulated at {weight:g}"
                yield row("weighted", sample, n, f, drawn)
    for f in (0.05, 0.2, 0.5):
        toys_of_all, others = (draw(rng, toys, 4000, f, WEIGHTS["0.1, 1 or 5"]) for _ in range(2))
        yield row("uncorrelated", "independent", 4000, f, (*others[:2], *toys_of_all[2:]))
        yield row("uncorrelated", "a subset", 4000, f, toys_of_all, AT_LEAST)


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--toys", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print(f"{'method':<16}{'sample':<36}{'n':>6}{'f':>6}{'few':>7}  coverage      promised  kept")
    broken = 0
    for line in table(arguments.toys, np.random.default_rng(arguments.seed)):
        kept = "" if line.promise == NOTHING else "yes" if line.kept else "NO"
        broken += not line.kept
        print(
            f"{line.method:<16}{line.sample:<36}{line.n:>6}{line.f:>6}{line.few:>7.1f}  "
            f"{line.coverage:.4f}({round(line.error * 1e4):>2}) {line.promise:>9}  {kept}"
        )
    return min(broken, 1)


if __name__ == "__main__":
    sys.exit(main())
