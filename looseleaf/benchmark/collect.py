"""Reading the records of costs, and summing them by stage, analysis and rule."""

import os
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from looseleaf import stage_files
from looseleaf.cost import Cost, JobCost
from looseleaf.errors import DataFileError
from looseleaf.files import read_json
from looseleaf.histograms.store import read_uhi
from looseleaf.losses import Loss
from looseleaf.shape import COUNT, NUMBER, TEXT, check
from looseleaf.stage_files import read_catalogue

FORMAT = "looseleaf-benchmark/2"
JOBS = "/benchmark/jobs/"
# the result whose metadata is stored with histograms
MAP = "map.json"
# what is read of costs, ledgers and manifests
JOB = {"wall_s": NUMBER, "cpu_s": NUMBER, "peak_rss_bytes": COUNT}
LOSS = {
    "kind": TEXT,
    "name": TEXT,
    "count": NUMBER,
    "of": (NUMBER,),
    "unit": TEXT,
    "message": TEXT,
    "allowed": (TEXT,),
}
LEDGER = {
    "dataset": TEXT,
    "chunks": [{"worker": TEXT, "tries": COUNT, "cost": stage_files.COST}],
    "losses": [LOSS],
}
MANIFEST = {
    "totals": {"events_out": COUNT, "bytes": COUNT},
    "files": [{"cost": stage_files.COST}],
}

Number = TypeVar("Number", int, float)
Made = TypeVar("Made", Cost, JobCost, Loss)


@dataclass(frozen=True)
class Job:
    """One run of a rule of some stage, for the dataset or analysis `name`."""

    rule: str
    stage: str
    name: str
    cost: JobCost


@dataclass(frozen=True)
class ChunkCost:
    """The cost of one chunk in the ledger of `dataset`, processed by `stage`.

    `cost` is that of the last of its `tries`.
    """

    stage: str
    dataset: str
    worker: str
    tries: int
    cost: Cost


@dataclass(frozen=True)
class Account:
    """The cost of a dataset's chunks and its losses, from its ledger."""

    dataset: str
    chunks: Sequence[ChunkCost]
    losses: Sequence[Loss]


@dataclass(frozen=True)
class Transformed:
    """The costs and totals of a transform's files, from the manifest of `dataset`."""

    dataset: str
    costs: Sequence[Cost]
    events_out: int
    bytes_written: int


def read_job(path: str | Path, stages: Mapping[str, str]) -> Job:
    """The job whose cost is in a file.

    The rule is the name of the folder below `benchmark/jobs`, and its first word that of a kind of
    analysis in `stages`, which has the stage of each, or of a stage. Raises `DataFileError` if the
    file can't be read or is incomplete.
    """
    _, separator, below = f"/{Path(path).as_posix()}".rpartition(JOBS)
    if not separator:
        raise DataFileError(f"{path}: not below a folder {JOBS.strip('/')}")
    record = read_json(path)
    check(record, JOB, str(path))
    rule, _, name = below.partition("/")
    first = rule.partition("_")[0]
    return Job(rule, stages.get(first, first), name.removesuffix(".json"), _made(JobCost, record))


def read_ledger(path: str | Path) -> Account:
    """The chunks and losses in a ledger at <stage>/<analysis>/<dataset>.ledger.json."""
    stage = Path(path).parent.parent.name
    ledger = stage_files.read_ledger(path, LEDGER)
    dataset = ledger["dataset"]
    chunks = [
        ChunkCost(stage, dataset, chunk["worker"], chunk["tries"], _made(Cost, chunk["cost"]))
        for chunk in ledger["chunks"]
    ]
    return Account(dataset, chunks, [_made(Loss, loss) for loss in ledger["losses"]])


def read_losses(path: str | Path) -> list[Loss]:
    """The losses in a map, a closure or a table of yields, over all datasets."""
    value = read_uhi(path)[1] if Path(path).name == MAP else read_json(path)
    check(value, {"losses": [LOSS]}, str(path))
    return [_made(Loss, loss) for loss in value["losses"]]


