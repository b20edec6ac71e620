"""Lookups from a notebook."""

from typing import Any

import pandas as pd

from looseleaf.das.ask import Asking, ask
from looseleaf.das.query import parse
from looseleaf.das.shapes import table


def das(query: str, **asking: Any) -> pd.DataFrame:
    """Ask DAS in its own query language and get a table with a row for each record.

        das("file dataset=/A/B/C | grep file.size>1000000", backend="dbs")

    The keywords are the fields of `Asking`. Raises `LookupFailed` and its kinds, as the command
    `looseleaf das` does.
    """
    return table(ask(parse(query), Asking(**asking)))
