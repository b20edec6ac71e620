"""The service over HTTP: ServiceX's REST protocol, and the part of S3 that delivers results."""

import asyncio
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi import Path as Within
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from looseleaf import __version__
from looseleaf.errors import ConfigError
from looseleaf.servicex.request import MANIFEST
from looseleaf.servicex.service.auth import Keys
from looseleaf.servicex.service.checks import Checks
from looseleaf.servicex.service.connections import REFRESH
from looseleaf.servicex.service.engine import Engine
from looseleaf.servicex.service.places import Places
from looseleaf.servicex.service.queries import CODEGENS, usable
from looseleaf.servicex.service.state import BAD_DATASET, RUNNING, FileRow, StateFull, stamp
from looseleaf.servicex.volume import account_name
from looseleaf.stage_files import FileRecord

CAPABILITIES = ["poll_local_transformation_results", "long_sample_titles_10240"]
GIVEN = "File List Provided in Request"
# more than the largest datasets have
MOST_FILES = 50_000
# requests that are checked and written down at a time, one after the other; others wait without a
# thread, of which there are 40 for all that is asked
SUBMITTING = 2
# requests on a page, each of which is a query of the state
PAGE = 500
LARGEST_NUMBER = 2**63 - 1
# a file and its replicas, as a place on this machine or an address
PATH = r"^(/|root://|https?://|s3://)[^\x00-\x1f]*$"


def _encodable(text: str) -> str:
    # half of a surrogate pair is no text, and can't be written anywhere
    text.encode()
    return text


Text = Annotated[str, AfterValidator(_encodable)]


class Submission(BaseModel):
    """A transform request in the client's form."""

    model_config = ConfigDict(extra="ignore")

    title: Annotated[Text, Field(max_length=10240)] | None = None
    did: Text | None = None
    file_list: list[Annotated[Text, Field(pattern=PATH)]] | None = Field(
        None, alias="file-list", max_length=MOST_FILES
    )
    selection: Text
    codegen: Literal["looseleaf", "uproot-raw", "uproot", "python"]
    destination: Literal["object-store", "volume"] = Field(alias="result-destination")
    format: Literal["root-file", "root-rntuple", "parquet"] = Field(alias="result-format")


def make_app(
    engine: Engine,
    keys: Keys | None,
    catalogue: Mapping[str, Sequence[FileRecord]],
    places: Places,
    no_python: str | None = None,
) -> FastAPI:
    """The service, behind a `Gate`. Without keys, it needs no token and refuses Python queries.

    `catalogue` are the datasets that can be requested by name, `places` where other files may be
    read, `no_python` is the reason for refusing Python queries, if they are.
    """
    if keys is None:
        no_python = "python queries are for services with a token"
    # its schema is nothing for strangers: no page of FastAPI's is there
    app = FastAPI(openapi_url=None, redirect_slashes=False)

    @app.exception_handler(HTTPException)
    async def told(request: Request, problem: HTTPException) -> JSONResponse:
        # the client looks for the reason under this name
        detail = problem.detail.encode(errors="replace").decode()
        return JSONResponse({"message": detail}, problem.status_code, problem.headers)

    @app.exception_handler(StateFull)
    async def full(request: Request, problem: StateFull) -> JSONResponse:
        return JSONResponse({"message": f"the service's own disk is full: {problem}"}, 507)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, problem: RequestValidationError) -> JSONResponse:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return JSONResponse({"message": f"{where}: {first['msg']}"}, 400)

    if keys is not None:
        app.post(REFRESH)(lambda: {"access_token": keys.new_pass()})
    app.include_router(_protocol(engine, keys, catalogue, places, no_python), prefix="/servicex")
    app.include_router(_object_store(engine, keys))
    return app


