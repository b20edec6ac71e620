"""The queue: files of requests handed to worker processes, tried again, canceled, written down."""

import errno
import shutil
import sys
import threading
import traceback
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from looseleaf.errors import LooseleafError, ReadFailed
from looseleaf.files import write_json
from looseleaf.servicex.formats import SUFFIXES
from looseleaf.servicex.request import MANIFEST, request_folder
from looseleaf.servicex.service.python import PythonTask, run_python
from looseleaf.servicex.service.queries import check
from looseleaf.servicex.service.state import (
    COMPLETE,
    FATAL,
    RUNNING,
    FileRow,
    State,
    StateFull,
)
from looseleaf.servicex.service.workers import Worker, WorkerDied
from looseleaf.servicex.transform import FileTask, transform_file
from looseleaf.servicex.volume import result_name

# seconds until a disk that is full is tried again
FULL = 2.0
SERVICE_MANIFEST_FORMAT = "looseleaf-servicex/1"
# failures of the machine or the network that may be over a moment later
TRANSIENT = {errno.EIO, errno.EAGAIN, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET}


@dataclass(frozen=True)
class Limits:
    """`tries` of a file, `seconds` for one try, and the memory in bytes of a python query, which
    runs in a jail if it is to be `confined`."""

    tries: int = 4
    backoff: float = 1.0
    seconds: int = 3600
    memory: int = 4 << 30
    confined: bool = True


