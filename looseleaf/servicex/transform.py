"""The work of a transform on one file: read columns, keep the selected events, write them."""

import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np

from looseleaf.cost import Stopwatch
from looseleaf.errors import DataFileError, ReadFailed, reading
from looseleaf.files import adler32, adler32_of, whole
from looseleaf.nanoaod import TREE, Events, choose_branches, open_events
from looseleaf.objects.branches import EFT_COEFFICIENTS, WEIGHT, is_theory_weight
from looseleaf.objects.expressions import Expression
from looseleaf.objects.luminosity import Sections, sections
from looseleaf.parquet import ParquetTree
from looseleaf.servicex.columns import selected
from looseleaf.servicex.formats import ORIGINAL, Result, create

# events read and written at a time, and how many bytes of them; larger baskets cost less here and
# more where a chunk of processing ends within one
STEP, STEP_BYTES = 100_000, 64_000_000
# one entry for each luminosity section, as NanoAOD has it
LUMINOSITY_BLOCKS = "LuminosityBlocks"
# what coffea's NanoAODSchema and every normalisation need, whatever else is asked for
ALWAYS = ("run", "luminosityBlock", "event", WEIGHT)


@dataclass(frozen=True)
class TreeQuery:
    """What to keep of one tree of a file, and what to call it.

    `columns` have to be there and may be alternatives `A|B`; `patterns` and `typenames` are shell
    patterns for further branches; `computed` are new columns as expressions of the selected events,
    by name, those called `<collection>_...` objects of one of the `collections`. `cut` is an
    expression over event-level branches, None to keep every event. An `optional` tree may be
    missing.
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


@dataclass(frozen=True)
class FileTask:
    """One input file of a request, and where its result goes.

    What the result says of the original file (events, sums of weights) is counted while the first
    of `queries` is carried out; where the file is itself a skim, it is what the skim says, or what
    its tree `original` holds. The same `work` on the same file gives the result the same uuid.
    To `verify`, a file is read whole, also elsewhere, and held to its checksum before it is used.
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
    """What became of one file: events and sums of weights before and after the selection.

    `sum_of_weights` is the sum of genWeight (the number of events where there is none, in data);
    `eft_sums` the sums of the EFT coefficients, where the file has them, and none of them where
    the skim has left them out; `theory_sums` those of the theory weights that are kept, by branch
    and place, each times the event's own weight, in an EFT sample the Standard Model's, and None
    where one is no number. `*_in` speak of all events of the original file, which is what
    normalisation needs, `*_out` of those written. `lumi_sections` are those of the original file,
    in data.
    `source_url` is where the file was read from, `passed_over` what was the matter with the
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
    cost: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def collections_of(branches: list[str], present: set[str]) -> dict[str, list[str]]:
    """Branches by the NanoAOD collection that they belong to; single branches under their own
    name. `Muon_pt` belongs to `Muon` if the file has the counter `nMuon`, which is written with
    the collection."""
    groups: dict[str, list[str]] = {}
    for branch in branches:
        prefix = branch.partition("_")[0]
        groups.setdefault(prefix if f"n{prefix}" in present else branch, []).append(branch)
    return {name: of for name, of in groups.items() if not (name[0] == "n" and name[1:] in groups)}


def transform_file(task: FileTask) -> FileResult:
    """Carry out a request on one file; the result stands whole at `task.output` or not at all.

    The URLs are tried in turn until one gives the whole file. Raises `DataFileError` if none
    does, and `ReadFailed` if a later try may do: if the file lacks a branch, can't be read to its
    end, or has another size, number of events or, on this machine and where it is to be verified,
    checksum than the catalogue says.
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
            failure = ReadFailed if isinstance(problem, ReadFailed) else failure
    raise failure("; ".join(problems))


def _transform(task: FileTask, url: str, passed_over: list[str]) -> FileResult:
    watch = Stopwatch()
    output = Path(task.output)
    with open_events(url, task.queries[0].tree) as file, whole(output) as part:
        entries = file.tree.num_entries
        agrees(url, "bytes", file.size, task.expected_bytes)
        before = entries if task.original is None else _tree(file, task.original, url).num_entries
        agrees(url, "events", before, task.expected_events)
        if task.expected_adler32 is not None and (task.verify or "://" not in url):
            with reading(url):
                found = adler32_of(file.blocks())
            agrees(url, "as its adler32", found, task.expected_adler32)
        original, sums = _known(file, task, url), Sums()
        identity = uuid.uuid5(uuid.NAMESPACE_URL, f"{task.work}:{file.uuid}")
        with create(part, task.format, identity) as result:
            for query in task.queries:
                if query is task.queries[0]:
                    _keep(query, file, url, result, sums, original is not None)
                else:
                    _keep(query, file, url, result)
            if sums.events_in + sums.left_out != entries:
                raise DataFileError(
                    f"{url}: {sums.events_in + sums.left_out} of its {entries} events could be read"
                )
            if original is None:
                original = _counted(sums, file, url, TREE)
            result.describe({**original, "source": task.name})
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
        cost=watch.cost(entries, read).to_json(),
    )


