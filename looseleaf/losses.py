"""What a number doesn't hold and somebody should know of: lost events, leptons, files, values.

A loss is either allowed by name in the configuration or only told; one that is neither is an
error where it is found. Ledgers carry the losses of a dataset, and the report lists them all.
"""

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Loss:
    """One loss: what kind it is, of which file, column, trigger or axis, and how much of how much.

    `of` is None where the whole isn't known; `unit` says what is counted (events, leptons, values,
    files). `message` is a sentence for the user. `allowed` names the configuration key that allows
    it, None for what needs no permission.
    """

    kind: str
    name: str
    count: float
    of: float | None
    unit: str
    message: str
    allowed: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def say(of: str, messages: Iterable[str]) -> None:
    """Write sentences about a dataset or an analysis, such as its losses, to the log."""
    for message in messages:
        print(f"{of}: {message}", file=sys.stderr)
