"""The topcoffea processor on a few written events, each of which is another case: all by hand."""

import json
import math
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pytest
import uproot
from analyses import analysis_of
from coffea.nanoevents import NanoEventsFactory

from looseleaf.efthist import EFTHist
from looseleaf.errors import DataFileError
from looseleaf.objects.corrections import Corrections
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.objects.names import COVERAGE, ENTRIES
from looseleaf.objects.rates import RateMap
from looseleaf.processing.feed import SkimmedNanoAOD
from looseleaf.topcoffea.flip_map import FlipMap
from looseleaf.topcoffea.processor import TopCoffeaProcessor

POINTS = WorkingPoints(
    {
        collection: {"loose": {"cuts": ["pt > 10"]}, "tight": {"like": "loose", "cuts": ["id"]}}
        for collection in ("Muon", "Electron")
    }
)
BLOCK = {"appl_lst": ["isSR_2lSS", "isAR_2lSS"], "appl_lst_data": ["isAR_2lSS_OS"]}
ANALYSIS: dict[str, Any] = {
    "name": "written",
    "unblind": True,
    "working_points": {
        collection: {"loose": "loose", "tight": "tight", "momentum": "raw"}
        for collection in ("Muon", "Electron")
    },
    "nonprompt": {"maps": {"Muon": "mu", "Electron": "el"}, "cap": 0.6},
    "flips": {},
    "jets": {"pt_min": 30, "abs_eta_max": 2.4, "dr_min": 0.4,
             "btag": {"branch": "tag", "min": 0.5}},
    "triggers": [{"paths": ["HLT_A"]}],
    "corrections": {},
    "cuts": {"any": "n_lep > 0", "hard": "ht > 100"},
    "channels": {
        "ss": {"lep_chan_lst": [["ss", "any"]], **BLOCK},
        "os": {"lep_chan_lst": [["os", "any"]], "appl_lst": ["isSR_2lOS", "isAR_2lOS"]},
        "3l": {"lep_chan_lst": [["3l", "any"]], "appl_lst": ["isSR_3l", "isAR_3l"]},
    },
    "observables": {"ht": {"expression": "ht", "label": "x", "edges": [0, 100, 200]}},
}  # fmt: skip
EDGES = np.array([0.0, 20.0, 1000.0]), np.array([0.0, 1.2, 2.5])
# no two bins alike; one of them above the cap, one less certain than it is large, one empty
RATES = {
    "Muon": np.array([[0.1, 0.15], [0.2, 0.0]]),
    "Electron": np.array([[0.3, 0.35], [0.4, 0.9]]),
}
SIGMAS = {
    "Muon": np.array([[0.2, 0.01], [0.02, 0.03]]),
    "Electron": np.array([[0.04, 0.05], [0.06, 0.07]]),
}
EMPTY = {"Muon": np.array([[False, False], [False, True]]), "Electron": np.zeros((2, 2), bool)}
MAPS = {name: RateMap(*EDGES, rate, SIGMAS[name], EMPTY[name]) for name, rate in RATES.items()}
MAPS["Electron"].systematics["pt"] = RATES["Electron"] + 0.05, RATES["Electron"] - 0.1  # type: ignore[index]
BY_SYSTEMATIC = {"nominal": "0.01 + 0.02*y", "stat_up": "0.02 + 0.02*y", "stat_down": "0.02*y"}


def correction(name: str, by_systematic: dict[str, str], *numbers: str) -> str:
    """A correctionlib file: formulas of x (and y), the numbers, by systematic."""
    inputs = [{"name": "systematic", "type": "string"}]
    inputs += [{"name": number, "type": "real"} for number in numbers]
    content = [
        {"key": key, "value": {
            "nodetype": "formula", "expression": text, "parser": "TFormula",
            "variables": list(numbers)}}
        for key, text in by_systematic.items()
    ]  # fmt: skip
    one = {
        "name": name, "version": 1, "inputs": inputs,
        "output": {"name": "p", "type": "real"},
        "data": {"nodetype": "category", "input": "systematic", "content": content},
    }  # fmt: skip
    return json.dumps({"schema_version": 2, "corrections": [one]})


