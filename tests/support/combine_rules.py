"""A datacard read as Combine reads it, and refused where Combine refuses it or misreads it.

The rules were found by giving cards to Combine 10.6.0 and by reading it. They are numbered here,
and nothing of them is from what writes our cards.

1. Channels are words that begin with no digit.       9. (of combineCards: see the tests)
2. Processes are words, none is data_obs.            10. Rates are the integrals of templates that
3. Nuisances are words, none has the name of a           are there, finite and not zero.
   parameter of Combine's or of a coefficient.       11. So are the integrals of variations.
4. One nuisance is one line, of one kind.            12. No bin is below zero: it would be cut off.
5. prop_bin... are Combine's own nuisances.          13. All templates of a channel have its edges.
6. The order of lines, and how many columns.         14. A shape's column is a number or none.
7. Signals have numbers up to 0, everywhere.         15. lnN is a factor or down/up, above zero.
8. A channel has a background, a card a signal,      16. autoMCStats: a channel, a threshold and
   or an option says otherwise.                          whether bins without background count.
17. Data where nothing is expected is taken: `Card.unexpected` has it.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import uproot

WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
ITS_OWN = {"r", "MH", "CMS_th1x", "CMS_channel"}
SECTIONS = ("counts", "shapes", "bins", "observation", "columns", "names", "numbers", "rate")
NO_BACKGROUND, NO_SIGNAL = "--X-allow-no-background", "--X-allow-no-signal"


class RuleBroken(Exception):
    """Combine wouldn't take the card, or not as it is meant."""

    def __init__(self, rule: int, why: str) -> None:
        super().__init__(f"rule {rule}: {why}")
        self.rule = rule


def hold(rule: int, right: Any, why: str) -> None:
    if not right:
        raise RuleBroken(rule, why)


@dataclass(frozen=True)
class Column:
    channel: str
    process: str
    number: int
    rate: float
    values: np.ndarray
    variances: np.ndarray
    # by nuisance: the factors of a lnN, or the contents of a shape, down and up
    moved: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    channels: list[str]
    observed: Mapping[str, np.ndarray]
    columns: list[Column]
    nuisances: Mapping[str, str]
    statistics: Mapping[str, tuple[float, bool]]

    @property
    def unexpected(self) -> dict[str, np.ndarray]:
        """By channel, the bins with data in which no process has anything."""
        found = {}
        for channel, data in self.observed.items():
            mine = [c.values for c in self.columns if c.channel == channel]
            bins = np.flatnonzero((data > 0) & (np.sum(mine, axis=0) == 0))
            found |= {channel: bins} if len(bins) else {}
        return found

    def expected(
        self, channel: str, scales: Mapping[str, float], nuisance: str = "", up: bool = True
    ) -> np.ndarray:
        """The bins of a channel with processes scaled, and a nuisance moved by one sigma."""
        total = 0.0
        for column in self.columns:
            if column.channel != channel:
                continue
            values = column.values
            if nuisance in column.moved:
                there = column.moved[nuisance][up]
                values = values * there if np.ndim(there) == 0 else there
            total = total + scales.get(column.process, 1.0) * values
        return np.asarray(total)


