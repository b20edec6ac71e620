"""The embedded backend: a transform request carried out on worker processes of this machine."""

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

from looseleaf.files import write_json
from looseleaf.progress import Progress
from looseleaf.servicex.request import Request
from looseleaf.servicex.transform import FileResult, FileTask, TreeQuery, transform_file
from looseleaf.servicex.volume import made_before, manifest_of, output_name, prepared, remember
from looseleaf.workerprocess import keep_memory


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
    folder, manifest = prepared(request, volume, subdir)
    if manifest is None:
        results = _run(request, folder, workers, label)
        manifest = manifest_of(request, folder, results, "embedded")
    write_json(output, manifest)


def _run(request: Request, folder: Path, workers: int, label: str) -> list[FileResult]:
    results = made_before(request, folder)
    tasks = [
        FileTask(
            name=source.record.name,
            urls=source.urls,
            expected_bytes=source.record.bytes,
            expected_events=source.record.events,
            expected_adler32=source.record.adler32,
            queries=(TreeQuery(columns=request.columns, cut=request.cut),),
            format=request.format,
            output=str(folder / output_name(source, request.format)),
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
                remember(request, folder, result)
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


@contextmanager
def worker_pool(workers: int, tasks: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes that live as long as the block, no more than there is work for."""
    keep_memory()
    context = get_context("forkserver")
    with ProcessPoolExecutor(max(1, min(workers, tasks)), mp_context=context) as pool:
        yield pool
