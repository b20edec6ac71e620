"""The queue: files of requests are given to workers, tried again, canceled, recorded."""

import shutil
import sys
import threading
import traceback
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from looseleaf.files import write_json
from looseleaf.retries import Retries
from looseleaf.servicex.formats import SUFFIXES
from looseleaf.servicex.request import MANIFEST, OWN, request_folder
from looseleaf.servicex.service.checks import Checks
from looseleaf.servicex.service.python import PythonTask, run_python, work_folder
from looseleaf.servicex.service.queries import checksums_of
from looseleaf.servicex.service.state import (
    COMPLETE,
    FATAL,
    RUNNING,
    FileRow,
    State,
    StateFull,
)
from looseleaf.servicex.service.workers import Batch, Carrier, Crew, Job, reason_of, transient
from looseleaf.servicex.transform import FileResult, FileTask, transform_file
from looseleaf.servicex.volume import account_name, result_name
from looseleaf.stage_files import FileRecord

# seconds until a full disk is tried again
FULL = 2.0
SERVICE_MANIFEST_FORMAT = "looseleaf-servicex/1"


@dataclass(frozen=True)
class TransformLimits:
    """Limits of a transform.

    `tries` of a file in total, `backoff` seconds before the second (doubled before each further
    one), `seconds` for one try, and the memory in bytes of a python query, which runs in a jail if
    it is `confined`.
    """

    tries: int = 4
    backoff: float = 1.0
    seconds: int = 3600
    memory: int = 4 << 30
    confined: bool = True


