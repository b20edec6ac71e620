"""What a kind of analysis declares: how it is checked, what it reads and what it makes.

The package of each kind has a `declaration` with one `Kind`. Snakemake imports it while it parses
the graph, so functions are named as `module:function` and imported only where they run.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from looseleaf.objects.analysis import Analysis
from looseleaf.objects.bounds import Box
from looseleaf.objects.leptons import WorkingPoints

A = TypeVar("A", bound=Analysis)
# files by name: a path, or several paths by a name of their own
Files = Mapping[str, str | Mapping[str, str]]
MayKeep = Callable[[Box], bool]


@dataclass(frozen=True)
class Map:
    """The map that another analysis measures."""

    analysis: str


@dataclass(frozen=True)
class Step:
    """A job that runs after the events of an analysis have been processed.

    It calls the function `run` with the analysis and these keyword arguments: `datasets`, the given
    keys of the datasets' declarations; what it `reads` for each dataset (`processed`, `ledgers`);
    files of the analysis' folder that it `uses`; those of `Kind.applied` that it `applies`; and the
    paths of the files that it `makes`. The job starts when the files in `after` exist.
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
    """The pictures of an analysis.

    The function `run` is called with the analysis and these keyword arguments: the paths in `uses`
    (files of the analysis' folder), the `folder` to draw into, a `label` and the beam `energies`.
    """

    run: str
    names: Sequence[str]
    uses: Mapping[str, str]


class Kind(ABC, Generic[A]):
    """A kind of analysis.

    `stage` is the target that makes its results, and the name of their folder. `ending` is the
    suffix of the files of processed datasets. `process` is called with the analysis, its working
    points, the declarations of its datasets (the keys in `declares`), their files and how to run;
    what `applied` names comes by keyword. `summary` is the result that lists losses, `measured_map`
    the file of a map that others may apply. `reserved` are file names that no dataset may take.
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
    # whether triggers may name their primary datasets
    several_primaries: ClassVar[bool] = True
    # workers take two seconds to start, in which one process reads and fills so many events
    few_events: ClassVar[int] = 500_000
    # the keys of a dataset from which its normalisation is computed; it is tried before processing
    tried: ClassVar[Collection[str]] = ()

    @property
    def name(self) -> str:
        """The name of the kind, as files declare it."""
        return self.analysis.kind

    def completed(
        self, analysis: A, others: Mapping[str, Analysis], datasets: Mapping[str, Any], file: str
    ) -> A:
        """The analysis, completed from the analyses listed before it and from the datasets.

        Raises `ConfigError` if they don't fit.
        """
        return analysis

    @abstractmethod
    def check(
        self, analysis: A, datasets: Mapping[str, Any], working_points: WorkingPoints, file: str
    ) -> None:
        """Raise `ConfigError` if a key of this kind has a value that isn't allowed."""

    def normalised(self, analysis: A) -> bool:
        """Whether simulation is normalised to cross sections."""
        return True

    @abstractmethod
    def selections(self, analysis: A) -> Iterator[tuple[str, MayKeep]]:
        """The selections of an analysis, each with a function that tells whether it may keep an
        event.

        A selection is described in words, with "" for the whole analysis. The function takes a box,
        that is the bounds of counters and branches of an event that has passed the triggers.
        """

    def may_lose(self, analysis: A, box: Box) -> bool:
        """Whether a skim may remove the events of a box without an `allow.skim`."""
        return False

    def declares(self, analysis: A) -> Collection[str]:
        """The keys of a dataset's declaration that affect its events."""
        return ("data", "das", "lumi_mask")

    def applied(self, analysis: A) -> Mapping[str, Map | str | Mapping[str, Map]]:
        """What is applied to events: maps that other analyses measure, and configured files."""
        return {}

    @abstractmethod
    def steps(self, analysis: A) -> list[Step]:
        """The jobs after processing, in the order in which they run."""

    @abstractmethod
    def pictures(self, analysis: A) -> Pictures:
        """The pictures that are drawn from the results."""


def made_by(steps: Iterable[Step]) -> list[str]:
    """The files that steps make, in the analysis' folder."""
    return [
        path
        for step in steps
        for files in step.makes.values()
        for path in ([files] if isinstance(files, str) else files.values())
    ]
