"""The errors a user is meant to read: what is wrong, where, and what to do about it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class LooseleafError(Exception):
    """Base of all errors whose message is written for the user."""


class ConfigError(LooseleafError):
    """The configuration is wrong; the message names file, key, value and what is allowed."""


class DataFileError(LooseleafError):
    """A data file can't be used; the message names the file and what is the matter with it."""


class RemoteReadFailed(DataFileError):
    """A file elsewhere can't be read just now: another try, or another address, may do."""


class LookupFailed(LooseleafError):
    """A dataset's files could not be found; `status` is what the command `looseleaf das` ends with.

    The numbers are dasgoclient's where it has one.
    """

    status = 1


class Shortfall(LooseleafError):
    """Less was processed than expected; the message names what is missing."""


class ServiceXFailed(LooseleafError):
    """A ServiceX refused a request, or can't be reached; the message says which and why."""


def failure_at(url: str) -> type[DataFileError]:
    """A file on this machine doesn't get better by waiting; one elsewhere may."""
    return RemoteReadFailed if "://" in url else DataFileError


def shown(value: Any) -> str:
    """A value as a message shows it, cut short if it is long."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def brief(problem: Exception) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return f"{type(problem).__name__}: {lines[0] if lines else 'no message'}"


@contextmanager
def reading(url: str) -> Iterator[None]:
    """Turn whatever a library raises while it reads `url` into a `DataFileError` that names it."""
    try:
        yield
    except DataFileError:
        raise
    except Exception as problem:
        raise failure_at(url)(
            f"{url}: can't be read to the end: {brief(problem)}; "
            "is the file cut off or damaged? compare its size with the catalogue's"
        ) from None
