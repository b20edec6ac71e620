"""The formats of a transform's results: ROOT TTree, RNTuple and Parquet.

All keep NanoAOD's names: a collection's branches `Muon_pt` have one counter `nMuon`. A result also
stores the totals of the original file, so that a selection without any events changes no
normalisation: as a string `original` in a ROOT file, or under that key in the metadata of a Parquet
file. For other tools, a ROOT file of simulation also has them in a tree Runs, as in NanoAOD.
"""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import awkward as ak
import numpy as np
import pyarrow.parquet as pq
import uproot
from numpy.typing import NDArray

from looseleaf.errors import DataFileError
from looseleaf.nanoaod import TREE
from looseleaf.objects.branches import WEIGHT
from looseleaf.parquet import IDENTITY, TREE_NAME, ParquetEvents, is_parquet
from looseleaf.servicex.jagged import check_lists, zipped

COMPRESSION = uproot.LZ4(1)
ORIGINAL = "original"
# ServiceX's names of the formats, and the suffixes of their files
SUFFIXES = {"root-file": ".root", "root-rntuple": ".root", "parquet": ".parquet"}
# small enough for a predicate to skip some, large enough to compress
ROW_GROUP = 20_000

# branches of NanoAOD's tree Runs about the generated events
RUNS, COUNT, SUM = "Runs", "genEventCount", "genEventSumw"
# the source of columns that don't fit together, for messages
TREE_OF_RESULT = "the events to be written"

Groups = Mapping[str, list[str]]


class Result(Protocol):
    """A file that is being written; it is closed at the end of its `with` block."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def extend(self, tree: str, arrays: ak.Array, groups: Groups) -> None:
        """Add events to a tree, which the first call creates; `groups` are branches by
        collection."""

    def describe(self, original: Mapping[str, Any]) -> None:
        """Write the totals of the original file, after the last events."""


def create(path: Path, output_format: str, identity: uuid.UUID) -> Result:
    """A new result; `identity` becomes the file's UUID."""
    if output_format == "parquet":
        return _Parquet(path, identity)
    return _Root(path, identity, ntuple=output_format == "root-rntuple")


def read_original(path: str | Path) -> dict[str, Any]:
    """The totals of the original file, as stored in a result; `DataFileError` if it has none."""
    if is_parquet(str(path)):
        file = ParquetEvents(path, "")
        said = file.said(ORIGINAL)
        file.close()
    else:
        with uproot.open(path) as directory:
            said = json.loads(str(directory[ORIGINAL])) if ORIGINAL in directory else None
    if said is None:
        raise DataFileError(
            f"{path}: has no totals of the original file; is it a result of a transform?"
        )
    original: dict[str, Any] = said
    return original


def _zipped(arrays: ak.Array, groups: Groups) -> dict[str, ak.Array]:
    """Arrays in the form in which uproot writes NanoAOD to a TTree.

    Each collection is zipped, so that it has one counter.
    """
    check_lists(arrays, groups, TREE_OF_RESULT)
    out = {}
    for name, branches in groups.items():
        if branches == [name]:
            out[name] = arrays[name]
        else:
            out[name] = zipped({b[len(name) + 1 :]: arrays[b].layout for b in branches})
    return out


def _flat(arrays: ak.Array, groups: Groups) -> dict[str, ak.Array]:
    """Arrays as columns, with the counters that a TTree adds by itself."""
    check_lists(arrays, groups, TREE_OF_RESULT)
    out = {}
    for name, branches in groups.items():
        if arrays[branches[0]].ndim > 1:
            out[f"n{name}"] = ak.values_astype(ak.num(arrays[branches[0]], axis=1), "int32")
        out.update({branch: arrays[branch] for branch in branches})
    return out


class _Root:
    def __init__(self, path: Path, identity: uuid.UUID, ntuple: bool) -> None:
        # uproot writes whole baskets, so that a buffer saves a tenth of the time
        self._file = uproot.recreate(
            open(path, "w+b", buffering=0),  # noqa: SIM115 - closed with the file
            compression=COMPRESSION,
            uuid_function=lambda: identity,
        )
        self._make = self._file.mkrntuple if ntuple else self._file.mktree
        self._layout = _flat if ntuple else _zipped
        self._trees: dict[str, Any] = {}
        self._weighted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self._file.close()

    def extend(self, tree: str, arrays: ak.Array, groups: Groups) -> None:
        kept = self._layout(arrays, groups)
        self._weighted |= tree == TREE and WEIGHT in kept
        if tree not in self._trees:
            types = {name: ak.type(array).content for name, array in kept.items()}
            self._trees[tree] = self._make(tree, types)
        self._trees[tree].extend(kept)

    def describe(self, original: Mapping[str, Any]) -> None:
        self._file[ORIGINAL] = json.dumps(original)
        if self._weighted and RUNS not in self._trees:
            # other tools keep this tree, but not our string
            sums: dict[str, NDArray[Any]] = {
                "run": np.ones(1, np.uint32),
                COUNT: np.array([original["events"]], np.int64),
                SUM: np.array([original["sum_of_weights"]], np.float64),
            }
            self._make(RUNS, {name: value.dtype for name, value in sums.items()}).extend(sums)


class _Parquet:
    def __init__(self, path: Path, identity: uuid.UUID) -> None:
        self._path, self._identity = path, identity
        self._tree: str | None = None
        self._writer: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def extend(self, tree: str, arrays: ak.Array, groups: Groups) -> None:
        columns = ak.zip(_flat(arrays, groups), depth_limit=1)
        table = ak.to_arrow_table(columns, extensionarray=False)
        if self._writer is None:
            self._tree = tree
            self._writer = pq.ParquetWriter(
                self._path, table.schema, compression="lz4", write_page_checksum=True
            )
            self._writer.add_key_value_metadata({IDENTITY: str(self._identity), TREE_NAME: tree})
        if tree != self._tree:
            raise DataFileError(f"a Parquet file has one tree, not {self._tree} and {tree}")
        self._writer.write_table(table, row_group_size=ROW_GROUP)

    def describe(self, original: Mapping[str, Any]) -> None:
        self._writer.add_key_value_metadata({ORIGINAL: json.dumps(original)})
