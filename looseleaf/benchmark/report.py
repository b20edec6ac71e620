"""The benchmark stage: a summary as JSON, and a page that compares it with the figures of 2021."""

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from statistics import median
from textwrap import fill
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from looseleaf.benchmark.collect import (
    Account,
    read_job,
    read_ledger,
    read_losses,
    read_manifest,
    read_reference,
    summary_of,
)
from looseleaf.config.schemas import violation
from looseleaf.cost import readable_size
from looseleaf.errors import DataFileError
from looseleaf.files import read_json, whole, write_json

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

TEMPLATE = Path(__file__).with_name("report.html.j2")
SCHEMA = Path(__file__).with_name("summary.schema.json")
UNKNOWN = "\N{EN DASH}"
# distinguishable with all colour visions (Okabe and Ito)
COLOURS = ("#0072b2", "#e69f00", "#009e73")
OURS, THEIRS = COLOURS[0], "#888888"
# the fractional parts of its multiples fill an interval evenly
GOLDEN = 0.618034
STYLE: "dict[RcKeyType, Any]" = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def report(
    jobs: Sequence[str],
    ledgers: Mapping[str, Sequence[str]],
    results: Mapping[str, str],
    manifests: Sequence[str],
    catalogues: Sequence[str],
    reference: str,
    stages: Mapping[str, str],
    summary: str,
    page: str,
) -> None:
    """Write the cost of every stage, and the losses of the analyses.

    `summary` is the path of the JSON file, `page` that of a self-contained HTML file. `jobs` are
    the costs of jobs, `ledgers` those of each analysis, `results` its map, closure, flips
    or yields, `manifests` those of the transforms, `catalogues` those of the demo samples, and
    `reference` has the recorded figures. `stages` has the stage of each kind of analysis. Raises
    `DataFileError` naming a record that can't be read, or what in it doesn't fit the schema.
    """
    accounts = {name: [read_ledger(path) for path in paths] for name, paths in ledgers.items()}
    numbers = summary_of(
        [read_job(path, stages) for path in jobs],
        accounts,
        {name: read_losses(path) for name, path in results.items()},
        [read_manifest(path) for path in manifests],
        catalogues,
        read_reference(reference),
    )
    check_summary(numbers, summary)
    text = render(numbers, accounts)
    write_json(summary, numbers)
    with whole(page) as part:
        part.write_text(text, encoding="utf-8")


def check_summary(numbers: Any, path: str) -> None:
    """Raise `DataFileError` naming `path` and the place, for numbers that don't fit the schema."""
    found = violation(numbers, read_json(SCHEMA))
    if found is not None:
        place, problem = found
        raise DataFileError(f"{path}: {place}: {problem.message}")


