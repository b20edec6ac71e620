"""Errors in files given with `--configfile`, which Snakemake reads before the Snakefile, in words.

Snakemake finds this module by its name; `profiles/default` asks for it. It says nothing by itself:
it rewrites what Snakemake is about to say.
"""

import sys
import traceback
from logging import LogRecord
from pathlib import Path

from snakemake.logging import logger
from snakemake_interface_logger_plugins.base import LogHandlerBase

# Snakemake's functions that read a file of the configuration, and the argument with its name
READING = {"load_configfile": "configpath", "_load_configfile": "configpath_or_obj"}


class LogHandler(LogHandlerBase):
    """Takes no records, but has them rewritten for all handlers."""

    def __post_init__(self) -> None:
        logger.addFilter(in_words)

    def emit(self, record: LogRecord) -> None:
        """Nothing: Snakemake's own handlers write."""

    writes_to_stream = writes_to_file = has_filter = has_formatter = needs_rulegraph = False


def in_words(record: LogRecord) -> bool:
    """Replace the traceback of a file that Snakemake can't read by a sentence; keeps all records.

    A filter runs where a message is made, and so while the error is handled.
    """
    problem = sys.exc_info()[1]
    if problem is not None and getattr(record, "exception", "") == type(problem).__name__:
        sentence = _sentence(problem)
        if sentence is not None:
            record.msg, record.args = f"error: {sentence}", ()
    return True


def _sentence(problem: BaseException) -> str | None:
    """What is wrong with the file that was being read, if one was."""
    # Snakemake imports this module whenever it starts, for other workflows too
    from looseleaf.errors import LooseleafError  # noqa: PLC0415
    from looseleaf.yaml_files import read_yaml  # noqa: PLC0415

    frames = (frame for frame, _ in traceback.walk_tb(problem.__traceback__))
    reading = [frame for frame in frames if frame.f_code.co_name in READING]
    if not reading:
        return None
    path = Path(reading[0].f_locals[READING[reading[0].f_code.co_name]])
    if not path.exists():
        return (
            f"{path}: no such file. --configfile takes all names that follow it: if {path.name} is "
            "a target, write it before, or after `--`"
        )
    try:
        read_yaml(path)
    except LooseleafError as told:
        return str(told)
    return None
