"""Class prototypes in a space of embeddings: a conjugate Gaussian and Dirichlet model, updated in closed form."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Embeddings = Float[Array, "n d"]


class Prototypes(eqx.Module):
    r"""Posterior of prototypes and class probabilities, given embeddings and labels.

    $$p \sim \mathrm{Dirichlet}(\alpha),\quad \bar z_j \sim N(\mu_j, \lambda_j^{-1} I),\quad
    z_i \mid y_i = j \sim N(\bar z_j, s^2 I).$$

    Attributes:
        concentration: alpha, (classes,).
        precision: lambda, (classes,).
        information: lambda mu, (classes, d).
        noise: s², scalar.

    References:
        Kessler et al. (2023), On sequential Bayesian inference for continual learning, section 7.
    """

    concentration: Array
    precision: Array
    information: Array
    noise: Array

    def updated(self, z: Embeddings, weights: Float[Array, "n classes"]) -> Prototypes:
        """The posterior after some embeddings; `weights` are one-hot labels, times how often each counts."""
        total = jnp.sum(weights, axis=0)
        return Prototypes(
            self.concentration + total,
            self.precision + total / self.noise,
            self.information + weights.T @ z / self.noise,
            self.noise,
        )

    @property
    def mean(self) -> Float[Array, "classes d"]:
        """Posterior means of the prototypes."""
        return self.information / self.precision[:, None]

    def log_joint(self, z: Embeddings) -> Float[Array, "n classes"]:
        r"""$\log p(z, y = j)$ up to a constant, prototypes and class probabilities integrated out."""
        variance = 1 / self.precision + self.noise
        distance = jnp.sum((z[:, None] - self.mean[None]) ** 2, axis=2)
        spread = distance / variance[None] + z.shape[1] * jnp.log(variance)[None]
        return jnp.log(self.concentration)[None] - 0.5 * spread


def one_hot(labels: Array, num_classes: int, dtype: Any) -> Float[Array, "n classes"]:
    """Label -1 is a row of zeros."""
    return jax.nn.one_hot(labels, num_classes, dtype=dtype)
