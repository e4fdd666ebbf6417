"""Exponential families: sufficient statistics, parameters from their expectations, predictive densities."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betaln, digamma, gammaln, polygamma

from probinf.arguments import positive_integer
from probinf.errors import UnknownNameError


class Family:
    """An exponential family as a belief node needs it.

    Attributes:
        name: of the family.
        dim: number of sufficient statistics.
        event_shape: of one observation.
        start: expected statistics xi before any observation, NumPy (dim,).
        statistics: t(u), stacked on a leading axis of length `dim`; trailing axes of u are batches.
        parameters: the family's usual parameters, by name, whose expected statistics are xi.
        log_predictive: log density of u given xi and the pseudo-count nu: of the posterior predictive where `exact`,
            else with the parameters that match xi plugged in.
        support: whether a value is possible, elementwise over NumPy arrays.
        exact: whether `log_predictive` integrates over the parameters.
    """

    def __init__(
        self,
        name: str,
        start: np.ndarray,
        statistics: Callable,
        parameters: Callable,
        log_predictive: Callable,
        support: Callable,
        *,
        exact: bool,
        event_shape: tuple[int, ...] = (),
    ) -> None:
        self.name, self.start, self.dim, self.event_shape = name, start, len(start), event_shape
        self.statistics, self.parameters, self.log_predictive = statistics, parameters, log_predictive
        self.support, self.exact = support, exact

    def __repr__(self) -> str:
        return f"Family({self.name!r})"


def family(name: str, dim: int = 1) -> Family:
    """The family of that name; `dim` is the dimension of a multivariate normal.

    Raises:
        UnknownNameError: no such family; the message lists them.
    """
    if name == "multivariate normal":
        return _multivariate_normal(positive_integer("dim", dim))
    if name not in FAMILIES:
        raise UnknownNameError(name, [*FAMILIES, "multivariate normal"], "family", "exponential families")
    return FAMILIES[name]


def _real(u: np.ndarray) -> np.ndarray:
    return np.isfinite(u)


# -- normal -----------------------------------------------------------------------------------------------------------


def _normal_log_predictive(u: jax.Array, xi: jax.Array, nu: jax.Array) -> jax.Array:
    """Student t with nu + 1 degrees of freedom (Mathys & Weber 2020, doi 10.1007/978-3-030-64919-7_7)."""
    variance = xi[1] - xi[0] ** 2
    scale = (nu + 1.0) * variance
    log_constant = gammaln((nu + 2.0) / 2.0) - gammaln((nu + 1.0) / 2.0) - 0.5 * jnp.log(math.pi * scale)
    return log_constant - 0.5 * (nu + 2.0) * jnp.log1p((u - xi[0]) ** 2 / scale)


def _multivariate_normal(d: int) -> Family:
    rows, columns = np.tril_indices(d)

    def statistics(u: jax.Array) -> jax.Array:
        return jnp.concatenate([u, u[rows] * u[columns]])

    def parameters(xi: jax.Array) -> dict[str, jax.Array]:
        mean = xi[:d]
        lower = xi[d:] - mean[rows] * mean[columns]
        cov = jnp.zeros((d, d, *xi.shape[1:]), xi.dtype).at[rows, columns].set(lower).at[columns, rows].set(lower)
        return {"mean": mean, "cov": cov}

    def log_predictive(u: jax.Array, xi: jax.Array, nu: jax.Array) -> jax.Array:
        """Student t with nu + 1 degrees of freedom: for d = 1 that of the normal family."""
        found = parameters(xi)
        cov = jnp.moveaxis(found["cov"], (0, 1), (-2, -1))
        gap = jnp.moveaxis(u - found["mean"], 0, -1)
        distance = jnp.sum(gap * jnp.linalg.solve(cov, gap[..., None])[..., 0], axis=-1)
        freedom = nu + 1.0
        log_constant = gammaln((freedom + d) / 2.0) - gammaln(freedom / 2.0) - 0.5 * d * jnp.log(math.pi * freedom)
        log_det = jnp.linalg.slogdet(cov)[1]
        return log_constant - 0.5 * log_det - 0.5 * (freedom + d) * jnp.log1p(distance / freedom)

    start = np.concatenate([np.zeros(d), (rows == columns).astype(float)])
    return Family(
        f"multivariate normal ({d})", start, statistics, parameters, log_predictive, _real, exact=True, event_shape=(d,)
    )


# -- families whose natural parameters need solving -------------------------------------------------------------------


def inverse_digamma(y: jax.Array) -> jax.Array:
    """The x > 0 with digamma(x) = y; five Newton steps from Minka's start reach rounding."""
    x = jnp.where(y > -2.22, jnp.exp(y) + 0.5, -1.0 / (y - digamma(jnp.ones_like(y))))
    for _ in range(5):
        x = x - (digamma(x) - y) / polygamma(1, x)
    return x


