"""The event quantities that multilepton channels and observables may use."""

from collections.abc import Mapping
from typing import Any

import awkward as ak
import numpy as np
from numpy.typing import NDArray

from looseleaf.objects.events import met, transverse_mass

LEPTON_FIELDS = ("pt", "eta", "phi", "charge")
Z_MASS_GEV = 91.19


def merged(chosen: Mapping[str, Any], fields: tuple[str, ...] = LEPTON_FIELDS) -> Any:
    """The leptons of all collections as one jagged array of records, in falling order of pT."""
    parts = [ak.zip({field: leptons[field] for field in fields}) for leptons in chosen.values()]
    leptons = ak.concatenate(parts, axis=1)
    return leptons[ak.argsort(leptons.pt, axis=1, ascending=False)]


def event_quantities(
    events: Any, chosen: Mapping[str, Any], jets: Mapping[str, Any]
) -> dict[str, NDArray[Any]]:
    """One number for each event, by the names in `multilepton_analysis.EVENT_QUANTITIES`.

    `chosen` has the selected leptons by collection, `jets` the selection of jets (`pt_min` [GeV],
    `abs_eta_max`, `dr_min` from the leptons, `btag`). pT sums, momenta and masses are in GeV; a
    missing lepton has pT and charge 0. `lep0_mt` is the transverse mass of the hardest lepton and
    the missing momentum. `m_z` is the mass of the two leptons of the same flavour and opposite
    charges that is nearest to the Z boson's. Both are 0 if the leptons are missing.
    """
    leptons = merged(chosen)
    selected = events.Jet
    selected = selected[(selected.pt > jets["pt_min"]) & (abs(selected.eta) < jets["abs_eta_max"])]
    for collection in chosen.values():
        selected = selected[ak.all(selected.metric_table(collection) > jets["dr_min"], axis=2)]
    b_tag = selected[jets["btag"]["branch"]] > jets["btag"]["min"]
    pt = ak.fill_none(ak.pad_none(leptons.pt, 3, clip=True), 0.0)
    first_charge = ak.fill_none(ak.firsts(leptons.charge), 0)
    met_pt, met_phi = met(events)
    mt = ak.fill_none(ak.firsts(transverse_mass(leptons.pt, leptons.phi, met_pt, met_phi)), 0.0)
    zero = np.zeros(len(events), np.int64)
    numbers = {
        collection: ak.to_numpy(ak.num(objects, axis=1)) for collection, objects in chosen.items()
    }
    return {
        "n_lep": ak.to_numpy(ak.num(leptons, axis=1)),
        "n_mu": numbers.get("Muon", zero),
        "n_ele": numbers.get("Electron", zero),
        "charge": ak.to_numpy(ak.sum(leptons.charge, axis=1)),
        "n_jet": ak.to_numpy(ak.num(selected, axis=1)),
        "n_bjet": ak.to_numpy(ak.sum(b_tag, axis=1)),
        "ht": ak.to_numpy(ak.sum(selected.pt, axis=1)),
        "met": met_pt,
        "lep0_pt": ak.to_numpy(pt[:, 0]),
        "lep1_pt": ak.to_numpy(pt[:, 1]),
        "lep0_mt": ak.to_numpy(mt),
        "lep2_pt": ak.to_numpy(pt[:, 2]),
        "lep0_charge": ak.to_numpy(first_charge),
        "m_z": _z_mass(chosen),
    }


def _z_mass(chosen: Mapping[str, Any]) -> NDArray[np.float64]:
    masses = []
    for leptons in chosen.values():
        pair = ak.combinations(leptons, 2, fields=["a", "b"])
        pair = pair[pair.a.charge != pair.b.charge]
        masses.append((pair.a + pair.b).mass)
    mass = ak.concatenate(masses, axis=1)
    nearest = ak.argmin(abs(mass - Z_MASS_GEV), axis=1, keepdims=True)
    of_event: NDArray[Any] = ak.to_numpy(ak.fill_none(ak.firsts(mass[nearest]), 0.0))
    return of_event.astype(np.float64)
