"""Files of EFT histograms in the workflow: complete or absent, with errors for the user."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import hist

from looseleaf import efthist
from looseleaf.efthist import EFTHist
from looseleaf.errors import DataFileError
from looseleaf.files import whole


def write_histograms(
    path: str | Path,
    histograms: Mapping[str, EFTHist | hist.Hist[Any]],
    metadata: Mapping[str, Any],
) -> None:
    """Write histograms by name, with metadata."""
    with whole(path) as part:
        efthist.write_histograms(part, histograms, metadata)


def read_histograms(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The histograms and metadata of a file that `write_histograms` wrote.

    Raises `DataFileError` naming the file if it is missing or of another kind.
    """
    try:
        return efthist.read_histograms(path)
    except FileNotFoundError:
        raise DataFileError(f"{path}: no such file") from None
    except OSError as problem:
        raise DataFileError(f"{path}: not an HDF5 file ({problem})") from None
    except ValueError as problem:
        raise DataFileError(str(problem)) from None


def weighted_at(filled: EFTHist, point: Mapping[str, float]) -> hist.Hist[hist.storage.Weight]:
    """A histogram at a point, with variances if its squares are kept there."""
    return cast(hist.Hist[hist.storage.Weight], filled.at(point))


def eft_histograms(histograms: Mapping[str, Any]) -> dict[str, EFTHist]:
    """The EFT histograms among others."""
    return {name: value for name, value in histograms.items() if isinstance(value, EFTHist)}
