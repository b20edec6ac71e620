"""A real XRootD server and a real XCache on this machine, and a connection that can be cut."""

import os
import pwd
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp

from grid import need

# a cache that gives up on its origin soon
IMPATIENT = {"XRD_CONNECTIONWINDOW": "1", "XRD_CONNECTIONRETRY": "1", "XRD_STREAMTIMEOUT": "1"}
ORIGIN = ""
CACHE = """
ofs.osslib libXrdPss.so
pss.cachelib libXrdPfc.so
pss.origin 127.0.0.1:{origin}
pfc.ram 1g
pfc.blocksize 512k
pfc.diskusage 0.90 0.95
"""
COMMON = """
xrd.port {port}
xrd.network nodnr
all.role server
all.export /store r/o
all.adminpath {folder}/admin
all.pidpath {folder}/run
oss.localroot {folder}/data
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Xrootd:
    """An XRootD server, or, given the port of an origin, a cache of it; `name` tells them apart.

    Its folder isn't one of pytest's, which are closed to the user xrootd.
    """

    def __init__(self, name: str, origin: int | None = None) -> None:
        need("xrootd")
        self.name = name
        self.port = free_port()
        folder = self.folder = Path(mkdtemp(prefix=f"looseleaf-{name}-"))
        for part in ("admin", "run", "data/store"):
            (folder / part).mkdir(parents=True)
        own = ORIGIN if origin is None else CACHE.format(origin=origin)
        (folder / "x.cfg").write_text(COMMON.format(port=self.port, folder=folder) + own)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"root://127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Start, and return when it listens. It won't run as root, but as the user xrootd."""
        command = ["xrootd", "-c", "x.cfg", "-l", str(self.folder / "log"), "-n", self.name]
        if os.getuid() == 0:
            user = pwd.getpwnam("xrootd")
            for path in (self.folder, *self.folder.rglob("*")):
                os.chown(path, user.pw_uid, user.pw_gid)
            command += ["-R", "xrootd"]
        self.process = subprocess.Popen(
            command,
            cwd=self.folder,
            env={**os.environ, **IMPATIENT},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        ends = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < ends, "xrootd does not listen"
                time.sleep(0.05)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder)

    def add(self, path: Path, name: str) -> None:
        """Give a file the logical name `name`, before the server is started."""
        target = self.folder / "data" / name.strip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


class Cut:
    """A connection to a port that breaks for good once the server has sent `limit` bytes.

    `then` is called at that moment.
    """

    def __init__(self, port: int, limit: int, then: Callable[[], None]) -> None:
        self.target = port
        self.left = limit
        self.then = then
        self.done = threading.Event()
        self.sockets: list[socket.socket] = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"root://127.0.0.1:{self.listener.getsockname()[1]}/"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while not self.done.is_set():
            try:
                client, _ = self.listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                return
            self.sockets += [client, server]
            for source, sink, counted in ((client, server, False), (server, client, True)):
                arguments = (source, sink, counted)
                threading.Thread(target=self._pass_on, args=arguments, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        try:
            while data := source.recv(1 << 14):
                if counted:
                    self.left -= len(data)
                    if self.left < 0:
                        self.close()
                        self.then()
                        return
                sink.sendall(data)
        except OSError:
            return

    def close(self) -> None:
        self.done.set()
        for each in (self.listener, *self.sockets):
            # shutdown wakes the threads that wait on it
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
