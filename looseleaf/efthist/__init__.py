"""Histograms of events whose weights are quadratics in Wilson coefficients.

This package stands alone: it needs hist, h5py and numba, and imports nothing else of looseleaf.
"""

from looseleaf.efthist.histogram import (
    SM,
    EFTHist,
    combine_scaling,
    monomials,
    quadratic_terms,
    quartic_terms,
    remapped,
)
from looseleaf.efthist.store import read_histograms, write_histograms

__all__ = [
    "SM",
    "EFTHist",
    "combine_scaling",
    "monomials",
    "quadratic_terms",
    "quartic_terms",
    "read_histograms",
    "remapped",
    "write_histograms",
]
