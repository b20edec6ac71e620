"""The files that stages pass on: catalogues, lists of files, manifests and ledgers.

`FileRecord` is the record of a file that every backend of a lookup fills.
"""

import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from looseleaf.errors import DataFileError
from looseleaf.files import adler32, read_json, write_json
from looseleaf.shape import ANY, COUNT, FLAG, LARGEST, NUMBER, TEXT, Kind, check

CATALOGUE_FORMAT = "looseleaf-catalogue/1"
# the result of a lookup; another format makes a new lookup
SNAPSHOT_FORMAT = "looseleaf-das/1"
# the result of a transform, on the volume and as its target
MANIFEST_FORMAT = "looseleaf-manifest/4"
# written next to the histograms of a processed dataset
LEDGER_FORMAT = "looseleaf-ledger/1"
# words in sample names that aren't primary datasets
NO_PRIMARY = re.compile(r".{1,2}|data|run|ver|hipm|apv|listed|.*skim|(pre|post)(vfp|ee|bpix)", re.I)

# a run has thousands of sections, of which lists are made
MOST_SECTIONS = 1_000_000


def _are_sections(value: Any) -> bool:
    return isinstance(value, dict) and all(
        run.isascii() and run.isdecimal() and int(run[:20]) < LARGEST and _are_ranges(ranges)
        for run, ranges in value.items()
    )


def _are_ranges(ranges: Any) -> bool:
    return isinstance(ranges, list) and all(
        isinstance(pair, list)
        and len(pair) == 2
        and all(map(COUNT.fits, pair))
        and pair[0] <= pair[1] < MOST_SECTIONS
        for pair in ranges
    )


SECTIONS = Kind("luminosity sections, {run: [[first, last], ...]}", _are_sections)
COST = {
    "events": COUNT,
    "bytes_read": COUNT,
    "wall_s": NUMBER,
    "cpu_s": NUMBER,
    "peak_rss_bytes": COUNT,
}
HELD = {"events": COUNT, "sum_of_weights": NUMBER}
EFT_SUMS = ([NUMBER],)
THEORY_SUMS = {ANY: [(NUMBER,)]}
NOT_FINITE = {ANY: {"count": COUNT, "of": COUNT, "unit": TEXT}}
MISSING = {ANY: [TEXT]}
# a file's result in a manifest
RESULT = {
    "source": TEXT,
    "source_url": TEXT,
    "passed_over": [TEXT],
    "source_uuid": TEXT,
    "output": TEXT,
    "bytes": COUNT,
    "adler32": (TEXT,),
    "uuid": TEXT,
    "events_in": COUNT,
    "events_out": COUNT,
    "sum_of_weights_in": NUMBER,
    "sum_of_weights_out": NUMBER,
    "eft_sums_in": EFT_SUMS,
    "theory_sums_in": THEORY_SUMS,
    "lumi_sections": (SECTIONS,),
    "normalised_by": TEXT,
    "held": HELD,
    "not_finite": NOT_FINITE,
    "missing": MISSING,
    "bare": FLAG,
    "cost": COST,
}
LEFT_OUT = [{"name": TEXT, "events": (COUNT,)}]
MANIFEST = {
    "request_id": TEXT,
    "request": {"cut": (TEXT,)},
    "folder": TEXT,
    "left_out": LEFT_OUT,
    "totals": {"events_in": COUNT, "sum_of_weights_in": NUMBER},
    "files": [RESULT],
}


# what a ledger has for the normalisation of a dataset
ORIGINAL = {
    "events": COUNT,
    "sum_of_weights": NUMBER,
    "eft_sums": EFT_SUMS,
    "theory_sums": THEORY_SUMS,
    "lumi_sections": (SECTIONS,),
    "certified_sections": (SECTIONS,),
    "left_out": LEFT_OUT,
}


def events_in(manifests: Iterable[str | Path]) -> int:
    """The events in the results of some transforms; raises as `read_manifest` does."""
    return sum(_events_in(path, _stamp(path)) for path in manifests)


@cache
def _events_in(path: str | Path, stamp: tuple[int, int] | None) -> int:
    # Snakemake asks several times for each job
    totals = read_manifest(path, {"totals": {"events_out": COUNT}})["totals"]
    return int(totals["events_out"])


def _stamp(path: str | Path) -> tuple[int, int] | None:
    """What changes when a file is written anew."""
    try:
        about = Path(path).stat()
    except OSError:
        return None
    return about.st_mtime_ns, about.st_size


def read_manifest(
    path: str | Path, shape: Mapping[str, Any] = MappingProxyType(MANIFEST)
) -> dict[str, Any]:
    """A manifest, checked for the parts to be read.

    Raises `DataFileError` naming the file and the place that is wrong.
    """
    value = read_json(path)
    if not isinstance(value, dict) or value.get("format") != MANIFEST_FORMAT:
        raise DataFileError(
            f"{path}: not of the format {MANIFEST_FORMAT!r}; make it again "
            "(snakemake --forcerun servicex_transform)"
        )
    check(value, shape, str(path))
    return value


def read_ledger(path: str | Path, shape: Mapping[str, Any]) -> dict[str, Any]:
    """A ledger, checked for the parts to be read.

    Raises `DataFileError` naming the file and the place that is wrong.
    """
    value = read_json(path)
    if not isinstance(value, dict) or value.get("format") != LEDGER_FORMAT:
        raise DataFileError(f"{path}: not of the format {LEDGER_FORMAT!r}")
    check(value, shape, str(path))
    return value


