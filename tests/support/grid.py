"""A grid on one machine: a throwaway authority, VOMS proxies, a DBS over TLS."""

import json
import shutil
import ssl
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from voms import make_proxy

EXTENSIONS = {
    "host": "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth",
    "user": "keyUsage=critical,digitalSignature,keyEncipherment\nextendedKeyUsage=clientAuth",
}
VOMS_TOOL = "voms-proxy-fake"
EXPIRED = ("-pastproxy", "48:00", "-pastac", "48:00", "-hours", "1")


def need(*programs: str) -> None:
    """Skip a test that needs programs which aren't here."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program} here: continuous integration installs it")


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


class Authority:
    """A certificate authority with one host and one user, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._openssl(
            "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 30",
            *("-subj", "/DC=test/CN=Throwaway CA"),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
        )
        for who, name in (("host", "localhost"), ("user", "A Physicist")):
            (folder / f"{who}.ext").write_text(
                EXTENSIONS[who] + "\nauthorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n"
            )
            self._openssl(
                f"req -newkey rsa:2048 -nodes -keyout {who}.key -out {who}.csr",
                *("-subj", f"/DC=test/CN={name}"),
            )
            self._openssl(
                f"x509 -req -in {who}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 20 "
                f"-out {who}.pem -extfile {who}.ext"
            )
        self.certificates = folder / "certificates"
        self.certificates.mkdir()
        name = self._openssl("x509 -in ca.pem -noout -hash").strip()
        shutil.copy(folder / "ca.pem", self.certificates / f"{name}.0")

    def _openssl(self, words: str, *more: str) -> str:
        return run(self.folder, "openssl", *words.split(), *more)

    def proxy(self, name: str, *options: str, vo: str = "cms") -> Path:
        """A VOMS proxy of the user, by voms-proxy-fake where there is one; `options` are its."""
        if shutil.which(VOMS_TOOL) is None:
            return make_proxy(self.folder, name, *options, vo=vo)
        words = (
            f"{VOMS_TOOL} -rfc -cert user.pem -key user.key -hostcert host.pem -hostkey host.key "
            f"-certdir certificates -voms {vo} -uri localhost:15002 "
            f"-fqan /{vo}/Role=NULL/Capability=NULL -out {name}"
        )
        run(self.folder, *words.split(), *options)
        return self.folder / name


class TlsServer(ThreadingHTTPServer):
    """A server that wants a client's certificate, proxies included, unless `token` is given."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        handler: type[BaseHTTPRequestHandler],
        authority: Authority,
        token: str | None = None,
    ) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(authority.folder / "host.pem", authority.folder / "host.key")
        if token is None:
            self.context.load_verify_locations(authority.folder / "ca.pem")
            self.context.verify_mode = ssl.CERT_REQUIRED
            self.context.verify_flags |= ssl.VERIFY_ALLOW_PROXY_CERTS
        self.token = token

    @property
    def url(self) -> str:
        return f"https://localhost:{self.server_address[1]}"

    def get_request(self) -> tuple[ssl.SSLSocket, Any]:
        connection, address = super().get_request()
        # the handshake is made in the connection's own thread
        wrapped = self.context.wrap_socket(
            connection, server_side=True, do_handshake_on_connect=False
        )
        return wrapped, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that breaks off or is refused is what some tests are about."""


