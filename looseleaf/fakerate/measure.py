"""Measuring a fake-rate map from processed datasets, and holding it against a known truth."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hist
import numpy as np
from scipy.stats import chi2 as chi2_distribution

from looseleaf.errors import DataFileError
from looseleaf.fakerate.analysis import FakeRateAnalysis
from looseleaf.fakerate.processor import beyond_axes, edges_of, variations
from looseleaf.fakerate.prompt import PromptFit, fit_prompt
from looseleaf.files import write_json
from looseleaf.histograms.coverage import (
    NUMBER,
    losses_dominated,
    named_bin,
    refuse_most_beyond,
    weighed,
)
from looseleaf.histograms.ratio import Ratio, divide
from looseleaf.histograms.store import read_uhi, write_correction, write_root, write_uhi
from looseleaf.histograms.typed import Plain, S, Weighted, part
from looseleaf.losses import Loss, say
from looseleaf.objects.names import COVERAGE, ENTRIES, MAP_ENTRIES, NOMINAL, POINT, POINTS
from looseleaf.objects.weights import scale_to_luminosity
from looseleaf.shape import TEXT
from looseleaf.stage_files import original_of, read_ledger

# kinds of losses that leave out events
LEFT_OUT = ("skimmed before", "skimmed", "file left out")
# empty bins that a message names
SHOWN = 5
# tight leptons and loose ones
Pair = tuple[hist.Hist[Any], hist.Hist[Any]]


def summed(
    names: Sequence[str],
    analysis: FakeRateAnalysis,
    datasets: Mapping[str, Mapping[str, Any]],
    processed: Mapping[str, str],
    ledgers: Mapping[str, str],
) -> dict[str, hist.Hist[Any]]:
    """Histograms of several datasets added up, each scaled to the luminosity.

    With `weights: counts` they are added as they are.
    """
    total: dict[str, hist.Hist[Any]] = {}
    for name in names:
        histograms, _ = read_uhi(processed[name])
        scale = 1.0
        if analysis.weights == "xsec":
            total_weight = original_of(ledgers[name])["sum_of_weights"]
            scale = scale_to_luminosity(name, datasets[name], analysis.lumi_ifb, total_weight)
        for key, histogram in histograms.items():
            own = scaled(key, histogram, scale)
            total[key] = total[key] + own if key in total else own
    return total


def subtracted(total: Weighted, prompt: Weighted) -> Weighted:
    """`total` less `prompt`, the variances added: both fluctuate."""
    out = total.copy()
    out.view(flow=True).value -= prompt.view(flow=True).value
    out.view(flow=True).variance += prompt.view(flow=True).variance
    return out


@dataclass(frozen=True)
class Numbers:
    """What an analysis counted, normalised: by group of datasets, and after the subtraction.

    `groups` holds the added histograms of each group, those of `subtract` scaled by `factor`,
    which `fit` has found if there was one. `pairs` are (tight, loose) by variation.
    """

    groups: dict[str, dict[str, hist.Hist[Any]]]
    pairs: dict[str, Pair]
    fit: PromptFit | None

    @property
    def nominal(self) -> Pair:
        return self.pairs[NOMINAL]

    def less_prompt(self, key: str, *index: Any) -> Weighted:
        """A histogram of what is measured, less the prompt leptons."""
        total: Weighted = part(self.groups["measure"][key], (*index, ...))
        if "subtract" not in self.groups:
            return total
        return subtracted(total, part(self.groups["subtract"][key], (*index, ...)))


def numbers(
    analysis: FakeRateAnalysis,
    datasets: Mapping[str, Mapping[str, Any]],
    processed: Mapping[str, str],
    ledgers: Mapping[str, str],
) -> Numbers:
    """The normalised histograms of an analysis.

    The datasets of `measure` are added, those of `subtract` taken away, as simulated or scaled as
    the fit of the transverse mass says. The variations are `nominal`, those of the away jet's
    threshold and of the corrections; with a subtraction `prompt_off`, without it, and `prompt_up`
    and `prompt_down`, with it scaled by the factors of `systematics.prompt` or by the
    uncertainty of the fit.
    """
    groups = {
        group: summed(names, analysis, datasets, processed, ledgers)
        for group, names in analysis.datasets.items()
    }
    fit = None
    if analysis.prompt_fit is not None:
        fit = fit_prompt(*(groups[g]["prompt_fit"] for g in ("measure", "subtract", "non_prompt")))
        groups["subtract"] = times(groups["subtract"], fit.factor)
    if "non_prompt" in groups:
        groups["non_prompt"] = _to_data(groups, fit)

    def pair(variation: str, factor: float = 1.0) -> Pair:
        tight, loose = (
            part(groups["measure"][key], (variation, ...)) for key in ("tight", "loose")
        )
        if "subtract" in groups and factor:
            prompt = groups["subtract"]
            tight = subtracted(tight, part(prompt["tight"], (variation, ...)) * factor)
            loose = subtracted(loose, part(prompt["loose"], (variation, ...)) * factor)
        if analysis.weights == "counts":
            return (
                _plain(tight.values(flow=True), tight, flow=True),
                _plain(loose.values(flow=True), loose, flow=True),
            )
        return tight, loose

    pairs = {variation: pair(variation) for variation in variations(analysis)}
    if "subtract" in groups:
        pairs["prompt_off"] = pair(NOMINAL, 0)
    sides = analysis.systematics.prompt or {}
    if fit is not None and sides == "fit":
        relative = fit.error / fit.factor
        sides = {"up": 1 + relative, "down": max(1 - relative, 0.0)}
    for side, factor in sides.items():
        pairs[f"prompt_{side}"] = pair(NOMINAL, factor)
    return Numbers(groups, pairs, fit)


def times(histograms: Mapping[str, hist.Hist[Any]], factor: float) -> dict[str, hist.Hist[Any]]:
    """All histograms of a group, scaled."""
    return {key: scaled(key, histogram, factor) for key, histogram in histograms.items()}


def _to_data(
    groups: Mapping[str, Mapping[str, hist.Hist[Any]]], fit: PromptFit | None
) -> dict[str, hist.Hist[Any]]:
    """Simulated non-prompt leptons brought to as many loose ones as data has beside the prompt.

    In the region of the fit they are brought to what the fit found.
    """
    loose: dict[str, Weighted] = {
        group: part(histograms["loose"], (NOMINAL, ...)) for group, histograms in groups.items()
    }
    sums = {group: histogram.sum().value for group, histogram in loose.items()}
    target = sums["measure"] - sums.get("subtract", 0.0)
    own = groups["non_prompt"]
    out = times(own, target / sums["non_prompt"] if sums["non_prompt"] > 0 else 1.0)
    if fit is not None:
        out["prompt_fit"] = own["prompt_fit"] * fit.non_prompt_factor
    return out


def scaled(key: str, histogram: hist.Hist[S], factor: float) -> hist.Hist[S]:
    """A histogram times a factor; `expected_variance` holds variances, and cutflows are counts."""
    if key == "cutflow":
        return histogram
    if key in (COVERAGE, ENTRIES, MAP_ENTRIES):
        return weighed(histogram, factor)
    return histogram * (factor**2 if key == "expected_variance" else factor)


def measure(
    analysis: FakeRateAnalysis,
    datasets: Mapping[str, Mapping[str, Any]],
    processed: Mapping[str, str],
    ledgers: Mapping[str, str],
    uhi: str | Path,
    root: str | Path,
    correction: str | Path,
) -> None:
    """Measure the map of an analysis from its processed datasets, and write it.

    `datasets`, `processed` and `ledgers` are by dataset name: the declarations and the paths.
    Written are UHI JSON (loose, tight, ratio with the ends of its interval, the ratio of each
    variation, distributions of loose and tight leptons by group of datasets, cutflow), ROOT and
    correctionlib. What the map lacks, or what is doubtful in it, is logged and stands in its
    metadata as `losses`.

    Raises `DataFileError` if most leptons lie beyond an axis or a bin is empty, unless the analysis
    allows it, and for a rate above one that no subtraction has made.
    """
    measured = numbers(analysis, datasets, processed, ledgers)
    tight, loose = measured.nominal
    refuse_most_beyond(
        analysis, measured.groups["measure"][COVERAGE], edges_of(analysis), "leptons"
    )
    _refuse_rates_above_one(analysis, measured)
    ratio = divide(tight, loose, analysis.interval)
    measured_ledgers = {name: ledgers[name] for name in analysis.datasets["measure"]}
    _refuse_empty_bins(analysis, ratio, measured.groups["measure"], measured_ledgers)
    losses = _losses(analysis, ratio, measured.groups["measure"])
    losses += losses_of_variations(analysis, ratio, measured.pairs)
    say(f"fakerate {analysis.name}", (loss.message for loss in losses))
    metadata = {
        "analysis": analysis.name,
        "title": analysis.title,
        "weights": analysis.weights,
        "lumi_ifb": analysis.lumi_ifb,
        "is_data": any(datasets[name]["data"] for name in analysis.datasets["measure"]),
        "interval": ratio.interval,
        "empty_bins": np.argwhere(ratio.empty).tolist(),
        "groups": list(measured.groups),
        "observables": list(analysis.observables),
        "prompt_fit": measured.fit.to_json() if measured.fit is not None else None,
        "cutflow": cutflow_table(analysis, datasets, processed, ledgers),
        "losses": [loss.to_json() for loss in losses],
    }
    varied_rates = varied(analysis, ratio, measured.pairs)
    maps = {
        "loose": loose,
        "tight": tight,
        "ratio": ratio.to_hist(),
        "ratio_lower": _plain(np.where(ratio.empty, 0.0, ratio.lower), loose),
        "ratio_upper": _plain(np.where(ratio.empty, 0.0, ratio.upper), loose),
        **{f"ratio_{name}": _plain(values, loose) for name, values in varied_rates.items()},
    }
    for name in analysis.observables:
        for point in POINTS:
            maps[f"{name}_{point}"] = measured.less_prompt(name, point)
    spectra = {
        f"{group}.{key}": histogram
        for group, histograms in measured.groups.items()
        for key, histogram in distributions(histograms).items()
    }
    write_uhi(uhi, {**maps, **spectra, "cutflow": measured.groups["measure"]["cutflow"]}, metadata)
    write_root(root, maps)
    flavour = analysis.lepton["collection"].lower()
    write_correction(
        correction,
        f"{flavour}_fake_rate",
        f"{analysis.title}: N(tight) / N(loose), {ratio.interval} interval at 68.27%.",
        ratio,
        loose,
        varied_rates,
    )


def _refuse_rates_above_one(analysis: FakeRateAnalysis, measured: Numbers) -> None:
    """Tight leptons are some of the loose ones; a subtraction that fluctuates can leave more."""
    for variation, (tight, loose) in measured.pairs.items():
        if "subtract" in measured.groups and variation != "prompt_off":
            continue
        # beyond what is rounded in sums
        above = tight.values() > np.maximum(loose.values(), 0.0) * (1 + 1e-9)
        for index in np.argwhere(above):
            cell = tuple(int(i) for i in index)
            raise DataFileError(
                f"analysis {analysis.name}: the tight leptons of {_bin(loose, cell)} weigh "
                f"{tight.values()[cell]:g}, the loose ones {loose.values()[cell]:g} (variation "
                f"{variation}): a rate can't be above one. Either weights are negative and the bin "
                "has too few leptons (widen it), or a correction of tight leptons is too large, or "
                "the tight point isn't part of the loose one"
            )


def _refuse_empty_bins(
    analysis: FakeRateAnalysis,
    ratio: Ratio,
    group: Mapping[str, hist.Hist[Any]],
    ledgers: Mapping[str, str],
) -> None:
    """Raise `DataFileError` for bins without leptons, with what `ledgers` say that is left out."""
    if ratio.empty.all():
        raise DataFileError(
            f"analysis {analysis.name}: no loose lepton was counted in any bin; its cutflow, in "
            "the files of its datasets, says where they went"
        )
    if not ratio.empty.any() or analysis.allow.empty_bins:
        return
    loose = part(group["loose"], (NOMINAL, ...))
    bins = [_bin(loose, tuple(index)) for index in np.argwhere(ratio.empty)]
    number = int(part(group[MAP_ENTRIES], (NUMBER, ...)).values().sum())
    more = f" and {len(bins) - SHOWN} more" if len(bins) > SHOWN else ""
    reason = " or the subtraction leaves none" if "subtract" in analysis.datasets else ""
    raise DataFileError(
        f"analysis {analysis.name}: {len(bins)} of {ratio.empty.size} bins have no loose "
        f"lepton{reason}, of {number:,} that were counted: {'; '.join(bins[:SHOWN])}{more}. Make "
        "the bins wider (are the edges in GeV?), or set allow: {empty_bins: true}: then "
        f"nothing is predicted for leptons in these bins{_left_out(ledgers)}"
    )


def _left_out(ledgers: Mapping[str, str]) -> str:
    """Which events datasets lack, as may explain empty bins: `; dataset d: ...`."""
    parts = []
    for name, path in ledgers.items():
        losses = read_ledger(path, {"losses": [{"kind": TEXT, "message": TEXT}]})["losses"]
        parts += [
            f"; dataset {name}: {loss['message']}" for loss in losses if loss["kind"] in LEFT_OUT
        ]
    return "".join(parts)


def _losses(
    analysis: FakeRateAnalysis, ratio: Ratio, group: Mapping[str, hist.Hist[Any]]
) -> list[Loss]:
    """What the map lacks, and rates in it that are doubtful."""
    out = beyond_axes(analysis, group, analysis.allow.beyond)
    out += losses_dominated(group[MAP_ENTRIES], "loose leptons")
    loose = part(group["loose"], (NOMINAL, ...))
    for index in np.argwhere(ratio.value > 1 + 1e-9):
        place, value = _bin(loose, tuple(index)), float(ratio.value[tuple(index)])
        message = f"the subtraction leaves a rate of {value:.3g}, more than one, in {place}"
        out.append(Loss("rate above one", place, value, 1.0, "of the loose leptons", message))
    empty = [_bin(loose, tuple(index)) for index in np.argwhere(ratio.empty)]
    if empty:
        message = f"no loose lepton in {len(empty)} of {ratio.empty.size} bins: {'; '.join(empty)}"
        out.append(
            Loss("empty bins", "map", len(empty), ratio.empty.size, "bins", message,
                 "allow.empty_bins")
        )  # fmt: skip
    return out


def losses_of_variations(
    analysis: FakeRateAnalysis, nominal: Ratio, pairs: Mapping[str, Pair]
) -> list[Loss]:
    """Bins that a variation leaves empty, which keep the nominal rate."""
    out = []
    for name, (tight, loose) in pairs.items():
        emptied = divide(tight, loose, analysis.interval).empty & ~nominal.empty
        bins = [_bin(loose, tuple(index)) for index in np.argwhere(emptied)]
        if bins:
            message = (
                f"the variation {name} leaves no loose lepton in {len(bins)} of {emptied.size} "
                f"bins, which keep the nominal rate: {'; '.join(bins)}"
            )
            out.append(Loss("empty bins", name, len(bins), emptied.size, "bins", message))
    return out


def _bin(histogram: hist.Hist[Any], index: Sequence[int]) -> str:
    """A bin of the map as messages name it."""
    return ", ".join(named_bin(axis, i) for axis, i in zip(histogram.axes, index, strict=True))


def distributions(histograms: Mapping[str, hist.Hist[Any]]) -> dict[str, hist.Hist[Any]]:
    """The distributions of a group's leptons: pT and |eta| from its maps, and those it filled."""
    out = {
        f"{point}.{axis}": part(histograms[point], (NOMINAL, ...)).project(axis)
        for point in POINTS
        for axis in ("pt", "abs_eta")
    }
    for key, histogram in histograms.items():
        if histogram.axes[0].name == POINT:
            out |= {f"{point}.{key}": part(histogram, (point, ...)) for point in POINTS}
    if "prompt_fit" in histograms:
        out["prompt_fit"] = histograms["prompt_fit"]
    return out


