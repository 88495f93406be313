"""Means over sets, adjusted by regression for covariates of the scored images whose true means are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from fsgen.report.estimates import LEVEL, Estimate

LEAST_FREEDOM = 10


@dataclass(frozen=True)
class Covariates:
    """Numbers of the scored image of each set of a list.

    Attributes:
        names: one a covariate. means: [P], over all images, weighted by how often each is scored. values: [sets, P].
    """

    names: tuple[str, ...]
    means: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, record: Mapping[str, Mapping[str, Any]]) -> Covariates:
        """From what ``covariates`` holds in a line of a results file."""
        means = np.array([part["mean"] for part in record.values()], np.float64)
        return cls(tuple(record), means, np.array([part["per_set"] for part in record.values()], np.float64).T)

    def first(self, sets: int) -> Covariates:
        """Those of the first sets of the list."""
        return Covariates(self.names, self.means, self.values[:sets])


@dataclass(frozen=True)
class Adjusted(Estimate):
    """A regression estimate; ``explained`` is the share of the variance between sets that the covariates explain."""

    explained: float

    def record(self) -> dict[str, float | int | list[float]]:
        """Plain numbers for report.json."""
        return {**super().record(), "explained": self.explained}


def adjusted(values: Sequence[float] | np.ndarray, covariates: Covariates) -> Adjusted | None:
    r"""The regression estimator of a mean over all sets, with the covariates as control variates.

    .. math::
        \hat\mu = \bar y + \hat\beta^\top (\mu_x - \bar x), \qquad
        \mathrm{se}^2 = s^2 \left( \tfrac1n + (\mu_x - \bar x)^\top S^{-1} (\mu_x - \bar x) \right), \qquad
        s^2 = \frac{\sum_i e_i^2}{n - P - 1}

    with least-squares coefficients, residuals e, S the centred sum of squares of x and known means mu_x. The interval
    is that of Student's t with n - P - 1 degrees of freedom: exact for normal variables, and for many sets right
    whatever the relation of y to x, which need not be linear; the bias is then of order 1 / n.
    A covariate that does not vary, or that the others give, changes nothing.

    Args:
        values: y, one NLL a set, of the sets that ``covariates`` describes.

    Returns:
        None where a value is not finite or fewer than ten degrees of freedom are left.

    Source: Cochran (1977), "Sampling techniques", chapter 7; Lavenberg & Welch (1981), "A perspective on the use of
    control variables to increase the efficiency of Monte Carlo simulations".
    """
    y = np.asarray(values, np.float64)
    n = len(y)
    if not np.isfinite(y).all() or n != len(covariates.values):
        return None
    centre = covariates.values.mean(0)
    off = covariates.values - centre
    spread = np.sqrt((off**2).mean(0))
    scale = np.where(spread > 1e-9 * (1 + np.abs(centre)), spread, np.inf)
    x, gap = off / scale, (covariates.means - centre) / scale
    sizes, axes = np.linalg.eigh(x.T @ x)
    kept = sizes > 1e-10 * n
    freedom = n - 1 - int(kept.sum())
    if freedom < LEAST_FREEDOM:
        return None
    inverse = axes[:, kept] / sizes[kept] @ axes[:, kept].T
    slope = inverse @ x.T @ (y - y.mean())
    residuals = y - y.mean() - x @ slope
    variance = float(residuals @ residuals) / freedom
    mean, se = float(y.mean() + slope @ gap), math.sqrt(variance * (1 / n + float(gap @ inverse @ gap)))
    half, total = float(stdtrit(freedom, (1 + LEVEL) / 2)) * se, float(y.var(ddof=1))
    explained = max(0.0, 1 - variance / total) if total > 0 else 0.0
    return Adjusted(mean, se, mean - half, mean + half, n, explained)
