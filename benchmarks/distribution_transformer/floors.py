"""How close K Gaussians can come to posteriors of the conjugate check: the floor of the family, by direct optimisation.

    python -m benchmarks.distribution_transformer.floors

prints the expected KL(exact || best mixture), in nats, for K = 1, 2, 3 and 5, wide and narrow meta-prior. In log space
the rate is a shift, so the floor of a posterior depends on its shape alone.
"""

from __future__ import annotations

import functools

import numpy as np
from scipy import interpolate, optimize, special, stats

from transformers_gmm.meta_priors import NARROW, WIDE, PositivePairs

_SHAPES = np.geomspace(0.55, 80.0, 24)  # of posteriors: 1/2 more than the prior's
_NUM_POINTS = 1601


def best_fit(shape: float, k: int, start: np.ndarray | None = None) -> tuple[float, np.ndarray]:
    """Least KL of k Gaussians to log IG(shape, 1), and their logits, means and log widths in standardised units."""
    low, high = -np.log(stats.gamma.isf(1e-15, shape)) - 0.5, -np.log(special.gammaincinv(shape, 1e-15))
    u = np.linspace(low, high, _NUM_POINTS)
    log_p = -shape * u - np.exp(-u) - special.gammaln(shape)
    p = np.exp(log_p)
    p = p / p.sum()
    mean, sd = special.digamma(shape), np.sqrt(special.polygamma(1, shape))
    x = (u + mean) / sd
    if start is None:
        start = np.concatenate([np.zeros(k), np.linspace(-1.0, 1.5, k) if k > 1 else np.zeros(1), np.full(k, -0.5)])
    settings = {"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-16, "gtol": 1e-10, "maxcor": 40}
    found = optimize.minimize(_cross_entropy, start, args=(x, p, k), jac=True, method="L-BFGS-B", options=settings)
    return float(found.fun + np.sum(p * (log_p + np.log(sd)))), found.x


@functools.lru_cache
def floor_by_shape(k: int) -> interpolate.CubicSpline:
    """log floor against log shape; each fit starts from that of the shape before."""
    floors, start = [], None
    for shape in _SHAPES:
        floor, start = best_fit(float(shape), k, start)
        floors.append(floor)
    return interpolate.CubicSpline(np.log(_SHAPES), np.log(floors))


def floors_at(shapes: np.ndarray, k: int) -> np.ndarray:
    """The floor for posteriors of these shapes, nats."""
    return np.exp(floor_by_shape(k)(np.log(np.clip(shapes, _SHAPES[0], _SHAPES[-1]))))


def family_floor(k: int, meta_prior: PositivePairs) -> float:
    """The floor's mean over priors of a meta-prior, nats."""
    levels = (np.arange(20_000) + 0.5) / 20_000
    concentrations = meta_prior.rate / stats.gamma.ppf(levels, meta_prior.concentration)
    return float(np.mean(floors_at(concentrations + 0.5, k)))


def _cross_entropy(theta: np.ndarray, x: np.ndarray, p: np.ndarray, k: int) -> tuple[float, np.ndarray]:
    """-sum p log q of a mixture with parameters `theta`, and its gradient."""
    logits, means, widths = theta[:k], theta[k : 2 * k], np.exp(theta[2 * k :])
    log_weights = logits - special.logsumexp(logits)
    gaps = (x[:, None] - means) / widths
    each = log_weights - np.log(widths) - 0.5 * gaps**2 - 0.5 * np.log(2 * np.pi)
    log_q = np.asarray(special.logsumexp(each, axis=1))
    shares = np.exp(each - log_q[:, None]) * p[:, None]
    gradient = [np.exp(log_weights) - shares.sum(0), -(shares * gaps / widths).sum(0), -(shares * (gaps**2 - 1)).sum(0)]
    return -float(np.sum(p * log_q)), np.concatenate(gradient)


def main() -> int:
    """Print the table."""
    for k in (1, 2, 3, 5):
        print(f"K = {k}: wide {family_floor(k, WIDE):.3g}, narrow {family_floor(k, NARROW):.3g} nats", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