def _beta_parameters(xi: jax.Array) -> dict[str, jax.Array]:
    """a, b with E log u = psi(a) - psi(a+b) and E log(1-u) = psi(b) - psi(a+b): Minka's fixed point, then Newton."""
    a, b = jnp.ones_like(xi[0]), jnp.ones_like(xi[0])
    for _ in range(20):
        total = digamma(a + b)
        a, b = inverse_digamma(xi[0] + total), inverse_digamma(xi[1] + total)
    for _ in range(6):
        shared = polygamma(1, a + b)
        da, db = polygamma(1, a), polygamma(1, b)
        gap_a, gap_b = digamma(a) - digamma(a + b) - xi[0], digamma(b) - digamma(a + b) - xi[1]
        det = da * db - shared * (da + db)
        step_a = ((db - shared) * gap_a + shared * gap_b) / det
        step_b = ((da - shared) * gap_b + shared * gap_a) / det
        a, b = jnp.maximum(a - step_a, 0.1 * a), jnp.maximum(b - step_b, 0.1 * b)
    return {"a": a, "b": b}


def _beta_log_density(u: jax.Array, xi: jax.Array, nu: jax.Array) -> jax.Array:
    found = _beta_parameters(xi)
    return (found["a"] - 1.0) * jnp.log(u) + (found["b"] - 1.0) * jnp.log1p(-u) - betaln(found["a"], found["b"])


def _gamma_parameters(xi: jax.Array) -> dict[str, jax.Array]:
    """Shape and rate with E u = shape/rate and E log u = psi(shape) - log(rate) (Minka 2002, generalised Newton)."""
    gap = jnp.log(xi[0]) - xi[1]
    shape = (3.0 - gap + jnp.sqrt((gap - 3.0) ** 2 + 24.0 * gap)) / (12.0 * gap)
    for _ in range(5):
        slope = 1.0 / shape - polygamma(1, shape)
        shape = 1.0 / (1.0 / shape + (jnp.log(shape) - digamma(shape) - gap) / (shape**2 * slope))
    return {"shape": shape, "rate": shape / xi[0]}


def _gamma_log_density(u: jax.Array, xi: jax.Array, nu: jax.Array) -> jax.Array:
    found = _gamma_parameters(xi)
    a, rate = found["shape"], found["rate"]
    return a * jnp.log(rate) - gammaln(a) + (a - 1.0) * jnp.log(u) - rate * u


def _poisson_log_predictive(u: jax.Array, xi: jax.Array, nu: jax.Array) -> jax.Array:
    """Negative binomial: the rate has a gamma belief of shape nu xi and rate nu."""
    a = nu * xi[0]
    return gammaln(a + u) - gammaln(a) - gammaln(u + 1.0) + a * jnp.log(nu / (nu + 1.0)) - u * jnp.log1p(nu)


def _bernoulli_log_predictive(u: jax.Array, xi: jax.Array, nu: jax.Array) -> jax.Array:
    return u * jnp.log(xi[0]) + (1.0 - u) * jnp.log1p(-xi[0])


#: The families of scalar observations, by name.
FAMILIES: dict[str, Family] = {
    f.name: f
    for f in (
        Family(
            "normal",
            np.array([0.0, 1.0]),
            lambda u: jnp.stack([u, u**2]),
            lambda xi: {"mean": xi[0], "variance": xi[1] - xi[0] ** 2},
            _normal_log_predictive,
            _real,
            exact=True,
        ),
        Family(
            "poisson",
            np.array([1.0]),
            lambda u: jnp.stack([u]),
            lambda xi: {"rate": xi[0]},
            _poisson_log_predictive,
            lambda u: (u >= 0) & (u == np.floor(u)),
            exact=True,
        ),
        Family(
            "bernoulli",
            np.array([0.5]),
            lambda u: jnp.stack([u]),
            lambda xi: {"probability": xi[0]},
            _bernoulli_log_predictive,
            lambda u: (u == 0) | (u == 1),
            exact=True,
        ),
        Family(
            "gamma",
            np.array([1.0, -np.euler_gamma]),  # those of Exponential(1)
            lambda u: jnp.stack([u, jnp.log(u)]),
            _gamma_parameters,
            _gamma_log_density,
            lambda u: (u > 0) & np.isfinite(u),
            exact=False,
        ),
        Family(
            "beta",
            np.array([-1.0, -1.0]),  # those of Uniform(0, 1)
            lambda u: jnp.stack([jnp.log(u), jnp.log1p(-u)]),
            _beta_parameters,
            _beta_log_density,
            lambda u: (u > 0) & (u < 1),
            exact=False,
        ),
    )
}
