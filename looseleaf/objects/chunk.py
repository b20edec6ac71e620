"""The branches of a chunk of events."""

from collections.abc import Mapping
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from looseleaf.errors import ConfigError
from looseleaf.objects.flat import Flat


class Branches:
    """NanoEvents by the names of NanoAOD branches, as used in cuts: `PV_npvs`, `MET_pt`, `nJet`.

    `events` are the NanoEvents. A worker's own chunks read the branches without making those.
    """

    events: Any

    def __init__(self, events: Any) -> None:
        self.events = events

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata of the events."""
        metadata: Mapping[str, Any] = self.events.metadata
        return metadata

    def __len__(self) -> int:
        """The number of events."""
        return len(self.events)

    def __contains__(self, name: str) -> bool:
        """Whether the events have a branch, counters of collections aside."""
        return self._found(name) is not None

    def __getitem__(self, name: str) -> Any:
        """A branch as an array, jagged if it has a list for each event."""
        found = self._found(name)
        if found is not None:
            return ak.Array(found)
        if name[:1] == "n" and name[1:] in self.events.layout.fields:
            return ak.num(ak.Array(self.events.layout[name[1:]]), axis=1)
        raise ConfigError(f"an expression uses {name!r}, which isn't a branch of these events")

    def numbers(self, name: str) -> NDArray[Any]:
        """A branch with a number for each event."""
        values = self[name]
        numbers: NDArray[Any] = values if isinstance(values, np.ndarray) else ak.to_numpy(values)
        return numbers

    def objects(self, collection: str) -> Flat:
        """The objects of a collection."""
        return Flat(self.events[collection])

    def _found(self, name: str) -> Any:
        # without coffea's behaviours, which need fields that may not have been read, such as masses
        layout = self.events.layout
        collection, _, field = name.partition("_")
        if name in layout.fields:
            return layout[name]
        if field and collection in layout.fields and field in layout[collection].fields:
            return layout[collection][field]
        return None
