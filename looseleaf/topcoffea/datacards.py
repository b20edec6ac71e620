"""The statistical model of a topcoffea analysis: Combine datacards, and a pyhf workspace."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hist
import numpy as np
import pyhf
from numpy.typing import NDArray

from looseleaf.errors import DataFileError
from looseleaf.files import whole, write_json
from looseleaf.histograms.store import write_root
from looseleaf.topcoffea.channels import DATA, FLIPS, NONPROMPT
from looseleaf.topcoffea.combine import up_and_down
from looseleaf.topcoffea.efthist import EFTHist
from looseleaf.topcoffea.store import read_histograms
from looseleaf.topcoffea.templates import (
    Template,
    kept_coefficients,
    parts_of,
    statistical,
    templates_of,
)

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

    A background may be negative where little is predicted or most weights are; there it counts as
    zero, with the error that it has.
    """
    every = templates_of(filled, channel, analysis["signal"], coefficients)
    data = [template for template in every if template.process == DATA]
    model = []
    for template in every:
        if template.process == DATA:
            continue
        if not template.part:
            varied = {name: np.maximum(v, 0.0) for name, v in template.variations.items()}
            values = np.maximum(template.values, 0.0)
            template = replace(template, values=values, variations=varied)  # noqa: PLW2901
        if template.values.any():
            model.append(template)
    if analysis.get("unblind", False):
        return model, data[0].values
    expected = [template.values for template in model if template.part in ("", "sm")]
    return model, np.sum(expected, axis=0) if expected else np.zeros_like(every[0].values)


def _applies(systematic: Mapping[str, Any], template: Template) -> bool:
    # a prediction from data has no cross section nor luminosity: it is meant if it is named
    simulated = template.process not in (NONPROMPT, FLIPS)
    return template.process in systematic.get("processes", [template.process] if simulated else [])


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
    to the coefficients by `templates.factors`. The statistical uncertainty of simulation is one
    factor for each bin, on all that is expected there, at every point as wide as at the Standard
    Model: the parts of a signal are of the same events, and vary together.
    """
    parts = parts_of(coefficients)
    spec: dict[str, Any] = {"channels": [], "observations": [], "version": "1.0.0"}
    for channel, (model, observed) in channels.items():
        if not model:
            continue
        samples = [
            {
                "name": template.name,
                "data": template.values.tolist(),
                "modifiers": [
                    *_modifiers(analysis, template),
                    {"name": statistical(channel), "type": "staterror", "data": errors},
                ],
            }
            for template, errors in zip(model, _statistical_errors(channel, model), strict=True)
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


def _statistical_errors(channel: str, model: Sequence[Template]) -> list[list[float]]:
    """For each template what pyhf is to take for its errors.

    pyhf divides the errors of all templates that a factor multiplies, in quadrature, by the sum of
    their contents. It is to get the relative error of the Standard Model's sum, though the other
    parts of signals are multiplied too: the first template carries it all.
    """
    physical = [template for template in model if template.part in ("", "sm")]
    expected = np.sum([template.values for template in physical], axis=0)
    variance = np.sum([template.variances for template in physical], axis=0)
    contents = np.sum([template.values for template in model], axis=0)
    filled = expected > 0
    if (contents[filled] <= 0).any():
        raise DataFileError(
            f"channel {channel}: negative weights outweigh the others in a bin of the signals' "
            "parts: merge bins of the observable"
        )
    relative = np.sqrt(variance) / np.where(filled, expected, 1.0) * filled
    nothing = [0.0] * len(contents)
    return [(relative * contents).tolist(), *[nothing] * (len(model) - 1)]


def _modifiers(analysis: Mapping[str, Any], template: Template) -> list[dict[str, Any]]:
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
    return modifiers
