"""Events in Parquet, read by columns and with a predicate, so that the storage sends less.

pyarrow's datasets skip columns that aren't requested, and row groups whose statistics show that no
event passes. A file is on this machine, in an object store (`s3://`, with AWS's environment
variables `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_ENDPOINT_URL`), or on any file
system of pyarrow. A format that filters on the storage itself (Skyhook's on Ceph) would make the
fragment here in place of Parquet's.
"""

import json
import operator
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from io import RawIOBase
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from awkward.contents import Content, ListOffsetArray, NumpyArray, RecordArray
from awkward.index import Index64
from pyarrow import fs

from looseleaf.errors import DataFileError, reading
from looseleaf.objects.expressions import Expression

# keys of a file's metadata: its identity and the name of its tree, which coffea uses too
IDENTITY, TREE_NAME = b"uuid", b"object_path"
ENDING = ".parquet"
# characters of an address that stay unquoted; % since it may be quoted already
ADDRESS = "/:?&=#@%,;!$'()*+~"
# the bytes read at a time from a whole file
BLOCK = 16 << 20
# the number of events that `read` yields at a time
STEP = 100_000


class _Counted(RawIOBase):
    """A file that counts the bytes read from it."""

    def __init__(self, source: pa.NativeFile) -> None:
        super().__init__()
        self._source = source
        self.bytes_read = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._source.seek(offset, whence))

    def tell(self) -> int:
        return int(self._source.tell())

    def size(self) -> int:
        return int(self._source.size())

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._source.read(size if size >= 0 else None)
        self.bytes_read += len(data)
        return data

    def close(self) -> None:
        self._source.close()
        super().close()


class ParquetTree:
    """The columns of a Parquet file, by the names of a tree's branches; `url` is for messages."""

    def __init__(self, url: str, source: pa.NativeFile | _Counted) -> None:
        # it imports pandas, which takes most of a second: only where there is Parquet
        import pyarrow.dataset as ds  # noqa: PLC0415

        self._url = url
        checked = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
        form = ds.ParquetFileFormat(default_fragment_scan_options=checked)
        self._fragment = form.make_fragment(pa.PythonFile(source, mode="r"))
        self.schema: pa.Schema = self._fragment.physical_schema
        self.metadata: pq.FileMetaData = self._fragment.metadata
        # the first row of each row group, and the end of the last
        self._edges = [0]
        for group in self._fragment.row_groups:
            self._edges.append(self._edges[-1] + group.num_rows)

    @property
    def num_entries(self) -> int:
        """The number of events."""
        return self._edges[-1]

    def keys(
        self,
        recursive: bool = False,
        filter_name: Sequence[str] | None = None,
        filter_typename: Sequence[str] | None = None,
    ) -> list[str]:
        """The columns whose names and types (as in a TTree) match one of the patterns."""

        def match(text: str, patterns: Sequence[str] | None) -> bool:
            return patterns is None or any(fnmatchcase(text, pattern) for pattern in patterns)

        return [
            field.name
            for field in self.schema
            if match(field.name, filter_name) and match(_typename(field.type), filter_typename)
        ]

    def rows(self, start: int, stop: int, columns: Sequence[str]) -> pa.Table:
        """Rows [start, stop) of some columns; only row groups with these rows are read."""
        groups = [
            number
            for number, (first, last) in enumerate(pairwise(self._edges))
            if first < stop and start < last
        ]
        if not groups:
            return self.schema.empty_table().select(list(columns))
        table = self._read(groups, columns)
        return table.slice(start - self._edges[groups[0]], stop - start)

    def steps(
        self, columns: Sequence[str], size: int, cut: str | None = None
    ) -> Iterator[ak.Array]:
        """The events in steps of about `size`, at least one.

        Row groups in which no event can pass `cut` are skipped.
        """
        groups = self.left(cut)
        step: list[int] = []
        for number in groups:
            step.append(number)
            if self.events(step) >= size or number == groups[-1]:
                yield _awkward(self._read(step, columns), self._url)
                step = []
        if not groups:
            yield _awkward(self.schema.empty_table().select(list(columns)), self._url)

    def _read(self, groups: Sequence[int], columns: Sequence[str]) -> pa.Table:
        with reading(self._url):
            fragment = self._fragment.subset(row_group_ids=list(groups))
            return fragment.to_table(columns=list(columns), use_threads=False)

    def left(self, cut: str | None) -> list[int]:
        """The row groups in which events may pass `cut`."""
        everything = [group.id for group in self._fragment.row_groups]
        condition = None if cut is None else predicate(cut, self.schema)
        if condition is None or not everything:
            return everything
        try:
            fragment = self._fragment.subset(filter=condition, schema=self.schema)
        except (pa.ArrowException, ValueError):
            # types that pyarrow can't compare
            return everything
        return [group.id for group in fragment.row_groups]

    def floating(self, columns: Sequence[str]) -> list[str]:
        """The given columns that have floating-point numbers, or lists of them."""
        kinds = {name: self.schema.field(name).type for name in columns}
        inner = {name: k.value_type if _is_list(k) else k for name, k in kinds.items()}
        return [name for name, kind in inner.items() if pa.types.is_floating(kind)]

    def events(self, groups: Sequence[int]) -> int:
        """The number of events in some row groups."""
        return sum(self._edges[number + 1] - self._edges[number] for number in groups)

    def nanoevents_source(self, start: int, stop: int) -> pq.ParquetFile:
        """Rows [start, stop) as a source for coffea's `from_parquet`."""
        return _Rows(self, start, stop)


