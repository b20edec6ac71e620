"""Whether a skim loses events, held against events themselves."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from analyses import analysis_of
from conftest import MANY
from hypothesis import given
from hypothesis import strategies as st

from looseleaf.config.kinds import KINDS
from looseleaf.config.settings import load
from looseleaf.config.skim import check_skim
from looseleaf.errors import ConfigError
from looseleaf.objects.bounds import dropped_by, may_hold, range_of
from looseleaf.objects.expressions import Expression

NAMES = ["nMuon", "nElectron", "nJet", "MET_pt", "x", "HLT_A", "HLT_B"]
LIMITS = ["0", "1", "2", "3", "0.5", "25.1", "30", "-1"]


def parts(depth: int) -> st.SearchStrategy[str]:
    """Yes and no of event-level branches, with much that can be told of and some that can't."""
    name, limit = st.sampled_from(NAMES[:5]), st.sampled_from(LIMITS)
    relation = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
    term = st.one_of(
        name,
        st.tuples(name, st.sampled_from("+-*"), name | limit).map(" ".join),
        name.map("-{}".format),
        name.map("abs({})".format),
        st.tuples(name, name).map(lambda pair: f"maximum({pair[0]}, {pair[1]})"),
        st.just("(nMuon & nJet)"),
        st.sampled_from(["HLT_A", "HLT_A + HLT_B", "nJet - HLT_A", "-HLT_B"]),
    )
    made = [
        st.tuples(term, relation, limit | name).map(" ".join),
        st.tuples(limit, relation, term).map(" ".join),
        st.tuples(limit, st.sampled_from(["<", "<="]), name, st.sampled_from(["<", "<="]), limit)
        .map(" ".join),
        st.sampled_from(["HLT_A", "HLT_B"]),
        st.sampled_from(["not nMuon", "not (nMuon & nElectron)", "nJet and nMuon"]),
    ]  # fmt: skip
    if depth:
        inner = parts(depth - 1)
        made += [
            st.tuples(inner, st.sampled_from(["&", "|", "and", "or"]), inner).map(" ".join),
            inner.map("~{}".format) if depth > 1 else inner.map("not {}".format),
        ]
    return st.one_of(made).map("({})".format)


EVENTS = st.fixed_dictionaries(
    {
        **dict.fromkeys(NAMES[:3], st.integers(0, 4)),
        **dict.fromkeys(NAMES[3:5], st.sampled_from([0, 1, 2, 25.1, 30, -1, 26, 1e9, 0.5])),
        **dict.fromkeys(NAMES[5:], st.booleans()),
    }
)
DTYPES = {**dict.fromkeys(NAMES[:3], np.uint32), **dict.fromkeys(NAMES[3:5], np.float32),
          **dict.fromkeys(NAMES[5:], bool)}  # fmt: skip


@pytest.mark.slow
@MANY
@given(cut=parts(2), channel=parts(2), drawn=st.lists(EVENTS, min_size=1, max_size=30))
def test_what_is_proved_to_be_dropped_is_dropped(cut: str, channel: str, drawn: Any) -> None:
    """An event that a cut drops lies in one of its boxes, and whichever a channel keeps is in none
    of those in which it can't be true."""
    columns = {name: np.array([e[name] for e in drawn], DTYPES[name]) for name in NAMES}
    kept, wanted = Expression(cut).keeps(columns), Expression(channel).keeps(columns)
    boxes = dropped_by(Expression(cut))
    open_to = [
        any(
            all(range_of(n, box).low <= e[n] <= range_of(n, box).high for n in box) for box in boxes
        )
        for e in [{n: float(columns[n][i]) for n in NAMES} for i in range(len(drawn))]
    ]
    assert all(np.asarray(open_to)[~kept])
    safe = not any(
        may_hold(Expression(channel), lambda name, box=box: range_of(name, box)) for box in boxes
    )
    assert not (safe and (wanted & ~kept).any())


def checked(
    cut: str | None, declared: Mapping[str, Mapping[str, Any]], datasets: Mapping[str, Any]
) -> list[str]:
    analyses = {name: analysis_of(analysis) for name, analysis in declared.items()}
    return check_skim(cut, analyses, datasets, KINDS, "servicex.cut")


