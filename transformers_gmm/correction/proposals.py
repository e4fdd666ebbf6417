"""Proposals of the corrected filters: part from the base method's posterior, part from the prediction itself."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float, Int

from probinf.errors import ArgumentError, ModelError
from probinf.representations.mixture import GaussianMixture
from probinf.streaming.method import Fault
from probinf.streaming.system import System
from smc.gaussian_filter import difference, wrap_entries
from transformers_gmm.components import Components
from transformers_gmm.correction.guided import PrecisionMixture


def on_circle(
    log_prob: Callable[[Array], Array], x: Float[Array, "*batch dim"], angles: tuple[int, ...]
) -> Float[Array, " *batch"]:
    """Log density on the circle of a law on the line: the sum over two turns to either side of each declared angle."""
    if not angles:
        return log_prob(x)
    shifts = np.zeros((5 ** len(angles), x.shape[-1]))
    shifts[:, list(angles)] = [
        [2 * math.pi * n for n in turns] for turns in itertools.product(range(-2, 3), repeat=len(angles))
    ]
    images = jnp.stack([log_prob(x + jnp.broadcast_to(jnp.asarray(s, x.dtype), x.shape)) for s in shifts])
    return jax.nn.logsumexp(images, axis=0)


def systematic(log_weights: Float[Array, " comps"], key: Array, n: int) -> Int[Array, " n"]:
    """Indices of components as often as their weights say: each n times its weight on average, and nearly always."""
    total = jnp.cumsum(jnp.exp(log_weights))
    points = (jax.random.uniform(key, (), total.dtype) + jnp.arange(n, dtype=total.dtype)) / n
    return jnp.minimum(jnp.searchsorted(total / total[-1], points, side="right"), total.shape[0] - 1)


def lattice(which: Int[Array, " n"], key: Array, dim: int, dtype: Any) -> Float[Array, "n dim"]:
    """Standard normal points that fill space evenly for each component: shifted lattices through quantiles.

    Each point is standard normal, so means over them are unbiased. The first coordinate goes in equal steps through a
    component's points, the others by irrational ones.

    Args:
        which: components of the points, in ascending order.
        key: of the shift.
        dim: number of coordinates.
        dtype: of the points.

    References:
        Cranley & Patterson (1976), Randomization of number theoretic methods for multiple integration.
    """
    n, root = len(which), 2.0
    for _ in range(50):  # of x^dim = x + 1: the golden mean in two dimensions
        root = (1.0 + root) ** (1.0 / max(dim, 2))
    steps = np.concatenate([[math.sqrt(2.0)], root ** -np.arange(1.0, dim)])
    even = jnp.asarray(np.arange(n)[:, None] * steps % 1.0, dtype)
    first = jnp.searchsorted(which, which, side="left")
    count = jnp.searchsorted(which, which, side="right") - first
    along = (jnp.arange(n, dtype=first.dtype) - first).astype(dtype) / count.astype(dtype)
    even = even.at[:, 0].set(even[first, 0] + along)
    tiny = float(jnp.finfo(dtype).eps)
    shifted = (even + jax.random.uniform(key, (1, dim), dtype)) % 1
    return jax.scipy.special.ndtri(jnp.clip(shifted, tiny, 1 - tiny))


def stratified(mixture: GaussianMixture | PrecisionMixture, key: Array, n: int) -> Float[Array, "n dim"]:
    """`n` points whose mean of any function is unbiased for its expectation, with the components in their shares."""
    key_which, key_noise = jax.random.split(key)
    which = systematic(mixture.log_weights, key_which, n)
    noise = lattice(which, key_noise, mixture.means.shape[1], mixture.means.dtype)
    if isinstance(mixture, PrecisionMixture):
        return mixture.at(which, noise)
    return mixture.means[which] + jnp.einsum("nij,nj->ni", mixture.scale_tril[which], noise)


def log_density(part: GaussianMixture | PrecisionMixture, x: Array, angles: tuple[int, ...] = ()) -> Array:
    """Log density of many points (n, d) under many components, nats."""
    # Written out for few dimensions: LAPACK takes a microsecond for every pair.
    law = Components.from_mixture(part) if isinstance(part, GaussianMixture) else part
    return on_circle(law.log_prob, x, angles)


class Proposal(eqx.Module):
    """A mixture of laws from each of which a fixed number of points is drawn (Owen & Zhou 2000).

    Attributes:
        parts: the laws; the last one is the prediction, what was believed before the event.
        shares: of the points, summing to one. The prediction's bounds the weights by the likelihood over it.
        angles: indices of the entries that are angles.
    """

    parts: tuple[GaussianMixture | PrecisionMixture, ...]
    shares: tuple[float, ...] = eqx.field(static=True)
    angles: tuple[int, ...] = eqx.field(static=True)

    def draw(self, key: Array, n: int) -> tuple[Float[Array, "n dim"], Float[Array, " n"]]:
        """Points, and the log of prediction over proposal there: nats to add to the log likelihood.

        The mean weight is unbiased for the predictive density of the event.
        """
        counts = [max(1, round(share * n)) for share in self.shares[1:]]
        counts = [n - sum(counts), *counts]
        keys = jax.random.split(key, len(self.parts))
        points = [stratified(part, k, count) for part, k, count in zip(self.parts, keys, counts, strict=True)]
        x = wrap_entries(jnp.concatenate(points), self.angles)
        each = [log_density(part, x, self.angles) for part in self.parts]
        log_counts = [math.log(count / n) for count in counts]
        whole = jnp.stack([c + e for c, e in zip(log_counts, each, strict=True)])
        return x, each[-1] - jax.nn.logsumexp(whole, axis=0)


def sensor_log_probs(
    system: System, sensor: str, x: Float[Array, "n dim"], value: Array, observed: Array, inputs: Array | None
) -> Float[Array, " n"]:
    """Log density of one value at many states, nats."""
    return jax.vmap(lambda point: system.sensor_log_prob(sensor, point, value, observed, inputs))(x)


def gaussian_motion(motion: dist.Distribution, name: str) -> tuple[Float[Array, " dim"], Float[Array, "dim dim"]]:
    """Mean and lower factor of a Gaussian motion.

    Raises:
        ModelError: the motion is not Gaussian given the state.
    """
    base: Any = motion
    while isinstance(base, dist.Independent):
        base = base.base_dist
    family = type(base)
    if issubclass(family, dist.MultivariateNormal):
        shape = motion.event_shape
        return jnp.broadcast_to(base.loc, shape), jnp.broadcast_to(base.scale_tril, shape * 2)
    if issubclass(family, dist.Normal):
        return jnp.broadcast_to(base.loc, motion.event_shape), jnp.diag(
            jnp.broadcast_to(base.scale, motion.event_shape)
        )
    raise ModelError(
        f"move of {name!r}: a corrected filter needs Normal or MultivariateNormal motions given the state, found "
        f"{family.__name__}."
    )


def fault_of(increment: Array) -> Array:
    """Bits of `Fault` for the log of a mean weight."""
    fault = jnp.where(increment < jnp.inf, 0, int(Fault.NAN_WEIGHTS))
    return jnp.where(increment == -jnp.inf, int(Fault.COLLAPSE), fault).astype(jnp.int32)


def moments_on_circle(
    x: Float[Array, "n dim"], log_weights: Float[Array, " n"], angles: tuple[int, ...]
) -> tuple[Float[Array, " dim"], Float[Array, "dim dim"]]:
    """Weighted mean and covariance; mean directions of angles, and their deviations on the circle."""
    weights = jax.nn.softmax(log_weights)
    mean = weights @ x
    if angles:
        index = np.asarray(angles)
        mean = mean.at[index].set(jnp.arctan2(weights @ jnp.sin(x[:, index]), weights @ jnp.cos(x[:, index])))
    gaps = difference(x, mean[None], angles)
    return mean, (weights[:, None] * gaps).T @ gaps


def check_share(share: Any) -> float:
    """A share of the draws strictly between 0 and 1."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0.0 < share < 1.0:
        raise ArgumentError(f"share: expected a number strictly between 0 and 1, found {share!r}.")
    return float(share)
