"""Events that are in two files, or twice in one.

Names prove nothing. A copied file has the same uuid. A rewritten file has the same number of events
and sum of weights as the other, before and after the selection; then the events are compared. In
data an event is identified by run, luminosity section and number. Two files may share a section,
since sections are split over files; this only says which files to compare. Simulated events may
share their numbers, if every job starts to count at 1.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from looseleaf.errors import DataFileError, reading
from looseleaf.nanoaod import open_events
from looseleaf.objects.luminosity import Sections
from looseleaf.parquet import ParquetTree

EVENT = ("run", "luminosityBlock", "event")
# how many objects of a collection an event has, such as nMuon
COUNT = re.compile(r"n[A-Z]")
CURE = "name one of the two files in leave_out of its dataset"


@dataclass(frozen=True, eq=False)
class _Part:
    """A file of a dataset: its original, the URL of its result, and its entry in the manifest.

    `primary` are the words of its primary dataset, None in simulation.
    """

    dataset: str
    name: str
    url: str
    entry: Mapping[str, Any]
    primary: frozenset[str] | None

    def __str__(self) -> str:
        return f"{self.name} (dataset {self.dataset})"


def refuse_repeats(
    manifests: Mapping[str, Mapping[str, Any]], metadata: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raise `DataFileError` naming two files with the same events, or a file of data with an event
    twice.

    `metadata` has for each dataset whether it is `data`, and the words of its `primary` dataset: an
    event may be in several primary datasets.
    """
    parts = [
        _Part(dataset, entry["source"], f"{manifest['folder']}/{entry['output']}", entry, words)
        for dataset, manifest in manifests.items()
        for words in [_words(dataset, metadata.get(dataset, {}))]
        for entry in manifest["files"]
        if entry["events_in"]
    ]
    _refuse_copies(parts)
    _refuse_rewritten(parts)
    by_word: dict[str, list[_Part]] = defaultdict(list)
    for part in parts:
        for word in sorted(part.primary or ()):
            by_word[word].append(part)
    for group in {frozenset(group): group for group in by_word.values()}.values():
        _refuse_events_twice(group)


def _words(dataset: str, metadata: Mapping[str, Any]) -> frozenset[str] | None:
    data = metadata.get("data", False)
    return frozenset(metadata.get("primary", [dataset])) if data else None


def _grouped(parts: Iterable[_Part], *keys: str) -> Iterator[list[_Part]]:
    """Groups of two or more parts with equal values of these keys in the manifest."""
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
        for one, other in (pair for twins in _alike(group) for pair in combinations(twins, 2)):
            if _of_other_primaries(one, other):
                continue
            raise DataFileError(
                f"{one} and {other} have the same {one.entry['events_in']} events, which would "
                f"count twice; {CURE}"
            )


def _of_other_primaries(one: _Part, other: _Part) -> bool:
    """Whether both are data of different primary datasets, which may share events."""
    if one.primary is None or other.primary is None:
        return False
    return one.primary.isdisjoint(other.primary)


def _alike(parts: Sequence[_Part]) -> Iterator[list[_Part]]:
    """Groups of parts that agree in all columns that they have in common.

    The order of events doesn't matter.
    """
    columns = sorted(set.intersection(*(_names(part.url) for part in parts)))
    # these are small, and tell most files apart
    counts = [name for name in columns if name in EVENT or COUNT.match(name)]
    for group in _by_content(parts, counts):
        yield from _by_content(group, columns)


def _by_content(parts: Iterable[_Part], columns: Sequence[str]) -> list[list[_Part]]:
    groups: dict[str, list[_Part]] = defaultdict(list)
    for part in parts:
        groups[_digest(part.url, columns)].append(part)
    return [group for group in groups.values() if len(group) > 1]


def _names(url: str) -> set[str]:
    with open_events(url, walk=True) as file:
        return set(file.names)


def _digest(url: str, columns: Sequence[str]) -> str:
    """A hash of a file's columns, with its events in the order of their numbers."""
    events = _columns(url, dict.fromkeys([*columns, *EVENT]))
    names = [name for name in columns if name in events.fields]
    numbers = [ak.to_numpy(events[name]) for name in EVENT if name in events.fields]
    events = events[np.lexsort(numbers[::-1])] if numbers else events
    digest = hashlib.sha256()
    for name in names:
        values = events[name]
        while values.ndim > 1:
            digest.update(ak.to_numpy(ak.num(values, axis=1)).astype(np.int64).tobytes())
            values = ak.flatten(values, axis=1)
        digest.update(ak.to_numpy(values).tobytes())
    return digest.hexdigest()


