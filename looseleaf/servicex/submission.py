"""Carrying out a transform request on a ServiceX, through ServiceX's own client.

The client's adapter implements the protocol. This module adds the request's own identity, polling,
a check that every file has a result, and continuing after a kill. Any ServiceX with the uproot-raw
code generator works. One of looseleaf's own, in this process (`embedded`) or another one
(`looseleaf servicex serve`), has a code generator that writes a record next to each result; results
of others are read once more.
"""

import asyncio
import json
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from hashlib import sha1
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import httpx
from servicex.minio_adapter import MinioAdapter
from servicex.models import (
    ResultDestination,
    ResultFormat,
    Status,
    TransformRequest,
    TransformStatus,
)
from servicex.servicex_adapter import AuthorizationError, ServiceXAdapter

from looseleaf.errors import ConfigError, DataFileError, ServiceXFailed, Shortfall
from looseleaf.files import read_json, write_json
from looseleaf.lease import leased, sweep
from looseleaf.nanoaod import TREE
from looseleaf.objects.branches import EFT_COEFFICIENTS, WEIGHT, is_theory_weight
from looseleaf.progress import Progress
from looseleaf.retries import Retries
from looseleaf.servicex.formats import RUNS, SUFFIXES
from looseleaf.servicex.request import MANIFEST, OWN, Request, Source, refer, request_folder
from looseleaf.servicex.transform import (
    ALWAYS,
    LUMINOSITY_BLOCKS,
    FileResult,
    FileTask,
    TreeQuery,
    agrees,
    transform_file,
)
from looseleaf.servicex.volume import (
    account_name,
    complete_manifest,
    link,
    made_before,
    manifest_of,
    output_name,
    remember,
    result_name,
)

ORIGINAL_TREE = "Original"
# in a request's folder, for results that come from an object store
DOWNLOADS = "downloads"
# how many incomplete but "complete" requests are accepted from a service
GIVEN_UP = "given_up.json"
ENDED = (Status.complete, Status.canceled, Status.fatal, Status.bad_dataset)
# seconds between two polls, growing from the first to the last; a service on this machine answers
# quickly
FIRST_WAIT, LONGEST_WAIT, LONGEST_WAIT_HERE = 0.1, 10.0, 0.5
# seconds that a ServiceX may be away, and that a file may take to appear on a network volume
PATIENCE, VISIBLE = 300.0, 60.0
LONGEST_UPSTREAM_NAME = 255

T = TypeVar("T")


@dataclass(frozen=True)
class Endpoint:
    """A ServiceX: the client's adapter, a name for messages, and the local folder of its volume.

    The folder is None if the volume isn't mounted.
    """

    adapter: ServiceXAdapter
    title: str
    mount: Path | None = None


class Backend(Protocol):
    """A way to get a ServiceX."""

    # the name in the configuration
    name: str

    def service(self, request: Request, folder: Path) -> AbstractContextManager[Endpoint]:
        """A service that carries out a request whose results go to `folder`."""


def transform(
    request: Request,
    volume: str | Path,
    subdir: str,
    output: str | Path,
    backend: Backend,
    label: str,
) -> None:
    """Carry out a request, and write its manifest on the volume and as the stage's target.

    The results of a complete equal request (query, files, format, software) are used again. From an
    incomplete one, and from requests that differ only in their files, the results of common files
    are used: an interrupted run continues, and a new file of a dataset costs only that file. A
    request that a killed run had submitted is continued; Ctrl-C cancels it. The manifest is written
    last, so that it exists only if every result does.

    Raises `LooseleafError` if another run makes the same request, `ServiceXFailed` if the service
    refuses or is away, `Shortfall` for files without a result, and `DataFileError` for a wrong
    result.
    """
    folder = request_folder(volume, subdir, request.id)
    # what another user has completed may be read-only
    with suppress(OSError):
        refer(folder, output)
    manifest = complete_manifest(folder)
    if manifest is None:
        with leased(folder):
            refer(folder, output)
            manifest = _made(request, folder, backend, label)
    write_json(output, manifest)


