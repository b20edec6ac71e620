"""Selected events as flat columns: what belongs to a collection shares one set of offsets.

Awkward selects and zips each column as if it were alone; NanoAOD's are known to come in
collections, so that where the selected objects lie is worked out once for all of them.
"""

from dataclasses import dataclass

import awkward as ak
import numpy as np
from awkward.contents import Content, ListOffsetArray, NumpyArray, RecordArray
from awkward.index import Index64
from numpy.typing import NDArray


@dataclass(frozen=True)
class _Shape:
    """The offsets of a collection's lists, the selected ones' and where those have their content
    (None: all of it is selected)."""

    before: NDArray[np.int64]
    after: Index64
    index: NDArray[np.int64] | None


def is_lists(layout: Content) -> bool:
    """Whether a column has a list of numbers for each event, as NanoAOD's collections."""
    return (
        isinstance(layout, ListOffsetArray)
        and isinstance(layout.content, NumpyArray)
        and layout.parameter("__array__") is None
    )


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
