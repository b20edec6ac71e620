"""The embedded backend: a ServiceX in this process, for the duration of one request.

It is the service of `looseleaf servicex serve`, on a local port that needs a token, and is used
like any other ServiceX.
"""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from servicex.servicex_adapter import ServiceXAdapter

from looseleaf.servicex.request import Request
from looseleaf.servicex.service.app import make_app
from looseleaf.servicex.service.auth import Keys
from looseleaf.servicex.service.connections import Door, Gate, listen, server
from looseleaf.servicex.service.engine import Engine, TransformLimits
from looseleaf.servicex.service.places import Places
from looseleaf.servicex.service.state import IN_MEMORY, State
from looseleaf.servicex.service.workers import Processes
from looseleaf.servicex.submission import Endpoint, addresses
from looseleaf.workerprocess import fork_from

HERE = "127.0.0.1"
# the folder of the service's results within that of a request
INCOMING = "incoming"


class _Adapter(ServiceXAdapter):
    @staticmethod
    def _get_bearer_token_file() -> None:
        """A token that a batch system gives its jobs is for other services than this one."""


@dataclass(frozen=True)
class Embedded:
    """A service with up to `workers` processes that writes below the request's folder.

    It checks files against the lookup.
    """

    workers: int
    name = "embedded"

    @contextmanager
    def service(self, request: Request, folder: Path) -> Iterator[Endpoint]:
        """The service, as long as the block lasts."""
        fork_from("looseleaf.servicex.transform")
        incoming = folder / INCOMING
        shutil.rmtree(incoming, ignore_errors=True)
        # an interrupted run continues from its results: keys and state end with the service
        keys = Keys.new()
        engine = Engine(
            State(IN_MEMORY),
            folder,
            INCOMING,
            Processes(min(self.workers, len(request.sources))),
            TransformLimits(),
            {addresses(s)[0]: s.record for s in request.sources if s.urls},
        )
        # the token never leaves this process, which asks for its own files
        places = Places(named=frozenset(a for s in request.sources for a in addresses(s)))
        app = make_app(engine, keys, {}, places, "this service is for one transform")
        with listen(HERE, 0) as listener, _served(Gate(app, keys, listener), listener):
            url = f"http://{HERE}:{listener.getsockname()[1]}"
            engine.start()
            try:
                yield Endpoint(
                    _Adapter(url, keys.token), f"embedded ServiceX in {folder}", incoming
                )
            finally:
                engine.stop()
                shutil.rmtree(incoming, ignore_errors=True)


@contextmanager
def _served(app: Gate, listener: Door) -> Iterator[None]:
    """Answer HTTP in a thread of its own."""
    http = server(app, log_config=None)
    thread = threading.Thread(target=http.run, args=([listener],), daemon=True)
    thread.start()
    try:
        yield
    finally:
        http.should_exit = True
        thread.join()
