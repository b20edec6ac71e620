"""EFT histograms and plain ones in one HDF5 file, a group each."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import hist
import uhi.io.hdf5

from looseleaf.errors import DataFileError
from looseleaf.files import whole
from looseleaf.topcoffea.efthist import EFTHist

FORMAT = "looseleaf-eft-histograms/1"


def write_histograms(
    path: str | Path, histograms: Mapping[str, EFTHist | hist.Hist], metadata: Mapping[str, Any]
) -> None:
    """Write histograms by name, with what is to be known about them.

    A plain histogram is a group as UHI lays it out, an EFT histogram one as `EFTHist.write` does.
    """
    with whole(path) as part, h5py.File(part, "w") as file:
        file.attrs["format"] = FORMAT
        file.create_dataset("metadata", data=json.dumps(dict(metadata), allow_nan=False))
        folder = file.create_group("histograms", track_order=True)
        for name, histogram in histograms.items():
            group = folder.create_group(name)
            if isinstance(histogram, EFTHist):
                histogram.write(group)
            else:
                uhi.io.hdf5.write(group, histogram)


def read_histograms(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The histograms and metadata of a file that `write_histograms` wrote.

    Raises `DataFileError` naming the file if it is missing or of another kind.
    """
    try:
        file = h5py.File(path)
    except FileNotFoundError:
        raise DataFileError(f"{path}: no such file") from None
    except OSError as problem:
        raise DataFileError(f"{path}: not an HDF5 file ({problem})") from None
    with file:
        if file.attrs.get("format") != FORMAT:
            raise DataFileError(f"{path}: not a file of EFT histograms (no format {FORMAT!r})")
        found = {
            name: EFTHist.read(group)
            if "coefficients" in group.attrs
            else hist.Hist(uhi.io.hdf5.read(group))
            for name, group in file["histograms"].items()
        }
        return found, json.loads(file["metadata"][()])


def eft_histograms(found: Mapping[str, Any]) -> dict[str, EFTHist]:
    """The EFT histograms among others."""
    return {name: value for name, value in found.items() if isinstance(value, EFTHist)}
