"""What processors compute from branches: triggers, missing momentum, weights, transverse mass."""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, Literal, Self

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from looseleaf.errors import ConfigError, DataFileError
from looseleaf.objects.branches import WEIGHT
from looseleaf.objects.chunk import Branches
from looseleaf.objects.evaluation import Undecided, as_floats
from looseleaf.objects.expressions import Expression
from looseleaf.objects.flat import Flat
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.loops import farther, largest, places_of

# genPartFlav of a prompt lepton, and of one from a prompt tau
PROMPT, PROMPT_TAU = 1, 15
_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")


class Selection:
    """Selected leptons of events, in flat arrays with one entry for each.

    `index` are their places among the `leptons` of all events, `event` their events.
    """

    def __init__(
        self,
        branches: Branches,
        leptons: Flat,
        index: NDArray[np.int64],
        event: NDArray[np.int64],
    ) -> None:
        self._branches, self._leptons, self.index, self.event = branches, leptons, index, event

    @classmethod
    def of(
        cls,
        branches: Branches,
        leptons: Flat,
        chosen: NDArray[np.bool_],
        among: NDArray[np.bool_] | None = None,
    ) -> Self:
        """The leptons that are chosen, in all events or `among` some."""
        among = np.ones(leptons.events, bool) if among is None else among
        return cls(branches, leptons, *places_of(leptons.offsets, chosen, among))

    @property
    def size(self) -> int:
        """The number of selected leptons."""
        return len(self.index)

    def take(self, values: NDArray[Any]) -> NDArray[Any]:
        """For each selected lepton, its value of those of all leptons."""
        return values[self.index]

    def narrowed(self, chosen: NDArray[np.int64]) -> "Selection":
        """Some of the selected leptons, by their places among these."""
        return Selection(self._branches, self._leptons, self.index[chosen], self.event[chosen])

    def pairs(self, others: "Selection") -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Each of these with each of `others` in its event: the places of both among the
        selected."""
        begin, end = (np.searchsorted(others.event, self.event, side) for side in _SIDES)
        number = end - begin
        one = np.repeat(np.arange(self.size), number)
        # the others of an event in turn, from the first to the last
        other = np.arange(len(one)) + np.repeat(end - np.cumsum(number), number)
        return one, other

    def distant(self, others: "Selection", dr_min: float) -> NDArray[np.bool_]:
        """Which of `others`, such as jets, are farther than `dr_min` from all leptons of their
        event."""
        directions, other_directions = (
            (leptons["eta"], leptons["phi"]) for leptons in (self._leptons, others._leptons)
        )
        return farther(
            self.event, self.index, directions,
            others.event, others.index, other_directions, dr_min,
        )  # fmt: skip

    def largest(self, name: str, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
        """The largest value of a field in each event among the chosen ones of these, 0 if there is
        none; NaN counts if there is nothing else."""
        values, events = self._leptons[name], self._leptons.events
        return largest(self.event, self.index, values, chosen, events)

    def column(self, text: str) -> NDArray[np.float64]:
        """An expression over branches of the event (`PV_npvs`) or of the lepton (`Muon_pt`).

        The result is NaN where it has no value.
        """
        values = Expression(text)(self._branches)
        if getattr(values, "ndim", 0) == 0:
            return np.full(self.size, float(values))
        if values.ndim > 1 and not self._is_of_leptons(values):
            raise ConfigError(
                f"{text!r} should give one number for each event, or for each selected lepton"
            )
        return self._floats(values)

    def observable(
        self, name: str, text: str, undecided: Undecided, among: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """An observable for each lepton, as `column`, with its values counted that aren't finite.

        They are counted `among` the leptons with a weight; not if there is no value (as for an
        empty list), or if a branch isn't finite.
        """
        values, branches = self.column(text), self._branches
        expression = Expression(text)
        if not np.isfinite(values).all():
            unfilled = expression(branches)
            if np.ndim(unfilled) == 0:
                raise ConfigError(f"{name}: {text!r} is the same for every lepton, and not finite")
            missing = self._floats(ak.is_none(unfilled, axis=-1)) > 0
            known = {name: self._floats(branches[name]) for name in expression.names}
            undecided.check(name, expression, known, values, among & ~missing, "leptons")
        return values

    def _is_of_leptons(self, values: Any) -> bool:
        return np.array_equal(ak.num(values, axis=1), self._leptons.counts)

    def _floats(self, values: Any) -> NDArray[np.float64]:
        """Values for the selected leptons; of any other list in an event, its sum."""
        if values.ndim == 1:
            return as_floats(values)[self.event]
        if not self._is_of_leptons(values):
            return as_floats(ak.sum(values, axis=1))[self.event]
        return as_floats(ak.flatten(values))[self.index]


def met(branches: Branches) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Magnitude [GeV] and angle of the missing momentum."""
    pt, phi = (branches.numbers(name).astype(np.float64) for name in ("MET_pt", "MET_phi"))
    return pt, phi


