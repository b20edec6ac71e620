"""The frame around the one call of every script: logging, and readable errors."""

import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from looseleaf import disk
from looseleaf.cost import of_this_job
from looseleaf.errors import LooseleafError
from looseleaf.files import whole, write_json
from looseleaf.parents import age_of_this, end_with_snakemake


@contextmanager
def doorway(log: str, cost: str | None = None) -> Iterator[None]:
    """Run a stage; end with status 1 and one message on an error.

    An error meant for the user (`LooseleafError`, a full disk, a forbidden folder) is reported in a
    sentence, any other with its traceback. Both go to the terminal and to the file `log`, which
    otherwise has the time that the stage took. A log that can't be written changes nothing. What
    the job cost is written to the file `cost`, if it succeeds.
    """
    end_with_snakemake()
    # a process that starts workers makes them import its main module again, which would run the
    # stage once more in each of them; a main module without a file isn't imported
    vars(sys.modules["__main__"]).pop("__file__", None)
    started = time.monotonic()
    try:
        yield
        if cost is not None:
            write_json(cost, of_this_job(age_of_this()).to_json())
    except LooseleafError as problem:
        message = f"error: {problem}"
    except OSError as problem:
        sentence = disk.sentence(problem)
        message = traceback.format_exc() if sentence is None else f"error: {sentence}"
    except Exception:
        message = traceback.format_exc()
    else:
        _write(log, f"done in {time.monotonic() - started:.1f} s")
        return
    # the log may be on the same full disk as the outputs, so the terminal comes first
    print(message, file=sys.stderr)
    _write(log, message)
    raise SystemExit(1)


def _write(log: str, text: str) -> None:
    try:
        with whole(log, durable=False) as part:
            part.write_text(f"{text}\n")
    except OSError as problem:
        print(f"(the log {log} could not be written: {problem.strerror})", file=sys.stderr)
