"""Templates of a fit: a quadratic as a sum of histograms that Combine can take.

With S, L_i, Q_i and M_ij the Standard Model, linear, quadratic and mixed parts of a bin, the
templates are

    sm = f(0) = S                       lin_i = f(c_i = 1) = S + L_i + Q_i
    quad_i = (f(2) - 2 f(1) + f(0)) / 2 = Q_i
    quad_mixed_ij = f(c_i = c_j = 1) = S + L_i + L_j + Q_i + Q_j + M_ij

all but quad_i being yields of a point, and so not negative. At a point c they add up to f(c) with
the factors that `factors` gives:

    sm: 1 - sum_i c_i + sum_i<j c_i c_j        lin_i: c_i (1 - sum_j!=i c_j)
    quad_i: c_i^2 - c_i                        quad_mixed_ij: c_i c_j
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from looseleaf.efthist import EFTHist, quadratic_terms
from looseleaf.topcoffea.axes import CHANNEL, NOMINAL, PROCESS, SYSTEMATIC

# coefficients whose parts are all smaller than this fraction of the Standard Model are left out
NEGLIGIBLE = 1e-4


@dataclass(frozen=True)
class Template:
    """Contents and squared errors by bin; the outermost bins include the flow bins.

    `part` is `sm`, `lin_<i>`, `quad_<i>` or `quad_mixed_<i>_<j>` of a signal, else empty.
    """

    process: str
    part: str
    values: NDArray[np.float64]
    variances: NDArray[np.float64]
    variations: Mapping[str, NDArray[np.float64]]

    @property
    def name(self) -> str:
        """The name of the template: that of its process and, for a signal, of its part."""
        return f"{self.process}_{self.part}" if self.part else self.process


def parts_of(coefficients: Sequence[str]) -> list[str]:
    """The names of a signal's parts for these coefficients."""
    single = [f"{kind}_{name}" for name in coefficients for kind in ("lin", "quad")]
    return ["sm", *single, *(f"quad_mixed_{a}_{b}" for a, b in combinations(coefficients, 2))]


def statistical(channel: str) -> str:
    """The name of the statistical factors of a channel."""
    return f"stat_{channel}"


def coefficients_of(workspace: Mapping[str, Any]) -> list[str]:
    """The coefficients of a workspace, from the names of its parts."""
    (measurement,) = workspace["measurements"]
    parts = [parameter["name"] for parameter in measurement["config"]["parameters"]]
    return [part.removeprefix("lin_") for part in parts if part.startswith("lin_")]


def factors(coefficients: Sequence[str], point: Sequence[float]) -> dict[str, float]:
    """The factor of each part at a point, given in the order of the coefficients."""
    c = dict(zip(coefficients, point, strict=True))
    total = sum(c.values())
    pairs = {(a, b): c[a] * c[b] for a, b in combinations(coefficients, 2)}
    out = {"sm": 1 - total + sum(pairs.values())}
    for name, value in c.items():
        out[f"lin_{name}"] = value * (1 - (total - value))
        out[f"quad_{name}"] = value**2 - value
    return out | {f"quad_mixed_{a}_{b}": value for (a, b), value in pairs.items()}


def kept_coefficients(
    filled: EFTHist, signals: Sequence[str], considered: Sequence[str] | None
) -> list[str]:
    """The coefficients that change a bin of a signal, of those `considered` (None: of all)."""
    nominal = filled.select(**{SYSTEMATIC: NOMINAL})
    names = list(filled.coefficients if considered is None else considered)
    columns = [set(term) - {"sm"} for term in quadratic_terms(filled.coefficients)]
    present = [name for name in signals if name in nominal.categories(PROCESS)]
    if not present:
        return []
    terms = nominal.select(**{PROCESS: present}).terms(flow=True)
    moved = np.abs(terms) > NEGLIGIBLE * np.abs(terms[..., :1])
    return [
        name
        for name in names
        if any(moved[..., i].any() for i, t in enumerate(columns) if name in t)
    ]


