"""The work of a transform on one file: read columns, keep the selected events, write them."""

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot

from looseleaf.cost import Stopwatch
from looseleaf.errors import ConfigError, DataFileError
from looseleaf.files import adler32, whole
from looseleaf.nanoaod import TREE, EventsFile, choose_branches, open_events, reading
from looseleaf.objects.branches import EFT_COEFFICIENTS
from looseleaf.objects.expressions import Expression
from looseleaf.objects.luminosity import Sections, sections

STEP = 100_000
COMPRESSION = uproot.LZ4(1)
# one entry for each luminosity section, as NanoAOD has it
LUMINOSITY_BLOCKS = "LuminosityBlocks"


@dataclass(frozen=True)
class FileTask:
    """One input file of a request, and where its result goes."""

    name: str
    urls: tuple[str, ...]
    expected_bytes: int | None
    expected_events: int | None
    expected_adler32: str | None
    columns: tuple[str, ...]
    cut: str | None
    output: str


@dataclass(frozen=True)
class FileResult:
    """What became of one file: events and sums of weights before and after the selection.

    `sum_of_weights` is the sum of genWeight (the number of events where there is none, in data);
    `eft_sums` the sums of the EFT coefficients, where the file has them. `*_in` speak of all
    events of the original file, which is what normalisation needs, `*_out` of those written.
    `lumi_sections` are those of the original file, in data.
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
    lumi_sections: Sections | None
    cost: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def collections_of(branches: list[str], present: set[str]) -> dict[str, list[str]]:
    """Branches by the NanoAOD collection that they belong to; single branches under their own
    name. `Muon_pt` belongs to `Muon` if the file has the counter `nMuon`."""
    groups: dict[str, list[str]] = {}
    for branch in branches:
        prefix = branch.partition("_")[0]
        groups.setdefault(prefix if f"n{prefix}" in present else branch, []).append(branch)
    return groups


def _as_nanoaod(arrays: ak.Array, groups: Mapping[str, list[str]]) -> dict[str, ak.Array]:
    """Arrays as uproot writes NanoAOD: each collection zipped, so that it has one counter."""
    out = {}
    for name, branches in groups.items():
        if branches == [name]:
            out[name] = arrays[name]
        else:
            out[name] = ak.zip({b[len(name) + 1 :]: arrays[b] for b in branches}, depth_limit=2)
    return out


def _mask(cut: Expression, arrays: ak.Array) -> np.ndarray:
    value = cut(arrays)
    mask = ak.to_numpy(value) if value.ndim == 1 else None
    if mask is None or mask.dtype != bool:
        raise ConfigError(f"servicex.cut: {cut.text!r} should give a yes or no for each event")
    return mask


def transform_file(task: FileTask) -> FileResult:
    """Carry out a request on one file; the result stands whole at `task.output` or not at all.

    The URLs are tried in turn until one gives the whole file. Raises `DataFileError` if none
    does, if the file lacks a branch, can't be read to its end, or has another size, number of
    events or, on this machine, checksum than the catalogue says.
    """
    if not task.urls:
        raise DataFileError(f"{task.name}: nowhere to read it from: the site has no redirectors")
    problems: list[str] = []
    for url in task.urls:
        try:
            return _transform(task, url, problems)
        except DataFileError as problem:
            problems.append(str(problem))
    raise DataFileError("; ".join(problems))


def _transform(task: FileTask, url: str, passed_over: list[str]) -> FileResult:
    watch = Stopwatch()
    cut = Expression(task.cut) if task.cut is not None else None
    output = Path(task.output)
    with open_events(url) as file, whole(output) as part:
        entries = file.tree.num_entries
        _agrees(url, "bytes", file.size, task.expected_bytes)
        _agrees(url, "events", entries, task.expected_events)
        if task.expected_adler32 is not None and "://" not in url:
            _agrees(url, "as its adler32", adler32(url), task.expected_adler32)
        present = set(file.tree.keys(recursive=False))
        branches = choose_branches(url, present, task.columns)
        extra = choose_branches(url, present, sorted(cut.names)) if cut is not None else []
        groups = collections_of(branches, present)
        sums = _Sums()
        identity = uuid.uuid5(uuid.NAMESPACE_URL, f"{task.output}:{file.uuid}")
        with uproot.recreate(part, compression=COMPRESSION, uuid_function=lambda: identity) as root:
            tree = None
            for arrays in _steps(file, url, list(dict.fromkeys([*branches, *extra]))):
                mask = None if cut is None else _mask(cut, arrays)
                try:
                    sums.add(arrays, mask)
                except DataFileError as problem:
                    raise DataFileError(f"{url}: {problem}") from None
                kept = _as_nanoaod(arrays if mask is None else arrays[mask], groups)
                if tree is None:
                    types = {name: ak.type(array).content for name, array in kept.items()}
                    tree = root.mktree(TREE, types)
                tree.extend(kept)
        if sums.events_in != entries:
            raise DataFileError(f"{url}: {sums.events_in} of its {entries} events could be read")
        lumis = None if "genWeight" in branches else _sections(file, url)
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
        events_in=sums.events_in,
        events_out=sums.events_out,
        sum_of_weights_in=sums.weights_in,
        sum_of_weights_out=sums.weights_out,
        eft_sums_in=sums.eft_in,
        lumi_sections=lumis,
        cost=watch.cost(sums.events_in, read).to_json(),
    )


def _agrees(url: str, what: str, found: int | str, expected: int | str | None) -> None:
    if expected is not None and found != expected:
        raise DataFileError(
            f"{url}: has {found} {what}, the lookup said {expected}: the file is cut off or "
            "changed; if it is right, look it up again (snakemake --forcerun das_lookup)"
        )


def _sections(file: EventsFile, url: str) -> Sections:
    """The luminosity sections of a file, also those in which no event was recorded."""
    name = LUMINOSITY_BLOCKS if LUMINOSITY_BLOCKS in file.directory else TREE
    with reading(url):
        found = file.directory[name].arrays(["run", "luminosityBlock"], library="np")
    return sections(found["run"], found["luminosityBlock"])


def _steps(file: EventsFile, url: str, branches: list[str]) -> Iterator[ak.Array]:
    """The events in steps; at least one, of no events, so that an empty file keeps its branches."""
    with reading(url):
        if file.tree.num_entries == 0:
            yield file.tree.arrays(branches, library="ak")
        else:
            yield from file.tree.iterate(branches, step_size=STEP, library="ak")


class _Sums:
    """Events and sums of weights before and after the selection, in double precision."""

    def __init__(self) -> None:
        self.events_in = self.events_out = 0
        self.weights_in = self.weights_out = 0.0
        self.eft_in: list[float] | None = None

    def add(self, arrays: ak.Array, mask: np.ndarray | None) -> None:
        size = len(arrays)
        kept = slice(None) if mask is None else mask
        weights = (
            ak.to_numpy(arrays["genWeight"]).astype(np.float64)
            if "genWeight" in arrays.fields
            else np.ones(size)
        )
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
            total = terms.sum(axis=0)
            before = 0.0 if self.eft_in is None else np.array(self.eft_in)
            self.eft_in = (before + total).tolist()
