"""The statistical model of a topcoffea analysis: Combine datacards, and a pyhf workspace."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hist
import numpy as np
import pyhf
from numpy.typing import NDArray

from looseleaf.errors import DataFileError
from looseleaf.files import whole, write_json
from looseleaf.histograms.store import write_root
from looseleaf.topcoffea.channels import FLIPS, NONPROMPT
from looseleaf.topcoffea.combine import DATA, up_and_down
from looseleaf.topcoffea.efthist import EFTHist
from looseleaf.topcoffea.store import read_histograms
from looseleaf.topcoffea.templates import Template, kept_coefficients, parts_of, templates_of

# Combine's name of what was observed
OBSERVED = "data_obs"


def write_datacards(
    analysis: Mapping[str, Any],
    histograms: str | Path,
    cards: Sequence[str],
    templates: Sequence[str],
    workspace: str | Path,
) -> None:
    """Write a card and a ROOT file of templates for each channel, and a workspace of them all.

    `cards` and `templates` are named after their channels. Observed is the Standard Model's
    prediction (Asimov), unless the analysis says `unblind`. Raises `DataFileError` if there is
    nothing in any channel.
    """
    settings = analysis.get("datacards", {})
    found, _ = read_histograms(histograms)
    observable = settings.get("observable", next(iter(analysis["observables"])))
    filled = found[observable]
    coefficients = kept_coefficients(filled, analysis["signal"], settings.get("coefficients"))
    channels: dict[str, tuple[list[Template], NDArray[np.float64]]] = {}
    for card, root in zip(cards, templates, strict=True):
        channel = Path(card).stem
        model, observed = channel_model(analysis, filled, channel, coefficients)
        channels[channel] = model, observed
        write_root(root, _histograms(model, observed, filled.axes[observable]))
        with whole(card) as part:
            part.write_text(card_text(analysis, channel, Path(root).name, model, observed))
    write_json(workspace, workspace_of(analysis, channels, coefficients))


def channel_model(
    analysis: Mapping[str, Any], filled: EFTHist, channel: str, coefficients: Sequence[str]
) -> tuple[list[Template], NDArray[np.float64]]:
    """The templates of a channel that aren't empty, and what is observed in it.

    A predicted background may be negative where little is predicted; there it counts as zero.
    """
    every = templates_of(filled, channel, analysis["signal"], coefficients)
    data = [template for template in every if template.process == DATA]
    model = []
    for template in every:
        if template.process == DATA:
            continue
        if template.process == NONPROMPT:
            varied = {name: np.maximum(v, 0.0) for name, v in template.variations.items()}
            values = np.maximum(template.values, 0.0)
            template = Template(NONPROMPT, "", values, template.variances, varied)  # noqa: PLW2901
        if template.values.any():
            model.append(template)
    if analysis.get("unblind", False):
        return model, data[0].values
    expected = [template.values for template in model if template.part in ("", "sm")]
    return model, np.sum(expected, axis=0) if expected else np.zeros_like(every[0].values)


def _applies(systematic: Mapping[str, Any], template: Template) -> bool:
    # a prediction from data has no cross section nor luminosity
    simulated = template.process not in (NONPROMPT, FLIPS)
    return template.process in systematic.get("processes", [template.process]) and simulated


def rates_of(analysis: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The rate systematics that are one nuisance; those of single years are shapes."""
    rates = analysis.get("systematics", {}).get("rate", {})
    return {name: rate for name, rate in rates.items() if rate.get("correlated", True)}


def _shapes(model: Sequence[Template]) -> list[str]:
    labels = [label for template in model for label in template.variations]
    return list(dict.fromkeys(label.removesuffix("Up") for label in labels if label.endswith("Up")))


def _histogram(values: Any, variances: Any, axis: Any) -> hist.Hist:
    out = hist.Hist(axis, storage=hist.storage.Weight())
    out.view().value, out.view().variance = values, variances
    return out


def _histograms(
    model: Sequence[Template], observed: NDArray[np.float64], axis: Any
) -> dict[str, hist.Hist]:
    out = {OBSERVED: _histogram(observed, observed, axis)}
    for template in model:
        out[template.name] = _histogram(template.values, template.variances, axis)
        for label, values in template.variations.items():
            out[f"{template.name}_{label}"] = _histogram(values, np.zeros_like(values), axis)
    return out


