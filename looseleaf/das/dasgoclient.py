"""The backend `dasgoclient`: CMS's own command, found on the PATH or on CVMFS."""

import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from looseleaf.das.answers import rows_of
from looseleaf.das.problems import BackendFailed, NoCredential, RucioFailed, Transient
from looseleaf.das.proxy import MAKE_ONE, Credential, credential
from looseleaf.das.query import FIELDS, Runs
from looseleaf.das.records import (
    BlockRecord,
    DatasetRecord,
    LumiRecord,
    Record,
    SiteRecord,
    SummaryRecord,
    file_record,
    numbers,
    text,
    whole_number,
)
from looseleaf.errors import LookupFailed
from looseleaf.retries import Retries

ON_CVMFS = "/cvmfs/cms.cern.ch/common/dasgoclient"
FILE_KEYS = {"name": "name", "bytes": "size", "events": "nevents"}
TRANSIENT = re.compile(
    r"\b(429|502|503|504)\b|time-?d? ?out|deadline exceeded|connection (refused|reset)|\bEOF\b",
    re.IGNORECASE,
)
# seconds before the second try
BACKOFF = 0.5
SUMMARY_KEYS = {"files": "nfiles", "events": "nevents", "blocks": "nblocks", "lumis": "nlumis"}


class Dasgoclient:
    """Runs dasgoclient once for each dataset.

    A run that takes longer than `timeout` seconds is ended; that and failures that look like an
    overloaded service are tried again, `tries` times in all, with growing pauses.
    """

    name = "dasgoclient"
    answers = frozenset(FIELDS)
    narrows = frozenset({"run", "site"})

    def __init__(self, instance: str, timeout: float, tries: int) -> None:
        self.instance = instance
        self.timeout = timeout
        self.tries = tries

    @cached_property
    def _credential(self) -> Credential:
        return credential()

    @cached_property
    def _program(self) -> str | None:
        return shutil.which("dasgoclient") or (ON_CVMFS if Path(ON_CVMFS).is_file() else None)

    def check(self) -> None:
        """Raise `LookupFailed` if there is no program, `NoCredential` if it would be refused."""
        if self._program is None:
            raise LookupFailed(f"there is no dasgoclient on the PATH, nor {ON_CVMFS}")
        _ = self._credential

    def records(
        self,
        field: str,
        dataset: str,
        status: str,
        runs: Runs | None = None,
        site: str | None = None,
    ) -> list[Record]:
        """The records of a dataset (for `dataset`: of those that match) from one run."""
        key = "block" if "#" in dataset else "dataset"
        query = f"{field} {key}={dataset} instance={self.instance}"
        if isinstance(runs, range):
            query += f" run between [{runs[0]},{runs[-1]}]"
        elif runs is not None:
            query += f" run in [{','.join(map(str, runs))}]" if len(runs) > 1 else f" run={runs[0]}"
        query += f" site={site}" if site is not None else ""
        if field == "dataset":
            query += f" status={status}"
        retries = Retries(Transient, tries=self.tries, pause=BACKOFF)
        return records_in(field, retries.call(lambda: self._run(query)), status)

    def _run(self, query: str) -> list[dict[str, Any]]:
        asked = f"dasgoclient {query!r}"
        command = [
            str(self._program),
            "-query",
            query,
            "-json",
            f"-timeout={math.ceil(self.timeout)}",
        ]
        try:
            run = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
        except OSError as problem:
            raise BackendFailed(f"{asked} can't be run: {problem.strerror}") from None
        with run:
            try:
                output, errors = run.communicate(timeout=self.timeout)
            except BaseException as problem:
                # the one on CVMFS is a script: what it started would hold the pipes open
                os.killpg(run.pid, signal.SIGKILL)
                if isinstance(problem, subprocess.TimeoutExpired):
                    text = f"{asked}: no answer within {self.timeout:g} s"
                    raise Transient(text) from None
                raise
        return answer_of(output, errors, run.returncode, asked, self._credential)


