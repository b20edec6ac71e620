"""The prompt (electroweak) leptons of a measurement region: their number, from a template fit."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc

from looseleaf.errors import LooseleafError
from looseleaf.histograms.typed import Weighted


class FitFailed(LooseleafError):
    """The prompt leptons can't be separated from the others; the message says why."""


@dataclass(frozen=True)
class PromptFit:
    """Factors that scale simulated prompt and non-prompt leptons to the data.

    Errors are one standard deviation, and include the statistics of the simulation.
    """

    factor: float
    error: float
    non_prompt_factor: float
    non_prompt_error: float
    chi2: float
    ndf: int
    p_value: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def fit_prompt(data: Weighted, prompt: Weighted, non_prompt: Weighted) -> PromptFit:
    """Fit the transverse mass of data with the sum of two templates, both with free normalisations.

    All three are 1D with Weight storage on the same axis; flow bins aren't used. The likelihood is
    that of weighted templates with their own statistics (H. Dembinski and A. Abdelmotteleb, Eur.
    Phys. J. C 82 (2022) 1043), as implemented in iminuit.

    Raises `FitFailed` if data or a template is empty, if a template is negative in a bin or both
    are empty where there is data, if no minimum is found, or if the fit finds no prompt leptons.
    """
    # iminuit's costs import numba, which takes most of a second: only for analyses with such a fit
    from iminuit import Minuit  # noqa: PLC0415
    from iminuit.cost import Template  # noqa: PLC0415

    pairs = {"data": data, "prompt": prompt, "non-prompt": non_prompt}
    for name, histogram in pairs.items():
        values = histogram.values()
        if not values.sum() > 0:
            raise FitFailed(f"prompt_fit: the region has no {name} leptons")
        if np.any(values < 0):
            edges = data.axes[0].edges[np.flatnonzero(values < 0)[0] :][:2]
            raise FitFailed(
                f"prompt_fit: the {name} leptons have a negative sum of weights for a transverse "
                f"mass of {edges[0]:g} to {edges[1]:g} GeV: take wider bins in prompt_fit.edges"
            )
    lost = (data.values() != 0) & (prompt.values() == 0) & (non_prompt.values() == 0)
    if lost.any():
        edges = data.axes[0].edges[np.flatnonzero(lost)[0] :][:2]
        raise FitFailed(
            f"prompt_fit: there is data but no simulation for a transverse mass of {edges[0]:g} to "
            f"{edges[1]:g} GeV: take wider bins, or fewer, in prompt_fit.edges"
        )
    cost = Template(
        _moments(data),
        data.axes[0].edges,
        (_moments(prompt), _moments(non_prompt)),
        name=("prompt", "non_prompt"),
        method="da",
    )
    half = data.values().sum() / 2
    fit = Minuit(cost, half, half)
    fit.limits = (0, None)
    fit.migrad()
    fit.hesse()
    if not (fit.valid and fit.accurate):
        raise FitFailed("prompt_fit: no minimum was found; are the two templates different enough?")
    if fit.values["prompt"] <= fit.errors["prompt"] * 1e-3:
        raise FitFailed(
            "prompt_fit: the fit finds no prompt leptons in data, so there is nothing to subtract"
        )
    expected = {"prompt": prompt.values().sum(), "non_prompt": non_prompt.values().sum()}
    # empty bins don't contribute to the likelihood
    filled = (data.values() != 0) | (prompt.values() != 0) | (non_prompt.values() != 0)
    ndf = filled.sum() - fit.nfit
    return PromptFit(
        factor=fit.values["prompt"] / expected["prompt"],
        error=fit.errors["prompt"] / expected["prompt"],
        non_prompt_factor=fit.values["non_prompt"] / expected["non_prompt"],
        non_prompt_error=fit.errors["non_prompt"] / expected["non_prompt"],
        chi2=fit.fval,
        ndf=int(ndf),
        p_value=float(chdtrc(ndf, fit.fval)),
    )


def _moments(histogram: Weighted) -> NDArray[np.float64]:
    """Sums of weights and of their squares, shape (bins, 2)."""
    return np.stack([histogram.values(), histogram.variances()], axis=-1)
