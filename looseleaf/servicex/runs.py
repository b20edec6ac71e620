"""The totals in a file's tree Runs: those of the events from which its Events tree was made.

Tools that skim NanoAOD keep Runs unchanged: for simulation, it has the number of all generated
events and their sums of weights, by run and, in merged files, by part.
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
# NanoAOD stores theory sums as means over the events, which are about one; a value further off
# wasn't merged as a mean
MEAN = (2 / 3, 3 / 2)


@dataclass(frozen=True)
class Runs:
    """The number of all events, the sum of their genWeight, and those of theory weights.

    One of the first two is None if the tree lacks it. The last are times genWeight, by branch and
    index, if they can be trusted.
    """

    events: int | None
    sum_of_weights: float | None
    theory_sums: dict[str, list[float]]

    @property
    def lacks(self) -> str:
        """The branch that the tree lacks; empty if it has both."""
        return COUNT if self.events is None else SUM if self.sum_of_weights is None else ""


def read_runs(file: Events, url: str) -> Runs | None:
    """The totals in Runs; None if it doesn't exist, or has no generated events (in data).

    Raises `DataFileError` if its sums are NaN or infinite.
    """
    if RUNS not in file.directory:
        return None
    tree: Any = file.directory[RUNS]
    present = tree.keys(recursive=False)
    # these names end in an underscore in older NanoAOD
    count, total = (first_present(f"{name}|{name}_", present) for name in (COUNT, SUM))
    if count is None and total is None:
        return None
    # branches with an underscore add up means in merged files
    names = [n for n in present if n.endswith(SUM_ENDING) and not n.startswith(("n", "gen"))]
    with reading(url):
        arrays = tree.arrays([n for n in (count, total, *names) if n is not None], library="ak")
    for name in (count, total):
        if name is not None and not np.isfinite(ak.to_numpy(arrays[name])).all():
            raise DataFileError(f"{url}: {name} in its tree {RUNS} is NaN or infinite")
    events = None if count is None else int(ak.sum(arrays[count]))
    if total is None:
        return Runs(events, None, {})
    sums = ak.to_numpy(arrays[total]).astype(np.float64)
    theory_sums = {}
    for name in names:
        added = _theory(arrays[name], sums)
        if added is not None:
            theory_sums[name.removesuffix(SUM_ENDING) + WEIGHT_ENDING] = added
    return Runs(events, float(sums.sum()), theory_sums)


def _theory(means: ak.Array, sums: np.ndarray) -> list[float] | None:
    """Sums by index, from the means of a branch and the entries' sums of weights.

    None if they can't be right, or if entries have different numbers of them.
    """
    if means.ndim != 2:
        return None
    counts = np.unique(ak.num(means, axis=1))
    if len(counts) != 1 or counts[0] == 0:
        return None
    added = sums @ ak.to_numpy(means).astype(np.float64)
    mean = added.mean() / sums.sum() if sums.sum() else np.nan
    return added.tolist() if MEAN[0] < mean < MEAN[1] else None
