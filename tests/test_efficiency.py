"""Efficiencies by tag and probe: closed forms, toys, a loop over pairs, a known scale factor."""

import copy
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import awkward as ak
import correctionlib
import numpy as np
import pytest
import uproot
import yaml
from analyses import analysis_of
from coffea.nanoevents import NanoEventsFactory
from conftest import REPO
from correctionlib import schemav2
from hist import Hist
from hist.axis import StrCategory
from hist.storage import Weight
from ledgers import write_ledger
from runners import of_both_runners
from samples import sample, skimmed
from scipy.stats import chi2, norm

from looseleaf.config.settings import load
from looseleaf.efficiency.declaration import Efficiency
from looseleaf.efficiency.estimate import (
    Fit,
    NoEfficiency,
    Spectra,
    bands,
    bernstein,
    count,
    exponential,
    fit,
    smeared,
)
from looseleaf.efficiency.measure import measure
from looseleaf.efficiency.processor import EfficiencyProcessor
from looseleaf.errors import ConfigError, DataFileError
from looseleaf.files import read_json
from looseleaf.histograms.coverage import beyond, losses_dominated
from looseleaf.histograms.ratio import divide
from looseleaf.histograms.store import read_uhi, write_uhi
from looseleaf.objects.corrections import Corrections
from looseleaf.objects.leptons import WorkingPoints
from looseleaf.processing.feed import SkimmedNanoAOD
from looseleaf.processing.fileset import chunks_of, from_manifest
from looseleaf.processing.runner import process_task
from looseleaf.stage_files import original_of

pytestmark = pytest.mark.slow

POINTS = WorkingPoints(yaml.safe_load((REPO / "config/working_points.yaml").read_text()))
SHIPPED = yaml.safe_load((REPO / "config/analyses/muon_id.yaml").read_text())
NONE = Corrections({}, {})
EDGES = np.linspace(60, 120, 31)
# the peak and the bands beside it, each as wide
PEAK = bands(EDGES, (80, 100), 10)
ONE_SIGMA = 0.6827


def counts(values: Any) -> Spectra:
    return Spectra(np.asarray(values, float), np.asarray(values, float))


def peak_of(rng: np.random.Generator, number: int, sigma: float = 1.5) -> np.ndarray:
    mass = 91.2 + 1.25 * np.tan(rng.uniform(-1.5, 1.5, number)) + rng.normal(0, sigma, number)
    return np.histogram(mass, EDGES)[0].astype(float)


def flat(rng: np.random.Generator, number: float) -> np.ndarray:
    return rng.poisson(np.full(len(EDGES) - 1, number / (len(EDGES) - 1))).astype(float)


def falling(rng: np.random.Generator, number: float, slope: float) -> np.ndarray:
    mass = 60 + rng.exponential(1 / slope, rng.poisson(number))
    return np.histogram(mass, EDGES)[0].astype(float)


def assert_unbiased_and_covering(truth: float, estimates: list[Any]) -> None:
    values = np.array([one.value for one in estimates])
    number = len(values)
    assert abs(values.mean() - truth) < 3 * values.std() / np.sqrt(number)
    covered = sum(one.lower <= truth <= one.upper for one in estimates) / number
    assert abs(covered - ONE_SIGMA) < 3 * np.sqrt(ONE_SIGMA * (1 - ONE_SIGMA) / number)


# the count


def test_a_count_without_background_has_wilsons_interval() -> None:
    spectra = np.zeros((2, 30))
    spectra[:, 15] = 7, 93
    found = count(counts(spectra), *PEAK)
    passing, every = (Hist.new.Reg(1, 0, 1).Int64() for _ in range(2))
    passing[0], every[0] = 93, 100
    wilson = divide(passing, every, "wilson")
    assert found.value == pytest.approx(0.93)
    assert [found.lower, found.upper] == pytest.approx([wilson.lower[0], wilson.upper[0]], rel=1e-9)


def test_what_lies_beneath_the_peak_is_taken_away() -> None:
    # 1 pair in every bin beside the peak, which is 10 bins wide: 10 beneath it
    spectra = np.ones((2, 30))
    spectra[:, 15] = 41, 161
    found = count(counts(spectra), *PEAK)
    assert found.value == pytest.approx(160 / 200)
    # the interval is where P - e (P + F) is one standard deviation from zero
    for beside, of_bands in ((10, 10), (4, 2.5**2 * 4)):
        found = count(counts(spectra), *bands(EDGES, (80, 100), beside))
        assert found.value == pytest.approx(160 / 200)
        for e in (found.lower, found.upper):
            square = e * (1 - e) * 200 + ((1 - e) ** 2 + e**2) * (10 + of_bands)
            assert (160 - 200 * e) ** 2 == pytest.approx(square)


def test_the_scale_of_weights_says_nothing() -> None:
    rng = np.random.default_rng(1)
    values = np.stack([peak_of(rng, 300) + flat(rng, 90), peak_of(rng, 2000) + flat(rng, 60)])
    plain = count(counts(values), *PEAK)
    scaled = count(Spectra(values * 3e-4, values * 3e-4**2), *PEAK)
    for name in ("value", "lower", "upper"):
        assert getattr(scaled, name) == pytest.approx(getattr(plain, name), rel=1e-9)


@pytest.mark.parametrize("truth", [0.5, 0.9, 0.95])
def test_toys_of_the_count(truth: float) -> None:
    rng = np.random.default_rng(2)
    found, naive = [], []
    for _ in range(2000):
        values = np.zeros((2, 30))
        values[:, 15] = rng.poisson(400 * np.array([1 - truth, truth]))
        values += [flat(rng, 90), flat(rng, 30)]
        found.append(count(counts(values), *PEAK))
        failing, passing = values[:, PEAK[0]].sum(axis=1)
        naive.append(passing / (passing + failing))
    assert_unbiased_and_covering(truth, found)
    # background beneath the failing probes makes the plain count wrong
    assert truth - np.mean(naive) > 0.02


def test_toys_of_a_weighted_count() -> None:
    rng = np.random.default_rng(3)
    found = []
    for _ in range(2000):
        values, squares = np.zeros((2, 30)), np.zeros((2, 30))
        for side, expected in enumerate((100, 900)):
            # a sixth of the weights is negative
            number = rng.poisson(expected * np.array([1 / 6, 5 / 6]))
            values[side, 15] = number[1] - number[0]
            squares[side, 15] = number.sum()
        found.append(count(Spectra(2.5 * values, 2.5**2 * squares), *PEAK))
    assert_unbiased_and_covering(0.9, found)


@pytest.mark.parametrize("level", [0, 50])
def test_a_count_without_a_peak_is_refused(level: int) -> None:
    with pytest.raises(NoEfficiency, match="no pairs remain at the peak"):
        count(counts(np.full((2, 30), level)), *PEAK)


def test_a_count_keeps_within_nothing_and_everything() -> None:
    for side in (0, 1):
        spectra = np.zeros((2, 30))
        # beneath one side there is more than it has itself
        spectra[:, 15], spectra[side, PEAK[1]] = 1000, 105
        found = count(counts(spectra), *PEAK)
        assert found.value == 1 - side
        assert (found.lower if side else found.upper) == found.value
        assert 0 <= found.lower <= found.upper <= 1


