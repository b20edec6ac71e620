"""Jagged columns of selected events, in which a collection's columns share their offsets.

Awkward selects and zips each column separately. NanoAOD's columns come in collections, so that the
offsets of selected objects need to be computed only once for each.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import awkward as ak
import numpy as np
from awkward.contents import Content, ListOffsetArray, NumpyArray, RecordArray
from awkward.index import Index64
from numpy.typing import NDArray

from looseleaf.errors import DataFileError


@dataclass(frozen=True)
class _Shape:
    """The offsets of a collection's lists before and after the selection.

    `index` has the positions of the selected content, or None if all of it is selected.
    """

    before: NDArray[np.int64]
    after: Index64
    index: NDArray[np.int64] | None


def is_lists(layout: Content) -> bool:
    """Whether a column has a list of numbers for each event, as in NanoAOD's collections."""
    return (
        isinstance(layout, ListOffsetArray)
        and isinstance(layout.content, NumpyArray)
        and layout.parameter("__array__") is None
    )


def writable(arrays: ak.Array) -> ak.Array:
    """The columns in types that every format has: lists of a fixed length as any other lists, and
    numbers of half precision in single precision."""
    for name, layout in zip(arrays.fields, arrays.layout.contents, strict=True):
        if layout.purelist_isregular and layout.purelist_depth > 1:
            arrays[name] = ak.from_regular(arrays[name], axis=None)
        leaf = layout
        while leaf.is_list or leaf.is_option or leaf.is_indexed:
            leaf = leaf.content
        if leaf.is_numpy and leaf.dtype == np.float16:
            arrays[name] = ak.values_astype(arrays[name], np.float32)
    return arrays


def selected(arrays: ak.Array, mask: NDArray[np.bool_] | None) -> ak.Array:
    """`arrays[mask]`, in which columns with lists of the same lengths share their offsets.

    `arrays` has a field for each column; without a mask all events are selected.
    """
    if mask is not None and mask.all():
        mask = None
    index = None if mask is None else np.flatnonzero(mask)
    shapes: list[_Shape] = []
    contents = []
    for content in arrays.layout.contents:
        if is_lists(content):
            contents.append(_lists(content, mask, shapes))
        elif mask is None:
            contents.append(content)
        elif isinstance(content, NumpyArray):
            contents.append(NumpyArray(content.data.take(index, axis=0)))
        else:
            contents.append(ak.Array(content)[mask].layout)
    length = len(arrays) if index is None else len(index)
    return ak.Array(RecordArray(contents, arrays.fields, length=length))


def check_lists(arrays: ak.Array, groups: Mapping[str, list[str]], url: str) -> None:
    """Raise `DataFileError` if the lists of a collection, or its counter, have different lengths.

    The message names the file, two branches and the first event in which they differ. So does one
    on a branch without lists in a collection that has them. `groups` are
    branches by collection; the counter of `Muon` is `nMuon`, if `arrays` has it.
    """
    for name, branches in groups.items():
        lists = [branch for branch in branches if arrays[branch].ndim > 1]
        if lists and len(lists) < len(branches):
            (flat, *_) = (branch for branch in branches if branch not in lists)
            raise DataFileError(
                f"{url}: {lists[0]} has a list in each event, {flat} a single value: the branches "
                f"of {name} need a value for each object"
            )
        lengths: dict[str, NDArray[np.int64]] = {}
        shared: Index64 | None = None
        for branch in lists:
            layout = arrays[branch].layout
            if is_lists(layout) and layout.offsets is shared:
                continue
            shared = layout.offsets if is_lists(layout) else None
            lengths[branch] = ak.to_numpy(ak.num(arrays[branch], axis=1))
        if lists and branches != [name] and f"n{name}" in arrays.fields:
            lengths[f"n{name}"] = ak.to_numpy(arrays[f"n{name}"]).astype(np.int64)
        for branch, counts in lengths.items():
            expected = lengths[lists[0]]
            if not np.array_equal(counts, expected):
                place = int(np.flatnonzero(counts != expected)[0])
                verb = "says" if branch == f"n{name}" else "has"
                raise DataFileError(
                    f"{url}: {lists[0]} has {expected[place]} values in {_event(arrays, place)}, "
                    f"{branch} {verb} {counts[place]}: the branches of {name} need equal numbers "
                    "in each event. The file is damaged, or was merged wrongly"
                )


