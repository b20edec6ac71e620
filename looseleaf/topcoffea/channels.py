"""Channels: each is a cut as an expression, or one of TopEFT's blocks of lists.

A block is multiplied out: each combination of a lepton channel (a name and names of cuts), flavours
and a number of jets is a channel. Regions are named as in TopEFT:

- `isSR_2lSS`, `isSR_3l`: that number of leptons, all tight, two of them with the same charge (`SS`)
  or with opposite charges (`OS`);
- `isAR_2lSS`, `isAR_3l`: the same, with at least one lepton that fails the tight selection;
- `isAR_2lSS_OS`: two tight leptons of opposite charges, to predict charge flips. If a channel has
  it, simulated electrons in `isSR_2lSS` must have the charge of their generated electron.

Read while the graph is parsed, so nothing heavy is imported here.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from looseleaf.errors import ConfigError

SIGNAL, NONPROMPT, FLIPS, DATA = "signal", "nonprompt", "flips", "data"
# systematics of measured rates: charge flips, the statistics of a map, its other variations
FLIPS_RATE = "flips_rate"
# each map is measured separately, and has a nuisance of its own
NONPROMPT_RATE = "nonprompt_rate_{map}"
OF_A_MAP = "nonprompt_{collection}_{name}"
REGION = re.compile(r"is(?P<kind>[SA]R)_(?P<number>[1-4])l(?P<sign>SS_OS|SS|OS)?")
JETS = re.compile(r"(?P<relation>[=<>])(?P<number>\d+)")
# TopEFT's > and < include the number: >7 follows =4, =5, =6
RELATIONS = {"=": ("==", ""), ">": (">=", "ge"), "<": ("<=", "le")}
FLAVOUR = re.compile(r"[eml]+")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Region:
    """A region of a channel: the events that pass `cut`, filled as `role`.

    Their leptons are all tight (`tight`), or at least one fails the tight selection. `data_only`
    regions aren't filled from simulation. If charge flips are `predicted` from data, simulated
    events with a flipped charge aren't filled.
    """

    role: str
    cut: str
    tight: bool
    data_only: bool = False
    predicted: bool = False


@dataclass(frozen=True)
class Channel:
    """A channel's cuts, all of which an event has to pass, and its regions."""

    cuts: tuple[str, ...]
    regions: tuple[Region, ...]


def channels_of(
    declared: Mapping[str, Any], cuts: Mapping[str, str] | None = None
) -> dict[str, Channel]:
    """The declared channels by name, with blocks multiplied out: `2lss_p_ee_4j`. `cuts` are by
    name.

    Raises `ConfigError` naming the key for an undefined cut, an unknown region, flavour or number
    of jets, a name that can't be used in files, and two channels with the same name.
    """
    channels: dict[str, Channel] = {}
    for name, cut in declared.items():
        if isinstance(cut, str):
            regions = (Region(SIGNAL, "", True), Region(NONPROMPT, "", False))
            multiplied = {name: Channel((cut,), regions)}
        else:
            multiplied = _block(name, cut, cuts or {})
        for channel, value in multiplied.items():
            if channel in channels:
                raise ConfigError(f"channels.{name}: the channel {channel!r} is declared twice")
            channels[channel] = value
    return channels


def weighed_alone(systematic: str) -> str | None:
    """The region whose events a variation of measured rates changes; None for other variations."""
    name = systematic.removesuffix("Up").removesuffix("Down")
    if name.startswith(FLIPS_RATE):
        return FLIPS
    starts = [OF_A_MAP.format(collection=c, name="") for c in ("Muon", "Electron")]
    return NONPROMPT if name.startswith((NONPROMPT_RATE.format(map=""), *starts)) else None


def flips_nuisance(flips: Mapping[str, Any]) -> str:
    """The nuisance of an analysis' charge flips; each map that is measured here has its own."""
    return f"{FLIPS_RATE}_{flips['map']}" if "map" in flips else FLIPS_RATE


