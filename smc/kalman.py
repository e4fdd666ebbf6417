"""The Kalman filter's two steps, for means and covariances and affine models with Gaussian noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from smc.small_normal import cho_solve, cholesky, solve_lower


class Affine(NamedTuple):
    r"""The model $y = \text{predicted} + A (x - m) + \varepsilon$, $\varepsilon \sim N(0, \text{noise})$, around $m$.

    Attributes:
        predicted: value at the point m, shape (p,).
        matrix: A, shape (p, d).
        noise: covariance, shape (p, p).
    """

    predicted: Float[Array, " out"]
    matrix: Float[Array, "out dim"]
    noise: Float[Array, "out out"]


class Innovation(NamedTuple):
    """What a value says that was not expected.

    Attributes:
        residual: value minus prediction, 0 at missing coordinates, shape (p,).
        factor: lower Cholesky factor of its covariance, rows of the identity at missing coordinates.
        matrix, noise: those of the affine model, masked.
        log_density: log N(residual; 0, S) of the observed coordinates, nats.
        nis: residual' S^-1 residual; chi-square with as many degrees of freedom as coordinates were observed.
    """

    residual: Array
    factor: Array
    matrix: Array
    noise: Array
    log_density: Array
    nis: Array


def symmetric(matrix: Float[Array, "dim dim"]) -> Float[Array, "dim dim"]:
    """The symmetric part: rounding makes covariances drift from symmetry."""
    return 0.5 * (matrix + matrix.T)


def square_root(cov: Float[Array, "dim dim"]) -> Float[Array, "dim dim"]:
    """Some S with S S' = P, also where P is singular; what rounding has made negative counts as zero."""
    values, vectors = jnp.linalg.eigh(cov)
    return vectors * jnp.sqrt(jnp.maximum(values, 0))[None, :]


def predict_cov(cov: Float[Array, "dim dim"], model: Affine) -> Float[Array, "dim dim"]:
    """A P A' + noise."""
    return symmetric(model.matrix @ cov @ model.matrix.T + model.noise)


def innovate(
    cov: Float[Array, "dim dim"],
    model: Affine,
    residual: Float[Array, " out"],
    observed: Bool[Array, " out"],
) -> Innovation:
    """Innovation of a value with this residual; missing coordinates are left out exactly.

    Missing rows of A and of the noise are replaced so that S is the identity there: gain, density and NIS are then
    those of the sensor restricted to the observed coordinates.
    """
    dtype = cov.dtype
    residual = jnp.where(observed, residual, jnp.zeros((), dtype))
    matrix = jnp.where(observed[:, None], model.matrix, jnp.zeros((), dtype))
    both = observed[:, None] & observed[None, :]
    noise = jnp.where(both, model.noise, jnp.eye(observed.shape[0], dtype=dtype))
    factor = cholesky(symmetric(matrix @ cov @ matrix.T + noise))
    white = solve_lower(factor, residual)
    nis = white @ white
    count = jnp.sum(observed).astype(dtype)
    half_log_det = jnp.sum(jnp.log(jnp.diagonal(factor)))
    log_density = -0.5 * nis - half_log_det - 0.5 * count * math.log(2.0 * math.pi)
    return Innovation(residual, factor, matrix, noise, log_density, nis)


def gain(cov: Float[Array, "dim dim"], innovation: Innovation) -> Float[Array, "dim out"]:
    """K = P A' S^-1, shape (d, p)."""
    return cho_solve(innovation.factor, innovation.matrix @ cov).T


def joseph(
    cov: Float[Array, "dim dim"], gain: Float[Array, "dim out"], innovation: Innovation
) -> Float[Array, "dim dim"]:
    """(I - K A) P (I - K A)' + K noise K': positive semidefinite for any gain.

    References:
        Bucy & Joseph (1968), Filtering for Stochastic Processes with Applications to Guidance.
    """
    keep = jnp.eye(cov.shape[0], dtype=cov.dtype) - gain @ innovation.matrix
    return symmetric(keep @ cov @ keep.T + gain @ innovation.noise @ gain.T)


def rts_step(
    mean: Float[Array, " dim"],
    cov: Float[Array, "dim dim"],
    model: Affine,
    next_mean: Float[Array, " dim"],
    next_cov: Float[Array, "dim dim"],
    difference: Callable[[Array, Array], Array],
) -> tuple[Float[Array, " dim"], Float[Array, "dim dim"]]:
    """One backward step: smoothed moments at k from filtered ones at k and smoothed ones at k + 1.

    Args:
        mean: filtered, at k.
        cov: filtered, at k.
        model: motion from k to k + 1, linearised at `mean`.
        next_mean: smoothed, at k + 1.
        next_cov: smoothed, at k + 1.
        difference: subtraction of states (on the circle for angles).

    References:
        Rauch, Tung & Striebel (1965); Särkkä (2013), Bayesian Filtering and Smoothing, Theorem 8.2.
    """
    predicted_cov = predict_cov(cov, model)
    back = cho_solve(cholesky(predicted_cov), model.matrix @ cov).T
    smoothed = mean + back @ difference(next_mean, model.predicted)
    return smoothed, symmetric(cov + back @ (next_cov - predicted_cov) @ back.T)
