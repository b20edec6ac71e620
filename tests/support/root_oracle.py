"""Ratios as ROOT forms them, for the tests: run by a Python that has ROOT, and nothing else.

Reads histograms `passing` and `total` of the ROOT file that is its argument, and prints as JSON, by
method, `value`, `down` and `up` in the shape of the axes with flow bins.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import ROOT

OPTIONS = {"clopper-pearson": "kFCP", "wilson": "kFWilson", "normal": "kFNormal"}


def bins(histogram: Any, content: Callable[[int], float]) -> list[Any]:
    """A number for each bin, flow included."""
    across = range(histogram.GetNbinsX() + 2)
    if histogram.GetDimension() == 1:
        return [content(i) for i in across]
    up = range(histogram.GetNbinsY() + 2)
    return [[content(histogram.GetBin(i, j)) for j in up] for i in across]


def main(path: str) -> None:
    # warnings go to standard output's place otherwise, and the answer stands there
    ROOT.gErrorIgnoreLevel = ROOT.kError
    file = ROOT.TFile.Open(path)
    passing, total = file.Get("passing"), file.Get("total")
    found = {}
    for method, option in (("uncorrelated", ""), ("weighted", "B")):
        ratio = total.Clone()
        ratio.Sumw2()
        ratio.Divide(passing, total, 1, 1, option)
        errors = bins(ratio, ratio.GetBinError)
        found[method] = {"value": bins(ratio, ratio.GetBinContent), "down": errors, "up": errors}
    efficiency = ROOT.TEfficiency(passing, total)
    efficiency.SetUseWeightedEvents(total.GetSumw2N() > 0)
    for method, option in OPTIONS.items():
        efficiency.SetStatisticOption(getattr(ROOT.TEfficiency, option))
        found[method] = {
            "value": bins(total, efficiency.GetEfficiency),
            "down": bins(total, efficiency.GetEfficiencyErrorLow),
            "up": bins(total, efficiency.GetEfficiencyErrorUp),
        }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
