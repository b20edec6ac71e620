"""The transform of one file: read columns, keep the selected events, write them."""

import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
from awkward.contents import RecordArray

from looseleaf.cost import Stopwatch
from looseleaf.errors import DataFileError, RemoteReadFailed, reading
from looseleaf.files import adler32, adler32_of, whole
from looseleaf.nanoaod import TREE, Events, choose_branches, open_events
from looseleaf.objects.branches import (
    EFT_COEFFICIENTS,
    WEIGHT,
    first_present,
    is_theory_weight,
    is_trigger,
)
from looseleaf.objects.expressions import Expression
from looseleaf.objects.luminosity import Sections, sections
from looseleaf.parquet import ParquetTree
from looseleaf.servicex.formats import ORIGINAL, RUNS, Result, create
from looseleaf.servicex.jagged import NotFinite, check_lists, selected, writable
from looseleaf.servicex.runs import Runs, read_runs
from looseleaf.shape import COUNT, NUMBER, TEXT, check
from looseleaf.stage_files import EFT_SUMS, HELD, MISSING, NOT_FINITE, RESULT, SECTIONS, THEORY_SUMS

# events read and written at a time, and their size in bytes; larger baskets are cheaper here, but
# more expensive if a chunk of processing ends within one
STEP, STEP_BYTES = 100_000, 64_000_000
# one entry for each luminosity section, as in NanoAOD
LUMINOSITY_BLOCKS = "LuminosityBlocks"
# the tolerance between Runs and Events, relative to the sum of absolute weights
SUM_TOLERANCE = 1e-3
# what NanoAODSchema and every normalisation need, in addition to the requested columns
IDENTITY = {"run": np.uint32, "luminosityBlock": np.uint32, "event": np.uint64}
ALWAYS = (*IDENTITY, WEIGHT)
# what a result stores about its original file; results of earlier versions store less
SAID = {"events": COUNT, "sum_of_weights": NUMBER}
SAID_LATER = {
    "kept": COUNT,
    "eft_sums": EFT_SUMS,
    "theory_sums": THEORY_SUMS,
    "lumi_sections": (SECTIONS,),
    "normalised_by": TEXT,
    "held": HELD,
    "not_finite": NOT_FINITE,
    "missing": MISSING,
}


@dataclass(frozen=True)
class TreeQuery:
    """What to keep of one tree of a file, and its name in the result.

    `columns` are required and may be alternatives `A|B`; `patterns` and `typenames` are shell
    patterns for further branches; `computed` are new columns as expressions of the selected events,
    by name, where those called `<collection>_...` belong to one of the `collections`. `cut` is an
    expression over event-level branches, None to keep every event. An `optional` tree may be
    missing. With `may_lack`, missing trigger paths are written as not fired. A tree without events
    needs no columns.
    """

    tree: str = TREE
    to: str = TREE
    columns: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    typenames: tuple[str, ...] = ()
    computed: tuple[tuple[str, str], ...] = ()
    collections: tuple[str, ...] = ()
    cut: str | None = None
    optional: bool = False
    may_lack: bool = False


@dataclass(frozen=True)
class FileTask:
    """One input file of a request, and the place of its result.

    The totals of the original file (events, sums of weights) are counted while the first of
    `queries` is carried out; if the file is itself a skim, they are those stored in it, or in its
    tree `original`. The same `work` on the same file gives the result the same UUID. With `verify`,
    a file is read completely, also a remote one, and checked against its checksum before it is
    used.
    """

    name: str
    urls: tuple[str, ...]
    expected_bytes: int | None
    expected_events: int | None
    expected_adler32: str | None
    queries: tuple[TreeQuery, ...]
    output: str
    work: str
    format: str = "root-file"
    original: str | None = None
    verify: bool = False


