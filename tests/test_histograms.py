"""Ratios against closed forms, scipy and the printed numbers of 2021; files and the notebook."""

import json
from pathlib import Path
from typing import Any

import correctionlib
import hist
import matplotlib as mpl
import numpy as np
import pytest
import uhi.io.json
import uhi.schema
import uproot
from matplotlib.text import Text
from scipy.stats import beta, binom

from looseleaf.errors import DataFileError
from looseleaf.histograms.plots import count_texts, figure, label, luminosity, ratio_texts
from looseleaf.histograms.ratio import ONE_SIGMA, CannotDivide, NotASubset, Ratio, divide
from looseleaf.histograms.store import (
    read_uhi,
    write_correction,
    write_root,
    write_uhi,
)

PT = hist.axis.Variable([10, 20, 50], name="pt", label="$p_T$ [GeV]")
ETA = hist.axis.Variable([0, 1.2, 2.1, 2.4], name="abs_eta", label="$|\\eta|$")


def counts(values: object, *axes: hist.axis.AxesMixin) -> hist.Hist:
    out = hist.Hist(*axes, storage=hist.storage.Double())
    out.values()[...] = values
    return out


def weighted(rng: np.random.Generator, size: int, rate: float) -> tuple[hist.Hist, hist.Hist]:
    """Tight and loose of events with varying weights."""
    pt, eta = rng.uniform(10, 50, size), rng.uniform(0, 2.4, size)
    weight = rng.choice([0.1, 1.0, 5.0], size)
    passed = rng.random(size) < rate
    tight, loose = (hist.Hist(PT, ETA, storage=hist.storage.Weight()) for _ in range(2))
    loose.fill(pt, eta, weight=weight)
    tight.fill(pt[passed], eta[passed], weight=weight[passed])
    return tight, loose


def test_the_table_of_2021_to_its_printed_digits(repo: Path) -> None:
    seed = json.loads((repo / "tests/data/fake_rate_2021.json").read_text())
    axes = (
        hist.axis.Variable(seed["pt_edges_gev"], name="pt"),
        hist.axis.Variable(seed["abs_eta_edges_muon"], name="abs_eta"),
    )
    tight, loose = (counts(np.array(seed[key]).T, *axes) for key in ("tight_muon", "loose_muon"))
    ratio = divide(tight, loose, "uncorrelated")
    np.testing.assert_array_equal(np.round(ratio.value.T, 2), seed["ratio_printed"])
    np.testing.assert_array_equal(np.round(ratio.up.T, 2), seed["ratio_error_printed"])


def test_clopper_pearson_is_scipys_beta() -> None:
    axis = hist.axis.Regular(5, 0, 1, name="x")
    k, n = np.array([0, 1, 5, 9, 10]), np.full(5, 10)
    ratio = divide(counts(k, axis), counts(n, axis), "clopper-pearson")
    tail = (1 - ONE_SIGMA) / 2
    lower = np.where(k == 0, 0, beta.ppf(tail, np.maximum(k, 1e-9), n - k + 1))
    upper = np.where(k == n, 1, beta.ppf(1 - tail, k + 1, np.maximum(n - k, 1e-9)))
    np.testing.assert_allclose(ratio.lower, lower, atol=1e-12)
    np.testing.assert_allclose(ratio.upper, upper, atol=1e-12)


def test_wilson_solves_its_equation() -> None:
    axis = hist.axis.Regular(4, 0, 1, name="x")
    k, n = np.array([0, 3, 50, 100]), np.array([7, 10, 80, 100])
    ratio = divide(counts(k, axis), counts(n, axis), "wilson")
    # an end p of the interval lies one standard deviation sqrt(p(1-p)/n) from k/n
    for end in (ratio.lower, ratio.upper):
        np.testing.assert_allclose((k / n - end) ** 2, end * (1 - end) / n, atol=1e-12)


def test_clopper_pearson_covers_at_least_what_it_promises() -> None:
    # exact: the coverage at p is a sum over all outcomes, no toys are needed
    n = 20
    axis = hist.axis.Regular(n + 1, 0, 1, name="x")
    k = np.arange(n + 1)
    ratio = divide(counts(k, axis), counts(np.full(n + 1, n), axis), "clopper-pearson")
    for p in np.linspace(0.02, 0.98, 49):
        covered = (ratio.lower <= p) & (p <= ratio.upper)
        assert binom.pmf(k, n, p)[covered].sum() >= ONE_SIGMA