def test_a_peak_that_the_background_hides_is_refused() -> None:
    shallow, deep = np.full((2, 30), 50.0), np.zeros((2, 30))
    shallow[:, 15] += 6
    # far more failing pairs beneath the peak than in it
    deep[:, 15], deep[:, 7] = (88, 131), (186, 29)
    for spectra in (shallow, deep):
        with pytest.raises(NoEfficiency, match="can't be separated from the background"):
            count(counts(spectra), *PEAK)


# the fit


def test_smearing_is_a_convolution() -> None:
    rng = np.random.default_rng(4)
    content = np.zeros(30)
    content[[12, 15, 16]] = 1.0, 5.0, 2.0
    number = 400_000
    chosen = rng.choice(30, number, p=content / content.sum())
    mass = EDGES[chosen] + rng.uniform(0, 2, number) + rng.normal(0.7, 1.8, number)
    drawn = np.histogram(mass, EDGES)[0]
    expected = smeared(EDGES, 0.7, 1.8) @ content / content.sum() * number
    used = expected > 10
    pull = (drawn - expected)[used] ** 2 / expected[used]
    assert chi2.sf(pull.sum(), used.sum()) > 0.01
    np.testing.assert_allclose(smeared(EDGES, 0.0, 1e-9), np.eye(30), atol=1e-6)


def test_backgrounds_are_parts_of_one() -> None:
    assert exponential(EDGES, 0.05).sum() == pytest.approx(1)
    ratio = exponential(EDGES, 0.05)[1:] / exponential(EDGES, 0.05)[:-1]
    np.testing.assert_allclose(ratio, np.exp(-0.05 * 2))
    np.testing.assert_allclose(exponential(EDGES, 0.0), 1 / 30, rtol=1e-6)
    np.testing.assert_allclose(bernstein(EDGES).sum(axis=1), 1)
    # those of one degree add up to a constant
    np.testing.assert_allclose(bernstein(EDGES).mean(axis=0), 1 / 30)


def test_toys_of_the_fit() -> None:
    rng = np.random.default_rng(5)
    truth, fits, naive = 0.85, [], []
    for _ in range(80):
        peaks = counts([peak_of(rng, 30_000), peak_of(rng, 170_000)])
        # the data's resolution is worse than the simulation's
        failing, passing = rng.poisson(3000 * np.array([1 - truth, truth]))
        values = [
            peak_of(rng, failing, 1.8) + falling(rng, 1200, 0.04),
            peak_of(rng, passing, 1.8) + falling(rng, 300, 0.02),
        ]
        fits.append(fit(counts(values), peaks, EDGES, 0.9, "polynomial"))
        of_failing, of_passing = np.sum(values, axis=1)
        naive.append(of_passing / (of_passing + of_failing))
    assert_unbiased_and_covering(truth, [one.efficiency for one in fits])
    assert truth - np.mean(naive) > 0.1
    # resolutions add in quadrature, and the bins of the simulated peak smear it too
    assert 0.4 < np.mean([one.smearing for one in fits]) < np.sqrt(1.8**2 - 1.5**2)
    assert np.mean([one.signal for one in fits]) == pytest.approx(2990, rel=0.02)
    assert np.mean([one.chi2 / one.ndf for one in fits]) == pytest.approx(1, abs=0.1)


def test_a_fit_of_expected_spectra_gives_back_what_they_are_made_of() -> None:
    rng = np.random.default_rng(6)
    peaks = counts([peak_of(rng, 40_000), peak_of(rng, 400_000)])
    shapes = [smeared(EDGES, 0.4, 1.1) @ values for values in peaks.values]
    shapes = [shape / shape.sum() for shape in shapes]
    values = np.array(
        [
            2000 * shapes[0] + 900 * exponential(EDGES, 0.05),
            8000 * shapes[1] + 500 * exponential(EDGES, 0.02),
        ]
    )
    found = fit(counts(values), peaks, EDGES, 0.5, "exponential")
    assert found.efficiency.value == pytest.approx(0.8, abs=1e-4)
    assert found.signal == pytest.approx(10_000, rel=1e-3)
    # the signal is that within the window, also where it cuts the peak: from 84 GeV
    cut = fit(counts(values[:, 12:]), counts(peaks.values[:, 12:]), EDGES[12:], 0.5, "exponential")
    assert cut.signal == pytest.approx((cut.expected - cut.background).sum(), rel=1e-9)
    assert (found.shift, found.smearing) == pytest.approx((0.4, 1.1), abs=0.01)
    np.testing.assert_allclose(found.background.sum(axis=1), [900, 500], rtol=0.01)
    assert found.chi2 < 0.1
    # weights of one size enter as their number
    weighted = fit(Spectra(values * 0.02, values * 0.02**2), peaks, EDGES, 0.5, "exponential")
    for name in ("value", "lower", "upper"):
        mine, other = (getattr(one.efficiency, name) for one in (found, weighted))
        assert other == pytest.approx(mine, abs=2e-4)


def test_a_fit_without_background_is_a_binomial() -> None:
    rng = np.random.default_rng(7)
    peaks = counts([peak_of(rng, 100_000), peak_of(rng, 900_000)])
    values = peaks.values / peaks.values.sum() * 10_000
    found = fit(counts(values), peaks, EDGES, 0.5, "exponential")
    assert found.efficiency.value == pytest.approx(0.9, abs=2e-3)
    half = (found.efficiency.upper - found.efficiency.lower) / 2
    assert half == pytest.approx(np.sqrt(0.9 * 0.1 / 10_000), rel=0.1)


def variance_of_peaks(found: Fit, peaks: Spectra) -> Any:
    """The variance of the expected signal from the simulated peaks; the pairs of a simulated bin
    move together."""
    moved = smeared(EDGES, found.shift, found.smearing)
    signal = (found.expected - found.background).sum(axis=1)
    scale = signal / (peaks.values @ moved.T).sum(axis=1)
    return (scale[:, None, None] ** 2 * moved**2 * peaks.variances[:, None, :]).sum(axis=2)


def test_errors_and_chi2_of_a_small_sample() -> None:
    rng = np.random.default_rng(10)
    peaks = counts([peak_of(rng, 3000), peak_of(rng, 40_000)])
    values = rng.poisson(peaks.values * [[15 / 3000], [400 / 40_000]]).astype(float)
    found = fit(counts(values), peaks, EDGES, 0.9, "exponential")
    assert found.remarks == ("no background of failing probes", "no background of passing probes")
    assert 0.1 < found.smearing < 2
    failing, passing = values.sum(axis=1)
    e = np.linspace(1e-4, 1 - 1e-4, 200_000)
    likelihood = passing * np.log(e) + failing * np.log(1 - e)
    within = e[likelihood > likelihood.max() - 0.5]
    ends = found.efficiency.lower, found.efficiency.upper
    assert ends == pytest.approx((within[0], within[-1]), abs=5e-4)
    used = found.expected >= 5
    variance = (found.expected + variance_of_peaks(found, peaks))[used]
    hand = np.sum((values - found.expected)[used] ** 2 / variance)
    assert found.chi2 == pytest.approx(hand, rel=1e-6)
    # efficiency, signal, shift and smearing
    assert found.ndf == used.sum() - 4
    assert found.p_value == pytest.approx(chi2.sf(found.chi2, found.ndf))


