"""Gaussian mixtures as data: densities, draws, moments, marginals, reduction and fitting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from probinf.errors import ArgumentError, ArgumentTypeError, DataError
from probinf.random import as_key
from probinf.representations.belief import AbstractBelief
from probinf.representations.concrete import is_concrete
from probinf.representations.mixture_fit import expectation_maximisation, gaussian_log_density
from probinf.representations.mixture_reduction import runnalls

#: Weights may differ from a sum of one by this much (they are then divided by their sum, which is rounding).
WEIGHT_TOLERANCE = 1e-5


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
        weights, means = _floats("weights", weights), _floats("means", means)
        given, name = (covariances, "covariances") if scale_tril is None else (scale_tril, "scale_tril")
        matrices = _floats(name, given)
        _check_shapes(weights, means, matrices, name)
        if is_concrete(weights, means, matrices):
            _check_weights(np.asarray(weights))
            _check_finite("means", np.asarray(means))
            check_covariances(np.asarray(matrices)) if scale_tril is None else _check_factors(np.asarray(matrices))
        weights = weights / jnp.sum(weights)
        self.log_weights = jnp.log(weights)
        self.means = means
        self.scale_tril = jnp.linalg.cholesky(matrices) if scale_tril is None else matrices

    @classmethod
    def gaussian(cls, mean: Any, covariance: Any) -> GaussianMixture:
        """One Gaussian: mean (d,) and covariance (d, d)."""
        mean, covariance = _floats("mean", mean), _floats("covariance", covariance)
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
        x = _floats("x", x)
        if x.ndim != 2 or x.shape[0] == 0:
            raise ArgumentError(f"x: expected points of shape (n, d) with n > 0, found shape {x.shape}.")
        check_component_count(k)
        log_weights = jnp.zeros(x.shape[0], x.dtype) if log_weights is None else _floats("log_weights", log_weights)
        if log_weights.shape != x.shape[:1]:
            raise ArgumentError(f"log_weights: expected shape {x.shape[:1]} as x has rows, found {log_weights.shape}.")
        if is_concrete(x, log_weights):
            _check_points(np.asarray(x), np.asarray(log_weights))
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
        index = np.asarray(indices, int).reshape(-1)
        if index.size == 0 or np.any(index < -self.dim) or np.any(index >= self.dim):
            raise ArgumentError(f"indices: expected numbers below {self.dim}, found {list(index)}.")
        covs = self.covariances[:, index][:, :, index]
        return _build(self.log_weights, self.means[:, index], jnp.linalg.cholesky(covs))

    def reduce(self, k: int) -> GaussianMixture:
        """At most `k` components, by moment-preserving merges (Runnalls 2007); mean and covariance do not change."""
        check_component_count(k)
        if k >= self.num_components:
            return self
        weights, means, covs = runnalls(self.weights, self.means, self.covariances, k)
        return _build(jnp.log(weights), means, jnp.linalg.cholesky(covs))

    def as_mixture(self, k: int) -> GaussianMixture:
        return self.reduce(k)

    def as_distribution(self) -> dist.Distribution:
        """The same as a NumPyro distribution with event shape (d,)."""
        components = dist.MultivariateNormal(self.means, scale_tril=self.scale_tril)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.log_weights), components)

    def __repr__(self) -> str:
        return f"GaussianMixture(num_components={self.num_components}, dim={self.dim})"


def _build(log_weights: Array, means: Array, scale_tril: Array) -> GaussianMixture:
    """A mixture from parameters that are right by construction: no checks, no renormalisation."""
    mixture = object.__new__(GaussianMixture)
    for name, value in (("log_weights", log_weights), ("means", means), ("scale_tril", scale_tril)):
        object.__setattr__(mixture, name, value)
    return mixture


def check_component_count(k: Any) -> None:
    """Raise unless `k` is a positive integer."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise ArgumentTypeError(f"k: expected a positive integer, found {k!r}.")
    if k < 1:
        raise ArgumentError(f"k: expected a positive integer, found {k}.")


