"""The remote backend: a transform request carried out by a ServiceX, through its own client.

The client's adapter speaks the protocol; what it leaves to chance is done here: the request's own
identity, polling, a check that every file came back, going on after a kill. Any ServiceX with the
uproot-raw code generator will do, `looseleaf servicex serve` among them.
"""

import asyncio
import json
import shutil
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from hashlib import sha1
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from looseleaf.errors import ConfigError, ServiceFailed, Shortfall
from looseleaf.files import read_json, write_json
from looseleaf.nanoaod import TREE
from looseleaf.objects.branches import EFT_COEFFICIENTS
from looseleaf.progress import Progress
from looseleaf.servicex.request import Request, Source
from looseleaf.servicex.transform import (
    ALWAYS,
    LUMINOSITY_BLOCKS,
    WEIGHT,
    FileResult,
    FileTask,
    TreeQuery,
    transform_file,
)
from looseleaf.servicex.volume import (
    made_before,
    manifest_of,
    output_name,
    prepared,
    remember,
    result_name,
)

try:
    import httpx
    from servicex.configuration import Configuration
    from servicex.minio_adapter import MinioAdapter
    from servicex.models import (
        ResultDestination,
        ResultFormat,
        Status,
        TransformRequest,
        TransformStatus,
    )
    from servicex.servicex_adapter import AuthorizationError, ServiceXAdapter
except ModuleNotFoundError as problem:
    raise ConfigError(
        f"servicex.backend: remote needs the package {problem.name}: type "
        "pip install 'looseleaf[servicex]'"
    ) from None

ORIGINAL_TREE = "Original"
# requests that a service calls complete and has not all results of
GIVEN_UP = "given_up.json"
ENDED = (Status.complete, Status.canceled, Status.fatal, Status.bad_dataset)
# seconds between two questions: from the first, growing, to the last; one that is on this machine
# is quick to answer
FIRST_WAIT, LONGEST_WAIT, LONGEST_WAIT_HERE = 0.1, 10.0, 0.5
# seconds that a ServiceX may be away, and that a file may take to show on a network's volume
PATIENCE, VISIBLE = 300.0, 60.0
LONGEST_UPSTREAM_NAME = 255

T = TypeVar("T")


@dataclass(frozen=True)
class Endpoint:
    """Which ServiceX: its name in servicex.yaml (None: the default there), and the folder here in
    which its volume shows the results, None where it is not mounted."""

    name: str | None = None
    mount: Path | None = None


def adapter_of(endpoint: Endpoint) -> ServiceXAdapter:
    """The client's adapter for an endpoint of servicex.yaml; `ConfigError` if it isn't there."""
    try:
        found = Configuration.read()
    except (NameError, ValueError, OSError) as problem:
        raise ConfigError(f"servicex.backend: remote: no usable servicex.yaml: {problem}") from None
    known = found.endpoint_dict()
    name = endpoint.name or found.default_endpoint or next(iter(known))
    if name not in known:
        raise ConfigError(
            f"servicex.endpoint: {name!r} is not in {found.config_file}: {', '.join(known)}"
        )
    return ServiceXAdapter(known[name].endpoint, refresh_token=known[name].token)


def transform(
    request: Request,
    volume: str | Path,
    subdir: str,
    output: str | Path,
    endpoint: Endpoint,
    label: str,
) -> None:
    """Have a ServiceX carry out a request; its results stand as those of the embedded backend.

    A request that is complete is used again, also in part, as there. One that a killed run had
    submitted is taken up; Ctrl-C cancels it. Raises `ServiceFailed` if the service refuses or is
    away, `Shortfall` for files that it has no result of, `DataFileError` for a result that can't
    be right.
    """
    folder, manifest = prepared(request, volume, subdir)
    if manifest is None:
        results = made_before(request, folder)
        left = tuple(s for s in request.sources if s.record.name not in results)
        if left:
            adapter = adapter_of(endpoint)
            with Progress(f"servicex {label}", len(left), "files") as progress:
                made = asyncio.run(_carried_out(request, left, folder, adapter, endpoint, progress))
            results |= {result.source: result for result in made}
        ordered = [results[source.record.name] for source in request.sources]
        manifest = manifest_of(request, folder, ordered, "remote")
    write_json(output, manifest)


