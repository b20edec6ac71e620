"""The results of a request on the volume: names, existing results, the manifest."""

import os
import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha1
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from looseleaf.errors import DataFileError, Shortfall
from looseleaf.files import adler32, read_json, whole, write_json
from looseleaf.servicex.formats import SUFFIXES
from looseleaf.servicex.request import MANIFEST, Request, Source
from looseleaf.servicex.transform import FileResult
from looseleaf.shape import TEXT, check
from looseleaf.stage_files import MANIFEST_FORMAT, read_manifest

LONGEST_NAME = 200


def output_name(source: Source, output_format: str) -> str:
    """A file name for a result that is unique within a request.

    It is the logical name with ':' for '/', as in ServiceX, and the suffix of its format. If a file
    system would refuse it, or if another name would become the same, it is cut short, with a hash
    of the logical name in front.
    """
    source_name = source.record.name
    name = source_name.strip("/").replace("/", ":")
    suffix = SUFFIXES[output_format]
    if not name.endswith(suffix):
        name = name.removesuffix(".root") + suffix
    if len(name.encode()) > LONGEST_NAME or ":" in source_name or not source_name.endswith(".root"):
        room = LONGEST_NAME - 41
        tail = name.encode()[-room:].decode(errors="ignore")
        name = f"{sha1(source_name.encode()).hexdigest()}_{tail}"
    return name


def result_name(path: str, suffix: str) -> str:
    """The service's name for the result of a file at `path` (replicas separated by commas).

    It is the end of the path, and enough of a hash to be unique, in characters that neither a
    client nor a file system changes.
    """
    first = urlsplit(path.split(",", maxsplit=1)[0]).path.strip("/").removesuffix(".root")
    tail = re.sub(r"[^A-Za-z0-9._-]", "_", first)[-LONGEST_NAME + 40 :].lstrip(".")
    return f"{tail}-{sha1(path.encode()).hexdigest()[:16]}{suffix}"


def account_name(output: str) -> str:
    """The name of the record next to a result."""
    return f"{output}.json"


def complete_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished request, if every file in it exists as it was written."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = read_manifest(path)
    except DataFileError:
        # damaged, or of another version: complete results are found file by file
        return None
    results = [FileResult.from_json(file, str(path)) for file in manifest["files"]]
    return manifest if all(_stands(folder / r.output, r) for r in results) else None


def _stands(path: Path, result: FileResult) -> bool:
    return (
        path.is_file() and path.stat().st_size == result.bytes and adler32(path) == result.adler32
    )


def _key(request: Request, source: Source) -> str:
    """A hash of all that the result of one file depends on."""
    return replace(request, sources=(source,), left_out=()).id


def remember(request: Request, folder: Path, result: FileResult) -> None:
    """Write the record of a file's result next to it."""
    source = next(s for s in request.sources if s.record.name == result.source)
    value = {"key": _key(request, source), "result": result.to_json()}
    write_json(folder / account_name(result.output), value)


def made_before(request: Request, folder: Path) -> dict[str, FileResult]:
    """Results by source that this or another request has completed.

    Those of others are linked into `folder`.
    """
    results = {}
    folders = [folder, *(path for path in folder.parent.iterdir() if path != folder)]
    for source in request.sources:
        output, key = output_name(source, request.format), _key(request, source)
        for place in folders:
            record = place / account_name(output)
            made = place / output
            try:
                result = _recorded(record, key) if record.is_file() else None
                if result is None or not _stands(made, result):
                    continue
            except PermissionError:
                if place == folder:
                    raise
                # another user's, who keeps it closed
                continue
            if place != folder:
                link(made, folder / output)
                remember(request, folder, result)
            results[result.source] = result
            break
    return results


def _recorded(record: Path, key: str) -> FileResult | None:
    """The result in a record; None if it has another key, or is damaged."""
    try:
        value = read_json(record)
        check(value, {"key": TEXT, "result": {}}, str(record))
        return FileResult.from_json(value["result"], str(record)) if value["key"] == key else None
    except DataFileError:
        return None


def link(path: Path, place: Path) -> None:
    """Make a file available at `place` too: with a hard link, or a copy if the volume has none."""
    with whole(place) as part:
        part.unlink()
        try:
            os.link(path, part)
        except OSError:
            shutil.copyfile(path, part)


def manifest_of(
    request: Request, folder: Path, results: list[FileResult], backend: str
) -> dict[str, Any]:
    """Write the manifest of a request to its folder; `Shortfall` if a file has no result."""
    missing = {source.record.name for source in request.sources} - {r.source for r in results}
    if missing:
        raise Shortfall(f"transform {request.id}: no result for {', '.join(sorted(missing))}")
    manifest = {
        "format": MANIFEST_FORMAT,
        "request_id": request.id,
        "request": request.identity(),
        "dataset": request.dataset,
        "backend": backend,
        "folder": str(folder),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "totals": {
            "files": len(results),
            "bytes": sum(result.bytes for result in results),
            "events_in": sum(result.events_in for result in results),
            "events_out": sum(result.events_out for result in results),
            "sum_of_weights_in": sum(result.sum_of_weights_in for result in results),
            "sum_of_weights_out": sum(result.sum_of_weights_out for result in results),
        },
        "left_out": request.losses(),
        "files": [result.to_json() for result in results],
    }
    write_json(folder / MANIFEST, manifest)
    return manifest