@dataclass(frozen=True)
class FileResult:
    """The result of one file: events and sums of weights before and after the selection.

    `sum_of_weights` is the sum of genWeight (in data, the number of events). `eft_sums` are the
    sums of the EFT coefficients, if the file has them, and empty if the skim left them out.
    `theory_sums` are those of the kept theory weights by branch and index, times the event's own
    weight (in an EFT sample, the Standard Model's), and None if one isn't finite. `*_in` are over
    all events of the original file, as needed for the normalisation, `*_out` over the written ones.
    `normalised_by` is the tree with these totals: `Events`, or `Runs` if it has more; `held` are
    the events and the sum of weights of Events. `lumi_sections` are those of the original file, in
    data.

    `not_finite` counts values of columns that aren't finite (in all events if the cut uses the
    column, else in the written ones). `missing` are the trigger paths that the file lacks, with
    similar names if it has no other path of the same list. A `bare` result has no events and lacks
    columns. `source_url` is where the file was read from, `passed_over` are the problems with the
    addresses before it.
    """

    source: str
    source_url: str
    passed_over: list[str]
    source_uuid: str
    output: str
    bytes: int
    adler32: str
    uuid: str
    events_in: int
    events_out: int
    sum_of_weights_in: float
    sum_of_weights_out: float
    eft_sums_in: list[float] | None
    theory_sums_in: dict[str, list[float | None]]
    lumi_sections: Sections | None
    normalised_by: str
    held: dict[str, float]
    not_finite: dict[str, dict[str, Any]]
    missing: dict[str, list[str]]
    bare: bool
    cost: dict[str, float]

    @property
    def events_read(self) -> int:
        """The number of events that were read; for a skim, its own."""
        return int(self.cost["events"])

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any, where: str) -> "FileResult":
        """The result in a JSON object; `DataFileError` names `where` and the field that is
        wrong."""
        check(value, RESULT, where)
        return cls(**{field.name: value[field.name] for field in fields(cls)})


def collections_of(branches: list[str], present: set[str]) -> dict[str, list[str]]:
    """Branches by NanoAOD collection; other branches are by their own name.

    `Muon_pt` belongs to `Muon` if the file has the counter `nMuon`, which is written with the
    collection.
    """
    groups: dict[str, list[str]] = {}
    for branch in branches:
        prefix = branch.partition("_")[0]
        groups.setdefault(prefix if f"n{prefix}" in present else branch, []).append(branch)
    return {name: of for name, of in groups.items() if not (name[0] == "n" and name[1:] in groups)}


def transform_file(task: FileTask) -> FileResult:
    """Carry out a request on one file; `task.output` is written completely or not at all.

    The URLs are tried in turn until one gives the complete file. Raises `DataFileError` if none
    does (the file lacks a branch, can't be read to its end, or differs from the catalogue in its
    size, its number of events or, on this machine and with `verify`, its checksum), and
    `RemoteReadFailed` if a later try may work.
    """
    if not task.urls:
        raise DataFileError(f"{task.name}: nowhere to read it from: the site has no redirectors")
    problems: list[str] = []
    failure: type[DataFileError] = DataFileError
    for url in task.urls:
        try:
            return _transform(task, url, problems)
        except DataFileError as problem:
            problems.append(str(problem))
            failure = RemoteReadFailed if isinstance(problem, RemoteReadFailed) else failure
    raise failure("; ".join(problems))


