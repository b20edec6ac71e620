"""EFT histograms as plain ones, for the files that hold them."""

from collections.abc import Mapping
from typing import Any

import hist

from looseleaf.topcoffea.efthist import EFTHist


def flat(accumulator: Mapping[str, Any]) -> dict[str, hist.Hist]:
    """Plain histograms of an accumulator, an EFT histogram `x` as `x.sums` and `x.squares`."""
    out = {}
    for name, value in accumulator.items():
        if isinstance(value, EFTHist):
            out |= {f"{name}.{part}": plain for part, plain in value.to_hists().items()}
        else:
            out[name] = value
    return out


def eft_histograms(plain: Mapping[str, hist.Hist]) -> dict[str, EFTHist]:
    """The EFT histograms among plain ones: the inverse of `flat`."""
    names = [name.removesuffix(".sums") for name in plain if name.endswith(".sums")]
    return {
        name: EFTHist.from_hists(
            {
                part: plain[f"{name}.{part}"]
                for part in ("sums", "squares")
                if f"{name}.{part}" in plain
            }
        )
        for name in names
    }