def _columns(url: str, names: Iterable[str]) -> ak.Array:
    """All entries of the columns that a result has."""
    with open_events(url) as file, reading(url):
        tree, available = file.tree, set(file.names)
        present = [name for name in names if name in available]
        if isinstance(tree, ParquetTree):
            return ak.concatenate(list(tree.steps(present, max(1, tree.num_entries))))
        return tree.arrays(present, library="ak")


def _key(run: Any, section: Any) -> Any:
    """One number for a run and a luminosity section."""
    return run << 32 | section


def _run(key: Any) -> Any:
    """The run of a section's number."""
    return key >> 32


def _keys(sections: Sections) -> NDArray[np.int64]:
    """The numbers of a file's sections."""
    keys = [
        _key(int(run), np.arange(first, last + 1, dtype=np.int64))
        for run, ranges in sections.items()
        for first, last in ranges
    ]
    return np.concatenate([np.zeros(0, np.int64), *keys])


def _refuse_events_twice(parts: Sequence[_Part]) -> None:
    """Refuse events that are twice in the data, reading each file once.

    Files are read in the order of their first runs; the events of a run are kept until the last
    file that shares one of its sections is read.
    """
    keys = [_keys(part.entry["lumi_sections"] or {}) for part in parts]
    sections, files = np.unique(np.concatenate([np.zeros(0, np.int64), *keys]), return_counts=True)
    shared = sections[files > 1]
    runs_of = [np.unique(_run(own[np.isin(own, shared)])).tolist() for own in keys]
    to_come = Counter(run for runs in runs_of for run in runs)
    kept: dict[int, list[tuple[int, NDArray[np.int64]]]] = defaultdict(list)
    for index in sorted(range(len(parts)), key=lambda i: int(min(keys[i], default=0))):
        rows = _events(parts[index].url)
        _refuse_twice_in_one(parts[index], rows)
        rows = rows[np.isin(_key(rows[:, 0], rows[:, 1]), shared)]
        for run in runs_of[index]:
            kept[run].append((index, rows[rows[:, 0] == run]))
            to_come[run] -= 1
            if not to_come[run]:
                _refuse_twice_in_two(parts, kept.pop(run))


def _refuse_twice_in_one(part: _Part, rows: NDArray[np.int64]) -> None:
    _, again = _repeated(rows)
    for run, section, number in rows[again[:1]].tolist():
        raise DataFileError(
            f"{part} has event {number} of run {run}, section {section}, twice: make the file "
            "again, or name it in leave_out of its dataset"
        )


def _refuse_twice_in_two(
    parts: Sequence[_Part], kept: Sequence[tuple[int, NDArray[np.int64]]]
) -> None:
    of = np.repeat([index for index, _ in kept], [len(rows) for _, rows in kept])
    before, again = _repeated(np.concatenate([rows for _, rows in kept]))
    if len(again) == 0:
        return
    one, other = (parts[index] for index in sorted((of[before[0]], of[again[0]])))
    # all events that these two share
    both = np.concatenate([_events(one.url), _events(other.url)])
    _, again = _repeated(both)
    run, section, number = both[again[0]].tolist()
    raise DataFileError(
        f"{one} and {other} share {len(again)} events (the first: run {run}, section {section}, "
        f"event {number}); {CURE}"
    )


def _repeated(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The indices of repeated rows, and those of the rows that they repeat, smallest row first."""
    order = np.lexsort(rows.T[::-1])
    again = np.flatnonzero((rows[order[1:]] == rows[order[:-1]]).all(axis=1))
    return order[again], order[again + 1]


def _events(url: str) -> NDArray[np.int64]:
    """Run, section and number of a result's events; empty if it lacks them."""
    events = _columns(url, EVENT)
    if set(events.fields) != set(EVENT):
        return np.zeros((0, 3), np.int64)
    return np.stack([ak.to_numpy(events[name]).astype(np.int64) for name in EVENT], axis=1)
