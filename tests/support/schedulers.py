"""Dask schedulers that are none of ours, for tests."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def dask_scheduler(
    folder: Path, python: Path, *options: str, port: int = 0, **environment: str
) -> Iterator[tuple[int, str]]:
    """The process id and address of a scheduler with one worker, both started with `python`.

    Both are given the options, and the worker the environment; the scheduler takes any free port
    unless one is given.
    """
    with ExitStack() as stack:

        def start(*command: str, **more: str) -> subprocess.Popen[str]:
            # a pipe that nobody reads would stop it once it is full
            log = stack.enter_context(open(folder / f"{command[0]}.log", "w"))
            process = subprocess.Popen(
                [str(python), "-m", "distributed.cli." + command[0], *command[1:], *options],
                cwd=folder,
                env={**os.environ, **more},
                stderr=log,
                text=True,
            )

            def stop() -> None:
                process.send_signal(signal.SIGKILL)
                process.wait()

            stack.callback(stop)
            return process

        scheduler = start(
            *("dask_scheduler", "--host", "127.0.0.1", "--port", str(port)),
            *("--dashboard-address", ":0"),
        )
        said = folder / "dask_scheduler.log"
        while (found := re.search(r"Scheduler at: +(\S+)\n", said.read_text())) is None:
            assert scheduler.poll() is None, said.read_text()
            time.sleep(0.05)
        address = found[1]
        start(
            "dask_worker",
            address,
            "--no-nanny",
            "--nthreads",
            "1",
            "--host",
            "127.0.0.1",
            **environment,
        )
        yield scheduler.pid, address


def attached(address: str) -> dict[str, Any]:
    return {"kind": "scheduler", "address": address, "redirectors": []}
