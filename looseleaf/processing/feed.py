"""Chunks of events for processors, whose columns are read when they are touched.

Columns of a ROOT tree of numbers are read by `looseleaf.baskets`, each once, and lists share the
offsets of their counter. Everything else is read by coffea and uproot. NanoEvents take a
third of a millisecond for each column, so they are made only where they are needed: by processors
of the user's own, and for what can't be computed on flat arrays.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import awkward as ak
import numpy as np
from awkward.contents import ListOffsetArray, NumpyArray
from awkward.index import Index64
from coffea.nanoevents import NanoAODSchema, NanoEventsFactory
from coffea.nanoevents.mapping import UprootSourceMapping
from coffea.nanoevents.util import quote, tuple_to_key
from numpy.typing import NDArray

from looseleaf.baskets import Baskets, Branch, Walked
from looseleaf.errors import DataFileError
from looseleaf.nanoaod import TREE, EventsFile
from looseleaf.objects.branches import first_present
from looseleaf.objects.chunk import Branches
from looseleaf.objects.flat import Flat
from looseleaf.parquet import ParquetEvents

A = TypeVar("A")
T = TypeVar("T")
# these are made of other columns, even where a file has a branch of that name
COMPUTED_BY_COFFEA = frozenset().union(
    *(
        getattr(NanoAODSchema, items)
        for items in (
            "nested_items",
            "nested_index_items",
            "special_items",
            "full_like_items",
            "rename_items",
            "alias_items",
        )
    ),
    NanoAODSchema.rename_items.values(),
)


class SkimmedNanoAOD(NanoAODSchema):
    """NanoAOD with some of its columns, as a transform leaves it.

    Cross-references may be missing, as may the position of the primary vertex and the momenta of
    generated particles.
    """

    warn_missing_crossrefs = False
    mixins: ClassVar[dict[str, str]] = {
        **NanoAODSchema.mixins,
        "PV": "NanoCollection",
        "GenPart": "NanoCollection",
    }
    aliases: ClassVar[Mapping[str, Sequence[str]]] = {}

    def __init__(self, base_form: dict[str, Any], version: str = "latest") -> None:
        """Add alternative names of branches."""
        forms = dict(zip(base_form["fields"], base_form["contents"], strict=True))
        for name, alternatives in self.aliases.items():
            present = first_present("|".join([name, *alternatives]), forms)
            if present is not None:
                forms[name] = forms[present]
        super().__init__(
            {**base_form, "fields": list(forms), "contents": list(forms.values())}, version
        )


class ReadClock(dict[Any, Any]):
    """The columns of a chunk that have been read, and how long that took.

    coffea looks here before it reads a column, and stores it after.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self._started = 0.0

    def get(self, key: Any, default: Any = None) -> Any:
        """A column, or the default; the clock is then started."""
        self._started = time.perf_counter()
        return super().get(key, default)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.seconds += time.perf_counter() - self._started
        super().__setitem__(key, value)

    def timed(self, read: Callable[[A], T], what: A) -> T:
        """What a function reads; the time that it takes is counted."""
        started = time.perf_counter()
        value = read(what)
        self.seconds += time.perf_counter() - started
        return value


class Feed:
    """Makes the chunks of one open file."""

    def __init__(self, url: str, file: EventsFile | ParquetEvents) -> None:
        self._url, self.file = url, file
        self._baskets = Baskets(url, file.read) if isinstance(file, EventsFile) else None
        self._plan: _Plan | None = None
        self._told = 0

    def newly_read(self) -> int:
        """The bytes read since this was last asked; the first time, those of opening as well."""
        read = self.file.bytes_read
        new, self._told = read - self._told, read
        return new

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def forget(self) -> None:
        """Keep nothing of the last chunk, while the file stays open."""
        if isinstance(self.file, EventsFile):
            self.file.forget()
        if self._baskets is not None:
            self._baskets.forget()

    def branches(
        self, start: int, stop: int, metadata: Mapping[str, Any], clock: ReadClock
    ) -> Branches:
        """The branches of the entries [start, stop), with `metadata`.

        Of its entries, `aliases` are alternative names of branches. `columns`, if it is there, are
        those that will be touched, `A|B` for either; only these are then in the events.
        """
        file = self.file
        how = {
            "schemaclass": _schema(metadata),
            "metadata": dict(metadata),
            "mode": "virtual",
            "buffer_cache": clock,
        }
        if isinstance(file, ParquetEvents):
            source = file.tree.nanoevents_source(start, stop)
            make = NanoEventsFactory.from_parquet(source, entry_stop=stop - start, **how)
            return Branches(make.events())
        if file.walked is None:
            make = NanoEventsFactory.from_root(
                file.directory, treepath=TREE, entry_start=start, entry_stop=stop, **how
            )
            return Branches(make.events())
        assert self._baskets is not None
        if self._plan is None or self._plan.metadata != metadata:
            self._plan = _Plan(file, file.walked, metadata)
        return _Chunk(self._plan, self._baskets, start, stop, clock)


