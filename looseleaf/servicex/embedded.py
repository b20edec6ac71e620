"""The embedded backend: a transform request carried out on worker processes of this machine."""

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha1
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from looseleaf.errors import Shortfall
from looseleaf.files import read_json, whole, write_json
from looseleaf.progress import Progress
from looseleaf.records import MANIFEST_FORMAT
from looseleaf.servicex.request import (
    MANIFEST,
    Request,
    Source,
    request_folder,
)
from looseleaf.servicex.transform import FileResult, FileTask, TreeQuery, transform_file

LONGEST_NAME = 200


def output_name(source: Source) -> str:
    """A file name for the result that no two files of a request share.

    The logical name with ':' for '/', as ServiceX names results, cut short where a file system
    would refuse it.
    """
    name = source.record.name.strip("/").replace("/", ":")
    if len(name) > LONGEST_NAME:
        name = f"{sha1(name.encode()).hexdigest()}_{name[-LONGEST_NAME + 41 :]}"
    return name


def transform(
    request: Request,
    volume: str | Path,
    subdir: str,
    output: str | Path,
    workers: int,
    label: str,
) -> None:
    """Carry out a request and write its manifest, on the volume and as the stage's target.

    The results of a complete request that is the same (query, files, format, software) are used
    again; of an incomplete one, and of requests that differ in their files alone, the files that
    both ask for are: a run that was broken off goes on where it was, and a new file of a dataset
    costs one file. The manifest is written last: where one stands, every result stands.

    Raises `DataFileError` for the first file that failed, `Shortfall` if a result is missing.
    """
    folder = request_folder(volume, subdir, request.id)
    manifest = complete_manifest(folder)
    if manifest is None:
        folder.mkdir(parents=True, exist_ok=True)
        for part in folder.glob(".part-*"):
            part.unlink()
        results = _run(request, folder, workers, label)
        manifest = _manifest(request, folder, results)
        write_json(folder / MANIFEST, manifest)
    write_json(output, manifest)


def complete_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished request, if every file that it lists stands with its size."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    manifest = read_json(path)
    for file in manifest["files"]:
        result = folder / file["output"]
        if not result.is_file() or result.stat().st_size != file["bytes"]:
            return None
    return manifest


def _run(request: Request, folder: Path, workers: int, label: str) -> list[FileResult]:
    results = _made_before(request, folder)
    tasks = [
        FileTask(
            name=source.record.name,
            urls=source.urls,
            expected_bytes=source.record.bytes,
            expected_events=source.record.events,
            expected_adler32=source.record.adler32,
            queries=(TreeQuery(columns=request.columns, cut=request.cut),),
            format=request.format,
            output=str(folder / output_name(source)),
        )
        for source in request.sources
        if source.record.name not in results
    ]
    total = sum(source.record.events or 0 for source in request.sources)
    failures: list[BaseException] = []
    with Progress(f"servicex {label}", total) as progress, worker_pool(workers, len(tasks)) as pool:
        progress.add(sum(result.events_in for result in results.values()))
        waiting: set[Future[FileResult]] = {pool.submit(transform_file, task) for task in tasks}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                if future.cancelled():
                    continue
                problem = future.exception()
                if problem is not None:
                    failures.append(problem)
                    continue
                result = future.result()
                _remember(request, folder, result)
                results[result.source] = result
                progress.add(result.events_in)
            if failures:
                # what is under way is finished and kept, the rest is for another run
                for other in waiting:
                    other.cancel()
    if failures:
        raise failures[0]
    names = [source.record.name for source in request.sources]
    return [results[name] for name in names if name in results]


def _key(request: Request, source: Source) -> str:
    """What the result of one file depends on."""
    return replace(request, sources=(source,)).id


def _remember(request: Request, folder: Path, result: FileResult) -> None:
    """Write down, beside the result of a file, what it is."""
    source = next(s for s in request.sources if s.record.name == result.source)
    value = {"key": _key(request, source), "result": result.to_json()}
    write_json(folder / f"{result.output}.json", value)


def _made_before(request: Request, folder: Path) -> dict[str, FileResult]:
    """Results by source that this request or another left whole; another's are linked into
    `folder`."""
    found = {}
    folders = [folder, *(path for path in folder.parent.iterdir() if path != folder)]
    for source in request.sources:
        output, key = output_name(source), _key(request, source)
        for place in folders:
            record = place / f"{output}.json"
            value = read_json(record) if record.is_file() else {"key": None}
            made = place / output
            if value["key"] != key or not made.is_file():
                continue
            result = FileResult(**value["result"])
            if made.stat().st_size != result.bytes:
                continue
            if place != folder:
                with whole(folder / output) as part:
                    part.unlink()
                    _link(made, part)
                _remember(request, folder, result)
            found[result.source] = result
            break
    return found


def _link(path: Path, link: Path) -> None:
    """A hard link, or a copy on a volume that has none."""
    try:
        os.link(path, link)
    except OSError:
        shutil.copyfile(path, link)


@contextmanager
def worker_pool(workers: int, tasks: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes that live as long as the block, no more than there is work for."""
    context = get_context("forkserver")
    with ProcessPoolExecutor(max(1, min(workers, tasks)), mp_context=context) as pool:
        yield pool


def _manifest(request: Request, folder: Path, results: list[FileResult]) -> dict[str, Any]:
    missing = {source.record.name for source in request.sources} - {r.source for r in results}
    if missing:
        raise Shortfall(f"transform {request.id}: no result for {', '.join(sorted(missing))}")
    return {
        "format": MANIFEST_FORMAT,
        "request_id": request.id,
        "request": request.identity(),
        "dataset": request.dataset,
        "backend": "embedded",
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
        "files": [result.to_json() for result in results],
    }
