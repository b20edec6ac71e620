"""The common part of DAS's query language, as physicists type it.

file dataset=/A/B/C | grep file.name, file.size>1000 | sum(file.size)
"""

import re
from dataclasses import dataclass
from typing import Any

from looseleaf.das.problems import QueryWrong

# what can be asked for, and the DAS name of what identifies each record
FIELDS = {
    "file": "file.name",
    "dataset": "dataset.name",
    "block": "block.name",
    "site": "site.name",
    "summary": "summary",
    "file,run,lumi": "file.name",
}
CONDITIONS = ("dataset", "block", "run", "site", "status", "instance")
FUNCTIONS = ("sum", "count", "min", "max", "avg", "median")
DATASET = re.compile(r"/[\w.*-]+/[\w.*-]+/[\w.*-]+", re.ASCII)
BLOCK = re.compile(r"(/[\w.-]+/[\w.-]+/[\w.-]+)#[\w-]+", re.ASCII)
SITE = re.compile(r"\w+", re.ASCII)
STATUS = re.compile(r"[A-Z]+|\*")
RUN = re.compile(r"[0-9]{1,10}")
INSTANCE = re.compile(r"[a-z]+[0-9]*/[a-z0-9]+")
# what a condition's value looks like
VALUES = {
    "block": (BLOCK, "a block is /primary/processed/tier#id"),
    "dataset": (DATASET, "a dataset is /primary/processed/tier, * for any characters"),
    "instance": (INSTANCE, "an instance is like prod/global or prod/phys03"),
    "site": (SITE, "a site is like T2_CH_CERN"),
    "status": (STATUS, "a status is like VALID or PRODUCTION, * for any"),
}
# characters of a query that a message shows
SHOWN = 300
_CONDITION = re.compile(r"(\w+)\s*(=|\bin\b|\bbetween\b)\s*(\[[^\]]*\]|[^\s\[\]|]+)\s*")
_SELECTION = re.compile(r"([a-z]+(?:\.\w+)?)\s*(?:(>=|<=|!=|=|>|<)\s*(\S+))?")
_FUNCTION = re.compile(r"(\w+)\s*\(\s*([a-z]+(?:\.\w+)?)\s*\)")


Runs = tuple[int, ...] | range


@dataclass(frozen=True)
class Selection:
    """One item of a `grep`: a key to show, or, with a relation, a condition to be kept."""

    key: str
    relation: str | None = None
    value: str | None = None


@dataclass(frozen=True)
class Function:
    """An aggregation over all records, such as sum(file.size)."""

    name: str
    key: str


@dataclass(frozen=True)
class Query:
    """A query taken apart. `runs` is None or the run numbers asked for, `site` one that has the
    files."""

    text: str
    field: str
    dataset: str
    block: str | None = None
    runs: Runs | None = None
    site: str | None = None
    status: str = "VALID"
    instance: str | None = None
    grep: tuple[Selection, ...] = ()
    functions: tuple[Function, ...] = ()

    @property
    def wild(self) -> bool:
        """Whether the dataset is a pattern."""
        return "*" in self.dataset

    @property
    def narrowed(self) -> frozenset[str]:
        """The conditions that a backend has to know of each file."""
        given = {"run": self.runs, "site": self.site}
        return frozenset(name for name, value in given.items() if value is not None)

    def to_json(self) -> dict[str, Any]:
        """The query as dasgoclient echoes it."""
        spec: dict[str, Any] = {
            "dataset": self.dataset,
            "block": self.block,
            "site": self.site,
            "status": self.status,
        }
        return {
            "fields": self.field.split(","),
            "spec": {key: value for key, value in spec.items() if value is not None},
            "instance": self.instance,
        }