def test_weighted_is_roots_binomial_option() -> None:
    tight, loose = weighted(np.random.default_rng(1), 5000, 0.3)
    ratio = divide(tight, loose, "weighted")
    n, p = loose.view(), tight.view()
    f = p.value / n.value
    expected = np.sqrt(((1 - 2 * f) * p.variance + f**2 * n.variance) / n.value**2)
    np.testing.assert_allclose(ratio.value, f, rtol=1e-14)
    np.testing.assert_allclose(ratio.up, expected, rtol=1e-12)
    np.testing.assert_allclose(ratio.down, expected, rtol=1e-12)


def test_weighted_of_unit_weights_is_the_binomial_spread() -> None:
    axis = hist.axis.Regular(2, 0, 1, name="x")
    ratio = divide(counts([30, 20], axis), counts([100, 50], axis), "weighted")
    np.testing.assert_allclose(ratio.up, [np.sqrt(0.3 * 0.7 / 100), np.sqrt(0.4 * 0.6 / 50)])


def test_weighted_interval_covers_in_toys() -> None:
    rng = np.random.default_rng(3)
    toys, rate, hits, cells = 300, 0.2, 0, 0
    for _ in range(toys):
        ratio = divide(*weighted(rng, 3000, rate), "weighted")
        hits += int(((ratio.lower <= rate) & (rate <= ratio.upper)).sum())
        cells += ratio.value.size
    spread = np.sqrt(ONE_SIGMA * (1 - ONE_SIGMA) / cells)
    # four standard deviations of the toys, and one percent for the smallest cells' skewness
    assert abs(hits / cells - ONE_SIGMA) < 4 * spread + 0.01


def test_weighted_ends_are_not_taken_for_certain() -> None:
    axis = hist.axis.Regular(2, 0, 1, name="x")
    ratio = divide(counts([0, 10], axis), counts([10, 10], axis), "weighted")
    tail = (1 - ONE_SIGMA) / 2
    np.testing.assert_allclose(ratio.up[0], beta.ppf(1 - tail, 1, 10))
    np.testing.assert_allclose(ratio.down[1], 1 - beta.ppf(tail, 10, 1))


@pytest.mark.parametrize(
    ("tight", "loose"),
    [((-3, 25), (100, 121)), ((0.01, 1e-4), (4, 4)), ((-0.01, 1e-4), (4, 4)), ((0, 0), (4, 4))],
)
def test_a_bin_that_a_subtraction_leaves_empty(
    tight: tuple[float, float], loose: tuple[float, float]
) -> None:
    axis = hist.axis.Regular(1, 0, 1, name="x")
    passing, total = (hist.Hist(axis, storage=hist.storage.Weight()) for _ in range(2))
    passing.view()[0], total.view()[0] = tight, loose
    ratio = divide(passing, total, "weighted")
    # neither less than the spread of what was subtracted nor than that of the few entries
    entries = loose[0] ** 2 / loose[1]
    few = beta.ppf(
        1 - (1 - ONE_SIGMA) / 2, ratio.value[0] * entries + 1, entries * (1 - ratio.value[0])
    )
    assert ratio.upper[0] >= max(few, np.sqrt(tight[1]) / loose[0]) - 1e-12
    assert ratio.lower[0] >= 0


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"lumi_ifb": 59.83}, "59.83 fb$^{-1}$ (13 TeV)"),
        ({"lumi_ifb": None, "energies": "13.6"}, "(13.6 TeV)"),
    ],
)
def test_labels_say_luminosity_and_energy(more: dict[str, Any], text: str) -> None:
    fig, ax = figure()
    label(ax, "Private work", data=True, **more)
    assert text in [child.get_text() for child in fig.findobj(Text)]


def test_an_empty_bin_is_recorded_as_empty() -> None:
    axis = hist.axis.Regular(3, 0, 1, name="x")
    for interval in ("clopper-pearson", "wilson", "weighted", "uncorrelated"):
        ratio = divide(counts([0, 1, 0], axis), counts([0, 2, 5], axis), interval)
        assert ratio.empty.tolist() == [True, False, False]
        assert np.isnan([ratio.value[0], ratio.lower[0], ratio.upper[0]]).all()
        assert not np.isnan(ratio.value[1:]).any()


def test_more_passing_than_there_are_is_refused() -> None:
    axis = hist.axis.Regular(2, 0, 1, name="x")
    with pytest.raises(NotASubset, match=r"bin \(1,\): 6 pass of 5"):
        divide(counts([1, 6], axis), counts([5, 5], axis), "clopper-pearson")


def test_binomial_of_weights_is_refused() -> None:
    with pytest.raises(CannotDivide, match="for unweighted counts"):
        divide(*weighted(np.random.default_rng(1), 100, 0.5), "wilson")


