"""Synthetic collision events, vectorised: the properties of each process.

The events are caricatures, with one exact property: a non-prompt lepton that passes the loose
working point passes the tight one with probability f(pT, |eta|), independently of all else. The
kinematics only have to fill every bin of an analysis with plausible numbers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Truth = Callable[[str, Array, Array], Array]

MASS_GEV = {"Muon": 0.10566, "Electron": 0.000511}
PDG_ID = {"Muon": 13, "Electron": 11}
# the end of the barrel
BARREL_ETA = 1.479
MAX_ETA = {"Muon": 2.4, "Electron": 2.5}
# the probability that a loose prompt lepton is tight
PROMPT_TIGHT = 0.93


@dataclass
class Objects:
    """Leptons or jets of many events in flat arrays; `event` is the index of each object's
    event."""

    event: Array
    pt: Array
    eta: Array
    phi: Array
    # charge and promptness of leptons; b-flavour of jets
    charge: Array
    prompt: Array

    @classmethod
    def of(
        cls, event: Array, pt: Array, eta: Array, phi: Array, charge: Any = 0, prompt: Any = 0
    ) -> Self:
        """Objects with these kinematics; the other fields are zero unless given."""
        size = len(event)
        return cls(
            event,
            pt.astype(np.float32),
            eta.astype(np.float32),
            wrap(phi).astype(np.float32),
            np.broadcast_to(np.asarray(charge, np.int32), size),
            np.broadcast_to(np.asarray(prompt, bool), size),
        )


@dataclass
class Events:
    """A batch of generated events: objects by collection, MET as a vector, weights."""

    size: int
    leptons: dict[str, list[Objects]] = field(default_factory=lambda: {"Muon": [], "Electron": []})
    jets: list[Objects] = field(default_factory=list)
    met_x: Array = field(default_factory=lambda: np.zeros(0))
    met_y: Array = field(default_factory=lambda: np.zeros(0))
    gen_weight: Array | None = None
    eft: Array | None = None
    ps_weight: Array | None = None


def wrap(phi: Array) -> Array:
    """Angles moved into [-pi, pi)."""
    return (phi + np.pi) % (2 * np.pi) - np.pi


def _eta(rng: np.random.Generator, size: int, largest: float) -> Array:
    return rng.uniform(-largest, largest, size)


def _phi(rng: np.random.Generator, size: int) -> Array:
    return rng.uniform(-np.pi, np.pi, size)


def _charge(rng: np.random.Generator, size: int) -> Array:
    return rng.choice(np.array([-1, 1], np.int32), size)


def _smear_met(rng: np.random.Generator, events: Events, sigma: float) -> None:
    events.met_x = events.met_x + rng.normal(0, sigma, events.size)
    events.met_y = events.met_y + rng.normal(0, sigma, events.size)


def _extra_jets(rng: np.random.Generator, events: Events, mean: float, b_fraction: float) -> None:
    index = np.repeat(np.arange(events.size), rng.poisson(mean, events.size))
    size = len(index)
    pt = 15 + rng.exponential(25, size)
    is_b = rng.random(size) < b_fraction
    events.jets.append(Objects.of(index, pt, _eta(rng, size, 4.7), _phi(rng, size), prompt=is_b))


def _non_prompt(rng: np.random.Generator, events: Events, flavour: str, probability: float) -> None:
    """Non-prompt leptons from heavy flavour, each inside a jet."""
    index = np.flatnonzero(rng.random(events.size) < probability)
    size = len(index)
    pt, eta, phi = 8 + rng.exponential(12, size), _eta(rng, size, MAX_ETA[flavour]), _phi(rng, size)
    events.leptons[flavour].append(Objects.of(index, pt, eta, phi, _charge(rng, size)))
    jet_pt = pt * (1.2 + rng.exponential(0.8, size))
    events.jets.append(Objects.of(index, jet_pt, eta, phi, prompt=True))


def qcd(rng: np.random.Generator, size: int, pthat: tuple[float, float], flavour: str) -> Events:
    """Dijet events of a pT-hat slice: a lepton in one jet, with the other jet opposite.

    pT-hat falls with its fourth power within the slice; the lepton takes a beta-distributed
    fraction of it, above 5 GeV (the enrichment).
    """
    low, high = pthat
    u = rng.random(size)
    hard = (low**-3 + u * (high**-3 - low**-3)) ** (-1 / 3)
    pt = 5 + (hard - 5) * rng.beta(1.4, 2.4, size)
    eta, phi = _eta(rng, size, 2.6), _phi(rng, size)
    everything = np.arange(size)
    events = Events(size)
    events.leptons[flavour].append(Objects.of(everything, pt, eta, phi, _charge(rng, size)))
    near = np.maximum(hard * rng.normal(1, 0.12, size), pt * 1.05)
    events.jets.append(
        Objects.of(
            everything,
            near,
            eta + rng.normal(0, 0.05, size),
            phi + rng.normal(0, 0.05, size),
            prompt=rng.random(size) < 0.5,
        )
    )
    away_eta = np.clip(eta + rng.normal(0, 1.2, size), -4.7, 4.7)
    events.jets.append(
        Objects.of(
            everything,
            hard * rng.normal(1.15, 0.2, size).clip(0.3),
            away_eta,
            phi + np.pi + rng.normal(0, 0.3, size),
            prompt=rng.random(size) < 0.3,
        )
    )
    _extra_jets(rng, events, 0.4, 0.03)
    _non_prompt(rng, events, flavour, 0.02)
    # the neutrino of the decay is collinear with the lepton
    neutrino = pt * rng.exponential(0.15, size)
    events.met_x, events.met_y = neutrino * np.cos(phi), neutrino * np.sin(phi)
    _smear_met(rng, events, 9)
    events.gen_weight = np.ones(size, np.float32)
    return events


def _signed_weights(rng: np.random.Generator, size: int, scale: float, negative: float) -> Array:
    """Weights of a next-to-leading-order generator: equal sizes, some of them negative."""
    return np.where(rng.random(size) < negative, -scale, scale).astype(np.float32)


def wjets(rng: np.random.Generator, size: int) -> Events:
    """W -> lepton neutrino with its Jacobian edge at 40 GeV, half muons, half electrons."""
    events = Events(size)
    cosine = rng.uniform(-1, 1, size)
    half = 0.5 * rng.normal(80.4, 2.1, size) * np.sqrt(1 - cosine**2)
    pt = np.maximum(half + rng.exponential(5, size) * rng.normal(0, 1, size), 1)
    phi, charge = _phi(rng, size), _charge(rng, size)
    is_muon = rng.random(size) < 0.5
    for flavour, chosen in (("Muon", is_muon), ("Electron", ~is_muon)):
        index = np.flatnonzero(chosen)
        eta = _eta(rng, len(index), MAX_ETA[flavour])
        events.leptons[flavour].append(
            Objects.of(index, pt[index], eta, phi[index], charge[index], prompt=True)
        )
    opposite = wrap(phi + np.pi + rng.normal(0, 0.15, size))
    events.met_x, events.met_y = half * np.cos(opposite), half * np.sin(opposite)
    _smear_met(rng, events, 8)
    _extra_jets(rng, events, 1.0, 0.02)
    for flavour in events.leptons:
        _non_prompt(rng, events, flavour, 0.03)
    events.gen_weight = _signed_weights(rng, size, 230.0, 0.16)
    return events


def dy(rng: np.random.Generator, size: int) -> Events:
    """Z -> two leptons of one flavour and opposite charge."""
    events = Events(size)
    cosine = rng.uniform(-1, 1, size)
    pt = np.maximum(0.5 * rng.normal(91.2, 3.0, size) * np.sqrt(1 - cosine**2), 1)
    phi, charge = _phi(rng, size), _charge(rng, size)
    is_muon = rng.random(size) < 0.5
    for flavour, chosen in (("Muon", is_muon), ("Electron", ~is_muon)):
        index = np.flatnonzero(chosen)
        for sign in (1, -1):
            eta = _eta(rng, len(index), MAX_ETA[flavour])
            angle = phi[index] + (0 if sign == 1 else np.pi) + rng.normal(0, 0.1, len(index))
            recoil = np.maximum(pt[index] + rng.normal(0, 3, len(index)), 1)
            events.leptons[flavour].append(
                Objects.of(index, recoil, eta, angle, sign * charge[index], prompt=True)
            )
    events.met_x, events.met_y = np.zeros(size), np.zeros(size)
    _smear_met(rng, events, 9)
    _extra_jets(rng, events, 0.8, 0.02)
    for flavour in events.leptons:
        _non_prompt(rng, events, flavour, 0.02)
    events.gen_weight = _signed_weights(rng, size, 1.8e4, 0.16)
    return events


def pairs(rng: np.random.Generator, size: int, resonant: bool) -> Events:
    """Two leptons of opposite charge: from a Z boson, or from its background.

    The Z boson's mass is Breit-Wigner, its decay isotropic, and momenta have a resolution of 1.5%.
    Pairs that aren't `resonant` have an exponentially falling mass, and one of their leptons isn't
    prompt.
    """
    events = Events(size)
    if resonant:
        mass = 91.19 + 1.25 * np.tan(rng.uniform(-1.5, 1.5, size))
    else:
        mass = 30 + rng.exponential(35, size)
    mass = np.clip(mass, 20, 400)
    # the boson's transverse mass, and the leptons' angles in its rest frame
    boson_pt, boson_phi, rapidity = (
        rng.exponential(15, size),
        _phi(rng, size),
        rng.normal(0, 1, size),
    )
    cosine, angle = rng.uniform(-1, 1, size), _phi(rng, size)
    sine = np.sqrt(1 - cosine**2)
    transverse = np.hypot(mass, boson_pt)
    beta = boson_pt / transverse
    gamma = transverse / mass
    charge, is_muon = _charge(rng, size), rng.random(size) < 0.5
    softer = rng.choice(np.array([-1, 1]), size)
    for sign in (1, -1):
        along, across, beam = (
            sign * mass / 2 * part for part in (sine * np.cos(angle), sine * np.sin(angle), cosine)
        )
        boosted = gamma * (along + beta * mass / 2)
        pt = np.hypot(boosted, across)
        phi = boson_phi + np.arctan2(across, boosted)
        eta = np.arcsinh(beam / pt) + rapidity
        pt = pt * rng.normal(1, 0.015, size)
        prompt = np.ones(size, bool) if resonant else softer != sign
        for flavour, of_flavour in (("Muon", is_muon), ("Electron", ~is_muon)):
            index = np.flatnonzero(of_flavour & (np.abs(eta) < MAX_ETA[flavour]))
            events.leptons[flavour].append(
                Objects.of(
                    index, pt[index], eta[index], phi[index], sign * charge[index], prompt[index]
                )
            )
    events.met_x, events.met_y = np.zeros(size), np.zeros(size)
    _smear_met(rng, events, 9)
    _extra_jets(rng, events, 0.8, 0.02)
    events.gen_weight = _signed_weights(rng, size, 1.8e4, 0.16 if resonant else 0.0)
    return events


def _prompt_leptons(
    rng: np.random.Generator, events: Events, index: Array, charge: Array, mean_pt: float
) -> None:
    size = len(index)
    pt, phi = 12 + rng.exponential(mean_pt, size), _phi(rng, size)
    is_muon = rng.random(size) < 0.5
    for flavour, chosen in (("Muon", is_muon), ("Electron", ~is_muon)):
        eta = _eta(rng, int(chosen.sum()), MAX_ETA[flavour])
        events.leptons[flavour].append(
            Objects.of(index[chosen], pt[chosen], eta, phi[chosen], charge[chosen], prompt=True)
        )


def _b_jets(rng: np.random.Generator, events: Events, number: int) -> None:
    index = np.repeat(np.arange(events.size), number)
    size = len(index)
    pt, eta, phi = 25 + rng.exponential(45, size), _eta(rng, size, 2.4), _phi(rng, size)
    events.jets.append(Objects.of(index, pt, eta, phi, prompt=True))


def ttbar(rng: np.random.Generator, size: int) -> Events:
    """Top pairs with two leptons of opposite charge, two b jets and two neutrinos."""
    events = Events(size)
    charge = _charge(rng, size)
    for sign in (1, -1):
        _prompt_leptons(rng, events, np.arange(size), sign * charge, 35)
    _b_jets(rng, events, 2)
    _extra_jets(rng, events, 1.5, 0.02)
    met, phi = rng.exponential(45, size) + 10, _phi(rng, size)
    events.met_x, events.met_y = met * np.cos(phi), met * np.sin(phi)
    _smear_met(rng, events, 12)
    for flavour in events.leptons:
        _non_prompt(rng, events, flavour, 0.06)
    events.gen_weight = _signed_weights(rng, size, 72.0, 0.004)
    return events


def eft(rng: np.random.Generator, size: int, coefficients: int) -> Events:
    """A ttH-like signal: two leptons of equal charge, or three, with b jets and EFT weights.

    The weight of an event is a positive quadratic in the Wilson coefficients c, s (1 + sum_i a_i
    c_i)^2 + s sum_i (b_i c_i)^2, where a and b grow with the jets' pT sum. Its terms are stored,
    lower triangular with c_0 = 1: 00, 10, 11, 20, 21, 22, ...
    """
    events = Events(size)
    charge = _charge(rng, size)
    everything = np.arange(size)
    for _ in range(2):
        _prompt_leptons(rng, events, everything, charge, 40)
    third = everything[rng.random(size) < 0.3]
    _prompt_leptons(rng, events, third, -charge[third], 30)
    _b_jets(rng, events, 2)
    _extra_jets(rng, events, 3.5, 0.05)
    met, phi = rng.exponential(50, size) + 10, _phi(rng, size)
    events.met_x, events.met_y = met * np.cos(phi), met * np.sin(phi)
    _smear_met(rng, events, 12)
    for flavour in events.leptons:
        _non_prompt(rng, events, flavour, 0.05)
    events.gen_weight = np.ones(size, np.float32)
    ht = np.zeros(size)
    for jets in events.jets:
        ht += np.bincount(jets.event, jets.pt, minlength=size)
    events.eft = eft_terms(rng, ht, coefficients)
    events.ps_weight = ps_weights(ht)
    return events


def ps_weights(ht: Array) -> Array:
    """Weights for twice and half the scale of initial- and final-state radiation.

    In NanoAOD's order (ISR up, FSR up, ISR down, FSR down), shape (events, 4), float32; ht in GeV.
    More initial-state radiation makes harder events, more final-state radiation softer ones.
    """
    harder = 0.2 * np.tanh((ht - 400) / 400)
    return np.stack([1 + harder, 1 - harder / 2, 1 - harder, 1 + harder / 2], axis=1).astype(
        np.float32
    )


def eft_terms(rng: np.random.Generator, ht: Array, coefficients: int) -> Array:
    """The terms of `eft`'s quadratic, shape (events, (n+1)(n+2)/2), float32; ht in GeV."""
    scale = rng.uniform(0.5, 1.5, len(ht)) * 1e-3
    hardness = ht / 500
    linear = [np.ones(len(ht))]
    square = [np.zeros(len(ht))]
    for index in range(coefficients):
        linear.append((0.30 - 0.18 * index) * (0.4 + hardness))
        square.append((0.10 + 0.04 * index) * hardness)
    terms = [
        (1 if i == j else 2) * linear[i] * linear[j] + (square[i] ** 2 if i == j else 0)
        for i in range(coefficients + 1)
        for j in range(i + 1)
    ]
    return (np.stack(terms, axis=1) * scale[:, None]).astype(np.float32)