@pytest.mark.parametrize(
    ("cut", "channel", "safe"),
    [
        ("(nMuon > 0) | (nElectron > 0)", "(n_lep == 0) & (n_jet >= 4)", False),
        ("(nMuon > 0) | (nElectron > 0)", "n_lep >= 1", True),
        ("(nMuon > 0) | (nElectron > 0)", "n_lep >= 0", False),
        ("nMuon + nElectron > 1", "(n_lep == 2) & (n_jet >= 4)", True),
        ("nMuon + nElectron > 1", "(n_mu == 1) & (n_jet >= 4)", False),
        ("nMuon + nElectron >= 2", "lep1_pt > 10", True),
        ("nMuon + nElectron >= 2", "lep1_pt >= 0", False),
        ("2 * nMuon + nElectron >= 2", "n_mu >= 1", False),
        ("nMuon + nMuon + nElectron >= 2", "n_mu >= 1", True),
        ("nMuon + nMuon + nElectron >= 2", "n_ele >= 1", False),
        ("nMuon > 0", "n_ele == 1", False),
        ("nMuon > 0", "n_mu >= 1 and n_ele == 1", True),
        ("MET_pt > 30", "(met > 30) & (n_lep == 0)", True),
        # as a float32, 25.1 is more than 25.1: the skim drops what the channel would keep
        ("MET_pt > 25.1", "met > 25.1", False),
        ("MET_pt > 25", "met > 25.1", True),
        ("not (nMuon == 0 and nElectron == 0)", "n_lep == 3", True),
        ("nJet >= 2", "n_jet >= 2", True),
        ("nJet >= 2", "n_bjet == 2", True),
        ("nJet >= 1", "ht > 100", True),
        ("nJet >= 2", "ht > 100", False),
        ("HLT_A | HLT_B", "n_lep == 0", True),
        ("HLT_A", "n_lep == 0", False),
        ("(HLT_A == 1) | (HLT_B > 0.5)", "n_lep == 0", True),
        ("HLT_A + HLT_B >= 1", "n_lep == 0", True),
        ("(HLT_A == 0) | (HLT_B > 0.5)", "n_lep == 0", False),
        ("first(Muon_pt) > 5", "n_mu == 1", False),
        # `first` has no value in an event without jets, which a muon keeps all the same
        ("(first(Jet_pt) > 30) | (nMuon > 0)", "n_mu == 1", True),
        ("(first(Jet_pt) > 30) | (nMuon > 0)", "n_ele == 1", False),
        ("not (max(Jet_pt) > 30)", "n_jet == 0", False),
        ("not (nMuon & nElectron)", "n_lep == 0", False),
    ],
)
def test_channels_and_the_skim(cut: str, channel: str, safe: bool) -> None:
    analysis = {
        "name": "mine",
        "kind": "application",
        "datasets": {"predict": ["ttbar"]},
        "triggers": [{"paths": ["HLT_A"]}, {"paths": ["HLT_B"]}],
        "working_points": {"Muon": {}, "Electron": {}},
        "channels": {"hadronic": channel},
    }
    datasets: dict[str, Any] = {"ttbar": {}}
    if safe:
        checked(cut, {"mine": analysis}, datasets)
        return
    with pytest.raises(ConfigError) as problem:
        checked(cut, {"mine": analysis}, datasets)
    for word in (repr(cut), "'hadronic'", "'mine'", "servicex.cut", "null"):
        assert word in str(problem.value)
    checked(None, {"mine": analysis}, datasets)


FEW_JETS = ["nJet - nMuon - 2 <= 0", "nJet < 5", "nJet < 2", "(nJet < 5) | (nMuon > 1)"]
FEW_JETS += ["(nJet < 5) | (nElectron > 0)", "(nJet < 5) | (nMuon < 1)"]


