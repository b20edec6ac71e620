"""Connections to the service: how many, how long one may take to send a request, and what is turned
away before its body is read."""

import re
import resource
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import h11
import uvicorn
from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from looseleaf.servicex.service.auth import Keys

# a request for 20 000 files with three replicas each has about 15 MB
LARGEST_BODY = 16 << 20
# a client sends its headers at once; 16 MB take a minute at 2 Mbit/s
HEADERS_S, BODY_S = 10.0, 60.0
# until the next request begins, which then has the time of its headers
KEEP_ALIVE_S = 5
# what is asked when the service ends may be asked again
ENDING_S = 5
# more than the clients of a group have open; fewer where the process may open few files, half of
# which are for its own work
MOST_CONNECTIONS = 200
# connections that were told to end, and haven't yet
ENDING = 8
BACKLOG = 128
REFRESH = "/token/refresh"
_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_OBJECT = re.compile(r"/[0-9a-f-]{36}(/|$)")

Address = tuple[str, int]


@dataclass
class _Connection:
    socket: socket.socket
    since: float = field(default_factory=time.monotonic)
    at_work: int = 0
    ending: bool = False


class Door(socket.socket):
    """A listening socket with room for `most` connections.

    Who comes when it is full takes the place of a connection without a request that may be
    answered, of the address that has most of them, which has waited longest. If there is none, who
    comes is turned away.
    """

    most = MOST_CONNECTIONS

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self._connections: dict[Address, _Connection] = {}

    def accept(self) -> tuple[socket.socket, Any]:
        # closed by whom they were given to
        there = {a: c for a, c in self._connections.items() if c.socket.fileno() >= 0}
        self._connections = there
        if len(there) >= self.most + ENDING:
            raise BlockingIOError
        # before room is made: it is also asked for when nobody waits
        connection, address = super().accept()
        if len(there) >= self.most and not self._make_room():
            connection.close()
            raise BlockingIOError
        self._connections[address[:2]] = _Connection(connection)
        return connection, address

    def _make_room(self) -> bool:
        idle = {a: c for a, c in self._connections.items() if not (c.at_work or c.ending)}
        if not idle:
            return False
        ((busiest, _),) = Counter(host for host, _ in idle).most_common(1)
        longest = min((c for (host, _), c in idle.items() if host == busiest), key=_age)
        longest.ending = True
        longest.socket.shutdown(socket.SHUT_RDWR)
        return True

    @contextmanager
    def serving(self, client: Address | None) -> Iterator[None]:
        """A connection has a request that is answered, and keeps its place meanwhile."""
        connection = self._connections.get(client) if client is not None else None
        if connection is None:
            yield
            return
        connection.at_work += 1
        try:
            yield
        finally:
            connection.at_work -= 1
            connection.since = time.monotonic()


def _age(connection: _Connection) -> float:
    return connection.since


def listen(host: str, port: int) -> Door:
    """Listen on an address; `OSError` if it can't be had."""
    door = Door(socket.AF_INET6 if ":" in host else socket.AF_INET)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY:
        door.most = max(1, min(MOST_CONNECTIONS, soft // 2))
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        door.bind((host, port))
        # before its address is told: a client that is quick would be refused
        door.listen(BACKLOG)
    except OSError:
        door.close()
        raise
    return door


class Patient(H11Protocol):
    """HTTP/1.1 that waits for headers and for a body as long as it says, not as long as it is
    let."""

    _expected: Any = None
    _timer: Any = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        self._wait()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait()

    def _wait(self) -> None:
        expected = self.conn.their_state
        if expected is self._expected:
            return
        self._expected = expected
        self._stop_waiting()
        seconds = {h11.IDLE: HEADERS_S, h11.SEND_BODY: BODY_S}.get(expected)
        # keep-alive has a limit of its own, until the next request begins
        if seconds is not None and not self.transport.is_closing():
            self._timer = self.loop.call_later(seconds, self._give_up)

    def _give_up(self) -> None:
        self.transport.abort()

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Gate:
    """Turns away, before anything of a body is read, what is too large and who has no token.

    Results are fetched with S3's signatures, which are checked where it is known what for; such a
    request's body is not read.
    """

    def __init__(self, app: ASGIApp, keys: Keys | None, door: Door) -> None:
        self._app, self._keys, self._door = app, keys, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope, Headers(scope=scope))
        if refusal is None:
            with self._door.serving(scope["client"]):
                await self._app(scope, _counted(receive), send)
            return
        status, message = refusal
        answer = JSONResponse({"message": message}, status, {"connection": "close"})
        await answer(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        length = headers.get("content-length", "0")
        # h11 lets only digits through
        if len(length) > len(str(LARGEST_BODY)) or int(length) > LARGEST_BODY:
            return 413, TOO_LARGE
        if "host" in headers and not _HOST.fullmatch(headers["host"]):
            return 400, "Host: this is no name of a machine"
        if self._keys is None:
            return None
        token = _presented(headers)
        if scope["path"] == REFRESH:
            return None if self._keys.knows(token) else (401, "this is not the service's token")
        if scope["method"] in ("GET", "HEAD") and _OBJECT.match(scope["path"]):
            return None
        if self._keys.valid(token):
            return None
        return 401, "a valid token is needed: see the service's servicex.yaml"


TOO_LARGE = f"a request has {LARGEST_BODY >> 20} MB at the most: ask for fewer files at a time"


def _presented(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token if scheme.lower() == "bearer" else ""


def _counted(receive: Receive) -> Receive:
    """What a client sends, as far as it isn't too large: its length may be unknown before."""
    so_far = 0

    async def counted() -> Message:
        nonlocal so_far
        message = await receive()
        so_far += len(message.get("body", b""))
        if so_far > LARGEST_BODY:
            raise HTTPException(413, TOO_LARGE, {"connection": "close"})
        return message

    return counted


def server(app: ASGIApp, **settings: Any) -> uvicorn.Server:
    """A server of an application over HTTP/1.1, with limits of time; what is no HTTP isn't worth
    a line in the log."""
    config = uvicorn.Config(
        app,
        http=Patient,
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=ENDING_S,
        backlog=BACKLOG,
        **settings,
    )
    return uvicorn.Server(config)
