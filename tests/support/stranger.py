"""Someone else on this machine, who tries to have a Dask cluster run a function.

    python stranger.py ADDRESS PATH

says what came of it. As root it becomes another user first, as far as this is possible.
"""

import os
import sys

from distributed import Client
from distributed.security import Security

NOBODY = 65534


def touch(path: str) -> None:
    with open(path, "w"):
        pass


def attempt(address: str, path: str) -> str:
    security = Security.temporary() if address.startswith("tls") else None
    try:
        with Client(address, timeout="3 s", security=security) as client:
            client.run_on_scheduler(touch, path)
            client.run(touch, path)
    except Exception as problem:
        return f"{type(problem).__name__}: {problem}"
    return "it ran"


if __name__ == "__main__":
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    print(
        os.getuid(),
        *(attempt(address, sys.argv[2]) for address in sys.argv[1].split(",")),
        sep="\n",
    )
