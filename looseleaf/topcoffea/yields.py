"""Normalising the processed datasets of a topcoffea analysis, and tabulating the yields."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from looseleaf.efthist import EFTHist
from looseleaf.errors import DataFileError
from looseleaf.files import whole, write_json
from looseleaf.histograms.coverage import observable_edges, refuse_most_beyond, weighed
from looseleaf.histograms.typed import Plain
from looseleaf.losses import say
from looseleaf.objects.names import COVERAGE
from looseleaf.stage_files import original_of
from looseleaf.topcoffea.analysis import Systematics, TopCoffeaAnalysis, varies
from looseleaf.topcoffea.axes import (
    CAPPED,
    CHANNEL,
    FAILING,
    NOMINAL,
    PROCESS,
    REGION,
    SYSTEMATIC,
    UNMEASURED,
    beyond_axes,
)
from looseleaf.topcoffea.channels import DATA, FLIPS, NONPROMPT, SIGNAL, weighed_alone
from looseleaf.topcoffea.naming import card_channel
from looseleaf.topcoffea.normalisation import factors_of
from looseleaf.topcoffea.store import eft_histograms, read_histograms, weighted_at, write_histograms

# the row of a text table with the expected sum; no process has this name
TOTAL = "all expected"
# an observable of one dataset by variation, normalised
Varied = dict[str, EFTHist]


def sum_datasets(
    analysis: TopCoffeaAnalysis,
    datasets: Mapping[str, Mapping[str, Any]],
    processed: Mapping[str, str],
    ledgers: Mapping[str, str],
    histograms: str | Path,
    yields: str | Path,
    table: str | Path,
) -> None:
    """Normalise the datasets, add them by process, and tabulate the yields.

    The results are the observables' histograms over process, channel, systematic and observable;
    and the yields by channel, process and EFT point with their statistical uncertainties, as text
    and as JSON, which also has the channels' names in datacards. The process `nonprompt` is data in
    the application region, weighted with the measured rates, minus simulated prompt events there;
    `flips` is the same for events with opposite charges. The yields also list how many failing
    leptons of data had a capped rate or none; the latter is logged.

    An EFT sample is normalised to its sum of Standard Model weights, since its cross section is
    that of the Standard Model. Raises `DataFileError` as `factors_of` does, and if most events are
    outside the edges of an observable and the analysis doesn't allow it.
    """
    parts: dict[str, dict[str, list[Varied]]] = {}
    failing = {CAPPED: 0, UNMEASURED: 0}
    covered: list[Plain] = []
    for name, dataset in datasets.items():
        factors = factors_of(name, dataset, analysis, original_of(ledgers[name]))
        contents = read_histograms(processed[name])[0]
        for kind in failing if dataset["data"] and FAILING in contents else ():
            failing[kind] += int(contents[FAILING][kind])
        for observable, filled in eft_histograms(contents).items():
            if not np.isfinite(filled.terms(flow=True)).all():
                raise DataFileError(
                    f"dataset {name}: the weights in {observable} don't add up to a finite number: "
                    "a genWeight, an EFT coefficient or an expression of a systematic is NaN or inf"
                )
            for process, varied in _by_process(filled, dataset, factors, analysis).items():
                parts.setdefault(observable, {}).setdefault(process, []).append(varied)
        covered.append(weighed(contents[COVERAGE], factors[NOMINAL]))
    total = {observable: _added(by_process) for observable, by_process in parts.items()}
    everything = sum(covered[1:], start=covered[0])
    refuse_most_beyond(analysis, everything, observable_edges(analysis), "events")
    losses = beyond_axes(analysis, everything)
    about: dict[str, Any] = {"analysis": analysis.name, "lumi_ifb": analysis.lumi_ifb}
    write_histograms(histograms, total, about)
    channels = yields_of(analysis, next(iter(total.values())))
    if analysis.nonprompt is not None:
        about["capped_leptons"] = failing[CAPPED]
        about["leptons_in_empty_bins"] = failing[UNMEASURED]
    if failing[UNMEASURED]:
        message = (
            f"{failing[UNMEASURED]} failing leptons of data are in empty bins of the maps and "
            "predict nothing; use wider bins"
        )
        say(f"topcoffea {analysis.name}", [message])
    about["card_channels"] = {channel: card_channel(channel) for channel in channels}
    say(f"topcoffea {analysis.name}", (loss.message for loss in losses))
    about["losses"] = [loss.to_json() for loss in losses]
    write_json(yields, {**about, "channels": channels})
    with whole(table) as part:
        part.write_text(text_table(channels))


def _by_process(
    filled: EFTHist,
    dataset: Mapping[str, Any],
    factors: Mapping[str, float],
    analysis: TopCoffeaAnalysis,
) -> dict[str, Varied]:
    """The variations of one dataset by process: its own, and its part of predictions from data."""
    out: dict[str, Varied] = {}
    systematics = analysis.systematics
    own = DATA if dataset["data"] else dataset["process"]
    for systematic in filled.categories(SYSTEMATIC):
        scaled = filled.select(**{SYSTEMATIC: systematic}).scaled(
            factors.get(systematic, factors[NOMINAL])
        )
        label = _decorrelated(systematic, dataset, systematics)
        # rates affect only the events of their region
        only = weighed_alone(systematic)
        if only is None:
            out.setdefault(own, {})[label] = scaled.select(**{REGION: SIGNAL})
        if analysis.nonprompt is not None and only in (None, NONPROMPT):
            region = scaled.select(**{REGION: NONPROMPT})
            if not dataset["data"]:
                # prompt leptons are subtracted at the Standard Model
                region = region.frozen().scaled(-1.0)
            out.setdefault(NONPROMPT, {})[label] = region
        if analysis.flips is not None and dataset["data"] and only in (None, FLIPS):
            out.setdefault(FLIPS, {})[label] = scaled.select(**{REGION: FLIPS})
    nominal = out[own][NOMINAL]
    for name, rate in systematics.rate.items():
        applies = varies(rate, own) and not dataset["data"]
        if applies and not rate.get("correlated", True):
            # with a nuisance for each year, it varies the shape of the sum
            up, down = up_and_down(rate["value"])
            year = dataset["year"]
            out[own][f"{name}_{year}Up"] = nominal.scaled(up)
            out[own][f"{name}_{year}Down"] = nominal.scaled(down)
    return out


def up_and_down(value: Any) -> tuple[float, float]:
    """The factors of a rate systematic: 1.02, or [0.97, 1.03] for down and up."""
    if isinstance(value, (list, tuple)):
        return value[1], value[0]
    return value, 1 / value


def _decorrelated(systematic: str, dataset: Mapping[str, Any], systematics: Systematics) -> str:
    """A variation's name, with the year if each year has a nuisance of its own."""
    for direction in ("Up", "Down"):
        name = systematic.removesuffix(direction)
        if name == systematic:
            continue
        for of_kind in (systematics.shape, systematics.theory):
            if not of_kind.get(name, {}).get("correlated", True):
                return f"{name}_{dataset['year']}{direction}"
    return systematic