def test_negative_bins_count_as_empty() -> None:
    rng = np.random.default_rng(11)
    peaks = np.array([peak_of(rng, 20_000), peak_of(rng, 180_000)])
    values = rng.poisson(peaks / 20 + 20).astype(float)
    plain = fit(Spectra(values, 2 * values), counts(peaks), EDGES, 0.9, "polynomial")
    # weights with twice the spread of counts
    used = values / 2 >= 5
    variance = (2 * values + variance_of_peaks(plain, counts(peaks)))[used]
    hand = np.sum((values - plain.expected)[used] ** 2 / variance)
    assert plain.chi2 == pytest.approx(hand, rel=1e-6)
    values[:, 2], peaks[:, 29] = -8, -30
    found, empty = (
        fit(Spectra(one, 2 * abs(values)), counts(peaks), EDGES, 0.9, "polynomial")
        for one in (values, np.maximum(values, 0))
    )
    assert found.efficiency.value == pytest.approx(empty.efficiency.value, rel=1e-7)
    assert found.efficiency.value == pytest.approx(plain.efficiency.value, abs=0.01)
    assert (found.expected - found.background > -1e-9).all()


def test_a_steep_background_is_at_its_limit() -> None:
    rng = np.random.default_rng(12)
    peaks = counts([peak_of(rng, 20_000), peak_of(rng, 180_000)])
    values = peaks.values / 20 + np.array([falling(rng, 3000, 0.6), falling(rng, 800, 0.05)])
    found = fit(counts(values), peaks, EDGES, 0.9, "exponential")
    assert found.remarks == ("failing_slope is at its limit, 0.3/GeV",)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data, peaks: peaks.__setitem__(1, 0), "no passing pairs of prompt leptons"),
        # the resolution of the data is much worse
        (
            lambda data, peaks: data.__setitem__(
                slice(None), np.rint(smeared(EDGES, 0.0, 9.0) @ data.T).T
            ),
            "limit of smearing",
        ),
        (lambda data, peaks: data.__setitem__(0, 0), "no failing pairs in the mass window"),
        (lambda data, peaks: data.__setitem__(1, 0), "no passing pairs in the mass window"),
        (lambda data, peaks: peaks.__setitem__(0, 0), "no failing pairs of prompt leptons"),
        # the peak is 8 GeV from where the simulation has it
        (
            lambda data, peaks: peaks.__setitem__(slice(None), np.roll(peaks, 4, axis=1)),
            "limit of shift",
        ),
    ],
)
def test_a_fit_that_cannot_be_is_refused(change: Callable[..., None], why: str) -> None:
    rng = np.random.default_rng(8)
    peaks = np.array([peak_of(rng, 5000), peak_of(rng, 50_000)])
    data = peaks / 10 + [flat(rng, 100), flat(rng, 100)]
    data = np.rint(data)
    change(data, peaks)
    with pytest.raises(NoEfficiency, match=why):
        fit(counts(data), counts(peaks), EDGES, 0.9, "exponential")


# the processor

LOOSE = WorkingPoints(
    {"Muon": {"probe": {"cuts": ["pt > 8"]}, "good": {"like": "probe", "cuts": ["good"]}}}
)
TRIGGER = {
    **SHIPPED,
    "tag": "good",
    "probe": "probe",
    "passing": {"paths": ["HLT_A", "HLT_B"], "filter_bits": 10},
    "triggers": [{"paths": ["HLT_Recorded"]}],
    "mass": {"window": [20, 140], "bins": 24, "peak": [60, 100], "beside": 20},
    "binning": {"pt": [10, 30, 60], "abs_eta": [0, 1.2, 2.4]},
}
IDENTIFICATION = {**TRIGGER, "passing": "good"}


def opened(path: Path, **metadata: Any) -> Any:
    """The NanoEvents in a file."""
    return NanoEventsFactory.from_root(
        {str(path): "Events"}, schemaclass=SkimmedNanoAOD, metadata={"data": False, **metadata}
    ).events()


@pytest.fixture(scope="module")
def drawn_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    """Events of up to five muons and trigger objects near them: as dictionaries, in a file."""
    rng = np.random.default_rng(9)
    events = []
    for _ in range(1500):
        muons = [
            {
                "pt": rng.uniform(5, 70), "eta": rng.uniform(-2.6, 2.6),
                # some at the end of the circle
                "phi": rng.uniform(-math.pi, math.pi) if rng.random() < 0.7 else math.pi - 0.02,
                "mass": rng.uniform(0, 5),
                "charge": int(rng.choice([-1, 1])), "good": bool(rng.random() < 0.7),
                "genPartFlav": int(rng.choice([0, 1, 5, 15], p=[0.1, 0.5, 0.2, 0.2])),
            }
            for _ in range(rng.integers(0, 6))
        ]  # fmt: skip
        objects = [
            {
                "pt": muon["pt"], "eta": muon["eta"] + rng.uniform(-0.1, 0.1),
                # beyond the end of the circle
                "phi": (muon["phi"] + rng.uniform(-0.1, 0.1) + math.pi) % (2 * math.pi) - math.pi,
                "id": int(rng.choice([13, 11], p=[0.8, 0.2])),
                "filterBits": int(rng.choice([0, 2, 8, 10, 11, 26])),
            }
            for muon in muons
            if rng.random() < 0.8
        ]  # fmt: skip
        paths = {f"HLT_{one}": bool(rng.random() < 0.8) for one in ("A", "B", "Recorded")}
        weight = float(rng.choice([-2.0, 1.0, 3.0]))
        events.append({"Muon": muons, "TrigObj": objects, "genWeight": weight, **paths})
    for event in events:
        for collection in ("Muon", "TrigObj"):
            for one in event[collection]:
                # the file has single precision
                one |= {
                    k: float(np.float32(one[k])) for k in ("pt", "eta", "phi", "mass") if k in one
                }
    path = tmp_path_factory.mktemp("drawn") / "events.root"
    with uproot.recreate(path) as root:
        number = np.arange(len(events))
        content = {name: ak.from_iter([event[name] for event in events]) for name in events[0]}
        identity = {"run": np.ones_like(number), "luminosityBlock": number, "event": number}
        root["Events"] = {**identity, **content}
    return events, path


@pytest.fixture(scope="module")
def drawn(drawn_file: tuple[list[dict[str, Any]], Path]) -> tuple[list[dict[str, Any]], Any]:
    """The same events as dictionaries and as NanoEvents."""
    events, path = drawn_file
    return events, opened(path)