def _block(name: str, block: Mapping[str, Any], cuts: Mapping[str, str]) -> dict[str, Channel]:
    where = f"channels.{name}"
    regions = _regions(where, block)
    _once(f"{where}.jet_lst", block.get("jet_lst", []))
    channels = {}
    for channel, *named in block["lep_chan_lst"]:
        chosen = [_named(f"{where}.lep_chan_lst", channel, cut, cuts) for cut in named]
        for flavour in block.get("lep_flav_lst", [None]):
            for jets in block.get("jet_lst", [None]):
                parts, more = [channel], []
                if flavour is not None:
                    parts.append(flavour)
                    more.append(_flavour(f"{where}.lep_flav_lst", flavour))
                if jets is not None:
                    text, cut = _jets(f"{where}.jet_lst", jets)
                    parts.append(text)
                    more.append(cut)
                full = "_".join(parts)
                if not NAME.fullmatch(full):
                    raise ConfigError(
                        f"{where}.lep_chan_lst: the name {full!r} should have letters, digits and "
                        "_ only, since files and datacards are named after it"
                    )
                if full in channels:
                    raise ConfigError(f"{where}: the channel {full!r} is declared twice")
                channels[full] = Channel((*chosen, *more), tuple(regions))
    return channels


def _regions(where: str, block: Mapping[str, Any]) -> list[Region]:
    """The regions in `appl_lst`, and those in `appl_lst_data`, which only data fills."""
    regions: dict[str, Region] = {}
    for key, data_only in (("appl_lst", False), ("appl_lst_data", True)):
        for name in block.get(key, []):
            if name in regions:
                raise ConfigError(
                    f"{where}.{key}: {name!r} is listed twice, so data would count twice"
                )
            regions[name] = _region(f"{where}.{key}", name, data_only)
    flips = any(region.role == FLIPS for region in regions.values())
    return [
        replace(region, predicted=flips and region.role == SIGNAL and name.endswith("SS"))
        for name, region in regions.items()
    ]


def _named(where: str, channel: str, cut: str, cuts: Mapping[str, str]) -> str:
    """The expression of a named cut, or its negation for `~name`."""
    name = cut.removeprefix("~")
    if name not in cuts:
        known = ", ".join(cuts) or "none"
        raise ConfigError(f"{where}: {channel}: the cut {name!r} is not defined; there are {known}")
    return cuts[name] if name == cut else f"not ({cuts[name]})"


def _region(where: str, name: str, data_only: bool) -> Region:
    match = REGION.fullmatch(name)
    flipped = match is not None and match["sign"] == "SS_OS"
    if match is None or (flipped and (match["kind"], match["number"]) != ("AR", "2")):
        raise ConfigError(
            f"{where}: unknown region {name!r}; regions are isSR_2lSS, isAR_2lSS, isAR_2lSS_OS, "
            "isSR_2lOS, isSR_3l, isAR_3l and those with another number of leptons"
        )
    sign = {
        None: "",
        "SS": f" and abs(charge) == {match['number']}",
        "OS": " and charge == 0",
        "SS_OS": " and charge == 0",
    }[match["sign"]]
    cut = f"n_lep == {match['number']}{sign}"
    if flipped:
        return Region(FLIPS, cut, True, True)
    tight = match["kind"] == "SR"
    return Region(SIGNAL if tight else NONPROMPT, cut, tight, data_only)


def _flavour(where: str, text: str) -> str:
    if not FLAVOUR.fullmatch(text):
        raise ConfigError(
            f"{where}: {text!r} should consist of e, m and l, where l stands for either"
        )
    if "l" not in text:
        return f"n_ele == {text.count('e')} and n_mu == {text.count('m')}"
    least = [("n_ele", text.count("e")), ("n_mu", text.count("m"))]
    more = [f" and {quantity} >= {number}" for quantity, number in least if number]
    return f"n_lep == {len(text)}{''.join(more)}"


def _once(where: str, jets: Sequence[Any]) -> None:
    """Refuse numbers of jets that two channels of a block would count."""
    for a, b in combinations(jets, 2):
        (low, high), (other_low, other_high) = _range(where, a), _range(where, b)
        first = max(low, other_low)
        if a != b and first <= min(high, other_high):
            raise ConfigError(
                f"{where}: events with {first} jets are in {a!r} and in {b!r}; > and < include "
                "their number"
            )


def _range(where: str, text: Any) -> tuple[int, float]:
    """The smallest and the largest number of jets."""
    match = _number_of_jets(where, text)
    number = int(match["number"])
    return {"=": (number, number), ">": (number, math.inf), "<": (0, number)}[match["relation"]]


def _number_of_jets(where: str, text: Any) -> re.Match[str]:
    match = JETS.fullmatch(str(text))
    if match is None:
        raise ConfigError(
            f"{where}: {text!r} should be a number of jets such as '=4', '>7' (7 or more) or '<3' "
            "(3 or fewer)"
        )
    return match


def _jets(where: str, text: Any) -> tuple[str, str]:
    match = _number_of_jets(where, text)
    relation, word = RELATIONS[match["relation"]]
    return f"{word}{match['number']}j", f"n_jet {relation} {match['number']}"
