"""Measuring a fake-rate map from processed datasets, and holding it against a known truth."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hist
import numpy as np
from scipy.stats import chi2 as chi2_distribution

from looseleaf.fakerate.processor import NOMINAL, away_jet_thresholds
from looseleaf.files import read_json, write_json
from looseleaf.histograms.ratio import Ratio, divide
from looseleaf.histograms.store import read_uhi, write_correction, write_root, write_uhi
from looseleaf.objects.weights import scale_to_luminosity


def summed(
    names: Sequence[str],
    analysis: Mapping[str, Any],
    datasets: Mapping[str, Mapping[str, Any]],
    processed: Mapping[str, str],
    ledgers: Mapping[str, str],
) -> dict[str, hist.Hist]:
    """Histograms of several datasets added up, each scaled to the luminosity.

    With `weights: counts` they are added as they are. Variances scale with the square, and so
    does `expected_variance`, which holds variances as its values.
    """
    total: dict[str, hist.Hist] = {}
    for name in names:
        histograms, _ = read_uhi(processed[name])
        scale = 1.0
        if analysis["weights"] == "xsec":
            total_weight = read_json(ledgers[name])["original"]["sum_of_weights"]
            scale = scale_to_luminosity(name, datasets[name], analysis["lumi_ifb"], total_weight)
        for key, histogram in histograms.items():
            if key == "cutflow":
                scaled = histogram
            else:
                scaled = histogram * (scale**2 if key == "expected_variance" else scale)
            total[key] = total[key] + scaled if key in total else scaled
    return total


def subtracted(total: hist.Hist, prompt: hist.Hist) -> hist.Hist:
    """`total` less `prompt`, the variances added: both fluctuate."""
    out = total.copy()
    out.view(flow=True).value -= prompt.view(flow=True).value
    out.view(flow=True).variance += prompt.view(flow=True).variance
    return out


def numbers(
    analysis: Mapping[str, Any],
    datasets: Mapping[str, Mapping[str, Any]],
    processed: Mapping[str, str],
    ledgers: Mapping[str, str],
) -> tuple[dict[str, hist.Hist], dict[str, tuple[hist.Hist, hist.Hist]]]:
    """The normalised histograms of an analysis, and (tight, loose) by variation.

    The datasets of `measure` are added, those of `subtract` taken away as simulated. The
    variations are `nominal`, those of the away jet's threshold, and `prompt_up` and `prompt_down`,
    with the subtraction scaled by the factors of `systematics.prompt`.
    """
    groups = analysis["datasets"]
    found = summed(groups["measure"], analysis, datasets, processed, ledgers)
    prompt = None
    if groups.get("subtract"):
        prompt = summed(groups["subtract"], analysis, datasets, processed, ledgers)

        # what is expected of the loose leptons that are taken away is taken away with them
        for key, sign in (("expected", -1.0), ("expected_variance", 1.0)):
            if key in found:
                found[key] = found[key] + prompt[key] * sign

    def pair(variation: str, factor: float = 1.0) -> tuple[hist.Hist, hist.Hist]:
        tight, loose = (found[key][variation, ...] for key in ("tight", "loose"))
        if prompt is not None:
            tight = subtracted(tight, prompt["tight"][variation, ...] * factor)
            loose = subtracted(loose, prompt["loose"][variation, ...] * factor)
        if analysis["weights"] == "counts":
            tight, loose = (_plain(h.values(flow=True), h, flow=True) for h in (tight, loose))
        return tight, loose

    pairs = {variation: pair(variation) for variation in away_jet_thresholds(analysis)}
    for side, factor in analysis.get("systematics", {}).get("prompt", {}).items():
        pairs[f"prompt_{side}"] = pair(NOMINAL, factor)
    return found, pairs


def measure(
    analysis: Mapping[str, Any],
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
    variation, cutflow), ROOT and correctionlib.
    """
    found, pairs = numbers(analysis, datasets, processed, ledgers)
    tight, loose = pairs[NOMINAL]
    ratio = divide(tight, loose, analysis["interval"])
    metadata = {
        "analysis": analysis["name"],
        "title": analysis["title"],
        "weights": analysis["weights"],
        "lumi_ifb": analysis.get("lumi_ifb"),
        "is_data": any(datasets[name]["data"] for name in analysis["datasets"]["measure"]),
        "interval": ratio.interval,
        "empty_bins": np.argwhere(ratio.empty).tolist(),
    }
    variations = varied(analysis, ratio, pairs)
    maps = {
        "loose": loose,
        "tight": tight,
        "ratio": ratio.to_hist(),
        "ratio_lower": _plain(np.where(ratio.empty, 0.0, ratio.lower), loose),
        "ratio_upper": _plain(np.where(ratio.empty, 0.0, ratio.upper), loose),
        **{f"ratio_{name}": _plain(values, loose) for name, values in variations.items()},
    }
    write_uhi(uhi, {**maps, "cutflow": found["cutflow"]}, metadata)
    write_root(root, maps)
    flavour = analysis["lepton"]["collection"].lower()
    write_correction(
        correction,
        f"{flavour}_fake_rate",
        f"{analysis['title']}: N(tight) / N(loose), {ratio.interval} interval at 68.27%.",
        ratio,
        loose,
        variations,
    )


def varied(
    analysis: Mapping[str, Any],
    nominal: Ratio,
    pairs: Mapping[str, tuple[hist.Hist, hist.Hist]],
) -> dict[str, Any]:
    """The rate by systematic variation; a bin that a variation leaves empty keeps the nominal.

    `systematics.closure` is a relative uncertainty of every bin, as a closure test suggests it.
    """
    base = np.where(nominal.empty, 0.0, nominal.value)
    out = {}
    for name, (tight, loose) in pairs.items():
        if name != NOMINAL:
            ratio = divide(tight, loose, analysis["interval"])
            out[name] = np.where(ratio.empty, base, ratio.value)
    closure = analysis.get("systematics", {}).get("closure")
    if closure is not None:
        out["closure_up"], out["closure_down"] = base * (1 + closure), base * (1 - closure)
    return out


def compare_with_truth(
    analysis: Mapping[str, Any],
    datasets: Mapping[str, Mapping[str, Any]],
    processed: Mapping[str, str],
    ledgers: Mapping[str, str],
    output: str | Path,
) -> None:
    """Write how a measured map agrees with the injected probability: chi2, p-value, each bin."""
    found, pairs = numbers(analysis, datasets, processed, ledgers)
    tight, loose = pairs[NOMINAL]
    ratio = divide(tight, loose, analysis["interval"])
    write_json(output, compare(ratio, {**found, "loose": found["loose"][NOMINAL, ...]}))


def _plain(values: Any, like: hist.Hist, flow: bool = False) -> hist.Hist:
    """Values on the axes of another histogram, without variances."""
    out = hist.Hist(*like.axes, storage=hist.storage.Double())
    out.view(flow=flow)[...] = values
    return out


def compare(ratio: Ratio, found: Mapping[str, hist.Hist]) -> dict[str, Any]:
    """The measured ratio against the injected probability, averaged over each bin's leptons.

    The average is that of the loose leptons themselves (sum w f / sum w), so no shape of the
    spectrum within a bin enters. chi2 takes, in each bin, the end of the measured interval that
    points towards the truth. Empty bins don't count.
    """
    loose = found["loose"].values()
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = found["expected"].values() / loose
        spread = np.sqrt(found["expected_variance"].values()) / loose
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
