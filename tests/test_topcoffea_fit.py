"""Templates, datacards and the pyhf model: closed forms, and toys that find what was injected."""

import json
from pathlib import Path
from typing import Any

import hist
import numpy as np
import pyhf
import pytest
import uproot
from analyses import analysis_of
from scipy.stats import poisson

from looseleaf.efthist import EFTHist
from looseleaf.topcoffea.datacards import write_datacards
from looseleaf.topcoffea.fit import EFTModel, FitFailed
from looseleaf.topcoffea.pictures import LARGEST_RATIO, by_process, pictures, stack, twice_delta_nll
from looseleaf.topcoffea.store import write_histograms
from looseleaf.topcoffea.templates import factors, kept_coefficients, parts_of, templates_of

pytestmark = pytest.mark.slow

EDGES = [0, 1, 2, 3, 4]
ANALYSIS: dict[str, Any] = {
    "name": "small",
    "title": "A small analysis",
    "signal": ["ttH"],
    "observables": {"x": {}},
    "systematics": {
        "rate": {
            "lumi": {"value": 1.02},
            "xsec_tt": {"value": [0.9, 1.2], "processes": ["tt"]},
        }
    },
}


def filled(squares: Any = True, events: int = 4000) -> EFTHist:
    """A signal that two coefficients move, a background and an idle third coefficient."""
    rng = np.random.default_rng(5)
    out = EFTHist(
        hist.axis.StrCategory([], name="process", growth=True),
        hist.axis.StrCategory(["one", "two"], name="channel", overflow=False),
        hist.axis.StrCategory([], name="systematic", growth=True),
        hist.axis.Variable(EDGES, name="x"),
        coefficients=["a", "b", "idle"],
        squares=squares,
    )
    x = rng.uniform(-0.3, 4.3, events)
    amplitude = [np.ones(events), 0.15 + 0.05 * x, 0.25 - 0.06 * x, np.zeros(events)]
    rest = [0, 0.02, 0.03, 0]
    terms = np.stack(
        [
            (1 if i == j else 2) * amplitude[i] * amplitude[j] + (rest[i] if i == j else 0)
            for i in range(4)
            for j in range(i + 1)
        ],
        axis=1,
    )
    for channel, scale in (("one", 0.2), ("two", 0.1)):
        for label, factor in (("nominal", 1.0), ("jesUp", 1.04), ("jesDown", 0.96)):
            weight = np.full(events, scale * factor)
            out.fill("ttH", channel, label, x, weight=weight, eft=terms)
            out.fill("tt", channel, label, x[: events // 4], weight=weight[: events // 4])
    return out


def test_templates_are_the_points_that_they_are_named_after() -> None:
    whole = filled()
    found = {t.name: t for t in templates_of(whole, "one", ["ttH"], ["a", "b"])}
    one = whole.select(process="ttH", channel="one", systematic="nominal")

    def f(**point: float) -> np.ndarray:
        values = one.values([point], flow=True)[0]
        folded = values[1:-1].copy()
        folded[0] += values[0]
        folded[-1] += values[-1]
        return folded

    np.testing.assert_allclose(found["ttH_sm"].values, f())
    np.testing.assert_allclose(found["ttH_lin_a"].values, f(a=1))
    np.testing.assert_allclose(found["ttH_quad_b"].values, (f(b=2) - 2 * f(b=1) + f()) / 2)
    np.testing.assert_allclose(found["ttH_quad_mixed_a_b"].values, f(a=1, b=1))
    assert set(found) == {"tt", *(f"ttH_{part}" for part in parts_of(["a", "b"]))}
    # every variation of a signal is taken apart too
    np.testing.assert_allclose(found["ttH_lin_a"].variations["jesUp"], 1.04 * f(a=1))


def test_what_lies_beyond_the_axis_is_in_the_outermost_bins() -> None:
    kinds = (("process", "p"), ("channel", "c"), ("systematic", "nominal"))
    axes = [hist.axis.StrCategory([name], name=kind, overflow=False) for kind, name in kinds]
    one = EFTHist(*axes, hist.axis.Variable(EDGES, name="x"), coefficients=["a"])
    one.fill("p", "c", "nominal", [-1.0, 0.5, 3.5, 9.0], weight=np.array([2.0, 3.0, 5.0, 7.0]))
    (found,) = templates_of(one, "c", ["ttH"], ["a"])
    assert found.values.tolist() == [5, 0, 0, 12]
    assert found.variances.tolist() == [4 + 9, 0, 0, 25 + 49]


def test_a_variation_that_leaves_nothing_in_one_direction_is_kept() -> None:
    whole = filled()
    x = np.full(3, 0.5)
    whole.fill("rare", "one", "nominal", x)
    whole.fill("rare", "one", "jesUp", x)
    found = {t.name: t for t in templates_of(whole, "one", ["ttH"], ["a"])}
    np.testing.assert_array_equal(found["rare"].variations["jesUp"], [3, 0, 0, 0])
    np.testing.assert_array_equal(found["rare"].variations["jesDown"], [0, 0, 0, 0])


def test_a_coefficient_that_moves_next_to_nothing_is_left_out() -> None:
    """Below a ten-thousandth of the Standard Model in every bin."""
    kinds = (("process", "p"), ("channel", "c"), ("systematic", "nominal"))
    axes = [hist.axis.StrCategory([name], name=kind, overflow=False) for kind, name in kinds]
    for linear, kept in ((0.9e-4, []), (1.1e-4, ["a"]), (-1.1e-4, ["a"])):
        one = EFTHist(*axes, hist.axis.Variable(EDGES, name="x"), coefficients=["a"])
        one.fill("p", "c", "nominal", [0.5], eft=np.array([[1.0, linear, 0.0]]))
        assert kept_coefficients(one, ["p"], None) == kept


def test_error_of_a_quadratic_part_is_that_of_its_events() -> None:
    terms = np.random.default_rng(1).normal(size=(300, 3))
    kinds = (("process", "p"), ("channel", "c"), ("systematic", "nominal"))
    axes = [hist.axis.StrCategory([name], name=kind, overflow=False) for kind, name in kinds]
    x = np.full(300, 0.5)
    for squares in (True, [{"a": float(value)} for value in (0, 1, 2, -1, -2)]):
        one = EFTHist(*axes, hist.axis.Variable(EDGES, name="x"), coefficients=["a"],
                      squares=squares)  # fmt: skip
        one.fill("p", "c", "nominal", x, eft=terms)
        found = {t.part: t.variances[0] for t in templates_of(one, "c", ["p"], ["a"])}
        expected = {"sm": terms[:, 0], "lin_a": terms.sum(axis=1), "quad_a": terms[:, 2]}
        assert found == pytest.approx({part: (v**2).sum() for part, v in expected.items()})


def test_what_lies_beyond_the_axis_is_in_the_last_bins_with_its_errors() -> None:
    kinds = (("process", "p"), ("channel", "c"), ("systematic", "nominal"))
    axes = [hist.axis.StrCategory([name], name=kind, overflow=False) for kind, name in kinds]
    one = EFTHist(*axes, hist.axis.Variable([0, 1, 2], name="x"), coefficients=["a"])
    # below, first, last and twice above the axis
    x = np.array([-5.0, 0.5, 1.5, 2.0, 70.0])
    terms = np.array([[1, 0, 2], [3, 1, 1], [2, 0, 4], [5, 1, 2], [1, 2, 3]], float)
    one.fill("p", "c", "nominal", x, weight=[2, 1, 1, 1, 3], eft=terms)
    weighted = terms * np.array([[2], [1], [1], [1], [3]])
    found = {t.part: t for t in templates_of(one, "c", ["p"], ["a"])}
    parts = {"sm": weighted[:, 0], "lin_a": weighted.sum(axis=1), "quad_a": weighted[:, 2]}
    for part, events in parts.items():
        bins = (events[:2], events[2:])
        np.testing.assert_allclose(found[part].values, [b.sum() for b in bins])
        np.testing.assert_allclose(found[part].variances, [(b**2).sum() for b in bins])


def test_parts_add_up_to_the_quadratic() -> None:
    whole = filled()
    names = ["a", "b"]
    found = [t for t in templates_of(whole, "two", ["ttH"], names) if t.part]
    for a, b in ((0.3, -0.7), (2.0, 1.5), (-3.0, 0.0)):
        scale = factors(names, [a, b])
        total = sum(scale[t.part] * t.values for t in found).sum()
        point = {"a": a, "b": b}
        expected = whole.select(process="ttH", channel="two", systematic="nominal").project()
        assert total == pytest.approx(expected.values([point])[0])


def test_a_coefficient_that_moves_nothing_is_left_out() -> None:
    assert kept_coefficients(filled(), ["ttH"], None) == ["a", "b"]
    assert kept_coefficients(filled(), ["ttH"], ["b"]) == ["b"]
    assert kept_coefficients(filled(), ["tt"], None) == []


def cards(
    folder: Path, histogram: EFTHist | None = None, **changes: Any
) -> tuple[dict[str, Any], str, Any]:
    write_histograms(folder / "h.h5", {"x": filled() if histogram is None else histogram}, {})
    paths = [{c: str(folder / f"{c}.{end}") for c in ("one", "two")} for end in ("txt", "root")]
    write_datacards(
        analysis_of({**ANALYSIS, **changes}), folder / "h.h5", *paths, folder / "workspace.json"
    )
    workspace = json.loads((folder / "workspace.json").read_text())
    return workspace, (folder / "one.txt").read_text(), uproot.open(folder / "one.root")


def test_a_card_says_what_its_templates_hold(tmp_path: Path) -> None:
    _, text, root = cards(tmp_path)
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split()}
    processes = next(line.split()[1:] for line in text.splitlines() if line.startswith("process "))
    assert processes == [
        "ttH_sm", "ttH_lin_a", "ttH_quad_a", "ttH_lin_b", "ttH_quad_b", "ttH_quad_mixed_a_b", "tt",
    ]  # fmt: skip
    assert rows["process"] == ["-5", "-4", "-3", "-2", "-1", "0", "1"]
    assert rows["lumi"] == ["lnN", *["1.02"] * 7]
    assert rows["xsec_tt"] == ["lnN", *["-"] * 6, "0.9/1.2"]
    assert rows["jes"] == ["shape", *["1"] * 7]
    assert rows["ch_one"] == ["autoMCStats", "10", "1"]
    _, text, _ = cards(tmp_path, datacards={**ANALYSIS.get("datacards", {}), "auto_mc_stats": 2.5})
    assert "\nch_one autoMCStats 2.5 1\n" in text
    for name, rate in zip(processes, rows["rate"], strict=True):
        assert root[name].values().sum() == pytest.approx(float(rate), abs=1e-5)
        for direction, factor in (("Up", 1.04), ("Down", 0.96)):
            varied = root[f"{name}_jes{direction}"].values()
            np.testing.assert_allclose(varied, factor * root[name].values())
    # Asimov: what the Standard Model predicts
    observed = root["ttH_sm"].values() + root["tt"].values()
    np.testing.assert_allclose(root["data_obs"].values(), observed)
    assert float(rows["observation"][0]) == pytest.approx(observed.sum(), abs=1e-5)


@pytest.mark.parametrize("unblind", [False, True])
def test_cards_show_data_to_nobody_before_they_may(tmp_path: Path, unblind: bool) -> None:
    with_data = filled()
    counts = np.array([7, 11, 13, 17])
    with_data.fill("data", "one", "nominal", np.repeat(np.arange(4) + 0.5, counts))
    workspace, text, root = cards(tmp_path, with_data, unblind=unblind)
    asimov = root["ttH_sm"].values() + root["tt"].values()
    shown = counts if unblind else asimov
    np.testing.assert_allclose(root["data_obs"].values(), shown)
    assert f"observation {shown.sum():.9g}\n" in text
    assert "data" not in next(li for li in text.splitlines() if li.startswith("process ")).split()
    (one,) = (o["data"] for o in workspace["observations"] if o["name"] == "ch_one")
    np.testing.assert_allclose(one, shown)


def test_predictions_and_negative_bins_in_a_card(tmp_path: Path) -> None:
    more = filled()
    x, weight = np.array([0.5, 1.5, 1.5, 2.5]), np.array([10.0, 5.0, -9.0, 20.0])
    for process in ("nonprompt", "flips", "odd"):
        more.fill(process, "one", "nominal", x, weight=weight)
    more.fill("nonprompt", "one", "nonprompt_rate_muonUp", x, weight=2 * weight)
    more.fill("nonprompt", "one", "nonprompt_rate_muonDown", x, weight=weight / 2)
    rate = {
        "lumi": {"value": 1.02},
        "closure": {"value": 1.3, "processes": ["nonprompt"]},
        "method": {"value": [0.8, 1.1], "processes": ["flips"]},
    }
    workspace, text, root = cards(tmp_path, more, systematics={"rate": rate})
    rows = {
        line.split()[0]: line.split()[2:] for line in text.splitlines() if len(line.split()) > 2
    }
    columns = next(line.split()[1:] for line in text.splitlines() if line.startswith("process "))
    by_process = {
        name: dict(zip(columns, rows[name], strict=True))
        for name in ("lumi", "closure", "method", "nonprompt_rate_muon")
    }
    predicted = {"nonprompt", "flips"}
    assert {p for p, text in by_process["lumi"].items() if text == "-"} == predicted
    assert {p: t for p, t in by_process["closure"].items() if t != "-"} == {"nonprompt": "1.3"}
    assert {p: t for p, t in by_process["method"].items() if t != "-"} == {"flips": "0.8/1.1"}
    assert {p for p, t in by_process["nonprompt_rate_muon"].items() if t != "-"} == {"nonprompt"}
    # a sum of weights below zero counts as none, with its error
    for process in ("nonprompt", "flips", "odd"):
        assert root[process].values().tolist() == [10, 0, 20, 0]
        assert root[process].variances().tolist() == [100, 25 + 81, 400, 0]
    assert root["nonprompt_nonprompt_rate_muonUp"].values().tolist() == [20, 0, 40, 0]
    model = pyhf.Workspace(workspace).model()
    parameters = model.config.suggested_init()
    nominal = model.expected_data(parameters, include_auxdata=False)
    parameters[model.config.par_slice("closure").start] = 1.0
    moved = model.expected_data(parameters, include_auxdata=False) - nominal
    bins = model.config.channel_slices["ch_one"]
    np.testing.assert_allclose(moved[bins], [3, 0, 6, 0], atol=1e-9)


def test_the_workspace_is_the_histogram_at_every_point(tmp_path: Path) -> None:
    workspace, _, _ = cards(tmp_path)
    model = EFTModel(workspace, ["a", "b"])
    whole = filled().select(systematic="nominal").grouped("process", {"all": ["ttH", "tt"]})
    for point in ({}, {"a": 0.5}, {"a": -1.0, "b": 2.0}):
        expected = whole.select(process="all").project("channel").values([point])[0]
        found = model.expected(point).reshape(2, 4).sum(axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_asimov_data_give_back_the_standard_model(tmp_path: Path) -> None:
    workspace, _, _ = cards(tmp_path)
    best = EFTModel(workspace, ["a", "b"]).fit(start={"a": 0.2, "b": -0.1})
    assert best.values == pytest.approx({"a": 0.0, "b": 0.0}, abs=2e-2)
    assert 0 < best.errors["a"] < 1


def test_statistical_factors_are_as_wide_as_the_standard_models_errors(tmp_path: Path) -> None:
    workspace, _, root = cards(tmp_path)
    config = EFTModel(workspace, ["a", "b"]).model.config
    parts = [root[name] for name in ("ttH_sm", "tt")]
    expected = np.sqrt(sum(part.variances() for part in parts)) / sum(p.values() for p in parts)
    np.testing.assert_allclose(config.param_set("stat_ch_one").width(), expected)
    assert config.param_set("stat_ch_one").n_parameters == len(EDGES) - 1
    # what is signal beyond the Standard Model varies with the rest of its bin
    carriers = [
        sample["name"]
        for sample in workspace["channels"][0]["samples"]
        if any(m["type"] == "staterror" for m in sample["modifiers"])
    ]
    assert len(carriers) == 7


def test_statistics_of_the_simulation_move_the_whole_bin(tmp_path: Path) -> None:
    workspace, _, _ = cards(tmp_path)
    model = EFTModel(workspace, ["a", "b"])
    parameters = model.parameters({"a": 1.5, "b": -0.5})
    before = model.model.expected_data(parameters, include_auxdata=False)
    parameters[model.model.config.par_slice("stat_ch_one")] = 1.1
    after = model.model.expected_data(parameters, include_auxdata=False)
    np.testing.assert_allclose(after, before * np.repeat([1.1, 1.0], 4))


def test_errors_are_those_of_the_counts_however_many(tmp_path: Path) -> None:
    # with nothing that matters to profile, 1 / error^2 sums up (d expected / d a)^2 / expected
    workspace, _, _ = cards(tmp_path, systematics={"rate": {"lumi": {"value": 1 + 1e-9}}})
    for channel in workspace["channels"]:
        for sample in channel["samples"]:
            sample["data"] = [1e5 * value for value in sample["data"]]
            sample["modifiers"] = [
                m for m in sample["modifiers"] if m["type"] in ("normfactor", "normsys")
            ]
    model = EFTModel(workspace, ["a", "b"], fixed={"b": 0.0})
    point = {"a": 0.3}
    data = model.model.expected_data(model.parameters(point))
    best = model.fit(data, start={"a": 0.31})
    up, down = (model.expected({"a": 0.3 + step}) for step in (1e-3, -1e-3))
    slope = (up - down) / 2e-3
    error = 1 / np.sqrt(np.sum(slope**2 / model.expected(point)))
    assert best.errors["a"] == pytest.approx(error, rel=1e-3)
    assert abs(best.values["a"] - 0.3) < 1e-2 * error


def test_the_likelihood_is_pyhfs_with_every_nuisance_at_its_best(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """pyhf's own minimiser, at points where the factors of the parts are held."""
    workspace, _, _ = cards(tmp_path)
    both = {"a": 0.4, "b": -0.3}
    data = EFTModel(workspace, ["a", "b"]).toys(both, 1, seed=8)[0]
    pyhf.set_backend("numpy", "minuit")
    request.addfinalizer(lambda: pyhf.set_backend("numpy"))
    ours, theirs = [], []
    for point in (both, {"a": 0.0, "b": 0.0}, {"a": 0.9, "b": 0.2}):
        held = EFTModel(workspace, ["a", "b"], fixed={"b": point["b"]})
        nuisances = EFTModel(workspace, ["a", "b"], fixed=point)
        ours.append(nuisances.fit(data).twice_nll)
        config, start = held.model.config, held.parameters(point).tolist()
        parts = [
            name.partition("_")[0] in ("sm", "lin", "quad", "mixed") for name in config.par_names
        ]
        fixed = [h or part for h, part in zip(config.suggested_fixed(), parts, strict=True)]
        _, value = pyhf.infer.mle.fit(
            data, held.model, start, fixed_params=fixed, return_fitted_val=True
        )
        theirs.append(float(value))
    # they differ by a constant of the data
    np.testing.assert_allclose(np.diff(ours), np.diff(theirs), atol=2e-3)
    assert max(np.abs(np.diff(ours))) > 1


def test_a_fit_without_a_minimum_says_so(tmp_path: Path) -> None:
    workspace, _, _ = cards(tmp_path)
    model = EFTModel(workspace, ["a", "b"])
    nothing = np.full_like(model.observed, np.nan)
    with pytest.raises(FitFailed, match=r"the fit of a, b found no minimum \(started at"):
        model.fit(nothing)


def test_a_coefficient_that_runs_away_says_so(tmp_path: Path) -> None:
    workspace, _, _ = cards(tmp_path)
    model = EFTModel(workspace, ["a", "b"], fixed={"b": 0.0})
    far = model.observed.copy()
    far[: model.model.config.nmaindata] = model.expected({"a": 400.0})
    with pytest.raises(FitFailed, match="the fit of a ends at 100 for a, the largest value that"):
        model.fit(far, start={"a": 50.0})


def test_toys_find_the_injected_coefficient(tmp_path: Path) -> None:
    workspace, _, _ = cards(tmp_path)
    model = EFTModel(workspace, ["a", "b"], fixed={"b": 0.0})
    injected, number = {"a": 0.5}, 120
    fits = [model.fit(toy, start=injected) for toy in model.toys(injected, number, seed=3)]
    pulls = np.array([(fit.values["a"] - 0.5) / fit.errors["a"] for fit in fits])
    assert abs(pulls.mean()) < 3 / np.sqrt(number)
    assert abs(pulls.std() - 1) < 3 / np.sqrt(2 * number)


def test_a_bin_that_the_standard_model_leaves_empty_counts_in_the_curve() -> None:
    one = EFTHist(
        hist.axis.StrCategory(["ttH"], name="process"),
        hist.axis.StrCategory(["one"], name="channel", overflow=False),
        hist.axis.Variable([0, 1, 2], name="x"),
        coefficients=["a"],
    )
    one.fill("ttH", "one", np.array([0.5, 1.5]), eft=np.array([[4.0, 0, 0], [0, 0, 3.0]]))
    # 4 events expected and seen, and 3 expected where none are: 2 m
    assert twice_delta_nll(one, "a", np.array([0.0, 1.0])) == pytest.approx([0, 6])


def test_curve_is_the_likelihood_of_the_counts() -> None:
    nominal = filled().select(systematic="nominal")
    scan = np.array([-1.0, 0.0, 0.4])
    found = twice_delta_nll(nominal, "a", scan)
    expected = []
    for value in scan:
        at, sm = nominal.at({"a": value}), nominal.at()
        m, n = (h.values(flow=True).sum(axis=0).ravel() for h in (at, sm))
        m, n = m[n > 0], n[n > 0]
        expected.append(-2 * (poisson.logpmf(n.round(), m) - poisson.logpmf(n.round(), n)).sum())
    # whole numbers stand in for Asimov data, which have fractions
    np.testing.assert_allclose(found, expected, rtol=0.05, atol=1e-9)
    assert found[1] == 0
    assert found.min() == 0


def test_pictures_show_processes_points_and_data(tmp_path: Path) -> None:
    whole = filled()
    data = whole.grouped("process", {"data": ["tt"]})
    analysis = {
        **ANALYSIS,
        "lumi_ifb": {"2017": 41.5, "2018": 59.8},
        "channels": {"one": "n_lep == 2", "two": "n_lep == 3"},
        "points": {"SM": {}, "a = 1": {"a": 1.0}},
        "scan": {"a": [-1, 1]},
    }
    grown = whole + data.select(process="data").with_category("process", "data")
    # what lies beyond the axis is in the last bins
    inside = grown.select(channel="one", systematic="nominal", process="tt").at().view(flow=True)
    shown = by_process(grown.select(channel="one", systematic="nominal"), {})["tt"].view()
    assert shown.value[[0, -1]] == pytest.approx(inside.value[[0, -1]] + inside.value[[1, -2]])
    assert shown.variance.sum() == pytest.approx(inside.variance.sum())
    assert shown.value[1:-1] == pytest.approx(inside.value[2:-2])
    band = "Statistical uncertainty"
    for unblind in (False, True):
        one = grown.select(channel="one", systematic="nominal")
        _, ax = stack(analysis_of({**analysis, "unblind": unblind}), one, "x", "one")
        labels = [text.get_text() for text in ax.get_legend().get_texts()]
        assert sorted(labels) == sorted(
            ["tt", "ttH", "a = 1", *(["Data"] if unblind else []), band]
        )
    # a ratio beyond the axis has a mark at its end
    at = {"SM": {}, "near": {"a": 0.1}, "far": {"a": 90.0}}
    fig, _ = stack(analysis_of({**analysis, "points": at, "unblind": False}), one, "x", "one")
    below = fig.axes[1]
    (marks,) = [line for line in below.lines if line.get_marker() == "^" and len(line.get_xdata())]
    known = sum(part.values() for name, part in by_process(one, {}).items() if name != "data")
    far = sum(part.values() for name, part in by_process(one, at["far"]).items() if name != "data")
    beyond = far > LARGEST_RATIO * known
    assert beyond.any()
    np.testing.assert_array_equal(marks.get_xdata(), one.axes["x"].centers[beyond])
    assert (marks.get_ydata() < below.get_ylim()[1]).all()
    write_histograms(tmp_path / "h.h5", {"x": grown}, {})
    pictures(analysis_of(analysis), tmp_path / "h.h5", tmp_path, "Private work", "13.6")
    drawn = sorted(path.name for path in tmp_path.glob("*.p*"))
    assert drawn == [f"{n}.{end}" for n in ("curve_a", "one_x", "two_x") for end in ("pdf", "png")]


def test_bars_of_data_are_poissons_central_intervals() -> None:
    whole = filled()
    counts = [0, 1, 5, 10]
    x = np.repeat((np.array(EDGES[1:]) + EDGES[:-1]) / 2, counts)
    whole.fill("data", "one", "nominal", x)
    one = whole.select(channel="one", systematic="nominal")
    _, ax = stack(analysis_of({**ANALYSIS, "points": {"SM": {}}, "unblind": True}), one, "x", "one")
    (bars,) = ax.containers[-1].lines[2]
    ends = [segment[:, 1] for segment in bars.get_segments()]
    # Garwood's, as the PDG's tables have them
    expected = [(0, 1.841), (0.173, 3.300), (2.840, 8.382), (6.891, 14.267)]
    np.testing.assert_allclose(ends, expected, atol=6e-4)
