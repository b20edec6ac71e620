"""Fitting the Wilson coefficients of a pyhf workspace that `datacards` wrote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyhf
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import xlogy

from looseleaf.topcoffea.templates import factors

# of the gradient, in units of the curvature's widths
STEP = 1e-3
# how near to a bound a nuisance counts as there, in the same units
AT_BOUND = 1e-2
# the least curvature of -2 ln L that sets such a unit
FLATTEST = 1e-2
# -2 ln L where a bin's expectation is no number of events
IMPOSSIBLE = 1e10


@dataclass(frozen=True)
class Fit:
    """The best point: values and errors by coefficient, and -2 ln L there up to a constant.

    Errors are of the likelihood's curvature, with the nuisances profiled.
    """

    values: dict[str, float]
    errors: dict[str, float]
    twice_nll: float


class EFTModel:
    """A workspace as a likelihood of Wilson coefficients.

    The factors of a signal's parts aren't free but functions of the coefficients; all other
    parameters are nuisances and stay pyhf's own. Coefficients in `fixed` keep that value.
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
        order = self.model.config.par_order
        parts = factors(self.coefficients, [0.0] * len(coefficients))
        slices = {name: self.model.config.par_slice(name) for name in order}
        self._parts = {name: slices[name].start for name in parts if name in slices}
        held = self.model.config.suggested_fixed()
        taken = {*self._parts.values(), *(i for i, fixed in enumerate(held) if fixed)}
        self._nuisances = [i for i in range(self.model.config.npars) if i not in taken]
        self._init = np.array(self.model.config.suggested_init(), np.float64)
        bounds = np.array(self.model.config.suggested_bounds(), np.float64)[self._nuisances]
        self._lowest, self._highest = bounds.reshape(-1, 2).T
        # a gradient by central differences, and the value, are one evaluation of this many points
        self._points = 2 * (len(self._free) + len(self._nuisances)) + 1
        self._batched = self._workspace.model(batch_size=self._points)

    @property
    def observed(self) -> NDArray[np.float64]:
        """What the workspace has been given as data, with the auxiliary measurements."""
        return np.asarray(self._workspace.data(self.model))

    def parameters(
        self, point: Mapping[str, float], nuisances: Sequence[float] | None = None
    ) -> NDArray[np.float64]:
        """pyhf's parameters at a point of the coefficients; one that isn't named is zero."""
        out = self._init.copy()
        values = [point.get(name, 0.0) for name in self.coefficients]
        for name, value in factors(self.coefficients, values).items():
            if name in self._parts:
                out[self._parts[name]] = value
        if nuisances is not None:
            out[self._nuisances] = nuisances
        return out

    def expected(self, point: Mapping[str, float]) -> NDArray[np.float64]:
        """The events expected by bin at a point, channels after each other."""
        return np.asarray(self.model.expected_data(self.parameters(point), include_auxdata=False))

    def toys(self, point: Mapping[str, float], number: int, seed: int) -> NDArray[np.float64]:
        """Data drawn at a point, auxiliary measurements included; shape (number, values)."""
        rng = np.random.default_rng(seed)
        main = rng.poisson(self.expected(point), (number, self.model.config.nmaindata))
        auxiliary = np.asarray(self.model.expected_auxdata(self.parameters(point)))
        out = np.empty((number, len(main[0]) + len(auxiliary)))
        for row, counts in zip(out, main, strict=True):
            row[: len(counts)] = counts
        out[:, len(main[0]) :] = self._auxiliary(auxiliary, number, rng)
        return out

    def _auxiliary(self, expected: Any, number: int, rng: np.random.Generator) -> Any:
        """Gaussian constraints drawn with their widths, Poisson ones as counts."""
        columns = []
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

    def twice_nll(
        self, values: NDArray[np.float64], data: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """-2 ln L at rows of the free coefficients, then the nuisances, against that of a model
        that expects just what is there. The shape is (points, free and nuisances), that of the
        result (points,)."""
        parts = [
            self._block(values[start : start + self._points], data)
            for start in range(0, len(values), self._points)
        ]
        return np.concatenate(parts)

    def _block(self, values: NDArray[np.float64], data: NDArray[np.float64]) -> Any:
        free, number = len(self._free), len(values)
        point = self._fixed | dict(zip(self._free, values[:, :free].T, strict=True))
        parameters = np.tile(self._init, (self._points, 1))
        at = [point.get(name, 0.0) for name in self.coefficients]
        for name, value in factors(self.coefficients, at).items():
            if name in self._parts:
                parameters[:number, self._parts[name]] = value
        # beyond its bounds a nuisance counts as at them
        nuisances = np.clip(values[:, free:], self._lowest, self._highest)
        parameters[:number, self._nuisances] = nuisances
        expected = np.asarray(self._batched.expected_data(parameters, include_auxdata=False))
        main, auxiliary = np.split(data, [expected.shape[1]])
        constraint = np.asarray(self._batched.constraint_logpdf(auxiliary, parameters))
        # quadratics of sums with negative weights may fall below zero far from any sensible point
        impossible = ((expected < 0) | ((expected == 0) & (main > 0))).any(axis=1)
        # against what is observed: sums of whole log-likelihoods, millions where there are many
        # events, would leave no digits to take differences of
        ratio = np.where(main > 0, main, 1.0) / np.where(expected > 0, expected, 1.0)
        total = np.sum(main - expected - xlogy(main, ratio), axis=1)
        return np.where(impossible, IMPOSSIBLE, -2.0 * (total + constraint))[:number]

    def _with_gradient(
        self, z: NDArray[np.float64], origin: Any, directions: Any, data: Any
    ) -> tuple[float, NDArray[np.float64]]:
        """-2 ln L at `origin` + z `directions`, and its gradient by central differences."""
        moves = STEP * np.eye(len(z))
        found = self.twice_nll(origin + np.vstack([z, z + moves, z - moves]) @ directions, data)
        up, down = np.split(found[1:], 2)
        # beside a point that is impossible there is no slope to follow
        beside = np.maximum(up, down) == IMPOSSIBLE
        return found[0], np.where(beside, 0.0, (up - down) / (2 * STEP))

    def fit(
        self, data: NDArray[np.float64] | None = None, start: Mapping[str, float] | None = None
    ) -> Fit:
        """The best point for `data` (the workspace's own if none is given)."""
        data = self.observed if data is None else data
        first = [(start or {}).get(name, 0.0) for name in self._free]
        begin = np.array([*first, *self._init[self._nuisances]])
        # along the axes of the curvature at the start, in units of their widths: parameters that
        # are known to a permille or to a few units, and are correlated, become alike
        step = 1e-3 * np.maximum(np.abs(begin), 0.1)
        curvature, axes = np.linalg.eigh(self._curvature(begin, data, step))
        directions = (axes / np.sqrt(np.maximum(np.abs(curvature), FLATTEST))).T
        best = minimize(
            self._with_gradient, np.zeros(len(begin)), args=(begin, directions, data),
            method="L-BFGS-B", jac=True, options={"ftol": 1e-11, "gtol": 1e-5},
        )  # fmt: skip
        at = begin + best.x @ directions
        width = np.sqrt(np.sum(directions**2, axis=0))
        nuisances = np.clip(at[len(first) :], self._lowest, self._highest)
        at[len(first) :] = nuisances
        room = np.full(len(at), np.inf)
        room[len(first) :] = np.minimum(nuisances - self._lowest, self._highest - nuisances)
        # one that ended at a bound, as that of a bin without an event, has no curvature
        inside = room > AT_BOUND * width
        step = np.minimum(0.05 * width, 0.5 * room)
        curvature = self._curvature(at, data, np.where(inside, step, 0.05 * width))
        covariance = np.linalg.pinv(curvature[np.ix_(inside, inside)] / 2)
        errors = np.sqrt(np.maximum(np.diag(covariance), 0.0))
        return Fit(
            dict(zip(self._free, at[: len(self._free)].tolist(), strict=True)),
            dict(zip(self._free, errors[: len(self._free)].tolist(), strict=True)),
            float(best.fun),
        )

    def _curvature(
        self, at: NDArray[np.float64], data: NDArray[np.float64], step: NDArray[np.float64]
    ) -> Any:
        """Second derivatives of -2 ln L by central differences."""
        size = len(at)
        i, j = np.triu_indices(size)
        signs = np.array([(1, 1), (1, -1), (-1, 1), (-1, -1)])
        moved = np.tile(at, (len(signs), len(i), 1))
        rows = np.arange(len(i))
        for corner, (first, second) in zip(moved, signs, strict=True):
            corner[rows, i] += first * step[i]
            corner[rows, j] += second * step[j]
        corners = self.twice_nll(moved.reshape(-1, size), data).reshape(len(signs), -1)
        out = np.empty((size, size))
        out[i, j] = (signs.prod(axis=1) @ corners) / (4 * step[i] * step[j])
        out[j, i] = out[i, j]
        return out
