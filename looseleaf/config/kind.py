"""What a kind of analysis says of itself: how it is checked, what it reads, and what it makes.

Each kind's package has a `declaration` with one `Kind`. It is read while Snakemake parses the
graph: what runs is named as `module:function`, and imported where it runs.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from looseleaf.objects.analysis import Analysis
from looseleaf.objects.bounds import Box
from looseleaf.objects.leptons import WorkingPoints

A = TypeVar("A", bound=Analysis)
# files by name: one, or several by a name of their own
Files = Mapping[str, str | Mapping[str, str]]
MayKeep = Callable[[Box], bool]


@dataclass(frozen=True)
class Map:
    """The map that another analysis measures."""

    analysis: str


@dataclass(frozen=True)
class Step:
    """A job after the events of an analysis are processed: one call of a function.

    `run` is called with the analysis and, by keyword, the declarations of its `datasets` (these
    keys of theirs), what it `reads` of each (`processed`, `ledgers`), what it `uses` (files in the
    analysis' folder), what it `applies` of `Kind.applied`, and the paths of what it `makes` in the
    folder. It waits for the files in `after`.
    """

    name: str
    run: str
    makes: Files
    reads: Collection[str] = ("processed", "ledgers")
    uses: Mapping[str, str] = field(default_factory=dict)
    applies: Collection[str] = ()
    datasets: Collection[str] = ()
    after: Sequence[str] = ()


@dataclass(frozen=True)
class Pictures:
    """The pictures of an analysis: `run` is called with the analysis and, by keyword, the paths of
    `uses`, files in its folder, the `folder` to draw into, a `label` and the beams' `energies`."""

    run: str
    names: Sequence[str]
    uses: Mapping[str, str]


class Kind(ABC, Generic[A]):
    """A kind of analysis.

    `stage` is the target that makes its results, and their folder; `ending` that of the files of
    its processed datasets. `process` is called with the analysis, its working points, the
    declarations (`declares` says which of a dataset's keys) and files of its datasets and how to
    run, and by keyword with what `applied` names. `summary` is the result that says what is lost,
    `measured_map` the file of a map that others may apply. `reserved` are names of files beside
    those of the datasets.
    """

    analysis: ClassVar[type[Analysis]]
    stage: ClassVar[str]
    process: ClassVar[str]
    ending: ClassVar[str] = "json"
    summary: ClassVar[str]
    measured_map: ClassVar[str] = ""
    category: ClassVar[str]
    reserved: ClassVar[Collection[str]]
    # the group of datasets that may be data
    may_be_data: ClassVar[str] = "measure"
    # whether triggers may say whose primary dataset they are in
    several_primaries: ClassVar[bool] = True
    # what a dataset's normalisation takes of its declaration, if it is tried before processing
    tried: ClassVar[Collection[str]] = ()

    @property
    def name(self) -> str:
        return self.analysis.kind

    def completed(
        self, analysis: A, others: Mapping[str, Analysis], datasets: Mapping[str, Any], file: str
    ) -> A:
        """The analysis with what follows from those listed before it and from the datasets.

        Raises `ConfigError` for one that isn't what it should be.
        """
        return analysis

    @abstractmethod
    def check(
        self, analysis: A, datasets: Mapping[str, Any], points: WorkingPoints, file: str
    ) -> None:
        """Raise `ConfigError` for what the kind's own keys may not be."""

    def normalised(self, analysis: A) -> bool:
        """Whether simulation is normalised to cross sections."""
        return True

    @abstractmethod
    def selections(self, analysis: A) -> Iterator[tuple[str, MayKeep]]:
        """What an analysis fills, in words ("" for all of it), and whether an event whose counters
        and branches lie in a box may be part of it once it has passed the triggers."""

    def may_lose(self, analysis: A, box: Box) -> bool:
        """Whether a skim may remove what lies in a box, without an `allow.skim`."""
        return False

    def declares(self, analysis: A) -> Collection[str]:
        """The keys of a dataset's declaration that decide about its events."""
        return ("data", "das", "lumi_mask")

    def applied(self, analysis: A) -> Mapping[str, Map | str | Mapping[str, Map]]:
        """What is applied to events: maps that others measure, and files of the configuration."""
        return {}

    @abstractmethod
    def steps(self, analysis: A) -> list[Step]:
        """The jobs after processing, in the order in which they run."""

    @abstractmethod
    def pictures(self, analysis: A) -> Pictures:
        """The pictures, drawn of results."""


def made_by(steps: Iterable[Step]) -> list[str]:
    """The files that steps make, in the analysis' folder."""
    return [
        path
        for step in steps
        for files in step.makes.values()
        for path in ([files] if isinstance(files, str) else files.values())
    ]