def _transform(task: FileTask, url: str, passed_over: list[str]) -> FileResult:
    watch = Stopwatch()
    output = Path(task.output)
    with open_events(url, task.queries[0].tree) as file, whole(output) as part:
        with reading(url):
            entries = file.tree.num_entries
        agrees(url, "bytes", file.size, task.expected_bytes)
        before = entries if task.original is None else _tree(file, task.original, url).num_entries
        agrees(url, "events", before, task.expected_events)
        if task.expected_adler32 is not None and (task.verify or "://" not in url):
            with reading(url):
                # a remote file through the connection with which its events are read
                checksum = adler32_of(file.blocks()) if "://" in url else adler32(url)
            agrees(url, "as its adler32", checksum, task.expected_adler32)
        original, sums, seen = _known(file, task, url), Sums(), Seen()
        identity = uuid.uuid5(uuid.NAMESPACE_URL, f"{task.work}:{file.uuid}")
        with create(part, task.format, identity) as result:
            for query in task.queries:
                if query is task.queries[0]:
                    _keep(query, file, url, result, (sums, seen))
                else:
                    _keep(query, file, url, result)
            if sums.events_in + sums.left_out != entries:
                raise DataFileError(
                    f"{url}: {sums.events_in + sums.left_out} of its {entries} events could be read"
                )
            if original is None:
                original = counted(sums, file, url, TREE)
            original |= seen.since(original)
            kept = {"kept": sums.events_out} if task.queries[0].to == TREE else {}
            result.describe({**original, **kept, "source": task.name})
        read, known = file.bytes_read, file.uuid
    return FileResult(
        source=task.name,
        source_url=url,
        passed_over=passed_over,
        source_uuid=known,
        output=output.name,
        bytes=output.stat().st_size,
        adler32=adler32(output),
        uuid=str(identity),
        events_in=original["events"],
        events_out=sums.events_out,
        sum_of_weights_in=original["sum_of_weights"],
        sum_of_weights_out=sums.weights_out,
        eft_sums_in=original["eft_sums"],
        theory_sums_in=original["theory_sums"],
        lumi_sections=original["lumi_sections"],
        normalised_by=original["normalised_by"],
        held=original["held"],
        not_finite=original["not_finite"],
        missing=original["missing"],
        bare=seen.bare,
        cost=watch.cost(entries, read).to_json(),
    )


def _known(file: Events, task: FileTask, url: str) -> dict[str, Any] | None:
    """The totals of the original file that are known before the events are read.

    None if the events have to be counted.
    """
    said = said_of(file, url)
    if said is not None:
        return said
    if task.original is None and not isinstance(file.tree, ParquetTree):
        return None
    # Parquet files are checked for these columns only
    name, sums = task.original or task.queries[0].tree, Sums()
    tree = _tree(file, name, url)
    present = tree.keys(recursive=False)
    query = task.queries[0]
    selected_names = present
    if task.original is None:
        # missing branches are reported when the query is carried out
        listed = {name for column in query.columns for name in column.split("|")}
        selected_names = [name for name in present if name in listed] + _matching(query, tree)
    needed = [n for n in (WEIGHT, EFT_COEFFICIENTS) if n in present]
    needed += filter(is_theory_weight, dict.fromkeys(selected_names))
    for arrays in steps(tree, url, needed or present[:1]):
        _add(sums, arrays, None, url)
    return counted(sums, file, url, name)


def said_of(file: Events, url: str) -> dict[str, Any] | None:
    """The totals that our own skim stores about its original file; None for any other file.

    If the file no longer has the events that it was written with, or its tree Runs has another
    number of original events, skims were merged or skimmed again: then Runs has the totals. Raises
    `DataFileError` if it doesn't exist.
    """
    with reading(url):
        said = file.said(ORIGINAL)
    if said is None:
        return None
    check(said, SAID, f"{url}: {ORIGINAL}")
    check(said, {k: s for k, s in SAID_LATER.items() if k in said}, f"{url}: {ORIGINAL}")
    entries = file.directory[TREE].num_entries if TREE in file.directory else None
    if entries is not None and said.get("kept", entries) != entries:
        if RUNS in file.directory:
            return None
        raise DataFileError(
            f"{url}: has {entries} events, but was written as a skim with {said['kept']}: it was "
            "merged or skimmed by a tool that doesn't keep the totals; use the files "
            "from which it was made"
        )
    runs = read_runs(file, url)
    if runs is not None and runs.events not in (None, said["events"]):
        return None
    held = {"events": said["events"], "sum_of_weights": said["sum_of_weights"]}
    return {
        "eft_sums": None,
        "theory_sums": {},
        "lumi_sections": None,
        "normalised_by": TREE,
        "held": held,
        **said,
    }


