"""The belief protocol: what every stand-in for a probability distribution over a state answers."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

import equinox as eqx
import jax
from jaxtyping import Array, Float

if TYPE_CHECKING:
    from probinf.representations.mixture import GaussianMixture


class AbstractBelief(eqx.Module):
    """A distribution over a state vector x of shape (d,), as data.

    Filter beliefs, mixtures and populations answer this protocol, so the result of one run is the prior of the next.
    """

    @property
    @abc.abstractmethod
    def mean(self) -> Float[Array, " dim"]:
        """E[x], shape (d,). Declared angles have their circular mean."""

    @property
    @abc.abstractmethod
    def cov(self) -> Float[Array, "dim dim"]:
        """Cov[x], shape (d, d). Deviations of declared angles are taken on the circle."""

    @property
    @abc.abstractmethod
    def log_evidence(self) -> Float[Array, ""]:
        """Log of the normalising constant in nats: the log probability of the data absorbed so far."""

    @abc.abstractmethod
    def sample(self, key: jax.Array, n: int) -> Float[Array, "n dim"]:
        """Draw `n` states, shape (n, d)."""

    @abc.abstractmethod
    def log_prob(self, x: Float[Array, "*batch dim"]) -> Float[Array, " *batch"]:
        """Normalised log density at states of shape (..., d), in nats."""

    @abc.abstractmethod
    def as_mixture(self, k: int) -> GaussianMixture:
        """A Gaussian mixture with at most `k` components that stands for this belief."""
