"""The types of histograms, and parts that keep that of the whole."""

from typing import Any, TypeVar

import hist

Plain = hist.Hist[hist.storage.Double]
Weighted = hist.Hist[hist.storage.Weight]
S = TypeVar("S", bound=hist.storage.Storage)


def part(histogram: hist.Hist[S], index: Any) -> hist.Hist[S]:
    """`histogram[index]`, where that leaves an axis: hist says that any could be one bin's content,
    and knows nothing of indices like `sum`."""
    out = histogram[index]
    assert isinstance(out, hist.Hist)
    return out
