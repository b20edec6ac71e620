"""The statistical model of a topcoffea analysis: Combine datacards, and a pyhf workspace."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hist
import numpy as np
import pyhf
from numpy.typing import NDArray

from looseleaf.efthist import EFTHist
from looseleaf.errors import DataFileError
from looseleaf.files import whole, write_json
from looseleaf.histograms.store import write_root
from looseleaf.histograms.typed import Weighted
from looseleaf.losses import say
from looseleaf.topcoffea.analysis import TopCoffeaAnalysis
from looseleaf.topcoffea.channels import DATA, FLIPS, NONPROMPT
from looseleaf.topcoffea.naming import OBSERVED, card_channel
from looseleaf.topcoffea.store import read_histograms
from looseleaf.topcoffea.templates import (
    NEGLIGIBLE,
    Template,
    kept_coefficients,
    parts_of,
    statistical,
    templates_of,
)
from looseleaf.topcoffea.yields import up_and_down

# a variation that leaves less than this fraction of a process is raised to it
LEAST_VARIED = 1e-3
# negative contents above this fraction of a process' bin are noted; smaller ones are rounding
SAID = 1e-6


@dataclass(frozen=True)
class ChannelModel:
    """The expected and observed events of a channel.

    `notes` are sentences on differences between the histogram and the cards or the workspace, for
    the log and for the card.
    """

    templates: list[Template]
    observed: NDArray[np.float64]
    notes: list[str]


def write_datacards(
    analysis: TopCoffeaAnalysis,
    histograms: str | Path,
    cards: Mapping[str, str],
    templates: Mapping[str, str],
    workspace: str | Path,
) -> None:
    """Write a card and a ROOT file of templates for each channel, and a workspace of all channels.

    `cards` and `templates` are paths by channel. The observed events are the Standard Model's
    prediction (Asimov), unless the analysis says `unblind`. A channel without expected events isn't
    part of the model: its file has comments only, and the workspace lacks it. Raises
    `DataFileError` if no channel has any.
    """
    by_observable, _ = read_histograms(histograms)
    observable = analysis.card_observable
    filled = by_observable[observable]
    considered = analysis.datacards.coefficients
    considered = filled.coefficients if considered is None else considered
    coefficients = kept_coefficients(filled, analysis.signal, considered)
    channels = {name: channel_model(analysis, filled, name, coefficients) for name in cards}
    fitted = {name: model for name, model in channels.items() if model.templates}
    if not fitted:
        raise DataFileError(
            f"analysis {analysis.name}: no channel has expected events: is a process "
            "missing, or are the cuts too tight?"
        )
    folder = Path(next(iter(cards.values()))).parent
    say(f"topcoffea {analysis.name}", _of_the_cards(considered, coefficients, folder, channels))
    for channel, model in channels.items():
        root = templates[channel]
        write_root(root, _histograms(channel, model, filled.axes[observable]))
        text = card_text(analysis, channel, Path(root).name, model, list(fitted))
        with whole(cards[channel]) as part:
            part.write_text(text)
    write_json(workspace, workspace_of(analysis, fitted, coefficients))


def _without_a_channel(folder: Path, channels: Collection[str]) -> list[str]:
    """Remove our cards of channels that aren't there any more, and their templates; the names.

    `combineCards.py *.txt` would take them. Cards that somebody else put there stay.
    """
    removed = []
    for path in sorted(folder.glob("*.txt")):
        if path.stem not in channels and _heading(path.stem) in path.read_text(errors="replace"):
            path.unlink()
            path.with_suffix(".root").unlink(missing_ok=True)
            removed.append(path.stem)
    return removed


def _heading(channel: str) -> str:
    return f": channel {channel}, here and in the workspace {card_channel(channel)}\n"


def _of_the_cards(
    considered: Sequence[str],
    coefficients: Sequence[str],
    folder: Path,
    channels: Mapping[str, ChannelModel],
) -> Iterator[str]:
    """Messages for the log about all cards."""
    idle = [name for name in considered if name not in coefficients]
    if idle:
        yield (
            f"the coefficients {', '.join(idle)} change no signal by more than {NEGLIGIBLE:g} of "
            "the Standard Model in any bin, and are left out of all cards"
        )
    if removed := _without_a_channel(folder, channels):
        yield f"removed cards of channels that the analysis no longer has: {', '.join(removed)}"
    for channel, model in channels.items():
        for note in model.notes:
            yield f"channel {channel}: {note}"


def channel_model(
    analysis: TopCoffeaAnalysis, filled: EFTHist, channel: str, coefficients: Sequence[str]
) -> ChannelModel:
    """The non-empty templates of a channel, as Combine needs them, and the observed events."""
    every = templates_of(filled, channel, analysis.signal, coefficients)
    axis = filled.axes[-1]
    nothing = np.zeros(len(axis))
    observed = np.sum([nothing, *[t.values for t in every if t.process == DATA]], axis=0)
    sizes: dict[str, NDArray[np.float64]] = {}
    for template in every:
        before = sizes.get(template.process, nothing)
        sizes[template.process] = before + np.abs(template.values)
    model, notes = [], []
    lost: dict[str, list[str]] = {}
    for template in every:
        if template.process == DATA:
            continue
        cut, said = _cut_off(template, sizes[template.process], axis)
        notes += said
        if cut.values.any():
            model.append(_left_something(cut))
            for label in _leaving_nothing(cut):
                lost.setdefault(label, []).append(cut.name)
    notes += [
        f"{label} leaves nothing of {', '.join(names)}: a thousandth is kept, since "
        "Combine refuses a variation without events"
        for label, names in lost.items()
    ]
    expected = np.sum([nothing, *[t.values for t in model if t.part in ("", "sm")]], axis=0)
    if not analysis.unblind:
        observed = expected
    notes += _of_the_channel(model, expected, observed, axis)
    return ChannelModel(model, observed, notes)


def _cut_off(
    template: Template, size: NDArray[np.float64], axis: Any
) -> tuple[Template, list[str]]:
    """A template without its negative contents, and a note on them.

    `size` is the content of the process in each bin. Combine sets negative bins to zero for each
    process; it is done here so that the workspace has the same model.
    """
    notes = []
    values = np.maximum(template.values, 0.0)
    below = values - template.values
    said = below > SAID * size
    if said.any():
        notes.append(
            f"{template.name} is {-below[said].sum():.3g} {_bins(said, axis)}, where it is set "
            "to zero: negative weights outweigh the others; merge bins of the observable"
        )
    variations = {label: np.maximum(v, 0.0) for label, v in template.variations.items()}
    only = [label for label, varied in variations.items() if varied.any()]
    if only and not values.any():
        notes.append(f"{template.name} has events only in {', '.join(only)} and is left out")
    return replace(template, values=values, variations=variations), notes


def _leaving_nothing(template: Template) -> list[str]:
    least = LEAST_VARIED * template.values.sum()
    return [label for label, varied in template.variations.items() if varied.sum() < least]


def _left_something(template: Template) -> Template:
    """A template whose variations keep at least a thousandth of it, since Combine refuses less."""
    nothing = dict.fromkeys(_leaving_nothing(template), LEAST_VARIED * template.values)
    return replace(template, variations={**template.variations, **nothing})


def _of_the_channel(
    model: Sequence[Template], expected: Any, observed: Any, axis: Any
) -> Iterator[str]:
    """Options that a channel needs in Combine, and data in bins where nothing is expected."""
    if not model:
        yield (
            f"nothing is expected, and {observed.sum():g} events are observed: the channel has no "
            "card, and the workspace lacks it"
        )
        return
    if all(template.part for template in model):
        yield "has no background: run Combine with --X-allow-no-background"
    if not any(template.part for template in model):
        yield "has no signal: to fit it alone, run Combine with --X-allow-no-signal"
    unexpected = (expected == 0) & (observed > 0)
    if unexpected.any():
        yield (
            f"{observed[unexpected].sum():g} events of data are {_bins(unexpected, axis)}, where "
            "the Standard Model expects none, so its likelihood is zero: merge bins of the "
            "observable, or add the missing process"
        )


def _bins(chosen: NDArray[np.bool_], axis: Any) -> str:
    """Bins in words: `in ht from 300 to 450 and 600 to 800`, with adjacent bins joined."""
    steps = np.diff(chosen.astype(int), prepend=0, append=0)
    starts, ends = (axis.edges[steps == step] for step in (1, -1))
    spans = [f"{start:g} to {end:g}" for start, end in zip(starts, ends, strict=True)]
    return f"in {axis.name} from {' and '.join(spans)}"


def _applies(systematic: Mapping[str, Any], template: Template) -> bool:
    # a prediction from data has no cross section or luminosity, so it is varied only if named
    simulated = template.process not in (NONPROMPT, FLIPS)
    return template.process in systematic.get("processes", [template.process] if simulated else [])


def rates_of(analysis: TopCoffeaAnalysis) -> dict[str, Mapping[str, Any]]:
    """The rate systematics with one nuisance; those with one for each year are shapes."""
    rates = analysis.systematics.rate
    return {name: rate for name, rate in rates.items() if rate.get("correlated", True)}


def _shapes(model: Sequence[Template]) -> list[str]:
    labels = [label for template in model for label in template.variations]
    return list(dict.fromkeys(label.removesuffix("Up") for label in labels if label.endswith("Up")))


def _histogram(values: Any, variances: Any, axis: Any) -> Weighted:
    out: Weighted = hist.Hist(axis, storage=hist.storage.Weight())
    out.view().value, out.view().variance = values, variances
    return out


def _histograms(channel: str, model: ChannelModel, axis: Any) -> dict[str, Weighted]:
    """The contents of a channel's ROOT file; `DataFileError` if two have the same name."""
    out = {OBSERVED: _histogram(model.observed, model.observed, axis)}
    for template in model.templates:
        of_template = {template.name: _histogram(template.values, template.variances, axis)}
        for label, values in template.variations.items():
            of_template[f"{template.name}_{label}"] = _histogram(
                values, np.zeros_like(values), axis
            )
        for name in of_template.keys() & out.keys():
            raise DataFileError(
                f"channel {channel}: two templates would be called {name!r}, of {template.name!r} "
                "and of another process; rename a process or a systematic"
            )
        out |= of_template
    return out