def card_text(
    analysis: Mapping[str, Any],
    channel: str,
    root: str,
    model: Sequence[Template],
    observed: NDArray[np.float64],
) -> str:
    """A Combine datacard: signals with numbers up to 0, backgrounds from 1 on."""
    signals = [template for template in model if template.part]
    numbers = {t.name: index - len(signals) + 1 for index, t in enumerate(signals)}
    backgrounds = [template for template in model if not template.part]
    numbers |= {template.name: index for index, template in enumerate(backgrounds, start=1)}
    rows: list[list[str]] = [
        ["bin", "", *[channel] * len(model)],
        ["process", "", *[template.name for template in model]],
        ["process", "", *[str(numbers[template.name]) for template in model]],
        ["rate", "", *[f"{template.values.sum():.6f}" for template in model]],
    ]
    for name, rate in rates_of(analysis).items():
        up, down = up_and_down(rate["value"])
        text = f"{up:g}" if isinstance(rate["value"], (int, float)) else f"{down:g}/{up:g}"
        rows.append([name, "lnN", *[text if _applies(rate, t) else "-" for t in model]])
    for name in _shapes(model):
        rows.append([name, "shape", *["1" if f"{name}Up" in t.variations else "-" for t in model]])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    rule = "-" * 80
    threshold = analysis.get("datacards", {}).get("auto_mc_stats", 10)
    return "\n".join([
        f"# {analysis['title']}: {channel}",
        "imax 1", "jmax *", "kmax *", rule,
        f"shapes * {channel} {root} $PROCESS $PROCESS_$SYSTEMATIC", rule,
        f"bin {channel}", f"observation {observed.sum():.6f}", rule,
        *table[:4], rule, *table[4:],
        f"{channel} autoMCStats {threshold:g}", "",
    ])  # fmt: skip


def workspace_of(
    analysis: Mapping[str, Any],
    channels: Mapping[str, tuple[Sequence[Template], NDArray[np.float64]]],
    coefficients: Sequence[str],
) -> dict[str, Any]:
    """The channels as a pyhf workspace, checked against pyhf's schema.

    A signal's part is scaled with a normfactor of its name (`sm`, `lin_ctG`, ...); `fit` ties them
    to the coefficients by `templates.factors`. Of the simulation's statistics each bin has one
    parameter that scales all of it (Barlow-Beeston lite): its width is the relative uncertainty of
    the total at the Standard Model, and is taken to be that at other points.
    """
    parts = parts_of(coefficients)
    spec: dict[str, Any] = {"channels": [], "observations": [], "version": "1.0.0"}
    for channel, (model, observed) in channels.items():
        if not model:
            continue
        scale = _staterror_scale(model)
        samples = [
            {
                "name": template.name,
                "data": template.values.tolist(),
                "modifiers": _modifiers(analysis, channel, template, scale),
            }
            for template in model
        ]
        spec["channels"].append({"name": channel, "samples": samples})
        spec["observations"].append({"name": channel, "data": observed.tolist()})
    if not spec["channels"]:
        raise DataFileError(f"analysis {analysis['name']}: no channel has an event to fit")
    used = {
        modifier["name"]
        for channel in spec["channels"]
        for sample in channel["samples"]
        for modifier in sample["modifiers"]
    }
    parameters = [
        {
            "name": part,
            "inits": [1.0 if part == "sm" else 0.0],
            "bounds": [[-1e4, 1e4]],
            "fixed": part == "sm",
        }
        for part in parts
        if part in used
    ]
    poi = next((part for part in parts[1:] if part in used), "")
    config = {"poi": poi, "parameters": parameters}
    spec["measurements"] = [{"name": analysis["name"], "config": config}]
    pyhf.schema.validate(spec, "workspace.json")
    return spec


def _staterror_scale(model: Sequence[Template]) -> NDArray[np.float64]:
    """What errors are multiplied with so that pyhf, which divides them by the sum of all samples,
    the parts beyond the Standard Model among them, divides by the Standard Model's total."""
    every = np.sum([template.values for template in model], axis=0)
    shown = [template.values for template in model if template.part in ("", "sm")]
    sm = np.sum(shown, axis=0) if shown else np.zeros_like(every)
    known = (sm > 0) & (every > 0)
    return np.where(known, every, 0.0) / np.where(known, sm, 1.0)


def _modifiers(
    analysis: Mapping[str, Any],
    channel: str,
    template: Template,
    scale: NDArray[np.float64],
) -> list[dict[str, Any]]:
    modifiers: list[dict[str, Any]] = []
    if template.part:
        modifiers.append({"name": template.part, "type": "normfactor", "data": None})
    for name, rate in rates_of(analysis).items():
        if _applies(rate, template):
            up, down = up_and_down(rate["value"])
            modifiers.append({"name": name, "type": "normsys", "data": {"hi": up, "lo": down}})
    for name in _shapes([template]):
        varied = {
            key: template.variations[f"{name}{direction}"].tolist()
            for key, direction in (("hi_data", "Up"), ("lo_data", "Down"))
        }
        modifiers.append({"name": name, "type": "histosys", "data": varied})
    # the other parts hold the same events again: they are scaled, and add no error
    in_total = template.part in ("", "sm")
    errors = (np.sqrt(template.variances) * scale if in_total else 0.0 * scale).tolist()
    modifiers.append({"name": f"stat_{channel}", "type": "staterror", "data": errors})
    return modifiers
