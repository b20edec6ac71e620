"""What an analysis that applies measured rates declares, and the branches that it reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from looseleaf.objects.multilepton_analysis import MultileptonAnalysis


@dataclass(frozen=True, kw_only=True)
class ApplicationAnalysis(MultileptonAnalysis):
    """Events with non-prompt leptons: predicted by the maps, by collection, and observed.

    What is observed in data is left out unless the analysis is unblinded.
    """

    kind = "application"
    AFTERWARDS = ("title", "lumi_ifb")
    ORDERED = ("maps", "working_points", "channels", "observables", "corrections", "datasets")

    maps: Mapping[str, str]
    # rates above it count as much
    cap: float
    lumi_ifb: float | None = None
    unblind: bool = True

    def role_of(self, dataset: str) -> str:
        """The group that a dataset stands in: predict, observe, prompt."""
        return next(group for group, names in self.datasets.items() if dataset in names)

    def metadata(self, name: str, dataset: Mapping[str, Any]) -> dict[str, Any]:
        return {"role": self.role_of(name)}

    def simulated_columns(self, dataset: Mapping[str, Any]) -> set[str]:
        return {f"{collection}_genPartFlav" for collection in self.maps}
