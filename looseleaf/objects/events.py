"""What processors ask of NanoEvents: triggers, missing momentum, weights, transverse mass."""

from collections.abc import Mapping, Sequence
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from looseleaf.errors import ConfigError, DataFileError
from looseleaf.objects.expressions import Expression


class Branches:
    """NanoEvents by NanoAOD branch name, as cuts speak of them: `PV_npvs`, `MET_pt`, `nJet`."""

    def __init__(self, events: Any) -> None:
        self._events = events

    def __getitem__(self, name: str) -> Any:
        fields = self._events.fields
        collection, _, field = name.partition("_")
        if name in fields:
            return self._events[name]
        if field and collection in fields and field in self._events[collection].fields:
            return self._events[collection][field]
        if name[:1] == "n" and name[1:] in fields:
            return ak.num(self._events[name[1:]], axis=1)
        raise ConfigError(f"a cut speaks of {name!r}, which is no branch of these events")


def passing(events: Any, text: str) -> NDArray[np.bool_]:
    """Which events an expression over branches keeps.

    Raises `ConfigError` if it gives anything but one yes or no for each event.
    """
    value = Expression(text)(Branches(events))
    mask = ak.to_numpy(value) if getattr(value, "ndim", 0) == 1 else None
    if mask is None or mask.dtype != bool:
        raise ConfigError(f"the cut {text!r} should give a yes or no for each event")
    return mask


def met(events: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Magnitude [GeV] and angle of the missing momentum: MET, or PFMET from NanoAOD v15 on."""
    branch = events.MET if "MET" in events.fields else events.PFMET
    return ak.to_numpy(branch.pt).astype(np.float64), ak.to_numpy(branch.phi).astype(np.float64)


def fired(events: Any, paths: Sequence[str]) -> NDArray[np.bool_]:
    """Whether any of the HLT paths that the file has fired.

    Raises `DataFileError` if it has none of them.
    """
    fields = events.HLT.fields if "HLT" in events.fields else []
    there = [path.removeprefix("HLT_") for path in paths if path.removeprefix("HLT_") in fields]
    if not there:
        raise DataFileError(f"none of {', '.join(paths)} is among the events' HLT paths")
    return np.any([ak.to_numpy(events.HLT[path]) for path in there], axis=0)


def recorded(events: Any, triggers: Sequence[Mapping[str, Any]]) -> NDArray[np.bool_]:
    """Whether any path of any trigger of an analysis fired; every event, where it has none."""
    if not triggers:
        return np.ones(len(events), bool)
    return np.logical_or.reduce([fired(events, trigger["paths"]) for trigger in triggers])


def weights(events: Any) -> NDArray[np.float64]:
    """genWeight, or one for each event of data."""
    if "genWeight" in events.fields:
        return ak.to_numpy(events.genWeight).astype(np.float64)
    return np.ones(len(events))


def transverse_mass(pt: Any, phi: Any, met_pt: Any, met_phi: Any) -> Any:
    """sqrt(2 pT MET (1 - cos dphi)) in GeV."""
    return np.sqrt(2 * pt * met_pt * (1 - np.cos(phi - met_phi)))