def cutflow_table(
    analysis: FakeRateAnalysis,
    datasets: Mapping[str, Mapping[str, Any]],
    processed: Mapping[str, str],
    ledgers: Mapping[str, str],
) -> dict[str, Any]:
    """Events that pass each step, and their weights scaled to the luminosity, by dataset."""
    table: dict[str, Any] = {"datasets": {}}
    for group, names in analysis.datasets.items():
        for name in names:
            added = summed([name], analysis, datasets, processed, ledgers)
            table["steps"] = list(added["cutflow"].axes[0])
            table["datasets"][name] = {
                "group": group,
                "events": added["cutflow"].values().astype(int).tolist(),
                "weighted": added["weighted_cutflow"].values().tolist(),
            }
    return table


def varied(
    analysis: FakeRateAnalysis,
    nominal: Ratio,
    pairs: Mapping[str, Pair],
) -> dict[str, Any]:
    """The rate by systematic variation; a bin that a variation leaves empty keeps the nominal.

    `systematics.closure` is a relative uncertainty of every bin, as a closure test suggests it.
    `systematics.tilt` turns the map about its middle along an axis: `pt1` raises the rate at high
    and lowers it at low pT by that much, `pt2` the other way round; `be1` and `be2` (barrel and
    endcap) are the same in |eta|.
    """
    base = np.where(nominal.empty, 0.0, nominal.value)
    out = {}
    for name, (tight, loose) in pairs.items():
        if name != NOMINAL:
            ratio = divide(tight, loose, analysis.interval)
            out[name] = np.where(ratio.empty, base, ratio.value)
    systematics = analysis.systematics
    for axis, (name, label) in enumerate((("pt", "pt"), ("abs_eta", "be"))):
        if name in systematics.tilt:
            # the same step from bin to bin, since bins of a spectrum widen as it falls
            along = np.linspace(-1, 1, base.shape[axis]) if base.shape[axis] > 1 else np.zeros(1)
            slope = systematics.tilt[name] * np.expand_dims(along, 1 - axis)
            out[f"{label}1"], out[f"{label}2"] = base * (1 + slope), base * (1 - slope)
    closure = systematics.closure
    if closure is not None:
        out["closure_up"], out["closure_down"] = base * (1 + closure), base * (1 - closure)
    return out