def read_manifest(path: str | Path) -> Transformed:
    """The costs and totals of a transform's manifest."""
    manifest = stage_files.read_manifest(path, MANIFEST)
    totals = manifest["totals"]
    costs = [_made(Cost, file["cost"]) for file in manifest["files"]]
    return Transformed(Path(path).stem, costs, totals["events_out"], totals["bytes"])


def _made(kind: type[Made], record: Mapping[str, Any]) -> Made:
    """A record of some kind from JSON, which may have more keys."""
    return kind(**{field.name: record[field.name] for field in fields(kind)})


def read_reference(path: str | Path) -> dict[str, Any]:
    """Recorded figures: their origin and a list of runs, each with a name."""
    value = read_json(path)
    try:
        named = {run["name"]: run for run in value["runs"]}
        return {"origin": value["origin"], "runs": list(named.values())}
    except (KeyError, TypeError) as problem:
        raise DataFileError(f"{path}: needs an origin and named runs ({problem})") from None


def summary_of(
    jobs: Sequence[Job],
    accounts: Mapping[str, Sequence[Account]],
    losses: Mapping[str, Sequence[Loss]],
    transforms: Sequence[Transformed],
    catalogues: Iterable[str],
    reference: Mapping[str, Any],
) -> dict[str, Any]:
    """The complete summary, as it is written. Unknown values are None; rates are sums over sums."""
    chunks = {
        name: [chunk for account in of_analysis for chunk in account.chunks]
        for name, of_analysis in accounts.items()
    }
    costs = _costs([chunk for own in chunks.values() for chunk in own], transforms)
    made = _written(transforms, catalogues)
    stages = dict.fromkeys([*(job.stage for job in jobs), *costs, *made])
    rules = {job.rule: job.stage for job in jobs}
    return {
        "format": FORMAT,
        "machine": {
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}",
        },
        "stages": [
            _stage(
                stage,
                [job for job in jobs if job.stage == stage],
                costs.get(stage, []),
                made.get(stage, {}),
            )
            for stage in stages
        ],
        "losses": _all_losses(accounts, losses),
        "processing": [_analysis(name, own) for name, own in chunks.items()],
        "work": [*_of_transforms(transforms), *_of_workers(chunks)],
        "rules": [
            {"rule": rule, "stage": stage} | _jobs_total([job for job in jobs if job.rule == rule])
            for rule, stage in rules.items()
        ],
        "jobs": [
            {"rule": job.rule, "stage": job.stage, "name": job.name} | job.cost.to_json()
            for job in jobs
        ],
        "reference": reference,
    }


def _of_transforms(transforms: Sequence[Transformed]) -> list[dict[str, Any]]:
    """The work on the files of each dataset. A manifest doesn't tell who did it and how often."""
    return [
        {"stage": "servicex", "analysis": None, "dataset": transform.dataset, "worker": None}
        | {"pieces": len(transform.costs), "tries": None}
        | _work(transform.costs)
        for transform in transforms
    ]


def _of_workers(chunks: Mapping[str, Sequence[ChunkCost]]) -> Iterator[dict[str, Any]]:
    """The work on the chunks of each analysis and dataset, by worker."""
    for analysis, of_analysis in chunks.items():
        by_worker: dict[tuple[str, str, str], list[ChunkCost]] = {}
        for chunk in of_analysis:
            key = chunk.stage, chunk.dataset, chunk.worker
            by_worker.setdefault(key, []).append(chunk)
        for (stage, dataset, worker), own in sorted(by_worker.items()):
            yield (
                {"stage": stage, "analysis": analysis, "dataset": dataset, "worker": worker}
                | {"pieces": len(own), "tries": sum(chunk.tries for chunk in own)}
                | _work([chunk.cost for chunk in own])
            )


