"""Channels as they are declared, multiplied out."""

from typing import Any

import numpy as np
import pytest

from looseleaf.errors import ConfigError
from looseleaf.objects.expressions import Expression
from looseleaf.topcoffea.channels import (
    FLIPS,
    NONPROMPT,
    SIGNAL,
    channels_of,
    flips_nuisance,
    weighed_alone,
)

CUTS = {"2lss": "lep0_pt > 25", "2l_p": "lep0_charge > 0", "onZ": "abs(m_z - 91) < 10"}
BLOCK: dict[str, Any] = {
    "lep_chan_lst": [["2lss_p", "2lss", "2l_p"], ["2lss_offZ", "2lss", "~onZ"]],
    "lep_flav_lst": ["ee", "em"],
    "appl_lst": ["isSR_2lSS", "isAR_2lSS"],
    "appl_lst_data": ["isAR_2lSS_OS"],
    "jet_lst": ["=4", "=5", ">6"],
}


def declared(**changes: Any) -> dict[str, Any]:
    return {"declared": {"2l": {**BLOCK, **changes}}, "cuts": CUTS}


def test_a_block_multiplies_out() -> None:
    found = channels_of(**declared())
    assert len(found) == 12
    assert list(found)[:4] == ["2lss_p_ee_4j", "2lss_p_ee_5j", "2lss_p_ee_ge6j", "2lss_p_em_4j"]
    channel = found["2lss_offZ_em_ge6j"]
    assert channel.cuts == (
        "lep0_pt > 25",
        "not (abs(m_z - 91) < 10)",
        "n_ele == 1 and n_mu == 1",
        "n_jet >= 6",
    )
    assert [(r.role, r.tight, r.data_only) for r in channel.regions] == [
        (SIGNAL, True, False),
        (NONPROMPT, False, False),
        (FLIPS, True, True),
    ]


def test_jets_share_out_every_event_once() -> None:
    cuts = [
        Expression(c.cuts[-1]) for n, c in channels_of(**declared()).items() if "2lss_p_ee" in n
    ]
    jets = np.arange(12)
    times = np.sum([cut({"n_jet": jets}) for cut in cuts], axis=0)
    assert times.tolist() == [0] * 4 + [1] * 8


@pytest.mark.parametrize(
    ("region", "charges", "passing"),
    [
        ("isSR_2lSS", [2, 0, -2], [True, False, True]),
        ("isSR_2lOS", [2, 0, -2], [False, True, False]),
        ("isAR_2l", [2, 0, -2], [True, True, True]),
    ],
)
def test_regions_say_what_the_leptons_are(
    region: str, charges: list[int], passing: list[bool]
) -> None:
    channel = channels_of(**declared(appl_lst=[region], appl_lst_data=[]))["2lss_p_ee_4j"]
    cut = Expression(channel.regions[0].cut)
    found = cut({"n_lep": np.full(3, 2), "charge": np.array(charges)})
    assert found.tolist() == passing
    assert not cut({"n_lep": np.full(3, 3), "charge": np.array(charges)}).any()


@pytest.mark.parametrize(
    ("flavour", "passing"),
    [
        ("el", [True, True, False, False]),
        ("ml", [False, True, True, False]),
        ("ll", [True, True, True, False]),
        ("em", [False, True, False, False]),
    ],
)
def test_l_stands_for_either_flavour_of_one_lepton(flavour: str, passing: list[bool]) -> None:
    found = channels_of(**declared(lep_flav_lst=[flavour]))[f"2lss_p_{flavour}_4j"]
    leptons = {"n_ele": np.array([2, 1, 0, 2]), "n_mu": np.array([0, 1, 2, 1])}
    cut = Expression(found.cuts[-2])
    assert cut({**leptons, "n_lep": np.array([2, 2, 2, 3])}).tolist() == passing


