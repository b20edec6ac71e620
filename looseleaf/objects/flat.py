"""Collections as flat arrays, with one entry for each object of all events.

A cut on objects needs no lists: numpy computes it in one pass over the contents, where awkward
compares the lists' lengths for each operation.
"""

from functools import cached_property
from typing import Any

import awkward as ak
import numpy as np
from awkward.contents import ListOffsetArray, NumpyArray
from awkward.index import Index64
from numpy.typing import NDArray

from looseleaf.objects.loops import number_of


class Flat:
    """The objects of a collection in `lists`, with a flat array for each field: `muons["pt"]`.

    `offsets` are where the objects of each event begin, and the end of the last.
    """

    def __init__(self, lists: Any) -> None:
        self.lists = lists
        self._records: Any = None
        layout = lists.layout
        if isinstance(layout, ListOffsetArray):
            offsets = np.asarray(layout.offsets.data)
            if not offsets[0] and layout.content.is_record:
                self.offsets: NDArray[np.int64] = offsets
                self._records = layout.content
                return
        self.offsets = np.zeros(len(lists) + 1, np.int64)
        np.cumsum(ak.to_numpy(ak.num(lists, axis=1)), out=self.offsets[1:])

    @cached_property
    def _columns(self) -> dict[str, Any]:
        return {}

    @cached_property
    def answers(self) -> dict[str, Any]:
        """Which objects pass a cut, by its text: working points share cuts."""
        return {}

    def __len__(self) -> int:
        """The number of objects of all events."""
        return int(self.offsets[-1])

    def __getitem__(self, name: str) -> Any:
        """A field; one that isn't a number for each object is an awkward array."""
        if name not in self._columns:
            self._columns[name] = self._column(name)
        return self._columns[name]

    def _column(self, name: str) -> Any:
        if self._records is not None and name in self._records.fields:
            content = self._records.content(name)
            if content.is_numpy and content.purelist_depth == 1:
                return ak.to_numpy(content)[: len(self)]
        return self._flattened(self.lists[name])

    @staticmethod
    def _flattened(lists: Any) -> Any:
        flat = ak.flatten(lists, axis=1)
        # chosen objects are an index into all of them until then
        layout = ak.to_packed(flat, highlevel=False)
        return ak.to_numpy(layout) if layout.is_numpy and layout.purelist_depth == 1 else flat

    @property
    def events(self) -> int:
        """The number of events."""
        return len(self.offsets) - 1

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """The number of objects of each event."""
        return np.diff(self.offsets)

    def number(self, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """How many objects of each event are chosen."""
        return number_of(self.offsets, chosen)

    def listed(self, values: NDArray[Any]) -> ak.Array:
        """Values of all objects, as a list in each event."""
        return ak.Array(ListOffsetArray(Index64(self.offsets), NumpyArray(values)))
