"""Starting the service: its folders, its keys, its address."""

import fcntl
import ipaddress
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from looseleaf.errors import ConfigError
from looseleaf.files import whole, write_private
from looseleaf.servicex.request import request_folder
from looseleaf.servicex.service import jail
from looseleaf.servicex.service.app import make_app
from looseleaf.servicex.service.auth import Keys
from looseleaf.servicex.service.connections import Door, Gate, listen, server
from looseleaf.servicex.service.engine import Engine, TransformLimits
from looseleaf.servicex.service.places import Places
from looseleaf.servicex.service.state import State
from looseleaf.servicex.service.workers import Crew, Processes
from looseleaf.stage_files import FileRecord, read_catalogue

SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class Service:
    """The settings of a service.

    `certificate` and `key` are the PEM files for TLS, `token_file` has the clients' token, `allow`
    are folders and hosts to read from (`Places`). With `pods`, a template, the work is done on
    Kubernetes by up to `workers` pods at a time, each with up to `files_per_pod` files and
    `pending` seconds to start.
    """

    volume: Path
    subdir: str
    state: Path
    host: str = "127.0.0.1"
    port: int = 5000
    workers: int = 2
    token: bool = True
    token_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    catalogues: Sequence[Path] = ()
    allow: Sequence[str] = ()
    limits: TransformLimits = field(default_factory=TransformLimits)
    pods: Path | None = None
    files_per_pod: int = 8
    pending: float = 900


def serve(service: Service) -> None:
    """Run the service until it is told to stop (SIGINT, SIGTERM).

    The client's configuration is written to `<state>/servicex.yaml`, which only its owner may read.
    Raises `ConfigError` for an unsafe address, a folder that can't be used, or a state that another
    service uses.
    """
    _safe(service)
    volume, state = _folders(service)
    with open(state / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{state}: another service runs with this state") from None
        keys = _keys(service, state)
        datasets: dict[str, list[FileRecord]] = {}
        for catalogue in service.catalogues:
            datasets |= read_catalogue(catalogue)
        listener = _listen(service)
        scheme = "http" if service.certificate is None else "https"
        name = f"[{service.host}]" if ":" in service.host else service.host
        url = f"{scheme}://{name}:{listener.getsockname()[1]}"
        no_python = None if keys is None else _no_python(service, volume, state)
        if no_python is not None:
            print(f"warning: {no_python}", file=sys.stderr)
        records = {r.url: r for known in datasets.values() for r in known if r.url is not None}
        folders = [volume, *(catalogue.parent for catalogue in service.catalogues)]
        places = Places.of(service.allow, folders, records, [state])
        crew = _crew(service, volume, places)
        # a pod has none of the service's secrets, and is all the jail that can be made there
        limits = replace(service.limits, confined=service.limits.confined and service.pods is None)
        where = (State(state / "state.sqlite"), volume, service.subdir)
        engine = Engine(*where, crew, limits, records)
        app = Gate(make_app(engine, keys, datasets, places, no_python), keys, listener)
        http = server(app, ssl_certfile=service.certificate, ssl_keyfile=service.key)
        engine.start()
        _tell_clients(state / "servicex.yaml", url, keys)
        print(f"ServiceX at {url}; for clients: {state / 'servicex.yaml'}", flush=True)
        try:
            http.run(sockets=[listener])
        finally:
            engine.stop()


def _keys(service: Service, state: Path) -> Keys | None:
    if not service.token:
        return None
    keys = Keys.of(state / "keys.json")
    if service.token_file is None:
        return keys
    try:
        token = service.token_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as problem:
        raise ConfigError(f"--token-file {service.token_file}: {problem}") from None
    if len(token) < SHORTEST_TOKEN:
        raise ConfigError(
            f"--token-file {service.token_file}: a token has {SHORTEST_TOKEN} characters or more"
        )
    return replace(keys, token=token)


def _crew(service: Service, volume: Path, places: Places) -> Crew:
    if service.pods is None:
        return Processes(service.workers, places.guard)
    try:
        from looseleaf.servicex.service.pods import Pods, PodSettings  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as problem:
        raise ConfigError(f"--pods: {problem}: type pip install 'looseleaf[kubernetes]'") from None
    settings = PodSettings(service.pods, service.workers, service.files_per_pod, service.pending)
    return Pods(settings, volume, service.subdir)


def _safe(service: Service) -> None:
    try:
        is_local = ipaddress.ip_address(service.host).is_loopback
    except ValueError:
        is_local = service.host == "localhost"
    if (service.certificate is None) != (service.key is None):
        raise ConfigError("--certificate and --key come together")
    if not is_local and not (service.token and service.certificate):
        raise ConfigError(
            f"--host {service.host}: others can reach this address, so it takes a token and TLS "
            "(--certificate, --key); 127.0.0.1 is for this machine alone"
        )


def _no_python(service: Service, *folders: Path) -> str | None:
    """Why Python queries are refused; None if they aren't, with a warning if they run without a
    jail."""
    if service.pods is not None:
        return None
    if not service.limits.confined:
        print(
            "warning: --unconfined-python: Python queries can read and change what this service's "
            "user can",
            file=sys.stderr,
        )
        return None
    given = [path.resolve() for path in (service.key, service.token_file) if path is not None]
    secret = [*folders, *given]
    for path in secret:
        for folder in jail.visible():
            if path.is_relative_to(folder):
                raise ConfigError(f"{path}: Python queries see all of {folder}: put it elsewhere")
    problem = jail.missing()
    if problem is None:
        return None
    return (
        f"python queries need a jail, which this service can't make: {problem}; its operator may "
        "install bubblewrap, or do without (--unconfined-python)"
    )


def _folders(service: Service) -> tuple[Path, Path]:
    root = request_folder(service.volume, service.subdir, "")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with whole(root / ".try"):
            pass
        (root / ".try").unlink()
        os.listdir(root)
    except OSError as problem:
        raise ConfigError(f"{root}: the volume can't be used: {problem.strerror}") from None
    try:
        service.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        service.state.chmod(0o700)
    except OSError as problem:
        raise ConfigError(f"{service.state}: can't be used: {problem.strerror}") from None
    return service.volume.resolve(), service.state.resolve()


def _listen(service: Service) -> Door:
    try:
        return listen(service.host, service.port)
    except OSError as problem:
        raise ConfigError(f"{service.host}:{service.port}: {problem.strerror}") from None


def _tell_clients(path: Path, url: str, keys: Keys | None) -> None:
    endpoint = {"endpoint": url, "name": "looseleaf"}
    if keys is not None:
        endpoint["token"] = keys.token
    write_private(path, yaml.safe_dump({"api_endpoints": [endpoint]}))
