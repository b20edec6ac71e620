"""The fit of prompt leptons: factors of toys come back, and what can't be fitted is refused."""

import hist
import numpy as np
import pytest
from scipy.stats import chi2

from looseleaf.fakerate.prompt import FitFailed, fit_prompt

EDGES = np.linspace(0, 120, 13)


def filled(values: np.ndarray, variances: np.ndarray | None = None) -> hist.Hist:
    out = hist.Hist(hist.axis.Variable(EDGES, name="mt"), storage=hist.storage.Weight())
    out.view().value[...] = values
    out.view().variance[...] = values if variances is None else variances
    return out


def shapes() -> tuple[np.ndarray, np.ndarray]:
    """Expected prompt leptons, about their Jacobian edge, and falling non-prompt ones."""
    centres = (EDGES[1:] + EDGES[:-1]) / 2
    return 40 * np.exp(-(((centres - 75) / 15) ** 2)) + 1.5, 60 * np.exp(-centres / 20) + 1.5


def test_an_exact_mixture_gives_its_factors() -> None:
    prompt, other = shapes()
    # simulation of which there is a hundred times as much
    templates = [filled(values, values / 100) for values in (prompt, other)]
    found = fit_prompt(filled(1.25 * prompt + 0.5 * other), *templates)
    assert found.factor == pytest.approx(1.25, rel=1e-3)
    assert found.non_prompt_factor == pytest.approx(0.5, rel=1e-3)
    assert found.chi2 < 0.01
    assert found.ndf == 10
    # Fisher information of the two yields, the simulation's own statistics being small
    mu = 1.25 * prompt + 0.5 * other
    information = [[np.sum(a * b / mu) for b in (prompt, other)] for a in (prompt, other)]
    errors = np.sqrt(np.diag(np.linalg.inv(information)))
    assert [found.error, found.non_prompt_error] == pytest.approx(errors, rel=0.02)


def test_toys_give_unbiased_factors_with_honest_errors() -> None:
    rng = np.random.default_rng(5)
    prompt, other = shapes()
    pulls, fits = [], []
    for _ in range(400):
        # five weighted events for each expected one in simulation
        templates = [filled(n / 5, n / 25) for n in (rng.poisson(5 * p) for p in (prompt, other))]
        data = filled(rng.poisson(1.2 * prompt + 0.9 * other).astype(float))
        fits.append(fit_prompt(data, *templates))
        # what was simulated fluctuates too: the factor is of the true yield to the simulated one
        true = 1.2 * prompt.sum()
        pulls.append((fits[-1].factor - 1.2) / fits[-1].error)
        assert fits[-1].factor * templates[0].values().sum() == pytest.approx(true, rel=0.5)
    # the yield of a template has no part in its shape: its fluctuation widens the pull by what
    # the number of simulated events says, 1 / (5 sum prompt)
    relative = np.median([fit.error / fit.factor for fit in fits])
    width = np.sqrt(1 + 1 / (5 * prompt.sum()) / relative**2)
    assert abs(np.mean(pulls)) < 4 * width / np.sqrt(400)
    assert np.std(pulls) == pytest.approx(width, abs=4 * width / np.sqrt(800))
    quality = sum(fit.chi2 for fit in fits)
    assert 1e-4 < chi2.sf(quality, 10 * 400) < 1 - 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, o: (p + o, p, p), "no minimum was found; are the two templates different"),
        (lambda p, o: (o, p, o), "the fit finds no prompt leptons in data"),
        (lambda p, o: (0 * o, p, o), "the region has no data leptons"),
        (lambda p, o: (p + o, p, 0 * o), "the region has no non-prompt leptons"),
        (
            lambda p, o: (p + o, np.where(p == p[2], -1.0, p), o),
            "negative sum of weights for a transverse mass of 20 to 30 GeV",
        ),
        (
            lambda p, o: (p + o, np.where(p == p[2], 0.0, p), np.where(p == p[2], 0.0, o)),
            "data but no simulation for a transverse mass of 20 to 30 GeV",
        ),
    ],
)
def test_what_cannot_be_fitted(change, message: str) -> None:
    prompt, other = shapes()
    data, *templates = change(prompt, other)
    with pytest.raises(FitFailed, match=message):
        fit_prompt(
            filled(np.round(data)), *[filled(values, abs(values) / 10) for values in templates]
        )