def test_negative_numerator_counts_as_zero() -> None:
    axis = hist.axis.Regular(1, 0, 1, name="x")
    tight, loose = (hist.Hist(axis, storage=hist.storage.Weight()) for _ in range(2))
    tight.view().value, tight.view().variance = -3.0, 25.0
    loose.view().value, loose.view().variance = 100.0, 120.0
    ratio = divide(tight, loose, "weighted")
    assert ratio.value.tolist() == [0.0]
    assert ratio.upper[0] > 0


@pytest.fixture
def measured() -> tuple[Ratio, hist.Hist, hist.Hist]:
    tight, loose = weighted(np.random.default_rng(5), 4000, 0.15)
    loose.view().value[0, 2] = tight.view().value[0, 2] = 0
    return divide(tight, loose, "weighted"), tight, loose


def test_correction_evaluates_to_the_map(
    measured: tuple[Ratio, hist.Hist, hist.Hist], tmp_path: Path
) -> None:
    ratio, _, loose = measured
    path = tmp_path / "map.json"
    write_correction(path, "muon_fake_rate", "test", ratio, loose)
    correction = correctionlib.CorrectionSet.from_file(str(path))["muon_fake_rate"]
    for i, pt in enumerate((15.0, 30.0)):
        for j, eta in enumerate((0.5, 1.5, 2.2)):
            expected = (
                (0, 0, 0)
                if ratio.empty[i, j]
                else (ratio.value[i, j], ratio.upper[i, j], max(ratio.lower[i, j], 0))
            )
            found = [correction.evaluate(s, pt, eta) for s in ("nominal", "stat_up", "stat_down")]
            # its JSON parser is exact to the last digit but one
            assert found == pytest.approx(expected, rel=1e-15)
    # beyond the range: the last bins
    assert correction.evaluate("nominal", 500.0, 0.5) == correction.evaluate("nominal", 49.0, 0.5)
    assert correction.evaluate("nominal", 5.0, 1.5) == correction.evaluate("nominal", 11.0, 1.5)
    assert correction.evaluate("nominal", 30.0, 9.9) == correction.evaluate("nominal", 30.0, 2.3)
    assert "1 of 6 bins are empty" in json.loads(path.read_text())["corrections"][0]["description"]
    assert "NaN" not in path.read_text()


def test_root_file_holds_values_and_variances(
    measured: tuple[Ratio, hist.Hist, hist.Hist], tmp_path: Path
) -> None:
    ratio, tight, _ = measured
    write_root(tmp_path / "m.root", {"tight": tight, "ratio": ratio.to_hist()})
    with uproot.open(tmp_path / "m.root") as root:
        np.testing.assert_array_equal(root["tight"].values(), tight.values())
        np.testing.assert_allclose(root["tight"].variances(), tight.variances(), rtol=1e-15)
        np.testing.assert_array_equal(root["ratio"].axis("x").edges(), [10, 20, 50])
        assert root["ratio"].values()[0, 2] == 0
        half = (ratio.upper - ratio.lower)[1, 1] / 2
        np.testing.assert_allclose(root["ratio"].errors()[1, 1], half, rtol=1e-12)


def test_uhi_keeps_everything(tmp_path: Path) -> None:
    tight, _ = weighted(np.random.default_rng(6), 1000, 0.5)
    tight.fill(1000, 0.1, weight=3)
    steps = hist.Hist(hist.axis.StrCategory(["a", "b"], name="s"), storage=hist.storage.Int64())
    steps.fill(["a", "b", "b"])
    write_uhi(tmp_path / "h.json", {"tight": tight, "steps": steps}, {"n": 1})
    found, metadata = read_uhi(tmp_path / "h.json")
    assert metadata == {"n": 1}
    assert found["tight"] == tight
    assert found["tight"].axes[0].label == "$p_T$ [GeV]"
    assert found["tight"].view(flow=True)[-1, 1].value == 3
    assert found["steps"]["b"] == 2


def test_files_are_valid_in_uhis_own_schema(tmp_path: Path) -> None:
    tight, _ = weighted(np.random.default_rng(6), 1000, 0.5)
    others = {
        "steps": hist.Hist(hist.axis.StrCategory(["a"], name="s"), storage=hist.storage.Int64()),
        "regular": hist.Hist(hist.axis.Regular(3, 0, 1, name="x"), storage=hist.storage.Double()),
        "numbers": hist.Hist(hist.axis.Integer(0, 5, name="n", label="number")),
    }
    metadata = {"title": "Muons", "empty_bins": [[0, 1]], "lumi_ifb": None, "table": {"a": [1, 2]}}
    write_uhi(tmp_path / "h.json", {"tight": tight, **others}, metadata)
    uhi.schema.validate(uhi.schema.load(tmp_path / "h.json"))
    # as UHI's documentation reads a file
    loaded = json.loads((tmp_path / "h.json").read_text(), object_hook=uhi.io.json.object_hook)
    assert list(loaded) == ["tight", *others]
    assert hist.Hist(loaded["tight"]) == tight
    found, about = read_uhi(tmp_path / "h.json")
    assert about == metadata
    assert {name: found[name] for name in others} == others


