"""Two Moons: two parameters whose posterior is a pair of crescents."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from transformers_gmm.components import Components, from_covariances
from transformers_gmm.config import NetworkConfig, TrainingConfig
from transformers_gmm.tasks.prior_change.priors import Prior, PriorSettings
from transformers_gmm.tasks.prior_change.task import AbstractTractable, context_widths

RADIUS, THICKNESS, OFFSET = 0.1, 0.01, 0.25
#: Components of a crescent, and their standard deviation along it in units of their distance.
PIECES, OVERLAP = 16, 0.55


class TwoMoons(AbstractTractable):
    r"""$x = (r \cos a + 0.25 - |\theta_1 + \theta_2| / \sqrt 2,\ r \sin a + (\theta_2 - \theta_1) / \sqrt 2)$.

    With a ~ U(-pi/2, pi/2), r ~ N(0.1, 0.01²) and training prior U(-1, 1). For a flat prior the posterior is the
    simulator's own crescent, twice: the base cuts each into pieces and weights them by the prior.

    References:
        Greenberg, Nonnenmacher & Macke (2019), Automatic posterior transformation, appendix A.
    """

    name: str = eqx.field(static=True, default="two_moons")
    num_points: int = eqx.field(static=True, default=64)
    settings: PriorSettings = eqx.field(static=True, default=PriorSettings.uniform(2, -1.0, 1.0))
    config: NetworkConfig = eqx.field(
        static=True, default=NetworkConfig(2, 2 * PIECES, context_widths(2, data=2), width=64, layers=3)
    )
    training: TrainingConfig = eqx.field(static=True, default=TrainingConfig(steps=4000, batch=512))

    def observe(self, key: jax.Array, theta: Float[Array, "n 2"]) -> Float[Array, "n 2"]:
        """Data, shape (n, 2)."""
        key_angle, key_radius = jax.random.split(key)
        shape, kind = theta.shape[:1], theta.dtype
        a = jax.random.uniform(key_angle, shape, kind, minval=-math.pi / 2, maxval=math.pi / 2)
        r = RADIUS + THICKNESS * jax.random.normal(key_radius, shape, kind)
        total, gap = _rotate(theta)
        return jnp.stack([r * jnp.cos(a) + OFFSET - jnp.abs(total), r * jnp.sin(a) + gap], axis=-1)

    def base(self, prior: Prior, data: Float[Array, "n 2"]) -> Components:
        """Pieces of both crescents, weighted by the prior at their centres."""
        width = math.pi / PIECES
        a = (jnp.arange(PIECES, dtype=data.dtype) + 0.5) * width - math.pi / 2
        across = jnp.stack([jnp.cos(a), -jnp.sin(a)], axis=-1)
        along = jnp.stack([-jnp.sin(a), -jnp.cos(a)], axis=-1)
        total = (RADIUS * jnp.cos(a) + OFFSET)[None] - data[:, :1]
        gap = data[:, 1:] - (RADIUS * jnp.sin(a))[None]
        factors = jnp.stack([THICKNESS * across, OVERLAP * RADIUS * width * along], axis=-1)
        # A crescent ends where |theta_1 + theta_2| would be negative.
        log_weights = norm.logcdf(total / jnp.sqrt(jnp.sum(factors[:, 0] ** 2, axis=-1))[None])
        means, covariances = [], []
        for sign in (1.0, -1.0):
            flip = jnp.asarray([[sign, -1.0], [sign, 1.0]], data.dtype) / math.sqrt(2)
            means.append(jnp.einsum("nkj,ij->nki", jnp.stack([total, gap], axis=-1), flip))
            rotated = flip[None] @ factors
            covariance = rotated @ jnp.swapaxes(rotated, -1, -2)
            covariances.append(jnp.broadcast_to(covariance[None], (*total.shape, 2, 2)))
        mean = jnp.concatenate(means, axis=1)
        log_weights = jnp.concatenate([log_weights, log_weights], axis=1) + prior.components().log_prob(mean)
        return from_covariances(log_weights, mean, jnp.concatenate(covariances, axis=1))

    def features(self, data: Float[Array, "n 2"]) -> dict[str, Array]:
        """The data as one token."""
        return {"data": data[:, None]}

    def log_likelihood(self, theta: Float[Array, "points 2"], data: Float[Array, " 2"]) -> Float[Array, " points"]:
        """Log likelihood at several parameters; `-inf` where no angle gives the data."""
        total, gap = _rotate(theta)
        u, v = data[0] + jnp.abs(total) - OFFSET, data[1] - gap
        r = jnp.sqrt(u**2 + v**2)
        value = norm.logpdf(r, RADIUS, THICKNESS) - jnp.log(jnp.where(u > 0, r, 1) * math.pi)
        return jnp.where(u > 0, value, -jnp.inf)


def _rotate(theta: Float[Array, "n 2"]) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Sum and difference over the square root of two."""
    return (theta[:, 0] + theta[:, 1]) / math.sqrt(2), (theta[:, 1] - theta[:, 0]) / math.sqrt(2)