class Engine:
    """Works through the state's files with a crew of workers.

    Files with `records`, by their first address, are checked against them.
    """

    def __init__(
        self,
        state: State,
        volume: Path,
        subdir: str,
        crew: Crew,
        limits: TransformLimits,
        records: Mapping[str, FileRecord],
    ) -> None:
        self.state, self.limits, self._records = state, limits, records
        self.checks = Checks()
        self._volume, self._subdir = volume, subdir
        self._work, self._finishing = threading.Condition(), threading.Lock()
        self._stopping = False
        self._busy: dict[int, tuple[Carrier, str]] = {}
        self._standing: list[tuple[str, list[FileRow]]] = []
        self._crew = crew
        self._retries = Retries(Exception, transient, tries=limits.tries, pause=limits.backoff)
        self._threads = [
            threading.Thread(target=self._serve, args=(worker,), daemon=True)
            for worker in crew.workers
        ]

    def folder(self, request_id: str) -> Path:
        """The folder of a request's results."""
        return request_folder(self._volume, self._subdir, request_id)

    def start(self) -> None:
        """Continue what an earlier service left, then wait for more."""
        self.state.recover()
        for name, numbers in self._crew.standing().items():
            rows = self.state.take_up(numbers)
            if rows:
                self._standing.append((name, rows))
            else:
                self._crew.drop(name)
        at_work = {rows[0].request for _, rows in self._standing}
        for request_id in self.state.requests():
            if request_id not in at_work:
                self._clear_parts(request_id)
            self._finish_if_done(request_id)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the workers; the next service continues their files."""
        with self._work:
            self._stopping = True
            self._work.notify_all()
        for worker in self._crew.workers:
            worker.close()
        self.checks.close()

    def submit(
        self, request: dict[str, str | None], paths: Sequence[str], status: str = RUNNING
    ) -> str:
        """Accept a request; returns its id."""
        request_id = str(uuid.uuid4())
        suffix = SUFFIXES[str(request["format"])]
        files = [(path, result_name(path, suffix)) for path in paths]
        self.state.submit({"id": request_id, **request}, files, status)
        with self._work:
            self._work.notify_all()
        return request_id

    def cancel(self, request_id: str) -> None:
        """End the work on a request and remove incomplete files; results are kept."""
        under_way = self.state.cancel(request_id)
        with self._work:
            for number in under_way:
                if number in self._busy:
                    worker, batch = self._busy[number]
                    worker.kill(batch)
            self._work.wait_for(lambda: not set(under_way) & set(self._busy), timeout=60)
        self._clear_parts(request_id)

    def delete(self, request_id: str) -> None:
        """Remove a request and its folder."""
        self.cancel(request_id)
        self.state.delete(request_id)
        shutil.rmtree(self.folder(request_id), ignore_errors=True)

    def _clear_parts(self, request_id: str) -> None:
        for part in self.folder(request_id).glob(".part-*"):
            if part.is_dir() and not part.is_symlink():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink(missing_ok=True)

    def _serve(self, worker: Carrier) -> None:
        while True:
            with self._work:
                if self._stopping:
                    return
                try:
                    name, rows = self._next()
                except StateFull:
                    self._work.wait(FULL)
                    continue
                if not rows:
                    self._work.wait(self.state.next_retry())
                    continue
                self._busy.update({row.number: (worker, name) for row in rows})
            try:
                self._carry_out(name, rows, worker)
            except StateFull:
                # the service is ending, and the next one continues the files
                pass
            except Exception:
                # a defect of ours: the files fail, and the service goes on
                traceback.print_exc(file=sys.stderr)
                with suppress(Exception):
                    for row in rows:
                        self.state.done(row.number, None, "the service failed; its log says how")
                    self._finish_if_done(rows[0].request)
            finally:
                with self._work:
                    for row in rows:
                        del self._busy[row.number]
                    self._work.notify_all()

    def _written(self, change: Callable[..., Any], *values: Any) -> Any:
        """Change the state, as soon as the disk has room for it."""
        warned = False
        while True:
            try:
                return change(*values)
            except StateFull as problem:
                if not warned:
                    print(f"{problem}: waiting for room", file=sys.stderr, flush=True)
                warned = True
                with self._work:
                    if self._stopping:
                        raise
                    self._work.wait(FULL)

    def _next(self) -> tuple[str, list[FileRow]]:
        """The next batch: its name, and its files if there are any."""
        if self._standing:
            return self._standing.pop()
        rows = self.state.claim(self._crew.most, len(self._crew.workers))
        name = f"{rows[0].request}-{rows[0].number}-{rows[0].tries}" if rows else ""
        return name, rows

    def _carry_out(self, name: str, rows: Sequence[FileRow], worker: Carrier) -> None:
        request = self.state.request(rows[0].request)
        if request is None:
            return
        tells = request["codegen"] == OWN
        jobs = tuple(Job(row.number, *self._task(request, row)) for row in rows)
        batch = Batch(name, request["id"], self.folder(request["id"]), jobs)
        left = {row.number: row for row in rows}
        for number, outcome in worker.carry_out(batch, self.limits.seconds):
            if self._stopping:
                return
            self._ended(left.pop(number), outcome, tells)
        if not self._stopping:
            self._written(self.state.release, list(left))

    def _ended(self, row: FileRow, outcome: FileResult | Exception, tells: bool) -> None:
        # a worker that was killed could not
        shutil.rmtree(work_folder(self.folder(row.request) / row.output), ignore_errors=True)
        if tells and not isinstance(outcome, Exception):
            try:
                write_json(self.folder(row.request) / account_name(row.output), outcome.to_json())
            except OSError as problem:
                outcome = problem
        if not isinstance(outcome, Exception):
            self._done(row, outcome.to_json(), None)
        elif (pause := self._retries.pause_after(outcome, row.tries)) is not None:
            self._written(self.state.retry, row.number, pause, str(outcome))
        else:
            self._done(row, None, reason_of(outcome))

    def _task(self, request: dict[str, Any], row: FileRow) -> tuple[Any, Any]:
        query = self.checks.check(request["codegen"], request["selection"])
        urls = tuple(row.paths.split(","))
        output = str(self.folder(row.request) / row.output)
        if request["codegen"] == "python":
            return run_python, PythonTask(
                name=urls[0],
                urls=urls,
                source=query,
                output=output,
                format=request["format"],
                memory=self.limits.memory,
                seconds=self.limits.seconds,
                confined=self.limits.confined,
            )
        known = self._records.get(urls[0], FileRecord(urls[0], None, None, None))
        selection, checksums = checksums_of(request["codegen"], request["selection"])
        return transform_file, FileTask(
            name=known.name,
            urls=urls,
            expected_bytes=known.bytes,
            expected_events=known.events,
            expected_adler32=checksums.get(urls[0], known.adler32),
            queries=query,
            output=output,
            work=f"{request['format']} {selection}",
            format=request["format"],
            verify=urls[0] in checksums,
        )

    def _done(self, row: FileRow, result: dict[str, Any] | None, error: str | None) -> None:
        if not self._written(self.state.done, row.number, result, error):
            # canceled while it was being written
            for name in (row.output, account_name(row.output)):
                (self.folder(row.request) / name).unlink(missing_ok=True)
            return
        self._finish_if_done(row.request)

    def _finish_if_done(self, request_id: str) -> None:
        # the last two files may finish at the same time
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
