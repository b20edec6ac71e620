"""The frame around the one call of every script: logging, and readable errors."""

import errno
import json
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from looseleaf.errors import LooseleafError
from looseleaf.parents import end_with_snakemake
from looseleaf.workerprocess import prepare


@contextmanager
def doorway(log: str, site: str | None = None) -> Iterator[None]:
    """Run a stage; end with status 1 and one message on an error.

    `site`, as JSON, is where a stage with Dask workers runs; workers on this machine then import
    their modules while the stage does.

    An error meant for the user (`LooseleafError`, a full disk, a forbidden folder) is reported in a
    sentence, any other with its traceback. Both go to the terminal and to the file `log`, which
    otherwise has the time that the stage took.
    """
    end_with_snakemake()
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    # a process that starts workers makes them import its main module again, which would run the
    # stage once more in each of them; a main module without a file isn't imported
    vars(sys.modules["__main__"]).pop("__file__", None)
    started = time.monotonic()
    try:
        if site is not None:
            prepare(json.loads(site))
        yield
    except LooseleafError as problem:
        message = f"error: {problem}"
    except OSError as problem:
        message = explain(problem) or traceback.format_exc()
    except Exception:
        message = traceback.format_exc()
    else:
        Path(log).write_text(f"done in {time.monotonic() - started:.1f} s\n")
        return
    # the log may be on the same full disk as the outputs, so the terminal comes first
    print(message, file=sys.stderr)
    try:
        Path(log).write_text(message + "\n")
    except OSError as problem:
        print(f"(the log {log} could not be written: {problem.strerror})", file=sys.stderr)
    raise SystemExit(1)


def explain(problem: OSError) -> str | None:
    """A sentence for an operating system's error that a user can do something about."""
    where = problem.filename or "the output"
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"error: no space left on the disk while writing {where}: free some and run again"
    if problem.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"error: not allowed to use {where}: {problem.strerror}"
    return None
