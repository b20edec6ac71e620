"""What analyses of events with several leptons declare, whatever is made of these events."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from looseleaf.errors import ConfigError
from looseleaf.objects.analysis import Analysis
from looseleaf.objects.expressions import Expression
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.needed_branches import JETS, MET

# what a channel's expression may speak of, beside the working points' counts
EVENT_QUANTITIES = (
    "n_lep",
    "n_mu",
    "n_ele",
    "charge",
    "n_jet",
    "n_bjet",
    "ht",
    "met",
    "lep0_pt",
    "lep1_pt",
    "lep0_mt",
    "lep2_pt",
    "lep0_charge",
    "m_z",
)


@dataclass(frozen=True, kw_only=True)
class MultileptonAnalysis(Analysis):
    """Channels and observables of events with several leptons.

    `working_points` are by collection: the `loose` and `tight` points of its leptons, and the
    `momentum` at which they count. The configuration sets them, after the maps that are applied.
    """

    jets: Mapping[str, Any]
    channels: Mapping[str, Any]
    working_points: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def used_points(self) -> list[tuple[str, str]]:
        return [
            (collection, roles[role])
            for collection, roles in self.working_points.items()
            for role in ("loose", "tight")
        ]

    def own_columns(self, points: WorkingPoints) -> set[str]:
        """Raises `ConfigError` for expressions that speak of unknown quantities."""
        columns = MET | JETS | {f"Jet_{self.jets['btag']['branch']}"}
        for collection, roles in self.working_points.items():
            if roles["momentum"] == "cone":
                columns |= points.cone_columns(collection, roles["tight"])
        for where, text in self.expressions():
            unknown = Expression(text).names - set(EVENT_QUANTITIES)
            if unknown:
                raise ConfigError(
                    f"{where}: {text!r} speaks of {sorted(unknown)[0]!r}; known are "
                    + ", ".join(EVENT_QUANTITIES)
                )
        return set(columns)

    def expressions(self) -> list[tuple[str, str]]:
        """The expressions over quantities of the event, with their places in the file."""
        # a channel that isn't an expression is made of named cuts
        texts = [(f"channels.{n}", t) for n, t in self.channels.items() if isinstance(t, str)]
        return texts + [
            (f"observables.{name}.expression", value["expression"])
            for name, value in self.observables.items()
        ]
