"""How worker processes are started, and the process from which those on this machine are forked.

That process imports the workers' modules once, and at the same time as the process that starts it:
call `fork_from` first. This module is quick to import. Workers handle large arrays.
"""

import os
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from typing import Any

# By default, the C library returns memory to the system and requests it again for every array,
# which costs a sixth of a transform's time. And it gives threads memory of their own, which it
# returns whatever the threshold: a fifth of the time of chunks, which are processed in threads, and
# the memory of a chunk once more. It reads these settings when a process starts.
ALLOCATOR = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_ARENA_MAX": "1",
}
# Dask's nanny starts workers with MALLOC_TRIM_THRESHOLD_=65536, which makes chunks of NanoAOD take
# 1.4 to 2.4 times as long. The environment variable for this setting has no effect, but the
# configuration has. Workers inherit it from the process that they are forked from.
ENVIRONMENT = {**ALLOCATOR, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
METHOD = "forkserver"
# a site of no other process than the one that submits the work
HERE = "here"


def worthwhile(site: Mapping[str, Any], events: Callable[[], int], few: int) -> Mapping[str, Any]:
    """The site, or this process in place of workers on this machine for less than `few` events.

    A site with settings for its `cluster` stays as it is. The `events` are counted only where their
    number matters.
    """
    alone = site["kind"] == "local" and "cluster" not in site and events() < few
    return {**site, "kind": HERE} if alone else site


def keep_memory() -> None:
    """Make processes that are started from now on keep their memory; the user's settings have
    priority."""
    for setting, size in ALLOCATOR.items():
        os.environ.setdefault(setting, size)


def prepare(site: Mapping[str, Any]) -> None:
    """Start the process for Dask's workers, if a site's are processes of this machine.

    Libraries that this process hasn't loaded yet use one thread if it is to do the work itself.
    """
    if site["kind"] == "local":
        fork_from("distributed.nanny", "looseleaf.processing.runner")
    elif site["kind"] == HERE:
        os.environ.update(ENVIRONMENT)


def fork_from(*modules: str) -> None:
    """Start the process with these modules loaded; further calls have no effect."""
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
