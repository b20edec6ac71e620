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

# the largest value that a coefficient is tried at
LARGEST = 100.0
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
        bounds = self.model.config.suggested_bounds()
        self._bounds = [(-LARGEST, LARGEST)] * len(self._free)
        self._bounds += [tuple(bounds[i]) for i in self._nuisances]

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

    def twice_nll(self, values: NDArray[np.float64], data: NDArray[np.float64]) -> float:
        """-2 ln L at the free coefficients, then the nuisances, up to a constant of the data."""
        free = len(self._free)
        point = self._fixed | dict(zip(self._free, values[:free], strict=True))
        parameters = self.parameters(point, values[free:])
        expected = np.asarray(self.model.expected_data(parameters, include_auxdata=False))
        # quadratics of sums with negative weights may fall below zero far from any sensible point
        if ((expected < 0) | ((expected == 0) & (data[: len(expected)] > 0))).any():
            return IMPOSSIBLE
        main, auxiliary = np.split(data, [len(expected)])
        # the factorial of the counts is left out
        total = float(np.sum(xlogy(main, expected) - expected))
        return -2.0 * (total + float(self.model.constraint_logpdf(auxiliary, parameters)))

    def fit(
        self, data: NDArray[np.float64] | None = None, start: Mapping[str, float] | None = None
    ) -> Fit:
        """The best point for `data` (the workspace's own if none is given)."""
        data = self.observed if data is None else data
        first = [(start or {}).get(name, 0.0) for name in self._free]
        begin = np.array([*first, *self._init[self._nuisances]])
        best = minimize(
            self.twice_nll, begin, args=(data,), method="L-BFGS-B", bounds=self._bounds,
            options={"ftol": 1e-10, "gtol": 1e-6},
        )  # fmt: skip
        covariance = np.linalg.pinv(self._curvature(best.x, data) / 2)
        errors = np.sqrt(np.maximum(np.diag(covariance), 0.0))
        return Fit(
            dict(zip(self._free, best.x[: len(self._free)].tolist(), strict=True)),
            dict(zip(self._free, errors[: len(self._free)].tolist(), strict=True)),
            float(best.fun),
        )

    def _curvature(self, at: NDArray[np.float64], data: NDArray[np.float64]) -> Any:
        """Second derivatives of -2 ln L by central differences."""
        size, step = len(at), 1e-3 * np.maximum(np.abs(at), 0.1)

        def moved(*changes: tuple[int, float]) -> float:
            values = at.copy()
            for index, sign in changes:
                values[index] += sign * step[index]
            return self.twice_nll(values, data)

        middle = self.twice_nll(at, data)
        out = np.empty((size, size))
        for i in range(size):
            out[i, i] = (moved((i, 1)) - 2 * middle + moved((i, -1))) / step[i] ** 2
            for j in range(i):
                corners = [moved((i, a), (j, b)) * a * b for a in (1, -1) for b in (1, -1)]
                out[i, j] = out[j, i] = sum(corners) / (4 * step[i] * step[j])
        return out