def read_card(
    path: Path, options: Collection[str] = (), coefficients: Collection[str] = ()
) -> Card:
    """The card at `path` with its templates; RuleBroken with the number of the first rule that it
    doesn't keep. `options` are those of the command line, `coefficients` the model's parameters."""
    lines = [line.split() for line in path.read_text().splitlines()]
    lines = [w for w in lines if w and not w[0].startswith(("#", "--"))]
    head, tail = _sections(lines)
    channels, observations = head["bins"][0], head["observation"][0]
    columns, (names, numbers, rates) = head["columns"][0], (
        head[key][0] for key in ("names", "numbers", "rate")
    )  # fmt: skip
    hold(6, len(observations) == len(channels), "an observation a channel")
    for row in (names, numbers, rates):
        hold(6, len(row) == len(columns), f"{len(columns)} columns, and {len(row)} in {row}")
    _check_names(channels, columns, names, numbers)
    _check_counts(head["counts"], channels, names, tail)
    nuisances, statistics = _nuisances(tail, channels, len(columns), coefficients)
    shapes = _Shapes(path.parent, head["shapes"])
    observed, found = {}, []
    for channel, text in zip(channels, observations, strict=True):
        hold(8, channel in columns, f"the channel {channel} has no process")
        data = shapes(channel, "data_obs")
        total, number = data.values().sum(), _number(10, text)
        hold(10, number in (-1, total) or abs(total / number - 1) < 5e-3, f"{total} for {text}")
        hold(10, np.isfinite(data.values()).all() and (data.values() >= 0).all(), "data")
        observed[channel] = data.values()
    for index, (channel, name) in enumerate(zip(columns, names, strict=True)):
        column = Column(
            channel, name, int(numbers[index]), *_template(shapes, channel, name, rates[index])
        )
        for nuisance, (kind, row) in nuisances.items():
            if row[index] in ("-", "--", "0"):
                continue
            both = (
                _factors(row[index])
                if kind == "lnN"
                else _variation(shapes, channel, name, nuisance, row[index])
            )
            column.moved[nuisance] = both  # type: ignore[index]
        found.append(column)
    backgrounds = {c.channel for c in found if c.number > 0 and c.rate > 0}
    hold(8, NO_BACKGROUND in options or backgrounds == set(channels), "no background")
    hold(8, NO_SIGNAL in options or any(c.number <= 0 for c in found), "no signal")
    return Card(channels, observed, found, {n: k for n, (k, _) in nuisances.items()}, statistics)


def _sections(
    lines: list[list[str]],
) -> tuple[dict[str, list[list[str]]], list[list[str]]]:
    """What stands before the nuisances by section, in order, and the nuisances."""
    found: dict[str, list[list[str]]] = {name: [] for name in SECTIONS}
    at = 0
    kinds = {
        "imax": "counts", "jmax": "counts", "kmax": "counts", "shapes": "shapes",
        "observation": "observation", "rate": "rate",
    }  # fmt: skip
    for number, words in enumerate(lines):
        first, kind = words[0], kinds.get(words[0])
        if first == "bin":
            kind = "columns" if found["observation"] else "bins"
        if first == "process":
            kind = "numbers" if found["names"] else "names"
        hold(6, kind is not None, f"{first!r} before the rates")
        hold(6, SECTIONS.index(str(kind)) >= at, f"{first!r} comes too late")
        at = SECTIONS.index(str(kind))
        single = kind not in ("counts", "shapes")
        hold(6, not (single and found[str(kind)]), f"{first!r} twice")
        found[str(kind)].append(words if not single else words[1:])
        if kind == "rate":
            missing = [name for name, there in found.items() if not there]
            hold(6, not missing, f"no {missing}")
            return found, lines[number + 1 :]
    raise RuleBroken(6, "no rates")


def _check_names(
    channels: list[str], columns: list[str], names: list[str], numbers: list[str]
) -> None:
    for channel in channels:
        hold(1, WORD.fullmatch(channel), f"the channel {channel}")
    hold(1, len(set(channels)) == len(channels) and set(columns) <= set(channels), str(columns))
    for name in names:
        hold(2, WORD.fullmatch(name) and name != "data_obs", f"the process {name}")
    hold(2, len(set(zip(columns, names, strict=True))) == len(names), "a process twice")
    for number in numbers:
        hold(7, re.fullmatch(r"-?\d+", number), f"the number {number}")
    one = set(zip(names, numbers, strict=True))
    hold(7, len(one) == len(set(names)) == len(set(numbers)), "one number a process")


def _check_counts(
    counts: list[list[str]], channels: list[str], names: list[str], tail: list[list[str]]
) -> None:
    nuisances = [words for words in tail if words[1:2] != ["autoMCStats"]]
    right = {"imax": len(channels), "jmax": len(set(names)) - 1, "kmax": len(nuisances)}
    hold(6, Counter(words[0] for words in counts) == Counter([*right]), "imax, jmax and kmax")
    for name, text, *_ in counts:
        hold(6, text in ("*", str(right[name])), f"{name} is {right[name]}, not {text}")


