"""Damaging trees of JSON or YAML, for tests of what reads them."""

from typing import Any


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key or index) in a tree."""
    keys: list[Any] = []
    if isinstance(value, dict):
        keys = list(value)
    elif isinstance(value, list):
        keys = list(range(len(value)))
    return [(value, key) for key in keys] + [p for key in keys for p in places(value[key])]