def _floats(name: str, value: Any) -> Array:
    if isinstance(value, Sequence) and not is_concrete(value):
        value = jnp.asarray(value)
    if not isinstance(value, jax.Array):
        try:
            value = np.asarray(value)
        except ValueError as error:
            raise ArgumentError(f"{name}: components have different dimensions ({error}).") from error
        if value.dtype.kind not in "fiu":
            raise ArgumentTypeError(f"{name}: expected real numbers, found dtype {value.dtype}.")
    dtype = value.dtype if jnp.issubdtype(value.dtype, jnp.floating) else float
    return jnp.asarray(value, jax.dtypes.canonicalize_dtype(dtype))


def _check_shapes(weights: Array, means: Array, matrices: Array, name: str) -> None:
    if weights.ndim != 1 or weights.shape[0] == 0:
        raise ArgumentError(f"weights: expected shape (K,) with K > 0, found {weights.shape}.")
    if means.ndim != 2 or means.shape[0] != weights.shape[0]:
        raise ArgumentError(f"means: expected shape ({weights.shape[0]}, d) for K weights, found {means.shape}.")
    expected = (*means.shape, means.shape[1])
    if matrices.shape != expected:
        raise ArgumentError(f"{name}: expected shape {expected} for these means, found {matrices.shape}.")


def _check_finite(name: str, value: np.ndarray) -> None:
    bad = np.argwhere(~np.isfinite(value))
    if len(bad):
        where = tuple(int(i) for i in bad[0])
        raise ArgumentError(
            f"{name}: component {where[0]} is not finite: {value[tuple(bad[0])]} at index {where}; "
            f"{len(bad)} such values in all."
        )


def _check_weights(weights: np.ndarray) -> None:
    _check_finite("weights", weights)
    if np.any(weights < 0.0):
        k = int(np.argmin(weights))
        raise ArgumentError(f"weights: component {k} has the negative weight {weights[k]:.6g}.")
    total = float(weights.sum())
    if abs(total - 1.0) > WEIGHT_TOLERANCE:
        raise ArgumentError(
            f"weights: they sum to {total:.8g}, expected 1 within {WEIGHT_TOLERANCE:g}. Divide by the sum first."
        )


def check_covariances(covs: np.ndarray, name: str = "covariances") -> None:
    """Raise unless every matrix (K, d, d) is finite, symmetric and positive definite."""
    _check_finite(name, covs)
    eps = np.finfo(covs.dtype).eps
    for k, cov in enumerate(covs):
        gap = float(np.abs(cov - cov.T).max())
        if gap > np.sqrt(eps) * np.abs(cov).max():
            raise ArgumentError(
                f"{name}: component {k} is not symmetric: entries differ from their mirror image by up to {gap:.3g}, "
                f"allowed {np.sqrt(eps):.1g} of the largest entry."
            )
        eigenvalues = np.linalg.eigvalsh(cov.astype(np.float64))
        if eigenvalues[0] <= len(cov) * eps * max(eigenvalues[-1], 0.0):
            raise ArgumentError(
                f"{name}: component {k} is not positive definite: smallest eigenvalue {eigenvalues[0]:.6g}, "
                f"largest {eigenvalues[-1]:.6g}; expected the smallest above {len(cov) * eps:.1g} of the largest."
            )


def _check_factors(factors: np.ndarray) -> None:
    _check_finite("scale_tril", factors)
    upper = np.abs(np.triu(factors, 1)).max(axis=(1, 2))
    lowest = np.diagonal(factors, axis1=1, axis2=2).min(axis=1)
    if np.any(upper > 0.0):
        raise ArgumentError(f"scale_tril: component {int(np.argmax(upper))} is not lower triangular.")
    if np.any(lowest <= 0.0):
        k = int(np.argmin(lowest))
        raise ArgumentError(f"scale_tril: component {k} has the diagonal entry {lowest[k]:.6g}, expected positive.")


def _check_points(x: np.ndarray, log_weights: np.ndarray) -> None:
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        raise DataError(f"x: {len(bad)} values are not finite, the first at index {tuple(int(i) for i in bad[0])}.")
    if np.any(np.isnan(log_weights)) or np.any(log_weights == np.inf):
        raise DataError(f"log_weights: {int(np.sum(~(log_weights < np.inf)))} values are NaN or +inf.")
    if np.all(log_weights == -np.inf):
        raise DataError("log_weights: all are -inf, so no point has any weight.")
