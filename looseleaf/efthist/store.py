"""EFT histograms and plain ones in one HDF5 file, with a group for each."""

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import h5py
import hist
import uhi.io.hdf5

from looseleaf.efthist.histogram import EFTHist

FORMAT = "looseleaf-eft-histograms/1"


def write_histograms(
    path: str | Path,
    histograms: Mapping[str, EFTHist | hist.Hist[Any]],
    metadata: Mapping[str, Any],
) -> None:
    """Write histograms by name, with metadata.

    A plain histogram is a group in UHI's layout, an EFT histogram one written by `EFTHist.write`.
    Raises ValueError for metadata that JSON can't hold, such as NaN, and OSError if the disk is
    full.
    """
    about = json.dumps(dict(metadata), allow_nan=False)
    # made in memory: where HDF5 itself finds no room on a disk, it ends the process (SIGSEGV)
    content = BytesIO()
    with h5py.File(content, "w") as file:
        file.attrs["format"] = FORMAT
        file.create_dataset("metadata", data=about)
        folder = file.create_group("histograms", track_order=True)
        for name, histogram in histograms.items():
            group = folder.create_group(name)
            if isinstance(histogram, EFTHist):
                histogram.write(group)
            else:
                uhi.io.hdf5.write(group, histogram)
    with open(path, "wb") as stream:
        stream.write(content.getbuffer())


def read_histograms(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The histograms by name and the metadata in a file that `write_histograms` wrote.

    Raises FileNotFoundError, OSError for a file that isn't HDF5, and ValueError naming the file for
    a file of another kind.
    """
    with h5py.File(path) as file:
        if file.attrs.get("format") != FORMAT:
            raise ValueError(f"{path}: not a file of EFT histograms (no format {FORMAT!r})")
        histograms: dict[str, EFTHist | hist.Hist[Any]] = {
            name: EFTHist.read(group)
            if "coefficients" in group.attrs
            else hist.Hist(dict(uhi.io.hdf5.read(group)))
            for name, group in file["histograms"].items()
        }
        return histograms, json.loads(file["metadata"][()])
