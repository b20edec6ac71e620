"""What a worker process that handles large arrays should be started with."""

import os

# glibc gives memory back and takes it again for every basket unless it is told not to, which costs
# a sixth of a transform's time; read when a process starts
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(1 << 30)}


def keep_memory() -> None:
    """Have processes that are started from now on keep their memory; what the user set wins."""
    for setting, size in ALLOCATOR.items():
        os.environ.setdefault(setting, size)