def templates_of(
    filled: EFTHist, channel: str, signals: Sequence[str], coefficients: Sequence[str]
) -> list[Template]:
    """The templates of a channel: signals in parts, other processes at the Standard Model.

    The variances of quad_i are the quartic's coefficient of c_i^4, from its values at five points.
    """
    of_channel = filled.select(**{CHANNEL: channel})
    single = [{name: value} for name in coefficients for value in (1.0, 2.0, -1.0, -2.0)]
    pairs = [{a: 1.0, b: 1.0} for a, b in combinations(coefficients, 2)]
    points = [{}, *single, *pairs]
    out = []
    for process in of_channel.categories(PROCESS):
        histogram = of_channel.select(**{PROCESS: process})
        is_signal = process in signals
        moved = coefficients if is_signal else ()
        contents = {}
        for label in histogram.categories(SYSTEMATIC):
            terms = np.moveaxis(histogram.select(**{SYSTEMATIC: label}).terms(flow=True), -1, 0)
            contents[label] = _parts(folded(terms), filled.coefficients, moved)
        nominal = histogram.select(**{SYSTEMATIC: NOMINAL})
        squares = nominal.variances(points if is_signal else points[:1], flow=True)
        errors = _squares(folded(squares), moved)
        # a variation that only another process has leaves both directions of this one empty
        here_too = {
            _varied(label)
            for label, parts in contents.items()
            if any(values.any() for values in parts.values())
        }
        labels = [n for n in contents if n != NOMINAL and _varied(n) in here_too]
        for part, values in contents[NOMINAL].items():
            varied = {label: contents[label][part] for label in labels}
            name = part if is_signal else ""
            out.append(Template(process, name, values, errors[part], varied))
    return out


def _varied(label: str) -> str:
    """The name of a variation without its direction."""
    return label.removesuffix("Up").removesuffix("Down")


def folded(contents: NDArray[np.float64]) -> NDArray[np.float64]:
    """Underflow added to the first bin and overflow to the last; shape (..., bins)."""
    inner = contents[..., 1:-1].copy()
    inner[..., 0] += contents[..., 0]
    inner[..., -1] += contents[..., -1]
    return inner


def _parts(
    terms: NDArray[np.float64], names: Sequence[str], moved: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """The parts of quadratics in `names`, for the coefficients `moved`; terms have shape (K, bins).

    A part without events is exactly zero, not the rounding of a difference.
    """
    by_name = dict(zip(map(frozenset, quadratic_terms(names)), terms, strict=True))
    sm = by_name[frozenset(["sm"])]
    own = {name: by_name[frozenset([name])] for name in moved}
    beyond = {name: by_name[frozenset(["sm", name])] + own[name] for name in moved}
    out = {"sm": sm}
    for name in moved:
        out[f"lin_{name}"] = sm + beyond[name]
        out[f"quad_{name}"] = own[name]
    for a, b in combinations(moved, 2):
        out[f"quad_mixed_{a}_{b}"] = sm + beyond[a] + beyond[b] + by_name[frozenset([a, b])]
    return out


def _squares(variances: Any, moved: Sequence[str]) -> dict[str, Any]:
    """The variances of the parts, from those at the points of `templates_of`."""
    out = {"sm": variances[0]}
    for index, name in enumerate(moved):
        at_plus_one, at_plus_two, at_minus_one, at_minus_two = variances[
            1 + 4 * index : 5 + 4 * index
        ]
        fourth = (
            at_plus_two + at_minus_two - 4 * (at_plus_one + at_minus_one) + 6 * variances[0]
        ) / 24
        out[f"lin_{name}"] = at_plus_one
        out[f"quad_{name}"] = np.maximum(fourth, 0.0)
    first_pair = 1 + 4 * len(moved)
    for index, (a, b) in enumerate(combinations(moved, 2)):
        out[f"quad_mixed_{a}_{b}"] = variances[first_pair + index]
    return out
