"""Checking JSON from a file against a shape.

A shape is one of the kinds below, `[shape]` for a list, `{key: shape}` for an object with at least
these keys, `{ANY: shape}` for one with any keys, and `(shape,)` for a value that can be null.
"""

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, NamedTuple

from looseleaf.errors import DataFileError

ANY = "*"
LARGEST = 2**63
CURE = "the file is damaged, or another version wrote it: make it again"


class Kind(NamedTuple):
    """A kind of plain value: its description, and a check."""

    words: str
    fits: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < LARGEST if isinstance(value, int) else isfinite(value)


TEXT = Kind("a text", lambda value: isinstance(value, str))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
NUMBER = Kind("a number", _is_number)
COUNT = Kind(
    "a whole number from 0",
    lambda value: _is_number(value) and isinstance(value, int) and value >= 0,
)


def check(value: Any, shape: Any, where: str) -> None:
    """Raise `DataFileError` naming `where`, and the place in it, if a value has another shape."""
    match shape:
        case Kind():
            if not shape.fits(value):
                raise _wrong(value, shape.words, where)
        case (inner,) if isinstance(shape, tuple):
            if value is not None:
                check(value, inner, where)
        case [inner]:
            if not isinstance(value, list):
                raise _wrong(value, "a list", where)
            for number, item in enumerate(value):
                check(item, inner, f"{where}: {number}")
        case _:
            _check_object(value, shape, where)


def _check_object(value: Any, shape: Mapping[str, Any], where: str) -> None:
    if not isinstance(value, dict):
        raise _wrong(value, "an object with keys", where)
    missing = [key for key in shape if key != ANY and key not in value]
    if missing:
        raise DataFileError(f"{where}: {missing[0]} is missing; {CURE}")
    for key, item in value.items():
        if key in shape or ANY in shape:
            check(item, shape.get(key, shape.get(ANY)), f"{where}: {key}")


def _wrong(value: Any, words: str, where: str) -> DataFileError:
    shown = repr(value) if not isinstance(value, int) or abs(value) < LARGEST else "a huge number"
    shown = shown if len(shown) <= 40 else f"{shown[:40]}..."
    return DataFileError(f"{where}: should be {words}, not {shown}; {CURE}")