class _Rows(pq.ParquetFile):
    """A range of rows of a file, from which coffea reads one column after the other.

    For a whole file it would read every row for each chunk.
    """

    def __init__(self, tree: ParquetTree, start: int, stop: int) -> None:
        self._tree, self._start, self._stop = tree, start, stop

    @property
    def metadata(self) -> pq.FileMetaData:
        return self._tree.metadata

    @property
    def schema_arrow(self) -> pa.Schema:
        # coffea fails on columns that are neither numbers nor lists of numbers
        fields = [field for field in self._tree.schema if _is_numbers(field.type)]
        return pa.schema(fields, self._tree.metadata.metadata)

    def read(self, columns: Sequence[str], use_threads: bool = False) -> pa.Table:
        table = self._tree.rows(self._start, self._stop, columns)
        # coffea uses only the first chunk
        chunks = [pa.chunked_array([column.combine_chunks()]) for column in table.columns]
        return pa.table(chunks, schema=table.schema)


class ParquetEvents:
    """An open Parquet file and its tree, with the interface of ROOT files in
    `looseleaf.nanoaod`."""

    def __init__(self, url: str | Path, name: str, filesystem: fs.FileSystem | None = None) -> None:
        self._source = _Counted(_opened(str(url), filesystem))
        self.tree = ParquetTree(str(url), self._source)
        self._said: Mapping[bytes, bytes] = self.tree.metadata.metadata or {}
        self.directory = {self._said.get(TREE_NAME, name.encode()).decode(): self.tree}

    @property
    def names(self) -> list[str]:
        """The names of the tree's columns."""
        return self.tree.keys(recursive=False)

    @property
    def num_entries(self) -> int:
        """The number of events."""
        return self.tree.num_entries

    @property
    def bytes_read(self) -> int:
        """The bytes requested from the storage so far."""
        return self._source.bytes_read

    @property
    def size(self) -> int:
        """The size of the file in bytes, according to its storage."""
        return self._source.size()

    @property
    def uuid(self) -> str:
        """The identity of the file from its writer, or one computed from its footer."""
        if IDENTITY in self._said:
            return self._said[IDENTITY].decode()
        footer = pa.BufferOutputStream()
        self.tree.metadata.write_metadata_file(footer)
        return str(uuid.uuid5(uuid.NAMESPACE_OID, footer.getvalue().to_pybytes().hex()))

    def blocks(self) -> Iterator[bytes]:
        """The bytes of the file in blocks, from first to last."""
        self._source.seek(0)
        while block := self._source.read(BLOCK):
            yield block

    def said(self, key: str) -> Any:
        """The JSON stored in the file under a key; None if there is none."""
        text = self._said.get(key.encode())
        return None if text is None else json.loads(text)

    def close(self) -> None:
        """Close the file."""
        self._source.close()


def read(
    paths: Sequence[str | Path],
    columns: Sequence[str],
    cut: str | None = None,
    filesystem: fs.FileSystem | None = None,
) -> Iterator[ak.Array]:
    """The events of Parquet results that pass `cut`, with the given `columns`, in steps.

    `cut` is an expression of looseleaf; row groups are skipped by its comparisons of columns,
    joined by & and |. `filesystem` is the file system of the paths; without it they are on this
    machine, or URLs. Raises `DataFileError` naming a column that doesn't exist, or a file that
    can't be read.
    """
    condition = None if cut is None else Expression(cut)
    names = list(dict.fromkeys([*columns, *(condition.names if condition is not None else ())]))
    for path in paths:
        try:
            file = ParquetEvents(path, "", filesystem)
        except (OSError, ValueError) as problem:
            raise DataFileError(f"{path}: can't be read as Parquet: {problem}") from None
        try:
            missing = sorted(set(names) - set(file.tree.keys()))
            if missing:
                raise DataFileError(f"{path}: has no column {', '.join(missing)}")
            for events in file.tree.steps(names, STEP, cut):
                kept = events if condition is None else events[condition.keeps(events)]
                if len(kept):
                    yield kept[list(columns)]
        finally:
            file.close()


def predicate(cut: str, schema: pa.Schema) -> pc.Expression | None:
    """A looseleaf expression as pyarrow's, by which row groups can be skipped.

    None for expressions that statistics can't decide: arithmetic, functions, `and`, `or`, `not`;
    and a negated comparison of floating-point columns, since NaN passes it and isn't in the
    statistics.
    """
    expression = Expression(cut)
    if not expression.names <= set(schema.names):
        return None
    columns = {name: _Column(pc.field(name), schema.field(name).type) for name in expression.names}
    try:
        value = expression.symbolic(columns)
    except (TypeError, ValueError, OverflowError, pa.ArrowException):
        return None
    return value.expression if isinstance(value, _Condition) else None


