"""Gaussian mixtures as data: densities, draws, moments, marginals, conditioning, products, reduction and fitting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from probinf.errors import ArgumentError, DataError
from probinf.random import as_key
from probinf.representations import mixture_algebra, mixture_divergence
from probinf.representations.belief import AbstractBelief
from probinf.representations.concrete import is_concrete
from probinf.representations.mixture_bijection import Support, constrained
from probinf.representations.mixture_checks import (
    as_float_array,
    check_component_count,
    check_covariances,
    check_factors,
    check_finite,
    check_points,
    check_shapes,
    check_weights,
)
from probinf.representations.mixture_fit import expectation_maximisation, gaussian_log_density, refine
from probinf.representations.mixture_reduction import runnalls


class GaussianMixture(AbstractBelief):
    r"""The distribution $\sum_k w_k N(m_k, P_k)$ over vectors of shape (d,).

    Attributes:
        log_weights: log w, shape (K,); `-inf` marks an empty component.
        means: shape (K, d).
        scale_tril: lower Cholesky factors of the covariances, shape (K, d, d).
    """

    log_weights: Float[Array, " comps"]
    means: Float[Array, "comps dim"]
    scale_tril: Float[Array, "comps dim dim"]

    def __init__(self, weights: Any, means: Any, covariances: Any = None, *, scale_tril: Any = None) -> None:
        """Check the parameters and store the mixture.

        Args:
            weights: shape (K,), non-negative, summing to one within `WEIGHT_TOLERANCE`.
            means: shape (K, d).
            covariances: shape (K, d, d), symmetric to the square root of the rounding unit and positive definite.
            scale_tril: lower Cholesky factors of shape (K, d, d), instead of `covariances`.

        Raises:
            ArgumentError: a parameter is impossible; the message names the component and its smallest eigenvalue.
        """
        if (covariances is None) == (scale_tril is None):
            raise ArgumentError("GaussianMixture: pass either covariances or scale_tril, not both and not neither.")
        weights, means = as_float_array("weights", weights), as_float_array("means", means)
        given, name = (covariances, "covariances") if scale_tril is None else (scale_tril, "scale_tril")
        matrices = as_float_array(name, given)
        check_shapes(weights, means, matrices, name)
        if is_concrete(weights, means, matrices):
            check_weights(np.asarray(weights))
            check_finite("means", np.asarray(means))
            check_covariances(np.asarray(matrices)) if scale_tril is None else check_factors(np.asarray(matrices))
        weights = weights / jnp.sum(weights)
        self.log_weights = jnp.log(weights)
        self.means = means
        self.scale_tril = jnp.linalg.cholesky(matrices) if scale_tril is None else matrices

    @classmethod
    def gaussian(cls, mean: Any, covariance: Any) -> GaussianMixture:
        """One Gaussian: mean (d,) and covariance (d, d)."""
        mean, covariance = as_float_array("mean", mean), as_float_array("covariance", covariance)
        return cls(jnp.ones(1, mean.dtype), mean[None], covariance[None])

    @classmethod
    def from_samples(cls, x: Any, log_weights: Any = None, k: int = 1, key: int | jax.Array = 0) -> GaussianMixture:
        """Fit `k` components to weighted points by expectation maximisation; `k = 1` is the closed form.

        Args:
            x: points of shape (n, d).
            log_weights: unnormalised log weights (n,), in nats; equal weights if left out.
            k: number of components, at least 1. Each gets 1e-6 of the overall covariance added when `k > 1`.
            key: seed or key of the start.

        Raises:
            ArgumentError: `k` is not a positive integer, or shapes do not fit.
            DataError: values are not finite, all weights are zero, or the points lie in a subspace.
        """
        x = as_float_array("x", x)
        if x.ndim != 2 or x.shape[0] == 0:
            raise ArgumentError(f"x: expected points of shape (n, d) with n > 0, found shape {x.shape}.")
        check_component_count(k)
        log_weights = (
            jnp.zeros(x.shape[0], x.dtype) if log_weights is None else as_float_array("log_weights", log_weights)
        )
        if log_weights.shape != x.shape[:1]:
            raise ArgumentError(f"log_weights: expected shape {x.shape[:1]} as x has rows, found {log_weights.shape}.")
        if is_concrete(x, log_weights):
            check_points(np.asarray(x), np.asarray(log_weights))
        weights, means, covs = expectation_maximisation(as_key(key, argument="key"), x, jax.nn.softmax(log_weights), k)
        if is_concrete(covs):
            try:
                check_covariances(np.asarray(covs))
            except ArgumentError as error:
                raise DataError(f"x: the weighted points do not span all {x.shape[1]} dimensions. {error}") from error
        return _build(jnp.log(weights), means, jnp.linalg.cholesky(covs))

    @property
    def weights(self) -> Float[Array, " comps"]:
        """Shape (K,), summing to one."""
        return jnp.exp(self.log_weights)

    @property
    def covariances(self) -> Float[Array, "comps dim dim"]:
        """Shape (K, d, d)."""
        return self.scale_tril @ jnp.swapaxes(self.scale_tril, -1, -2)

    @property
    def num_components(self) -> int:
        """Number of components, K."""
        return self.means.shape[-2]

    @property
    def dim(self) -> int:
        """Number of entries of a vector, d."""
        return self.means.shape[-1]

    @property
    def mean(self) -> Float[Array, " dim"]:
        return self.weights @ self.means

    @property
    def cov(self) -> Float[Array, "dim dim"]:
        gaps = self.means - self.mean[None, :]
        spread = self.covariances + gaps[:, :, None] * gaps[:, None, :]
        return jnp.tensordot(self.weights, spread, axes=1)

    @property
    def log_evidence(self) -> Float[Array, ""]:
        """Zero: a mixture is normalised."""
        return jnp.zeros((), self.means.dtype)

    def component_log_prob(self, x: Float[Array, " dim"]) -> Float[Array, " comps"]:
        """Log of w_k N(x; m_k, P_k) for every component at one point (d,)."""
        densities = jax.vmap(gaussian_log_density, in_axes=(None, 0, 0))(x, self.means, self.scale_tril)
        return self.log_weights + densities

    def log_prob(self, x: Any) -> Array:
        x = jnp.asarray(x, self.means.dtype)
        if x.shape[-1:] != (self.dim,):
            raise ArgumentError(f"x: expected shape (..., {self.dim}), found {x.shape}.")
        flat = x.reshape(-1, self.dim)
        return jax.nn.logsumexp(jax.vmap(self.component_log_prob)(flat), axis=1).reshape(x.shape[:-1])

    def sample(self, key: jax.Array, n: int) -> Float[Array, "n dim"]:
        key_component, key_noise = jax.random.split(as_key(key, argument="key"))
        component = jax.random.categorical(key_component, self.log_weights, shape=(n,))
        noise = jax.random.normal(key_noise, (n, self.dim), self.means.dtype)
        return self.means[component] + jnp.einsum("nij,nj->ni", self.scale_tril[component], noise)

    def marginal(self, indices: Sequence[int]) -> GaussianMixture:
        """The mixture of the coordinates `indices`, in that order."""
        index = self._coordinates(indices)
        covs = self.covariances[:, index][:, :, index]
        return _build(self.log_weights, self.means[:, index], jnp.linalg.cholesky(covs))

    def condition(self, indices: Sequence[int], values: Any) -> GaussianMixture:
        """The mixture of the other coordinates, in their order, given values of the coordinates `indices`.

        Args:
            indices: at least one, not all; no coordinate twice.
            values: shape (len(indices),).

        Example:
            `GaussianMixture.gaussian([0, 0], [[1, 0.5], [0.5, 1]]).condition([0], [2.0])` is N(1, 0.75).
        """
        index = self._coordinates(indices) % self.dim
        if index.size >= self.dim or np.unique(index).size < index.size:
            raise ArgumentError(
                f"indices: expected some but not all of {self.dim} coordinates, each once, found {list(index)}."
            )
        values = as_float_array("values", values).astype(self.means.dtype)
        if values.shape != index.shape:
            raise ArgumentError(f"values: expected shape {index.shape} as indices, found {values.shape}.")
        order = np.concatenate([index, np.setdiff1d(np.arange(self.dim), index)])
        return _build(*mixture_algebra.condition(self._parameters, jnp.asarray(order, jnp.int32), values))

    def product(self, other: GaussianMixture) -> tuple[GaussianMixture, Float[Array, ""]]:
        """The normalised product of two densities, K L components, and the log of the product's integral, nats.

        With a prior and a Gaussian-mixture likelihood these are the posterior and the log evidence.
        """
        self._check_dim(other)
        log_mass, parameters = mixture_algebra.product(self._parameters, other._parameters)
        return _build(*parameters), log_mass

    def prune(self, k: int | None = None, *, below: float = 0.0) -> GaussianMixture:
        """The `k` heaviest components, heaviest first; those lighter than `below` are emptied; renormalised.

        The number of components is `k` (the present one by default) whatever the weights, so that this works in
        compiled code. The heaviest is never emptied.
        """
        if k is not None:
            check_component_count(k)
        if not 0.0 <= below <= 1.0:
            raise ArgumentError(f"below: expected a weight between 0 and 1, found {below}.")
        log_weights, order = jax.lax.top_k(self.log_weights, min(k or self.num_components, self.num_components))
        kept = (jnp.exp(log_weights) >= below) | (jnp.arange(order.shape[0]) == 0)
        log_weights = jax.nn.log_softmax(jnp.where(kept, log_weights, -jnp.inf))
        return _build(log_weights, self.means[order], self.scale_tril[order])

    def reduce(self, k: int) -> GaussianMixture:
        """At most `k` components, by moment-preserving merges (Runnalls 2007); mean and covariance do not change."""
        check_component_count(k)
        if k >= self.num_components:
            return self
        weights, means, covs = runnalls(self.weights, self.means, self.covariances, k)
        return _build(jnp.log(weights), means, jnp.linalg.cholesky(covs))

    def as_mixture(self, k: int) -> GaussianMixture:
        return self.reduce(k)

    def refine(self, x: Any, log_weights: Any = None, *, steps: int = 2, strength: float = 10.0) -> GaussianMixture:
        """Moved towards weighted points (n, d) by `steps` of expectation maximisation, itself worth `strength` points.

        For fits inside loops, where `from_samples` would start from nothing every time.
        """
        x = as_float_array("x", x)
        log_weights = (
            jnp.zeros(x.shape[0], x.dtype) if log_weights is None else as_float_array("log_weights", log_weights)
        )
        start = (self.weights, self.means, self.covariances)
        weights, means, covs = refine(start, x, jax.nn.softmax(log_weights), steps=steps, strength=strength)
        return _build(jnp.log(weights), means, jnp.linalg.cholesky(covs))

    def kl(self, other: GaussianMixture, key: int | jax.Array = 0, n: int = 10_000) -> tuple[Array, Array]:
        """KL(self || other) by Monte Carlo: the mean of the log ratio at `n` draws, and its standard error, nats.

        Unbiased. Infinite where a draw has density zero under the other mixture.
        """
        self._check_dim(other)
        x = self.sample(as_key(key, argument="key"), n)
        ratio = self.log_prob(x) - other.log_prob(x)
        return jnp.mean(ratio), jnp.std(ratio, ddof=1) / n**0.5

    def kl_bounds(self, other: GaussianMixture) -> tuple[Array, Array]:
        """Numbers below and above KL(self || other) in closed form, nats; equal for two single Gaussians."""
        self._check_dim(other)
        return mixture_divergence.kl_bounds(self._parameters, other._parameters)

    def constrained(self, supports: Sequence[Support]) -> dist.Distribution:
        """The distribution of constrained values x where this mixture is over f(x), as a NumPyro distribution.

        Values are vectors: the blocks of all supports, flattened, one after the other. Densities are with respect to
        the values themselves (of a simplex, to all entries but the last).

        Args:
            supports: NumPyro constraints, or pairs of one and the shape of its value, that take up d coordinates.

        Example:
            `mixture.constrained([constraints.positive, (constraints.simplex, (3,))])` has d = 3 and values of 4.
        """
        return constrained(self.as_distribution(), supports)

    def as_distribution(self) -> dist.Distribution:
        """The same as a NumPyro distribution with event shape (d,)."""
        components = dist.MultivariateNormal(self.means, scale_tril=self.scale_tril)
        # NumPyro's own check refuses -inf, which is an empty component here.
        which = dist.Categorical(logits=self.log_weights, validate_args=False)
        return dist.MixtureSameFamily(which, components)

    @property
    def _parameters(self) -> mixture_algebra.Parameters:
        return self.log_weights, self.means, self.scale_tril

    def _coordinates(self, indices: Sequence[int]) -> np.ndarray:
        index = np.asarray(indices, int).reshape(-1)
        if index.size == 0 or np.any(index < -self.dim) or np.any(index >= self.dim):
            raise ArgumentError(f"indices: expected numbers below {self.dim}, found {list(index)}.")
        return index

    def _check_dim(self, other: GaussianMixture) -> None:
        if other.dim != self.dim:
            raise ArgumentError(f"other: expected a mixture over {self.dim} coordinates, found {other.dim}.")

    def __repr__(self) -> str:
        return f"GaussianMixture(num_components={self.num_components}, dim={self.dim})"


def _build(log_weights: Array, means: Array, scale_tril: Array) -> GaussianMixture:
    """A mixture from parameters that are right by construction: no checks, no renormalisation."""
    mixture = object.__new__(GaussianMixture)
    for name, value in (("log_weights", log_weights), ("means", means), ("scale_tril", scale_tril)):
        object.__setattr__(mixture, name, value)
    return mixture