def near(muon: Mapping[str, Any], objects: list[dict[str, Any]], bits: int) -> bool:
    for one in objects:
        d_phi = abs(muon["phi"] - one["phi"])
        d_phi = min(d_phi, 2 * math.pi - d_phi)
        has = all(one["filterBits"] & bit for bit in (1, 2, 4, 8, 16) if bits & bit)
        if one["id"] == 13 and has and math.hypot(muon["eta"] - one["eta"], d_phi) < 0.1:
            return True
    return False


def mass_of(*muons: Mapping[str, Any]) -> float:
    energy, x, y, z = (0.0,) * 4
    for one in muons:
        px, py = one["pt"] * math.cos(one["phi"]), one["pt"] * math.sin(one["phi"])
        pz = one["pt"] * math.sinh(one["eta"])
        energy += math.sqrt(one["mass"] ** 2 + px**2 + py**2 + pz**2)
        x, y, z = x + px, y + py, z + pz
    return math.sqrt(energy**2 - x**2 - y**2 - z**2)


def pairs_of(
    analysis: Mapping[str, Any], event: Mapping[str, Any]
) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any], float, bool]]:
    """The tag, the probe, their mass and whether the probe passes, of each pair of an event."""
    passing = analysis["passing"]
    bits = analysis.get("tag_filter_bits") or (
        None if isinstance(passing, str) else passing["filter_bits"]
    )
    muons, objects = event["Muon"], event["TrigObj"]
    for i, tag in enumerate(muons):
        for j, probe in enumerate(muons):
            good = event["HLT_Recorded"] and tag["pt"] > 8 and tag["good"] and probe["pt"] > 8
            if i == j or not good or tag["charge"] == probe["charge"]:
                continue
            if bits is not None and not near(tag, objects, bits):
                continue
            if isinstance(passing, str):
                passes = probe["good"]
            else:
                fired = event["HLT_A"] or event["HLT_B"]
                passes = fired and near(probe, objects, passing["filter_bits"])
            yield tag, probe, mass_of(tag, probe), passes