async def _carried_out(
    request: Request,
    left: tuple[Source, ...],
    folder: Path,
    adapter: ServiceXAdapter,
    endpoint: Endpoint,
    progress: Progress,
) -> list[FileResult]:
    """The results of the files that are `left` of a request."""
    try:
        request_id = await _submitted(request, left, folder, adapter, endpoint)
        status = await _ended(request_id, adapter, progress)
    except asyncio.CancelledError:
        # Ctrl-C: nobody waits for it any more
        titles = _titles(request, left, endpoint)
        for other in await adapter.get_transforms():
            if other.title in titles and other.status not in ENDED:
                await adapter.cancel_transform(other.request_id)
        raise
    if status.status != Status.complete:
        raise ServiceFailed(f"{adapter.url}: request {request_id} ended as {status.status.value}")
    listed = await _asked(adapter, lambda: adapter.get_transformation_results(request_id))
    sizes = {file.filename: file.total_bytes for file in listed}
    named = _named(left, sizes, status)
    incoming = folder / "incoming"
    if endpoint.mount is None:
        incoming.mkdir(exist_ok=True)
        store = MinioAdapter.for_transform(status)
        found = [
            store.download_file(name, str(incoming), expected_size=sizes[name])
            for name in named.values()
        ]
    else:
        found = [
            _on_volume(endpoint.mount, request_id, name, sizes.get(name)) for name in named.values()
        ]
    paths = await asyncio.gather(*found)
    # what has come is kept, so that another run asks for the rest alone
    results = [
        _adopted(request, source, path, folder)
        for source, path in zip(named, paths, strict=True)
        if path is not None
    ]
    shutil.rmtree(incoming, ignore_errors=True)
    made = {result.source for result in results}
    missing = [source.record.name for source in left if source.record.name not in made]
    if missing:
        write_json(folder / GIVEN_UP, [*_given_up(folder), request_id])
        where = "" if endpoint.mount is None else f" in {endpoint.mount} (servicex.mount)"
        raise Shortfall(
            f"{adapter.url}: request {request_id} has no result for {len(missing)} of "
            f"{len(left)} files{where}: {', '.join(missing)}"
        )
    return results


def _query(request: Request) -> str:
    """The request as an uproot-raw selection: columns and selected events, and, so that the skim
    can be normalised, what the original file held of weights and luminosity sections."""
    names = [name for column in request.columns for name in column.split("|")]
    counters = [f"n{name.partition('_')[0]}" for name in names]
    original = ["run", "luminosityBlock", WEIGHT]
    if EFT_COEFFICIENTS in names:
        original += [EFT_COEFFICIENTS, f"n{EFT_COEFFICIENTS}"]
    return json.dumps(
        [
            {
                "treename": {TREE: TREE},
                "filter_name": sorted({*names, *counters, *ALWAYS}),
                "cut": request.cut,
            },
            {"treename": {TREE: ORIGINAL_TREE}, "filter_name": original},
            {
                "treename": {LUMINOSITY_BLOCKS: LUMINOSITY_BLOCKS},
                "filter_name": ["run", "luminosityBlock"],
                "fail_on_missing_trees": False,
            },
        ]
    )


def _destination(endpoint: Endpoint) -> ResultDestination:
    mounted = endpoint.mount is not None
    return ResultDestination.volume if mounted else ResultDestination.object_store


def _titles(request: Request, left: tuple[Source, ...], endpoint: Endpoint) -> list[str]:
    """What the request for the files that are left is called, and one for all files."""
    destination = _destination(endpoint).value
    return [
        f"looseleaf {asked.id} {destination}" for asked in (replace(request, sources=left), request)
    ]


def _given_up(folder: Path) -> list[str]:
    path = folder / GIVEN_UP
    return read_json(path) if path.is_file() else []


async def _submitted(
    request: Request,
    left: tuple[Source, ...],
    folder: Path,
    adapter: ServiceXAdapter,
    endpoint: Endpoint,
) -> str:
    """The service's id of the request: of the one that an earlier run has submitted, if it is
    still good, or of a new one.

    The title says whose request it is: it is the service that remembers, also if this process was
    killed before it heard the answer.
    """
    titles, destination = _titles(request, left, endpoint), _destination(endpoint)
    given_up = _given_up(folder)
    asked = TransformRequest(
        title=titles[0],
        file_list=[",".join(source.urls) for source in left],
        selection=_query(request),
        codegen="uproot-raw",
        result_destination=destination,
        result_format=ResultFormat.root_ttree,
    )

    async def found_or_submitted() -> str:
        for status in await adapter.get_transforms():
            good = status.status not in ENDED or (
                status.status == Status.complete and not status.files_failed
            )
            if status.title in titles and good and status.request_id not in given_up:
                return status.request_id
        return await adapter.submit_transform(asked)

    # where no answer came, the service may have taken the request in
    return await _asked(adapter, found_or_submitted)


