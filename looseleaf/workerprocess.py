"""The process that worker processes of this machine are forked from.

It imports what workers need once, in place of each of them, and while the process that starts it
imports its own: call `prepare` first of all. This module is quick to import.
"""

import os
from collections.abc import Mapping
from multiprocessing import forkserver
from typing import Any

# Dask's nanny starts workers with MALLOC_TRIM_THRESHOLD_=65536, which makes numpy and awkward
# return memory to the system after every array: 1.4 to 2.4 times slower on chunks of NanoAOD.
# The environment variable for this setting doesn't work, the configuration does. What the C
# library reads as a process starts, workers have from the process that they are forked from.
ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 28),
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
METHOD = "forkserver"


def prepare(site: Mapping[str, Any]) -> None:
    """Start the process if a site's workers are processes of this machine; once is enough."""
    if site["kind"] != "local":
        return
    mine = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    try:
        forkserver.set_forkserver_preload(["distributed.nanny", "looseleaf.processing.runner"])
        forkserver.ensure_running()
    finally:
        for name, value in mine.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