def slowly(
    analysis: Mapping[str, Any],
    events: list[dict[str, Any]],
    weight_of: Callable[[Mapping[str, Any]], float] = lambda event: event["genWeight"],
    data: bool = False,
) -> dict[tuple[Any, ...], Any]:
    """Sums of weights and numbers of pairs by probe, origin, mass, pT and |eta|."""
    out: dict[tuple[Any, ...], Any] = {}
    pt_edges, eta_edges = analysis["binning"]["pt"], analysis["binning"]["abs_eta"]
    for event in events:
        for tag, probe, mass, passes in pairs_of(analysis, event):
            pt, eta = probe["pt"], abs(probe["eta"])
            if not (20 <= mass < 140 and 10 <= pt < 60 and eta < 2.4):
                continue
            prompt = {tag["genPartFlav"], probe["genPartFlav"]} <= {1, 15} and not data
            key = (
                "passing" if passes else "failing",
                "prompt" if prompt else "other",
                int((mass - 20) // 5),
                sum(pt >= edge for edge in pt_edges) - 1,
                sum(eta >= edge for edge in eta_edges) - 1,
            )
            value, number = out.get(key, (0.0, 0))
            out[key] = value + weight_of(event), number + 1
    return out


def filled_in(pairs: Any, variation: str = "nominal") -> dict[tuple[Any, ...], float]:
    """The contents of a histogram of pairs in a variation, as `slowly` has them."""
    out = {}
    for probe in ("failing", "passing"):
        for origin in ("other", "prompt"):
            values = pairs[variation, probe, origin, :, :, :].values()
            out |= {(probe, origin, *map(int, i)): values[tuple(i)] for i in np.argwhere(values)}
    return out


@pytest.mark.parametrize(
    "declared",
    [
        TRIGGER,
        IDENTIFICATION,
        {**IDENTIFICATION, "tag_filter_bits": 8},
        {**TRIGGER, "tag_filter_bits": 2},
    ],
    ids=["trigger", "identification", "matched tag", "tag of another filter"],
)
def test_pairs_are_those_of_a_loop(declared: dict[str, Any], drawn: Any) -> None:
    events, nano = drawn
    out = EfficiencyProcessor(analysis_of(declared), LOOSE, NONE).process(nano)
    pairs = out["pairs"]
    expected = slowly(declared, events)
    assert sum(number for _, number in expected.values()) > 300
    assert filled_in(pairs) == {key: value for key, (value, _) in expected.items() if value}
    assert pairs[sum, sum, sum, sum, sum, sum].variance > sum(n for _, n in expected.values())


@pytest.mark.parametrize("declared", [IDENTIFICATION, TRIGGER])
def test_pairs_are_those_of_coffeas_runner(declared: dict[str, Any], drawn_file: Any) -> None:
    processor = EfficiencyProcessor(analysis_of(declared), LOOSE, NONE)
    ours, theirs = of_both_runners(processor, drawn_file[1], data=False)
    assert ours == theirs


def test_the_cutflow_counts_events(drawn: Any) -> None:
    events, nano = drawn
    out = EfficiencyProcessor(analysis_of(IDENTIFICATION), LOOSE, NONE).process(nano)
    kept = [event for event in events if event["HLT_Recorded"]]
    probes = [event for event in kept if any(muon["pt"] > 8 for muon in event["Muon"])]
    masses = [[mass for *_, mass, _ in pairs_of(IDENTIFICATION, event)] for event in events]
    paired = sum(map(bool, masses))
    inside = sum(any(20 <= mass < 140 for mass in of_event) for of_event in masses)
    assert 0 < inside < paired < len(probes)
    assert out["cutflow"].values().tolist() == [1500, len(kept), len(probes), paired, inside]


def test_certified_data_counts_one_each(drawn_file: Any) -> None:
    events, path = drawn_file
    data = opened(path, data=True, lumi_mask='{"1": [[0, 399], [700, 1200]]}')
    out = EfficiencyProcessor(analysis_of(IDENTIFICATION), LOOSE, NONE).process(data)
    certified = [*events[:400], *events[700:1201]]
    expected = slowly(IDENTIFICATION, certified, lambda _: 1.0, data=True)
    assert filled_in(out["pairs"]) == {key: value for key, (value, _) in expected.items()}
    assert {origin for _, origin, *_ in expected} == {"other"}


def test_corrections_weigh_pairs_and_vary(drawn: Any, tmp_path: Path) -> None:
    events, nano = drawn
    factors: dict[str, list[Any]] = {"nominal": [2.0, 0.5], "high": [4.0, 0.25]}
    content = [
        schemav2.CategoryItem(
            key=key,
            value=schemav2.Binning(
                nodetype="binning", input="number", edges=[0, 4, 9], content=values, flow="error"
            ),
        )
        for key, values in factors.items()
    ]
    correction = schemav2.Correction(
        name="number", version=1,
        inputs=[schemav2.Variable(name="number", type="real"),
                schemav2.Variable(name="side", type="string")],
        output=schemav2.Variable(name="weight", type="real"),
        data=schemav2.Category(nodetype="category", input="side", content=content),
    )  # fmt: skip
    file = tmp_path / "number.json"
    collection = schemav2.CorrectionSet(schema_version=2, corrections=[correction])
    file.write_text(collection.model_dump_json(exclude_unset=True))
    wanted = {"file": str(file), "correction": "number", "inputs": {"number": "nMuon"},
              "choices": {"side": "nominal"}, "variations": {"up": {"side": "high"}}}  # fmt: skip
    declared = {**IDENTIFICATION, "corrections": {"sf": wanted}}
    analysis, corrections = analysis_of(declared), Corrections.from_files({"sf": wanted})
    out = EfficiencyProcessor(analysis, LOOSE, corrections).process(nano)
    for variation, values in (("nominal", factors["nominal"]), ("sf_up", factors["high"])):

        def weight_of(event: Mapping[str, Any], values: list[float] = values) -> float:
            return float(event["genWeight"] * values[len(event["Muon"]) >= 4])

        expected = slowly(declared, events, weight_of)
        assert filled_in(out["pairs"], variation) == {k: v for k, (v, _) in expected.items() if v}
    # where the probes are, with the nominal weights
    outside = every = number = 0.0
    for event in events:
        for _, probe, mass, _ in pairs_of(declared, event):
            if 20 <= mass < 140:
                weight = event["genWeight"] * factors["nominal"][len(event["Muon"]) >= 4]
                beyond_it = not 10 <= probe["pt"] < 60
                every, outside = every + abs(weight), outside + abs(weight) * beyond_it
                number += beyond_it
    found = beyond(out["coverage"], "pt")
    assert found.number == number > 0
    assert found.share == pytest.approx(outside / every)


def test_branches_of_what_is_declared() -> None:
    dataset = {"data": True}
    for declared, reads in ((IDENTIFICATION, False), (TRIGGER, True),
                            ({**IDENTIFICATION, "tag_filter_bits": 8}, True)):  # fmt: skip
        columns = analysis_of(declared).columns(dataset, LOOSE)
        assert ("TrigObj_filterBits" in columns) is reads
        assert "Muon_good" in columns
        assert "Muon_genPartFlav" not in columns
        assert ("HLT_A|HLT_B" in columns) is (declared is TRIGGER)
    other = WorkingPoints({"Muon": {n: {"cuts": [f"{n} > 0"]} for n in ("a", "b", "c")}})
    points = {"tag": "a", "probe": "b", "passing": "c"}
    columns = analysis_of({**IDENTIFICATION, **points}).columns(dataset, other)
    assert {"Muon_a", "Muon_b", "Muon_c"} <= columns
    assert Efficiency().declares(analysis_of(TRIGGER)) == ("data", "das", "lumi_mask")


def test_undecided_leptons_are_counted(drawn: Any) -> None:
    events, nano = drawn
    probe = {"cuts": ["pt > 8", "sqrt(charge) > 0"]}
    points = WorkingPoints({"Muon": {"probe": probe, "good": {"like": "probe", "cuts": ["good"]}}})
    allowed = {**IDENTIFICATION, "allow": {"not_finite": ["Muon.probe", "Muon.good"]}}
    out = EfficiencyProcessor(analysis_of(allowed), points, NONE).process(nano)
    negative = [m for e in events for m in e["Muon"] if m["charge"] < 0 and m["pt"] > 8]
    assert out["not_finite"] == {
        "Muon.probe": {"leptons": len(negative)},
        "Muon.good": {"leptons": sum(m["good"] for m in negative)},
    }
    with pytest.raises(DataFileError, match=r"Muon\.good: .* has no finite value"):
        EfficiencyProcessor(analysis_of(IDENTIFICATION), points, NONE).process(nano)


def test_ends_of_the_window_and_one_large_weight(tmp_path: Path) -> None:
    """Pairs in one direction: 2 sqrt(24^2 + 10^2) = 52 makes a mass of 20, 2 x 74 one of 140."""
    masses = np.repeat([10.0, 70.0, 21.0, 21.0], [1, 1, 1, 40])
    number = len(masses)
    muon = {"pt": 24.0, "eta": 0.0, "phi": 0.0, "good": True, "genPartFlav": 1}
    muons = [[{**muon, "mass": m, "charge": charge} for charge in (-1, 1)] for m in masses]
    weights = np.ones(number, np.float32)
    weights[2] = 4e5
    identity = {name: np.arange(number) for name in ("run", "luminosityBlock", "event")}
    with uproot.recreate(tmp_path / "a.root") as root:
        root["Events"] = {**identity, "Muon": ak.Array(muons), "genWeight": weights,
                          "HLT_Recorded": np.ones(number, bool)}  # fmt: skip
    out = EfficiencyProcessor(analysis_of(IDENTIFICATION), LOOSE, NONE).process(
        opened(tmp_path / "a.root")
    )
    # either of the two is the tag
    by_mass = out["pairs"]["nominal", sum, sum, :, sum, sum].values()
    assert np.flatnonzero(by_mass).tolist() == [0, 4]
    assert by_mass[[0, 4]].tolist() == [2.0, 2 * (4e5 + 40)]
    assert out["cutflow"].values().tolist() == [number, number, number, number, number - 1]
    # both pairs of an event have its weight
    share = (4e5**2 + 41) / (4e5 + 41) ** 2
    (loss,) = losses_dominated(out["entries"], "events with probes")
    assert loss.message.startswith(
        f"one weight has at least {share:.1%} of the sum of 42 events with probes "
        "(passing, pt 10 to 30 GeV, abs_eta 0 to 1.2"
    )


@pytest.mark.filterwarnings("ignore:Branch Photon")
def test_trigger_objects_of_a_real_file(nanoaod: Path) -> None:
    events = opened(nanoaod / "nano_dy.root")
    points = WorkingPoints({"Muon": {"any": {"cuts": ["pt > 3"]}}})
    analysis = analysis_of(
        {
            **TRIGGER,
            "tag": "any",
            "probe": "any",
            "triggers": [],
            "passing": {"paths": ["HLT_IsoMu24"], "filter_bits": 2},
            "binning": {"pt": [3, 500], "abs_eta": [0, 2.5]},
            "mass": {"window": [60, 120], "bins": 12, "peak": [80, 100], "beside": 10},
        }
    )
    present = set(uproot.open({nanoaod / "nano_dy.root": "Events"}).keys(recursive=False))
    columns = analysis.columns({"data": False}, points)
    assert {f"TrigObj_{one}" for one in ("pt", "eta", "phi", "id", "filterBits")} <= columns
    assert columns <= present
    pairs = EfficiencyProcessor(analysis, points, NONE).process(events)["pairs"]
    assert pairs[sum, "passing", "prompt", sum, sum, sum].value > 0


# the measurement

BINNING = {"pt": [10, 40, 200], "abs_eta": [0, 1.2, 2.4]}


def processed(folder: Path, name: str, declared: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A demo dataset, processed: the paths of its histograms and its ledger."""
    analysis = analysis_of({**SHIPPED, "binning": BINNING})
    dataset = sample(declared["kind"], declared["events"], files=1, **more)
    dataset["sample"] |= {k: v for k, v in declared.items() if k not in ("kind", "events")}
    dataset["das"] = f"/{name}/looseleaf-v1/NANOAODSIM"
    columns = sorted(analysis.columns(dataset, POINTS))
    fileset = from_manifest(name, skimmed(folder, name, {name: dataset}, columns), {"data": False})
    processor = EfficiencyProcessor(analysis, POINTS, NONE)
    accumulated = process_task(processor, chunks_of(fileset, 20_000), fileset.metadata)[0]
    write_uhi(folder / f"{name}.uhi.json", accumulated, {})
    write_ledger(
        folder / f"{name}.ledger.json", {"sum_of_weights": fileset.original["sum_of_weights"]}
    )
    return dataset


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulation that stands for data, with another efficiency and with background, measured."""
    folder = tmp_path_factory.mktemp("measured")
    datasets = {
        "pseudo": processed(folder, "pseudo", {"kind": "z", "events": 60_000, "prompt_tight": 0.8}),
        "beneath": processed(folder, "beneath", {"kind": "continuum", "events": 60_000}),
        "z": processed(folder, "z", {"kind": "z", "events": 120_000}),
    }
    (folder / "datasets.json").write_text(json.dumps(datasets))
    run_measure(folder)
    return folder


def run_measure(folder: Path, outputs: Path | None = None, **changes: Any) -> None:
    datasets = json.loads((folder / "datasets.json").read_text())
    groups = {"measure": ["pseudo", "beneath"], "simulation": ["z"]}
    analysis = analysis_of({**SHIPPED, "binning": BINNING, "datasets": groups, **changes})
    outputs = outputs or folder
    measure(
        analysis,
        datasets,
        {name: str(folder / f"{name}.uhi.json") for name in datasets},
        {name: str(folder / f"{name}.ledger.json") for name in datasets},
        *(outputs / name for name in ("summary.json", "sf.json", "data.json", "simulation.json")),
    )


def test_the_injected_scale_factor_comes_out(measured: Path) -> None:
    found = read_json(measured / "summary.json")
    for name, truth in (("data", 0.8), ("simulation", 0.93), ("scale_factor", 0.8 / 0.93)):
        value, low, high = (np.array(found[name][k]) for k in ("value", "lower", "upper"))
        pull = (value - truth) / ((high - low) / 2)
        assert np.sum(pull**2) < chi2.isf(0.01, pull.size), name
        assert (high - low < 0.06).all()
    # by count too; bands beside a peak on a bent background take a little too much
    for one in found["bins"]:
        counted = one["count"]
        half = (counted["upper"] - counted["lower"]) / 2
        assert abs(counted["value"] - 0.8) < 3 * half + 0.02
    assert all(one["fit"]["p_value"] > 0.001 for one in found["bins"])


def test_correctionlib_reads_what_was_measured(measured: Path) -> None:
    found = read_json(measured / "summary.json")
    sets = {n: correctionlib.CorrectionSet.from_file(str(measured / f"{n}.json")) for n in
            ("sf", "data", "simulation")}  # fmt: skip
    sf = sets["sf"]["scale_factor"]
    value, upper, syst = (np.array(found["scale_factor"][k]) for k in ("value", "upper", "syst"))
    for i, pt in enumerate((25.0, 90.0)):
        for j, eta in enumerate((0.5, 2.0)):
            assert sf.evaluate("nominal", pt, eta) == pytest.approx(value[i, j])
            assert sf.evaluate("stat_up", pt, eta) == pytest.approx(upper[i, j])
            for side, sign in (("syst_up", 1), ("syst_down", -1)):
                assert sf.evaluate(side, pt, eta) == pytest.approx(value[i, j] + sign * syst[i, j])
            quotient = sets["data"]["efficiency_data"].evaluate("nominal", pt, eta) / sets[
                "simulation"
            ]["efficiency_simulation"].evaluate("nominal", pt, eta)
            assert sf.evaluate("nominal", pt, eta) == pytest.approx(quotient)
    # beyond the edges the outermost bins hold
    assert sf.evaluate("nominal", 1e4, 9.0) == pytest.approx(value[1, 1])
    assert sf.evaluate("nominal", 1.0, 0.0) == pytest.approx(value[0, 0])


def test_count_and_other_background_are_the_systematics(measured: Path) -> None:
    found = read_json(measured / "summary.json")
    syst = np.array(found["data"]["syst"]).ravel()
    for one, size in zip(found["bins"], syst, strict=True):
        value = one["fit"]["efficiency"]["value"]
        parts = [one[name]["value"] - value for name in ("count", "alternative")]
        assert size == pytest.approx(np.hypot(*parts))
        assert size > 0


@pytest.mark.parametrize("side", ["passing", "failing"])
def test_a_bin_without_an_efficiency_is_named(measured: Path, tmp_path: Path, side: str) -> None:
    broken = copy.deepcopy(read_uhi(measured / "z.uhi.json")[0])
    # nothing passes, or there is nothing at all, in the last bin
    names = ["passing"] if side == "passing" else ["passing", "failing"]
    view = broken["pairs"].view()
    for name in names:
        of_probe = view[:, broken["pairs"].axes["probe"].index(name), ..., 1, 1]
        of_probe.value[...] = of_probe.variance[...] = 0
    for path in measured.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    write_uhi(tmp_path / "z.uhi.json", broken, {})
    why = {"passing": "efficiency of the simulation is 0", "failing": "no pairs of prompt leptons"}
    pattern = rf"muon_id: pt 40 to 200 GeV, abs_eta 1.2 to 2.4: .*{why[side]}.*widen this bin"
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(DataFileError, match=pattern):
        run_measure(tmp_path, out)
    assert list(out.iterdir()) == []


def copied(folder: Path, to: Path, **changes: Mapping[str, Any]) -> Path:
    """The processed datasets in another folder, with changed declarations by dataset."""
    for path in folder.glob("*.json"):
        (to / path.name).write_bytes(path.read_bytes())
    datasets = json.loads((folder / "datasets.json").read_text())
    for name, change in changes.items():
        datasets[name] |= change
    (to / "datasets.json").write_text(json.dumps(datasets))
    return to


def spectra_of(folder: Path, name: str) -> np.ndarray:
    """The failing and passing pairs of a dataset in the first bin of the map."""
    pairs = read_uhi(folder / f"{name}.uhi.json")[0]["pairs"]
    return np.array([pairs["nominal", probe, sum, :, 0, 0].values() for probe in
                     ("failing", "passing")])  # fmt: skip


def test_datasets_add_up_by_their_cross_sections(measured: Path, tmp_path: Path) -> None:
    run_measure(copied(measured, tmp_path, beneath={"xsec_pb": 0.25}))
    found = read_json(tmp_path / "summary.json")
    assert found["is_data"] is False
    # at 1 pb and 0.25 pb
    hand = sum(
        1000 * xsec_pb * SHIPPED["lumi_ifb"] * spectra_of(measured, name)
        / original_of(measured / f"{name}.ledger.json")["sum_of_weights"]
        for name, xsec_pb in (("pseudo", 1.0), ("beneath", 0.25))
    )  # fmt: skip
    shown = [found["bins"][0]["spectra"][probe]["values"] for probe in ("failing", "passing")]
    np.testing.assert_allclose(shown, hand, rtol=1e-9)
    # passing and failing pairs have independent weights: e = p / (p + f)
    z = read_uhi(measured / "z.uhi.json")[0]["pairs"]["nominal", :, "prompt", sum, 0, 0].view()
    e = z.value[1] / z.value.sum()
    sigma = np.sqrt((1 - e) ** 2 * z.variance[1] + e**2 * z.variance[0]) / z.value.sum()
    assert found["simulation"]["value"][0][0] == pytest.approx(e)
    ends = [found["simulation"][name][0][0] for name in ("lower", "upper")]
    assert np.diff(ends)[0] / 2 == pytest.approx(sigma)
    # the other fit has exponential backgrounds
    edges = np.array(found["mass"])
    errors = [found["bins"][0]["spectra"][probe]["errors"] for probe in ("failing", "passing")]
    peaks = read_uhi(measured / "z.uhi.json")[0]["pairs"]["nominal", :, "prompt", :, 0, 0].view()
    fits = [
        fit(Spectra(np.array(shown), np.array(errors) ** 2), Spectra(peaks.value, peaks.variance),
            edges, 0.8, shape).efficiency.value
        for shape in ("polynomial", "exponential")
    ]  # fmt: skip
    assert abs(fits[0] - fits[1]) > 1e-4
    one = found["bins"][0]
    assert one["fit"]["efficiency"]["value"] == pytest.approx(fits[0], abs=2e-5)
    assert one["alternative"]["value"] == pytest.approx(fits[1], abs=2e-5)


def test_most_probes_beyond_by_their_weights_are_refused(measured: Path, tmp_path: Path) -> None:
    folder = copied(measured, tmp_path, beneath={"xsec_pb": 1000.0})
    broken = read_uhi(folder / "beneath.uhi.json")[0]
    covered = broken["coverage"].view(flow=True)
    axis, sides = (broken["coverage"].axes[n] for n in ("axis", "side"))
    place, within, above = axis.index("pt"), sides.index("within"), sides.index("above")
    covered[:, place, above] += covered[:, place, within]
    covered[:, place, within] = 0
    write_uhi(folder / "beneath.uhi.json", broken, {})
    with pytest.raises(DataFileError, match=r"muon_id: .* are outside the edges of pt"):
        run_measure(folder)


def test_variations_change_the_simulation_alone(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copied(measured, tmp_path, pseudo={"data": True}, beneath={"data": True})
    found, _ = read_uhi(folder / "z.uhi.json")
    nominal = found["pairs"]
    _, *axes = nominal.axes
    varied = Hist(
        StrCategory(["nominal", "sf_up"], name="variation", overflow=False),
        *axes,
        storage=Weight(),
    )
    view, prompt = varied.view(), nominal.axes["origin"].index("prompt")
    passing = nominal.axes["probe"].index("passing")
    for index in range(2):
        view[index] = nominal.view()[0]
    # leptons that aren't prompt, which say nothing
    view.value[:, :, 1 - prompt] = view.variance[:, :, 1 - prompt] = 500
    view.value[1, passing] *= 0.5
    view.variance[1, passing] *= 0.25
    found["pairs"] = varied
    write_uhi(folder / "z.uhi.json", found, {})
    # a peak that nothing explains, in the first bin of the map
    spoilt, _ = read_uhi(folder / "pseudo.uhi.json")
    pairs = spoilt["pairs"].view()[0, passing]
    weight = pairs.variance[prompt, :, 0, 0].sum() / pairs.value[prompt, :, 0, 0].sum()
    pairs.value[prompt, 5, 0, 0] += 300 * weight
    pairs.variance[prompt, 5, 0, 0] += 300 * weight**2
    write_uhi(folder / "pseudo.uhi.json", spoilt, {})
    wanted = {"file": "x", "correction": "x", "inputs": {}, "variations": {"up": {}}}
    run_measure(folder, corrections={"sf": wanted})
    summary, before = (read_json(one / "summary.json") for one in (folder, measured))
    assert summary["is_data"] is True
    assert summary["simulation"] == before["simulation"]
    f, p = (nominal["nominal", probe, "prompt", sum, 1, 0].value for probe in
            ("failing", "passing"))  # fmt: skip
    sets = {n: correctionlib.CorrectionSet.from_file(str(folder / f"{n}.json")) for n in
            ("sf", "data", "simulation")}  # fmt: skip
    up = 0.5 * p / (f + 0.5 * p)
    of_simulation, sf = sets["simulation"]["efficiency_simulation"], sets["sf"]["scale_factor"]
    assert of_simulation.evaluate("sf_up", 90.0, 0.5) == pytest.approx(up)
    data = summary["data"]["value"][1][0]
    assert sf.evaluate("sf_up", 90.0, 0.5) == pytest.approx(data / up)
    assert sf.evaluate("nominal", 90.0, 0.5) == pytest.approx(data * (f + p) / p)
    log = capsys.readouterr().err
    poor = "muon_id: pt 10 to 40 GeV, abs_eta 0 to 1.2: the fit describes the data poorly, chi2/ndf"
    assert poor in log


PSEUDO = {"datasets": {"measure": ["pseudo"], "simulation": ["z"]}}


def changed(folder: Path, name: str, change: Callable[[Any, float], None]) -> None:
    """Change the failing and passing pairs of a dataset, given the weight of a pair.

    They are by probe, mass, pT and |eta|, and all prompt.
    """
    found, _ = read_uhi(folder / f"{name}.uhi.json")
    view = found["pairs"].view()
    prompt = found["pairs"].axes["origin"].index("prompt")
    view.value[:, :, 1 - prompt] = view.variance[:, :, 1 - prompt] = 0
    of_prompt = view[0, :, prompt]
    change(of_prompt, of_prompt.variance.sum() / of_prompt.value.sum())
    view[0, :, prompt] = of_prompt
    write_uhi(folder / f"{name}.uhi.json", found, {})


def test_remarks_and_uneven_errors(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def few(pairs: Any, weight: float) -> None:
        # six simulated failing pairs at the peak of the last bin, and seventy that pass
        for side, numbers in enumerate(([1, 1, 1, 1, 1, 1], [5, 10, 20, 20, 10, 5])):
            pairs.value[side, :, 1, 1] = pairs.variance[side, :, 1, 1] = 0
            pairs.value[side, 28:34, 1, 1] = weight * np.array(numbers)
            pairs.variance[side, 28:34, 1, 1] = weight**2 * np.array(numbers)

    folder = copied(measured, tmp_path)
    changed(folder, "z", few)
    changed(folder, "pseudo", lambda pairs, weight: None)
    run_measure(folder, **PSEUDO)
    found = read_json(folder / "summary.json")
    remarks = [r for one in found["bins"] for r in one["fit"]["remarks"]]
    assert "no background of passing probes" in remarks
    log = capsys.readouterr().err
    assert all(f": {remark}\n" in log for remark in remarks)
    value, lower, upper = (
        {name: found[name][key][1][1] for name in ("data", "simulation", "scale_factor")}
        for key in ("value", "lower", "upper")
    )
    up, down = ({n: abs(end[n] - value[n]) / value[n] for n in value} for end in (upper, lower))
    assert down["simulation"] > 1.2 * up["simulation"]
    assert up["scale_factor"] == pytest.approx(math.hypot(up["data"], down["simulation"]))
    assert down["scale_factor"] == pytest.approx(math.hypot(down["data"], up["simulation"]))


def test_systematics_leave_no_efficiency_outside_of_its_range(
    measured: Path, tmp_path: Path
) -> None:
    """Bands beside the peak that take away all passing, or failing, pairs of a count."""

    def bent(pairs: Any, weight: float) -> None:
        for side, eta in ((0, 0), (1, 1)):
            pairs.value[side, :, 1, eta] *= 0.05
            pairs.variance[side, :, 1, eta] *= 0.05
            number = 1.05 * pairs.value[side, 20:42, 1, eta].sum() / 22
            for band in (slice(10, 20), slice(42, 52)):
                pairs.value[side, band, 1, eta] += number
                pairs.variance[side, band, 1, eta] += weight * number

    folder = copied(measured, tmp_path)
    changed(folder, "pseudo", bent)
    run_measure(folder, **PSEUDO)
    found = read_json(folder / "summary.json")["data"]
    value, syst = (np.array(found[key])[1] for key in ("value", "syst"))
    assert value[0] + syst[0] > 1 > value[0] - syst[0]
    assert value[1] - syst[1] < 0 < value[1]
    data, sf = (
        next(iter(correctionlib.CorrectionSet.from_file(str(folder / f"{name}.json")).values()))
        for name in ("data", "sf")
    )
    assert data.evaluate("syst_up", 90.0, 0.5) == 1
    assert data.evaluate("syst_down", 90.0, 2.0) == 0
    assert sf.evaluate("syst_down", 90.0, 2.0) == 0


def test_an_efficiency_of_nearly_nothing_is_refused(measured: Path, tmp_path: Path) -> None:
    def hardly(pairs: Any, weight: float) -> None:
        pairs.value[1, :, 1, 1] *= 1e-4
        pairs.variance[1, :, 1, 1] *= 1e-8

    folder = copied(measured, tmp_path)
    changed(folder, "pseudo", hardly)
    with pytest.raises(DataFileError, match=r"abs_eta 1\.2 to 2\.4: the efficiency of the data is"):
        run_measure(folder, **PSEUDO)


# the configuration


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"probe": "tight_simple", "passing": "loose"},
            "passing: 'loose' lacks the cut .* with like",
        ),
        (
            {"tag": "tigth_simple"},
            "no working point Muon.tigth_simple; did you mean 'tight_simple'",
        ),
        ({"passing": "medium"}, "no working point Muon.medium; "),
        ({"binning": {"pt": [30, 10], "abs_eta": [0, 2.4]}}, "binning.pt: .* should increase"),
        ({"mass": {**SHIPPED["mass"], "peak": [102, 80]}}, "mass.peak: .* should increase"),
        (
            {"mass": {**SHIPPED["mass"], "peak": [110, 130]}},
            "mass.peak: .* is outside mass.window",
        ),
        ({"mass": {**SHIPPED["mass"], "beside": 25}}, "mass.peak: .* is outside .*: widen the"),
        ({"mass": {**SHIPPED["mass"], "bins": 33}}, "mass.peak: 70 GeV, .* is no edge of the 33"),
        ({"datasets": {"measure": ["SingleMuonZ"]}}, "datasets: the key 'simulation' is missing"),
        (
            {"datasets": {"measure": ["ZToLL"], "simulation": ["SingleMuonZ"]}},
            "'SingleMuonZ' is data, but this group takes simulation",
        ),
        (
            {"datasets": {"measure": ["SingleMuonZ", "DiLepton"], "simulation": ["ZToLL"]}},
            "datasets.measure: has data and simulation; keep one kind",
        ),
        ({"mass": {**SHIPPED["mass"], "window": [120, 60]}}, "mass.window: .* should increase"),
        # edges of the peak, and not of the bands
        (
            {"mass": {**SHIPPED["mass"], "bins": 30, "beside": 9}},
            "mass.peak: 71 GeV, .* is no edge",
        ),
        ({"passing": {"paths": ["HLT_IsoMu24"]}}, "passing: "),
        ({"tag_filter_bits": 0}, "tag_filter_bits: 0 should be at least 1"),
        ({"lepton": {"collection": "Tau"}}, "lepton.collection: 'Tau' is not one of"),
        (
            {
                "corrections": {
                    "stat": {"file": "config/demo/truth.json", "correction": "muon", "inputs": {}}
                }
            },
            "corrections: 'stat' is a reserved name; choose another",
        ),
    ],
)
def test_what_is_wrong_with_an_efficiency_is_said(
    main_config: dict[str, Any], repo: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**SHIPPED, **changes}))
    with pytest.raises(ConfigError, match=rf"mine\.yaml: .*{message}"):
        load({**main_config, "analyses": [str(path)]}, repo)


