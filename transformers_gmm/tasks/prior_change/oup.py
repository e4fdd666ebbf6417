"""OUP: rate and level of an Ornstein-Uhlenbeck process from 25 points."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transformers_gmm.components import Components
from transformers_gmm.config import NetworkConfig, TrainingConfig
from transformers_gmm.tasks.prior_change.priors import Prior, PriorSettings
from transformers_gmm.tasks.prior_change.splitting import laplace, thirds
from transformers_gmm.tasks.prior_change.task import AbstractTractable, context_widths

POINTS, START, STEP, NOISE = 25, 10.0, 0.2, 0.5
MEAN, SPREAD = 4.18954, 3.0685966  # of the data under the training prior, by which they are scaled


class OUP(AbstractTractable):
    r"""$x \leftarrow x + \alpha (e^\mu - x) \Delta t + 0.5 \sqrt{\Delta t}\, \epsilon$ from $x_0 = 10$.

    The parameters are alpha - 1 and mu / 2, with training prior U(-1, 1). Transitions are Gaussian, and the likelihood
    of (alpha, alpha e^mu) is too: the base splits each prior component in nine and updates each by Gauss-Newton.

    References:
        Uhlenbeck & Ornstein (1930); as a test task in Chang et al. (2025), Amortized Conditioning Engine.
    """

    name: str = eqx.field(static=True, default="oup")
    num_points: int = eqx.field(static=True, default=32)
    settings: PriorSettings = eqx.field(static=True, default=PriorSettings.uniform(2, -1.0, 1.0))
    config: NetworkConfig = eqx.field(static=True, default=NetworkConfig(2, 18, context_widths(2, moments=4), layers=2))
    training: TrainingConfig = eqx.field(static=True, default=TrainingConfig(steps=2000, batch=512))

    def observe(self, key: jax.Array, theta: Float[Array, "n 2"]) -> Float[Array, "n points"]:
        """Scaled paths, shape (n, 25)."""
        rate, level = _physical(theta)
        noise = NOISE * math.sqrt(STEP) * jax.random.normal(key, (POINTS - 1, theta.shape[0]), theta.dtype)

        def move(x: Array, e: Array) -> tuple[Array, Array]:
            x = x + rate * (level - x) * STEP + e
            return x, x

        start = jnp.full(theta.shape[:1], START, theta.dtype)
        _, path = jax.lax.scan(move, start, noise)
        return (jnp.concatenate([start[None], path]).T - MEAN) / SPREAD

    def base(self, prior: Prior, data: Float[Array, "n points"]) -> Components:
        """Nine components for each of the prior's, updated."""
        return jax.vmap(lambda split, x: laplace(split, lambda theta: _residuals(theta, x)))(thirds(prior), data)

    def features(self, data: Float[Array, "n points"]) -> dict[str, Array]:
        """The four sufficient statistics as one token."""
        x, change = data[:, :-1], jnp.diff(data, axis=1)
        pairs = (x, x**2, 5 * change, 5 * x * change)
        return {"moments": jnp.stack([jnp.mean(part, axis=1) for part in pairs], axis=-1)[:, None]}

    def log_likelihood(self, theta: Float[Array, "points 2"], data: Float[Array, " times"]) -> Float[Array, " points"]:
        """Log likelihood at several parameters, up to a constant."""
        return -0.5 * jnp.sum(jax.vmap(lambda t: _residuals(t, data))(theta) ** 2, axis=-1)


def _physical(theta: Float[Array, "*n 2"]) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
    """Rate alpha and level e^mu."""
    return theta[..., 0] + 1, jnp.exp(2 * theta[..., 1])


def _residuals(theta: Float[Array, " 2"], data: Float[Array, " times"]) -> Float[Array, " steps"]:
    """Whitened errors of one-step predictions."""
    x = MEAN + SPREAD * data
    rate, level = _physical(theta)
    return (jnp.diff(x) - rate * (level - x[:-1]) * STEP) / (NOISE * math.sqrt(STEP))
