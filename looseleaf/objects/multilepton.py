"""The event quantities that multilepton channels and observables may use."""

from collections.abc import Mapping
from copy import copy
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from looseleaf.objects.chunk import Branches
from looseleaf.objects.events import Selection, met, transverse_mass
from looseleaf.objects.flat import Flat

LEPTON_FIELDS = ("pt", "eta", "phi", "charge")
# of the event quantities, those that depend on the energy of jets
JET_QUANTITIES = frozenset({"n_jet", "n_bjet", "ht"})
Z_MASS_GEV = 91.19


def merged(chosen: Mapping[str, Any], fields: tuple[str, ...] = LEPTON_FIELDS) -> Any:
    """The leptons of all collections as one jagged array of records, in falling order of pT."""
    parts = [ak.zip({field: leptons[field] for field in fields}) for leptons in chosen.values()]
    leptons = ak.concatenate(parts, axis=1)
    return leptons[ak.argsort(leptons.pt, axis=1, ascending=False)]


def lepton_quantities(
    branches: Branches,
    chosen: Mapping[str, Any],
    leptons: Any,
    with_z: NDArray[np.bool_] | None = None,
) -> dict[str, NDArray[Any]]:
    """One number for each event, by the names in `multilepton_analysis.EVENT_QUANTITIES`.

    `chosen` has the selected leptons by collection, `leptons` those of all collections as `merged`.
    Momenta and masses are in GeV; a missing lepton has pT and charge 0. `lep0_mt` is the transverse
    mass of the hardest lepton and the missing momentum. `m_z` is the mass of the two leptons of the
    same flavour and opposite charges that is nearest to the Z boson's. Both are 0 if the leptons
    are missing. `m_z` takes longest, and is computed for the events `with_z` only, by default all.
    """
    pt = ak.fill_none(ak.pad_none(leptons.pt, 3, clip=True), 0.0)
    first_charge = ak.fill_none(ak.firsts(leptons.charge), 0)
    met_pt, met_phi = met(branches)
    mt = ak.fill_none(ak.firsts(transverse_mass(leptons.pt, leptons.phi, met_pt, met_phi)), 0.0)
    zero = np.zeros(len(branches), np.int64)
    numbers = {
        collection: ak.to_numpy(ak.num(objects, axis=1)) for collection, objects in chosen.items()
    }
    return {
        "n_lep": ak.to_numpy(ak.num(leptons, axis=1)),
        "n_mu": numbers.get("Muon", zero),
        "n_ele": numbers.get("Electron", zero),
        "charge": ak.to_numpy(ak.sum(leptons.charge, axis=1)),
        "met": met_pt,
        "lep0_pt": ak.to_numpy(pt[:, 0]),
        "lep1_pt": ak.to_numpy(pt[:, 1]),
        "lep0_mt": ak.to_numpy(mt),
        "lep2_pt": ak.to_numpy(pt[:, 2]),
        "lep0_charge": ak.to_numpy(first_charge),
        "m_z": _z_mass(chosen, np.ones(len(branches), bool) if with_z is None else with_z),
    }


class SelectedJets:
    """The jets of events that are away from the selected leptons, at any energy.

    `chosen` has the leptons by collection, `declared` the selection of jets (`pt_min` [GeV],
    `abs_eta_max`, `dr_min` from the leptons, `btag`). Only events `among` these have jets here, by
    default all.
    """

    def __init__(
        self,
        branches: Branches,
        chosen: Mapping[str, Any],
        declared: Mapping[str, Any],
        among: NDArray[np.bool_] | None = None,
    ) -> None:
        jets, self._pt_min = branches.objects("Jet"), declared["pt_min"]
        central = np.abs(jets["eta"]) < declared["abs_eta_max"]
        selected = Selection.of(branches, jets, central, among)
        away = np.ones(selected.size, bool)
        for leptons in map(Flat, chosen.values()):
            every = Selection.of(branches, leptons, np.ones(len(leptons), bool), among)
            away &= every.distant(selected, declared["dr_min"])
        selected = selected.narrowed(np.flatnonzero(away))
        b_tag = jets[declared["btag"]["branch"]] > declared["btag"]["min"]
        self._event, self._events = selected.event, jets.events
        self._pt, self._b_tag = selected.take(jets["pt"]), selected.take(b_tag)

    def of_events(self, places: NDArray[np.int64]) -> "SelectedJets":
        """The jets of some events, in rising order."""
        narrowed = copy(self)
        new = np.full(self._events, -1)
        new[places] = np.arange(len(places))
        jets = np.flatnonzero(new[self._event] >= 0)
        narrowed._event, narrowed._events = new[self._event[jets]], len(places)
        narrowed._pt, narrowed._b_tag = self._pt[jets], self._b_tag[jets]
        return narrowed

    def quantities(self, scale: float = 1.0) -> dict[str, NDArray[Any]]:
        """The numbers of jets and b-tagged jets, and the sum of their pT [GeV], for each event, if
        jets have `scale` times their energy."""
        pt = self._pt * scale
        hard = np.flatnonzero(pt > self._pt_min)
        event, pt = self._event[hard], pt[hard]
        # in the precision of pT, jet by jet
        ht = np.zeros(self._events, pt.dtype)
        np.add.at(ht, event, pt)
        return {
            "n_jet": np.bincount(event, minlength=self._events),
            "n_bjet": np.bincount(event[self._b_tag[hard]], minlength=self._events),
            "ht": ht,
        }


def _z_mass(chosen: Mapping[str, Any], among: NDArray[np.bool_]) -> NDArray[np.float64]:
    of_event = np.zeros(len(among))
    numbers = [ak.to_numpy(ak.num(leptons, axis=1)) for leptons in chosen.values()]
    several = np.flatnonzero((np.max(numbers, axis=0) > 1) & among)
    if not len(several):
        return of_event
    masses = []
    for leptons in chosen.values():
        pair = ak.combinations(leptons[several], 2, fields=["a", "b"])
        pair = pair[pair.a.charge != pair.b.charge]
        masses.append((pair.a + pair.b).mass)
    mass = ak.concatenate(masses, axis=1)
    nearest = ak.argmin(abs(mass - Z_MASS_GEV), axis=1, keepdims=True)
    of_event[several] = ak.to_numpy(ak.fill_none(ak.firsts(mass[nearest]), 0.0))
    return of_event
