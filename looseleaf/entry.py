"""Functions and classes that the graph names as `module:name`, imported where a job runs."""

from importlib import import_module
from typing import Any


def imported(name: str) -> Any:
    """The function or class of a `module:name`."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def name_of(cls: type) -> str:
    """The `module:name` of a class."""
    return f"{cls.__module__}:{cls.__qualname__}"


def module_of(name: str) -> str:
    """The module of a `module:name`."""
    return name.partition(":")[0]
