"""Measuring a fake-rate map from processed datasets, and comparing it with a known truth."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hist
import numpy as np
from scipy.special import chdtrc

from looseleaf.errors import DataFileError
from looseleaf.fakerate.analysis import FakeRateAnalysis
from looseleaf.fakerate.axes import beyond_axes, edges_of, variations
from looseleaf.fakerate.prompt import PromptFit, fit_prompt
from looseleaf.files import write_json
from looseleaf.histograms.coverage import (
    NUMBER,
    losses_dominated,
    named_bins,
    refuse_most_beyond,
    weighed,
)
from looseleaf.histograms.ratio import Ratio, divide
from looseleaf.histograms.store import read_uhi, write_correction, write_root, write_uhi
from looseleaf.histograms.typed import Plain, S, Weighted, part
from looseleaf.losses import Loss, say
from looseleaf.objects.names import COVERAGE, ENTRIES, MAP_ENTRIES, NOMINAL, POINT, POINTS
from looseleaf.objects.weights import ledger_scale
from looseleaf.shape import TEXT
from looseleaf.stage_files import read_ledger

# kinds of losses that remove events
LEFT_OUT = ("skimmed before", "skimmed", "file left out")
# how many empty bins a message names
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
    """The histograms of several datasets, each scaled to the luminosity, and added.

    With `weights: counts` they are added unscaled.
    """
    total: dict[str, hist.Hist[Any]] = {}
    for name in names:
        histograms, _ = read_uhi(processed[name])
        scale = 1.0
        if analysis.weights == "xsec":
            scale = ledger_scale(name, datasets[name], analysis.lumi_ifb, ledgers[name])
        for key, histogram in histograms.items():
            own = scaled(key, histogram, scale)
            total[key] = total[key] + own if key in total else own
    return total


def subtracted(total: Weighted, prompt: Weighted) -> Weighted:
    """`total` minus `prompt`, with the variances added, since both fluctuate independently."""
    out = total.copy()
    out.view(flow=True).value -= prompt.view(flow=True).value
    out.view(flow=True).variance += prompt.view(flow=True).variance
    return out


@dataclass(frozen=True)
class Numbers:
    """The normalised histograms of an analysis, by group of datasets and after the subtraction.

    `groups` has the added histograms of each group, with those of `subtract` scaled by `factor`,
    which `fit` has determined if there is one. `pairs` are (tight, loose) by variation.
    """

    groups: dict[str, dict[str, hist.Hist[Any]]]
    pairs: dict[str, Pair]
    fit: PromptFit | None

    @property
    def nominal(self) -> Pair:
        """The tight and loose maps without a variation."""
        return self.pairs[NOMINAL]

    def less_prompt(self, key: str, *index: Any) -> Weighted:
        """A histogram of the measured group, minus the prompt leptons."""
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

    The datasets of `measure` are added; those of `subtract` are subtracted, with the normalisation
    of simulation or of the fit of the transverse mass. The variations are `nominal`, those of the
    away jet's threshold and those of the corrections. With a subtraction, there are also
    `prompt_off` (without it), `prompt_up` and `prompt_down`: it is scaled by the factors of
    `systematics.prompt`, or by the uncertainty of the fit.
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
    """Simulated non-prompt leptons, scaled to the loose leptons of data minus the prompt ones.

    In the region of the fit they are scaled by its result.
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
    """A histogram times a factor; `expected_variance` has variances, and cutflows are counts."""
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

    `datasets`, `processed` and `ledgers` are by dataset name: the declarations and the paths. The
    results are UHI JSON (loose, tight, the ratio and the ends of its interval, the ratio of each
    variation, distributions of loose and tight leptons by group of datasets, cutflow), ROOT and
    correctionlib. Missing or doubtful parts of the map are logged and listed as `losses` in its
    metadata.

    Raises `DataFileError` if most leptons are outside the edges of an axis or if a bin is empty,
    unless the analysis allows it, and for a rate above one without a subtraction.
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
    """Refuse rates above one, except after a subtraction, whose fluctuations can cause them."""
    for variation, (tight, loose) in measured.pairs.items():
        if "subtract" in measured.groups and variation != "prompt_off":
            continue
        # allow for the rounding of sums
        above = tight.values() > np.maximum(loose.values(), 0.0) * (1 + 1e-9)
        for index in np.argwhere(above):
            cell = tuple(int(i) for i in index)
            place = named_bins(loose.axes, cell)
            raise DataFileError(
                f"analysis {analysis.name}: the tight leptons of {place} weigh "
                f"{tight.values()[cell]:g}, the loose ones {loose.values()[cell]:g} (variation "
                f"{variation}): a rate can't be above one. Either weights are negative and the bin "
                "has too few leptons (widen it), a correction of tight leptons is too large, or "
                "the tight working point isn't a subset of the loose one"
            )