def flipped(
    rng: np.random.Generator, electrons: Objects, probabilities: tuple[float, float]
) -> Array:
    """Charges with some of them wrong, with the probabilities of barrel and endcap."""
    barrel, endcap = probabilities
    wrong = rng.random(len(electrons.pt)) < np.where(
        np.abs(electrons.eta) < BARREL_ETA, barrel, endcap
    )
    return np.where(wrong, -electrons.charge, electrons.charge).astype(np.int32)


def quality(
    rng: np.random.Generator,
    leptons: Objects,
    flavour: str,
    truth: Truth,
    prompt_tight: float = PROMPT_TIGHT,
) -> Mapping[str, Array]:
    """Identification and isolation branches of leptons, by NanoAOD field name.

    Only here the truth is used: a non-prompt loose lepton becomes tight with probability
    `truth(flavour, pt, |eta|)`, a prompt one with `prompt_tight`.
    """
    size = len(leptons.pt)
    prompt = leptons.prompt
    identified = rng.random(size) < np.where(prompt, 0.98, 0.80)
    isolated = rng.random(size) < np.where(prompt, 0.995, 0.70)
    loose = identified & isolated
    of_non_prompt = truth(flavour, leptons.pt, np.abs(leptons.eta)).clip(0, 1)
    probability = np.where(prompt, prompt_tight, of_non_prompt)
    tight = loose & (rng.random(size) < probability)
    # a loose lepton that isn't tight fails its isolation, or its tight identification
    # if there is one
    by_id = (rng.random(size) < 0.5) & (flavour == "Muon")
    tight_cut = 0.155 if flavour == "Muon" else 0.115
    u = rng.random(size)
    iso = np.select(
        [tight, loose & by_id, loose, isolated],
        [u * tight_cut, u * 0.39, 0.165 + u * 0.22, u * 0.39],
        0.405 + 2 * u,
    )
    displaced = ~identified & (rng.random(size) < 0.7)
    sip = np.where(displaced, 4.05 + rng.exponential(4, size), rng.uniform(0, 3.9, size))
    sign = rng.choice(np.array([-1.0, 1.0]), size)
    fields = {
        "dxy": sign * np.where(displaced, 0.06 + 0.05 * u, 0.04 * u),
        "dz": sign * rng.uniform(0, 0.09, size),
        "sip3d": sip,
        "miniPFRelIso_all": iso,
        "pfRelIso03_all": iso * rng.uniform(0.9, 1.6, size),
        "jetRelIso": np.where(tight, 0.18 * u, rng.exponential(0.5, size)),
        "jetPtRelv2": rng.exponential(np.where(tight, 12.0, 4.0), size),
    }
    badly_made = ~identified & ~displaced
    if flavour == "Muon":
        fields |= {
            "ptErr": leptons.pt * np.where(badly_made, 0.25, 0.02),
            "looseId": np.ones(size, bool),
            "mediumId": ~badly_made,
            "tightId": tight | (~badly_made & ~(loose & by_id)),
            "tightCharge": np.full(size, 2, np.int32),
        }
    else:
        fields |= {
            "convVeto": ~badly_made,
            "lostHits": badly_made.astype(np.uint8),
            "deltaEtaSC": rng.normal(0, 0.01, size),
            "mvaFall17V2noIso_WPL": identified,
            "tightCharge": np.full(size, 2, np.int32),
        }
    return {
        name: value.astype(np.float32) if value.dtype == np.float64 else value
        for name, value in fields.items()
    }