def compare_with_truth(
    analysis: FakeRateAnalysis,
    datasets: Mapping[str, Mapping[str, Any]],
    processed: Mapping[str, str],
    ledgers: Mapping[str, str],
    output: str | Path,
) -> None:
    """Write how a measured map agrees with the injected probability: chi2, p-value, each bin."""
    measured = numbers(analysis, datasets, processed, ledgers)
    tight, loose = measured.nominal
    ratio = divide(tight, loose, analysis.interval)
    expected, variance = (h.values() for h in expectation(measured.groups))
    write_json(output, compare(ratio, loose.values(), expected, variance))


def expectation(groups: Mapping[str, Mapping[str, hist.Hist[Any]]]) -> tuple[Plain, Plain]:
    """What is expected of the tight leptons, and its variance, prompt leptons taken away.

    What is expected of the loose leptons that are taken away is taken away with them.
    """
    value, variance = (groups["measure"][key] for key in ("expected", "expected_variance"))
    if "subtract" in groups:
        value = value + groups["subtract"]["expected"] * -1.0
        variance = variance + groups["subtract"]["expected_variance"]
    return value, variance


def _plain(values: Any, like: hist.Hist[Any], flow: bool = False) -> Plain:
    """Values on the axes of another histogram, without variances."""
    out: Plain = hist.Hist(*like.axes, storage=hist.storage.Double())
    out.view(flow=flow)[...] = values
    return out