def parse(text: str) -> Query:
    """Take a query apart; `QueryWrong` shows what can't be understood and what is known."""
    head, *pipes = [part.strip() for part in text.split("|")]
    field, conditions = _head(head, text)
    grep: list[Selection] = []
    functions: list[Function] = []
    for pipe in pipes:
        if pipe.startswith("grep "):
            grep += [_selection(item.strip(), text) for item in pipe[5:].split(",")]
        else:
            functions += [_function(item.strip(), text) for item in pipe.split(",")]
    block = conditions.get("block")
    query = Query(
        text=text,
        field=field,
        dataset=conditions.get("dataset") or (block or "").partition("#")[0],
        block=block,
        runs=conditions.get("run"),
        site=conditions.get("site"),
        status=conditions.get("status", "VALID"),
        instance=conditions.get("instance"),
        grep=tuple(grep),
        functions=tuple(functions),
    )
    _check_values(query)
    _check_conditions(query)
    return query


def _check_values(query: Query) -> None:
    """Refuse names that can't be of what they should name."""
    for condition, (pattern, hint) in VALUES.items():
        value = getattr(query, condition)
        if value is not None and not pattern.fullmatch(value):
            raise _wrong(query.text, f"{condition}={value}", hint)


def _check_conditions(query: Query) -> None:
    """Refuse conditions that don't go with each other or with the field asked for."""
    if query.block is not None:
        given = f"block={query.block}"
        if query.field not in ("file", "block"):
            raise _wrong(query.text, given, f"a {query.field} is asked for by dataset=")
        if query.block.partition("#")[0] != query.dataset:
            raise _wrong(query.text, given, "this block isn't of the dataset asked for")
    if query.runs is not None and query.field not in ("file", "file,run,lumi"):
        raise _wrong(query.text, "run", "only file and file,run,lumi can be narrowed to runs")
    if query.site is not None and query.field != "file":
        raise _wrong(query.text, f"site={query.site}", "only file can be narrowed to a site")


def _head(head: str, text: str) -> tuple[str, dict[str, Any]]:
    first = re.match(r"[a-z]+(?:\s*,\s*[a-z]+)*(?=\s+\w|$)", head)
    # "dataset=/A/B/C" alone asks for what it names
    condition = _CONDITION.match(head)
    if condition is not None:
        field, rest = condition[1], head
    elif first is not None:
        field, rest = re.sub(r"\s", "", first[0]), head[first.end() :].strip()
    else:
        field, rest = head.split(" ", maxsplit=1)[0], ""
    if field not in FIELDS:
        raise _wrong(text, field, f"known fields are {'; '.join(FIELDS)}")
    conditions: dict[str, Any] = {}
    while rest:
        condition = _CONDITION.match(rest)
        if condition is None:
            raise _wrong(text, rest, "conditions are key=value, run in [1,2], run between [1,9]")
        key, relation, value = condition.groups()
        if key not in CONDITIONS:
            raise _wrong(text, key, f"known conditions are {', '.join(CONDITIONS)}")
        if key in conditions:
            raise _wrong(text, key, "it is given twice")
        conditions[key] = _runs(relation, value, text) if key == "run" else value
        if key != "run" and relation != "=":
            raise _wrong(text, f"{key} {relation}", "lists and ranges are for run")
        rest = rest[condition.end() :]
    return field, conditions


def _runs(relation: str, value: str, text: str) -> Runs:
    numbers = [part.strip() for part in value.strip("[]").split(",")]
    if not all(RUN.fullmatch(number) for number in numbers):
        raise _wrong(text, f"run {relation} {value}", "runs are numbers of up to ten digits")
    runs = tuple(int(number) for number in numbers)
    if relation == "between":
        if len(runs) != 2 or runs[0] > runs[1]:
            raise _wrong(text, f"run between {value}", "a range is [first, last]")
        return range(runs[0], runs[1] + 1)
    return runs


def _selection(item: str, text: str) -> Selection:
    selection = _SELECTION.fullmatch(item)
    if selection is None:
        raise _wrong(text, item, "grep takes keys such as file.name and conditions on them")
    return Selection(*selection.groups())


def _function(item: str, text: str) -> Function:
    function = _FUNCTION.fullmatch(item)
    if function is None or function[1] not in FUNCTIONS:
        raise _wrong(text, item, f"after | comes grep, or one of {', '.join(FUNCTIONS)} of (a key)")
    return Function(function[1], function[2])


def _wrong(text: str, part: str, hint: str) -> QueryWrong:
    return QueryWrong(f"query {_shortened(text)!r}: {_shortened(part)!r}: {hint}")


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