def test_a_channel_may_be_an_expression() -> None:
    found = channels_of({"any": "n_lep == 2"})
    assert found["any"].cuts == ("n_lep == 2",)
    assert [region.role for region in found["any"].regions] == [SIGNAL, NONPROMPT]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"lep_chan_lst": [["x", "2lsss"]]},
            "2l.lep_chan_lst: x: the cut '2lsss' is not defined; there are 2lss, 2l_p, onZ",
        ),
        ({"appl_lst": ["isXR_2lSS"]}, "2l.appl_lst: unknown region 'isXR_2lSS'; regions are isSR"),
        ({"appl_lst": ["isSR_2lSS_OS"]}, "2l.appl_lst: unknown region 'isSR_2lSS_OS'"),
        ({"jet_lst": ["4"]}, "2l.jet_lst: '4' should be a number of jets such as '=4', '>7'"),
        ({"lep_flav_lst": ["et"]}, "2l.lep_flav_lst: 'et' should consist of e, m and l"),
        (
            {"appl_lst_data": ["isAR_2lSS_OS", "isAR_2lSS"]},
            "2l.appl_lst_data: 'isAR_2lSS' is listed twice, so data would count twice",
        ),
        ({"appl_lst": ["isSR_2lSS", "isSR_2lSS"]}, "2l.appl_lst: 'isSR_2lSS' is listed twice"),
        (
            {"jet_lst": ["=4", ">4"]},
            "2l.jet_lst: events with 4 jets are in '=4' and in '>4'; > and < include their number",
        ),
        ({"jet_lst": ["<3", "=2"]}, "2l.jet_lst: events with 2 jets are in '<3' and in '=2'"),
        (
            {"lep_chan_lst": [["a/b", "2lss"]]},
            "2l.lep_chan_lst: the name 'a/b_ee_4j' should have letters, digits and _",
        ),
        ({"jet_lst": ["=4", "=4"]}, "2l: the channel '2lss_p_ee_4j' is declared twice"),
    ],
)
def test_what_is_wrong_with_a_block(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as problem:
        channels_of(**declared(**changes))
    assert f"channels.{message}" in str(problem.value)


def test_two_blocks_with_one_channel() -> None:
    blocks = declared()
    blocks["declared"]["more"] = {**BLOCK, "lep_chan_lst": [["2lss_p", "2lss"]]}
    with pytest.raises(ConfigError, match="the channel '2lss_p_ee_4j' is declared twice"):
        channels_of(**blocks)


def test_each_measured_map_of_flips_has_a_nuisance_of_its_own() -> None:
    names = [flips_nuisance({"map": name}) for name in ("flips_2017", "flips_2018")]
    assert names == ["flips_rate_flips_2017", "flips_rate_flips_2018"]
    assert flips_nuisance({"file": "f.json", "correction": "c"}) == "flips_rate"
    assert {weighed_alone(f"{name}Up") for name in (*names, "flips_rate")} == {FLIPS}
    assert weighed_alone("nonprompt_rate_muon_2018Down") == NONPROMPT
    assert weighed_alone("flipsUp") is None


def test_fewer_jets_include_their_number() -> None:
    """`<3` is three or fewer, so that `=3` counts the same events; the parts of 0 to 3 don't."""
    with pytest.raises(ConfigError, match="events with 3 jets are in '<3' and in '=3'"):
        channels_of(**declared(jet_lst=["<3", "=3"]))
    with pytest.raises(ConfigError, match="events with 3 jets are in '>3' and in '<3'"):
        channels_of(**declared(jet_lst=[">3", "<3"]))
    found = channels_of(**declared(jet_lst=["<3", "=4", ">5"]))
    cuts = [Expression(c.cuts[-1]) for n, c in found.items() if "2lss_p_ee" in n]
    passing = [cut({"n_jet": np.arange(8)}).tolist() for cut in cuts]
    assert [sum(one) for one in passing] == [4, 1, 3]
    assert np.sum(passing, axis=0).tolist() == [1] * 8


def test_only_a_signal_region_of_one_charge_is_predicted_by_flips() -> None:
    regions = ["isSR_2lSS", "isSR_2lOS", "isSR_3l", "isAR_2lSS"]

    def predicted(of_data: list[str]) -> list[bool]:
        found = channels_of(**declared(appl_lst=regions, appl_lst_data=of_data))
        return [region.predicted for region in found["2lss_p_ee_4j"].regions]

    assert predicted(["isAR_2lSS_OS"]) == [True, False, False, False, False]
    # without a region of flips nothing predicts them
    assert predicted([]) == [False] * 4


@pytest.mark.parametrize(
    ("systematic", "region"),
    [
        ("nonprompt_rate_muon_2018Up", NONPROMPT),
        ("nonprompt_Muon_closureDown", NONPROMPT),
        ("nonprompt_Electron_ptUp", NONPROMPT),
        ("flips_rateDown", FLIPS),
        ("flips_of_anotherUp", None),
        ("nonprompt_of_anotherUp", None),
        ("jesUp", None),
        ("nominal", None),
    ],
)
def test_the_rates_of_a_region_weigh_its_events_alone(systematic: str, region: str | None) -> None:
    assert weighed_alone(systematic) == region


def test_a_region_of_data_alone_is_not_filled_for_simulation() -> None:
    found = channels_of(
        **declared(appl_lst=["isSR_2lSS"], appl_lst_data=["isAR_2lSS", "isSR_2lOS"])
    )
    regions = found["2lss_p_ee_4j"].regions
    assert [(r.role, r.data_only) for r in regions] == [
        (SIGNAL, False), (NONPROMPT, True), (SIGNAL, True),
    ]  # fmt: skip