def counted(sums: "Sums", file: Events, url: str, tree: str) -> dict[str, Any]:
    """The totals of the original file, once all events are summed.

    If its tree Runs has more events, the file is itself a skim, and the totals are those of Runs,
    which has none of EFT coefficients. Raises `DataFileError` if Runs has fewer events, the same
    number with another sum of weights, or only one of both and it differs.
    """
    events, runs = _of_events(sums, file, url, tree), read_runs(file, url)
    held = {"events": sums.events_in, "sum_of_weights": sums.weights_in}
    events |= {"normalised_by": TREE, "held": held}
    if runs is None:
        return events
    if runs.events is None or runs.sum_of_weights is None:
        _agrees_as_far_as_known(runs, sums, url)
        return events
    if runs.events < sums.events_in:
        raise DataFileError(
            f"{url}: holds {sums.events_in} events, but its tree {RUNS} says that {runs.events} "
            f"were generated: files were merged without their {RUNS}. Merge them with haddnano.py, "
            "or leave the file out (leave_out of the dataset)"
        )
    if runs.events == sums.events_in:
        if _differs(runs.sum_of_weights, sums):
            raise DataFileError(
                f"{url}: the weights of its {sums.events_in} events add up to "
                f"{sums.weights_in:.9g}, but its tree {RUNS} says {runs.sum_of_weights:.9g}: "
                "one of "
                "them was changed. Make the file again, or leave it out (leave_out of the dataset)"
            )
        return events
    return {
        **events,
        "events": runs.events,
        "sum_of_weights": runs.sum_of_weights,
        "eft_sums": None if events["eft_sums"] is None else [],
        "theory_sums": runs.theory_sums if events["eft_sums"] is None else {},
        "normalised_by": RUNS,
    }


def _differs(sum_of_weights: float, sums: "Sums") -> bool:
    return abs(sum_of_weights - sums.weights_in) > SUM_TOLERANCE * sums.absolute_in


def _agrees_as_far_as_known(runs: Runs, sums: "Sums", url: str) -> None:
    """Refuse a file whose tree Runs lacks the number of events or their sum of weights, if the
    other isn't that of its events."""
    if runs.sum_of_weights is not None and _differs(runs.sum_of_weights, sums):
        said = f"a sum of weights of {runs.sum_of_weights:.9g}"
    elif runs.events not in (None, sums.events_in):
        said = f"{runs.events} events"
    else:
        return
    raise DataFileError(
        f"{url}: holds {sums.events_in} events with a sum of weights of {sums.weights_in:.9g}, but "
        f"its tree {RUNS} says {said}, and lacks {runs.lacks}: the tool that skimmed it keeps one "
        "of both. Use the files from which it was made, or keep both"
    )


def _of_events(sums: "Sums", file: Events, url: str, tree: str) -> dict[str, Any]:
    eft = sums.eft_in
    if eft is None and sums.events_in:
        # they are noted even if the skim doesn't request them
        collections = {
            name.removeprefix("n") for name in _tree(file, tree, url).keys(recursive=False)
        }
        eft = [] if EFT_COEFFICIENTS in collections else None
    return {
        "events": sums.events_in,
        "sum_of_weights": sums.weights_in,
        "eft_sums": eft,
        "theory_sums": {
            name: [total if isfinite(total) else None for total in places]
            for name, places in sums.theory_in.items()
        },
        "lumi_sections": None if sums.weighted else _sections(file, url, tree),
    }


def _tree(file: Events, name: str, url: str) -> Any:
    if name not in file.directory:
        raise DataFileError(
            f"{url}: no {name} tree, so the totals of the original file are unknown"
        )
    return file.directory[name]


