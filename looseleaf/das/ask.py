"""Asking: the backend that can answer a query, and its answer for every dataset that it names."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Protocol

from looseleaf.das.catalogue import Catalogue
from looseleaf.das.dasgoclient import Dasgoclient
from looseleaf.das.dbs import Dbs
from looseleaf.das.problems import NoCredential, QueryWrong
from looseleaf.das.query import INSTANCE, Query, Runs
from looseleaf.das.records import BlockRecord, DatasetRecord, LumiRecord, Record
from looseleaf.das.rucio import Rucio
from looseleaf.errors import LookupFailed

BACKENDS = ("dasgoclient", "dbs", "rucio", "catalogue")
# what a backend has to know for a condition on files, and which ones do
NEEDED_FOR = {
    "run": "which runs are in a file; dasgoclient and dbs do",
    "site": "at which sites a file is; dasgoclient and rucio do",
}


class Backend(Protocol):
    """What answers queries.

    `answers` are the fields it knows, `narrows` the conditions by which it can tell files apart;
    `check`, called once before anything is asked, raises `LookupFailed` if it can't work here;
    `records` gives those of one dataset, for the field `dataset` those of all that match, for
    `file` also those of one block, or with some of the runs, or at a site, or an empty list.
    """

    name: str
    answers: frozenset[str]
    narrows: frozenset[str]

    def check(self) -> None: ...

    def records(
        self,
        field: str,
        dataset: str,
        status: str,
        runs: Runs | None = None,
        site: str | None = None,
    ) -> list[Record]: ...


@dataclass(frozen=True)
class Asking:
    """Whom to ask and how.

    `backend` is one of `BACKENDS` or `auto`, `host` where DBS stands, `timeout` in seconds for
    one request, of which at most `parallel` are under way at a time and each is made at most
    `tries` times; `catalogues` are local files.

    Raises `QueryWrong` for a host that isn't reached over TLS, or what can't be an instance.
    """

    backend: str = "auto"
    instance: str = "prod/global"
    host: str = "https://cmsweb.cern.ch:8443"
    timeout: float = 60
    tries: int = 4
    parallel: int = 20
    catalogues: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.backend not in (*BACKENDS, "auto"):
            raise QueryWrong(
                f"backend {self.backend!r}: should be one of {', '.join(BACKENDS)}, auto"
            )
        if isinstance(self.catalogues, str):
            raise QueryWrong(f"catalogues {self.catalogues!r}: should be a list of files")
        for name in ("timeout", "tries", "parallel"):
            if not getattr(self, name) > 0:
                raise QueryWrong(f"{name} {getattr(self, name)!r}: should be more than 0")
        if not self.host.startswith("https://"):
            raise QueryWrong(f"host {self.host!r}: should be an https:// address")
        if not INSTANCE.fullmatch(self.instance):
            raise QueryWrong(f"instance {self.instance!r}: should be like prod/global")


@dataclass(frozen=True)
class Answer:
    """The records of a query by dataset, who gave them, and why the backends before it did not."""

    query: Query
    backend: str
    instance: str
    records: Mapping[str, Sequence[Record]]
    passed_over: Mapping[str, str] = field(default_factory=dict)


def backend_of(name: str, asking: Asking) -> Backend:
    """The backend of a name among `BACKENDS`, set up as `asking` says."""
    match name:
        case "dasgoclient":
            return Dasgoclient(asking.instance, asking.timeout, asking.tries)
        case "dbs":
            return Dbs(asking.host, asking.instance, asking.timeout, asking.tries, asking.parallel)
        case "rucio":
            return Rucio(asking.timeout)
        case _:
            return Catalogue(asking.catalogues)


def choose(
    asking: Asking, field: str, narrowed: frozenset[str] = frozenset()
) -> tuple[Backend, dict[str, str]]:
    """The backend to ask for a field on these conditions, and why those that `auto` passed over
    can't work.

    Raises `NoCredential` if all that is missing is a proxy, else `LookupFailed`.
    """
    names = BACKENDS if asking.backend == "auto" else (asking.backend,)
    problems: dict[str, LookupFailed] = {}
    for name in names:
        backend = backend_of(name, asking)
        try:
            if field not in backend.answers:
                known = "; ".join(sorted(backend.answers))
                raise LookupFailed(f"doesn't know {field}; it knows {known}")
            for condition in sorted(narrowed - backend.narrows):
                raise LookupFailed(f"doesn't know {NEEDED_FOR[condition]}")
            backend.check()
        except LookupFailed as problem:
            problems[name] = problem
        else:
            return backend, {name: str(problem) for name, problem in problems.items()}
    lacking = any(isinstance(problem, NoCredential) for problem in problems.values())
    kind = NoCredential if lacking else LookupFailed
    reasons = [f"{name}: {problem}" for name, problem in problems.items()]
    if len(reasons) == 1:
        raise kind(f"the backend {reasons[0]}")
    raise kind("\n  ".join(["no backend can answer:", *reasons]))


def ask(query: Query, asking: Asking) -> Answer:
    """Ask for everything that a query names; a pattern is expanded to its datasets first.

    Raises `LookupFailed` if there is nothing: an empty answer is what services give for a name
    that they don't know and for an expired proxy, so it never passes for a dataset without files.
    """
    if query.instance is not None:
        asking = replace(asking, instance=query.instance)
    try:
        backend, passed_over = choose(asking, query.field, query.narrowed)
    except LookupFailed as problem:
        raise type(problem)(f"dataset {query.dataset}: {problem}") from None
    instance = {"catalogue": "local", "rucio": "rucio"}.get(backend.name, asking.instance)
    if query.wild or query.field == "dataset":
        matching = backend.records("dataset", query.dataset, query.status)
        if not matching:
            raise LookupFailed(
                f"{backend.name} ({instance}) knows no dataset {query.dataset} with status "
                f"{query.status}; is a part misspelt, or another instance or status meant?"
            )
        names = [record.name for record in matching if isinstance(record, DatasetRecord)]
    else:
        names = [query.dataset]
    if query.field == "dataset":
        return Answer(query, backend.name, instance, {query.dataset: matching}, passed_over)
    if query.block is not None and query.field == "file":
        by_name = records_of(backend, query, [query.block], asking.parallel)
        narrowed = {query.dataset: by_name[query.block]}
    else:
        by_name = records_of(backend, query, names, asking.parallel)
        narrowed = {name: _narrowed(query, records) for name, records in by_name.items()}
    for name, records in narrowed.items():
        if not records:
            raise LookupFailed(
                f"dataset {name}: {backend.name} ({instance}) lists no {query.field} for "
                f"it{_limits(query)}; does it exist there?"
            )
    return Answer(query, backend.name, instance, narrowed, passed_over)


def records_of(
    backend: Backend, query: Query, datasets: Sequence[str], parallel: int
) -> dict[str, list[Record]]:
    """The records of each dataset, or block, by its whole name, `parallel` datasets at a time.

    The first failure is raised, and what has not been asked by then isn't.
    """
    with ThreadPoolExecutor(min(parallel, len(datasets))) as threads:
        # of sections they are chosen here
        runs = query.runs if query.field == "file" else None
        waiting = [
            threads.submit(backend.records, query.field, name, "VALID", runs, query.site)
            for name in datasets
        ]
        try:
            return {name: future.result() for name, future in zip(datasets, waiting, strict=True)}
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def _narrowed(query: Query, records: Sequence[Record]) -> list[Record]:
    """The records of the block and the runs asked for."""
    kept = list(records)
    if query.block is not None:
        kept = [r for r in kept if isinstance(r, BlockRecord) and r.name == query.block]
    if query.runs is not None and query.field != "file":
        runs = query.runs
        kept = [r for r in kept if isinstance(r, LumiRecord) and any(run in runs for run in r.runs)]
    return kept


def _limits(query: Query) -> str:
    limits = [f"block {query.block}"] if query.block else []
    limits += ["the runs asked for"] if query.runs is not None else []
    within = " in " + " and ".join(limits) if limits else ""
    return within if query.site is None else f"{within} at {query.site}"
