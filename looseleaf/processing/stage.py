"""The processing job of an analysis: datasets in, histograms and ledgers by dataset out."""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from coffea.processor import ProcessorABC
from distributed import performance_report

from looseleaf.files import whole, write_json
from looseleaf.histograms.store import write_uhi
from looseleaf.losses import Loss, say
from looseleaf.objects.analysis import Allow, Analysis
from looseleaf.objects.evaluation import taken_losses
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.luminosity import read_golden
from looseleaf.processing.fileset import Fileset, fileset_of
from looseleaf.processing.input_losses import losses_of_columns, losses_of_skim
from looseleaf.processing.job import run
from looseleaf.processing.repeats import refuse_repeats
from looseleaf.processing.runner import Limits
from looseleaf.processing.site import Site
from looseleaf.stage_files import primaries_of, read_manifest

TASK_COLUMNS = (
    "dataset", "file", "start", "stop", "events", "worker", "tries", "bytes_read", "read_s",
    "process_s", "peak_rss_bytes",
)  # fmt: skip


@dataclass(frozen=True)
class Running:
    """Where and how processors run; results don't depend on it.

    `connect` gives a site as a context manager, and takes the folder for the output of its workers.
    `tasks` and `performance` are paths to write: a table with the cost of each chunk, and Dask's
    report, if it is wanted. Next to them are the folders `checkpoints`, with the results of
    finished tasks, and `workers`, with the output of workers' jobs.
    """

    connect: Callable[[Path], AbstractContextManager[Site]]
    limits: Limits
    tasks: str
    performance: str | None


@dataclass(frozen=True)
class DatasetFiles:
    """The files of one dataset in a processing job: those that it reads and writes."""

    manifest: str
    histograms: str
    ledger: str


def event_metadata(analysis: Analysis, dataset: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a dataset's chunks: whether it is data, its primary dataset, mask and
    branches.

    All comes from the configuration. Raises `DataFileError` if the mask isn't a golden JSON.
    """
    out = {"data": dataset.get("data", False), "aliases": analysis.branches}
    if out["data"] and "das" in dataset:
        words = primaries_of(dataset["das"])
        named = {p for trigger in analysis.triggers for p in trigger.get("primary", [])}
        # words of a sample's name that no trigger uses are left out
        out["primary"] = [word for word in words if word in named] or words
    if "lumi_mask" in dataset:
        out["lumi_mask"] = read_golden(dataset["lumi_mask"])
    return out


NO_LOSS = Allow()


@dataclass(frozen=True)
class Reading:
    """What an analysis needs for the events of its datasets, by dataset.

    `metadata` is passed to the processor with every chunk; its `columns` are all that are in the
    events. `columns` are the columns that are read:
    problems with them are losses, or a `DataFileError` unless `allow` names them. `skim` is the
    transform's cut if it removes events that the analysis might count.
    """

    metadata: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    columns: Mapping[str, Iterable[str]] = field(default_factory=dict)
    allow: Allow = NO_LOSS
    skim: str | None = None

    @classmethod
    def of(
        cls,
        analysis: Analysis,
        declared: Mapping[str, Mapping[str, Any]],
        working_points: WorkingPoints,
    ) -> Self:
        """The reading of an analysis, from the declarations of its datasets.

        Raises `DataFileError` as `event_metadata` does.
        """
        columns = columns_read(analysis, declared, working_points)
        metadata = {
            name: {
                **event_metadata(analysis, dataset),
                **analysis.metadata(name, dataset),
                "columns": sorted(columns[name]),
            }
            for name, dataset in declared.items()
        }
        return cls(metadata, columns, analysis.allow, analysis.skim)

    def losses(self, fileset: Fileset) -> list[Loss]:
        """The losses of a fileset that are known before any event is processed."""
        columns = self.columns.get(fileset.dataset, ())
        return [
            *losses_of_columns(fileset, columns, self.allow.not_finite),
            *losses_of_skim(fileset, self.skim, self.allow.to_json()),
        ]


def columns_read(
    analysis: Analysis, declared: Mapping[str, Mapping[str, Any]], working_points: WorkingPoints
) -> dict[str, set[str]]:
    """The branches that an analysis reads from each dataset, alternatives included."""
    return {
        name: {
            "|".join([column, *analysis.branches.get(column, [])])
            for column in analysis.columns(dataset, working_points)
        }
        for name, dataset in declared.items()
    }


NOTHING_KNOWN = Reading()


def process_datasets(
    processor: ProcessorABC,
    datasets: Mapping[str, DatasetFiles],
    running: Running,
    label: str,
    reading: Reading = NOTHING_KNOWN,
    write: Callable[[str, Mapping[str, Any], Mapping[str, Any]], None] = write_uhi,
    refuse: Callable[[Fileset], None] | None = None,
    losses: Callable[[str, Mapping[str, Any]], Sequence[Loss]] | None = None,
) -> None:
    """Process datasets on one cluster, and write each one's histograms and ledger.

    `write` writes an accumulator and metadata into a file. Histograms aren't normalised, so that a
    new cross section or luminosity needs no new pass over the events. Files with the same events
    raise `DataFileError`, in whichever datasets they are. `refuse` raises for a fileset for which
    no cluster should be started. `losses` finds the losses in a dataset's accumulator; they go into
    the ledger and the log, after those of its files, together with undecided events.
    """
    manifests = {name: read_manifest(files.manifest) for name, files in datasets.items()}
    filesets = [
        fileset_of(name, manifest, reading.metadata.get(name, {}))
        for name, manifest in manifests.items()
    ]
    refuse_repeats(manifests, reading.metadata)
    filesets = [replace(f, losses=(*f.losses, *reading.losses(f))) for f in filesets]
    if refuse is not None:
        for fileset in filesets:
            refuse(fileset)
    folder = Path(running.tasks).parent
    with running.connect(folder / "workers") as site, _reported(running.performance):
        results = run(processor, filesets, site, running.limits, label, folder / "checkpoints")
    for name, result in results.items():
        accumulator = dict(result.accumulator)
        undecided = taken_losses(accumulator)
        write(datasets[name].histograms, accumulator, {"dataset": name})
        more = [*undecided, *(losses(name, accumulator) if losses else ())]
        ledger = {
            **result.ledger,
            "losses": [*result.ledger["losses"], *(loss.to_json() for loss in more)],
        }
        say(f"dataset {name}", (loss["message"] for loss in ledger["losses"]))
        write_json(datasets[name].ledger, ledger)
    _write_tasks(running.tasks, (result.ledger for result in results.values()))


@contextmanager
def _reported(path: str | None) -> Iterator[None]:
    """Dask's report of what happens in the block, in the file `path`."""
    if path is None:
        yield
        return
    with whole(path) as part, performance_report(filename=str(part)):
        yield


def _write_tasks(path: str, ledgers: Iterable[Mapping[str, Any]]) -> None:
    """Write one line for each chunk; `process_s` is its time without `read_s`."""
    with whole(path) as part, open(part, "w", newline="") as stream:
        table = csv.DictWriter(stream, TASK_COLUMNS, extrasaction="ignore")
        table.writeheader()
        for ledger in ledgers:
            for chunk in ledger["chunks"]:
                cost = chunk["cost"]
                process_s = round(max(0.0, cost["wall_s"] - chunk["read_s"]), 4)
                more = {"dataset": ledger["dataset"], "process_s": process_s}
                table.writerow({**cost, **chunk, **more})