def _protocol(
    engine: Engine,
    keys: Keys | None,
    catalogue: Mapping[str, Sequence[FileRecord]],
    places: Places,
    no_python: str | None,
) -> APIRouter:
    router, state = APIRouter(), engine.state
    submitting = asyncio.Semaphore(SUBMITTING)

    def known(request_id: UUID) -> dict[str, Any]:
        transform = state.request(str(request_id))
        if transform is None:
            raise HTTPException(404, f"no request {request_id}")
        return transform

    def page(
        limit: Annotated[int, Query(ge=1, le=PAGE)] = PAGE,
        offset: Annotated[int, Query(ge=0, le=LARGEST_NUMBER)] = 0,
    ) -> list[dict[str, Any]]:
        """The last requests but for `offset`, in the order in which they came."""
        transformations = map(state.request, state.latest(limit, offset))
        return [one for one in transformations if one is not None]

    Page = Annotated[list[dict[str, Any]], Depends(page)]  # noqa: N806 - a type
    Known = Annotated[dict[str, Any], Depends(known)]  # noqa: N806 - a type

    @router.get("")
    def info() -> dict[str, Any]:
        codegens = {k: v for k, v in usable().items() if no_python is None or k != "python"}
        return {
            "app-version": __version__,
            "code-gen-image": codegens,
            "capabilities": CAPABILITIES,
        }

    def taken_in(submission: Submission) -> dict[str, str]:
        if submission.codegen == "python" and no_python is not None:
            raise HTTPException(403, no_python)
        try:
            paths = _checked(submission, catalogue, places, engine.checks)
        except ConfigError as problem:
            raise HTTPException(400, str(problem)) from None
        request = {
            "title": submission.title,
            "did": submission.did or GIVEN,
            "selection": submission.selection,
            "codegen": submission.codegen,
            "destination": submission.destination,
            "format": submission.format,
        }
        return {"request_id": engine.submit(request, paths, RUNNING if paths else BAD_DATASET)}

    @router.post("/transformation")
    async def submit(submission: Submission, request: Request) -> dict[str, str]:
        async with submitting:
            if await request.is_disconnected():
                raise HTTPException(400, "nobody waits for it any more")
            return await run_in_threadpool(taken_in, submission)

    @router.get("/transformation")
    def transformations(page: Page, request: Request) -> dict[str, Any]:
        return {"requests": [_status(transform, request, None) for transform in page]}

    @router.get("/transformation/{request_id}")
    def status(transform: Known, request: Request) -> dict[str, Any]:
        return _status(transform, request, keys)

    @router.get("/transformation/{request_id}/results")
    def results(transform: Known, later_than: datetime | None = None) -> dict[str, Any]:
        try:
            after = "" if later_than is None else stamp(later_than)
        except OverflowError:
            raise HTTPException(400, "later_than: no such moment") from None
        return {"results": [_result(row) for row in state.results(transform["id"], after)]}

    @router.get("/transformation/{request_id}/cancel")
    @router.post("/transformation/{request_id}/cancel")
    def cancel(transform: Known) -> dict[str, str]:
        engine.cancel(transform["id"])
        return {"message": f"canceled {transform['id']}"}

    @router.delete("/transformation/{request_id}")
    def delete(transform: Known) -> dict[str, str]:
        engine.delete(transform["id"])
        return {"message": f"deleted {transform['id']}"}

    @router.get("/datasets")
    def datasets(page: Page) -> dict[str, Any]:
        return {"datasets": [_dataset(transform) for transform in page]}

    @router.get("/datasets/{number}")
    def dataset(number: Annotated[int, Within(ge=0, le=LARGEST_NUMBER)]) -> dict[str, Any]:
        transform = state.request_by_number(number)
        if transform is None:
            raise HTTPException(404, f"no dataset {number}")
        return _dataset(transform)

    return router


def _checked(
    submission: Submission,
    catalogue: Mapping[str, Sequence[FileRecord]],
    places: Places,
    checks: Checks,
) -> list[str]:
    """The files to transform, empty for an unknown dataset; `ConfigError` for an invalid
    request."""
    queries = checks.check(submission.codegen, submission.selection)
    if submission.format == "parquet" and submission.codegen != "python" and len(queries) > 1:
        raise ConfigError("Parquet holds one tree: ask for several one at a time")
    if (submission.did is None) == (submission.file_list is None):
        raise ConfigError("either did or file-list says what to transform")
    if submission.file_list is None:
        return _files_of(str(submission.did), catalogue)
    if not submission.file_list:
        raise ConfigError("file-list: there is no file in it")
    if len(set(submission.file_list)) < len(submission.file_list):
        ((twice, _),) = Counter(submission.file_list).most_common(1)
        raise ConfigError(f"file-list: {twice} is listed twice")
    for paths in submission.file_list:
        places.check(paths)
    return submission.file_list


