"""An efficiency from masses of passing and failing probes: by a count, and by a fit.

All spectra are arrays of shape (2, bins), failing probes first, with the sums of weights and of
their squares. Nothing here depends on the scale of the weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from iminuit import Minuit
from iminuit.cost import ExtendedBinnedNLL
from numpy.typing import NDArray
from scipy.special import betainc, chdtrc, ndtr

from looseleaf.errors import LooseleafError

Array = NDArray[np.float64]
SIDES = ("failing", "passing")
# the limits of a fit: shift and smearing of the peak [GeV], slope of the background [1/GeV]
LARGEST_SHIFT, LARGEST_SMEARING, STEEPEST = 3.0, 5.0, 0.3
# a smaller smearing counts as none
SMALLEST_SMEARING = 0.05
# parameters of the backgrounds; those of the polynomial are the pairs of each term
DEGREE = 3
BACKGROUNDS = {
    "polynomial": tuple(f"term{k}" for k in range(DEGREE + 1)),
    "exponential": ("number", "slope"),
}
# a mass bin needs this many expected entries to be part of chi2
FEW = 5


class NoEfficiency(LooseleafError):
    """The efficiency of a bin can't be measured; the message says why."""


@dataclass(frozen=True)
class Estimate:
    """An efficiency and the ends of its 68.27% interval."""

    value: float
    lower: float
    upper: float


class Spectra(NamedTuple):
    """Sums of weights and of their squares by mass, each of shape (2, bins), failing first."""

    values: Array
    variances: Array


def bands(edges: Array, peak: Sequence[float], beside: float) -> tuple[Any, Any, float]:
    """The mass bins of the peak, those beside it, and the ratio of their widths."""
    centres = (edges[1:] + edges[:-1]) / 2
    low, high = peak
    inside = (centres > low) & (centres < high)
    near = (centres > low - beside) & (centres < high + beside) & ~inside
    return inside, near, (high - low) / (2 * beside)


def count(spectra: Spectra, inside: Any, near: Any, scale: float) -> Estimate:
    """The efficiency at the peak, after subtracting the background measured in the bands beside it.

    With P and F the remaining passing and failing pairs, P - e (P + F) is zero on average for the
    true efficiency e. The interval has the e for which it is within one standard deviation of zero,
    k e (1 - e) (P + F) + (1 - e)^2 (var P - k P) + e^2 (var F - k F): binomial for the signal,
    Poisson for the background and the bands, with k the mean weight of a pair. Without background
    it is Wilson's interval.

    Raises `NoEfficiency` if no pairs remain at the peak, or too few to measure an efficiency.
    """
    total = spectra.values[:, inside].sum(axis=1)
    beneath = scale * spectra.values[:, near].sum(axis=1)
    square = spectra.variances[:, inside].sum(axis=1)
    failing, passing = total - beneath
    var_f, var_p = square + scale**2 * spectra.variances[:, near].sum(axis=1)
    signal = failing + passing
    if not (total.sum() > 0 and signal > 0):
        raise NoEfficiency("no pairs remain at the peak")
    mean = square.sum() / total.sum()
    more_p, more_f = var_p - mean * passing, var_f - mean * failing
    # of a quadratic equation in e
    a = signal**2 + mean * signal - more_p - more_f
    b = -2 * passing * signal - mean * signal + 2 * more_p
    c = passing**2 - more_p
    root = b**2 - 4 * a * c
    if not (a > 0 and root >= 0):
        raise NoEfficiency("the pairs at the peak can't be separated from the background")
    lower, upper = ((-b + sign * np.sqrt(root)) / (2 * a) for sign in (-1, 1))
    value = min(max(passing / signal, 0.0), 1.0)
    return Estimate(value, min(max(lower, 0.0), value), max(min(upper, 1.0), value))


@dataclass(frozen=True)
class Fit:
    """A fit of the masses of passing and failing probes.

    `signal` is the number of pairs in the window. `shift` and `smearing`, in GeV, are applied to
    the simulated peak to match the data, beyond the effect of the mass bins. `expected` has the
    spectra of the model and `background` their background, shape (2, bins). `remarks` are sentences
    for the user, on errors from the Hessian and on parameters at a limit.
    """

    efficiency: Estimate
    signal: float
    shift: float
    smearing: float
    chi2: float
    ndf: int
    p_value: float
    expected: Array
    background: Array
    remarks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        kept = asdict(self)
        return {
            **kept,
            "expected": self.expected.tolist(),
            "background": self.background.tolist(),
            "remarks": list(self.remarks),
        }


def smeared(edges: Array, shift: float, smearing: float) -> Array:
    """The Gaussian smearing of pairs that are uniform in a mass bin.

    At [i, j], it has the part of bin j that is moved to bin i.
    """
    sigma = max(smearing, 1e-6)
    u = (edges[:, None] - edges[None, :] - shift) / sigma
    # the integral of the normal distribution's cumulative one
    whole = sigma * (u * ndtr(u) + np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi))
    cumulative = (whole[:, :-1] - whole[:, 1:]) / np.diff(edges)
    return np.diff(cumulative, axis=0)


