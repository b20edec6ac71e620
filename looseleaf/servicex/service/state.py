"""The service's state: requests and their files, in SQLite."""

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from looseleaf.errors import ConfigError, LooseleafError

SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, title TEXT,
    did TEXT NOT NULL, selection TEXT NOT NULL, codegen TEXT NOT NULL,
    destination TEXT NOT NULL, format TEXT NOT NULL, status TEXT NOT NULL,
    submitted TEXT NOT NULL, finished TEXT);
CREATE TABLE IF NOT EXISTS files (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    request TEXT NOT NULL REFERENCES requests(id) ON DELETE CASCADE,
    paths TEXT NOT NULL, output TEXT NOT NULL, status TEXT NOT NULL DEFAULT 'waiting',
    tries INTEGER NOT NULL DEFAULT 0, not_before REAL NOT NULL DEFAULT 0,
    created TEXT, result TEXT, error TEXT);
CREATE INDEX IF NOT EXISTS files_of ON files (request, status);
CREATE INDEX IF NOT EXISTS files_by_status ON files (status);
CREATE TABLE IF NOT EXISTS clock (last TEXT NOT NULL);
"""
# the log next to the database can't grow, or the file can't
NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE)
# for a service that ends with who started it
IN_MEMORY = ":memory:"
# the protocol's words
RUNNING, COMPLETE, CANCELED = "Running", "Complete", "Canceled"
FATAL, BAD_DATASET = "Fatal", "Bad Dataset"


@dataclass(frozen=True)
class FileRow:
    """A file of a request: `status` is waiting, running, success, failure or canceled."""

    number: int
    request: str
    paths: str
    output: str
    status: str
    tries: int
    created: str | None
    result: dict[str, Any] | None
    error: str | None


FILE_COLUMNS = "number, request, paths, output, status, tries, created, result, error"


def _file(row: Sequence[Any]) -> FileRow:
    number, request, paths, output, status, tries, created, result, error = row
    return FileRow(
        number=number,
        request=request,
        paths=paths,
        output=output,
        status=status,
        tries=tries,
        created=created,
        result=None if result is None else json.loads(result),
        error=error,
    )


def _text(error: str) -> str:
    """An error as text that can be written, whatever names it quotes."""
    return error.encode(errors="replace").decode()


def now() -> datetime:
    """The time in the protocol's form: UTC without a time zone."""
    return datetime.now(UTC).replace(tzinfo=None)


def stamp(moment: datetime) -> str:
    """A time as text that sorts by time."""
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return moment.isoformat(timespec="microseconds")


class StateFull(LooseleafError):
    """The service's disk has no room for a change of its state."""