def original_of(path: str | Path) -> dict[str, Any]:
    """The sums over a dataset's original events in its ledger, which normalise it."""
    original: dict[str, Any] = read_ledger(path, {"original": ORIGINAL})["original"]
    return original


@dataclass(frozen=True)
class FileRecord:
    """One file of a dataset.

    `name` is the logical name (/store/...), `adler32` eight hex digits, `block` the DAS block.
    `bytes`, `events` and `adler32` are None if the source of the record doesn't know them. `url` is
    the address of the file, or None: then a site's redirectors give it. `left_out` files are
    excluded by the dataset's declaration.
    """

    name: str
    bytes: int | None
    events: int | None
    adler32: str | None
    block: str | None = None
    valid: bool = True
    url: str | None = None
    left_out: bool = False

    @property
    def used(self) -> bool:
        """Whether the file is read."""
        return self.valid and not self.left_out

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any], where: str) -> "FileRecord":
        """The record in a JSON object; `DataFileError` names `where` and the field that is
        wrong."""
        known = [field.name for field in fields(cls)]
        if not isinstance(value, dict) or set(value) - set(known) or not {*known[:4]} <= set(value):
            raise DataFileError(
                f"{where}: a file's record has {', '.join(known)}, the first four always; "
                f"not {value!r}"
            )
        record = cls(**value)
        if not isinstance(record.name, str) or not record.name:
            raise DataFileError(f"{where}: the name of a file is {record.name!r}")
        for field in ("bytes", "events"):
            number = getattr(record, field)
            whole = isinstance(number, int) and not isinstance(number, bool)
            whole = whole and 0 <= number < 1 << 63
            if number is not None and not whole:
                raise DataFileError(f"{where}: {record.name}: {field} is {number!r}")
        for field in ("adler32", "block", "url"):
            text = getattr(record, field)
            if text is not None and not isinstance(text, str):
                raise DataFileError(f"{where}: {record.name}: {field} is {text!r}, not text")
        for field in ("valid", "left_out"):
            if not isinstance(getattr(record, field), bool):
                raise DataFileError(
                    f"{where}: {record.name}: {field} is {getattr(record, field)!r}, not true or "
                    "false"
                )
        return record


def describe(path: Path, name: str, block: str) -> FileRecord:
    """The record of a ROOT file on disk, which is read once for the checksum.

    Raises `DataFileError` if it isn't a complete ROOT file with an Events tree.
    """
    from looseleaf.nanoaod import open_events  # noqa: PLC0415 - uproot, where a file is opened

    with open_events(str(path)) as events:
        entries = events.tree.num_entries
    return FileRecord(
        name=name,
        bytes=path.stat().st_size,
        events=entries,
        adler32=adler32(path),
        block=block,
        url=str(path.resolve()),
    )


def primaries_of(das: str) -> list[str]:
    """The words that may name a dataset's primary dataset.

    SingleMuon for /SingleMuon/Run2018A/NANOAOD; Muon for /Muon0/... and /Muon1/..., which share the
    events. Listed samples have free names: SingleMuon for SingleMuon_A-UL2018 and
    data_UL18A_SingleMuon, without short or common words.
    """
    first = das.removeprefix("/").split("/")[0]
    words = list(dict.fromkeys(re.findall("[A-Za-z]+", first)))
    return [word for word in words if not NO_PRIMARY.fullmatch(word)] or words or [first]


def block_name(dataset: str) -> str:
    """A block name for files without one in DBS: the dataset and a UUID made from its name."""
    return f"{dataset}#{uuid.uuid5(uuid.NAMESPACE_URL, dataset)}"


def write_catalogue(path: str | Path, datasets: dict[str, Iterable[FileRecord]]) -> None:
    """Write datasets (by DAS name) and their files as a local catalogue."""
    write_json(
        path,
        {
            "format": CATALOGUE_FORMAT,
            "datasets": {
                dataset: {"files": [record.to_json() for record in records]}
                for dataset, records in datasets.items()
            },
        },
    )


def read_catalogue(path: str | Path) -> dict[str, list[FileRecord]]:
    """The datasets of a local catalogue and their files."""
    value = read_json(path)
    if not isinstance(value, dict) or value.get("format") != CATALOGUE_FORMAT:
        raise DataFileError(f"{path}: not a catalogue (no format {CATALOGUE_FORMAT!r})")
    try:
        listed = {dataset: entry["files"] for dataset, entry in value["datasets"].items()}
    except (KeyError, TypeError, AttributeError):
        listed = None
    if listed is None or not all(isinstance(files, list) for files in listed.values()):
        raise DataFileError(f"{path}: a catalogue has datasets: {{name: {{files: [record, ...]}}}}")
    return {
        dataset: [FileRecord.from_json(file, str(path)) for file in files]
        for dataset, files in listed.items()
    }


def read_snapshot(path: str | Path) -> tuple[dict[str, Any], list[FileRecord]]:
    """The metadata and the files in the result of a lookup; `DataFileError` for any other file."""
    value = read_json(path)
    if not isinstance(value, dict) or value.get("format") != SNAPSHOT_FORMAT:
        raise DataFileError(f"{path}: not a list of files (no format {SNAPSHOT_FORMAT!r})")
    names = [key for key in ("dataset", "time") if not isinstance(value.get(key), str)]
    names += [] if isinstance(value.get("files"), list) else ["files"]
    if names:
        raise DataFileError(
            f"{path}: its {names[0]} is missing or damaged; look it up again "
            "(snakemake --forcerun das_lookup)"
        )
    return value, [FileRecord.from_json(file, str(path)) for file in value["files"]]
