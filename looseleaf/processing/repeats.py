"""The same events twice: files that are copies of others, events of data that two files have.

Names prove nothing. A file that was copied has its uuid still. One that was written anew has the
same number of events and sum of weights as the other, before and after the selection; then the
events decide. In data an event is known by run, luminosity section and number. That two files have
a section in common is no fault, since sections are split over files, but says which to compare; an
event of a simulation may be numbered as another's, where every job began to count at 1.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from looseleaf.errors import DataFileError, reading
from looseleaf.nanoaod import open_events
from looseleaf.objects.luminosity import Sections
from looseleaf.parquet import ParquetTree

EVENT = ("run", "luminosityBlock", "event")
CURE = "leave_out of the dataset can name one of the files"


@dataclass(frozen=True, eq=False)
class _Part:
    """A file of a dataset: what it was made of, where its result stands, its manifest's entry."""

    dataset: str
    name: str
    url: str
    entry: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.name} (dataset {self.dataset})"


def refuse_repeats(
    manifests: Mapping[str, Mapping[str, Any]], metadata: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raise `DataFileError` naming two files of the datasets that hold the same events.

    `metadata` says by dataset whether it is `data`, and the words of its `primary` dataset: events
    may well be in several primary datasets.
    """
    parts = [
        _Part(dataset, entry["source"], f"{manifest['folder']}/{entry['output']}", entry)
        for dataset, manifest in manifests.items()
        for entry in manifest["files"]
        if entry["events_in"]
    ]
    _refuse_copies(parts)
    _refuse_rewritten(parts)
    by_word: dict[str, list[_Part]] = defaultdict(list)
    for part in parts:
        told = metadata.get(part.dataset, {})
        if told.get("data") and part.entry["lumi_sections"] is not None:
            for word in told.get("primary", [part.dataset]):
                by_word[word].append(part)
    for group in {frozenset(group): group for group in by_word.values()}.values():
        _refuse_events_twice(group)


def _grouped(parts: Iterable[_Part], *keys: str) -> Iterator[list[_Part]]:
    """The parts whose manifest's entries are alike, where there are several."""
    groups: dict[tuple[Any, ...], list[_Part]] = defaultdict(list)
    for part in parts:
        groups[tuple(part.entry[key] for key in keys)].append(part)
    return (group for group in groups.values() if len(group) > 1)


def _refuse_copies(parts: Sequence[_Part]) -> None:
    for one, other, *_ in _grouped(parts, "source_uuid", "events_in", "sum_of_weights_in"):
        raise DataFileError(
            f"{one} and {other} are copies of one file (uuid {one.entry['source_uuid']}): its "
            f"{one.entry['events_in']} events would count twice; {CURE}"
        )


def _refuse_rewritten(parts: Sequence[_Part]) -> None:
    counts = ("events_in", "events_out", "sum_of_weights_in", "sum_of_weights_out")
    for group in _grouped((p for p in parts if p.entry["events_out"]), *counts):
        by_events = _alike(group, EVENT)
        for one, other, *_ in (twins for of in by_events for twins in _alike(of)):
            raise DataFileError(
                f"{one} and {other} hold the same {one.entry['events_in']} events, which would "
                f"count twice; {CURE}"
            )


def _alike(parts: Sequence[_Part], columns: Sequence[str] | None = None) -> Iterator[list[_Part]]:
    """The parts that agree in the columns, or in all that each of them has, where there are
    several; the order of events doesn't matter."""
    if len(parts) == 1:
        return
    if columns is None:
        columns = sorted(set.intersection(*(_names(part.url) for part in parts)))
    groups: dict[str, list[_Part]] = defaultdict(list)
    for part in parts:
        groups[_digest(part.url, columns)].append(part)
    yield from (group for group in groups.values() if len(group) > 1)


def _names(url: str) -> set[str]:
    with open_events(url) as file:
        return set(file.tree.keys(recursive=False))


def _digest(url: str, columns: Sequence[str]) -> str:
    """A hash of the columns that a file has of these, its events in the order of their numbers."""
    names = [name for name in columns if name in _names(url)]
    events = _columns(url, [*names, *(name for name in EVENT if name not in names)])
    numbers = [ak.to_numpy(events[name]) for name in EVENT if name in events.fields]
    events = events[np.lexsort(numbers[::-1])] if numbers else events
    found = hashlib.sha256()
    for name in names:
        values = events[name]
        while values.ndim > 1:
            found.update(ak.to_numpy(ak.num(values, axis=1)).astype(np.int64).tobytes())
            values = ak.flatten(values, axis=1)
        found.update(ak.to_numpy(values).tobytes())
    return found.hexdigest()


def _columns(url: str, names: Sequence[str]) -> ak.Array:
    """The columns of a result that it has, whole."""
    with open_events(url) as file, reading(url):
        tree = file.tree
        there = [name for name in names if name in tree.keys(recursive=False)]
        if isinstance(tree, ParquetTree):
            return ak.concatenate(list(tree.steps(there, max(1, tree.num_entries))))
        return tree.arrays(there, library="ak")


def _key(run: Any, section: Any) -> Any:
    """One number for a run and a section of it."""
    return run << 32 | section


def _keys(sections: Sections) -> NDArray[np.int64]:
    """The number of each section of a file."""
    found = [
        _key(int(run), np.arange(first, last + 1, dtype=np.int64))
        for run, ranges in sections.items()
        for first, last in ranges
    ]
    return np.concatenate([np.zeros(0, np.int64), *found])


def _refuse_events_twice(parts: Sequence[_Part]) -> None:
    keys = [_keys(part.entry["lumi_sections"]) for part in parts]
    for members, shared in _overlaps(keys):
        found = [_events(parts[index].url, shared) for index in members]
        of = np.repeat(members, [len(rows) for rows in found])
        rows = np.concatenate(found)
        order = np.lexsort(rows.T[::-1])
        rows, of = rows[order], of[order]
        again = np.flatnonzero((rows[1:] == rows[:-1]).all(axis=1))
        if len(again) == 0:
            continue
        first = again[0]
        run, section, number = rows[first].tolist()
        one, other = parts[of[first]], parts[of[first + 1]]
        raise DataFileError(
            f"{one} and {other} both have event {number} of run {run}, luminosity section "
            f"{section}, and {len(again)} events are there twice in all; {CURE}"
            if one is not other
            else f"{one} has event {number} of run {run}, luminosity section {section}, twice"
        )


def _overlaps(
    keys: Sequence[NDArray[np.int64]],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Files that have sections in common, by their places, as few at a time as hang together, and
    the sections."""
    if not keys:
        return
    of = np.repeat(np.arange(len(keys)), [len(own) for own in keys])
    everything = np.concatenate(keys)
    order = np.argsort(everything, kind="stable")
    everything, of = everything[order], of[order]
    same = np.flatnonzero(everything[1:] == everything[:-1])
    # each file's group is called by one of its files
    group = list(range(len(keys)))

    def root(index: int) -> int:
        while group[index] != index:
            group[index] = group[group[index]]
            index = group[index]
        return index

    for one, other in zip(of[same].tolist(), of[same + 1].tolist(), strict=True):
        group[root(one)] = root(other)
    roots = np.array([root(index) for index in range(len(keys))])
    for name in np.unique(roots[of[same]]):
        yield (
            np.flatnonzero(roots == name),
            np.unique(everything[same[roots[of[same]] == name]]),
        )


def _events(url: str, shared: NDArray[np.int64]) -> NDArray[np.int64]:
    """Run, section and number of a result's events in the sections."""
    events = _columns(url, EVENT)
    if set(events.fields) != set(EVENT):
        return np.zeros((0, 3), np.int64)
    rows = np.stack([ak.to_numpy(events[name]).astype(np.int64) for name in EVENT], axis=1)
    return rows[np.isin(_key(rows[:, 0], rows[:, 1]), shared)]