class State:
    """The requests of a service; every method is a transaction.

    `path` is a file on a local disk, or `IN_MEMORY`. A change for which the disk has no room raises
    `StateFull`, and isn't made. Raises `ConfigError` for a file that can't be used.
    """

    def __init__(self, path: Path | str) -> None:
        self._path = path
        self._lock = threading.RLock()
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._db.executescript(SCHEMA)
        except sqlite3.Error as problem:
            raise ConfigError(
                f"{path}: the service's state can't be kept: {problem}; free some space there, or "
                "name another folder (--state)"
            ) from None

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException as problem:
                # SQLite has already done so if the disk is full
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                if getattr(problem, "sqlite_errorcode", None) in NO_ROOM:
                    raise StateFull(f"{self._path}: {problem}") from None
                raise

    def _rows(self, query: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def submit(
        self, request: dict[str, str | None], files: Sequence[tuple[str, str]], status: str
    ) -> None:
        """Add a request and its files as (paths, output)."""
        with self._change() as db:
            columns = ", ".join(request)
            places = ", ".join("?" * len(request))
            db.execute(
                f"INSERT INTO requests ({columns}, status, submitted) VALUES ({places}, ?, ?)",
                (*request.values(), status, stamp(now())),
            )
            db.executemany(
                "INSERT INTO files (request, paths, output) VALUES (?, ?, ?)",
                [(request["id"], paths, output) for paths, output in files],
            )

    def recover(self) -> None:
        """Set files that were running when the service ended to waiting; none has to pause."""
        with self._change() as db:
            # a pause is told by a clock that nobody sets, and that begins anew with the machine
            db.execute("UPDATE files SET not_before = 0 WHERE status = 'waiting'")
            db.execute(
                "UPDATE files SET status = 'waiting', tries = tries - 1 WHERE status = 'running'"
            )

    def requests(self) -> list[str]:
        """The ids of all requests."""
        return [row[0] for row in self._rows("SELECT id FROM requests ORDER BY number")]

    def latest(self, limit: int, offset: int) -> list[str]:
        """Ids of the `limit` requests before the last `offset` ones, in the order in which they
        came."""
        query = "SELECT id FROM requests ORDER BY number DESC LIMIT ? OFFSET ?"
        return [row[0] for row in self._rows(query, limit, offset)][::-1]

    def request(self, request_id: str) -> dict[str, Any] | None:
        """A request with its numbers of files, or None."""
        with self._lock:
            cursor = self._db.execute("SELECT * FROM requests WHERE id = ?", (request_id,))
            row = cursor.fetchone()
            if row is None:
                return None
            counts = dict(
                self._rows(
                    "SELECT status, count(*) FROM files WHERE request = ? GROUP BY status",
                    request_id,
                )
            )
        names = [column[0] for column in cursor.description]
        return {**dict(zip(names, row, strict=True)), "files": counts}

    def request_by_number(self, number: int) -> dict[str, Any] | None:
        """A request by its number, or None."""
        rows = self._rows("SELECT id FROM requests WHERE number = ?", number)
        return self.request(rows[0][0]) if rows else None

    def files(self, request_id: str) -> list[FileRow]:
        """The files of a request."""
        query = f"SELECT {FILE_COLUMNS} FROM files WHERE request = ? ORDER BY number"
        return [_file(row) for row in self._rows(query, request_id)]

    def results(self, request_id: str, later_than: str) -> list[FileRow]:
        """The finished files, in the order in which they finished."""
        query = (
            f"SELECT {FILE_COLUMNS} FROM files WHERE request = ? AND created > ? ORDER BY created"
        )
        return [_file(row) for row in self._rows(query, request_id, later_than)]

    def claim(self, most: int = 1, among: int = 1) -> list[FileRow]:
        """The next files to work on, now marked as running.

        They are of one request, at most `most`, and few enough that each of `among` workers gets
        some.
        """
        ready = "status = 'waiting' AND not_before <= ?"
        moment = time.monotonic()
        with self._change() as db:
            first = db.execute(
                f"SELECT request FROM files WHERE {ready} ORDER BY number LIMIT 1", (moment,)
            ).fetchone()
            if first is None:
                return []
            ready = f"request = ? AND {ready}"
            if most > 1:
                count = f"SELECT count(*) FROM files WHERE {ready}"
                (waiting,) = db.execute(count, (*first, moment)).fetchone()
                most = max(1, min(most, waiting // among))
            query = f"SELECT number FROM files WHERE {ready} ORDER BY number LIMIT ?"
            chosen = db.execute(query, (*first, moment, most)).fetchall()
            return self._start(db, [row[0] for row in chosen])

    def take_up(self, numbers: Sequence[int]) -> list[FileRow]:
        """The waiting files among these, now marked as running."""
        with self._change() as db:
            return self._start(db, numbers)

    @staticmethod
    def _start(db: sqlite3.Connection, numbers: Sequence[int]) -> list[FileRow]:
        rows = db.execute(
            "UPDATE files SET status = 'running', tries = tries + 1 WHERE status = 'waiting' "
            f"AND number IN ({', '.join('?' * len(numbers))}) RETURNING {FILE_COLUMNS}",
            numbers,
        )
        return sorted(map(_file, rows.fetchall()), key=lambda file: file.number)

    def release(self, numbers: Sequence[int]) -> None:
        """Set files to waiting that a worker didn't begin."""
        with self._change() as db:
            db.execute(
                "UPDATE files SET status = 'waiting', tries = tries - 1 WHERE status = 'running' "
                f"AND number IN ({', '.join('?' * len(numbers))})",
                numbers,
            )

    def next_retry(self) -> float | None:
        """Seconds until a failed file is tried again."""
        (first,) = self._rows("SELECT min(not_before) FROM files WHERE status = 'waiting'")[0]
        return None if first is None else max(0.0, first - time.monotonic())

    def retry(self, number: int, after: float, error: str) -> None:
        """Set a failed file to waiting, to be tried again after a time."""
        with self._change() as db:
            db.execute(
                "UPDATE files SET status = 'waiting', not_before = ?, error = ? "
                "WHERE number = ? AND status = 'running'",
                (time.monotonic() + after, _text(error), number),
            )

    def done(self, number: int, result: dict[str, Any] | None, error: str | None) -> bool:
        """Finish a file, with success if there is a result; False if it was canceled meanwhile.

        The time is later than that of every file before, on which clients rely that ask for results
        later than the last one they saw.
        """
        with self._change() as db:
            last = db.execute("SELECT max(last) FROM clock").fetchone()[0]
            created = stamp(now())
            if last is not None and created <= last:
                created = stamp(datetime.fromisoformat(last) + timedelta(microseconds=1))
            db.execute("DELETE FROM clock")
            db.execute("INSERT INTO clock VALUES (?)", (created,))
            changed = db.execute(
                "UPDATE files SET status = ?, created = ?, result = ?, error = ? "
                "WHERE number = ? AND status = 'running'",
                (
                    "failure" if result is None else "success",
                    created,
                    None if result is None else json.dumps(result),
                    None if error is None else _text(error),
                    number,
                ),
            )
            return changed.rowcount == 1

    @staticmethod
    def _finish(db: sqlite3.Connection, request_id: str, status: str) -> None:
        db.execute(
            "UPDATE requests SET status = ?, finished = ? WHERE id = ? AND status = ?",
            (status, stamp(now()), request_id, RUNNING),
        )

    def finish(self, request_id: str, status: str) -> None:
        """End a request, unless it has ended."""
        with self._change() as db:
            self._finish(db, request_id, status)

    def cancel(self, request_id: str) -> list[int]:
        """Cancel the unfinished files; returns the numbers of those that were running."""
        with self._change() as db:
            under_way = db.execute(
                "SELECT number FROM files WHERE request = ? AND status = 'running'", (request_id,)
            ).fetchall()
            db.execute(
                "UPDATE files SET status = 'canceled' "
                "WHERE request = ? AND status IN ('waiting', 'running')",
                (request_id,),
            )
            self._finish(db, request_id, CANCELED)
        return [row[0] for row in under_way]

    def delete(self, request_id: str) -> None:
        """Remove a request and its files."""
        with self._change() as db:
            db.execute("DELETE FROM requests WHERE id = ?", (request_id,))
