"""Tasks of one update: a parametric prior, one data set, and a posterior that is known to any accuracy."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from transformers_gmm.components import Components
from transformers_gmm.examples import Examples, Problem
from transformers_gmm.task import AbstractTask


class Draws(eqx.Module):
    """n simulated problems: priors and data with leading axis n, latents (n, D) in the unconstrained space."""

    prior: Any
    latents: Float[Array, "batch dim"]
    data: Any


class AbstractStaticTask(AbstractTask):
    """A task whose problems are independent of each other.

    Training takes the expectation over the posterior by weighted points instead of one draw for every problem: the same
    loss in expectation, with a small part of its noise.
    """

    @abc.abstractmethod
    def draw(self, key: jax.Array, n: int) -> Draws:
        """`n` fresh priors, one latent from each, and its data."""

    @abc.abstractmethod
    def problem(self, prior: Any, data: Any) -> Problem:
        """What the network sees of a batch of priors and data."""

    @abc.abstractmethod
    def posterior_points(self, key: jax.Array, prior: Any, data: Any) -> tuple[Array, Array]:
        """Points (n, M, D) and normalised log weights (n, M) whose weighted sums estimate posterior means."""

    @abc.abstractmethod
    def log_posterior(self, prior: Any, data: Any, points: Float[Array, "batch points dim"]) -> Array:
        """Log density of the exact posterior at points of the unconstrained space, nats, shape (n, M)."""

    @abc.abstractmethod
    def parameters(self, prior: Any) -> dict[str, Float[Array, "batch params"]] | Components:
        """What the published network embeds: parameters by latent, positive ones as logs, or a mixture prior itself."""

    @abc.abstractmethod
    def sources(self, data: Any) -> dict[str, Float[Array, "batch rows width"]]:
        """The data as they are, by source: what a network without a base sees."""

    def simulate(self, key: jax.Array, n: int) -> Examples:
        key_draw, key_points = jr.split(key)
        draws = self.draw(key_draw, n)
        points, log_weights = self.posterior_points(key_points, draws.prior, draws.data)
        return Examples(self.problem(draws.prior, draws.data), points, log_weights)


_COARSE = 192
_SIDES = (-6.0, 12.0)  # in standard deviations: posteriors of log x are short on the left and long on the right
_NARROWEST = 0.05  # of a component, in standard deviations: none falls between two points of the grid

LogDensity = Callable[[Float[Array, "batch points"]], Float[Array, "batch points"]]


def line_moments(
    log_density: LogDensity, location: Float[Array, " batch"], scale: Float[Array, " batch"]
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """Means and standard deviations of densities on the line, by a sum over an even grid.

    Args:
        log_density: unnormalised, nats, shapes (n, M) to (n, M).
        location: shape (n,).
        scale: shape (n,); the densities lie between 6 scales below the location and 12 above.
    """
    grid = _even_grid(location, scale)
    weights = jax.nn.softmax(log_density(grid), axis=-1)
    mean = jnp.sum(weights * grid, axis=-1)
    return mean, jnp.sqrt(jnp.sum(weights * (grid - mean[:, None]) ** 2, axis=-1))


def line_points(
    key: jax.Array,
    log_density: LogDensity,
    mean: Float[Array, " batch"],
    sd: Float[Array, " batch"],
    num_points: int,
) -> tuple[Float[Array, "batch points one"], Float[Array, "batch points"]]:
    """Weighted points of densities on the line: an even grid over 6 standard deviations below and 12 above the mean.

    Each grid is shifted at random, so that nothing is won by narrow components on its points.

    Args:
        key: of the shifts.
        log_density: unnormalised, nats, shapes (n, M) to (n, M).
        mean: of the densities, shape (n,).
        sd: of the densities, shape (n,).
        num_points: M.

    Returns:
        Points (n, M, 1) and normalised log weights (n, M).
    """
    low, high = _SIDES
    shift = jr.uniform(key, (mean.shape[0], 1), mean.dtype)
    steps = (jnp.arange(num_points, dtype=mean.dtype)[None] + shift) / num_points
    points = mean[:, None] + sd[:, None] * (low + (high - low) * steps)
    return points[..., None], jax.nn.log_softmax(log_density(points), axis=-1)


def line_fit(
    log_density: LogDensity, mean: Float[Array, " batch"], sd: Float[Array, " batch"], k: int, num_steps: int = 4
) -> Components:
    """K Gaussians fitted to densities on the line: a few steps of expectation maximisation on an even grid.

    Args:
        log_density: unnormalised, nats, shapes (n, M) to (n, M).
        mean: of the densities, shape (n,).
        sd: of the densities, shape (n,).
        k: number of components; they start side by side.
        num_steps: of expectation maximisation.
    """
    steps = jnp.linspace(*_SIDES, _COARSE, dtype=mean.dtype)
    mass = jax.nn.softmax(log_density(_even_grid(mean, sd)), axis=-1)[:, None]
    # In standard deviations the grid is the same for all, so all moments of all components are one matrix product.
    powers = jnp.stack([jnp.ones_like(steps), steps, steps**2], axis=-1)
    start = side_by_side(jnp.zeros_like(mean), jnp.ones_like(mean), k)
    log_weights, centres, widths = start.log_weights, start.means[..., 0], start.scale_tril[..., 0, 0]
    for _ in range(num_steps):
        gaps = (steps[None, None] - centres[..., None]) / widths[..., None]
        each = (log_weights - jnp.log(widths))[..., None] - 0.5 * gaps**2
        total, first, second = jnp.moveaxis((mass * jax.nn.softmax(each, axis=1)) @ powers, -1, 0)
        total = total + jnp.finfo(mean.dtype).tiny
        log_weights, centres = jax.nn.log_softmax(jnp.log(total), axis=-1), first / total
        widths = jnp.sqrt(jnp.maximum(second / total - centres**2, 0) + _NARROWEST**2)
    means, factors = mean[:, None] + sd[:, None] * centres, sd[:, None] * widths
    return Components(log_weights, means[..., None], factors[..., None, None])


def side_by_side(mean: Float[Array, " batch"], sd: Float[Array, " batch"], k: int) -> Components:
    """K equal Gaussians over three standard deviations, a little to the right of the mean as tails of log x are."""
    offsets = jnp.linspace(-1.2, 1.8, k, dtype=mean.dtype)
    means = mean[:, None] + sd[:, None] * offsets[None]
    widths = jnp.broadcast_to(sd[:, None] * min(1.0, 3.0 / k), means.shape)
    return Components(jnp.full(means.shape, -math.log(k), means.dtype), means[..., None], widths[..., None, None])


def _even_grid(location: Float[Array, " batch"], scale: Float[Array, " batch"]) -> Float[Array, "batch points"]:
    return location[:, None] + scale[:, None] * jnp.linspace(*_SIDES, _COARSE, dtype=location.dtype)[None]
