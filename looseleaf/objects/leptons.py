"""Lepton working points: named sets of cuts, declared in YAML, that can build on each other."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from looseleaf.errors import ConfigError
from looseleaf.objects.expressions import Expression

if TYPE_CHECKING:
    from looseleaf.objects.evaluation import Undecided

# the key of a working point for the momentum of leptons that fail it
CONE_PT = "cone_pt"


class WorkingPoints:
    """The working points by collection and name, as in config/working_points.yaml.

    A working point is a list of expressions over the collection's NanoAOD fields (`pt`, `dxy`).
    `like: other` takes another point's cuts first, so `tight` like `loose` is a subset of it.
    `cone_pt` of a point is the momentum [GeV] at which a loose lepton counts that fails the point.

    Raises `ConfigError` for a point that builds on an unknown one or on itself.
    """

    def __init__(self, declared: Mapping[str, Mapping[str, Any]], file: str = "") -> None:
        self._declared, self._file = declared, file
        self._cuts = {
            (collection, name): [Expression(cut) for cut in self._unfold(collection, name, ())]
            for collection, points in declared.items()
            for name in points
        }
        self._cone_pts = {
            (collection, name): Expression(point[CONE_PT])
            for collection, points in declared.items()
            for name, point in points.items()
            if CONE_PT in point
        }

    def _unfold(self, collection: str, name: str, seen: tuple[str, ...]) -> list[str]:
        if name in seen:
            raise ConfigError(
                f"{self._file}: {collection}.{name} builds on itself ({' -> '.join(seen)})"
            )
        points = self._declared.get(collection, {})
        if name not in points:
            near = difflib.get_close_matches(name, points, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(points)}"
            raise ConfigError(f"{self._file}: no working point {collection}.{name}{hint}")
        point = points[name]
        below = self._unfold(collection, point["like"], (*seen, name)) if "like" in point else []
        cuts: list[str] = point["cuts"]
        return below + cuts

    def cuts(self, collection: str, name: str) -> list[Expression]:
        """The cuts of a working point, those that it builds on first."""
        if (collection, name) not in self._cuts:
            self._unfold(collection, name, ())
        return self._cuts[collection, name]

    def columns(self, collection: str, name: str) -> set[str]:
        """The NanoAOD branches that a working point reads."""
        fields = set().union(*[cut.names for cut in self.cuts(collection, name)])
        return {f"{collection}_{field}" for field in fields}

    def cone_columns(self, collection: str, name: str) -> set[str]:
        """The NanoAOD branches that a point's `cone_pt` reads."""
        return {f"{collection}_{field}" for field in self._cone(collection, name).names}

    def cone_pt(
        self, collection: str, name: str, objects: Any, among: Any, undecided: "Undecided"
    ) -> Any:
        """The pT [GeV] at which loose leptons count that fail a working point.

        It is flat if the objects are `Flat`, as the mask `among` is then, and else jagged. Raises
        `DataFileError` if it isn't finite for a lepton in `among`, unless
        `undecided` may count it as `<collection>.<point>.cone_pt`.
        """
        expression = self._cone(collection, name)
        pt = expression(objects)
        which = f"{collection}.{name}.{CONE_PT}"
        undecided.check(which, expression, objects, pt, among, "leptons")
        return pt

    def _cone(self, collection: str, name: str) -> Expression:
        if (collection, name) not in self._cone_pts:
            raise ConfigError(
                f"{self._file}: {collection}.{name} needs a cone_pt, because an analysis says "
                "momentum: cone"
            )
        return self._cone_pts[collection, name]

    def passes(
        self, collection: str, name: str, objects: Any, undecided: "Undecided | None" = None
    ) -> Any:
        """A mask of the objects that pass a working point.

        It is jagged for a NanoEvents collection, and flat for one as `Flat`.

        Raises `ConfigError` for a cut that doesn't give a yes or no, and `DataFileError` for
        objects on which it can't be decided, unless `undecided` may count them.
        """
        # imported late: the graph is parsed with this module, and only jobs evaluate
        from looseleaf.objects.evaluation import REFUSING  # noqa: PLC0415

        counter = REFUSING if undecided is None else undecided
        return counter.passes(f"{collection}.{name}", self.cuts(collection, name), objects)

    def behind(self, used: Iterable[tuple[str, str]]) -> dict[str, dict[str, Any]]:
        """The declarations of working points, (collection, name), and of those that they build
        on."""
        by_collection: dict[str, dict[str, Any]] = {}
        for collection, name in used:
            point: str | None = name
            while point is not None:
                declared = self._declared[collection][point]
                by_collection.setdefault(collection, {})[point] = declared
                point = declared.get("like")
        return by_collection

    def to_json(self) -> Mapping[str, Any]:
        """The declarations of all working points."""
        return self._declared