def _added(by_process: Mapping[str, list[Varied]]) -> EFTHist:
    """The sum by process and variation; a dataset without a variation enters with nominal
    weights."""
    total: EFTHist | None = None
    for process, parts in by_process.items():
        for label in dict.fromkeys(label for varied in parts for label in varied):
            for varied in parts:
                histogram = varied.get(label, varied[NOMINAL])
                tagged = histogram.with_category(SYSTEMATIC, label).with_category(PROCESS, process)
                if total is None:
                    total = tagged
                else:
                    total += tagged
    assert total is not None
    return total


def yields_of(analysis: TopCoffeaAnalysis, filled: EFTHist) -> dict[str, Any]:
    """Events by channel, process and EFT point, including the flow bins.

    Data is included if the analysis says `unblind`.
    """
    nominal = filled.select(**{SYSTEMATIC: NOMINAL}).project(PROCESS, CHANNEL)
    processes, channels = nominal.categories(PROCESS), nominal.categories(CHANNEL)
    shown = [p for p in processes if p != DATA or analysis.unblind]
    out: dict[str, Any] = {c: {p: {} for p in shown} for c in channels}
    for label, point in analysis.points.items():
        view = weighted_at(nominal, point).view()
        for process in shown:
            i = processes.index(process)
            for j, channel in enumerate(channels):
                out[channel][process][label] = {
                    "value": float(view.value[i, j]),
                    "error": float(np.sqrt(view.variance[i, j])),
                }
    return out


def text_table(channels: Mapping[str, Any]) -> str:
    """The yields as text: a block for each channel, a row for each process, a column for each
    point.

    The expected processes are followed by their sum, with the errors added in quadrature, and by
    data.
    """
    lines = []
    for channel, processes in channels.items():
        points = list(next(iter(processes.values())))
        expected = {process: at for process, at in processes.items() if process != DATA}
        total = {
            point: {
                "value": sum(at[point]["value"] for at in expected.values()),
                "error": math.hypot(*(at[point]["error"] for at in expected.values())),
            }
            for point in points
        }
        observed = {DATA: processes[DATA]} if DATA in processes else {}
        rows = [
            [process, *(f"{v['value']:.2f} +- {v['error']:.2f}" for v in at.values())]
            for process, at in {**expected, TOTAL: total, **observed}.items()
        ]
        rows = [[channel, *points], *rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]
            lines.append("  ".join(cells).rstrip())
        lines.append("")
    return "\n".join(lines)
