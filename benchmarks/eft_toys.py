"""Pulls of a Wilson coefficient in toys of the model that the workflow wrote.

    python benchmarks/eft_toys.py results/topcoffea/tth_eft/workspace.json ctG 0.1 [--toys N]

Toys are drawn at the coefficient's value, auxiliary measurements included, and fitted with all
nuisances and the other coefficients at zero. Printed are the pulls' mean and width, whose errors
are 1 / sqrt(N) and 1 / sqrt(2 N), and how often the true value is where -2 ln L is less than 1
above its least. Pulls by the likelihood's curvature are normal only as far as the likelihood is a
parabola; a quadratic in the coefficient isn't one where its slope is small, and the last number is
what the interval promises anywhere.
"""

import argparse
import json
import time

import numpy as np

from looseleaf.topcoffea.fit import EFTModel
from looseleaf.topcoffea.templates import coefficients_of

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("workspace")
parser.add_argument("coefficient")
parser.add_argument("value", type=float)
parser.add_argument("--toys", type=int, default=200)
arguments = parser.parse_args()

with open(arguments.workspace) as stream:
    workspace = json.load(stream)
names = coefficients_of(workspace)
point = {arguments.coefficient: arguments.value}
others = {name: 0.0 for name in names if name != arguments.coefficient}
model = EFTModel(workspace, names, fixed=others)
truth = EFTModel(workspace, names, fixed=others | point)
toys = model.toys(point, arguments.toys, seed=1)
start = time.perf_counter()
fits = [model.fit(toy, start=point) for toy in toys]
seconds = time.perf_counter() - start
pulls = np.array([
    (fit.values[arguments.coefficient] - arguments.value) / fit.errors[arguments.coefficient]
    for fit in fits
])  # fmt: skip
above = np.array([
    truth.fit(toy).twice_nll - fit.twice_nll for toy, fit in zip(toys, fits, strict=True)
])  # fmt: skip
size, promised = len(pulls), 0.6827
error = np.sqrt(promised * (1 - promised) / size)
print(f"{size} toys, {model.model.config.npars} parameters, {seconds / size:.2f} s a fit")
print(f"pull mean  {pulls.mean():+.3f} +- {1 / np.sqrt(size):.3f}")
print(f"pull width {pulls.std(ddof=1):.3f} +- {1 / np.sqrt(2 * size):.3f}")
print(f"within 1   {(above < 1).mean():.3f} +- {error:.3f} (promised {promised})")