@pytest.mark.parametrize(
    ("cut", "safe"),
    [
        ("nMuon > 0", True),
        ("nMuon >= 1 and nJet >= 1", True),
        ("(nMuon > 0) & (nJet > 1)", False),
        ("nElectron > 0", False),
        ("HLT_Mu8", False),
        ("HLT_Mu8 | HLT_Mu17", True),
        # the missing momentum is also drawn without the cut on it
        ("MET_pt < 20", False),
        ("MET_pt > 20", False),
        ("PV_npvs > 10", True),
        ("PV_npvs > 12", False),
        # with how many jets a rate is measured is a choice
        *((cut, True) for cut in FEW_JETS),
        ("nJet < 1", False),
        ("nJet != 3", False),
        ("(nJet < 2) | (nJet > 5)", False),
        ("(nJet < 5) | (nMuon < 2)", False),
        ("(nJet < 5) | (MET_pt < 20)", False),
        # these drop the measurement itself
        ("nMuon == 0", False),
        ("nMuon < 2", False),
        ("nJet == 0", False),
        ("HLT_Mu8 == 0", False),
        ("Muon_pt < 5", False),
        ("MET_pt < 5", False),
        ("nElectron == nMuon", False),
    ],
)
def test_measurements_and_the_skim(cut: str, safe: bool) -> None:
    analysis = {
        "name": "mu",
        "kind": "fakerate",
        "lepton": {"collection": "Muon"},
        "datasets": {"measure": ["qcd"]},
        "away_jet": {"pt_min": 25},
        "triggers": [{"paths": ["HLT_Mu8"]}, {"paths": ["HLT_Mu17"]}],
        "cuts": {"busy": "PV_npvs > 10"},
    }
    check = (cut, {"mu": analysis}, {"qcd": {}})
    if safe:
        # what is measured in events of a skim's choice is named
        assert checked(*check) == (["mu"] if cut in FEW_JETS else [])
        return
    with pytest.raises(ConfigError, match="could remove events that the analysis 'mu' selects"):
        checked(*check)


@pytest.mark.parametrize(
    ("cut", "removed"),
    [
        ("any(Muon_pt > 5)", " (looseleaf can't tell which events it removes)"),
        ("PV_npvs > 0", ", those with PV_npvs <= 0"),
        ("(nMuon + nElectron >= 2) & (Flag_goodVertices)", ", those with Flag_goodVertices == 0"),
    ],
)
def test_a_loss_may_be_accepted(cut: str, removed: str) -> None:
    analysis: dict[str, Any] = {
        "name": "mine",
        "kind": "application",
        "datasets": {"predict": ["ttbar"]},
        "triggers": [],
        "working_points": {"Muon": {}, "Electron": {}},
        "channels": {"two": "n_lep == 2"},
    }
    other = {**analysis, "name": "other", "allow": {"skim": True}}
    with pytest.raises(ConfigError) as problem:
        checked(cut, {"mine": analysis, "other": other}, {"ttbar": {}})
    assert str(problem.value) == (
        f"servicex.cut: {cut!r} could remove events that the channel 'two' of the analysis 'mine' "
        f"selects{removed}; loosen the cut, set it to null, or accept the loss with "
        "allow: {skim: true} in the analysis"
    )
    assert checked(cut, {"other": other}, {"ttbar": {}}) == ["other"]
    # nothing is lost that would have to be said
    harmless = "nMuon + nElectron >= 2"
    assert checked(harmless, {"other": other}, {"ttbar": {}}) == []


def test_pairs_for_charge_flips_need_two_electrons() -> None:
    analysis = {"name": "z", "kind": "flips", "datasets": {"measure": ["dy"]}, "triggers": []}
    checked("nElectron > 1", {"z": analysis}, {"dy": {}})
    with pytest.raises(ConfigError, match="those with nElectron <= 2"):
        checked("nElectron > 2", {"z": analysis}, {"dy": {}})


@pytest.mark.parametrize("name", ["", "eft.yaml", "real.yaml", "qcd2021.yaml"])
def test_the_shipped_configurations_lose_nothing(
    main_config: dict[str, Any], repo: Path, name: str
) -> None:
    config = copy.deepcopy(main_config)
    for key, value in (
        yaml.safe_load((repo / "config" / name).read_text()) if name else {}
    ).items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    assert load(config, repo).general["servicex"]["cut"] == "(nMuon > 0) | (nElectron > 0)"
    config["servicex"]["cut"] = "nMuon > 4"
    with pytest.raises(
        ConfigError, match=r"configuration: servicex\.cut: 'nMuon > 4' could remove"
    ):
        load(config, repo)