def _refuse_empty_bins(
    analysis: FakeRateAnalysis,
    ratio: Ratio,
    group: Mapping[str, hist.Hist[Any]],
    ledgers: Mapping[str, str],
) -> None:
    """Raise `DataFileError` for bins without leptons; the message has the losses in `ledgers`."""
    if ratio.empty.all():
        raise DataFileError(
            f"analysis {analysis.name}: no bin has a loose lepton; see the cutflow in "
            "the files of its datasets for the cut that removes them"
        )
    if not ratio.empty.any() or analysis.allow.empty_bins:
        return
    loose = part(group["loose"], (NOMINAL, ...))
    bins = [named_bins(loose.axes, tuple(index)) for index in np.argwhere(ratio.empty)]
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
    """Losses of events that may explain empty bins, as text: `; dataset d: ...`."""
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
    """Losses for empty bins of the map, and for doubtful rates."""
    out = beyond_axes(analysis, group, analysis.allow.beyond)
    out += losses_dominated(group[MAP_ENTRIES], "loose leptons")
    loose = part(group["loose"], (NOMINAL, ...))
    for index in np.argwhere(ratio.value > 1 + 1e-9):
        place, value = named_bins(loose.axes, tuple(index)), float(ratio.value[tuple(index)])
        message = f"after the subtraction, the rate in {place} is {value:.3g}, which is above one"
        out.append(Loss("rate above one", place, value, 1.0, "of the loose leptons", message))
    empty = [named_bins(loose.axes, tuple(index)) for index in np.argwhere(ratio.empty)]
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
    """Losses for bins that are empty in a variation and keep the nominal rate."""
    out = []
    for name, (tight, loose) in pairs.items():
        emptied = divide(tight, loose, analysis.interval).empty & ~nominal.empty
        bins = [named_bins(loose.axes, tuple(index)) for index in np.argwhere(emptied)]
        if bins:
            message = (
                f"with the variation {name}, {len(bins)} of {emptied.size} bins have no loose "
                f"lepton and keep the nominal rate: {'; '.join(bins)}"
            )
            out.append(Loss("empty bins", name, len(bins), emptied.size, "bins", message))
    return out


def distributions(histograms: Mapping[str, hist.Hist[Any]]) -> dict[str, hist.Hist[Any]]:
    """The distributions of a group's leptons: pT and |eta| from its maps, and its own spectra."""
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
    """Events after each step, and their weights scaled to the luminosity, by dataset."""
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
    """The rates by systematic variation; a bin that is empty in a variation keeps the nominal rate.

    `systematics.closure` is a relative uncertainty of every bin, as a closure test suggests it.
    `systematics.tilt` tilts the map about its middle along an axis: `pt1` raises the rate at high
    and lowers it at low pT by that fraction, `pt2` the other way round; `be1` and `be2` (barrel and
    endcap) do the same in |eta|.
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
            # equal steps from bin to bin, since bins of a falling spectrum get wider
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
    """Write the agreement of a measured map with the injected probability: chi2, p-value, each
    bin."""
    measured = numbers(analysis, datasets, processed, ledgers)
    tight, loose = measured.nominal
    ratio = divide(tight, loose, analysis.interval)
    expected, variance = (h.values() for h in expectation(measured.groups))
    write_json(output, compare(ratio, loose.values(), expected, variance))


def expectation(groups: Mapping[str, Mapping[str, hist.Hist[Any]]]) -> tuple[Plain, Plain]:
    """The expected tight leptons and their variance, after subtracting the prompt leptons.

    The expectation of the subtracted loose leptons is subtracted as well.
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
    """Compare the measured ratio with the injected probability, averaged over each bin's leptons.

    The average is over the loose leptons themselves (sum w f / sum w), so it doesn't depend on the
    shape of the spectrum within a bin. chi2 uses, in each bin, the side of the measured interval
    that faces the truth. Empty bins don't count. The arrays have the shape of the axes: `loose` are
    sums of weights, `expected` those of w f and `variance` those of w^2 f (1-f).
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
        "p_value": float(chdtrc(ndf, chi2)) if ndf else None,
        "rows": "abs_eta",
        "columns": "pt",
        "measured": table(ratio.value),
        "lower": table(ratio.lower),
        "upper": table(ratio.upper),
        "expected": table(expected),
        "expected_spread": table(spread),
    }