class Engine:
    """Works through the state's files with so many worker processes."""

    def __init__(
        self, state: State, volume: Path, subdir: str, workers: int, limits: Limits
    ) -> None:
        self.state, self.limits = state, limits
        self._volume, self._subdir = volume, subdir
        self._work, self._finishing = threading.Condition(), threading.Lock()
        self._stopping = False
        self._busy: dict[int, Worker] = {}
        self._workers = [Worker() for _ in range(workers)]
        self._threads = [
            threading.Thread(target=self._serve, args=(worker,), daemon=True)
            for worker in self._workers
        ]

    def folder(self, request_id: str) -> Path:
        return request_folder(self._volume, self._subdir, request_id)

    def start(self) -> None:
        """Take up what an earlier service left, then wait for more."""
        self.state.recover()
        for request_id in self.state.requests():
            self._clear_parts(request_id)
            self._finish_if_done(request_id)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the workers; their files are taken up by the next service."""
        with self._work:
            self._stopping = True
            self._work.notify_all()
        for worker in self._workers:
            worker.kill()

    def submit(
        self, request: dict[str, str | None], paths: Sequence[str], status: str = RUNNING
    ) -> str:
        """Take in a request; its id."""
        request_id = str(uuid.uuid4())
        suffix = SUFFIXES[str(request["format"])]
        files = [(path, result_name(path, suffix)) for path in paths]
        self.state.submit({"id": request_id, **request}, files, status)
        with self._work:
            self._work.notify_all()
        return request_id

    def cancel(self, request_id: str) -> None:
        """End the work on a request and remove what is half written; results stay."""
        under_way = self.state.cancel(request_id)
        with self._work:
            for number in under_way:
                if number in self._busy:
                    self._busy[number].kill()
            self._work.wait_for(lambda: not set(under_way) & set(self._busy), timeout=60)
        self._clear_parts(request_id)

    def delete(self, request_id: str) -> None:
        """Forget a request and remove its folder."""
        self.cancel(request_id)
        self.state.delete(request_id)
        shutil.rmtree(self.folder(request_id), ignore_errors=True)

    def _clear_parts(self, request_id: str) -> None:
        for part in self.folder(request_id).glob(".part-*"):
            part.unlink(missing_ok=True)

    def _serve(self, worker: Worker) -> None:
        while True:
            with self._work:
                if self._stopping:
                    return
                try:
                    row = self.state.claim()
                except StateFull:
                    self._work.wait(FULL)
                    continue
                if row is None:
                    self._work.wait(self.state.next_retry())
                    continue
                self._busy[row.number] = worker
            try:
                self._one(row, worker)
            except StateFull:
                # told, and the service is ending: the next one takes the file up
                pass
            except Exception:
                # a defect of ours: the file is given up, the service goes on
                traceback.print_exc(file=sys.stderr)
                with suppress(Exception):
                    self.state.done(row.number, None, "the service failed; its log says how")
                    self._finish_if_done(row.request)
            finally:
                with self._work:
                    del self._busy[row.number]
                    self._work.notify_all()

    def _written(self, change: Callable[..., Any], *values: Any) -> Any:
        """A change of the state, made once there is room for it."""
        told = False
        while True:
            try:
                return change(*values)
            except StateFull as problem:
                if not told:
                    print(f"{problem}: waiting for room", file=sys.stderr, flush=True)
                told = True
                with self._work:
                    if self._stopping:
                        raise
                    self._work.wait(FULL)

    def _one(self, row: FileRow, worker: Worker) -> None:
        request = self.state.request(row.request)
        if request is None:
            return
        function, task = self._task(request, row)
        try:
            result = worker.call(function, task, self.limits.seconds)
        except Exception as problem:
            if self._stopping:
                return
            if self._transient(problem) and row.tries < self.limits.tries:
                after = self.limits.backoff * 2 ** (row.tries - 1)
                self._written(self.state.retry, row.number, after, str(problem))
            else:
                self._done(row, None, _told(problem))
            return
        self._done(row, asdict(result), None)

    def _task(self, request: dict[str, Any], row: FileRow) -> tuple[Any, Any]:
        asked = check(request["codegen"], request["selection"])
        urls = tuple(row.paths.split(","))
        output = str(self.folder(row.request) / row.output)
        if request["codegen"] == "python":
            return run_python, PythonTask(
                name=urls[0],
                urls=urls,
                source=asked,
                output=output,
                format=request["format"],
                memory=self.limits.memory,
                seconds=self.limits.seconds,
                confined=self.limits.confined,
            )
        return transform_file, FileTask(
            name=urls[0],
            urls=urls,
            expected_bytes=None,
            expected_events=None,
            expected_adler32=None,
            queries=asked,
            output=output,
            format=request["format"],
        )

    @staticmethod
    def _transient(problem: Exception) -> bool:
        return isinstance(problem, (WorkerDied, ReadFailed)) or (
            isinstance(problem, OSError) and problem.errno in TRANSIENT
        )

    def _done(self, row: FileRow, result: dict[str, Any] | None, error: str | None) -> None:
        if not self._written(self.state.done, row.number, result, error):
            # canceled while it was written
            (self.folder(row.request) / row.output).unlink(missing_ok=True)
            return
        self._finish_if_done(row.request)

    def _finish_if_done(self, request_id: str) -> None:
        # two last files may be done at once
        with self._finishing:
            request = self.state.request(request_id)
            if request is None or request["status"] != RUNNING:
                return
            if {"waiting", "running"} & set(request["files"]):
                return
            self._clear_parts(request_id)
            try:
                write_json(self.folder(request_id) / MANIFEST, self._manifest(request))
            except OSError as problem:
                print(f"request {request_id}: no manifest: {problem}", file=sys.stderr)
                self._written(self.state.finish, request_id, FATAL)
            else:
                self._written(self.state.finish, request_id, COMPLETE)

    def _manifest(self, request: dict[str, Any]) -> dict[str, Any]:
        return {
            "format": SERVICE_MANIFEST_FORMAT,
            "request_id": request["id"],
            "request": {
                key: request[key]
                for key in ("title", "did", "selection", "codegen", "destination", "format")
            },
            "files": [
                {
                    "paths": file.paths,
                    "status": file.status,
                    "tries": file.tries,
                    "error": file.error if file.status == "failure" else None,
                    "result": file.result,
                }
                for file in self.state.files(request["id"])
            ],
        }


def _told(problem: Exception) -> str:
    if isinstance(problem, LooseleafError):
        return str(problem)
    if isinstance(problem, OSError) and problem.strerror:
        where = f" while writing {Path(problem.filename).name}" if problem.filename else ""
        return f"{problem.strerror}{where}"
    return f"{type(problem).__name__}: {problem}"