def card_text(
    analysis: TopCoffeaAnalysis,
    channel: str,
    root: str,
    model: ChannelModel,
    fitted: Sequence[str],
) -> str:
    """A Combine datacard: signals have numbers up to 0, backgrounds from 1.

    `fitted` are the channels with a card; the text of any other has only comments with the reason.
    autoMCStats treats the parts of a signal as independent, although they come from the same
    events: if the signal's statistics matter, the errors are too large.
    """
    name, templates = card_channel(channel), model.templates
    title = " ".join(analysis.title.split())
    together = " ".join(f"{card_channel(one)}={one}.txt" for one in fitted)
    comments = [
        f"{title}{_heading(channel)}".rstrip(),
        *model.notes,
        f"all channels: combineCards.py {together}",
    ]
    if not templates:
        return "".join(f"# {line}\n" for line in comments)
    rows = [*_rates(name, templates), *_nuisances(analysis, templates)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    rule = "-" * 80
    threshold = analysis.datacards.auto_mc_stats
    return "\n".join([
        *[f"# {line}" for line in comments],
        "imax 1", "jmax *", "kmax *", rule,
        f"shapes * {name} {root} $PROCESS $PROCESS_$SYSTEMATIC", rule,
        f"bin {name}", f"observation {model.observed.sum():.9g}", rule,
        *table[:4], rule, *table[4:],
        # for bins without background too: the 1
        f"{name} autoMCStats {threshold:g} 1", "",
    ])  # fmt: skip


def _rates(name: str, templates: Sequence[Template]) -> list[list[str]]:
    """The rows of a card's processes: the channel, their names, numbers and rates."""
    signals = [template for template in templates if template.part]
    numbers = {t.name: index - len(signals) + 1 for index, t in enumerate(signals)}
    backgrounds = [template for template in templates if not template.part]
    numbers |= {template.name: index for index, template in enumerate(backgrounds, start=1)}
    # enough digits for rare processes, which would be zero to Combine as 0.000000
    return [
        ["bin", "", *[name] * len(templates)],
        ["process", "", *[template.name for template in templates]],
        ["process", "", *[str(numbers[template.name]) for template in templates]],
        ["rate", "", *[f"{template.values.sum():.9g}" for template in templates]],
    ]


def _nuisances(analysis: TopCoffeaAnalysis, templates: Sequence[Template]) -> list[list[str]]:
    """The rows of a card's nuisances: factors on processes, then shapes."""
    rows: list[list[str]] = []
    for nuisance, rate in rates_of(analysis).items():
        up, down = up_and_down(rate["value"])
        text = f"{up:.9g}" if isinstance(rate["value"], (int, float)) else f"{down:.9g}/{up:.9g}"
        cells = [text if _applies(rate, t) else "-" for t in templates]
        # Combine and the workspace need no nuisance that varies nothing here
        rows += [[nuisance, "lnN", *cells]] if text in cells else []
    for nuisance in _shapes(templates):
        cells = ["1" if f"{nuisance}Up" in t.variations else "-" for t in templates]
        rows.append([nuisance, "shape", *cells])
    return rows


def workspace_of(
    analysis: TopCoffeaAnalysis,
    channels: Mapping[str, ChannelModel],
    coefficients: Sequence[str],
) -> dict[str, Any]:
    """The channels as a pyhf workspace, checked against pyhf's schema.

    Each part of a signal is scaled with a normfactor of its name (`sm`, `lin_ctG`, ...), and `fit`
    sets these from the coefficients by `templates.factors`. The statistical uncertainty of
    simulation is one factor for each bin, on the sum of all processes, with its relative size at
    the Standard Model, since the parts of a signal come from the same events and vary together.
    """
    parts = parts_of(coefficients)
    spec: dict[str, Any] = {"channels": [], "observations": [], "version": "1.0.0"}
    for channel, model in channels.items():
        name = card_channel(channel)
        errors = _statistical_errors(model.templates)
        samples = [
            {
                "name": template.name,
                "data": template.values.tolist(),
                "modifiers": [
                    *_modifiers(analysis, template),
                    {"name": statistical(name), "type": "staterror", "data": error},
                ],
            }
            for template, error in zip(model.templates, errors, strict=True)
        ]
        spec["channels"].append({"name": name, "samples": samples})
        spec["observations"].append({"name": name, "data": model.observed.tolist()})
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
    spec["measurements"] = [{"name": analysis.name, "config": config}]
    pyhf.schema.validate(spec, "workspace.json")
    return spec


def _statistical_errors(model: Sequence[Template]) -> list[list[float]]:
    """The errors to store for each template.

    pyhf divides the errors of all templates that share a factor, added in quadrature, by the sum of
    their contents. To get the relative error of the Standard Model's sum, although the other parts
    of signals share the factor, the first template carries all of it.
    """
    contents = np.sum([template.values for template in model], axis=0)
    physical = [template for template in model if template.part in ("", "sm")]
    expected, variance = np.zeros((2, len(contents)))
    for template in physical:
        expected, variance = expected + template.values, variance + template.variances
    filled = expected > 0
    relative = np.sqrt(variance) / np.where(filled, expected, 1.0) * filled
    nothing = [0.0] * len(contents)
    return [(relative * contents).tolist(), *[nothing] * (len(model) - 1)]


def _modifiers(analysis: TopCoffeaAnalysis, template: Template) -> list[dict[str, Any]]:
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