def compare(ratio: Ratio, loose: Any, expected: Any, variance: Any) -> dict[str, Any]:
    """The measured ratio against the injected probability, averaged over each bin's leptons.

    The average is that of the loose leptons themselves (sum w f / sum w), so no shape of the
    spectrum within a bin enters. chi2 takes, in each bin, the end of the measured interval that
    points towards the truth. Empty bins don't count. The arrays have the shape of the axes:
    `loose` the sums of weights, `expected` those of w f and `variance` those of w^2 f (1-f).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = expected / loose
        spread = np.sqrt(variance) / loose
    sigma = np.where(ratio.value < expected, ratio.up, ratio.down)
    used = ~ratio.empty & (sigma > 0)
    pull = (ratio.value - expected)[used] / sigma[used]
    chi2, ndf = float(np.sum(pull**2)), int(used.sum())

    def table(values: Any) -> list[Any]:
        return [[None if math.isnan(v) else float(v) for v in row] for row in np.asarray(values).T]

    return {
        "chi2": chi2,
        "ndf": ndf,
        "p_value": float(chi2_distribution.sf(chi2, ndf)) if ndf else None,
        "rows": "abs_eta",
        "columns": "pt",
        "measured": table(ratio.value),
        "lower": table(ratio.lower),
        "upper": table(ratio.upper),
        "expected": table(expected),
        "expected_spread": table(spread),
    }
