"""Coordinates in which the prior of the next task is round, for samplers that know scales coordinate by coordinate."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probinf.representations.belief import AbstractBelief
from probinf.representations.mixture import GaussianMixture


class AbstractCoordinates(eqx.Module):
    """Weights as a function of z, which has about zero mean and unit covariance under the prior."""

    @abc.abstractmethod
    def weights(self, z: Float[Array, " dim"]) -> Float[Array, " dim"]:
        """The weights at z."""

    @abc.abstractmethod
    def log_prob(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        """Log density of z under the prior, nats."""

    @abc.abstractmethod
    def sample(self, key: jax.Array) -> Float[Array, " dim"]:
        """A draw of z from the prior."""


class GaussianCoordinates(AbstractCoordinates):
    """Of a Gaussian: weights = shift + scale z, and z is standard normal.

    Attributes:
        shift: its mean, (dim,).
        scale: lower Cholesky factor of its covariance, (dim, dim).
    """

    shift: Float[Array, " dim"]
    scale: Float[Array, "dim dim"]

    def weights(self, z: Float[Array, " dim"]) -> Float[Array, " dim"]:
        return self.shift + self.scale @ z

    def log_prob(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        return standard_normal_log_prob(z)

    def sample(self, key: jax.Array) -> Float[Array, " dim"]:
        return jax.random.normal(key, self.shift.shape, self.shift.dtype)


class AffineCoordinates(AbstractCoordinates):
    """Of any density: weights = shift + scale z, and z has zero mean and unit covariance.

    Attributes:
        belief: the density of the weights.
        shift: its mean, (dim,).
        scale: lower Cholesky factor of its covariance, (dim, dim).
    """

    belief: AbstractBelief
    shift: Float[Array, " dim"]
    scale: Float[Array, "dim dim"]

    def weights(self, z: Float[Array, " dim"]) -> Float[Array, " dim"]:
        return self.shift + self.scale @ z

    def log_prob(self, z: Float[Array, " dim"]) -> Float[Array, ""]:
        return self.belief.log_prob(self.weights(z)) + jnp.sum(jnp.log(jnp.diagonal(self.scale)))

    def sample(self, key: jax.Array) -> Float[Array, " dim"]:
        centred = self.belief.sample(key, 1)[0] - self.shift
        return jax.scipy.linalg.solve_triangular(self.scale, centred, lower=True)


def coordinates(belief: Any) -> AbstractCoordinates:
    """The coordinates a belief has of its own, else those of its mean and covariance."""
    if hasattr(belief, "coordinates"):
        return belief.coordinates()
    if isinstance(belief, GaussianMixture):
        filled = np.flatnonzero(belief.weights)
        if len(filled) == 1:
            return GaussianCoordinates(belief.means[filled[0]], belief.scale_tril[filled[0]])
    return AffineCoordinates(belief, belief.mean, jnp.linalg.cholesky(belief.cov))


def standard_normal_log_prob(z: Float[Array, " dim"]) -> Float[Array, ""]:
    """Log of the standard normal density, nats."""
    return -0.5 * (z @ z) - 0.5 * z.size * float(np.log(2 * np.pi))
