"""Reading what services answer: JSON, or JSON by lines, whole or cut off."""

import json
from typing import Any

from looseleaf.das.problems import BackendFailed, CutOff


def rows_of(text: str, source: str) -> list[dict[str, Any]]:
    """The objects of an answer: a JSON list, one JSON object, or an object on each line.

    Raises `CutOff` if the answer breaks off, `BackendFailed` if it is something else.
    """
    text = text.strip()
    if not text:
        return []
    if text[0] not in "[{":
        raise BackendFailed(f"{source} answered with something other than JSON: {text[:120]!r}")
    try:
        value = json.loads(text)
        rows = value if isinstance(value, list) else [value]
    except (ValueError, RecursionError):
        try:
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        except (ValueError, RecursionError):
            raise CutOff(
                f"{source}: the answer is cut off or damaged after {len(text)} characters, at "
                f"{text[-60:]!r}"
            ) from None
    if not all(isinstance(row, dict) for row in rows):
        raise BackendFailed(f"{source}: the answer isn't a list of records: {text[:120]!r}")
    return rows
