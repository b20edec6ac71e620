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
        """The section in a mapping that has passed its schema."""
        types = {one.name: one.type for one in fields(cls)}
        return cls(**{name: _value(types[name], value) for name, value in declared.items()})

    def to_json(self) -> dict[str, Any]:
        """The fields that differ from their defaults; `from_json` restores an equal section."""
        values = {one.name: (getattr(self, one.name), _default(one)) for one in fields(self)}
        return {
            name: value.to_json() if isinstance(value, Section) else value
            for name, (value, default) in values.items()
            if value != default
        }

    def without(self, *names: str) -> Self:
        """The section with these fields set back to their defaults."""
        return replace(
            self, **{one.name: _default(one) for one in fields(self) if one.name in names}
        )


def _value(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, Section) and isinstance(value, Mapping):
        return kind.from_json(value)
    return value


@dataclass(frozen=True, kw_only=True)
class Allow(Section):
    """The losses that an analysis accepts.

    They are columns and expressions with values that aren't finite (`not_finite`), axes with most
    entries outside their edges (`beyond`), empty bins of a map, and events that the skim removes.
    """

    not_finite: Sequence[str] = ()
    beyond: Sequence[str] = ()
    empty_bins: bool = False
    skim: bool = False

    def of_events(self) -> "Allow":
        """The losses that are accepted while events are processed; the others are checked
        afterwards."""
        return self.without("beyond", "empty_bins")


class Leptons(NamedTuple):
    """The leptons of a measured map.

    `collection` is theirs, `roles` their `loose` and `tight` working points and `momentum`;
    `absolute_eta` tells whether the map is binned in |eta|.
    """

    collection: str
    roles: Mapping[str, str]
    absolute_eta: bool


@dataclass(frozen=True, kw_only=True)
class Analysis(Section):
    """What analyses of all kinds declare.

    `datasets` are names by group. `branches` are alternative names of the branches that the
    analysis reads; `skim` is the cut of the transform if it removes events that the analysis might
    count. The configuration sets both.
    """

    kind: ClassVar[str]
    # what other analyses may apply of it
    MEASURES: ClassVar[str | None] = None
    # fields that don't affect events, and nested ones whose order affects the results
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
        """The analysis in a mapping that has passed the schema of its kind."""
        return super().from_json({k: value for k, value in declared.items() if k != "kind"})

    def to_json(self) -> dict[str, Any]:
        """The kind, and the fields that differ from their defaults."""
        return {"kind": self.kind, **super().to_json()}

    def dataset_names(self) -> list[str]:
        """The names of the datasets that the analysis reads, in their order."""
        return [name for group in self.datasets.values() for name in group]

    def of_events(self) -> Self:
        """The analysis as far as it affects events; the other fields have their defaults."""
        return replace(self.without(*self.AFTERWARDS), allow=self.allow.of_events())

    def to_params(self) -> dict[str, Any]:
        """The analysis as JSON that changes if, and only if, results may change.

        The order of keys is kept only in fields whose order affects the results.
        """
        return {
            name: value if name in self.ORDERED else _sorted(value)
            for name, value in self.to_json().items()
        }

    def of_year(self, year: str | None) -> Self:
        """The analysis for datasets of a year, or for those that declare none (None)."""
        return self

    def used_points(self) -> list[tuple[str, str]]:
        """The working points that the analysis uses, as (collection, name)."""
        raise NotImplementedError

    def measured_leptons(self) -> Leptons | None:
        """The leptons whose rates are measured, or None."""
        return None

    def metadata(self, name: str, dataset: Mapping[str, Any]) -> dict[str, Any]:
        """What the processor needs to know about a dataset, beside `event_metadata`."""
        return {}

    def columns(self, dataset: Mapping[str, Any], working_points: WorkingPoints) -> set[str]:
        """The branches that the analysis reads from a dataset with this declaration.

        An entry `A|B` asks for whichever of the alternatives a file has; a file must have at least
        one.
        """
        columns = set(IDENTITY) | lepton_columns(self.used_points(), working_points)
        columns |= trigger_columns(self.triggers) | self.own_columns(working_points)
        if dataset["data"]:
            return columns
        for correction in self.corrections.values():
            columns |= cut_columns(correction["inputs"].values())
        return columns | {WEIGHT} | self.simulated_columns(dataset)

    def own_columns(self, working_points: WorkingPoints) -> set[str]:
        """The branches that are read beside those of leptons and triggers."""
        return set()

    def simulated_columns(self, dataset: Mapping[str, Any]) -> set[str]:
        """The branches that are read in simulation only, beside the weight and inputs of
        corrections."""
        return set()


def _sorted(value: Any) -> Any:
    """Nested mappings in the order of their keys."""
    return json.loads(canonical(value))