def flip_map() -> FlipMap:
    """The probability by (systematic, pT, |eta|), which grows with |eta|."""
    return FlipMap(correction("flips", BY_SYSTEMATIC, "pt", "eta"), "flips")


def lepton(
    pt: float, eta: float, charge: int, tight: bool = True, origin: int = 1
) -> dict[str, Any]:
    return {"pt": pt, "eta": eta, "charge": charge, "id": tight, "genPartFlav": origin}


def event(
    muons: list[dict[str, Any]] = [],  # noqa: B006 - nobody changes it
    electrons: list[dict[str, Any]] = [],  # noqa: B006
    weight: float = 1.0,
    fired: bool = True,
    jets: tuple[float, ...] = (50.0,),
    made: tuple[int, ...] = (),
) -> dict[str, Any]:
    """`made` are the identities of the particles that the electrons come from, in their order;
    an electron beyond them comes from none."""
    return {"Muon": muons, "Electron": electrons, "genWeight": weight, "HLT_A": fired,
            "jets": jets, "made": made}  # fmt: skip


def jagged(lists: list[Any], dtype: Any) -> ak.Array:
    flat = [value for part in lists for value in part]
    return ak.unflatten(np.array(flat, dtype), [len(part) for part in lists])


def events_of(path: Path, written: list[dict[str, Any]], **metadata: Any) -> Any:
    """NanoEvents of a file with these events; PSWeight and EFTfitCoefficients may be given."""
    is_data = metadata.setdefault("data", False)
    dtypes = {"pt": "f4", "eta": "f4", "charge": "i4", "id": "?"}
    dtypes |= {} if is_data else {"genPartFlav": "i4"}
    columns: dict[str, Any] = {}
    for collection in ("Muon", "Electron"):
        parts = [one[collection] for one in written]
        fields = {
            field: jagged([[lep[field] for lep in part] for part in parts], dtype)
            for field, dtype in dtypes.items()
        }
        order = ak.local_index(fields["pt"])
        fields |= {"phi": ak.values_astype(1 + 0.5 * order, "float32"), "mass": 0 * fields["pt"]}
        if not is_data:
            made = np.array([len(one["made"]) for one in written])
            fields["genPartIdx"] = ak.values_astype(ak.where(order < made, order, -1), "int32")
        columns[collection] = ak.zip(fields)
    pt = jagged([one["jets"] for one in written], "f4")
    columns["Jet"] = ak.zip(
        {"pt": pt, "eta": 0 * pt, "phi": 0 * pt - 2, "mass": 0 * pt, "tag": 0 * pt}
    )
    number = len(written)
    columns |= {
        "run": np.ones(number, "u4"), "luminosityBlock": np.arange(1, number + 1, dtype="u4"),
        "event": np.arange(number, dtype="u8"), "MET_pt": np.full(number, 20, "f4"),
        "MET_phi": np.zeros(number, "f4"), "HLT_A": np.array([one["HLT_A"] for one in written]),
    }  # fmt: skip
    if not is_data:
        columns["genWeight"] = np.array([one["genWeight"] for one in written], "f4")
        columns["GenPart"] = ak.zip({"pdgId": jagged([one["made"] for one in written], "i4")})
    for name in ("PSWeight", "EFTfitCoefficients"):
        if name in metadata:
            columns[name] = jagged(metadata.pop(name), "f4")
    types = {
        name: value.dtype if isinstance(value, np.ndarray) else ak.type(value).content
        for name, value in columns.items()
    }
    with uproot.recreate(path) as file:
        file.mktree("Events", types).extend(columns)
    about = {"process": "tt", "year": "2017", "wc_names": [], "dataset": "written", **metadata}
    return NanoEventsFactory.from_root(
        {str(path): "Events"}, schemaclass=SkimmedNanoAOD, mode="eager", metadata=about
    ).events()


def processed(events: Any, flips: bool = True, **changes: Any) -> dict[str, Any]:
    processor = TopCoffeaProcessor(
        analysis_of({**ANALYSIS, **changes}),
        POINTS,
        ["c"],
        True,
        MAPS,
        flip_map() if flips else None,
    )
    return processor.process(events)


