"""Luminosity sections: which of them data has, and which are certified for physics."""

import base64
import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from looseleaf.errors import DataFileError

Sections = dict[str, list[list[int]]]


def sections(runs: Any, lumis: Any) -> Sections:
    """Runs and luminosity sections as a golden JSON has them: {run: [[first, last], ...]}."""
    pairs = np.unique(np.stack([runs, lumis], axis=1).astype(np.int64), axis=0)
    out: Sections = {}
    for run in np.unique(pairs[:, 0]):
        mine = pairs[pairs[:, 0] == run, 1]
        starts = [0, *(np.flatnonzero(np.diff(mine) > 1) + 1), len(mine)]
        out[str(run)] = [[int(mine[a]), int(mine[b - 1])] for a, b in pairwise(starts)]
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
    """All sections of several files, each once."""
    pairs = np.concatenate([np.zeros((0, 2), np.int64), *map(_pairs, parts)])
    return sections(*pairs.T)


def common(found: Mapping[str, Any], golden: str) -> Sections:
    """The sections that a golden JSON certifies."""
    pairs = _pairs(found)
    return sections(*pairs[_mask(golden)(*pairs.T.astype(np.uint32))].T)


@lru_cache(maxsize=4)
def _mask(golden: str) -> Any:
    # coffea takes seconds to import, and a transform has no use for it
    from coffea.lumi_tools import LumiMask  # noqa: PLC0415

    # it reads a file; a worker that shares no folder with us has none
    encoded = base64.b64encode(golden.encode()).decode()
    return LumiMask(f"data:application/json;base64,{encoded}")


def check_golden(text: str, path: str) -> str:
    """The text of a golden JSON, if it is one: {run: [[first, last], ...]}.

    Raises `DataFileError` naming the file and the run at fault.
    """
    try:
        value = json.loads(text)
    except ValueError as problem:
        raise DataFileError(f"{path}: not valid JSON: {problem}") from None
    if not isinstance(value, dict) or not value:
        raise DataFileError(f"{path}: a golden JSON is of the form {{run: [[first, last], ...]}}")
    for run, ranges in value.items():
        try:
            bounds = np.array(ranges, np.int64).reshape(-1, 2)
            rising = (bounds[:, 0] <= bounds[:, 1]).all() and (np.diff(bounds.ravel()[1:]) > 0)[
                ::2
            ].all()
        except (TypeError, ValueError):
            rising = False
        if not (run.isdigit() and rising):
            raise DataFileError(f"{path}: run {run}: {ranges} is no rising list of [first, last]")
    return text


def certified(events: Any) -> NDArray[np.bool_]:
    """Which events lie in sections that the metadata's `lumi_mask` certifies; all without one."""
    golden = events.metadata.get("lumi_mask")
    if golden is None:
        return np.ones(len(events), bool)
    return ak.to_numpy(_mask(golden)(events.run, events.luminosityBlock))
