"""The pictures of observed and predicted events, from the closure file alone."""

from pathlib import Path

from looseleaf.application.analysis import ApplicationAnalysis
from looseleaf.files import read_json
from looseleaf.histograms import plots


def pictures(
    analysis: ApplicationAnalysis,
    closure: str | Path,
    folder: str | Path,
    label: str,
    energies: str = "13",
) -> None:
    """Draw observed and predicted events, a picture for each channel and observable."""
    summary = read_json(closure)
    channels = summary["channels"]
    for channel, results in channels.items():
        for name, table in results["observables"].items():
            fig, ax = plots.closure(
                table, analysis.observables[name]["label"], f"{analysis.title}, {channel}"
            )
            plots.label(ax, label, summary["is_data"], analysis.lumi_ifb, energies)
            plots.save(fig, Path(folder) / f"closure_{channel}_{name}")