@pytest.mark.parametrize("text", ["{}", "[]", "3", '{"format": "looseleaf-histograms/1"}'])
def test_a_file_that_holds_no_histograms(tmp_path: Path, text: str) -> None:
    (tmp_path / "h.json").write_text(text)
    with pytest.raises(DataFileError, match=r"h\.json: not a file of histograms"):
        read_uhi(tmp_path / "h.json")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"weighted"', '"other"'),
        ('"edges"', '"ends"'),
        ('\\"n\\"', "n"),
        ('"values"', '"valves"'),
    ],
)
def test_a_damaged_file_of_histograms(tmp_path: Path, old: str, new: str) -> None:
    tight, _ = weighted(np.random.default_rng(6), 100, 0.5)
    write_uhi(tmp_path / "h.json", {"tight": tight}, {"n": 1})
    text = (tmp_path / "h.json").read_text()
    assert old in text
    (tmp_path / "h.json").write_text(text.replace(old, new))
    with pytest.raises(DataFileError, match=r"h\.json: damaged .*; delete it, and run again"):
        read_uhi(tmp_path / "h.json")


def test_cells_say_value_and_uncertainty() -> None:
    value = np.array([[0.1234, 0.0], [np.nan, 0.5]])
    lower = np.array([[0.1134, 0.0], [np.nan, 0.45]])
    upper = np.array([[0.1334, 0.012], [np.nan, 0.51]])
    texts = ratio_texts(Ratio(value, lower, upper, np.isnan(value), "wilson"))
    assert texts[0, 0] == "0.123\n±0.010"
    assert texts[0, 1] == "0.000\n$^{+0.012}_{-0.000}$"
    assert texts[1, 0] == "empty"
    assert texts[1, 1] == "0.500\n$^{+0.010}_{-0.050}$"


def test_cells_of_counts() -> None:
    axis = hist.axis.Regular(4, 0, 1, name="x")
    assert count_texts(counts([3, 12345.6, 0.25, 1e6], axis)).tolist() == [
        "3",
        "12,346",
        "0.25",
        "1,000,000",
    ]


def test_the_notebook_runs_from_the_files_of_a_map(
    measured: tuple[Ratio, hist.Hist, hist.Hist],
    repo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ratio, tight, loose = measured
    results, here = tmp_path / "results/fakerate/muon", tmp_path / "notebooks"
    results.mkdir(parents=True)
    here.mkdir()
    about = {"title": "Muons", "is_data": False, "lumi_ifb": 0.035}
    write_uhi(results / "map.json", {"tight": tight, "loose": loose}, about)
    write_correction(results / "map.correctionlib.json", "muon_fake_rate", "test", ratio, loose)
    monkeypatch.chdir(here)
    mpl.use("agg")
    notebook = json.loads((repo / "notebooks/fake_rate.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [(cell["outputs"], cell["execution_count"]) for cell in cells] == [([], None)] * 6
    names: dict[str, Any] = {}
    for cell in cells:
        # lines for Jupyter, not for Python
        exec("".join(line for line in cell["source"] if not line.startswith("%")), names)
    np.testing.assert_array_equal(names["ratio"].value, ratio.value)
    assert {text.get_text() for text in names["picture"].axes[0].texts} >= set(
        ratio_texts(ratio).ravel()
    )
    assert len(names["by_eta"].axes[0].containers) == 3
    expected = tight.values().sum(axis=1) / loose.values().sum(axis=1)
    np.testing.assert_allclose(names["by_pt"].value, expected)
    assert names["rate"].evaluate("nominal", 27.5, 1.3) == pytest.approx(ratio.value[1, 1])


@pytest.mark.parametrize(
    ("ifb", "text"),
    [(59.83, "59.83 fb$^{-1}$"), (0.035, "35 pb$^{-1}$"), (5e-5, "50 nb$^{-1}$")],
)
def test_luminosity_in_a_unit_that_reads_well(ifb: float, text: str) -> None:
    assert luminosity(ifb) == text
