"""An analysis as the library sees it: its checked declaration, with every default set once.

Each kind of analysis is a frozen dataclass that derives from `Analysis`. Light enough to be
imported while Snakemake parses the graph.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from typing import Any, ClassVar, NamedTuple, Self

from looseleaf.files import canonical
from looseleaf.objects.branches import WEIGHT
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.needed_branches import IDENTITY, cut_columns, lepton_columns, trigger_columns

# what an analysis may measure for others to apply
RATES, CHARGE_FLIPS = "rates", "charge flips"


def _default(of: Field[Any]) -> Any:
    return of.default if of.default_factory is MISSING else of.default_factory()


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a configuration file whose keys are the fields of a dataclass."""

    @classmethod
    def from_json(cls, declared: Mapping[str, Any]) -> Self:
        """The section in a mapping that its schema has let pass."""
        types = {one.name: one.type for one in fields(cls)}
        return cls(**{name: _value(types[name], value) for name, value in declared.items()})

    def to_json(self) -> dict[str, Any]:
        """What differs from the defaults; `from_json` makes an equal section of it."""
        values = {one.name: (getattr(self, one.name), _default(one)) for one in fields(self)}
        return {
            name: value.to_json() if isinstance(value, Section) else value
            for name, (value, default) in values.items()
            if value != default
        }

    def without(self, *names: str) -> Self:
        """The section with the defaults of these fields."""
        return replace(
            self, **{one.name: _default(one) for one in fields(self) if one.name in names}
        )


def _value(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, Section) and isinstance(value, Mapping):
        return kind.from_json(value)
    return value


@dataclass(frozen=True, kw_only=True)
class Allow(Section):
    """The losses that an analysis accepts: columns and expressions with values that aren't finite,
    axes that most of what is filled may lie beyond, empty bins of a map, events that the skim
    removes."""

    not_finite: Sequence[str] = ()
    beyond: Sequence[str] = ()
    empty_bins: bool = False
    skim: bool = False

    def of_events(self) -> "Allow":
        """Those that are accepted while events are processed; the others are judged afterwards."""
        return self.without("beyond", "empty_bins")


class Leptons(NamedTuple):
    """The leptons of a measured map: their collection, working points (`loose`, `tight`) and
    `momentum`, and whether the map is of |eta|."""

    collection: str
    roles: Mapping[str, str]
    absolute_eta: bool


@dataclass(frozen=True, kw_only=True)
class Analysis(Section):
    """What analyses of all kinds declare.

    `datasets` names them by group. `branches` are the names that stand in for branches the analysis
    reads, and `skim` is the transform's cut if it removes events that the analysis might count:
    both are set by the configuration as a whole.
    """

    kind: ClassVar[str]
    # what others may apply of it
    MEASURES: ClassVar[str | None] = None
    # fields that matter after the events only, and nested ones whose order results follow
    AFTERWARDS: ClassVar[Collection[str]] = ("title",)
    ORDERED: ClassVar[Collection[str]] = ()

    name: str
    title: str = ""
    datasets: Mapping[str, Sequence[str]] = field(default_factory=dict)
    triggers: Sequence[Mapping[str, Any]] = ()
    allow: Allow = Allow()
    observables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    corrections: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    branches: Mapping[str, Sequence[str]] = field(default_factory=dict)
    skim: str | None = None

    @classmethod
    def from_json(cls, declared: Mapping[str, Any]) -> Self:
        return super().from_json({k: value for k, value in declared.items() if k != "kind"})

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, **super().to_json()}

    def dataset_names(self) -> list[str]:
        """The datasets that the analysis reads, as it names them."""
        return [name for group in self.datasets.values() for name in group]

    def of_events(self) -> Self:
        """The analysis without what comes after its events: those fields have their defaults."""
        return replace(self.without(*self.AFTERWARDS), allow=self.allow.of_events())

    def to_params(self) -> dict[str, Any]:
        """The analysis as JSON that tells whether results would differ: the order of keys is that
        of the declaration where results follow it, and otherwise none."""
        return {
            name: value if name in self.ORDERED else _sorted(value)
            for name, value in self.to_json().items()
        }

    def of_year(self, year: str | None) -> Self:
        """The analysis as it is for the datasets of a year, None where they declare none."""
        return self

    def used_points(self) -> list[tuple[str, str]]:
        """The working points that the analysis speaks of, as (collection, name)."""
        raise NotImplementedError

    def measured_leptons(self) -> Leptons | None:
        """The leptons that rates are measured of, if they are."""
        return None

    def metadata(self, name: str, dataset: Mapping[str, Any]) -> dict[str, Any]:
        """What the processor is told of a dataset beside `event_metadata`."""
        return {}

    def columns(self, dataset: Mapping[str, Any], points: WorkingPoints) -> set[str]:
        """The branches that the analysis reads from a dataset, both as declared.

        An entry `A|B` asks for whichever of the alternatives a file has, and for at least one.
        """
        columns = set(IDENTITY) | lepton_columns(self.used_points(), points)
        columns |= trigger_columns(self.triggers) | self.own_columns(points)
        if dataset["data"]:
            return columns
        for correction in self.corrections.values():
            columns |= cut_columns(correction["inputs"].values())
        return columns | {WEIGHT} | self.simulated_columns(dataset)

    def own_columns(self, points: WorkingPoints) -> set[str]:
        """What is read beside leptons and triggers."""
        return set()

    def simulated_columns(self, dataset: Mapping[str, Any]) -> set[str]:
        """What is read of simulation alone, beside the weight and the inputs of corrections."""
        return set()


def _sorted(value: Any) -> Any:
    """Nested mappings in the order of their keys."""
    return json.loads(canonical(value))