def exponential(edges: Array, slope: float) -> Array:
    """Parts of a falling exponential by mass bin; `slope` in 1/GeV."""
    # relative to the middle, to avoid large numbers; for a slope of zero, without dividing by it
    slope = slope if abs(slope) > 1e-9 else 1e-9
    parts = -np.diff(np.exp(-slope * (edges - edges.mean()))) / slope
    normalised: Array = parts / parts.sum()
    return normalised


def bernstein(edges: Array) -> Array:
    """Positive polynomials that span those of DEGREE, integrated by mass bin.

    Shape (DEGREE + 1, bins).
    """
    t = (edges - edges[0]) / (edges[-1] - edges[0])
    return np.array([np.diff(betainc(k + 1, DEGREE - k + 1, t)) for k in range(DEGREE + 1)])


class _Model:
    """Expected spectra of passing and failing probes, as functions of the parameters.

    The signal is the simulated peak of either, shifted and smeared by a Gaussian; failing and
    passing probes have backgrounds of their own.
    """

    def __init__(self, edges: Array, peaks: Array, shape: str) -> None:
        self.edges, self._shape = edges, shape
        self.peaks = peaks / peaks.sum(axis=1, keepdims=True)
        self._polynomials = bernstein(edges)
        self.own = BACKGROUNDS[shape]
        shared = ("efficiency", "signal", "shift", "smearing")
        self.names = [(*shared, *(f"{side}_{one}" for one in self.own)) for side in SIDES]

    def signal(self, side: int, efficiency: float, number: float, *moved: float) -> Array:
        part = smeared(self.edges, *moved) @ self.peaks[side]
        expected: Array = number * (efficiency if side else 1 - efficiency) * part / part.sum()
        return expected

    def background(self, *parameters: float) -> Array:
        if self._shape == "exponential":
            number, slope = parameters
            return number * exponential(self.edges, slope)
        return np.asarray(parameters) @ self._polynomials

    def cumulative(self, side: int) -> Callable[..., Array]:
        def model(_: Array, *parameters: float) -> Array:
            expected = self.signal(side, *parameters[:4]) + self.background(*parameters[4:])
            return np.concatenate([[0.0], np.cumsum(expected)])

        return model


def fit(data: Spectra, peaks: Spectra, edges: Array, start: float, shape: str) -> Fit:
    """Fit the masses of passing and failing probes together, with an extended binned likelihood.

    `peaks` are the simulated spectra of prompt pairs, which give the shapes of the signal; `start`
    is an initial efficiency. The background `shape` is `polynomial`, a positive one of degree three
    that can fall or turn on, or `exponential`. The efficiency's errors are from the profile
    likelihood (MINOS). Weighted data are scaled to their effective number of entries by bin (G.
    Bohm and G. Zech, NIM A 748 (2014) 1), as implemented in iminuit. Pearson's chi2 includes the
    statistics of the simulated peaks, which the likelihood takes as exact.

    Raises `NoEfficiency` if a spectrum is empty, if no minimum is found, or if the efficiency, the
    shift or the smearing is at a limit.
    """
    for side, name in enumerate(SIDES):
        if not data.values[side].sum() > 0:
            raise NoEfficiency(f"there are no {name} pairs in the mass window")
        if not peaks.values[side].sum() > 0:
            raise NoEfficiency(f"there are no {name} pairs of prompt leptons in the simulation")
    model = _Model(edges, np.maximum(peaks.values, 0), shape)
    weighted = not np.array_equal(data.values, data.variances)
    costs = []
    for side, names in enumerate(model.names):
        content = data.values[side]
        if weighted:
            content = np.stack([np.maximum(content, 0), data.variances[side]], axis=-1)
        cost = ExtendedBinnedNLL(content, edges, model.cumulative(side), name=names)
        costs.append(cost)
    minuit = _started(costs[0] + costs[1], model.own, data, start)
    minuit.strategy = 1
    minuit.migrad(ncall=20_000)
    remarks = _without_vanishing(minuit)
    minuit.hesse()
    if not minuit.valid:
        raise NoEfficiency(f"the fit with {shape} backgrounds finds no minimum")
    remarks += _at_limits(minuit)
    errors, remark = _errors(minuit)
    value = minuit.values["efficiency"]
    efficiency = Estimate(value, max(value - errors[0], 0.0), min(value + errors[1], 1.0))
    expected, background, variance = _spectra(minuit, model, peaks)
    chi2, bins = _pearson(data, expected, variance, weighted)
    ndf = max(bins - minuit.nfit, 0)
    return Fit(
        efficiency,
        minuit.values["signal"],
        minuit.values["shift"],
        minuit.values["smearing"],
        chi2,
        ndf,
        float(chdtrc(ndf, chi2)) if ndf else 1.0,
        expected,
        background,
        (*remarks, *remark),
    )


