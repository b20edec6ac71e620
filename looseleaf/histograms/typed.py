"""Types of histograms, and indexing that keeps the type."""

from typing import Any, TypeVar

import hist

Plain = hist.Hist[hist.storage.Double]
Weighted = hist.Hist[hist.storage.Weight]
S = TypeVar("S", bound=hist.storage.Storage)


def part(histogram: hist.Hist[S], index: Any) -> hist.Hist[S]:
    """`histogram[index]` if axes remain.

    hist's types don't say whether a histogram or the content of one bin is left, and don't know
    indices such as `sum`.
    """
    out = histogram[index]
    assert isinstance(out, hist.Hist)
    return out