def _schema(metadata: Mapping[str, Any]) -> type[SkimmedNanoAOD]:
    return type("Aliased", (SkimmedNanoAOD,), {"aliases": metadata.get("aliases", {})})


class _Plan:
    """What an analysis can read of a file, and under which names."""

    def __init__(self, file: EventsFile, tree: Walked, metadata: Mapping[str, Any]) -> None:
        self.file, self.metadata, self.tree = file, dict(metadata), tree
        chosen = dict.fromkeys(tree.names)
        columns = metadata.get("columns")
        if columns is not None:
            named = {name for column in columns for name in column.split("|")}
            # a branch that isn't known doesn't say what its counter is
            named |= {f"n{name.partition('_')[0]}" for name in named}
            chosen = {name: None for name in chosen if name in named}
        self._chosen = chosen
        collections = {name.partition("_")[0] for name in chosen}
        self._counters = {f"n{name}" for name in collections}
        self._found: dict[str, Branch | None] = {}

    def branch(self, name: str) -> Branch | None:
        """A branch of numbers under one of its names.

        None for any other branch, for one that coffea makes of others, and if there is none.
        """
        if name not in self._found:
            present = None if self._computed(name) else self._present(name)
            self._found[name] = None if present is None else self.tree.branch(present)
        return self._found[name]

    def lacks(self, name: str) -> bool:
        """Whether there is no such branch, and coffea doesn't make one of others."""
        return not self._computed(name) and self._present(name) is None

    def _computed(self, name: str) -> bool:
        # coffea counts a collection's objects itself
        return name in COMPUTED_BY_COFFEA or name.partition("_")[0] in self._counters

    def _present(self, name: str) -> str | None:
        names = "|".join([name, *self.metadata.get("aliases", {}).get(name, ())])
        return first_present(names, self._chosen)

    @cached_property
    def schema(self) -> NanoAODSchema:
        """The form of the events."""
        known = {name: self.tree.branch(name) for name in self._chosen}
        counters = {branch.counter for branch in known.values() if branch is not None}
        known |= {name: self.tree.branch(name) for name in counters if name is not None}
        forms = {name: _form_of(branch) for name, branch in known.items() if branch is not None}
        others = [name for name, branch in known.items() if branch is None]
        if others:
            rest = UprootSourceMapping._extract_base_form(self.file.tree, {"filter_name": others})
            forms |= dict(zip(rest["fields"], rest["contents"], strict=True))
        form = {
            "class": "RecordArray",
            "fields": list(forms),
            "contents": list(forms.values()),
            "parameters": {"metadata": self.metadata},
        }
        return _schema(self.metadata)(form)


def _form_of(branch: Branch) -> dict[str, Any]:
    # what coffea makes of a key says how to get at the column: load it, take its content
    key = f"{branch.name},!load"
    numbers = {
        "class": "NumpyArray",
        "primitive": branch.dtype.newbyteorder("=").name,
        "inner_shape": [],
        "parameters": {"__doc__": branch.title},
        "form_key": quote(key),
    }
    if branch.counter is None:
        return numbers
    content = {**numbers, "form_key": quote(f"{key},!content")}
    return {
        "class": "ListOffsetArray", "offsets": "i64", "content": content, "parameters": {},
        "form_key": quote(key),
    }  # fmt: skip