def _made(request: Request, folder: Path, backend: Backend, label: str) -> dict[str, Any]:
    """Request the results that are missing in a request's folder; returns its manifest."""
    sweep(folder)
    results = made_before(request, folder)
    left = tuple(s for s in request.sources if s.record.name not in results)
    total = sum(source.record.events or 0 for source in request.sources)
    with Progress(f"servicex {label}", total) as progress:
        progress.add(sum(result.events_read for result in results.values()))
        if left:
            _checked(left)
            with backend.service(request, folder) as endpoint:
                submission = _Submission(request, left, folder, endpoint, progress)
                try:
                    results |= asyncio.run(submission.carried_out())
                finally:
                    shutil.rmtree(folder / DOWNLOADS, ignore_errors=True)
    ordered = [results[source.record.name] for source in request.sources]
    return manifest_of(request, folder, ordered, backend.name)


def _checked(sources: tuple[Source, ...]) -> None:
    """Raise an error for files that can't be requested from a ServiceX."""
    for source in sources:
        if not source.urls:
            raise DataFileError(
                f"{source.record.name}: nowhere to read it from: the site has no redirectors"
            )
        for url in source.urls:
            if "," in url:
                raise DataFileError(f"{url}: a comma divides addresses in ServiceX: rename it")


class _Submission:
    """The remaining files of a request, submitted to a service."""

    def __init__(
        self,
        request: Request,
        left: tuple[Source, ...],
        folder: Path,
        endpoint: Endpoint,
        progress: Progress,
    ) -> None:
        self.request, self.left, self.folder = request, left, folder
        self.endpoint, self.adapter = endpoint, endpoint.adapter
        self.progress = progress
        self.results: dict[str, FileResult] = {}
        mounted = endpoint.mount is not None
        self.destination = ResultDestination.volume if mounted else ResultDestination.object_store

    async def carried_out(self) -> dict[str, FileResult]:
        """The results by source; those that have come are kept, even if others are missing."""
        own = OWN in await self._answer(self.adapter.get_code_generators_async)
        if self.request.verify and not own:
            raise ConfigError(
                f"das.verify: {self.endpoint.title} isn't one of looseleaf's own, and doesn't "
                "hold files to checksums; say das.verify: false, or servicex.backend: embedded"
            )
        try:
            request_id = await self._submitted(own)
            async for status in self._statuses(request_id):
                ended = status.status in ENDED
                if ended or status.files_completed > len(self.results):
                    await self._collected(request_id, status, own)
        except asyncio.CancelledError:
            # after Ctrl-C, nobody waits for it
            with suppress(httpx.HTTPError):
                await self._canceled()
            raise
        missing = [s for s in self.left if s.record.name not in self.results]
        if status.status != Status.complete:
            # one of ours ends so only where it can't write its manifest
            why = ": its volume is full, over quota or read-only; free space there and run again"
            raise ServiceXFailed(
                f"{self.endpoint.title}: request {request_id} ended as {status.status.value}"
                f"{why if own and status.status == Status.fatal else ''}"
            )
        if missing:
            if not status.files_failed:
                write_json(self.folder / GIVEN_UP, [*_given_up(self.folder), request_id])
            raise Shortfall(await self._shortfall(request_id, status, missing, own))
        return self.results

    def _titles(self) -> list[str]:
        """The title of the request for the remaining files, and that of a request for all files."""
        return [
            f"looseleaf {asked.id} {self.destination.value}"
            for asked in (replace(self.request, sources=self.left), self.request)
        ]

    async def _submitted(self, own: bool) -> str:
        """The service's id of the request: of one that an earlier run submitted, or of a new one.

        The title identifies a request. The service keeps it, even if this process was killed before
        it got the answer.
        """
        titles, given_up = self._titles(), _given_up(self.folder)
        new = TransformRequest(
            title=titles[0],
            file_list=[_paths(source) for source in self.left],
            selection=_skim(self.request, self.left) if own else _query(self.request),
            codegen=OWN if own else "uproot-raw",
            result_destination=self.destination,
            result_format=ResultFormat(self.request.format if own else "root-file"),
        )

        async def taken_up_or_submitted() -> str:
            for status in await self.adapter.get_transforms():
                good = status.status not in ENDED or (
                    status.status == Status.complete and not status.files_failed
                )
                if status.title in titles and good and status.request_id not in given_up:
                    return str(status.request_id)
            return str(await self.adapter.submit_transform(new))

        # without an answer, the service may have accepted the request
        return await self._answer(taken_up_or_submitted)

    async def _canceled(self) -> None:
        titles = self._titles()
        for other in await self.adapter.get_transforms():
            if other.title in titles and other.status not in ENDED:
                await self.adapter.cancel_transform(other.request_id)

    async def _statuses(self, request_id: str) -> AsyncIterator[TransformStatus]:
        """The request's status, polled until it has ended."""
        here = urlsplit(self.adapter.url).hostname in ("localhost", "127.0.0.1", "::1")
        wait = FIRST_WAIT
        while True:
            status = await self._answer(lambda: self.adapter.get_transform_status(request_id))
            yield status
            if status.status in ENDED:
                return
            await asyncio.sleep(wait)
            wait = min(wait * 1.5, LONGEST_WAIT_HERE if here else LONGEST_WAIT)

    async def _answer(self, question: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """An answer of the service, tried again while it is away; else `ServiceXFailed`."""
        title = self.endpoint.title

        async def asked() -> T:
            answer = await question()
            # the adapter treats a cancellation as another reason to try again
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise asyncio.CancelledError
            return answer

        try:
            retries = Retries(httpx.TransportError, seconds=PATIENCE, longest=1.0)
            return await retries.await_call(asked)
        except httpx.TransportError as problem:
            raise ServiceXFailed(
                f"{title}: no answer for {PATIENCE:.0f} s ({type(problem).__name__})"
            ) from None
        except AuthorizationError:
            raise ServiceXFailed(
                f"{title}: the token was refused; renew the one in servicex.yaml"
            ) from None
        except (RuntimeError, ValueError) as problem:
            raise ServiceXFailed(f"{title}: {problem}") from None

    async def _collected(self, request_id: str, status: TransformStatus, own: bool) -> None:
        """Fetch results as soon as they exist, so that a killed run keeps them."""
        # a result may appear late on a network volume, so the last check waits for it
        patience = VISIBLE if status.status in ENDED else 0.0
        listed = await self._answer(lambda: self.adapter.get_transformation_results(request_id))
        sizes = {file.filename: file.total_bytes for file in listed}
        suffix = SUFFIXES[self.request.format] if own else ".root"
        named = _named(
            [s for s in self.left if s.record.name not in self.results], sizes, status, suffix
        )
        incoming = self.folder / DOWNLOADS
        mount: Path | None = self.endpoint.mount
        store: Any = None
        if mount is None:
            incoming.mkdir(exist_ok=True)
            store = MinioAdapter.for_transform(status)

        async def fetched(name: str, size: int | None) -> Path | None:
            if mount is not None:
                return await _on_volume(mount, request_id, name, size, patience)
            try:
                path: Path = await store.download_file(name, str(incoming), expected_size=size)
            except OSError as problem:
                # the store's library doesn't name the file that finds no room
                problem.filename = problem.filename or str(incoming / name)
                raise
            return path

        paths = await asyncio.gather(*(fetched(name, sizes.get(name)) for name in named.values()))
        accounts: Sequence[Path | None] = [None] * len(paths)
        if own:
            accounts = await asyncio.gather(
                *(fetched(account_name(name), None) for name in named.values())
            )
        for source, path, account in zip(named, paths, accounts, strict=True):
            if path is None or (own and account is None):
                continue
            result = (
                _gone_through(self.request, source, path, self.folder)
                if account is None
                else _taken_over(self.request, source, path, account, self.folder)
            )
            remember(self.request, self.folder, result)
            self.results[result.source] = result
            self.progress.add(result.events_read)
        shutil.rmtree(incoming, ignore_errors=True)

    async def _shortfall(
        self, request_id: str, status: TransformStatus, missing: list[Source], own: bool
    ) -> str:
        """A message on files without a result: their names, and the reasons as far as known."""
        mount, reasons = self.endpoint.mount, {}
        if own and mount is None:
            store = MinioAdapter.for_transform(status)
            with TemporaryDirectory() as name:
                reasons = _reasons(await store.download_file(MANIFEST, name))
        elif own and mount is not None and (path := mount / request_id / MANIFEST).is_file():
            reasons = _reasons(path)
        where = "" if mount is None or reasons else f" in {mount} (servicex.mount)"
        missing_files = [
            ": ".join(filter(None, (source.record.name, reasons.get(_paths(source)))))
            for source in missing
        ]
        return (
            f"{self.endpoint.title}: request {request_id} has no result for {len(missing)} of "
            f"{len(self.left)} files{where}: {'; '.join(missing_files)}"
        )


def addresses(source: Source) -> list[str]:
    """The addresses of a file in a request; those on this machine are absolute."""
    return [url if "://" in url else str(Path(url).absolute()) for url in source.urls]


def _paths(source: Source) -> str:
    """A file and its replicas, as a request lists them."""
    return ",".join(addresses(source))


def _reasons(manifest: Path) -> dict[str, str]:
    """The reasons why files failed, by path, from a manifest of our own service."""
    return {file["paths"]: file["error"] for file in read_json(manifest)["files"] if file["error"]}


def _skim(request: Request, left: tuple[Source, ...]) -> str:
    """The request as a looseleaf selection, for the remaining files."""
    checksums = {addresses(source)[0]: source.record.adler32 for source in left}
    return json.dumps(
        {
            "columns": request.columns,
            "cut": request.cut,
            "software": request.software,
            **({"checksums": checksums} if request.verify else {}),
        }
    )


def _query(request: Request) -> str:
    """The request as an uproot-raw selection.

    It has the columns and selected events and, to normalise the skim, the weights and luminosity
    sections of the original file.
    """
    names = [name for column in request.columns for name in column.split("|")]
    counters = [f"n{name.partition('_')[0]}" for name in names]
    # whether there are EFT coefficients has to be known, even if they aren't requested
    original = ["run", "luminosityBlock", WEIGHT, f"n{EFT_COEFFICIENTS}"]
    if EFT_COEFFICIENTS in names:
        original.append(EFT_COEFFICIENTS)
    for name in filter(is_theory_weight, names):
        original += [name, f"n{name}"]
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
            # a file that was skimmed before stores there what it was made from
            {
                "treename": {RUNS: RUNS},
                "filter_name": ["run", "genEvent*", "LHE*Sumw*", "PSSumw*", "n*Sumw*"],
                "fail_on_missing_trees": False,
            },
        ]
    )


