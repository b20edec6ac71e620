"""Worker processes that handle large arrays: how they are started, and what those on this machine
are forked from.

That process imports what workers need once, in place of each of them, and while the process that
starts it imports its own: call `fork_from` first of all. This module is quick to import.
"""

import os
from collections.abc import Mapping
from multiprocessing import forkserver
from typing import Any

# The C library gives memory back to the system and takes it again for every array unless it is told
# not to, which costs a sixth of a transform's time. It reads this as a process starts.
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(1 << 30)}
# Dask's nanny starts workers with MALLOC_TRIM_THRESHOLD_=65536, with which chunks of NanoAOD take
# 1.4 to 2.4 times as long. The environment variable for this setting doesn't work, the
# configuration does. Workers have it from the process that they are forked from.
ENVIRONMENT = {**ALLOCATOR, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
METHOD = "forkserver"


def keep_memory() -> None:
    """Have processes that are started from now on keep their memory; what the user set wins."""
    for setting, size in ALLOCATOR.items():
        os.environ.setdefault(setting, size)


def prepare(site: Mapping[str, Any]) -> None:
    """Start the process for Dask's workers if a site's are processes of this machine."""
    if site["kind"] == "local":
        fork_from("distributed.nanny", "looseleaf.processing.runner")


def fork_from(*modules: str) -> None:
    """Start the process, with these modules loaded; once is enough."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    try:
        forkserver.set_forkserver_preload(list(modules))
        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
