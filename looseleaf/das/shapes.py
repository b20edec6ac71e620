"""How an answer is shown: lines, JSON in dasgoclient's shapes, a table for notebooks."""

import hashlib
import json
import operator
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from looseleaf.das.ask import Answer
from looseleaf.das.problems import QueryWrong
from looseleaf.das.query import FIELDS, Function, Query, Selection
from looseleaf.das.records import (
    BlockRecord,
    DatasetRecord,
    LumiRecord,
    Record,
    SiteRecord,
    SummaryRecord,
)
from looseleaf.stage_files import FileRecord

if TYPE_CHECKING:
    import pandas as pd

# a record by DAS's names, "file.size": 1000
Row = dict[str, Any]
# numbers that a source may not know
COUNTS = {"file.size", "file.nevents", "block.size", "block.nfiles"} | {
    f"summary.{key}" for key in ("nfiles", "nevents", "nblocks", "nlumis", "file_size")
}
RELATIONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}
FUNCTIONS: dict[str, Callable[[list[Any]], float]] = {
    "sum": sum,
    "min": min,
    "max": max,
    "avg": statistics.fmean,
    "median": statistics.median,
}


def row_of(record: Record, dataset: str) -> Row:
    """A record under the names that DAS gives to its fields."""
    match record:
        case FileRecord():
            return {
                "file.name": record.name,
                "file.size": record.bytes,
                "file.nevents": record.events,
                "file.adler32": record.adler32,
                "file.block_name": record.block,
                "file.dataset": dataset,
                "file.is_file_valid": int(record.valid),
            }
        case DatasetRecord():
            return {"dataset.name": record.name, "dataset.status": record.status}
        case BlockRecord():
            return {
                "block.name": record.name,
                "block.size": record.bytes,
                "block.nfiles": record.files,
                "block.dataset": dataset,
            }
        case SiteRecord():
            share = record.dataset_percent
            return {
                "site.name": record.name,
                "site.dataset_fraction": None if share is None else f"{share:.2f}%",
                "site.dataset": dataset,
            }
        case SummaryRecord():
            return {
                "summary.nfiles": record.files,
                "summary.nevents": record.events,
                "summary.nblocks": record.blocks,
                "summary.nlumis": record.lumis,
                "summary.file_size": record.bytes,
                "summary.dataset": dataset,
            }
        case LumiRecord():
            runs = record.runs
            return {
                "file.name": record.file,
                "run.run_number": runs[0] if len(runs) == 1 else list(runs),
                "lumi.number": list(record.lumis),
            }


def rows_of(answer: Answer) -> list[Row]:
    """The rows that pass the conditions of `grep`.

    Raises `QueryWrong` for a key that the records don't have.
    """
    query = answer.query
    rows = [row_of(record, name) for name, records in answer.records.items() for record in records]
    known = rows[0]
    for key in [item.key for item in query.grep] + [f.key for f in query.functions]:
        if key not in known and not _keys_below(key, known):
            raise QueryWrong(f"query {query.text!r}: {key!r}: known keys are {', '.join(known)}")
    conditions = [item for item in query.grep if item.relation is not None]
    return [row for row in rows if all(_holds(item, row) for item in conditions)]


def _keys_below(key: str, keys: Iterable[str]) -> list[str]:
    """The keys of an entity: file for file.name, file.size and so on."""
    return [known for known in keys if known.partition(".")[0] == key]


def _holds(condition: Selection, row: Row) -> bool:
    value, bound = row.get(condition.key), str(condition.value)
    if value is None:
        return False
    if condition.key == "site.dataset_fraction":
        value, bound = float(value[:-1]), bound.removesuffix("%")
    if isinstance(value, int | float):
        try:
            return RELATIONS[str(condition.relation)](value, float(bound))
        except ValueError:
            raise QueryWrong(f"{condition.key}: {bound!r} is not a number") from None
    if condition.relation in ("=", "!="):
        return fnmatchcase(str(value), bound) is (condition.relation == "=")
    return RELATIONS[str(condition.relation)](str(value), bound)


def _shown(query: Query, row: Row) -> list[str]:
    """The keys that `grep` names; none if it only sets conditions or isn't there."""
    keys: list[str] = []
    for item in query.grep:
        if item.relation is None:
            keys += [item.key] if item.key in row else _keys_below(item.key, row)
    return keys


