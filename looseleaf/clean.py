"""What earlier runs left behind and nothing needs any more.

Only things with names that looseleaf gives are found: requests on the ServiceX volume, part files
and checkpoints in the results folder, and scratch folders in the system's temporary folder. What
another user owns, what is reached through a symbolic link, and what a run holds stays. The folders
that the configuration names may themselves be links.
"""

import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir

from snakemake.utils import update_config

from looseleaf import disk
from looseleaf.codehash import code_hash
from looseleaf.config.graph import Graph
from looseleaf.config.kinds import stages
from looseleaf.config.settings import Settings, find, load
from looseleaf.errors import DataFileError, LooseleafError
from looseleaf.files import read_json
from looseleaf.layout import workflow_folder
from looseleaf.lease import held_by, leased
from looseleaf.paths import Paths
from looseleaf.removal import Left, Stays, remove
from looseleaf.scratch import left_in
from looseleaf.servicex.request import (
    Reference,
    is_request,
    references,
    request_folder,
    request_from_das,
)
from looseleaf.shape import TEXT, check
from looseleaf.yaml_files import read_yaml

PART = ".part-"
# folders within that of a request, through which results come
IN_TRANSIT = ("incoming", "downloads")
KILLED = "a run that was killed left it half written"


@dataclass
class Findings:
    """What was left behind, and sentences on what stays although it may look so."""

    left: list[Left] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def add(self, root: Path, inside: Path, why: str, request: Path | None = None) -> None:
        """Add a thing, unless it is a link, has gone, or isn't wholly the user's own."""
        try:
            with suppress(FileNotFoundError):
                self.left.append(Left.of(root, inside, why, request))
        except Stays as problem:
            self.remarks.append(str(problem))


@dataclass(frozen=True)
class Present:
    """The configuration as it is now: `base` is the folder of the Snakefile."""

    settings: Settings
    base: Path

    @classmethod
    def of(cls, files: Iterable[Path]) -> "Present":
        """The configuration as snakemake reads it in this folder with these files laid over.

        Raises a `LooseleafError` for what is wrong with it.
        """
        base = Path.cwd() if Path("Snakefile").is_file() else workflow_folder()
        merged = read_yaml(base / "config/config.yaml")
        for file in files:
            update_config(merged, read_yaml(file))
        return cls(load(merged, base), base)

    @property
    def results(self) -> Path:
        return Path(self.settings.general["results"]).resolve()

    @property
    def volume(self) -> Path:
        return Path(self.settings.general["servicex"]["volume"]).resolve()

    @property
    def paths(self) -> Paths:
        return Paths(self.settings.general["results"])

    @property
    def graph(self) -> Graph:
        return Graph(
            self.settings, self.paths, lambda path: str(find(path, self.base, "configuration"))
        )


def find_left(present: Present) -> Findings:
    """What earlier runs left behind that the configuration doesn't need; nothing is changed.

    Raises `LooseleafError` for files of the results that can't be read: what they need isn't known.
    """
    findings = Findings()
    results = present.results
    holder = held_by(results) if results.is_dir() else None
    if holder is None:
        _find_all(present, findings)
    else:
        findings.remarks.append(f"{results}: a run uses it ({holder}), so it and its requests stay")
    _find_scratch(findings)
    return findings


def remove_left(present: Present, shown: Sequence[Left]) -> Iterator[tuple[Left, str]]:
    """Remove what was shown and is still to be removed; for each, what stood in the way, if
    anything did.

    Raises `LooseleafError` if a run uses the results folder.
    """
    results = present.results
    with leased(results) if results.is_dir() else nullcontext():
        now = Findings()
        _find_all(present, now)
        _find_scratch(now)
        still = {one.identity for one in now.left}
        for one in shown:
            problem = "has changed, or is in use by now"
            if one.identity in still:
                try:
                    remove(one)
                    problem = ""
                except LooseleafError as refused:
                    problem = str(refused)
                except OSError as refused:
                    problem = disk.short(refused) or str(refused.strerror)
            yield one, problem


def _find_all(present: Present, findings: Findings) -> None:
    _compare_with_last_run(present, findings)
    _find_parts(present, findings)
    _find_checkpoints(present, findings)
    _find_requests(present, findings)


def _compare_with_last_run(present: Present, findings: Findings) -> None:
    """Remark on analyses of the last run that the configuration lacks: it may be another one."""
    path = Path(present.paths.config)
    with suppress(DataFileError, KeyError, TypeError):
        if gone := sorted({*read_json(path)["analyses"]} - {*present.settings.analyses}):
            findings.remarks.append(
                f"{path}: the last run had analyses that this configuration has not "
                f"({', '.join(gone)}); is a --configfile missing?"
            )


