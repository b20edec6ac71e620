"""Errors for users: what is wrong, where, and what to do about it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class LooseleafError(Exception):
    """Base of all errors whose message is written for the user."""


class ConfigError(LooseleafError):
    """The configuration is wrong; the message names file, key, value and what is allowed."""


class DataFileError(LooseleafError):
    """A data file can't be used; the message names the file and says why."""


class RemoteReadFailed(DataFileError):
    """A remote file can't be read at the moment; another try or another address may work."""


class LookupFailed(LooseleafError):
    """A dataset's files could not be found; `status` is the exit status of `looseleaf das`.

    The numbers are dasgoclient's where it has one.
    """

    status = 1


class Shortfall(LooseleafError):
    """Less was processed than expected; the message names what is missing."""


class ServiceXFailed(LooseleafError):
    """A ServiceX refused a request, or can't be reached; the message says which and why."""


def failure_at(url: str) -> type[DataFileError]:
    """The error for a file: a local one can't be expected to recover, a remote one may."""
    return RemoteReadFailed if "://" in url else DataFileError


def shown(value: Any) -> str:
    """A value as messages show it; a long one is cut short."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def brief(problem: Exception) -> str:
    """The type of an error, and the first line of its message."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return f"{type(problem).__name__}: {lines[0] if lines else 'no message'}"


@contextmanager
def reading(url: str) -> Iterator[None]:
    """Turn any exception of a library that reads `url` into a `DataFileError` that names it."""
    try:
        yield
    except DataFileError:
        raise
    except Exception as problem:
        raise failure_at(url)(
            f"{url}: can't be read to the end: {brief(problem)}; "
            "is the file cut off or damaged? compare its size with the catalogue's"
        ) from None