def _nuisances(
    tail: list[list[str]], channels: list[str], columns: int, coefficients: Collection[str]
) -> tuple[dict[str, tuple[str, list[str]]], dict[str, tuple[float, bool]]]:
    nuisances: dict[str, tuple[str, list[str]]] = {}
    statistics: dict[str, tuple[float, bool]] = {}
    for name, kind, *row in tail:
        if kind == "autoMCStats":
            hold(16, name in channels and name not in statistics, f"autoMCStats of {name}")
            hold(16, 1 <= len(row) <= 3, f"autoMCStats {row}")
            hold(16, row[1:2] == ["1"], "bins without background have no statistics")
            statistics[name] = _number(16, row[0]), True
            continue
        hold(3, WORD.fullmatch(name) and name not in ITS_OWN | set(coefficients), name)
        hold(5, not name.startswith("prop_bin"), name)
        hold(4, name not in nuisances, f"{name} twice")
        hold(6, kind in ("lnN", "shape"), f"{name} {kind}")
        hold(6, len(row) == columns, f"{columns} columns, and {len(row)} for {name}")
        nuisances[name] = kind, row
    hold(16, set(statistics) == set(channels), "a channel without autoMCStats")
    return nuisances, statistics


class _Shapes:
    """The histograms that the lines `shapes` name, all with the edges of their channel's data."""

    def __init__(self, folder: Path, lines: list[list[str]]) -> None:
        self._folder, self._lines = folder, lines
        self._files: dict[str, Any] = {}

    def __call__(self, channel: str, process: str, systematic: str = "") -> Any:
        fitting = [w for w in self._lines if w[1] in ("*", process) and w[2] in ("*", channel)]
        hold(10, fitting, f"no shapes of {process} in {channel}")
        _, _, _, file, *patterns = max(fitting, key=lambda w: (w[1] != "*", w[2] != "*"))
        hold(10, len(patterns) == 2, f"patterns {patterns}")
        name = patterns[bool(systematic)]
        for variable, value in (
            ("$PROCESS", process), ("$CHANNEL", channel), ("$SYSTEMATIC", systematic)
        ):  # fmt: skip
            name = name.replace(variable, value)
        if file not in self._files:
            self._files[file] = uproot.open(self._folder / file)
        root = self._files[file]
        hold(10, name in {key.partition(";")[0] for key in root}, f"no {name} in {file}")
        if process != "data_obs":
            edges = self(channel, "data_obs").axis().edges()
            hold(13, np.array_equal(root[name].axis().edges(), edges), f"the edges of {name}")
        return root[name]


def _template(
    shapes: Callable[..., Any], channel: str, process: str, rate: str
) -> tuple[float, np.ndarray, np.ndarray]:
    there = shapes(channel, process)
    values, number = there.values(), _number(10, rate)
    total = values.sum()
    hold(10, np.isfinite(values).all(), f"{process}: {values}")
    hold(12, (values >= 0).all(), f"{process}: {values}")
    hold(10, total > 0, f"{process} has a rate and nothing in its template")
    hold(10, number != 0, f"{process} has no rate and would be dropped")
    right = number == -1 or abs(number - total) <= 0.01 * max(1.0, number)
    # what is rare is held to its template as well
    hold(10, right and (number == -1 or math.isclose(number, total, rel_tol=1e-6)), f"{number}")
    return total, values, there.variances()


def _factors(text: str) -> tuple[float, float]:
    """Down and up: one number is up, and its inverse down."""
    down, slash, up = text.partition("/")
    first = _number(15, down)
    both = (first, _number(15, up)) if slash else (1 / first if first else 0.0, first)
    hold(15, min(both) > 0, f"the factors {text}")
    return both


def _variation(
    shapes: Callable[..., Any], channel: str, process: str, nuisance: str, text: str
) -> tuple[np.ndarray, np.ndarray]:
    hold(14, re.fullmatch(r"[0-9.]+", text) and float(text) == 1.0, f"{nuisance} of {text} sigma")
    both = []
    for direction in ("Down", "Up"):
        values = shapes(channel, process, nuisance + direction).values()
        what = f"{process}, {nuisance}{direction}: {values}"
        hold(11, np.isfinite(values).all() and values.sum() > 0, what)
        hold(12, (values >= 0).all(), what)
        both.append(values)
    return both[0], both[1]


def _number(rule: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise RuleBroken(rule, f"{text!r} is no number") from None
    hold(rule, math.isfinite(value), f"{text} is not finite")
    return value