class _Columns(UprootSourceMapping):
    """The columns of a chunk, each read once; for coffea, by the keys of their forms."""

    def __init__(
        self, plan: _Plan, baskets: Baskets, start: int, stop: int, clock: ReadClock
    ) -> None:
        super().__init__(None, start, stop, cache={}, virtual=True, buffer_cache=clock)
        self._plan, self._baskets = plan, baskets
        self._contents: dict[str, NDArray[Any]] = {}
        self._offsets: dict[str, NDArray[np.int64]] = {}

    def _column_source(self, uuid: str, path_in_source: str) -> EventsFile:
        return self._plan.file

    def get_column_handle(
        self, columnsource: EventsFile, name: str, allow_missing: bool
    ) -> Branch | Any:
        return self._plan.tree.branch(name) or columnsource.tree[name]

    def extract_column(
        self,
        columnhandle: Branch | Any,
        start: int,
        stop: int,
        allow_missing: bool,
        use_ak_forth: bool = True,
    ) -> Any:
        if not isinstance(columnhandle, Branch):
            return super().extract_column(columnhandle, start, stop, allow_missing, use_ak_forth)
        if columnhandle.counter is None:
            return NumpyArray(self.content(columnhandle))
        return self.lists(columnhandle)

    def content(self, branch: Branch) -> NDArray[Any]:
        """The numbers of a branch in a flat array."""
        if branch.name not in self._contents:
            expected = self._stop - self._start
            if branch.counter is not None:
                expected = int(self.offsets(branch.counter)[-1])
            content = self._baskets.content(branch, self._start, self._stop, expected)
            if len(content) != expected:
                raise DataFileError(
                    f"{self._plan.file.url}: {branch.name} has {len(content)} values in the "
                    f"entries {self._start} to {self._stop}, but {branch.counter} counts "
                    f"{expected}: the file is damaged, or was merged wrongly"
                )
            self._contents[branch.name] = content
        return self._contents[branch.name]

    def offsets(self, counter: str) -> NDArray[np.int64]:
        """Where the lists begin that a branch counts."""
        if counter not in self._offsets:
            branch = self._plan.tree.branch(counter)
            if branch is None:
                raise DataFileError(f"{self._plan.file.url}: {counter} isn't a branch of numbers")
            counts = self.content(branch)
            offsets = np.zeros(len(counts) + 1, np.int64)
            np.cumsum(counts, out=offsets[1:])
            self._offsets[counter] = offsets
        return self._offsets[counter]

    def lists(self, branch: Branch) -> ak.Array:
        """The numbers of a branch as a list in each event."""
        assert branch.counter is not None
        offsets = Index64(self.offsets(branch.counter))
        return ak.Array(ListOffsetArray(offsets, NumpyArray(self.content(branch))))


class _Chunk(Branches):
    """The branches of a chunk, read when they are asked for.

    Anything but a branch of numbers is taken from NanoEvents.
    """

    def __init__(
        self, plan: _Plan, baskets: Baskets, start: int, stop: int, clock: ReadClock
    ) -> None:
        self._plan, self._size, self._clock = plan, stop - start, clock
        self._columns = _Columns(plan, baskets, start, stop, clock)
        self._key = tuple_to_key((plan.file.uuid, TREE, f"{start}-{stop}"))

    @cached_property
    def events(self) -> Any:
        return NanoEventsFactory(
            self._plan.schema, self._columns, self._key, mode="virtual"
        ).events()

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self._plan.metadata

    def __len__(self) -> int:
        return self._size

    def __contains__(self, name: str) -> bool:
        if self._plan.branch(name) is not None:
            return True
        return not self._plan.lacks(name) and super().__contains__(name)

    def __getitem__(self, name: str) -> Any:
        branch = self._plan.branch(name)
        if branch is None:
            return super().__getitem__(name)
        if branch.counter is not None:
            return self._clock.timed(self._columns.lists, branch)
        return self._clock.timed(self._columns.content, branch)

    def objects(self, collection: str) -> Flat:
        counter = f"n{collection}"
        branch = self._plan.tree.branch(counter)
        if branch is None or branch.counter is not None:
            return super().objects(collection)
        return _Objects(self, collection, self._clock.timed(self._columns.offsets, counter))

    def of_objects(self, collection: str, name: str) -> NDArray[Any] | None:
        """A field of a collection, flat; None if it isn't a branch with as many numbers."""
        branch = self._plan.branch(f"{collection}_{name}")
        if branch is None or branch.counter != f"n{collection}":
            return None
        return self._clock.timed(self._columns.content, branch)


class _Objects(Flat):
    """A collection whose fields are read when they are asked for."""

    def __init__(self, chunk: _Chunk, collection: str, offsets: NDArray[np.int64]) -> None:
        self._chunk, self._collection, self.offsets = chunk, collection, offsets

    @property
    def lists(self) -> Any:
        return self._chunk.events[self._collection]

    def _column(self, name: str) -> Any:
        column = self._chunk.of_objects(self._collection, name)
        return self._flattened(self.lists[name]) if column is None else column