def test_pairs_need_two_leptons_of_the_skim(main_config: dict[str, Any], repo: Path) -> None:
    config = {**main_config, "analyses": ["config/analyses/muon_id.yaml"]}
    for least in (1, 2, 3):
        config["servicex"] = {**main_config["servicex"], "cut": f"nMuon >= {least}"}
        if least < 3:
            load(config, repo)
            continue
        with pytest.raises(ConfigError, match=r"'nMuon >= 3' could remove events .* 'muon_id'"):
            load(config, repo)


# the whole chain


@pytest.mark.chain
@pytest.mark.parametrize(
    ("name", "data", "simulation"), [("muon_id", 0.9, 0.93), ("muon_trigger", 0.88, 0.92)]
)
def test_the_demo_measures_its_truth(
    efficiencies: Path, name: str, data: float, simulation: float
) -> None:
    results = efficiencies / "results/efficiency"
    folder = results / "efficiency" / name
    found = read_json(folder / "efficiency.json")
    truths = {"data": data, "simulation": simulation, "scale_factor": data / simulation}
    for quantity, truth in truths.items():
        value, low, high = (np.array(found[quantity][k]) for k in ("value", "lower", "upper"))
        pull = (value - truth) / ((high - low) / 2)
        assert np.sum(pull**2) < chi2.isf(0.01, pull.size), quantity
    # the bands beside the peak agree where the background isn't bent: above 45 GeV
    for one in found["bins"][4:]:
        half = (one["count"]["upper"] - one["count"]["lower"]) / 2
        assert abs(one["count"]["value"] - data) < norm.isf(0.005) * half
    names = {path.stem for path in (results / "histograms" / name).glob("*.png")}
    fits = {f"fit_pt{i}_eta{j}" for i in range(3) for j in range(2)}
    assert names == {"data", "simulation", "scale_factor"} | fits
    sf = correctionlib.CorrectionSet.from_file(str(folder / "scale_factor.correctionlib.json"))
    value = sf["scale_factor"].evaluate("nominal", 100.0, 0.5)
    # correctionlib may read a number's last bit differently
    assert value == pytest.approx(found["scale_factor"]["value"][2][0], rel=1e-15)