def render(summary: Mapping[str, Any], accounts: Mapping[str, Sequence[Account]]) -> str:
    """The page as HTML."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "amount": amount,
        "count": count,
        "rate": rate,
        "seconds": seconds,
        "size": size,
    }
    with mpl.rc_context(STYLE):
        pictures = {
            "stages": stage_times(summary["stages"]),
            "rates": process_rates(summary["processing"], summary["reference"]["runs"]),
            "chunks": chunk_rates(accounts),
        }
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        summary, pictures=pictures
    )


def _known(text: Callable[[Any], str]) -> Callable[[Any], str]:
    """The same function, with a dash for unknown values."""
    return lambda value: UNKNOWN if value is None else text(value)


count = _known("{:,.0f}".format)
amount = _known("{:,.6g}".format)
seconds = _known("{:,.1f}".format)
rate = _known(lambda value: f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.2g}")


size = _known(readable_size)


def stage_times(stages: Sequence[Mapping[str, Any]]) -> Markup | None:
    """The wall and CPU time by stage, with a group of bars for each."""
    kinds = {
        "wall time of jobs": "wall_s",
        "CPU time of jobs": "cpu_s",
        "CPU time of transforms and chunks": "process_cpu_s",
    }
    if not stages:
        return None
    fig = Figure(figsize=(9.5, 1.4 + 0.62 * len(stages)), layout="constrained")
    ax = fig.subplots()
    for index, (name, key) in enumerate(kinds.items()):
        at = [row + 0.26 * (index - 1) for row in range(len(stages))]
        bars = ax.barh(
            at, [row[key] or 0 for row in stages], 0.24, color=COLOURS[index], label=name
        )
        texts = ["" if row[key] is None else seconds(row[key]) for row in stages]
        ax.bar_label(bars, texts, padding=3, fontsize=8.5)
    ax.set_yticks(range(len(stages)), [_label(row["stage"]) for row in stages])
    ax.invert_yaxis()
    ax.margins(x=0.09)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.set_xlabel("Time, summed [s]")
    fig.legend(loc="outside upper left", ncols=len(kinds), frameon=False)
    return _picture(fig, "Bars of the wall and CPU time of each stage")


def process_rates(
    processing: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]
) -> Markup | None:
    """Events per process second of each analysis, above those of the recorded runs."""
    points = [(row["analysis"], row["events_per_process_s"], OURS) for row in processing]
    points += [(f"2021: {run['name']}", run.get("events_per_s_per_thread"), THEIRS) for run in runs]
    points = [point for point in points if point[1]]
    if not points:
        return None
    names, values, colours = zip(*points, strict=True)
    fig = Figure(figsize=(9.5, 1.1 + 0.42 * len(points)), layout="constrained")
    ax = fig.subplots()
    # points, since bars on a logarithmic axis have no origin
    ax.scatter(values, range(len(points)), s=90, c=colours, zorder=2)
    for row, value in enumerate(values):
        ax.annotate(
            rate(value),
            (value, row),
            (9, 0),
            textcoords="offset points",
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    ax.set_xscale("log")
    ax.set_xlim(min(values) / 3, max(values) * 4)
    ax.grid(axis="y", color="#dddddd")
    ax.set_yticks(range(len(points)), [_label(name) for name in names])
    ax.set_ylim(len(points) - 0.4, -0.6)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.set_xlabel("Events per second of process time (logarithmic)")
    return _picture(fig, "Points of the events per process second of analyses and 2021 runs")


def chunk_rates(accounts: Mapping[str, Sequence[Account]]) -> Markup | None:
    """The events/s of every chunk, a row for each analysis, with a line at the median."""
    rates = {
        name: [
            chunk.cost.events / chunk.cost.wall_s
            for account in analysis_rates
            for chunk in account.chunks
            if chunk.cost.wall_s
        ]
        for name, analysis_rates in accounts.items()
    }
    rates = {name: analysis_rates for name, analysis_rates in rates.items() if analysis_rates}
    if not rates:
        return None
    fig = Figure(figsize=(9.5, 1.1 + 0.75 * len(rates)), layout="constrained")
    ax = fig.subplots()
    for row, analysis_rates in enumerate(rates.values()):
        # spread evenly over the height of the row, and the same each time
        heights = [row + 0.6 * (index * GOLDEN % 1 - 0.5) for index in range(len(analysis_rates))]
        ax.plot(
            analysis_rates, heights, "o", color=OURS, markersize=6, alpha=0.4, markeredgewidth=0
        )
        ax.vlines(median(analysis_rates), row - 0.38, row + 0.38, color="black")
    ax.set_xlim(left=0)
    ax.set_yticks(range(len(rates)), [_label(name) for name in rates])
    ax.set_ylim(len(rates) - 0.5, -0.5)
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.set_xlabel("Events per second of each chunk; the line is the median")
    return _picture(fig, "Points of the events per second of each chunk, in a row per analysis")


def _label(name: str) -> str:
    """A name for matplotlib: in short lines, with dollar signs escaped."""
    return fill(name, 34).replace("$", r"\$")


def _picture(fig: Figure, described: str) -> Markup:
    buffer = BytesIO()
    # without matplotlib's version
    fig.savefig(buffer, format="png", dpi=180, metadata={"Software": None})
    data = b64encode(buffer.getvalue()).decode()
    return Markup('<img src="data:image/png;base64,{}" alt="{}">').format(data, described)