def _event(arrays: ak.Array, place: int) -> str:
    """The name of an event in messages."""
    identity = ("run", "luminosityBlock", "event")
    if not set(identity) <= set(arrays.fields):
        return f"entry {place}"
    return "event " + ":".join(str(arrays[name][place]) for name in identity)


class NotFinite:
    """Counts the values of columns that are NaN or infinite.

    In a column of lists it counts values, in any other events.
    """

    def __init__(self) -> None:
        self._counts: dict[str, list[int]] = {}
        self._units: dict[str, str] = {}

    def add(self, arrays: ak.Array, names: Iterable[str]) -> None:
        """Count the values of these columns."""
        for name in names:
            values = _values(arrays[name].layout)
            if not np.issubdtype(values.dtype, np.floating):
                continue
            count = self._counts.setdefault(name, [0, 0])
            count[0] += int(values.size - np.count_nonzero(np.isfinite(values)))
            count[1] += int(values.size)
            self._units[name] = "values" if arrays[name].ndim > 1 else "events"

    def by_column(self) -> dict[str, dict[str, Any]]:
        """By column: `count`, `of` and `unit`, for columns with values that aren't finite."""
        return {
            name: {"count": count, "of": of, "unit": self._units[name]}
            for name, (count, of) in self._counts.items()
            if count
        }


def _values(content: Content) -> NDArray[Any]:
    """All values of a column, without its lists."""
    if is_lists(content):
        offsets = content.offsets.data
        values: NDArray[Any] = content.content.data[offsets[0] : offsets[-1]]
        return values
    if isinstance(content, NumpyArray):
        values = content.data
        return values
    flat = ak.flatten(ak.Array(content), axis=None)
    # text, say
    return ak.to_numpy(flat) if isinstance(flat.layout, NumpyArray) else np.empty(0, object)


def zipped(columns: dict[str, Content]) -> ak.Array:
    """Columns with lists as one column with lists of records."""
    layouts = list(columns.values())
    if all(map(is_lists, layouts)) and len({id(layout.offsets) for layout in layouts}) == 1:
        records = RecordArray([layout.content for layout in layouts], list(columns))
        return ak.Array(ListOffsetArray(layouts[0].offsets, records))
    return ak.zip({name: ak.Array(layout) for name, layout in columns.items()}, depth_limit=2)


def _lists(
    content: ListOffsetArray, mask: NDArray[np.bool_] | None, shapes: list[_Shape]
) -> ListOffsetArray:
    offsets = content.offsets.data
    for shape in shapes:
        if offsets[-1] == shape.before[-1] and np.array_equal(offsets, shape.before):
            break
    else:
        shape = _shape(offsets, mask)
        shapes.append(shape)
    data = content.content.data
    data = data[offsets[0] : offsets[-1]] if shape.index is None else data.take(shape.index, axis=0)
    return ListOffsetArray(shape.after, NumpyArray(data))


def _shape(offsets: NDArray[np.int64], mask: NDArray[np.bool_] | None) -> _Shape:
    if mask is None:
        return _Shape(offsets, Index64((offsets - offsets[0]).astype(np.int64)), None)
    counts = np.diff(offsets)
    after = np.zeros(np.count_nonzero(mask) + 1, np.int64)
    np.cumsum(counts[mask], out=after[1:])
    return _Shape(offsets, Index64(after), np.flatnonzero(np.repeat(mask, counts)) + offsets[0])
