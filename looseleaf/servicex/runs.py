"""What a file's tree Runs says of the events that its Events tree was made from.

Tools that skim NanoAOD leave Runs as it is: of a simulated file it knows the number of all
generated events and the sums of their weights, by run and, in merged files, by part.
"""

from dataclasses import dataclass
from typing import Any

import awkward as ak
import numpy as np

from looseleaf.errors import DataFileError, reading
from looseleaf.nanoaod import Events
from looseleaf.objects.branches import first_present
from looseleaf.servicex.formats import COUNT, RUNS, SUM

WEIGHT_ENDING, SUM_ENDING = "Weight", "Sumw"
# NanoAOD states theory sums as means over the events, of weights whose mean is about one; what
# lies further off was not merged as a mean
MEAN = (2 / 3, 3 / 2)


@dataclass(frozen=True)
class Runs:
    """The number of all events, the sum of their genWeight, and those of theory weights times
    genWeight, by branch and place, where they can be trusted."""

    events: int
    sum_of_weights: float
    theory_sums: dict[str, list[float]]


def read_runs(file: Events, url: str) -> Runs | None:
    """What Runs says; None where it isn't there, or says nothing of generated events (in data).

    Raises `DataFileError` if its sums are no numbers.
    """
    if RUNS not in file.directory:
        return None
    tree: Any = file.directory[RUNS]
    present = tree.keys(recursive=False)
    # older NanoAOD ends these names in an underscore
    count, total = (first_present(f"{name}|{name}_", present) for name in (COUNT, SUM))
    if count is None or total is None:
        return None
    # what ends in an underscore adds up means where files were merged
    names = [n for n in present if n.endswith(SUM_ENDING) and not n.startswith(("n", "gen"))]
    with reading(url):
        arrays = tree.arrays([count, total, *names], library="ak")
    sums = ak.to_numpy(arrays[total]).astype(np.float64)
    if not np.isfinite(sums).all():
        raise DataFileError(f"{url}: {total} in its tree {RUNS} is not a number")
    theory_sums = {}
    for name in names:
        added = _theory(arrays[name], sums)
        if added is not None:
            theory_sums[name.removesuffix(SUM_ENDING) + WEIGHT_ENDING] = added
    return Runs(int(ak.sum(arrays[count])), float(sums.sum()), theory_sums)


def _theory(means: ak.Array, sums: np.ndarray) -> list[float] | None:
    """Sums by place from the means of a branch and the entries' sums of weights; None where they
    can't be right, or entries differ in their places."""
    if means.ndim != 2:
        return None
    counts = np.unique(ak.num(means, axis=1))
    if len(counts) != 1 or counts[0] == 0:
        return None
    added = sums @ ak.to_numpy(means).astype(np.float64)
    mean = added.mean() / sums.sum() if sums.sum() else np.nan
    return added.tolist() if MEAN[0] < mean < MEAN[1] else None
