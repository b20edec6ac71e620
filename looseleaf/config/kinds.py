"""The kinds of analysis by name: the one place, beside a kind's own package, that knows of it."""

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
    return KINDS[analysis.kind]


def stages() -> list[str]:
    """The targets that make analyses' results, each once."""
    return list(dict.fromkeys(kind.stage for kind in KINDS.values()))