def _find_scratch(findings: Findings) -> None:
    temporary = Path(gettempdir()).resolve()
    for path in left_in(temporary):
        inside = path.relative_to(temporary)
        findings.add(temporary, inside, "the process that used it has ended")


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder that are no links, in order."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())


def _find_parts(present: Present, findings: Findings) -> None:
    results, volume = present.results, present.volume
    for place, folders, files in os.walk(results):
        # requests are held one by one, wherever the volume is, and checkpoints go as a whole
        folders[:] = [
            name
            for name in folders
            if name != "checkpoints" and not is_request(name) and Path(place, name) != volume
        ]
        for name in sorted(files):
            if name.startswith(PART):
                inside = Path(place, name).relative_to(results)
                findings.add(results, inside, KILLED)


def _find_checkpoints(present: Present, findings: Findings) -> None:
    graph, results = present.graph, present.results
    for stage in stages():
        if (results / stage).is_symlink():
            continue
        for folder in _folders(results / stage):
            inside = folder.relative_to(results) / "checkpoints"
            name = folder.name
            if not (results / inside).is_dir():
                continue
            if name not in present.settings.analyses or graph.stage_of(name) != stage:
                why = f"the configuration has no analysis {name}"
            elif _finished(graph, name):
                why = f"{name} is finished; without them a rerun reads all of its events again"
            else:
                continue
            findings.add(results, inside, why)


def _finished(graph: Graph, analysis: str) -> bool:
    """Whether the histograms of all datasets are there, of the requests that their manifests
    name."""
    ledgers, manifests = graph.ledgers(analysis), graph.manifests(analysis)
    try:
        same = all(_named(Path(ledgers[n])) == _named(Path(manifests[n])) for n in manifests)
    except LooseleafError:
        return False
    return same and all(Path(path).is_file() for path in graph.processed(analysis).values())


def _find_requests(present: Present, findings: Findings) -> None:
    needed, volume = _needed(present), present.volume
    place = request_folder(volume, present.settings.general["servicex"]["subdir"], "any").parent
    for folder in _folders(place):
        if not is_request(folder.name):
            continue
        try:
            holder = held_by(folder)
        except LooseleafError as problem:
            findings.remarks.append(str(problem))
            continue
        if holder is not None:
            findings.remarks.append(f"{folder}: a run uses it ({holder}), so it stays")
            continue
        by_others = None
        if folder.name not in needed:
            by_others = _needed_by_others(folder, present.results)
        inside = folder.relative_to(volume)
        if folder.name not in needed and by_others is None:
            why = "no results refer to this request, and the configuration doesn't make it"
            findings.add(volume, inside, why, folder)
            continue
        if by_others is not None:
            findings.remarks.append(f"{folder}: {by_others}, so it stays")
        for name in sorted(os.listdir(folder)):
            if name.startswith(PART) or name in IN_TRANSIT:
                findings.add(volume, inside / name, KILLED, folder)


def _needed(present: Present) -> set[str]:
    """The requests that manifests in the results name, and those that the configuration makes of
    the lists of files that are there."""
    settings, general = present.settings, present.settings.general
    manifests = (present.results / "servicex").glob("[!.]*.json")
    named = {_named(path) for path in manifests}
    software = code_hash(script=present.base / "scripts/servicex_transform.py")
    made = {
        request_from_das(
            das,
            settings.columns_for(dataset),
            general["servicex"]["cut"],
            general["servicex"]["format"],
            software,
            # where files are read from makes no other request
            ["/"],
            general["das"]["verify"],
        ).id
        for dataset in settings.datasets_in_use()
        if (das := Path(present.paths.das.replace("{dataset}", dataset))).is_file()
    }
    return named | made


def _named(path: Path) -> str:
    """The request that a manifest or a ledger names, also one of an older format."""
    value = read_json(path)
    check(value, {"request_id": TEXT}, str(path))
    return str(value["request_id"])


def _needed_by_others(folder: Path, results: Path) -> str | None:
    """Why a request that these results don't need may be needed all the same; None if it isn't."""
    try:
        known = list(references(folder))
        if not known and not folder.is_relative_to(results):
            return "it isn't written there which results use it"
        others = (one for one in known if not Path(one.manifest).is_relative_to(results))
        return next(filter(None, (_needed_by(one, folder.name) for one in others)), None)
    except (LooseleafError, OSError) as problem:
        return f"not known whether it is needed ({problem})"


def _needed_by(reference: Reference, request: str) -> str | None:
    manifest = Path(reference.manifest)
    if manifest.is_file():
        return f"{manifest} refers to it" if _named(manifest) == request else None
    if manifest.parent.parent.is_dir():
        return f"{manifest.parent.parent} may still come to need it"
    if reference.host != socket.gethostname():
        return f"{manifest} on {reference.host} may refer to it"
    return None