async def _ended(request_id: str, adapter: ServiceXAdapter, progress: Progress) -> TransformStatus:
    here = urlsplit(adapter.url).hostname in ("localhost", "127.0.0.1", "::1")
    wait, done = FIRST_WAIT, 0
    while True:
        status = await _asked(adapter, lambda: adapter.get_transform_status(request_id))
        progress.add(status.files_completed - done)
        done = status.files_completed
        if status.status in ENDED:
            return status
        await asyncio.sleep(wait)
        wait = min(wait * 1.5, LONGEST_WAIT_HERE if here else LONGEST_WAIT)


async def _asked(adapter: ServiceXAdapter, question: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """An answer of the service, which may be away for a while; `ServiceFailed` says why not."""
    started = time.monotonic()
    while True:
        try:
            answer = await question()
            # the adapter takes a cancellation for one more reason to try again
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError
            return answer
        except httpx.TransportError as problem:
            if time.monotonic() - started > PATIENCE:
                raise ServiceFailed(
                    f"{adapter.url}: no answer for {PATIENCE:.0f} s ({type(problem).__name__})"
                ) from None
            await asyncio.sleep(1)
        except AuthorizationError:
            raise ServiceFailed(
                f"{adapter.url}: the token was refused; renew the one in servicex.yaml"
            ) from None
        except (RuntimeError, ValueError) as problem:
            raise ServiceFailed(f"{adapter.url}: {problem}") from None


def _named(
    left: tuple[Source, ...], sizes: dict[str, int], status: TransformStatus
) -> dict[Source, str]:
    """The name of each file's result, for the files that have one.

    The client doesn't say which result is whose, so that the names have to: they are made of the
    files' paths, here and upstream.
    """
    # upstream calls results on a volume "none"
    nameless = set(sizes) <= {"none"} and status.files_completed == status.files
    named = {}
    for source in left:
        ours = result_name(",".join(source.urls), ".root")
        candidates = [ours, *map(_upstream_name, source.urls)]
        there = [name for name in candidates if name in sizes]
        if there or nameless:
            named[source] = (there or candidates[1:])[0]
    return named


def _upstream_name(url: str) -> str:
    """What ServiceX calls a file's result."""
    name = url.replace("/", ":")
    if len(name) <= LONGEST_UPSTREAM_NAME:
        return name
    digest = sha1(name.encode()).hexdigest()
    return f"_{digest}{name[-(LONGEST_UPSTREAM_NAME - len(digest) - 1) :]}"


async def _on_volume(mount: Path, request_id: str, name: str, size: int | None) -> Path | None:
    """Where a result stands on the mounted volume, once all of it shows there; None if it
    doesn't."""
    own, flat = mount / request_id / name, mount / name
    started = time.monotonic()
    while True:
        for path in (own, flat):
            if not path.is_file() or (size is not None and path.stat().st_size != size):
                continue
            if path == flat:
                print(
                    f"warning: {path}: this ServiceX keeps no folder for each request: another "
                    "request for this file overwrites the result",
                    file=sys.stderr,
                )
            return path
        if time.monotonic() - started > VISIBLE:
            return None
        await asyncio.sleep(FIRST_WAIT)


def _adopted(request: Request, source: Source, path: Path, folder: Path) -> FileResult:
    """A result as ours: NanoAOD, counted, checked against what was looked up."""
    result = transform_file(
        FileTask(
            name=source.record.name,
            urls=(str(path),),
            expected_bytes=None,
            expected_events=source.record.events,
            expected_adler32=None,
            queries=(TreeQuery(columns=request.columns),),
            output=str(folder / output_name(source, request.format)),
            format=request.format,
            original=ORIGINAL_TREE,
        )
    )
    # the service read it, from one of these
    result = replace(result, source_url=source.urls[0])
    remember(request, folder, result)
    return result