def _started(cost: Any, own: Sequence[str], data: Spectra, start: float) -> Minuit:
    """The initial parameters, and their limits; `own` are those of a background."""
    # the bins at either end are taken as background, and the fit starts with half of it
    bins = data.values.shape[1]
    ends = max(bins // 10, 1)
    outer = np.concatenate([data.values[:, :ends], data.values[:, -ends:]], axis=1)
    total = data.values.sum()
    beneath = np.clip(outer.mean(axis=1) * bins / 2, 1e-3 * total, None)
    values = {
        "efficiency": min(max(start, 0.02), 0.98),
        "signal": max(total - beneath.sum(), 0.1 * total),
        "shift": 0.0,
        "smearing": 0.5,
    }
    limits = {
        "efficiency": (0, 1),
        "signal": (0, None),
        "shift": (-LARGEST_SHIFT, LARGEST_SHIFT),
        "smearing": (SMALLEST_SMEARING, LARGEST_SMEARING),
    }
    numbers = [name for name in own if name != "slope"]
    for side, number in zip(SIDES, beneath, strict=True):
        values |= {f"{side}_{name}": number / len(numbers) for name in numbers}
        limits |= {f"{side}_{name}": (0, None) for name in numbers}
        if "slope" in own:
            values[f"{side}_slope"], limits[f"{side}_slope"] = 0.02, (-STEEPEST, STEEPEST)
    minuit = Minuit(cost, **values)
    for name, limit in limits.items():
        minuit.limits[name] = limit
    return minuit


def _without_vanishing(minuit: Minuit) -> list[str]:
    """Fix vanishing backgrounds and a vanishing smearing, and fit again.

    Returns a sentence for each vanishing background, whose slope is undefined.
    """
    least = 1e-3 * minuit.values["signal"] ** 0.5
    remarks, fixed = [], []
    for side in SIDES:
        numbers = [n for n in minuit.parameters if n.startswith(side) and not n.endswith("slope")]
        gone = [name for name in numbers if minuit.values[name] < least]
        for name in gone:
            minuit.values[name] = 0.0
        if gone == numbers:
            remarks.append(f"no background of {side} probes")
            gone += [n for n in minuit.parameters if n == f"{side}_slope"]
        fixed += gone
    if minuit.values["smearing"] < 1.5 * SMALLEST_SMEARING:
        minuit.values["smearing"] = SMALLEST_SMEARING
        fixed.append("smearing")
    for name in fixed:
        minuit.fixed[name] = True
    if fixed or not minuit.valid:
        minuit.migrad(ncall=20_000)
    return remarks


def _at_limits(minuit: Minuit) -> list[str]:
    """Remarks on parameters at a limit; `NoEfficiency` if the efficiency can't be trusted."""
    remarks = []
    for name in minuit.parameters:
        low, high = minuit.limits[name]
        if minuit.fixed[name] or not np.isfinite([low, high]).all():
            continue
        value, near = minuit.values[name], 1e-5 * (high - low)
        if low + near < value < high - near:
            continue
        if name.endswith("slope"):
            remarks.append(f"{name} is at its limit, {value:.3g}/GeV")
        elif name != "smearing" or value > high / 2:
            raise NoEfficiency(f"the fit ends at a limit of {name}, {value:.4g}")
    return remarks


def _errors(minuit: Minuit) -> tuple[tuple[float, float], list[str]]:
    """The efficiency's errors down and up, from the likelihood or, failing that, its Hessian."""
    try:
        minuit.minos("efficiency")
        minos = minuit.merrors["efficiency"]
    except RuntimeError:
        minos = None
    if minos is not None and minos.is_valid:
        return (-minos.lower, minos.upper), []
    error = minuit.errors["efficiency"]
    return (error, error), ["errors of the Hessian, MINOS failed"]


def _spectra(minuit: Minuit, model: _Model, peaks: Spectra) -> tuple[Array, Array, Array]:
    """The expected spectra by side, their background, and the variance from the simulated peaks."""
    expected, background, variance = [], [], []
    for side, names in enumerate(model.names):
        parameters = [minuit.values[name] for name in names]
        signal = model.signal(side, *parameters[:4])
        beneath = model.background(*parameters[4:])
        part = smeared(model.edges, *parameters[2:4])
        scale = signal.sum() / (part @ np.maximum(peaks.values[side], 0)).sum()
        expected.append(signal + beneath)
        background.append(beneath)
        variance.append(scale**2 * part**2 @ peaks.variances[side])
    return np.array(expected), np.array(background), np.array(variance)


def _pearson(data: Spectra, expected: Array, variance: Array, weighted: bool) -> tuple[float, int]:
    """Pearson's chi2, and the number of bins that it uses."""
    of_data = data.variances if weighted else expected
    square = (
        data.values**2 / np.where(data.variances > 0, data.variances, 1) if weighted else expected
    )
    used = (square >= FEW) & (of_data > 0)
    pull = (data.values - expected)[used] ** 2 / (of_data + variance)[used]
    return float(pull.sum()), int(used.sum())