def cells(filled: EFTHist, point: dict[str, float] | None = None) -> dict[tuple[str, ...], tuple]:
    """Sum and sum of squares of what isn't empty, flow included."""
    view = filled.project("channel", "region", "systematic").at(point).view(flow=True)
    names = [filled.categories(name) for name in ("channel", "region", "systematic")]
    out = {}
    for place in np.ndindex(*(len(part) for part in names)):
        value, variance = float(view.value[place]), float(view.variance[place])
        if variance:
            key = tuple(part[index] for part, index in zip(names, place, strict=True))
            out[key] = pytest.approx((value, variance), rel=1e-5)
    return out


def only(found: dict[tuple[str, ...], Any], **wanted: str) -> dict[tuple[str, ...], Any]:
    place = {"channel": 0, "region": 1, "systematic": 2}
    return {k: v for k, v in found.items() if all(k[place[n]] == w for n, w in wanted.items())}


def odds(*rates: float) -> float:
    """What an event with these failing leptons counts."""
    product = math.prod(rate / (1 - rate) for rate in rates)
    return -((-1) ** len(rates)) * product


def muon(*more: Any, **named: Any) -> dict[str, Any]:
    return lepton(*more, **named)


MIXED = [
    # two tight muons of one charge, and of both
    event([muon(40, 0.1, 1), muon(30, -0.2, 1)], weight=2.0),
    event([muon(40, 0.1, 1), muon(30, -0.2, -1)], weight=-3.0),
    # one that fails: at 15 GeV, and far out at negative eta
    event([muon(40, 0.1, -1), muon(15, 0.2, -1, tight=False)], weight=1.5),
    event([muon(40, 0.1, -1)], [lepton(12, -2.0, -1, tight=False)], weight=0.5),
    # two that fail, of both flavours; the electron's rate is above the cap
    event([muon(25, 0.3, 1, tight=False)], [lepton(45, 1.9, 1, tight=False)], weight=4.0),
    # three leptons of which one fails, and three tight ones, one of them from a tau
    event([muon(60, 0.1, 1), muon(22, 0.5, -1, tight=False)], [lepton(30, 0.2, 1)], weight=0.25),
    event([muon(60, 0.1, 1), muon(22, 0.5, -1)], [lepton(30, 0.2, 1, origin=15)], weight=0.75),
    # what doesn't count: from a b quark, not triggered, too soft for a loose lepton
    event([muon(40, 0.1, 1), muon(30, -0.2, 1, origin=5)], weight=8.0),
    event([muon(40, 0.1, 1), muon(30, -0.2, 1)], weight=16.0, fired=False),
    event([muon(40, 0.1, 1), muon(9, -0.2, 1)], weight=32.0),
    # where nothing was measured: no weight
    event([muon(40, 0.1, -1), muon(30, 2.0, -1, tight=False)], weight=64.0),
]


def test_every_case_counts_in_its_region(tmp_path: Path) -> None:
    found = processed(events_of(tmp_path / "s.root", MIXED))
    ss = [1.5 * odds(0.1), 0.5 * odds(0.35), 4.0 * odds(0.2, 0.6)]
    three = 0.25 * odds(0.2)

    def total(*values: float) -> tuple[float, float]:
        return sum(values), sum(value**2 for value in values)

    assert cells(found["ht"].select(systematic=["nominal"])) == {
        ("ss", "signal", "nominal"): total(2.0),
        ("os", "signal", "nominal"): total(-3.0),
        ("3l", "signal", "nominal"): total(0.75),
        ("ss", "nonprompt", "nominal"): total(*ss),
        ("3l", "nonprompt", "nominal"): total(three),
    }
    steps = dict(zip(found["cutflow"].axes[0], found["cutflow"].values().tolist(), strict=True))
    assert steps == {"all": 11, "trigger": 10, "ss": 1, "os": 1, "3l": 1}
    # of the leptons that fail where events are weighted: one above the cap, one in an empty bin
    kinds = dict(zip(found["failing"].axes[0], found["failing"].values().tolist(), strict=True))
    assert kinds == {"all": 6, "capped": 1, "unmeasured": 1}