class _Condition:
    """A condition of a predicate, and whether NaN affects it."""

    def __init__(self, expression: pc.Expression, floating: bool) -> None:
        self.expression, self._floating = expression, floating

    def __and__(self, other: "_Condition") -> "_Condition":
        return _Condition(self.expression & other.expression, self._floating or other._floating)

    def __or__(self, other: "_Condition") -> "_Condition":
        return _Condition(self.expression | other.expression, self._floating or other._floating)

    def __invert__(self) -> "_Condition":
        if self._floating:
            raise TypeError
        return _Condition(~self.expression, False)


class _Column:
    """A column of a predicate, compared with numbers of its own precision, as numpy does."""

    def __init__(self, field: pc.Expression, kind: pa.DataType) -> None:
        self._field, self._kind = field, kind
        self._floating = pa.types.is_floating(kind)

    def _compared(self, compare: Callable[[Any, Any], Any], other: Any) -> _Condition:
        floating = self._floating or (isinstance(other, _Column) and other._floating)
        if compare is operator.ne and floating:
            raise TypeError
        if isinstance(other, _Column):
            # arrow compares numbers of different types in another precision than numpy
            if self._kind != other._kind:
                raise TypeError
            return _Condition(compare(self._field, other._field), floating)
        if pa.types.is_uint64(self._kind) and other < 0:
            raise TypeError
        value = pa.scalar(other, self._kind if self._floating else None)
        return _Condition(compare(self._field, value), floating)

    def __lt__(self, other: Any) -> _Condition:
        return self._compared(operator.lt, other)

    def __le__(self, other: Any) -> _Condition:
        return self._compared(operator.le, other)

    def __gt__(self, other: Any) -> _Condition:
        return self._compared(operator.gt, other)

    def __ge__(self, other: Any) -> _Condition:
        return self._compared(operator.ge, other)

    def __eq__(self, other: object) -> _Condition:  # type: ignore[override]
        return self._compared(operator.eq, other)

    def __ne__(self, other: object) -> _Condition:  # type: ignore[override]
        return self._compared(operator.ne, other)

    __hash__ = None  # type: ignore[assignment]


def is_parquet(url: str) -> bool:
    """Whether a URL is that of a Parquet file."""
    return (url.partition("?")[0] if "://" in url else url).endswith(ENDING)


def stored_bytes(url: str) -> int | None:
    """The size of a file on this machine or in an object store; None if it doesn't exist."""
    with reading(url):
        filesystem, path = _located(url)
        info = filesystem.get_file_info(path)
    return info.size if info.is_file else None


def _located(url: str) -> tuple[fs.FileSystem, str]:
    if "://" not in url:
        return fs.LocalFileSystem(), url
    # characters that a name may have and an address may not
    located: tuple[fs.FileSystem, str] = fs.FileSystem.from_uri(quote(url, safe=ADDRESS))
    return located


def _opened(path: str, filesystem: fs.FileSystem | None) -> pa.NativeFile:
    if filesystem is None:
        filesystem, path = _located(path)
    return filesystem.open_input_file(path)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _is_numbers(kind: pa.DataType) -> bool:
    of = pa.types
    kind = kind.value_type if _is_list(kind) else kind
    return bool(of.is_integer(kind) or of.is_floating(kind) or of.is_boolean(kind))


def _typename(kind: pa.DataType) -> str:
    """The name that uproot gives the type of such a branch in a TTree."""
    if _is_list(kind):
        return f"{_typename(kind.value_type)}[]"
    return f"{kind}_t" if pa.types.is_integer(kind) else str(kind)


def _awkward(table: pa.Table, url: str) -> ak.Array:
    columns = [column.combine_chunks() for column in table.columns]
    for name, column in zip(table.column_names, columns, strict=True):
        check_nulls(url, name, column)
    contents = [_content(column) for column in columns]
    return ak.Array(RecordArray(contents, table.column_names, length=table.num_rows))


def check_nulls(url: str, name: str, column: pa.Array) -> None:
    """Raise `DataFileError` if a Parquet column has null values, also within lists.

    NanoAOD has a number everywhere.
    """
    nulls = column.null_count
    if not nulls and _is_list(column.type):
        nulls = column.flatten().null_count
    if nulls:
        raise DataFileError(
            f"{url}: {nulls} values of {name} are null, but each event needs a number. "
            "Write numbers in their place, or leave these events out"
        )


def _content(array: pa.Array) -> Content:
    if not _is_numbers(array.type):
        return ak.from_arrow(array, highlevel=False)
    if not _is_list(array.type):
        return NumpyArray(array.to_numpy(zero_copy_only=False))
    offsets = array.offsets.to_numpy().astype(np.int64)
    return ListOffsetArray(Index64(offsets - offsets[0]), _content(array.flatten()))
