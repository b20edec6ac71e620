"""Losses: events, leptons, files or values that a result leaves out, and that users should know.

A loss is allowed by name in the configuration, or only reported; any other is an error where it is
found. Ledgers have the losses of a dataset, and the report lists them all.
"""

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Loss:
    """One loss: its kind, its file, column, trigger or axis, and `count` of `of`.

    `of` is None if the total isn't known; `unit` says what is counted (events, leptons, values,
    files). `message` is a sentence for the user. `allowed` is the configuration key that allows it,
    None if it needs no permission.
    """

    kind: str
    name: str
    count: float
    of: float | None
    unit: str
    message: str
    allowed: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON."""
        return asdict(self)


def say(of: str, messages: Iterable[str]) -> None:
    """Write sentences about a dataset or an analysis, such as its losses, to the log."""
    for message in messages:
        print(f"{of}: {message}", file=sys.stderr)