def test_rates_vary_up_and_down(tmp_path: Path) -> None:
    found = processed(events_of(tmp_path / "s.root", MIXED))["ht"]
    expected = {
        "nonprompt_rate_muUp": (odds(0.3), odds(0.35), odds(0.22, 0.6), odds(0.22), odds(0.03)),
        # a rate isn't less than nothing
        "nonprompt_rate_muDown": (odds(0.0), odds(0.35), odds(0.18, 0.6), odds(0.18), odds(0.0)),
        "nonprompt_rate_elUp": (odds(0.1), odds(0.4), odds(0.2, 0.6), odds(0.2), odds(0.0)),
        "nonprompt_rate_elDown": (odds(0.1), odds(0.3), odds(0.2, 0.6), odds(0.2), odds(0.0)),
        "nonprompt_Electron_ptUp": (odds(0.1), odds(0.4), odds(0.2, 0.6), odds(0.2), odds(0.0)),
        "nonprompt_Electron_ptDown": (odds(0.1), odds(0.25), odds(0.2, 0.6), odds(0.2), odds(0.0)),
    }
    assert found.categories("systematic") == ["nominal", *expected]
    for systematic, (a, b, c, d, empty) in expected.items():
        view = found.select(region="nonprompt", systematic=systematic).project("channel").at()
        values = dict(zip(view.axes[0], view.values().tolist(), strict=True))
        ss = 1.5 * a + 0.5 * b + 4.0 * c + 64.0 * empty
        assert values == pytest.approx({"ss": ss, "os": 0.0, "3l": 0.25 * d}, rel=1e-5)
        # nothing else is weighed by rates
        assert found.select(region="signal", systematic=systematic).values().sum() == 0


# of opposite charges; the probability of a flip by |eta|: 0.01 + 0.02 |eta|
OPPOSITE = [
    event([muon(40, 0.1, 1)], [lepton(30, -1.5, -1)]),
    event([], [lepton(50, 0.5, 1), lepton(30, -2.0, -1)], jets=(50.0, 60.0)),
    event([muon(40, 0.1, 1), muon(30, 0.1, -1)]),
    # not tight, not triggered, or of one charge already
    event([muon(40, 0.1, 1)], [lepton(30, -1.5, -1, tight=False)]),
    event([muon(40, 0.1, 1)], [lepton(30, -1.5, -1)], fired=False),
    event([], [lepton(50, 0.5, 1), lepton(30, -2.0, 1)]),
]
ODDS = {"-1.5": 0.04 / 0.96, "0.5": 0.02 / 0.98, "-2.0": 0.05 / 0.95}


def test_flips_are_predicted_from_data_alone(tmp_path: Path) -> None:
    data = processed(events_of(tmp_path / "d.root", OPPOSITE, data=True))["ht"]
    found = cells(data)
    each = [ODDS["-1.5"], ODDS["0.5"] + ODDS["-2.0"]]
    assert found["ss", "flips", "nominal"] == (sum(each), sum(w**2 for w in each))
    for name, shift in (("flips_rateUp", 0.01), ("flips_rateDown", -0.01)):
        varied = [(p + shift) / (1 - p - shift) for p in (0.04, 0.02, 0.05)]
        value = data.select(channel="ss", region="flips", systematic=name).project().at()
        assert value.view().value == pytest.approx(sum(varied), rel=1e-5)
    assert set(only(found, region="flips")) == {
        ("ss", "flips", name) for name in ("nominal", "flips_rateUp", "flips_rateDown")
    }
    simulated = processed(events_of(tmp_path / "s.root", OPPOSITE))["ht"]
    assert only(cells(simulated), region="flips") == {}


