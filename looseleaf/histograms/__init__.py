"""Ratios with intervals, histograms on disk, and their pictures.

Names for notebooks are here; the pictures are in `looseleaf.histograms.plots`.
"""

from looseleaf.histograms.ratio import Ratio, divide
from looseleaf.histograms.store import read_uhi, write_correction, write_root, write_uhi

__all__ = ["Ratio", "divide", "read_uhi", "write_correction", "write_root", "write_uhi"]
