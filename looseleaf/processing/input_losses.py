"""Losses that are known before processing: values that aren't finite, missing triggers, the skim.

They come from the manifest, for the columns that an analysis reads.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from looseleaf.errors import DataFileError
from looseleaf.losses import Loss
from looseleaf.objects.branches import is_theory_weight, is_trigger
from looseleaf.processing.fileset import Fileset

ALLOW = "allow.not_finite"
MOST_FILES = 3


def losses_of_columns(
    fileset: Fileset, columns: Iterable[str], allowed: Collection[str]
) -> list[Loss]:
    """The losses in a dataset's events for an analysis that reads `columns` (alternatives `A|B`).

    Raises `DataFileError` for a column with values that aren't finite, unless it is `allowed`, and
    for a trigger without a path in any of the files.
    """
    columns = sorted(columns)
    return [*_not_finite(fileset, columns, allowed), *_missing(fileset, columns)]


def _not_finite(
    fileset: Fileset, columns: Iterable[str], allowed: Collection[str]
) -> Iterator[Loss]:
    used = {name for column in columns for name in column.split("|")} | fileset.cut_columns
    for name, by_file in fileset.not_finite.items():
        # the sums of theory weights report these, by index
        if name not in used or is_theory_weight(name):
            continue
        count = sum(entry["count"] for entry in by_file.values())
        of = sum(entry["of"] for entry in by_file.values())
        unit = next(iter(by_file.values()))["unit"]
        message = (
            f"{name} is NaN or infinite in {count} of the {of} {unit} of {_files(by_file)}, which "
            "cuts and histograms leave out"
        )
        if name not in allowed:
            raise DataFileError(
                f"dataset {fileset.dataset}: {message}. Make these files again, leave them out "
                f"(leave_out of the dataset), or accept the loss in the analysis with "
                f"allow: {{not_finite: [{name}]}}"
            )
        yield Loss("not finite", name, count, of, unit, message, ALLOW)


def _missing(fileset: Fileset, columns: Iterable[str]) -> Iterator[Loss]:
    held = {file: events for file, events in fileset.held.items() if events}
    whole = sum(held.values())
    triggers = [column.split("|") for column in columns if is_trigger(column)]
    for paths in triggers:
        _check_trigger(fileset, paths, held)
    for path in dict.fromkeys(path for paths in triggers for path in paths):
        lacks = [file for file in fileset.missing.get(path, {}) if file in held]
        if lacks:
            events = sum(held[file] for file in lacks)
            message = (
                f"{path} is missing in {len(lacks)} of {len(held)} files with {events} of {whole} "
                f"events: it counts as not fired there ({_files(lacks)})"
            )
            yield Loss("trigger missing", path, events, whole, "events", message)


def _check_trigger(fileset: Fileset, paths: Sequence[str], files: Collection[str]) -> None:
    """Raise `DataFileError` for a trigger without a path in any of the files."""
    lacking = [fileset.missing.get(path, {}) for path in paths]
    if not files or any(file not in lacks for file in files for lacks in lacking):
        return
    near = dict.fromkeys(name for lacks in lacking for names in lacks.values() for name in names)
    hint = f"; they have {', '.join(near)}" if near else ""
    raise DataFileError(
        f"dataset {fileset.dataset}: none of its files ({len(files)}) has the trigger "
        f"{' or '.join(paths)}{hint}: correct the paths in the analysis' triggers, add {paths[0]} "
        "to the paths of another trigger, or give the trigger the years that have it"
    )


def losses_of_skim(fileset: Fileset, cut: str | None, allow: Mapping[str, Any]) -> list[Loss]:
    """A loss for the events that a skim removes and that an analysis might count.

    `cut` is the skim's cut if it removes such events, else None. The analysis allows it (`allow`),
    or chooses to measure in events with few jets.
    """
    held = sum(fileset.held.values())
    dropped = held - sum(file.events for file in fileset.files)
    if cut is None or not dropped:
        return []
    message = (
        f"the skim {cut!r} (servicex.cut) leaves out {dropped} of {held} events, some of which the "
        "analysis might count"
    )
    key = "allow.skim" if allow.get("skim") else "servicex.cut"
    return [Loss("skimmed", cut, dropped, held, "events", message, key)]


def _files(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - MOST_FILES} more" if len(names) > MOST_FILES else ""
    return ", ".join(names[:MOST_FILES]) + more