def fired(branches: Branches, paths: Sequence[str]) -> NDArray[np.bool_]:
    """Whether any of the HLT paths has fired, of those that the file has.

    Raises `DataFileError` if it has none of them.
    """
    named = [f"HLT_{path.removeprefix('HLT_')}" for path in paths]
    present = [path for path in named if path in branches]
    if not present:
        raise DataFileError(f"the events have none of the HLT paths {', '.join(paths)}")
    each = [branches.numbers(path) for path in present]
    any_path: NDArray[np.bool_] = reduce(np.logical_or, each)
    return any_path


def recorded(branches: Branches, triggers: Sequence[Mapping[str, Any]]) -> NDArray[np.bool_]:
    """Whether an event passes the triggers of an analysis; all do if it has none.

    If triggers name primary datasets, several datasets may hold the same event of data. It then
    counts only in a primary dataset of the first trigger that fired.
    """
    if not triggers:
        return np.ones(len(branches), bool)
    each = np.array([fired(branches, trigger["paths"]) for trigger in triggers])
    any_trigger: NDArray[np.bool_] = np.logical_or.reduce(each)
    if not branches.metadata["data"] or "primary" not in triggers[0]:
        return any_trigger
    primaries = set(branches.metadata["primary"])
    takes = np.array([not primaries.isdisjoint(trigger["primary"]) for trigger in triggers])
    own: NDArray[np.bool_] = takes[each.argmax(axis=0)]
    return any_trigger & own


def weights(branches: Branches) -> NDArray[np.float64]:
    """genWeight, or one for each event of data."""
    if WEIGHT in branches:
        return branches.numbers(WEIGHT).astype(np.float64)
    return np.ones(len(branches))


def counted_momentum(
    working_points: WorkingPoints,
    collection: str,
    roles: Mapping[str, str],
    leptons: Any,
    loose: Any,
    tight: Any,
    undecided: Undecided,
) -> Any:
    """The pT [GeV] at which leptons count, flat if these are `Flat`, and else jagged.

    `roles` has the `tight` working point and the `momentum` of leptons that fail it: their own pT
    (`raw`), or the `cone_pt` that the working point declares (`cone`). `undecided` counts the
    `loose` ones that have no such momentum.
    """
    if roles["momentum"] == "raw":
        return leptons["pt"]
    failing = loose & ~tight
    cone_pt = working_points.cone_pt(collection, roles["tight"], leptons, failing, undecided)
    where = np.where if isinstance(leptons, Flat) else ak.where
    return where(tight, leptons["pt"], cone_pt)


def is_prompt(leptons: Any) -> Any:
    """Which simulated leptons are prompt, or come from a prompt tau."""
    flavour = leptons["genPartFlav"]
    return (flavour == PROMPT) | (flavour == PROMPT_TAU)


def loose_leptons(
    working_points: WorkingPoints,
    collection: str,
    roles: Mapping[str, str],
    leptons: Any,
    undecided: Undecided,
) -> tuple[Any, Any, Any]:
    """The loose leptons of a collection, and masks of all its leptons: loose, and also tight.

    Each loose lepton has whether it is `tight`; one that isn't has the momentum at which it counts
    in a map. `roles` names the working points `loose` and `tight` and the `momentum`.
    """
    loose = working_points.passes(collection, roles["loose"], leptons, undecided)
    tight = working_points.passes(collection, roles["tight"], leptons, undecided) & loose
    selected = leptons[loose]
    selected["tight"] = tight[loose]
    selected["pt"] = counted_momentum(
        working_points, collection, roles, selected, loose[loose], selected.tight, undecided
    )
    return selected, loose, tight


def transverse_mass(pt: Any, phi: Any, met_pt: Any, met_phi: Any) -> Any:
    """sqrt(2 pT MET (1 - cos dphi)) in GeV."""
    return np.sqrt(2 * pt * met_pt * (1 - np.cos(phi - met_phi)))
