"""The service in a process of its own, and the stock client's ways to it."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import IO, Any, Self

import awkward as ak
import pytest
import uproot
import yaml
from servicex.models import TransformRequest
from servicex.servicex_adapter import ServiceXAdapter

from looseleaf.servicex.formats import read_original
from looseleaf.servicex.service.jail import missing

# why there is no jail for Python queries on this machine; those are then run without
NO_JAIL = missing()
QUERY: dict[str, Any] = {
    "treename": "Events",
    "filter_name": ["Muon_pt", "Muon_charge", "MET_pt"],
    "cut": "(nMuon > 0) & (MET_pt > 10)",
}
COMMAND = [sys.executable, "-m", "looseleaf", "servicex", "serve"]


class Asked:
    """A service as the stock client's adapter asks it."""

    adapter: ServiceXAdapter

    def submit(self, **asked: Any) -> str:
        """A volume request through the stock adapter."""
        plain = {"codegen": "uproot-raw", "result_destination": "volume"}
        request = TransformRequest(**{**plain, "result_format": "root-file", **asked})
        return run(self.adapter.submit_transform(request))

    def finished(self, request_id: str) -> Any:
        """The request's status once it has ended."""

        async def wait() -> Any:
            adapter, pause = self.adapter, 0.05
            while True:
                status = await adapter.get_transform_status(request_id)
                if status.status not in ("Running", "Submitted"):
                    return status
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, 0.2)

        return run(asyncio.wait_for(wait(), 120))


class Service(Asked):
    """`looseleaf servicex serve` on a free port, which it keeps when it is started again."""

    def __init__(self, folder: Path, *options: str, workers: int = 2) -> None:
        self.volume, self.state = folder / "volume", folder / "state"
        self.options = [*options, "--workers", str(workers)]
        # other fixtures of the same run have their files there
        self.options += ["--allow", str(folder.parent.parent)]
        self.options += ["--unconfined-python"] if NO_JAIL else []
        self.port = "0"
        self.process: subprocess.Popen[str] | None = None
        self.log: IO[str] | None = None
        # a command that starts the service, as one that limits it
        self.started_by: Sequence[str] = ()

    def start(self) -> Self:
        self.process = subprocess.Popen(
            [
                *self.started_by,
                *COMMAND,
                "--volume",
                str(self.volume),
                "--state",
                str(self.state),
                "--port",
                self.port,
                *self.options,
            ],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, "LOOSELEAF_TEST_SECRET": "of the service"},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert re.match(r"ServiceX at https?://127\.0\.0\.1:", line), line
        self.port = line.split(";")[0].rpartition(":")[2]
        return self

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *problem: object) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            self.kill(signal.SIGTERM)

    @property
    def client_config(self) -> Path:
        return self.state / "servicex.yaml"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def adapter(self) -> ServiceXAdapter:
        """The stock client's adapter, with the token."""
        (endpoint,) = yaml.safe_load(self.client_config.read_text())["api_endpoints"]
        return ServiceXAdapter(self.url, endpoint.get("token"))

    def folder(self, request_id: str) -> Path:
        return self.volume / "transforms" / request_id

    def workers(self) -> list[int]:
        """The process ids of its workers."""
        assert self.process is not None
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        mains = [int(child) for child in children]
        return [
            child for child in mains if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]


def run(task: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(task)


def selection(**more: Any) -> str:
    return json.dumps([{**QUERY, **more}])


def expected(path: str) -> ak.Array:
    arrays = uproot.open(path)["Events"].arrays()
    return arrays[(arrays["nMuon"] > 0) & (arrays["MET_pt"] > 10)]


def holds(result: str | Path, source: str) -> None:
    """A result is what a direct reading of its source selects."""
    wanted = expected(source)
    if str(result).endswith(".parquet"):
        found = ak.from_parquet(result)
    else:
        found = uproot.open(result)["Events"].arrays()
    names = {"nMuon", "Muon_pt", "Muon_charge", "MET_pt"}
    assert set(found.fields) == names | {"run", "luminosityBlock", "event", "genWeight"}
    assert len(found) == len(wanted) > 0
    for name in found.fields:
        assert ak.all(found[name] == wanted[name]), name
    weights = uproot.open(source)["Events"]["genWeight"].array(library="np")
    original = read_original(result)
    assert original["events"] == len(weights)
    assert original["sum_of_weights"] == pytest.approx(weights.astype(float).sum(), rel=1e-12)
