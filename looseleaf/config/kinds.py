"""The registry: all kinds of analysis by name. Nothing else outside a kind's package names it."""

from collections.abc import Mapping
from typing import Any

from looseleaf.application.declaration import Application
from looseleaf.config.kind import Kind
from looseleaf.efficiency.declaration import Efficiency
from looseleaf.fakerate.declaration import FakeRate
from looseleaf.flips.declaration import Flips
from looseleaf.objects.analysis import Analysis
from looseleaf.topcoffea.declaration import TopCoffea

KINDS: Mapping[str, Kind[Any]] = {
    kind.name: kind for kind in (FakeRate(), Application(), Flips(), Efficiency(), TopCoffea())
}


def kind_of(analysis: Analysis) -> Kind[Any]:
    """The kind of an analysis."""
    return KINDS[analysis.kind]


def stages() -> list[str]:
    """The targets that make the results of analyses, each once."""
    return list(dict.fromkeys(kind.stage for kind in KINDS.values()))