def answer_of(
    output: str, errors: str, status: int, asked: str, used: Credential
) -> list[dict[str, Any]]:
    """The records that dasgoclient printed.

    It may say that it failed by its status, by a line `ERROR: ...` after whole JSON, or by an
    `error` in a record; an empty answer is for the caller to judge.

    Raises `NoCredential`, `BackendFailed` or `Transient`.
    """
    output, errors = used.without_secrets(output), used.without_secrets(errors)
    lines = output.splitlines()
    _check_status(lines, errors, status, asked)
    for line in lines:
        if line.startswith("WARNING"):
            print(f"dasgoclient: {line}", file=sys.stderr)
    json_lines = [line for line in lines if not line.startswith(("ERROR", "WARNING"))]
    rows = _unwrapped(rows_of("\n".join(json_lines), asked), asked)
    for value in (value for row in rows for value in row.values()):
        part = value[0] if isinstance(value, list) and value else value
        if isinstance(part, dict) and part.get("error"):
            reason = str(part["error"])[:300]
            raise _failure(1, f"{asked}: {reason}", reason)
    return rows


def _check_status(lines: Sequence[str], errors: str, status: int, asked: str) -> None:
    """Raise the failure that a run reports by its status or by a line `ERROR: ...`."""
    complaint = next((line for line in lines if line.startswith("ERROR")), "")
    if complaint and status == 0:
        code = re.search(r"exit with code: (\d{1,3})\b", complaint)
        status = int(code[1]) if code else 1
    if status != 0:
        # the reason is before a trace of what the program was doing
        said = complaint or next((s for s in [*errors.splitlines(), *lines] if s.strip()), "")
        reason = said.strip()[:300] or "no reason given"
        raise _failure(status, f"{asked} ended with {status}: {reason}", complaint + errors)


def _unwrapped(rows: list[dict[str, Any]], asked: str) -> list[dict[str, Any]]:
    """The records alone, of an answer as -format json has it."""
    if len(rows) != 1 or "data" not in rows[0]:
        return rows
    data = rows[0]["data"]
    if not isinstance(data, list) or not all(isinstance(row, dict) for row in data):
        raise BackendFailed(f"{asked}: its `data` isn't a list of records")
    return data


def _failure(status: int, message: str, said: str) -> Exception:
    if status == 15:
        return NoCredential(f"{message}; type: {MAKE_ONE}")
    if status in (1, 2, 4) and TRANSIENT.search(said):
        return Transient(message)
    return RucioFailed(message) if status == 4 else BackendFailed(message)


def records_in(field: str, rows: list[dict[str, Any]], status: str) -> list[Record]:
    """The records in rows that `answer_of` gave; `BackendFailed` if a row is none."""
    source = "dasgoclient"
    parts = [_part(row, field.partition(",")[0]) for row in rows]
    match field:
        case "file":
            return [file_record(part, FILE_KEYS, source) for part in parts]
        case "dataset":
            names = dict.fromkeys(text(part, "name", source) for part in parts)
            return [DatasetRecord(name, status) for name in names]
        case "block":
            return [
                BlockRecord(
                    text(part, "name", source),
                    whole_number(part, "size", source),
                    whole_number(part, "nfiles", source),
                )
                for part in parts
            ]
        case "site":
            return [
                SiteRecord(text(part, "name", source), _percent(part.get("dataset_fraction")))
                for part in parts
            ]
        case "summary":
            return [
                SummaryRecord(
                    **{name: whole_number(part, key, source) for name, key in SUMMARY_KEYS.items()},
                    bytes=whole_number(
                        part, "file_size" if "file_size" in part else "size", source
                    ),
                )
                for part in parts
            ]
        case _:
            return [
                LumiRecord(
                    text(part, "name", source),
                    numbers(_part(row, "run"), "run_number", source),
                    numbers(_part(row, "lumi"), "number", source),
                )
                for part, row in zip(parts, rows, strict=True)
            ]


def _part(row: dict[str, Any], key: str) -> dict[str, Any]:
    """What a record says of a file, a run, ...: the first of a list."""
    values = row.get(key)
    if not isinstance(values, list) or not values or not isinstance(values[0], dict):
        raise BackendFailed(f"dasgoclient: a record without {key}")
    return values[0]


def _percent(text: str | None) -> float | None:
    """A share as dasgoclient writes it: "12.34%"."""
    try:
        return float(str(text).removesuffix("%"))
    except ValueError:
        return None
