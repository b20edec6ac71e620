"""Luminosity sections: those in the data, and those certified for physics."""

import json
import re
import reprlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from looseleaf.errors import DataFileError
from looseleaf.objects.chunk import Branches

Sections = dict[str, list[list[int]]]
# NanoAOD stores runs and sections in 32 bits
LARGEST = 2**32 - 1


def sections(runs: Any, lumis: Any) -> Sections:
    """Runs and luminosity sections in the form of a golden JSON: {run: [[first, last], ...]}."""
    pairs = np.unique(np.stack([runs, lumis], axis=1).astype(np.int64), axis=0)
    out: Sections = {}
    for run in np.unique(pairs[:, 0]):
        of_run = pairs[pairs[:, 0] == run, 1]
        starts = [0, *(np.flatnonzero(np.diff(of_run) > 1) + 1), len(of_run)]
        out[str(run)] = [[int(of_run[a]), int(of_run[b - 1])] for a, b in pairwise(starts)]
    return out


def _pairs(of: Mapping[str, Any]) -> NDArray[np.int64]:
    pairs = [
        (int(run), lumi)
        for run, ranges in of.items()
        for first, last in ranges
        for lumi in range(first, last + 1)
    ]
    return np.array(pairs, np.int64).reshape(-1, 2)


def united(parts: Iterable[Mapping[str, Any]]) -> Sections:
    """The sections of all files, each once."""
    pairs = np.concatenate([np.zeros((0, 2), np.int64), *map(_pairs, parts)])
    return sections(*pairs.T)


class _Mask(NamedTuple):
    """Certified ranges in rising order; run and section form one number, run * 2^32 + section."""

    first: NDArray[np.uint64]
    last: NDArray[np.uint64]

    def __call__(self, runs: Any, lumis: Any) -> NDArray[np.bool_]:
        """Which sections are in a range; `runs` and `lumis` have one entry for each section."""
        sections = _joined(runs, lumis)
        # ranges don't overlap, so only the last that begins before a section can hold it
        index = np.searchsorted(self.first, sections, side="right")
        last = np.concatenate([np.zeros(1, np.uint64), self.last])
        return (index > 0) & (sections <= last[index])


def _joined(runs: Any, lumis: Any) -> NDArray[np.uint64]:
    run, lumi = (np.asarray(values).astype(np.uint64) for values in (runs, lumis))
    return (run << np.uint64(32)) | lumi


def common(recorded: Mapping[str, Any], golden: str) -> Sections:
    """The sections in `recorded` that a golden JSON certifies."""
    pairs = _pairs(recorded)
    return sections(*pairs[_mask(golden)(*pairs.T)].T)


@lru_cache(maxsize=4)
def _mask(golden: str) -> _Mask:
    ranges = sorted(
        (run, first, last)
        for run, of_run in _ranges(golden, "the golden JSON").items()
        for first, last in of_run
    )
    runs, first, last = np.array(ranges, np.uint64).reshape(-1, 3).T
    return _Mask(_joined(runs, first), _joined(runs, last))


def read_golden(path: str | Path) -> str:
    """The text of a golden JSON, {run: [[first, last], ...]}.

    Raises `DataFileError` naming the file, and the run that is wrong.
    """
    try:
        text = Path(path).read_text("utf-8")
    except UnicodeDecodeError:
        raise DataFileError(f"{path}: not UTF-8 text; save it as UTF-8") from None
    _ranges(text, path)
    return text


def _ranges(text: str, path: str | Path) -> dict[int, list[list[int]]]:
    """The ranges of a golden JSON by run, in rising order and without overlaps.

    A run that is given twice is refused: JSON doesn't say which of the two counts, and a luminosity
    computed from the file may have used the other.
    """
    try:
        # pairs, since a dictionary would keep only the last of two equal runs; objects become lists
        value = json.loads(text, object_pairs_hook=tuple)
    except (ValueError, RecursionError) as problem:
        raise DataFileError(f"{path}: not valid JSON: {problem}") from None
    if not isinstance(value, tuple) or not value:
        raise DataFileError(f"{path}: a golden JSON has the form {{run: [[first, last], ...]}}")
    out: dict[int, list[list[int]]] = {}
    for key, ranges in value:
        if not re.fullmatch("[0-9]{1,10}", key) or int(key) > LARGEST:
            raise DataFileError(f"{path}: run {reprlib.repr(key)}: a run is a number below 2^32")
        number = int(key)
        if number in out:
            raise DataFileError(
                f"{path}: run {number} is given twice; put its ranges into one list"
            )
        if not _rising(ranges):
            raise DataFileError(
                f"{path}: run {number}: {reprlib.repr(ranges)} should be pairs [first, last] of "
                "sections below 2^32, in rising order, each section once"
            )
        out[number] = ranges
    return out


def _rising(ranges: Any) -> bool:
    """Whether a value is a list of pairs [first, last] of whole numbers in rising order."""
    if not isinstance(ranges, list) or not all(
        isinstance(pair, list) and len(pair) == 2 for pair in ranges
    ):
        return False
    bounds = [bound for pair in ranges for bound in pair]
    # true is an int as well
    if not all(type(bound) is int and 0 <= bound <= LARGEST for bound in bounds):
        return False
    return all(first <= last for first, last in ranges) and all(
        one[1] < other[0] for one, other in pairwise(ranges)
    )


def certified(branches: Branches) -> NDArray[np.bool_]:
    """Which events are in sections that the metadata's `lumi_mask` certifies; all if it has
    none."""
    golden = branches.metadata.get("lumi_mask")
    if golden is None:
        return np.ones(len(branches), bool)
    return _mask(golden)(*map(branches.numbers, ("run", "luminosityBlock")))