def _costs(chunks: Iterable[ChunkCost], transforms: Sequence[Transformed]) -> dict[str, list[Cost]]:
    """The cost of every piece of work, by stage."""
    costs: dict[str, list[Cost]] = {}
    for chunk in chunks:
        costs.setdefault(chunk.stage, []).append(chunk.cost)
    if transforms:
        costs["servicex"] = [cost for transform in transforms for cost in transform.costs]
    return costs


def _written(
    transforms: Sequence[Transformed], catalogues: Iterable[str]
) -> dict[str, dict[str, int]]:
    """The output of the stages that write events."""
    written: dict[str, dict[str, int]] = {}
    if transforms:
        written["servicex"] = {
            "events_out": sum(transform.events_out for transform in transforms),
            "bytes_written": sum(transform.bytes_written for transform in transforms),
        }
    files = [file for path in catalogues for held in read_catalogue(path).values() for file in held]
    if files:
        events = sum(file.events or 0 for file in files)
        written["samples"] = {
            "events": events,
            "events_out": events,
            "bytes_written": sum(file.bytes or 0 for file in files),
        }
    return written


def _all_losses(
    accounts: Mapping[str, Sequence[Account]], losses: Mapping[str, Sequence[Loss]]
) -> list[dict[str, Any]]:
    """The losses of an analysis over all its datasets, then those of each dataset."""
    return [
        *(
            {"analysis": name, "dataset": None} | loss.to_json()
            for name, of_analysis in losses.items()
            for loss in of_analysis
        ),
        *(
            {"analysis": name, "dataset": account.dataset} | loss.to_json()
            for name, of_analysis in accounts.items()
            for account in of_analysis
            for loss in account.losses
        ),
    ]


def _stage(
    stage: str, jobs: Sequence[Job], costs: Sequence[Cost], made: Mapping[str, int]
) -> dict[str, Any]:
    row = {"stage": stage} | _jobs_total(jobs) | _work(costs)
    row |= {"events_out": None, "bytes_written": None, **made}
    return row | {"events_per_s": _rate(row["events"], row["wall_s"])}


def _analysis(name: str, chunks: Sequence[ChunkCost]) -> dict[str, Any]:
    return {
        "analysis": name,
        "stages": sorted({chunk.stage for chunk in chunks}),
        "datasets": len({chunk.dataset for chunk in chunks}),
        "chunks": len(chunks),
        "tries": sum(chunk.tries for chunk in chunks),
        "workers": len({chunk.worker for chunk in chunks}),
    } | _work([chunk.cost for chunk in chunks])


def _jobs_total(jobs: Sequence[Job]) -> dict[str, Any]:
    costs = [job.cost for job in jobs]
    return {
        "jobs": len(jobs),
        "wall_s": _sum(cost.wall_s for cost in costs),
        "longest_s": max((cost.wall_s for cost in costs), default=None),
        "cpu_s": _sum(cost.cpu_s for cost in costs),
        "peak_rss_bytes": max((cost.peak_rss_bytes for cost in costs), default=None),
    }


def _work(costs: Sequence[Cost]) -> dict[str, Any]:
    """Totals of pieces of work; `process_s` is the sum of their wall times."""
    events = _sum(cost.events for cost in costs)
    process_s = _sum(cost.wall_s for cost in costs)
    return {
        "events": events,
        "bytes_read": _sum(cost.bytes_read for cost in costs),
        "process_s": process_s,
        "process_cpu_s": _sum(cost.cpu_s for cost in costs),
        "process_peak_rss_bytes": max((cost.peak_rss_bytes for cost in costs), default=None),
        "events_per_process_s": _rate(events, process_s),
    }


def _sum(values: Iterable[Number]) -> Number | None:
    """The sum, None of no values; seconds with the 0.1 ms of the records."""
    summed = list(values)
    return round(sum(summed), 4) if summed else None


def _rate(events: int | None, seconds: float | None) -> float | None:
    return round(events / seconds, 3) if events is not None and seconds else None
