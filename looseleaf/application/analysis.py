"""What an analysis that applies measured rates declares, and the branches that it reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from looseleaf.objects.multilepton_analysis import MultileptonAnalysis


@dataclass(frozen=True, kw_only=True)
class ApplicationAnalysis(MultileptonAnalysis):
    """Events with non-prompt leptons: predicted from maps, by collection, and observed.

    Observed data is left out unless the analysis is unblinded.
    """

    kind = "application"
    AFTERWARDS = ("title", "lumi_ifb")
    ORDERED = ("maps", "working_points", "channels", "observables", "corrections", "datasets")

    maps: Mapping[str, str]
    # larger rates are lowered to this
    cap: float
    lumi_ifb: float | None = None
    unblind: bool = True

    def role_of(self, dataset: str) -> str:
        """The group that a dataset is in: predict, observe or prompt."""
        return next(group for group, names in self.datasets.items() if dataset in names)

    def metadata(self, name: str, dataset: Mapping[str, Any]) -> dict[str, Any]:
        """The role of a dataset."""
        return {"role": self.role_of(name)}

    def simulated_columns(self, dataset: Mapping[str, Any]) -> set[str]:
        """The branches with the origins of leptons."""
        return {f"{collection}_genPartFlav" for collection in self.maps}