def _known(file: Events, task: FileTask, url: str) -> dict[str, Any] | None:
    """What can be said of the original file before the events are read, as results say it; None
    where they have to be gone through."""
    said = file.said(ORIGINAL)
    if said is not None:
        # the skim of a skim: what the first one was made from
        return {"eft_sums": None, "theory_sums": {}, "lumi_sections": None, **said}
    if task.original is None and not isinstance(file.tree, ParquetTree):
        return None
    # of Parquet only these columns are read whole
    name, sums = task.original or task.queries[0].tree, Sums()
    tree = _tree(file, name, url)
    there = tree.keys(recursive=False)
    query = task.queries[0]
    asked = there
    if task.original is None:
        asked = choose_branches(url, there, query.columns) + _matching(query, tree)
    wanted = [n for n in (WEIGHT, EFT_COEFFICIENTS) if n in there]
    wanted += filter(is_theory_weight, dict.fromkeys(asked))
    for arrays in steps(tree, url, wanted or there[:1]):
        _add(sums, arrays, None, url)
    return _counted(sums, file, url, name)


def _counted(sums: "Sums", file: Events, url: str, tree: str) -> dict[str, Any]:
    eft = sums.eft_in
    if eft is None and sums.events_in:
        # the skim may not have asked for them: that they are there is to be known
        there = {name.removeprefix("n") for name in _tree(file, tree, url).keys(recursive=False)}
        eft = [] if EFT_COEFFICIENTS in there else None
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
        raise DataFileError(f"{url}: no {name} tree: nothing says what the original file held")
    return file.directory[name]


def _keep(
    query: TreeQuery,
    file: Events,
    url: str,
    result: Result,
    sums: "Sums | None" = None,
    may_leave_out: bool = True,
) -> None:
    """Carry out one query of a task; `sums` are made of the events read, which are all of the tree
    unless those that can't pass the cut may be left out."""
    if query.tree not in file.directory:
        if query.optional:
            return
        raise DataFileError(f"{url}: no {query.tree} tree, of which columns are asked for")
    tree = file.directory[query.tree]
    present = tree.keys(recursive=False)
    cut = Expression(query.cut) if query.cut is not None else None
    computed = {name: Expression(text) for name, text in query.computed}
    branches = choose_branches(url, present, query.columns) + _matching(query, tree)
    if query.to == TREE:
        branches += [name for name in ALWAYS if name in present]
    branches = list(dict.fromkeys(branches))
    groups = collections_of(branches, set(present))
    names = {name for part in (cut, *computed.values()) if part is not None for name in part.names}
    extra = choose_branches(url, present, sorted(names))
    if sums is not None:
        extra += [WEIGHT] if WEIGHT in present else []
    pushed = query.cut if may_leave_out else None
    if sums is not None and isinstance(tree, ParquetTree):
        sums.left_out = tree.num_entries - tree.events(tree.left(pushed))
    for arrays in steps(tree, url, list(dict.fromkeys([*branches, *extra])), pushed):
        mask = None if cut is None else cut.keeps(arrays)
        if sums is not None:
            _add(sums, arrays, mask, url)
        kept = selected(arrays, mask)
        made = {name: _column(expression, kept, url) for name, expression in computed.items()}
        for name, column in made.items():
            kept[name] = column
        result.extend(query.to, kept, {**groups, **_grouped(list(computed), query.collections)})


def _column(expression: Expression, events: ak.Array, url: str) -> Any:
    """A new column; `DataFileError` if it has no value in some of the events."""
    column = expression(events)
    if not isinstance(column, ak.Array) or not isinstance(column.type.content, ak.types.OptionType):
        return column
    if ak.any(ak.is_none(column)):
        raise DataFileError(
            f"{url}: {expression.text!r} has no value in some events, where the list is empty: "
            "leave these out"
        )
    return ak.drop_none(column)


def _grouped(computed: list[str], collections: tuple[str, ...]) -> dict[str, list[str]]:
    """Computed columns by the collection that they are written with."""
    groups: dict[str, list[str]] = {}
    for name in computed:
        of = next((c for c in collections if name.startswith(f"{c}_")), name)
        groups.setdefault(of, []).append(name)
    return groups


def _matching(query: TreeQuery, tree: Any) -> list[str]:
    if not query.patterns and not query.typenames:
        return []
    found = tree.keys(
        recursive=False,
        filter_name=list(query.patterns) or None,
        filter_typename=list(query.typenames) or None,
    )
    if not found and not query.columns and not query.computed:
        asked = ", ".join((*query.patterns, *query.typenames))
        raise DataFileError(f"{query.tree}: no branch matches {asked}")
    return found