@pytest.mark.parametrize("in_cuts", [True, False])
@pytest.mark.parametrize("quantity", ["charge", "lep0_charge"])
def test_flips_count_by_the_charge_that_they_lead_to(
    tmp_path: Path, in_cuts: bool, quantity: str
) -> None:
    """Whether a cut speaks of charges or an observable: each electron flips to the other's."""
    events = events_of(tmp_path / "d.root", OPPOSITE, data=True)
    plus = ODDS["-1.5"] + ODDS["-2.0"]
    minus = ODDS["0.5"]
    if in_cuts:
        channels = {
            name: {"lep_chan_lst": [[name, cut]], **BLOCK} for name, cut in (("p", "p"), ("m", "m"))
        }
        cuts = {"p": f"{quantity} > 0", "m": f"{quantity} < 0"}
        filled = processed(events, channels=channels, cuts=cuts)["ht"]
        view = filled.select(region="flips", systematic="nominal").project("channel").at()
        found = dict(zip(view.axes[0], view.values().tolist(), strict=True))
        assert found == pytest.approx({"p": plus, "m": minus}, rel=1e-5)
        return
    observables = {"q": {"expression": quantity, "label": "x", "edges": [-2.5, -1.5, 0, 1.5, 2.5]}}
    filled = processed(events, observables=observables)["q"]
    found = filled.select(channel="ss", region="flips", systematic="nominal").values()[0]
    expected = [minus, 0, 0, plus] if quantity == "charge" else [0, minus, plus, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_flipped_pair_is_no_z_boson(tmp_path: Path) -> None:
    events = events_of(tmp_path / "d.root", OPPOSITE, data=True)
    channels = {"z": {"lep_chan_lst": [["z", "any", "~onZ"]], **BLOCK}}
    pair = events.Electron[1]
    mass = (pair[0] + pair[1]).mass
    cuts = {**ANALYSIS["cuts"], "onZ": f"abs(m_z - {mass}) < 1"}
    filled = processed(events, channels=channels, cuts=cuts)["ht"]
    value = filled.select(channel="z", region="flips", systematic="nominal").values().sum()
    assert value == pytest.approx(sum(ODDS.values()), rel=1e-5)


def test_simulated_flips_are_left_to_the_prediction(tmp_path: Path) -> None:
    """An electron (identity 11) has the charge -1; one without an origin has flipped no more than
    a muon. What another channel has stays."""
    pairs = [
        event([muon(40, 0.1, -1)], [lepton(30, 0.5, -1)], weight=1.0, made=(11,)),
        event([muon(40, 0.1, -1)], [lepton(30, 0.5, -1)], weight=2.0, made=(-11,)),
        event([muon(40, 0.1, 1)], [lepton(30, 0.5, 1)], weight=4.0, made=(11,)),
        event([muon(40, 0.1, 1)], [lepton(30, 0.5, 1)], weight=8.0, made=(-11,)),
        event([muon(40, 0.1, 1)], [lepton(30, 0.5, 1)], weight=16.0),
        event([], [lepton(40, 0.5, 1), lepton(30, 0.5, 1)], weight=32.0, made=(-11, 11)),
        event([], [lepton(40, 0.5, 1), lepton(30, 0.5, 1)], weight=64.0, made=(-11, -11)),
        event([muon(40, 0.1, -1)], [lepton(30, 0.5, 1)], weight=128.0, made=(11,)),
    ]
    events = events_of(tmp_path / "s.root", pairs)
    values = only(cells(processed(events)["ht"]), region="signal", systematic="nominal")
    assert {key[0]: value.expected[0] for key, value in values.items()} == {
        "ss": 1 + 8 + 16 + 64, "os": 128,
    }  # fmt: skip
    # without a map of flips they are expected like all else
    plain = cells(processed(events, flips=False)["ht"])
    assert plain["ss", "signal", "nominal"].expected[0] == 127


def test_jets_weights_and_theory_vary_what_they_should(tmp_path: Path) -> None:
    """One event of two jets, one at 29 GeV that a larger energy brings in, and its weights."""
    rows = [
        event([muon(40, 0.1, 1), muon(30, -0.2, 1)], weight=2.0, jets=(80.0, 29.0)),
        event([muon(40, 0.1, 1), muon(30, -0.2, 1)], weight=5.0, jets=(31.0,)),
    ]
    theory = [[1.5, 1.25, 0.5], [2.0, 1.0, 0.25]]
    analysis = {
        "systematics": {
            "shape": {
                "jes": {"jet_scale": {"up": 1.1, "down": 0.9}},
                "sf": {"weight": {"up": "1 + 0.1 * n_jet", "down": "1 - 0.1 * n_jet"}},
                "idle": {"weight": {"up": "9", "down": "9"}, "jet_scale": {"up": 2.0, "down": 3.0},
                         "processes": ["other"]},
            },
            "theory": {
                "isr": {"branch": "PSWeight", "up": 0, "down": 2},
                "rare": {"branch": "PSWeight", "up": 7, "down": 8, "processes": ["other"]},
            },
        },
        "observables": {"ht": {"expression": "ht", "label": "x", "edges": [0, 30, 85, 100, 200]}},
    }  # fmt: skip
    simulated = events_of(tmp_path / "s.root", rows, PSWeight=theory)
    filled = processed(simulated, **analysis)["ht"].select(channel="ss", region="signal")
    names = [name for name in filled.categories("systematic") if "nonprompt" not in name]
    found = {name: filled.select(systematic=name).values()[0].tolist() for name in names}
    assert found == {
        "nominal": pytest.approx([0, 7, 0, 0]),
        "sfUp": pytest.approx([0, 1.1 * 7, 0, 0]),
        "sfDown": pytest.approx([0, 0.9 * 7, 0, 0]),
        "isrUp": pytest.approx([0, 1.5 * 2 + 2.0 * 5, 0, 0]),
        "isrDown": pytest.approx([0, 0.5 * 2 + 0.25 * 5, 0, 0]),
        # 88 + 31.9, and 34.1; 72, and none
        "jesUp": pytest.approx([0, 5, 0, 2]),
        "jesDown": pytest.approx([5, 2, 0, 0]),
    }
    seen = processed(events_of(tmp_path / "d.root", rows, data=True), **analysis)["ht"]
    counted = {key[2]: value.expected for key, value in only(cells(seen), region="signal").items()}
    assert counted == {"nominal": (2.0, 2.0)}


@pytest.mark.parametrize(
    ("cut", "nominal", "up", "down"),
    [
        # only the energy of jets brings the second event in, or takes the first out
        ("(n_lep == 2) & (n_jet >= 1)", 1, 1 + 2, 0),
        ("n_lep == 2 and ht > 0 and lep0_pt > 35", 1, 1 + 2, 0),
        # no cut on leptons has to be passed
        ("(n_jet >= 1) | (lep0_pt > 55)", 1 + 8, 1 + 2 + 4 + 8, 8),
        ("~((n_jet == 0) & (n_lep > 0))", 1, 1 + 2 + 4, 0),
        # an undecided cut on leptons, where jets decide: 0/0 and a no is a no
        ("((lep1_pt / lep1_pt == 1) | (n_jet >= 1)) & (n_jet >= 1)", 1, 1 + 2 + 4, 0),
    ],
)
def test_jets_bring_events_into_channels(
    cut: str, nominal: float, up: float, down: float, tmp_path: Path
) -> None:
    two = [muon(40, 0.1, 1), muon(30, -0.2, 1)]
    rows = [
        event(two, weight=1.0, jets=(31.0,)),
        event(two, weight=2.0, jets=(29.0,)),
        event([muon(50, 0.1, 1)], weight=4.0, jets=(29.0,)),
        event([muon(60, 0.1, 1)], weight=8.0, jets=()),
        event(two, weight=16.0, jets=(29.0,), fired=False),
        event([muon(60, 0.1, 1)], weight=32.0, jets=(29.0,), fired=False),
    ]
    analysis = {
        "channels": {"c": cut},
        "nonprompt": None,
        "systematics": {"shape": {"jes": {"jet_scale": {"up": 1.1, "down": 0.9}}}},
    }
    for squares in (True, [{}]):
        processor = TopCoffeaProcessor(
            analysis_of({**ANALYSIS, **analysis}), POINTS, ["c"], squares
        )
        filled = processor.process(events_of(tmp_path / "s.root", rows))["ht"]
        view = filled.project("systematic").at().values()
        found = dict(zip(filled.categories("systematic"), view.tolist(), strict=True))
        expected = {"nominal": nominal, "jesUp": up, "jesDown": down}
        assert {name: found.get(name, 0) for name in expected} == expected


def test_a_theory_weight_that_an_event_lacks_is_named(tmp_path: Path) -> None:
    """One of two events has two weights; the third is asked for, of a process that has it."""
    rows = [event([muon(40, 0.1, 1), muon(30, -0.2, 1)]) for _ in range(2)]
    events = events_of(tmp_path / "s.root", rows, PSWeight=[[1.5, 1.25, 0.5], [2.0, 1.0]])
    isr = {"branch": "PSWeight", "up": 1, "down": 2}
    with pytest.raises(DataFileError, match="dataset written: PSWeight has fewer than 3 values"):
        processed(events, systematics={"theory": {"isr": isr}})
    of_both = processed(events, systematics={"theory": {"isr": {**isr, "down": 0}}})["ht"]
    found = only(cells(of_both), channel="ss", region="signal")
    assert found["ss", "signal", "isrUp"].expected[0] == 1.25 + 1.0


def test_an_eft_event_carries_its_weight_in_its_terms(tmp_path: Path) -> None:
    rows = [event([muon(40, 0.1, 1), muon(30, -0.2, 1)], weight=7.0) for _ in range(2)]
    events = events_of(
        tmp_path / "s.root", rows, EFTfitCoefficients=[[2.0, 1.0, 0.5], [3.0, 0.0, 1.0]],
        wc_names=["c"],
    )  # fmt: skip
    out = processed(events)
    found = cells(out["ht"], {"c": 2.0})
    first, second = 2 + 2 * 1 + 4 * 0.5, 3 + 4 * 1
    assert found["ss", "signal", "nominal"] == (first + second, first**2 + second**2)
    # where it is on its axes, and beside others, it has that of the Standard Model
    spread = out[ENTRIES][{"channel": "ss"}]
    assert (spread["number"].value, spread["weight"].value) == (2, 5)
    assert spread["weight"].variance == 2**2 + 3**2
    assert out[COVERAGE][{"axis": "ht"}].view(flow=True).sum(axis=(1, 2)).tolist() == [2, 5]


def test_coefficients_are_as_many_in_each_event(tmp_path: Path) -> None:
    """Not only in sum, which would shift those of one event into the next."""
    rows = [event([muon(40, 0.1, 1), muon(30, -0.2, 1)]) for _ in range(3)]
    terms = [[2.0, 1.0, 0.5], [3.0, 0.0], [1.0, 1.0, 1.0, 4.0]]
    events = events_of(tmp_path / "s.root", rows, EFTfitCoefficients=terms, wc_names=["c"])
    with pytest.raises(DataFileError, match=r"an event has 2 EFTfitCoefficients; .*\(c\) make 3"):
        processed(events)


def test_only_certified_sections_of_data_count(tmp_path: Path) -> None:
    rows = [event([muon(40, 0.1, 1), muon(30, -0.2, 1)]) for _ in range(5)]
    golden = '{"1": [[2, 3]]}'
    found = processed(events_of(tmp_path / "d.root", rows, data=True, lumi_mask=golden))
    assert cells(found["ht"])["ss", "signal", "nominal"] == (2, 2)
    assert found["cutflow"]["trigger"] == 2
    blind = processed(events_of(tmp_path / "b.root", rows, data=True), unblind=False)
    assert only(cells(blind["ht"]), region="signal") == {}
    assert (blind["cutflow"]["ss"], blind["cutflow"]["trigger"]) == (0, 5)


def test_an_event_passes_every_cut_of_its_channel(tmp_path: Path) -> None:
    rows = [
        event([muon(pt, 0.1, 1), muon(30, -0.2, 1)], weight=weight, jets=(jet,))
        for pt, jet, weight in ((40, 80, 1.0), (40, 50, 2.0), (33, 80, 4.0), (33, 50, 8.0))
    ]
    events = events_of(tmp_path / "s.root", rows)
    cuts = {"hard": "ht > 60", "lead": "lep0_pt > 35", "any": "n_lep > 0"}
    for named, total in (
        (["hard", "lead"], 1), (["lead", "hard"], 1), (["hard", "any"], 5), (["any", "lead"], 3),
        (["~hard", "lead", "any"], 2), (["~hard", "~lead"], 8),
    ):  # fmt: skip
        channels = {"x": {"lep_chan_lst": [["x", *named]], **BLOCK}}
        found = cells(processed(events, cuts=cuts, channels=channels)["ht"])
        assert found["x", "signal", "nominal"].expected[0] == total, named


def test_corrections_multiply_and_vary_one_at_a_time(tmp_path: Path) -> None:
    """One of tight leptons, one of events. A lepton that is tight and not loose is none."""
    rows = [
        event([muon(40, 0.1, 1), muon(30, -0.2, 1), muon(9, 0.1, 1)], weight=2.0),
        # the one that fails has no factor, and its rate
        event([muon(40, 0.1, 1), muon(25, -0.2, 1, tight=False)], weight=3.0),
    ]
    points = {"loose": {"cuts": ["pt > 10"]}, "tight": {"cuts": ["id"]}}
    sides = {side: {"systematic": side} for side in ("up", "down")}
    nominal = {"systematic": "nominal"}
    declared = {
        "sf": {"file": "f", "correction": "sf", "of": "tight", "inputs": {"pt": "Muon_pt"},
               "choices": nominal, "variations": sides},
        "pu": {"file": "f", "correction": "pu", "inputs": {"n": "event"},
               "choices": nominal, "variations": sides},
    }  # fmt: skip
    texts = {
        "sf": correction("sf", {"nominal": "1+0.01*x", "up": "1+0.02*x", "down": "1"}, "pt"),
        "pu": correction("pu", {"nominal": "2+x", "up": "3+x", "down": "1+x"}, "n"),
    }
    processor = TopCoffeaProcessor(
        analysis_of({**ANALYSIS, "corrections": declared}),
        WorkingPoints({"Muon": points, "Electron": points}),
        ["c"],
        maps=MAPS,
        corrections=Corrections(declared, texts),
    )
    found = cells(processor.process(events_of(tmp_path / "s.root", rows))["ht"])
    expected = {
        "nominal": (2 * 1.4 * 1.3 * 2, 3 * 1.4 * 3),
        "sfUp": (2 * 1.8 * 1.6 * 2, 3 * 1.8 * 3),
        "sfDown": (2 * 2, 3 * 3),
        "puUp": (2 * 1.4 * 1.3 * 3, 3 * 1.4 * 4),
        "puDown": (2 * 1.4 * 1.3 * 1, 3 * 1.4 * 2),
    }
    signal = only(found, channel="ss", region="signal")
    assert signal == {
        ("ss", "signal", name): (first, first**2) for name, (first, _) in expected.items()
    }
    failing = {name: (second, odds(0.2)) for name, (_, second) in expected.items()}
    # rates vary, with the corrections as they are
    second = expected["nominal"][1]
    failing |= {"nonprompt_rate_muUp": (second, odds(0.22))}
    for name, (weight, odd) in failing.items():
        assert found["ss", "nonprompt", name] == (weight * odd, (weight * odd) ** 2), name
    # data are as they are
    seen = processor.process(events_of(tmp_path / "d.root", rows, data=True))["ht"]
    assert only(cells(seen), region="signal") == {("ss", "signal", "nominal"): (1, 1)}


def test_triggers_are_those_of_the_year(tmp_path: Path) -> None:
    pair = [muon(40, 0.1, 1), muon(30, -0.2, 1)]
    rows = [event(pair), event(pair, fired=False)]
    triggers = [{"paths": ["HLT_B"], "years": ["2018"]}, {"paths": ["HLT_A"], "years": ["2017"]}]
    # in a year that has none every event counts
    for year, number in (("2017", 1), ("2022", 2)):
        events = events_of(tmp_path / f"{year}.root", rows, year=year)
        assert processed(events, triggers=triggers)["cutflow"]["ss"] == number
