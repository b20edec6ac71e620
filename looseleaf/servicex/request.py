"""A transform's request, and the place of its results on the volume."""

import socket
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from looseleaf.errors import ConfigError, DataFileError, LookupFailed
from looseleaf.files import digest, read_json, write_json
from looseleaf.shape import TEXT, check
from looseleaf.stage_files import FileRecord, read_snapshot

NAMESPACE = uuid.UUID("6d1d6f2c-4b0c-5d0e-9a9e-0f6b6f0d9a11")
MANIFEST = "manifest.json"
# the code generator of our own services, which writes a record next to each result, so that results
# needn't be read again
OWN = "looseleaf"
# files in a request's folder, one for each results folder that uses it
REFERENCE = ".used-by-"


@dataclass(frozen=True)
class Source:
    """An input file: its record, and its URLs in the order in which they are tried."""

    record: FileRecord
    urls: tuple[str, ...]


@dataclass(frozen=True)
class Request:
    """A transform of one dataset: the branches, the events to keep, the format of the results.

    `columns` may have alternatives `A|B`; `cut` is an expression over event-level branches in
    uproot's language, or None to keep every event. `left_out` are files that the dataset's
    declaration excludes. With `verify`, files are read completely and checked against their
    checksums.
    """

    dataset: str
    sources: tuple[Source, ...]
    columns: tuple[str, ...]
    cut: str | None
    format: str
    software: str
    left_out: tuple[FileRecord, ...] = ()
    verify: bool = False

    def identity(self) -> dict[str, Any]:
        """What makes two requests equal: query, files, format and software."""
        aside: dict[str, Any] = {"left_out": self.losses()} if self.left_out else {}
        aside |= {"verified": True} if self.verify else {}
        return {
            "dataset": self.dataset,
            "files": [
                [source.record.name, source.record.bytes, source.record.adler32]
                for source in self.sources
            ],
            "columns": sorted(self.columns),
            "cut": self.cut,
            "format": self.format,
            "software": self.software,
            **aside,
        }

    def losses(self) -> list[dict[str, Any]]:
        """The files that are left out, for the manifest: names, and numbers of events if known."""
        return [{"name": record.name, "events": record.events} for record in self.left_out]

    @property
    def id(self) -> str:
        """A UUID made from the identity, so that an equal request finds its own results."""
        return str(uuid.uuid5(NAMESPACE, digest(self.identity())))


def urls_of(record: FileRecord, redirectors: Sequence[str]) -> tuple[str, ...]:
    """The URLs of a file: the one in its record, or one for each of the site's `redirectors`.

    A redirector is what precedes a logical name: a host (root://xcache/), a host and the folder of
    its site (root://eoscms.cern.ch//eos/cms), or a folder of this machine (/mirror).

    Raises `DataFileError` for a name that leads out of that folder.
    """
    if record.url is not None:
        return (record.url,)
    if not record.name.startswith("/") or ".." in PurePosixPath(record.name).parts:
        raise DataFileError(f"{record.name}: should be a logical name, /store/... without '..'")
    return tuple(_below(redirector.rstrip("/"), record.name) for redirector in redirectors)


def _below(redirector: str, name: str) -> str:
    """The address of a name behind a redirector; XRootD needs two slashes between host and path."""
    host_only = "://" in redirector and "/" not in redirector.partition("://")[2]
    return f"{redirector}/{name}" if host_only else f"{redirector}{name}"


def request_from_das(
    das: str | Path,
    columns: Sequence[str],
    cut: str | None,
    output_format: str,
    software: str,
    redirectors: Sequence[str],
    verify: bool = False,
) -> Request:
    """The request for the valid files of a looked-up dataset, without those that are left out.

    Raises `LookupFailed` if there are none, or if `verify` is set and files have no checksum.
    """
    snapshot, records = read_snapshot(das)
    used = [record for record in records if record.used]
    if not used:
        raise LookupFailed(
            f"{das}: every file of {snapshot['dataset']} is marked invalid or left out"
        )
    unknown = [record.name for record in used if record.adler32 is None]
    if verify and unknown:
        raise LookupFailed(
            f"{das}: no checksum is known of {len(unknown)} files, {unknown[0]} among them, so "
            "that das.verify can't hold them to one; of the backends, dbs and dasgoclient tell them"
        )
    return Request(
        dataset=snapshot["dataset"],
        sources=tuple(Source(record, urls_of(record, redirectors)) for record in used),
        columns=tuple(columns),
        cut=cut,
        format=output_format,
        software=software,
        left_out=tuple(record for record in records if record.valid and record.left_out),
        verify=verify,
    )


def request_folder(volume: str | Path, subdir: str, request_id: str) -> Path:
    """`<volume>/<subdir>/<request id>`; a subdir that leaves the volume is refused."""
    root = Path(volume).resolve()
    folder = (root / subdir / request_id).resolve()
    if not folder.is_relative_to(root):
        raise ConfigError(f"servicex.subdir: {subdir!r} leaves the volume {volume}")
    return folder


def is_request(name: str) -> bool:
    """Whether a folder's name is that of a request of ours; a service gives random names."""
    try:
        return uuid.UUID(name).version == 5
    except ValueError:
        return False


@dataclass(frozen=True)
class Reference:
    """Where results that use a request are: the machine that wrote them, and the absolute path of
    their manifest."""

    host: str
    manifest: str


def refer(folder: Path, manifest: str | Path) -> None:
    """Write into a request's folder which manifest stands, or will stand, for it."""
    reference = Reference(socket.gethostname(), str(Path(manifest).resolve()))
    path = folder / f"{REFERENCE}{digest(reference.manifest)[:16]}.json"
    if not path.exists():
        write_json(path, asdict(reference))


def references(folder: Path) -> Iterator[Reference]:
    """The results that use, or used, a request; `DataFileError` for a damaged file."""
    for path in sorted(folder.glob(f"{REFERENCE}*.json")):
        value = read_json(path)
        check(value, {"host": TEXT, "manifest": TEXT}, str(path))
        yield Reference(value["host"], value["manifest"])