def agrees(url: str, what: str, found: int | str, expected: int | str | None) -> None:
    """Raise `DataFileError` for a file that isn't as it was looked up (None: not known)."""
    if expected is not None and found != expected:
        raise DataFileError(
            f"{url}: has {found} {what}, the lookup said {expected}: the file is cut off or "
            "changed; if it is right, look it up again (snakemake --forcerun das_lookup)"
        )


def _sections(file: Events, url: str, events: str) -> Sections | None:
    """The luminosity sections of a file, also those in which no event was recorded; None in a file
    that is not NanoAOD."""
    name = next((n for n in (LUMINOSITY_BLOCKS, events) if n in file.directory), None)
    if name is None or not {"run", "luminosityBlock"} <= set(file.directory[name].keys()):
        return None
    found = [*steps(file.directory[name], url, ["run", "luminosityBlock"])]
    return sections(
        *(
            np.concatenate([ak.to_numpy(part[n]) for part in found])
            for n in ("run", "luminosityBlock")
        )
    )


def steps(tree: Any, url: str, branches: list[str], cut: str | None = None) -> Iterator[ak.Array]:
    """The events in steps; at least one, of no events, so that an empty file keeps its branches.

    Of Parquet the row groups in which no event can pass `cut` are left out.
    """
    with reading(url):
        if isinstance(tree, ParquetTree):
            yield from tree.steps(branches, STEP, cut)
        elif tree.num_entries == 0:
            yield tree.arrays(branches, library="ak")
        else:
            yield from tree.iterate(branches, step_size=_step(tree, branches), library="ak")


def _step(tree: Any, branches: list[str]) -> int:
    """How many events to read at a time: many wide columns in smaller steps.

    By the sizes that a TTree states of its branches; uproot's own way reads the head of every
    basket, each a request to a storage elsewhere. An RNTuple states none.
    """
    sizes = [getattr(tree[name], "uncompressed_bytes", 0) for name in branches]
    return max(1, min(STEP, STEP_BYTES * tree.num_entries // max(sum(sizes), 1)))


def _add(sums: "Sums", arrays: ak.Array, mask: np.ndarray | None, url: str) -> None:
    try:
        sums.add(arrays, mask)
    except DataFileError as problem:
        raise DataFileError(f"{url}: {problem}") from None


class Sums:
    """Events and sums of weights before and after the selection, in double precision; `left_out`
    are events that weren't read, since they can't pass."""

    def __init__(self) -> None:
        self.events_in = self.events_out = self.left_out = 0
        self.weights_in = self.weights_out = 0.0
        self.weighted = False
        self.eft_in: list[float] | None = None
        self.theory_in: dict[str, list[float]] = {}

    def add(self, arrays: ak.Array, mask: np.ndarray | None) -> None:
        size = len(arrays)
        kept = slice(None) if mask is None else mask
        self.weighted = WEIGHT in arrays.fields
        weights = ak.to_numpy(arrays[WEIGHT]).astype(np.float64) if self.weighted else np.ones(size)
        if not np.isfinite(weights).all():
            raise DataFileError("genWeight is not a number in some events")
        self.events_in += size
        self.events_out += size if mask is None else int(mask.sum())
        self.weights_in += float(weights.sum())
        self.weights_out += float(weights[kept].sum())
        if EFT_COEFFICIENTS in arrays.fields and size > 0:
            counts = ak.num(arrays[EFT_COEFFICIENTS], axis=1)
            if not ak.all(counts == counts[0]):
                raise DataFileError(f"{EFT_COEFFICIENTS}: events have different numbers of them")
            terms = ak.to_numpy(arrays[EFT_COEFFICIENTS]).astype(np.float64)
            if not np.isfinite(terms).all():
                raise DataFileError(f"{EFT_COEFFICIENTS} are not numbers in some events")
            total = terms.sum(axis=0)
            before = 0.0 if self.eft_in is None else np.array(self.eft_in)
            self.eft_in = (before + total).tolist()
            weights = terms[:, 0]
        for name in filter(is_theory_weight, arrays.fields):
            if arrays[name].ndim == 2 and size > 0:
                self._add_theory(name, arrays[name], weights)

    def _add_theory(self, name: str, values: ak.Array, weights: np.ndarray) -> None:
        # the places that every event has
        places = int(ak.min(ak.num(values, axis=1)))
        relative = ak.to_numpy(values[:, :places]).astype(np.float64)
        before = self.theory_in.get(name, [0.0] * places)
        self.theory_in[name] = [
            a + b for a, b in zip(before, (weights @ relative).tolist(), strict=False)
        ]