def _object_store(engine: Engine, keys: Keys | None) -> APIRouter:
    router = APIRouter()

    @router.api_route("/{bucket}/{key}", methods=["GET", "HEAD"])
    def result(bucket: UUID, key: str, request: Request) -> Response:
        """A result as S3 delivers it, completely or a range of it."""
        url = request.url
        where = f"{url.scheme}://{url.netloc}{request.scope['raw_path'].decode()}"
        query = request.scope["query_string"].decode()
        if keys is not None and not keys.opens(
            str(bucket), request.method, where, query, request.headers
        ):
            return _s3_error("SignatureDoesNotMatch", 403)
        # only files that the service has recorded as results are delivered
        rows = engine.state.results(str(bucket), "")
        outputs = [row.output for row in rows if row.status == "success"]
        if key not in {MANIFEST, *outputs, *map(account_name, outputs)}:
            return _s3_error("NoSuchKey", 404)
        path = engine.folder(str(bucket)) / key
        # a query may have replaced its result by a link to another file
        if path.is_symlink() or not path.is_file():
            return _s3_error("NoSuchKey", 404)
        return FileResponse(path, media_type="application/octet-stream")

    return router


def _s3_error(code: str, status: int) -> Response:
    text = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code></Error>'
    return Response(text, status, media_type="application/xml")


def _files_of(did: str, catalogue: Mapping[str, Sequence[FileRecord]]) -> list[str]:
    """The addresses of a dataset's files, for rucio://name?files=N."""
    try:
        parts = urlsplit(did)
    except ValueError:
        return []
    name = f"{parts.netloc}{parts.path}"
    records = catalogue.get(name) or catalogue.get(name.partition(":")[2]) or ()
    paths = [record.url for record in records if record.valid and record.url is not None]
    limit = parse_qs(parts.query).get("files", [""])[-1]
    return paths[: int(limit)] if re.fullmatch("[0-9]{1,9}", limit) else paths


def _status(transform: Mapping[str, Any], request: Request, keys: Keys | None) -> dict[str, Any]:
    counts = transform["files"]
    done, failed = counts.get("success", 0), counts.get("failure", 0)
    total = sum(counts.values())
    value = {
        "request_id": transform["id"],
        "did": transform["did"],
        "did_id": transform["number"],
        "title": transform["title"],
        "selection": transform["selection"],
        "tree-name": None,
        "image": CODEGENS[transform["codegen"]],
        "result-destination": transform["destination"],
        "result-format": transform["format"],
        "generated-code-cm": "none",
        "status": transform["status"],
        "app-version": __version__,
        "files": total,
        "files-completed": done,
        "files-failed": failed,
        "files-remaining": total - done - failed,
        "submit-time": transform["submitted"],
        "finish-time": transform["finished"] or "None",
        "log-url": None,
    }
    if transform["destination"] == "object-store":
        credentials = keys.s3(transform["id"]) if keys is not None else None
        value |= {
            "minio-endpoint": request.url.netloc,
            "minio-secured": request.url.scheme == "https",
            "minio-access-key": credentials.access_key if credentials else "none",
            "minio-secret-key": credentials.secret_key if credentials else "none",
        }
    return value


def _result(row: FileRow) -> dict[str, Any]:
    return {
        "file-path": row.paths,
        "s3-object-name": row.output,
        "transform_status": row.status,
        "total-bytes": row.result["bytes"] if row.result else 0,
        "created_at": row.created,
        "error": row.error,
    }


def _dataset(transform: Mapping[str, Any]) -> dict[str, Any]:
    counts = transform["files"]
    return {
        "id": transform["number"],
        "name": transform["did"],
        "did_finder": "catalogue",
        "n_files": sum(counts.values()),
        "size": 0,
        "events": 0,
        "last_used": transform["submitted"],
        "last_updated": transform["submitted"],
        "lookup_status": "does_not_exist" if transform["status"] == BAD_DATASET else "complete",
        "is_stale": False,
        "files": [],
    }
