"""The pictures of a topcoffea analysis, from its normalised histograms alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from looseleaf.histograms import plots
from looseleaf.topcoffea.store import eft_histograms, read_histograms


def pictures(
    analysis: Mapping[str, Any], histograms: str | Path, folder: str | Path, label: str
) -> None:
    """Each observable in each channel: backgrounds stacked, the signal at the EFT points."""
    found = eft_histograms(read_histograms(histograms)[0])
    processes = list(dict.fromkeys(name.partition(".")[0] for name in found))
    signals = set(analysis["signal"])
    for observable in analysis["observables"]:
        for channel in analysis["channels"]:
            backgrounds = {
                process: found[f"{process}.{observable}"].at()[channel, :]
                for process in processes
                if process not in signals
            }
            lines = {
                f"{process}, {label}": found[f"{process}.{observable}"].at(point)[channel, :]
                for process in processes
                if process in signals
                for label, point in analysis["points"].items()
            }
            axis = found[f"{processes[0]}.{observable}"].axes[observable]
            fig, ax = plots.stack(backgrounds, lines, axis, channel)
            plots.label(ax, label, data=False, lumi_ifb=analysis["lumi_ifb"])
            plots.save(fig, Path(folder) / f"{channel}_{observable}")
