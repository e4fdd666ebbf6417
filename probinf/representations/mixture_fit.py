"""Fit a Gaussian mixture to weighted points by expectation maximisation."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probinf.representations.mixture_reduction import merge_pair

_MAX_ITERATIONS = 200  # an end for every input; on separable data EM settles within tens
_TOLERANCE = 1e-7  # nats per point gained by an iteration below which it stops
_FLOOR = 1e-6  # share of the overall covariance added to every component: keeps a one-point component regular


def weighted_moments(
    x: Float[Array, "n dim"], weights: Float[Array, " n"]
) -> tuple[Float[Array, " dim"], Float[Array, "dim dim"]]:
    """Mean (d,) and covariance (d, d) of points under weights that sum to one."""
    mean = weights @ x
    centred = x - mean[None, :]
    return mean, (weights[:, None] * centred).T @ centred


def gaussian_log_density(
    x: Float[Array, " dim"], mean: Float[Array, " dim"], scale_tril: Float[Array, "dim dim"]
) -> Float[Array, ""]:
    """Log N(x; mean, L L') for one point, in nats."""
    white = jax.scipy.linalg.solve_triangular(scale_tril, x - mean, lower=True)
    return log_normal_of_white(white, scale_tril)


def log_normal_of_white(white: Float[Array, " dim"], scale_tril: Float[Array, "dim dim"]) -> Float[Array, ""]:
    """Log density of mean + L white under N(mean, L L'), in nats."""
    log_det = jnp.sum(jnp.log(jnp.diagonal(scale_tril)))
    return -0.5 * (white @ white) - log_det - 0.5 * white.shape[0] * jnp.log(2.0 * jnp.pi)


@functools.partial(jax.jit, static_argnames="k")
def expectation_maximisation(
    key: jax.Array, x: Float[Array, "n dim"], weights: Float[Array, " n"], k: int
) -> tuple[Float[Array, " k"], Float[Array, "k dim"], Float[Array, "k dim dim"]]:
    """Weights (k,), means (k, d) and covariances (k, d, d) of the fitted mixture.

    Starts from k-means++ seeds in whitened coordinates. `k = 1` is the closed form: the weighted mean and covariance.

    Args:
        key: randomness of the start.
        x: points, shape (n, d).
        weights: of the points, summing to one.
        k: number of components.

    References:
        Dempster, Laird & Rubin (1977); start: Arthur & Vassilvitskii (2007), k-means++.
    """
    mean, cov = weighted_moments(x, weights)
    if k == 1:
        return jnp.ones(1, x.dtype), mean[None], cov[None]

    whitener = jnp.linalg.cholesky(cov)
    white = jax.vmap(lambda row: jax.scipy.linalg.solve_triangular(whitener, row - mean, lower=True))(x)
    log_w = jnp.log(weights)

    def seed(carry, key):
        nearest = carry  # squared distance of every point to the nearest seed so far
        index = jax.random.categorical(key, log_w + jnp.log(nearest))
        distance = jnp.sum((white - white[index][None, :]) ** 2, axis=1)
        return jnp.minimum(nearest, distance), index

    first, rest = jax.random.split(key)
    start = jax.random.categorical(first, log_w)
    nearest = jnp.sum((white - white[start][None, :]) ** 2, axis=1)
    _, others = jax.lax.scan(seed, nearest, jax.random.split(rest, k - 1))
    means = x[jnp.concatenate([start[None], others])]
    # Seeds are spread over the cloud: 1/k of its volume each.
    covs = jnp.broadcast_to(cov * k ** (-2.0 / x.shape[1]), (k, *cov.shape))
    floor = _FLOOR * cov

    def maximise(responsibilities):
        mass = weights @ responsibilities
        share = (weights[:, None] * responsibilities) / jnp.where(mass > 0.0, mass, 1.0)[None, :]
        means, covs = jax.vmap(weighted_moments, in_axes=(None, 1))(x, share)
        # A component that lost all its points keeps weight zero and the overall covariance.
        covs = jnp.where((mass > 0.0)[:, None, None], covs, cov[None]) + floor[None]
        return mass, means, covs

    def expect(mixture):
        mass, means, covs = mixture
        densities = jax.vmap(jax.vmap(gaussian_log_density, in_axes=(None, 0, 0)), in_axes=(0, None, None))(
            x, means, jnp.linalg.cholesky(covs)
        )
        joint = densities + jnp.log(mass)[None, :]
        total = jax.nn.logsumexp(joint, axis=1)
        return jnp.exp(joint - total[:, None]), weights @ total

    def unfinished(carry):
        _, _, gain, step = carry
        return (step < _MAX_ITERATIONS) & (gain > _TOLERANCE)

    def iterate(carry):
        mixture, score, _, step = carry
        responsibilities, new_score = expect(mixture)
        return maximise(responsibilities), new_score, new_score - score, step + 1

    uniform = jnp.full(k, 1.0 / k, x.dtype)
    infinite = jnp.asarray(jnp.inf, x.dtype)
    mixture, *_ = jax.lax.while_loop(unfinished, iterate, ((uniform, means, covs), -infinite, infinite, 0))
    return mixture


@functools.partial(jax.jit, static_argnames="steps")
def refine(
    start: tuple[Float[Array, " k"], Float[Array, "k dim"], Float[Array, "k dim dim"]],
    x: Float[Array, "n dim"],
    weights: Float[Array, " n"],
    *,
    steps: int = 2,
    strength: float | Float[Array, ""] = 10.0,
) -> tuple[Float[Array, " k"], Float[Array, "k dim"], Float[Array, "k dim dim"]]:
    """Move a mixture towards weighted points by a few steps of expectation maximisation from it.

    The mixture counts like `strength` further points drawn from it and the points like their effective number, so
    that components with few points stay where they are and every covariance stays positive definite.

    Args:
        start: weights (k,), means and covariances; components of weight zero stay empty.
        x: points, shape (n, d).
        weights: of the points, summing to one.
        steps: of expectation maximisation.
        strength: points that `start` counts for.

    Returns:
        Weights, means and covariances.
    """
    ess = 1.0 / jnp.sum(weights**2)
    trust = ess / (ess + strength)

    def step(mixture: tuple[Array, Array, Array], _: None) -> tuple[tuple[Array, Array, Array], None]:
        old_weights, means, covs = mixture
        densities = jax.vmap(jax.vmap(gaussian_log_density, in_axes=(None, 0, 0)), in_axes=(0, None, None))(
            x, means, jnp.linalg.cholesky(covs)
        )
        shares = weights[:, None] * jax.nn.softmax(densities + jnp.log(old_weights)[None], axis=1)
        mass = jnp.sum(shares, axis=0)
        found = jax.vmap(weighted_moments, in_axes=(None, 1))(x, shares / jnp.where(mass > 0.0, mass, 1.0)[None])
        pairs = (trust * mass, *found, (1.0 - trust) * start[0], *start[1:])
        return jax.vmap(merge_pair)(*pairs), None

    return jax.lax.scan(step, start, length=steps)[0]
