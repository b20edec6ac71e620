"""Reading Parquet results by columns and by a predicate, so that the storage sends less.

pyarrow's datasets leave out the columns that nobody asked for and the row groups whose statistics
say that nothing in them passes; what they get through is a file system: a folder, or an object
store. A dataset that filters on the storage itself (Skyhook's on Ceph) is another `format` of
`pyarrow.dataset.dataset`, and goes through the same `to_batches`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import awkward as ak
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow import fs

from looseleaf.errors import ConfigError, DataFileError
from looseleaf.objects.expressions import Expression


def predicate(text: str) -> pc.Expression:
    """A looseleaf expression as pyarrow's: comparisons of columns, joined by & | ~.

    Raises `ConfigError` for what can't be left to the storage: arithmetic, functions, and, or, not.
    """
    expression = Expression(text)
    try:
        value = expression({name: pc.field(name) for name in expression.names})
    except (TypeError, ValueError):
        value = None
    if not isinstance(value, pc.Expression):
        raise ConfigError(
            f"{text!r} can't be left to the storage: it takes comparisons of columns, in brackets "
            "and joined by & | ~"
        )
    return value


def read(
    paths: Sequence[str | Path],
    columns: Sequence[str],
    cut: str | None = None,
    filesystem: fs.FileSystem | None = None,
) -> Iterator[ak.Array]:
    """The events of Parquet results that pass `cut`, their `columns` alone, batch by batch.

    `filesystem` is where the paths are, this machine if None. Raises `DataFileError` naming a
    column that is not there or a file that can't be read.
    """
    try:
        dataset = ds.dataset(list(map(str, paths)), format="parquet", filesystem=filesystem)
    except (OSError, pa.ArrowInvalid) as problem:
        raise DataFileError(f"{paths[0]}: can't be read as Parquet: {problem}") from None
    names = set(columns) | (Expression(cut).names if cut is not None else set())
    missing = sorted(names - set(dataset.schema.names))
    if missing:
        raise DataFileError(f"{paths[0]}: there is no column {', '.join(missing)}")
    condition = None if cut is None else predicate(cut)
    for batch in dataset.to_batches(columns=list(columns), filter=condition):
        if batch.num_rows:
            yield ak.from_arrow(batch)