class DbsServer(TlsServer):
    """The DBS reader's part that looseleaf asks, over TLS, with faults on demand.

    `files` by dataset, `blocks`, `lumis` by block hold rows in DBS's own keys; `statuses` are those
    of datasets that aren't VALID. `faults` are taken in turn, one a request: a status, a function
    of the handler, or None for none. `asked` lists (api, parameters) of every request, `seen` the
    client certificates' subjects.
    """

    def __init__(self, authority: Authority, token: str | None = None) -> None:
        super().__init__(DbsHandler, authority, token)
        self.files: dict[str, list[dict[str, Any]]] = {}
        self.blocks: dict[str, list[dict[str, Any]]] = {}
        self.lumis: dict[str, list[dict[str, Any]]] = {}
        self.statuses: dict[str, str] = {}
        self.faults: list[int | Callable[[DbsHandler], None] | None] = []
        self.by_lines = False
        self.hold: Callable[[], object] = lambda: None
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.seen: set[str] = set()
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    """Keeps connections open, answers whole, and is silent."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def answer(self, text: str, status: int = 200, **headers: str) -> None:
        body = text.encode()
        self.send_response(status)
        headers = {key.replace("_", "-"): value for key, value in headers.items()}
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class DbsHandler(Handler):
    server: DbsServer

    def do_GET(self) -> None:
        server = self.server
        url = urlsplit(self.path)
        *_, reader, api, _ = url.path.split("/")
        assert reader == "DBSReader"
        parameters = {key: values[0] for key, values in parse_qs(url.query).items()}
        with server.lock:
            server.asked.append((api, parameters))
            server.at_once += 1
            server.most_at_once = max(server.at_once, server.most_at_once)
            fault = server.faults.pop(0) if server.faults else None
            certificate = self.connection.getpeercert() or {}
            server.seen.add(
                ",".join(value for part in certificate.get("subject", ()) for _, value in part)
            )
        try:
            server.hold()
            if server.token and self.headers.get("Authorization") != f"Bearer {server.token}":
                fault = 401
            if callable(fault):
                fault(self)
            elif fault is not None:
                error = {"error": "x", "http": {"code": fault}, "message": "the database is busy"}
                self.answer(json.dumps([error]), fault)
            else:
                self.answer(self._text(self._rows(api, parameters)))
        finally:
            with server.lock:
                server.at_once -= 1

    def _rows(self, api: str, parameters: dict[str, str]) -> list[dict[str, Any]]:
        server, dataset = self.server, parameters.get("dataset", "")
        match api:
            case "files" if "block_name" in parameters:
                block = parameters["block_name"]
                rows = server.files.get(block.partition("#")[0], [])
                return [row for row in rows if row["block_name"] == block]
            case "files":
                return server.files.get(dataset, [])
            case "datasets":
                # as DBS: * is the only wildcard
                parts = dataset.split("*")
                wanted = parameters.get("dataset_access_type", "VALID").split("*")
                return [
                    {"dataset": name}
                    for name in server.files
                    if _like(name, parts) and _like(server.statuses.get(name, "VALID"), wanted)
                ]
            case "blocks":
                return server.blocks.get(dataset, [])
            case "filelumis":
                return server.lumis[parameters["block_name"]]
            case "filesummaries":
                rows = server.files.get(dataset, [])
                # as DBS: all files, unless the valid ones are asked for
                if parameters.get("validFileOnly", "0") == "1":
                    rows = [row for row in rows if row["is_file_valid"]]
                return [
                    {
                        "num_file": len(rows),
                        "num_event": sum(row["event_count"] or 0 for row in rows),
                        "num_block": len({row["block_name"] for row in rows}),
                        "num_lumi": 7 * len(rows),
                        "file_size": sum(row["file_size"] for row in rows),
                    }
                ]
        raise AssertionError(api)

    def _text(self, rows: list[dict[str, Any]]) -> str:
        if self.server.by_lines:
            return "".join(json.dumps(row) + "\n" for row in rows)
        return json.dumps(rows)


def _like(name: str, parts: list[str]) -> bool:
    """Whether a name is a pattern's parts in this order with anything between them."""
    if len(parts) == 1:
        return name == parts[0]
    if not (name.startswith(parts[0]) and name.endswith(parts[-1])):
        return False
    at = len(parts[0])
    for part in parts[1:]:
        at = name.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return True


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[None]:
    """The server answers as long as the block lasts."""
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def dbs_row(name: str, dataset: str = "/A/B/C", **more: Any) -> dict[str, Any]:
    """A row of DBS's `files` with detail; another file has another checksum."""
    return {
        "logical_file_name": name,
        "event_count": 10,
        "file_size": 100,
        "adler32": f"{zlib.adler32(name.encode()):x}",
        "check_sum": "1",
        "is_file_valid": 1,
        "block_name": f"{dataset}#1",
        "dataset": dataset,
        **more,
    }
