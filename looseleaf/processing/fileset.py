"""The input of processing: the files of a transform's manifest, cut into chunks and tasks."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from looseleaf.errors import DataFileError
from looseleaf.losses import Loss
from looseleaf.objects.branches import EFT_COEFFICIENTS
from looseleaf.objects.expressions import Expression
from looseleaf.objects.luminosity import common, united
from looseleaf.parquet import stored_bytes
from looseleaf.stage_files import read_manifest

# the tree with the totals of the original file
RUNS = "Runs"
# what the ledger has for the files normalised by one tree
NORMALISED_BY = ("files", "events", "sum_of_weights", "held_events", "held_sum_of_weights")


@dataclass(frozen=True)
class EventsSource:
    """A file to read: its location, its identity, and its expected content.

    `sum_of_weights` is that of genWeight over the file's events, or their number in data. `bytes`
    is the file's size, `adler32` the checksum from its writer or None, and `source_url` where the
    transform read the original file called `name`. A `bare` file has no events and lacks columns,
    so that no processor can run on it.
    """

    name: str
    url: str
    source_url: str
    uuid: str
    bytes: int
    adler32: str | None
    events: int
    sum_of_weights: float
    bare: bool = False


@dataclass(frozen=True)
class Fileset:
    """A dataset as a processor sees it.

    `original` is about the events before the transform's selection: `events`, `sum_of_weights`,
    `eft_sums` of an EFT sample, `theory_sums` by branch of theory weights, and, for data,
    `lumi_sections` and the `certified_sections` among them. `normalised_by` has the trees from
    which these totals come, with the numbers of files, and `left_out` the files that aren't
    included, with their events if known. `metadata` is passed to the processor with every chunk,
    and `losses` go into the ledger.

    `held` are the events in the Events tree of each original file. `not_finite` has the numbers of
    values that aren't finite, by column and file. `missing` has paths with similar names, by
    missing trigger path and file. `cut_columns` are the columns of the transform's cut.
    """

    dataset: str
    files: tuple[EventsSource, ...]
    original: Mapping[str, Any]
    metadata: Mapping[str, Any]
    request_id: str
    losses: tuple[Loss, ...] = ()
    held: Mapping[str, int] = field(default_factory=dict)
    not_finite: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    missing: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cut_columns: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Chunk:
    """Entries [start, stop) of one file; one without entries stands for an empty file."""

    dataset: str
    file: EventsSource
    start: int
    stop: int

    @property
    def events(self) -> int:
        """The number of entries."""
        return self.stop - self.start


def from_manifest(dataset: str, manifest: str | Path, metadata: Mapping[str, Any]) -> Fileset:
    """The fileset of a finished transform, on a volume or, for Parquet, in an object store.

    Raises `DataFileError` if the manifest has another format or is damaged, or if a result is
    missing or has changed.
    """
    return fileset_of(dataset, read_manifest(manifest), metadata)


def fileset_of(dataset: str, value: Mapping[str, Any], metadata: Mapping[str, Any]) -> Fileset:
    """The fileset of a manifest's content; raises `DataFileError` as `from_manifest` does."""
    _check_kind(dataset, value["files"], metadata.get("data", False))
    files = []
    for entry in value["files"]:
        url = f"{value['folder']}/{entry['output']}"
        size = stored_bytes(url)
        if size != entry["bytes"]:
            matter = (
                "gone from the volume"
                if size is None
                else f"holds {size} bytes, but the manifest says {entry['bytes']}"
            )
            raise DataFileError(
                f"{url}: {matter}; make it again (snakemake --forcerun servicex_transform)"
            )
        files.append(
            EventsSource(
                name=entry["source"],
                url=url,
                source_url=entry["source_url"],
                uuid=entry["uuid"],
                bytes=entry["bytes"],
                adler32=entry["adler32"],
                events=entry["events_out"],
                sum_of_weights=entry["sum_of_weights_out"],
                bare=entry["bare"],
            )
        )
    if all(file.bare for file in files):
        raise DataFileError(
            f"dataset {dataset}: none of its files ({len(files)}) has events: remove it from the "
            "analysis, or look up its files"
        )
    # a file without events may lack luminosity sections
    said = [entry for entry in value["files"] if entry["lumi_sections"] or not entry["bare"]]
    lumis = [entry["lumi_sections"] for entry in said]
    sections = None if None in lumis else united(lumis)
    golden = metadata.get("lumi_mask")
    good = sections if golden is None or sections is None else common(sections, golden)
    if sections and not good:
        raise DataFileError(
            f"dataset {dataset}: its lumi_mask certifies none of its luminosity sections (runs "
            f"{', '.join(list(sections)[:5])}): is it for another year?"
        )
    normalised_by, skim_cut = _normalised_by(value["files"]), value["request"]["cut"]
    return Fileset(
        dataset=dataset,
        files=tuple(files),
        original={
            "events": value["totals"]["events_in"],
            "sum_of_weights": value["totals"]["sum_of_weights_in"],
            "eft_sums": _eft_sums(dataset, value["files"]),
            "theory_sums": _theory_sums(value["files"]),
            "lumi_sections": sections,
            "certified_sections": good,
            "normalised_by": normalised_by,
            "left_out": value["left_out"],
        },
        metadata={"dataset": dataset, **metadata},
        request_id=value["request_id"],
        losses=(
            *_left_out(value, metadata.get("data", False)),
            *_skimmed_before(normalised_by),
        ),
        held={entry["source"]: entry["held"]["events"] for entry in value["files"]},
        not_finite=_by_column(value["files"], "not_finite"),
        missing=_by_column(value["files"], "missing"),
        cut_columns=Expression(skim_cut).names if skim_cut is not None else frozenset(),
    )


