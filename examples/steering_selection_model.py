"""A solvable model of best-of-k and softmax selection: every error as a formula or a one-dimensional integral.

After training on n noisy pairs a linear model answers y ~ N(m, s^2). The judge prefers answers near y_R, the truth is
y_T. Of k answers one is picked, with probability proportional to exp(-(y - y_R)^2 / T). With a = m - y_T and
b = m - y_R the functions give the mean squared error of the pick, E (y - y_T)^2.

Source: Halder & Pehlevan (2026), arXiv 2512.19905.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import integrate, stats

# The trapezoidal rule is spectrally accurate for a normal law that is cut where it is negligible.
_Z = np.linspace(-9.0, 9.0, 1201)
_MASS = stats.norm.pdf(_Z) * (_Z[1] - _Z[0])


def one_answer(a: float, s: float) -> float:
    """k = 1: bias and variance."""
    return a**2 + s**2


def weak_selection(a: float, b: float, s: float, k: int, temperature: float) -> float:
    """Second order in eps = 2 s^2 / T; of use for eps up to about 0.2."""
    eps = 2 * s**2 / temperature
    first = (2 * a * b + s**2) * (1 - 1 / k)
    second = (b * (2 * a + b) + s**2) * (1 - 1 / k) * (1 - 2 / k)
    return a**2 + s**2 - eps * first + eps**2 * second


def many_answers(a: float, b: float, s: float, temperature: float) -> float:
    """k to infinity: the pick is normal with precision 1 / s^2 + 2 / T."""
    precision = 1 / s**2 + 2 / temperature
    shift = a - 2 * b / (temperature * precision)  # its mean, from y_T
    return shift**2 + 1 / precision


def best_judge_offset(a: float, s: float, temperature: float) -> float:
    """The y_R - y_T that is best as k grows: not zero, the judge should overcorrect the bias of the generator."""
    return -temperature / (2 * s**2) * a


def best_of_k(a: float, b: float, s: float, k: int) -> float:
    """T = 0: the answer nearest to y_R, by integrating over its distance v >= 0 and side.

    The pick lies at y_R +- v; all the others lie farther away than v.
    """
    law: Any = stats.norm()

    def integrand(v: np.ndarray) -> np.ndarray:
        near = law.cdf((v - b) / s) - law.cdf((-v - b) / s)  # P(|y - y_R| < v)
        others = np.exp((k - 1) * np.log1p(-np.minimum(near, 1 - 1e-16)))
        offset = a - b  # y_R - y_T
        right = law.pdf((v - b) / s) * (v + offset) ** 2
        left = law.pdf((-v - b) / s) * (-v + offset) ** 2
        return k * others * (right + left) / s

    # The nearest of k lies within some 40 / (k density) of y_R, and never beyond 12 s of the mean.
    end = abs(b) + 12 * s
    points = np.unique(np.concatenate([[0.0], np.geomspace(1e-9 * s, end, 400)]))
    nodes, weights = np.polynomial.legendre.leggauss(24)
    half = np.diff(points)[:, None] / 2
    v = points[:-1, None] + half * (nodes + 1)
    return float(np.sum(half * weights * integrand(v)))


def softmax_of_k(a: float, b: float, s: float, k: int, temperature: float) -> float:
    r"""T > 0: $k \int_0^\infty E[w d e^{-\lambda w}] E[e^{-\lambda w}]^{k-1} d\lambda$, w the weight, d the error.

    Over log lambda, far enough that even the lightest answers that matter have been exhausted.
    """
    y = a + s * _Z  # from y_T
    distance = (y - (a - b)) ** 2 / temperature
    weight, error = np.exp(-distance), y**2
    top = min(float(np.max(distance)) + 5, 600.0)
    grid = np.linspace(-40.0, top, 1501 + 20 * int(top))
    lam = np.exp(grid)[:, None]
    damped = np.exp(-lam * weight) * _MASS
    inner = (damped @ (weight * error)) * damped.sum(axis=1) ** (k - 1) * lam[:, 0]
    return float(k * integrate.simpson(inner, x=grid))


def best_of_k_limit(a: float, s: float) -> float:
    """The limit of k^2 times the error at T = 0 with a perfect judge."""
    return float(np.pi * s**2 * np.exp(a**2 / s**2))


class Trained(NamedTuple):
    """What training leaves: m is `shrink` times y_T plus noise, s^2 the predictive variance."""

    shrink: float
    variance: float


def deterministic_equivalent(
    n: int,
    d: int,
    *,
    S: float,
    sigma: float,
    gamma: float,
    squared_norm: float,
) -> Trained:
    """Shrinkage and predictive variance for large n and d; leaves out the noise of m, so use it for n >> d only."""
    ridge = d * sigma**2 / (n * gamma**2)
    z = d / n + ridge / S**2 - 1
    effective = S**2 / 2 * (z + np.sqrt(z**2 + 4 * ridge / S**2))
    share = effective / (S**2 + effective)
    return Trained(S**2 / (effective + S**2), sigma**2 + gamma**2 * squared_norm * share)


def trained(rng: np.random.Generator, n: int, d: int, *, S: float, sigma: float, gamma: float, points: int) -> dict:
    """One training run and many test points: y_T, m and s^2 of each, exactly."""
    teacher = rng.normal(0, 2, d)
    x = rng.normal(0, S / np.sqrt(d), (n, d))
    y = x @ teacher + sigma * rng.normal(size=n)
    covariance = np.linalg.inv(np.eye(d) / gamma**2 + x.T @ x / sigma**2)
    mean = covariance @ x.T @ y / sigma**2
    test = rng.normal(0, S / np.sqrt(d), (points, d))
    return {
        "truth": test @ teacher,
        "mean": test @ mean,
        "variance": sigma**2 + np.einsum("ij,jk,ik->i", test, covariance, test),
        "squared_norm": (test**2).sum(axis=1),
    }