def _given_up(folder: Path) -> list[str]:
    path = folder / GIVEN_UP
    return read_json(path) if path.is_file() else []


def _named(
    left: list[Source], sizes: dict[str, int], status: TransformStatus, suffix: str
) -> dict[Source, str]:
    """The name of each file's result, for files that have one.

    The client doesn't tell which result belongs to which file. The names do, since both services
    make them from the files' paths.
    """
    # upstream has the name "none" for results on a volume
    nameless = set(sizes) <= {"none"} and status.files_completed == status.files
    named = {}
    for source in left:
        own = result_name(_paths(source), suffix)
        candidates = [own, *map(_upstream_name, source.urls)]
        present = [name for name in candidates if name in sizes]
        if present or nameless:
            named[source] = (present or candidates[1:])[0]
    return named


def _upstream_name(url: str) -> str:
    """ServiceX's name for a file's result."""
    name = url.replace("/", ":")
    if len(name) <= LONGEST_UPSTREAM_NAME:
        return name
    digest = sha1(name.encode()).hexdigest()
    return f"_{digest}{name[-(LONGEST_UPSTREAM_NAME - len(digest) - 1) :]}"


async def _on_volume(
    mount: Path, request_id: str, name: str, size: int | None, patience: float
) -> Path | None:
    """The path of a result on the mounted volume, once it is complete there.

    None if it isn't within `patience` seconds.
    """
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
        if time.monotonic() - started >= patience:
            return None
        await asyncio.sleep(FIRST_WAIT)


def _taken_over(
    request: Request, source: Source, path: Path, about: Path, folder: Path
) -> FileResult:
    """A result of our own code generator, used as it is."""
    result = FileResult.from_json(read_json(about), str(about))
    # for a skim, its own events, not the original file's
    agrees(result.source_url, "events", result.events_read, source.record.events)
    output = output_name(source, request.format)
    link(path, folder / output)
    return replace(result, source=source.record.name, output=output)


def _gone_through(request: Request, source: Source, path: Path, folder: Path) -> FileResult:
    """A result of any ServiceX, converted to ours: NanoAOD, counted, and checked against the
    lookup."""
    output = str(folder / output_name(source, request.format))
    result = transform_file(
        FileTask(
            name=source.record.name,
            urls=(str(path),),
            expected_bytes=None,
            expected_events=source.record.events,
            expected_adler32=None,
            queries=(TreeQuery(columns=request.columns, may_lack=True),),
            output=output,
            work=output,
            format=request.format,
            original=ORIGINAL_TREE,
        )
    )
    # the service read it from one of these
    return replace(result, source_url=source.urls[0])