def _check_kind(dataset: str, files: Sequence[Mapping[str, Any]], data: bool) -> None:
    """Refuse data whose events have their own weights, which only simulation has."""
    for entry in files if data else ():
        if entry["sum_of_weights_in"] != entry["events_in"]:
            raise DataFileError(
                f"dataset {dataset}: it is declared as data, but the events of {entry['source']} "
                "have a genWeight, as in simulation: remove data: true, or look up its files again"
            )


def _normalised_by(files: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Totals by the tree that has them: numbers of files, original events and weights, kept
    ones."""
    by_tree: dict[str, dict[str, float]] = {}
    for entry in files:
        total = by_tree.setdefault(entry["normalised_by"], dict.fromkeys(NORMALISED_BY, 0))
        held = entry["held"]
        of_file = (1, entry["events_in"], entry["sum_of_weights_in"], *held.values())
        for key, value in zip(NORMALISED_BY, of_file, strict=True):
            total[key] += value
    return by_tree


def _skimmed_before(normalised_by: Mapping[str, Mapping[str, float]]) -> list[Loss]:
    """A loss for files that were skimmed before the lookup."""
    of = normalised_by.get(RUNS)
    if of is None:
        return []
    message = (
        f"files skimmed before the lookup: {of['files']}, with {of['held_events']} of "
        f"{of['events']} generated events. They are normalised by their tree {RUNS}, with a sum of "
        f"weights of {of['sum_of_weights']:g}; that of the remaining events is "
        f"{of['held_sum_of_weights']:g}"
    )
    lost = of["events"] - of["held_events"]
    return [Loss("skimmed before", RUNS, lost, of["events"], "events", message)]


def _by_column(files: Sequence[Mapping[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    """An entry of the manifest's files, by column and file."""
    by_column: dict[str, dict[str, Any]] = {}
    for entry in files:
        for column, said in entry[key].items():
            by_column.setdefault(column, {})[entry["source"]] = said
    return by_column


def _eft_sums(dataset: str, files: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """The files' sums by term; empty if a skim left them out, None if the dataset has none."""
    carried = [entry for entry in files if entry["eft_sums_in"] is not None]
    summed = [entry for entry in carried if entry["eft_sums_in"]]
    numbers = {len(entry["eft_sums_in"]): entry["source"] for entry in summed}
    if len(numbers) > 1:
        counts = " and ".join(f"{number} in {source}" for number, source in numbers.items())
        raise DataFileError(
            f"dataset {dataset}: its files have different numbers of {EFT_COEFFICIENTS}: {counts}"
        )
    sums = [entry["eft_sums_in"] for entry in summed]
    # for a file with only a part of the events, its share of the sum is unknown
    complete = len(summed) == len(carried) and not any(
        entry["normalised_by"] == RUNS for entry in files
    )
    return (
        ([sum(term) for term in zip(*sums, strict=True)] if complete else []) if carried else None
    )


def _theory_sums(files: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """The files' sums by branch, for indices that every file with events has; None if not
    finite."""
    of_files = [entry["theory_sums_in"] for entry in files if entry["events_in"]]
    return {
        name: [
            None if None in place else sum(place)
            for place in zip(*(sums.get(name, []) for sums in of_files), strict=False)
        ]
        for name in sorted({name for sums in of_files for name in sums})
    }


def cut(chunk: Chunk, size: int) -> list[Chunk]:
    """A chunk divided into the fewest parts of at most `size` entries, with equal sizes."""
    number = max(1, -(-chunk.events // size))
    edges = [chunk.start + chunk.events * index // number for index in range(number + 1)]
    return [replace(chunk, start=start, stop=stop) for start, stop in pairwise(edges)]


def chunks_of(fileset: Fileset, size: int) -> list[Chunk]:
    """Every file that isn't bare, divided into the fewest chunks of at most `size` entries."""
    return [
        chunk
        for file in fileset.files
        if not file.bare
        for chunk in cut(Chunk(fileset.dataset, file, 0, file.events), size)
    ]


def tasks_of(chunks: Sequence[Chunk], task_events: int) -> list[tuple[Chunk, ...]]:
    """Neighbouring chunks in groups of up to `task_events`, which a worker sums before it reports.

    The grouping follows from the files alone, not from the workers, so that floating-point sums
    have the same order in every run. A group also ends after one in eight files, chosen by the
    file's identity, so that adding or correcting a file changes only the groups around it.
    """
    tasks: list[list[Chunk]] = []
    events, ended = 0, True
    for chunk in chunks:
        if ended or events + chunk.events > task_events:
            tasks.append([])
            events = 0
        tasks[-1].append(chunk)
        events += chunk.events
        ended = chunk.stop == chunk.file.events and zlib.crc32(chunk.file.uuid.encode()) % 8 == 0
    return [tuple(task) for task in tasks]


def _left_out(manifest: Mapping[str, Any], data: bool) -> Iterator[Loss]:
    """A loss for each file that the dataset's `leave_out` names."""
    left_out = manifest["left_out"]
    files = len(manifest["files"]) + len(left_out)
    numbers = [file["events"] for file in left_out]
    events = None if None in numbers else manifest["totals"]["events_in"] + sum(numbers)
    for file in left_out:
        held = "" if file["events"] is None else f" with its {file['events']} events"
        meant = (
            "Reduce lumi_ifb by the luminosity of this file."
            if data
            else "Simulation is normalised to the events that are read."
        )
        yield Loss(
            kind="file left out",
            name=file["name"],
            count=1 if file["events"] is None else file["events"],
            of=files if file["events"] is None else events,
            unit="files" if file["events"] is None else "events",
            message=f"{file['name']} is left out{held}. {meant}",
            allowed="leave_out",
        )
