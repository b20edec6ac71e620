"""What analyses of multilepton events declare, whatever they do with the events."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from looseleaf.errors import ConfigError
from looseleaf.objects.analysis import Analysis
from looseleaf.objects.expressions import Expression
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.needed_branches import JETS, MET

# what a channel's expression may use, beside the numbers of leptons by working point
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
    """An analysis with channels and observables of multilepton events.

    `working_points` are by collection: the `loose` and `tight` points of its leptons, and the
    `momentum` at which they count. The configuration sets them from the maps that are applied.
    """

    jets: Mapping[str, Any]
    channels: Mapping[str, Any]
    working_points: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def used_points(self) -> list[tuple[str, str]]:
        """The loose and tight working points of each collection."""
        return [
            (collection, roles[role])
            for collection, roles in self.working_points.items()
            for role in ("loose", "tight")
        ]

    def own_columns(self, working_points: WorkingPoints) -> set[str]:
        """The branches of jets, missing momentum and cone pT.

        Raises `ConfigError` for an expression that uses an unknown quantity.
        """
        columns = MET | JETS | {f"Jet_{self.jets['btag']['branch']}"}
        for collection, roles in self.working_points.items():
            if roles["momentum"] == "cone":
                columns |= working_points.cone_columns(collection, roles["tight"])
        for where, text in self.expressions():
            unknown = Expression(text).names - set(EVENT_QUANTITIES)
            if unknown:
                raise ConfigError(
                    f"{where}: {text!r} uses {sorted(unknown)[0]!r}, which is unknown; there are "
                    + ", ".join(EVENT_QUANTITIES)
                )
        return set(columns)

    def expressions(self) -> list[tuple[str, str]]:
        """The expressions over event quantities, each with its place in the file."""
        # a channel that isn't an expression has named cuts
        texts = [(f"channels.{n}", t) for n, t in self.channels.items() if isinstance(t, str)]
        return texts + [
            (f"observables.{name}.expression", value["expression"])
            for name, value in self.observables.items()
        ]
