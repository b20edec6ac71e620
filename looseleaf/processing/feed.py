"""Chunks of events for processors: NanoEvents, whose columns are read when they are touched.

Columns of a ROOT tree of numbers are read by `looseleaf.baskets`, each once, and lists share the
offsets of their counter. Everything else is read by coffea and uproot.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

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
from looseleaf.parquet import ParquetEvents


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


class Feed:
    """Makes the chunks of one open file."""

    def __init__(self, url: str, file: EventsFile | ParquetEvents) -> None:
        self._url, self.file = url, file
        self._baskets = Baskets(url, file.read) if isinstance(file, EventsFile) else None
        self._schema: tuple[Mapping[str, Any], NanoAODSchema] | None = None

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def forget(self) -> None:
        """Keep nothing of the last chunk."""
        if self._baskets is not None:
            self._baskets.forget()

    def events(self, start: int, stop: int, metadata: Mapping[str, Any], clock: ReadClock) -> Any:
        """The entries [start, stop) as NanoEvents, with `metadata`.

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
            return NanoEventsFactory.from_parquet(source, entry_stop=stop - start, **how).events()
        if file.walked is None:
            return NanoEventsFactory.from_root(
                file.directory, treepath=TREE, entry_start=start, entry_stop=stop, **how
            ).events()
        assert self._baskets is not None
        if self._schema is None or self._schema[0] != metadata:
            form = _form(file, file.walked, metadata.get("columns"))
            form["parameters"] = {"metadata": dict(metadata)}
            self._schema = dict(metadata), _schema(metadata)(form)
        columns = _Columns(file, file.walked, self._baskets, start, stop, clock)
        key = tuple_to_key((file.uuid, TREE, f"{start}-{stop}"))
        return NanoEventsFactory(self._schema[1], columns, key, mode="virtual").events()


def _schema(metadata: Mapping[str, Any]) -> type[SkimmedNanoAOD]:
    return type("Aliased", (SkimmedNanoAOD,), {"aliases": metadata.get("aliases", {})})


def _form(file: EventsFile, tree: Walked, columns: Iterable[str] | None) -> dict[str, Any]:
    """The form of a tree's columns, as coffea's schemas take it."""
    chosen = dict.fromkeys(tree.names)
    if columns is not None:
        named = {name for column in columns for name in column.split("|")}
        # a branch that isn't known doesn't say what its counter is
        named |= {f"n{name.partition('_')[0]}" for name in named}
        chosen = {name: None for name in chosen if name in named}
    known = {name: tree.branch(name) for name in chosen}
    counters = {branch.counter for branch in known.values() if branch is not None}
    known |= {name: tree.branch(name) for name in counters if name is not None}
    forms = {name: _form_of(branch) for name, branch in known.items() if branch is not None}
    others = [name for name, branch in known.items() if branch is None]
    if others:
        rest = UprootSourceMapping._extract_base_form(file.tree, {"filter_name": others})
        forms |= dict(zip(rest["fields"], rest["contents"], strict=True))
    return {"class": "RecordArray", "fields": list(forms), "contents": list(forms.values())}


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
    """The columns of a chunk by the keys of their forms, for coffea."""

    def __init__(
        self,
        file: EventsFile,
        tree: Walked,
        baskets: Baskets,
        start: int,
        stop: int,
        clock: ReadClock,
    ) -> None:
        super().__init__(None, start, stop, cache={}, virtual=True, buffer_cache=clock)
        self._file, self._tree, self._baskets = file, tree, baskets
        # of events; counters are read for their lists, and as columns
        self._numbers: dict[str, NDArray[Any]] = {}
        self._offsets: dict[str, NDArray[np.int64]] = {}

    def _column_source(self, uuid: str, path_in_source: str) -> EventsFile:
        return self._file

    def get_column_handle(
        self, columnsource: EventsFile, name: str, allow_missing: bool
    ) -> Branch | Any:
        return self._tree.branch(name) or columnsource.tree[name]

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
            return NumpyArray(self._numbers_of(columnhandle))
        content = self._baskets.content(columnhandle, start, stop)
        offsets = self._offsets_of(columnhandle.counter)
        if len(content) != offsets[-1]:
            raise DataFileError(
                f"{self._file.url}: {columnhandle.name} has {len(content)} values in the entries "
                f"{start} to {stop}, but {columnhandle.counter} counts {offsets[-1]}: the file is "
                "damaged, or was merged wrongly"
            )
        return ak.Array(ListOffsetArray(Index64(offsets), NumpyArray(content)))

    def _numbers_of(self, branch: Branch) -> NDArray[Any]:
        if branch.name not in self._numbers:
            content = self._baskets.content(branch, self._start, self._stop)
            self._numbers[branch.name] = content
        return self._numbers[branch.name]

    def _offsets_of(self, counter: str) -> NDArray[np.int64]:
        if counter not in self._offsets:
            branch = self._tree.branch(counter)
            if branch is None:
                raise DataFileError(f"{self._file.url}: {counter} isn't a branch of numbers")
            counts = self._numbers_of(branch)
            offsets = np.zeros(len(counts) + 1, np.int64)
            np.cumsum(counts, out=offsets[1:])
            self._offsets[counter] = offsets
        return self._offsets[counter]