def _keep(
    query: TreeQuery,
    file: Events,
    url: str,
    result: Result,
    counts: "tuple[Sums, Seen] | None" = None,
) -> None:
    """Carry out one query of a task.

    `counts` are filled from the events that are read: all of the tree but, of Parquet, row groups
    that can't pass the cut. The totals of those are known before (`_known`).
    """
    if query.tree not in file.directory:
        if query.optional:
            return
        raise DataFileError(f"{url}: no {query.tree} tree, but the request needs columns of it")
    tree = file.directory[query.tree]
    plan = _planned(query, tree, url)
    of_cut = plan.of_cut
    types: dict[str, Any] = {}
    if counts is not None:
        counts[1].lacks(query, plan, tree)
        if isinstance(tree, ParquetTree):
            counts[0].left_out = tree.num_entries - tree.events(tree.left(query.cut))
            if counts[0].left_out and tree.floating(of_cut):
                # an event with a NaN there is dropped as well
                for arrays in steps(tree, url, tree.floating(of_cut)):
                    counts[1].not_finite.add(arrays, arrays.fields)
                of_cut = []
    for arrays in steps(tree, url, plan.read, query.cut):
        check_lists(arrays, plan.groups, url)
        for name in plan.never:
            arrays[name] = np.zeros(len(arrays), bool)
        mask = None if plan.cut is None else plan.cut.keeps(arrays)
        kept = selected(arrays, mask)
        if counts is not None:
            _add(counts[0], arrays, mask, url)
            counts[1].not_finite.add(arrays, of_cut)
            counts[1].not_finite.add(kept, _checked(plan))
        made = {name: _column(expression, kept, url) for name, expression in plan.computed.items()}
        for name, column in made.items():
            kept[name] = column
            here = ak.type(column).content
            if types.setdefault(name, here) != here:
                raise DataFileError(
                    f"{url}: {plan.computed[name].text!r} is {types[name]} for some events and "
                    f"{here} for others: multiply it by 1.0"
                )
        result.extend(query.to, *_identified(query, kept, plan.written(query)))


@dataclass(frozen=True)
class _Plan:
    """The branches of a query in a tree with the branches `present`.

    `branches` are written, in `groups` by collection; `read` are these and others that are needed.
    `lacking` are columns that the tree lacks, and `never` the trigger paths among them, which count
    as not fired. In a tree without events, columns may be missing.
    """

    present: list[str]
    branches: list[str]
    read: list[str]
    groups: dict[str, list[str]]
    lacking: list[str]
    never: list[str]
    cut: Expression | None
    computed: dict[str, Expression]

    @property
    def of_cut(self) -> list[str]:
        """The branches that the cut reads."""
        return [] if self.cut is None else [n for n in sorted(self.cut.names) if n in self.present]

    def written(self, query: TreeQuery) -> dict[str, list[str]]:
        """The written branches, by collection."""
        computed = _grouped(list(self.computed), query.collections)
        return {**self.groups, **computed, **{name: [name] for name in self.never}}


def _planned(query: TreeQuery, tree: Any, url: str) -> _Plan:
    """The plan of a query; `DataFileError` if the tree lacks required branches."""
    present = tree.keys(recursive=False)
    cut = Expression(query.cut) if query.cut is not None and tree.num_entries else None
    computed = {name: Expression(text) for name, text in query.computed}
    names = sorted(
        {n for part in (cut, *computed.values()) if part is not None for n in part.names}
    )
    lacking = [c for c in (*query.columns, *names) if first_present(c, present) is None]
    never = _never_fired(lacking) if query.may_lack else []
    forgiven = [c for c in lacking if not tree.num_entries or set(c.split("|")) <= set(never)]
    if not tree.num_entries:
        computed = {n: part for n, part in computed.items() if part.names.isdisjoint(lacking)}

    def chosen(columns: Iterable[str]) -> list[str]:
        return choose_branches(url, present, [c for c in columns if c not in forgiven])

    always = ALWAYS if query.to == TREE else ()
    branches = _once(chosen(query.columns), _matching(query, tree), _among(always, present))
    groups = collections_of(branches, set(present))
    # nothing is summed without the weight
    beside = _among([*(f"n{c}" for c in groups), WEIGHT], present)
    read = _once(branches, chosen(names), beside)
    return _Plan(present, branches, read, groups, lacking, never, cut, computed)


def _never_fired(lacking: Iterable[str]) -> list[str]:
    """The trigger paths among columns that a tree lacks."""
    return _once(name for column in lacking if is_trigger(column) for name in column.split("|"))


def _once(*names: Iterable[str]) -> list[str]:
    """Names in their order, each once."""
    return list(dict.fromkeys(name for part in names for name in part))


def _among(names: Iterable[str], present: Sequence[str]) -> list[str]:
    return [name for name in names if name in present]


