"""What can be known of a dataset: the records that every backend fills, beside the files'."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from looseleaf.das.problems import BackendFailed, QueryWrong
from looseleaf.stage_files import FileRecord

HEX = re.compile("[0-9a-f]{1,8}")
# counts are less than this
MOST = 1 << 63


@dataclass(frozen=True)
class DatasetRecord:
    """A dataset that a pattern matches, and its status (VALID, PRODUCTION, ...) if known."""

    name: str
    status: str | None = None


@dataclass(frozen=True)
class BlockRecord:
    """A block of a dataset; what the source doesn't know is None."""

    name: str
    bytes: int | None = None
    files: int | None = None


@dataclass(frozen=True)
class SiteRecord:
    """A site and which share of a dataset's files it has, in percent; None if not known."""

    name: str
    dataset_percent: float | None = None


@dataclass(frozen=True)
class SummaryRecord:
    """Totals of a dataset; what the source doesn't know is None."""

    files: int | None
    events: int | None
    blocks: int | None
    lumis: int | None
    bytes: int | None


@dataclass(frozen=True)
class LumiRecord:
    """The luminosity sections of a file in the runs given."""

    file: str
    runs: tuple[int, ...]
    lumis: tuple[int, ...]


Record = FileRecord | DatasetRecord | BlockRecord | SiteRecord | SummaryRecord | LumiRecord


def only_valid(status: str, backend: str) -> None:
    """Refuse a query for datasets of another status, to a backend that doesn't know any."""
    if status != "VALID":
        raise QueryWrong(
            f"status={status}: the backend {backend} doesn't know the status of datasets; "
            "dasgoclient and dbs do"
        )


def whole_number(row: Mapping[str, Any], key: str, source: str) -> int | None:
    """A count in an answer, None where it is null or absent; `BackendFailed` otherwise."""
    value = row.get(key)
    if value is None:
        return None
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole:
        raise BackendFailed(f"{source}: {key} is {value!r}, not a whole number")
    if not 0 <= value < MOST:
        raise BackendFailed(f"{source}: {key} is {value!r}")
    return int(value)


def text(row: Mapping[str, Any], key: str, source: str) -> str:
    """A name in an answer; `BackendFailed` if it is missing."""
    value = row.get(key)
    if not isinstance(value, str) or not value:
        raise BackendFailed(f"{source}: a record without {key}: {str(dict(row))[:200]}")
    return value


def file_record(row: Mapping[str, Any], keys: Mapping[str, str], source: str) -> FileRecord:
    """The record of a file in an answer; `keys` are the source's names of our fields."""
    name = text(row, keys["name"], source)
    where = f"{source}: {name}"
    checksum = str(row.get("adler32") or "").lower().removeprefix("0x")
    # "NOTSET" and 0 stand for none
    known = HEX.fullmatch(checksum) is not None and int(checksum, 16) > 0
    valid, block = row.get("is_file_valid", 1), row.get("block_name")
    if valid not in (0, 1):
        raise BackendFailed(f"{where}: is_file_valid is {valid!r}, neither 0 nor 1")
    if block is not None and not isinstance(block, str):
        raise BackendFailed(f"{where}: block_name is {block!r}, not a name")
    return FileRecord(
        name=name,
        bytes=whole_number(row, keys["bytes"], where),
        events=whole_number(row, keys["events"], where),
        adler32=f"{int(checksum, 16):08x}" if known else None,
        block=block,
        valid=bool(valid),
    )


def numbers(row: Mapping[str, Any], key: str, source: str) -> tuple[int, ...]:
    """Runs or luminosity sections, which answers give as a number or as a list of them."""
    value = row.get(key)
    listed = value if isinstance(value, list) else [value]
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in listed):
        raise BackendFailed(f"{source}: {key} is {value!r}, not a number or a list of them")
    return tuple(listed)
