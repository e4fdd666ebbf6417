"""Gaussian linear: a vector seen through Gaussian noise; the posterior has a closed form."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from transformers_gmm.components import Components
from transformers_gmm.config import NetworkConfig, TrainingConfig
from transformers_gmm.tasks.prior_change.priors import Prior, PriorSettings, diagonal
from transformers_gmm.tasks.prior_change.task import AbstractPriorChange, context_widths

NOISE = math.sqrt(0.1)


class GaussianLinear(AbstractPriorChange):
    """x = theta + N(0, 0.1 I), training prior N(0, 0.1 I): the base is exact and needs no training.

    Args:
        dim: D, 10 or 20 in the suite.

    References:
        Lueckmann et al. (2021), Benchmarking simulation-based inference, task T.1.
    """

    name: str = eqx.field(static=True)
    settings: PriorSettings = eqx.field(static=True)
    config: NetworkConfig = eqx.field(static=True)
    training: TrainingConfig = eqx.field(static=True)

    def __init__(self, dim: int) -> None:
        self.name = f"gaussian_linear_{dim}"
        self.settings = PriorSettings.normal(dim, math.sqrt(0.1))
        self.config = NetworkConfig(dim, 2, context_widths(dim, data=dim), width=32, layers=1)
        self.training = TrainingConfig(steps=1, batch=1)

    def observe(self, key: jax.Array, theta: Float[Array, "n dim"]) -> Float[Array, "n dim"]:
        """Data, shape (n, D)."""
        return theta + NOISE * jax.random.normal(key, theta.shape, theta.dtype)

    def base(self, prior: Prior, data: Float[Array, "n dim"]) -> Components:
        """Each component updated, weighted by its evidence: the posterior."""
        x, variance = data[:, None], prior.scales**2
        total = variance + NOISE**2
        log_evidence = jnp.sum(norm.logpdf(x, prior.means, jnp.sqrt(total)), axis=-1)
        means = prior.means + variance / total * (x - prior.means)
        scales = prior.scales * NOISE / jnp.sqrt(total)
        log_weights = jax.nn.log_softmax(prior.log_weights + log_evidence, axis=-1)
        return Components(log_weights, means, diagonal(scales))

    def features(self, data: Float[Array, "n dim"]) -> dict[str, Array]:
        """The data in training standard deviations, as one token."""
        return {"data": data[:, None] / self.settings.scale}