def _identified(
    query: TreeQuery, kept: ak.Array, written: dict[str, list[str]]
) -> tuple[ak.Array, dict[str, list[str]]]:
    """The written events; if there are none, with the branches that every NanoAOD file has."""
    if query.to == TREE and len(kept) == 0:
        for name in (name for name in IDENTITY if name not in kept.fields):
            kept[name] = np.zeros(0, IDENTITY[name])
            written = {**written, name: [name]}
    return kept, written


def _checked(plan: _Plan) -> list[str]:
    """The branches in which values that aren't finite are counted in the kept events.

    Theory weights and sums are checked separately, and the cut's branches in all events.
    """
    return [
        name
        for name in plan.branches
        if name not in (WEIGHT, EFT_COEFFICIENTS, *plan.of_cut) and not is_theory_weight(name)
    ]


class Seen:
    """What was noticed in the first query of a task, for `FileResult`."""

    def __init__(self) -> None:
        self.not_finite = NotFinite()
        self.missing: dict[str, list[str]] = {}
        self.bare = False

    def lacks(self, query: TreeQuery, plan: _Plan, tree: Any) -> None:
        """Note the columns of a query that a tree lacks."""
        if not tree.num_entries:
            self.bare = any(not set(c.split("|")) <= set(plan.never) for c in plan.lacking)
        elif query.may_lack:
            paths = [name for name in plan.present if is_trigger(name)]
            asked = [n for c in query.columns if is_trigger(c) for n in c.split("|")]
            self.missing = {
                name: get_close_matches(name, paths, 3) if name in plan.never else []
                for name in dict.fromkeys([*asked, *plan.never])
                if name not in plan.present
            }

    def since(self, original: dict[str, Any]) -> dict[str, Any]:
        """The notes for a result, together with those stored in the original file."""
        return {
            "not_finite": {**original.get("not_finite", {}), **self.not_finite.by_column()},
            "missing": {**original.get("missing", {}), **self.missing},
        }


def _column(expression: Expression, events: ak.Array, url: str) -> Any:
    """A new column; `DataFileError` if some events have no value."""
    column = expression(events)
    if not isinstance(column, ak.Array) or not isinstance(column.type.content, ak.types.OptionType):
        return column
    if ak.any(ak.is_none(column)):
        raise DataFileError(
            f"{url}: {expression.text!r} has no value in some events because the list is empty: "
            "cut these events"
        )
    return ak.drop_none(column)


def _grouped(computed: list[str], collections: tuple[str, ...]) -> dict[str, list[str]]:
    """Computed columns by their collection."""
    groups: dict[str, list[str]] = {}
    for name in computed:
        of = next((c for c in collections if name.startswith(f"{c}_")), name)
        groups.setdefault(of, []).append(name)
    return groups


def _matching(query: TreeQuery, tree: Any) -> list[str]:
    if not query.patterns and not query.typenames:
        return []
    branches: list[str] = tree.keys(
        recursive=False,
        filter_name=list(query.patterns) or None,
        filter_typename=list(query.typenames) or None,
    )
    if not branches and not query.columns and not query.computed and tree.num_entries:
        asked = ", ".join((*query.patterns, *query.typenames))
        raise DataFileError(f"{query.tree}: no branch matches {asked}")
    return branches


def agrees(url: str, quantity: str, actual: int | str, expected: int | str | None) -> None:
    """Raise `DataFileError` if a file differs from the lookup (None: not known)."""
    if expected is not None and actual != expected:
        raise DataFileError(
            f"{url}: has {actual} {quantity}, but the lookup said {expected}: the file is cut off "
            "or changed; if it is right, look it up again (snakemake --forcerun das_lookup)"
        )


def _sections(file: Events, url: str, events: str) -> Sections | None:
    """The luminosity sections of a file, including those without recorded events.

    None in a file that isn't NanoAOD.
    """
    name = next((n for n in (LUMINOSITY_BLOCKS, events) if n in file.directory), None)
    if name is None or not {"run", "luminosityBlock"} <= set(file.directory[name].keys()):
        return None
    parts = [*steps(file.directory[name], url, ["run", "luminosityBlock"])]
    return sections(
        *(
            np.concatenate([ak.to_numpy(part[n]) for part in parts])
            for n in ("run", "luminosityBlock")
        )
    )


