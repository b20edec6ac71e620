"""Fitting the Wilson coefficients of a pyhf workspace that `datacards` wrote.

The statistical uncertainty of simulation is one factor g for each bin, on the sum of all processes
(R. Barlow and C. Beeston, Comp. Phys. Comm. 77 (1993) 219, with one factor per bin after J. Conway,
arXiv:1103.0354). With T events expected, n observed, and g measured to be a with a width d,

    -2 ln L(g) = 2 (g T - n ln g T) + (g - a)^2 / d^2

is minimal where g^2 + g (T d^2 - a) - n d^2 = 0, so these factors need no numerical search.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyhf
from iminuit import Minuit
from numpy.typing import NDArray

from looseleaf.errors import LooseleafError
from looseleaf.topcoffea.templates import factors, statistical

# the largest value of a coefficient that is tried
LARGEST, NEARLY = 100.0, 0.999
# the first step of a search, and pyhf's lower limit of a statistical factor
FIRST_STEP = 0.1
SMALLEST_FACTOR = 1e-10
# -2 ln L if a bin's expectation isn't a valid number of events
IMPOSSIBLE = 1e10


@dataclass(frozen=True)
class Fit:
    """The best point: values and errors by coefficient, and -2 ln L up to a constant.

    The errors come from the curvature of the likelihood, with the nuisances profiled.
    """

    values: dict[str, float]
    errors: dict[str, float]
    twice_nll: float


class FitFailed(LooseleafError):
    """No minimum of the likelihood was found; the message says in which fit."""


class EFTModel:
    """The likelihood of a workspace as a function of Wilson coefficients.

    The factors of a signal's parts are functions of the coefficients; all other parameters are
    nuisances, as pyhf defines them. Coefficients in `fixed` keep their value.
    """

    def __init__(
        self,
        workspace: Mapping[str, Any],
        coefficients: Sequence[str],
        fixed: Mapping[str, float] | None = None,
    ) -> None:
        self._workspace = pyhf.Workspace(dict(workspace))
        self.model = self._workspace.model()
        self.coefficients = tuple(coefficients)
        self._fixed = dict(fixed or {})
        self._free = [name for name in coefficients if name not in self._fixed]
        config = self.model.config
        parts = factors(self.coefficients, [0.0] * len(coefficients))
        slices = {name: config.par_slice(name) for name in config.par_order}
        self._parts = {name: slices[name].start for name in parts if name in slices}
        held = np.array(config.suggested_fixed())
        self._find_statistical(slices, held)
        taken = {*self._parts.values(), *self._stat.tolist(), *np.flatnonzero(held).tolist()}
        self._nuisances = [i for i in range(config.npars) if i not in taken]
        names = [f"{n}[{i}]" for n, s in slices.items() for i in range(s.stop - s.start)]
        self._names = [*self._free, *(names[i] for i in self._nuisances)]
        self._init = np.array(config.suggested_init(), np.float64)
        bounds = config.suggested_bounds()
        self._bounds = [(-LARGEST, LARGEST)] * len(self._free)
        self._bounds += [tuple(bounds[i]) for i in self._nuisances]

    def _find_statistical(self, slices: Mapping[str, slice], held: NDArray[np.bool_]) -> None:
        """Find the statistical factors among the parameters.

        Sets their indices, their bins, the indices of their auxiliary measurements, and their
        widths.
        """
        config = self.model.config
        factors: list[tuple[int, int, int, float]] = []
        of_channel = {statistical(channel): channel for channel in config.channels}
        start = 0
        for name in config.auxdata_order:
            parameters = config.param_set(name)
            if name in of_channel:
                first = config.channel_slices[of_channel[name]].start
                factors += [
                    (slices[name].start + i, first + i, start + i, width)
                    for i, width in enumerate(parameters.width())
                    if not held[slices[name].start + i]
                ]
            start += parameters.n_parameters
        columns = np.array(factors, np.float64).reshape(-1, 4).T
        self._stat, self._stat_bins, self._stat_places = columns[:3].astype(np.int64)
        self._stat_widths = columns[3]

    @property
    def observed(self) -> NDArray[np.float64]:
        """The data of the workspace, with the auxiliary measurements."""
        return np.asarray(self._workspace.data(self.model))

    def parameters(
        self,
        point: Mapping[str, float],
        nuisances: Sequence[float] | NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """pyhf's parameters at a point; coefficients that it doesn't name are zero."""
        out = self._init.copy()
        values = [point.get(name, 0.0) for name in self.coefficients]
        for name, value in factors(self.coefficients, values).items():
            if name in self._parts:
                out[self._parts[name]] = value
        if nuisances is not None:
            out[self._nuisances] = nuisances
        return out

    def expected(self, point: Mapping[str, float]) -> NDArray[np.float64]:
        """The expected events by bin at a point, channel by channel."""
        return np.asarray(self.model.expected_data(self.parameters(point), include_auxdata=False))

    def toys(self, point: Mapping[str, float], number: int, seed: int) -> NDArray[np.float64]:
        """Pseudo-data drawn at a point, with auxiliary measurements; shape (number, values)."""
        rng = np.random.default_rng(seed)
        main = rng.poisson(self.expected(point), (number, self.model.config.nmaindata))
        auxiliary = np.asarray(self.model.expected_auxdata(self.parameters(point)))
        out = np.empty((number, len(main[0]) + len(auxiliary)))
        for row, counts in zip(out, main, strict=True):
            row[: len(counts)] = counts
        out[:, len(main[0]) :] = self._auxiliary(auxiliary, number, rng)
        return out

    def _auxiliary(self, expected: Any, number: int, rng: np.random.Generator) -> Any:
        """Gaussian constraints drawn with their widths, and Poisson ones as counts."""
        columns: list[NDArray[Any]] = []
        start = 0
        for name in self.model.config.auxdata_order:
            parameters = self.model.config.param_set(name)
            width = parameters.n_parameters
            mean = expected[start : start + width]
            if parameters.pdf_type == "normal":
                columns.append(rng.normal(mean, parameters.width(), (number, width)))
            else:
                columns.append(rng.poisson(mean, (number, width)))
            start += width
        return np.concatenate(columns, axis=1) if columns else np.zeros((number, 0))

    def twice_nll(self, values: NDArray[np.float64], data: NDArray[np.float64]) -> float:
        """-2 ln L at values of the free coefficients and nuisances, with the statistical factors
        profiled.

        It is relative to a model that expects exactly the observed events.
        """
        free = len(self._free)
        point = self._fixed | dict(zip(self._free, values[:free], strict=True))
        parameters = self.parameters(point, values[free:])
        expected = np.array(self.model.expected_data(parameters, include_auxdata=False))
        main, auxiliary = np.split(data, [len(expected)])
        # sums of quadratics with negative weights can be negative far from any sensible point
        if ((expected < 0) | ((expected == 0) & (main > 0))).any():
            return IMPOSSIBLE
        square, bins = self._stat_widths**2, self._stat_bins
        half = (auxiliary[self._stat_places] - expected[bins] * square) / 2
        best = np.maximum(half + np.sqrt(half**2 + main[bins] * square), SMALLEST_FACTOR)
        expected[bins] *= best
        parameters[self._stat] = best
        # relative to the observed events, since sums of whole log-likelihoods are in the millions
        # and would leave no digits for differences
        some = main > 0
        off = expected[some] / main[some] - 1.0
        total = -float(np.sum(main[some] * (off - np.log1p(off))) + np.sum(expected[~some]))
        return -2.0 * (total + float(self.model.constraint_logpdf(auxiliary, parameters)))

    def fit(
        self, data: NDArray[np.float64] | None = None, start: Mapping[str, float] | None = None
    ) -> Fit:
        """The best point for `data` (by default the workspace's own).

        A quadratic can have two minima; `start` decides which one is found. Raises `FitFailed` if
        there is none for values up to 100, or if data is in bins without expected events.
        """
        data = self.observed if data is None else data
        self._refuse_unexpected(data)
        first = [(start or {}).get(name, 0.0) for name in self._free]
        begin = np.array([*first, *self._init[self._nuisances]])
        best = Minuit(lambda values: self.twice_nll(values, data), begin, name=self._names)
        best.errordef = Minuit.LEAST_SQUARES
        best.strategy = 2
        best.limits = self._bounds
        best.errors = np.full(len(begin), FIRST_STEP)
        best.migrad()
        best.hesse()
        if not best.valid:
            raise FitFailed(
                f"the fit of {', '.join(self._free)} found no minimum (started at {first}): choose "
                "another start, or fix coefficients that the data can't distinguish"
            )
        at_end = [name for name in self._free if abs(best.values[name]) > NEARLY * LARGEST]
        if at_end:
            raise FitFailed(
                f"the fit of {', '.join(self._free)} ends at {LARGEST:g} for {at_end[0]}, the "
                "largest value that is tried: the data don't constrain it, or its unit is too small"
            )
        return Fit(
            {name: float(best.values[name]) for name in self._free},
            {name: float(best.errors[name]) for name in self._free},
            float(best.fval),
        )

    def _refuse_unexpected(self, data: NDArray[np.float64]) -> None:
        """Refuse data in bins without any process, since the likelihood is zero for all
        coefficients."""
        for channel in self._workspace["channels"]:
            filled = np.any([sample["data"] for sample in channel["samples"]], axis=0)
            observed = data[self.model.config.channel_slices[channel["name"]]]
            for index in np.flatnonzero((observed > 0) & ~filled):
                raise FitFailed(
                    f"channel {channel['name']}: {observed[index]:g} events of data are in bin "
                    f"{index + 1}, where no process has any: merge bins of the observable, or add "
                    "the missing process"
                )
