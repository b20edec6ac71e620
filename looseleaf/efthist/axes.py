"""The axes of EFT histograms: the bins of values on them, and the union of two axes.

Axes are those of hist. Category axes are separate from the others, called dense here, whose bins
are contiguous in memory, flow bins included.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import hist
import numpy as np
import uhi.io.json
from numpy.typing import NDArray

from looseleaf.efthist.machine import UNSURE, equal_bins, searched_bins

Array = NDArray[Any]
# the number of equal cells in which a search for edges begins
CELLS = 1024
EPSILON = float(np.finfo(float).eps)


def is_category(axis: Any) -> bool:
    """Whether an axis has categories."""
    return isinstance(axis, (hist.axis.StrCategory, hist.axis.IntCategory))


class Lookup:
    """The bin of each value on a dense axis, counted from its underflow if it has one.

    Equal bins are computed with a multiplication; the axis itself decides for values so close to an
    edge that rounding matters. Edges are searched from a table of equal cells: a binary search,
    whose steps a processor can't predict for unsorted values, takes longer than adding an event.
    All other axes, and NaN, are left to the axis itself.

    The axis' properties are read once, since this takes longer than filling a few events.
    """

    def __init__(self, axis: Any) -> None:
        traits = axis.traits
        self.extent: int = axis.extent
        # whether each value has a bin
        self.everywhere: bool = traits.underflow and traits.overflow
        self._axis, self._size, self._under = axis, axis.size, int(traits.underflow)
        self._last_edge_inside = not traits.overflow
        self._edges: Any = None
        self._scale = 0.0
        equal = isinstance(axis, hist.axis.Regular) and axis.transform is None
        if traits.circular or not (equal or isinstance(axis, hist.axis.Variable)):
            return
        edges = axis.edges
        low, high = float(edges[0]), float(edges[-1])
        scale = (self._size if equal else CELLS) / (high - low)
        # neither reversed, nor too wide or narrow for doubles
        if not 0 < scale < math.inf:
            return
        self._low, self._high, self._scale = low, high, scale
        if equal:
            # more than all rounding errors: half an epsilon of the bins, twice in the axis and
            # three times in the multiplication, and half an epsilon of the ends of a grown axis
            ends = max(-low, high) / (high - low)
            self._near = self._size * EPSILON * (4 + 2 * ends)
        else:
            # half a cell lower, so that rounding can't start the search too high
            begins = low + (np.arange(CELLS) - 0.5) / scale
            self._first = np.maximum(np.searchsorted(edges, begins, side="right") - 1, 0)
            self._edges = edges

    def __call__(self, values: Array) -> NDArray[np.int64]:
        if not (self._scale and values.ndim and values.dtype.kind in "fiu"):
            bins: NDArray[np.int64] = np.add(self._axis.index(values), self._under, dtype=np.int64)
            return bins
        floats = values.astype(np.float64, copy=False)
        if self._edges is None:
            index, unsure = equal_bins(
                self._low, self._scale, self._size, self._near, self._under, floats
            )
            if unsure:
                close = np.flatnonzero(index == UNSURE)
                index[close] = self._axis.index(values[close]) + self._under
            return index
        index = searched_bins(self._edges, self._first, self._scale, self._under, floats)
        if self._last_edge_inside:
            # it belongs to the last bin if the axis has no overflow
            index[floats == self._high] = self._size - 1 + self._under
        return index


def factorized(values: Array) -> tuple[Array, NDArray[np.int64]]:
    """The distinct categories of an array in order of appearance, and each event's index among
    them."""
    if values.ndim == 0:
        return values.reshape(1), np.zeros(1, np.int64)
    if values.dtype.kind in "biu":
        labels, first, codes = np.unique(values, return_index=True, return_inverse=True)
        order = np.argsort(first)
        return labels[order], np.argsort(order)[codes]
    # a dictionary, since sorting text takes longer
    listed = values.tolist()
    position = {label: index for index, label in enumerate(dict.fromkeys(listed))}
    codes = np.fromiter(map(position.__getitem__, listed), np.int64, len(listed))
    return np.array(list(position), values.dtype), codes


def grown(axis: Any, values: Array) -> Any:
    """An axis that grows, after filling these values."""
    probe = hist.Hist(axis, storage=hist.storage.Int64())
    if values.size:
        probe.fill(np.atleast_1d(values))
    return probe.axes[0]


def placement(old: Any, new: Any) -> NDArray[np.int64]:
    """The bin of `new` for each bin of `old`, flow bins included."""
    if old == new:
        return np.arange(old.extent)
    if is_category(old):
        places = [int(new.index(label)) for label in old]
        return np.array([*places, new.extent - 1] if old.traits.overflow else places, np.int64)
    under = int(old.traits.underflow)
    first = old.edges[0] if isinstance(old, hist.axis.Integer) else old.centers[0]
    offset = int(new.index(first)) + under
    places = list(range(offset, offset + old.size))
    flow = [new.extent - 1] if old.traits.overflow else []
    return np.array([*[0] * under, *places, *flow], np.int64)


def joined(a: Any, b: Any) -> Any:
    """The axis with the bins of both; they have to be equal unless they grow."""
    if a == b:
        return a
    if type(a) is type(b) and a.name == b.name and a.traits == b.traits and a.traits.growth:
        seen = np.array(list(b)) if is_category(b) else np.array([b.edges[0], b.centers[-1]])
        both = grown(a, seen if not isinstance(b, hist.axis.Integer) else seen.astype(int))
        if is_category(b) or set(np.round(b.edges, 9)) <= set(np.round(both.edges, 9)):
            return both
    raise ValueError(f"axes differ: {a} and {b}")


def axis_to_uhi(axis: Any) -> Any:
    """An axis in UHI's form."""
    plain = hist.Hist(axis, storage=hist.storage.Int64())
    return json.loads(json.dumps(plain, default=uhi.io.json.default))["axes"][0]


def axis_from_uhi(axis: Any) -> Any:
    """The axis in UHI's form."""
    storage = {"type": "int", "values": np.zeros(_extent(axis), np.int64)}
    return hist.Hist({"uhi_schema": 1, "axes": [axis], "storage": storage, "metadata": {}}).axes[0]


def _extent(axis: Mapping[str, Any]) -> int:
    """The number of bins of an axis in UHI's form, flow bins included."""
    if axis["type"] == "boolean":
        return 2
    if axis["type"].startswith("category"):
        return len(axis["categories"]) + int(axis["flow"])
    inner = axis["bins"] if axis["type"] == "regular" else len(axis["edges"]) - 1
    return inner + int(axis["underflow"]) + int(axis["overflow"])