def steps(tree: Any, url: str, branches: list[str], cut: str | None = None) -> Iterator[ak.Array]:
    """The events in steps; at least one, without events, so that an empty file keeps its branches.

    For Parquet, row groups in which no event can pass `cut` are skipped.
    """
    with reading(url):
        if not branches:
            yield ak.Array(RecordArray([], [], length=tree.num_entries))
        elif isinstance(tree, ParquetTree):
            yield from map(writable, tree.steps(branches, STEP, cut))
        elif tree.num_entries == 0:
            yield writable(tree.arrays(branches, library="ak"))
        else:
            size = _step(tree, branches)
            yield from map(writable, tree.iterate(branches, step_size=size, library="ak"))


def _step(tree: Any, branches: list[str]) -> int:
    """How many events to read at a time; fewer if the columns are large.

    The sizes are those that a TTree states for its branches. uproot's own way reads the head of
    every basket, each with a request to a remote storage. An RNTuple states no sizes.
    """
    sizes = [getattr(tree[name], "uncompressed_bytes", 0) for name in branches]
    entries: int = tree.num_entries
    return max(1, min(STEP, STEP_BYTES * entries // max(sum(sizes), 1)))


def _add(sums: "Sums", arrays: ak.Array, mask: np.ndarray | None, url: str) -> None:
    try:
        sums.add(arrays, mask)
    except DataFileError as problem:
        raise DataFileError(f"{url}: {problem}") from None


class Sums:
    """Events and sums of weights before and after the selection, in double precision.

    `absolute_in` is the sum of absolute weights; `left_out` are events that weren't read because
    they can't pass the cut.
    """

    def __init__(self) -> None:
        self.events_in = self.events_out = self.left_out = 0
        self.weights_in = self.weights_out = self.absolute_in = 0.0
        self.weighted = False
        self.eft_in: list[float] | None = None
        self.theory_in: dict[str, list[float]] = {}

    def add(self, arrays: ak.Array, mask: np.ndarray | None) -> None:
        """Add a step of events, of which `mask` selects those that are kept."""
        size = len(arrays)
        kept = slice(None) if mask is None else mask
        self.weighted = WEIGHT in arrays.fields
        weights = ak.to_numpy(arrays[WEIGHT]).astype(np.float64) if self.weighted else np.ones(size)
        if not np.isfinite(weights).all():
            raise DataFileError("genWeight is NaN or infinite in some events")
        self.events_in += size
        self.events_out += size if mask is None else int(mask.sum())
        self.weights_in += float(weights.sum())
        self.absolute_in += float(np.abs(weights).sum())
        self.weights_out += float(weights[kept].sum())
        if EFT_COEFFICIENTS in arrays.fields and size > 0:
            counts = ak.num(arrays[EFT_COEFFICIENTS], axis=1)
            if not ak.all(counts == counts[0]):
                raise DataFileError(f"{EFT_COEFFICIENTS}: their number differs between events")
            terms = ak.to_numpy(arrays[EFT_COEFFICIENTS]).astype(np.float64)
            if not np.isfinite(terms).all():
                raise DataFileError(f"{EFT_COEFFICIENTS} are NaN or infinite in some events")
            total = terms.sum(axis=0)
            before = 0.0 if self.eft_in is None else np.array(self.eft_in)
            self.eft_in = (before + total).tolist()
            weights = terms[:, 0]
        for name in filter(is_theory_weight, arrays.fields):
            if arrays[name].ndim == 2 and size > 0:
                self._add_theory(name, arrays[name], weights)

    def _add_theory(self, name: str, values: ak.Array, weights: np.ndarray) -> None:
        # the indices that every event has
        places = int(ak.min(ak.num(values, axis=1)))
        relative = ak.to_numpy(values[:, :places]).astype(np.float64)
        before = self.theory_in.get(name, [0.0] * places)
        self.theory_in[name] = [
            a + b for a, b in zip(before, (weights @ relative).tolist(), strict=False)
        ]