def aggregate(function: Function, rows: list[Row]) -> float:
    """The value of an aggregation; `QueryWrong` if a value is unknown or not a number."""
    values = [row.get(function.key) for row in rows]
    if function.name == "count":
        return sum(value is not None for value in values)
    if not values and function.name != "sum":
        raise QueryWrong(f"{function.name}({function.key}): no record is left by grep")
    if not all(isinstance(value, int | float) for value in values):
        unknown = sum(value is None for value in values)
        why = f"it is unknown in {unknown} of {len(values)} records" if unknown else "not numbers"
        raise QueryWrong(f"{function.name}({function.key}): {why}")
    return FUNCTIONS[function.name](values)


def lines(answer: Answer) -> list[str]:
    """What dasgoclient prints without options: a line for each record."""
    rows, query = rows_of(answer), answer.query
    if query.functions:
        return [f"{f.name}({f.key}): {aggregate(f, rows)}" for f in query.functions]
    if query.field == "summary" and not _shown(query, rows[0] if rows else {}):
        return [json.dumps([_entity(row, "summary")]) for row in rows]
    identity = {"file,run,lumi": ["file.name", "run.run_number", "lumi.number"]}
    keys = identity.get(query.field, [FIELDS[query.field]])
    return [" ".join(_plain(row[key]) for key in _shown(query, row) or keys) for row in rows]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _entity(row: Row, entity: str) -> Row:
    return {key.partition(".")[2]: row[key] for key in _keys_below(entity, row)}


def objects(answer: Answer) -> list[dict[str, Any]]:
    """The records as dasgoclient's JSON has them."""
    rows, query = rows_of(answer), answer.query
    # MD5 only names the query here, as DAS does
    qhash = hashlib.md5(query.text.encode(), usedforsecurity=False).hexdigest()
    das = {
        "instance": answer.instance,
        "primary_key": FIELDS[query.field],
        "record": 1,
        "services": [f"looseleaf:{answer.backend}"],
    }
    if query.functions:
        return [
            {
                "das": das,
                "function": f.name,
                "key": f.key,
                "result": {"value": aggregate(f, rows)},
                "qhash": qhash,
            }
            for f in query.functions
        ]
    out = []
    for row in rows:
        kept = {key: row[key] for key in _shown(query, row) or row}
        entities = dict.fromkeys(key.partition(".")[0] for key in kept)
        out.append({"das": das, **{e: [_entity(kept, e)] for e in entities}, "qhash": qhash})
    return out


def json_lines(data: Sequence[Mapping[str, Any]]) -> str:
    """What `dasgoclient -json` prints of `objects`: a list with a record on each line."""
    return "[\n" + " ,\n".join(json.dumps(record) for record in data) + "\n]"


def wrapped(answer: Answer, data: Sequence[Mapping[str, Any]], started: float, ended: float) -> str:
    """What `dasgoclient -format json` prints of `objects`; times in seconds since 1970."""
    query = {**answer.query.to_json(), "instance": answer.instance}
    return json.dumps(
        {
            "status": "ok",
            "ecode": "",
            "mongo_query": query,
            "nresults": len(data),
            "timestamp": int(ended),
            "ctime": int(ended - started),
            "data": data,
        }
    )


def table(answer: Answer) -> "pd.DataFrame":
    """The records as a table; columns are DAS's names without the entity (name, size, ...).

    Of several entities, such as file,run,lumi, the entity names the column. Numbers that may be
    unknown are of pandas' Int64.
    """
    import pandas as pd  # noqa: PLC0415 - only notebooks need it

    rows, query = rows_of(answer), answer.query
    if query.functions:
        return pd.DataFrame([{f"{f.name}({f.key})": aggregate(f, rows) for f in query.functions}])
    frame = pd.DataFrame([{key: row[key] for key in _shown(query, row) or row} for row in rows])
    known = [key for key in frame.columns if key in COUNTS]
    frame = frame.astype(dict.fromkeys(known, "Int64"))
    if "file.is_file_valid" in frame.columns:
        frame = frame.astype({"file.is_file_valid": bool})
    several = len({key.partition(".")[0] for key in frame.columns}) > 1
    return frame.rename(columns=lambda key: key.partition(".")[0 if several else 2])
