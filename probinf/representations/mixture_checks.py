"""What a Gaussian mixture refuses at the door, in words that name the component."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probinf.errors import ArgumentError, ArgumentTypeError, DataError
from probinf.representations.concrete import is_concrete

#: Weights may differ from a sum of one by this much (they are then divided by their sum, which is rounding).
WEIGHT_TOLERANCE = 1e-5


def check_component_count(k: Any) -> None:
    """Raise unless `k` is a positive integer."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise ArgumentTypeError(f"k: expected a positive integer, found {k!r}.")
    if k < 1:
        raise ArgumentError(f"k: expected a positive integer, found {k}.")


def as_float_array(name: str, value: Any) -> Array:
    """Real numbers as an array of floats."""
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


def check_shapes(weights: Array, means: Array, matrices: Array, name: str) -> None:
    """Raise unless weights (K,), means (K, d) and matrices (K, d, d) fit together."""
    if weights.ndim != 1 or weights.shape[0] == 0:
        raise ArgumentError(f"weights: expected shape (K,) with K > 0, found {weights.shape}.")
    if means.ndim != 2 or means.shape[0] != weights.shape[0]:
        raise ArgumentError(f"means: expected shape ({weights.shape[0]}, d) for K weights, found {means.shape}.")
    expected = (*means.shape, means.shape[1])
    if matrices.shape != expected:
        raise ArgumentError(f"{name}: expected shape {expected} for these means, found {matrices.shape}.")


def check_finite(name: str, value: np.ndarray) -> None:
    """Raise where a value is not finite; the leading axis counts components."""
    bad = np.argwhere(~np.isfinite(value))
    if len(bad):
        where = tuple(int(i) for i in bad[0])
        raise ArgumentError(
            f"{name}: component {where[0]} is not finite: {value[tuple(bad[0])]} at index {where}; "
            f"{len(bad)} such values in all."
        )


def check_weights(weights: np.ndarray) -> None:
    """Raise unless weights are non-negative and sum to one within `WEIGHT_TOLERANCE`."""
    check_finite("weights", weights)
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
    check_finite(name, covs)
    eps = np.finfo(covs.dtype).eps
    for k, cov in enumerate(covs):
        gap = float(np.abs(cov - cov.T).max())
        if gap > np.sqrt(eps) * np.abs(cov).max():
            raise ArgumentError(
                f"{name}: component {k} is not symmetric: entries differ from their mirror image by up to {gap:.3g}, "
                f"allowed {np.sqrt(eps):.1g} of the largest entry."
            )
        variances = np.diagonal(cov).astype(np.float64)
        # Units must not matter: a factorisation loses no digits where one coordinate is a thousand times another.
        scale = np.sqrt(variances) if variances.min() > 0 else np.ones(len(cov))
        smallest = float(np.linalg.eigvalsh(cov / np.outer(scale, scale))[0])
        if smallest <= len(cov) * eps:
            raise ArgumentError(
                f"{name}: component {k} is not positive definite: smallest eigenvalue {smallest:.6g} once coordinates "
                f"have unit variance, expected above {len(cov) * eps:.1g}; variances "
                f"{', '.join(f'{v:.3g}' for v in variances)}."
            )


def check_factors(factors: np.ndarray) -> None:
    """Raise unless every matrix is lower triangular with a positive diagonal."""
    check_finite("scale_tril", factors)
    upper = np.abs(np.triu(factors, 1)).max(axis=(1, 2))
    lowest = np.diagonal(factors, axis1=1, axis2=2).min(axis=1)
    if np.any(upper > 0.0):
        raise ArgumentError(f"scale_tril: component {int(np.argmax(upper))} is not lower triangular.")
    if np.any(lowest <= 0.0):
        k = int(np.argmin(lowest))
        raise ArgumentError(f"scale_tril: component {k} has the diagonal entry {lowest[k]:.6g}, expected positive.")


def check_points(x: np.ndarray, log_weights: np.ndarray) -> None:
    """Raise unless points are finite and log weights are below +inf with one of them above -inf."""
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        raise DataError(f"x: {len(bad)} values are not finite, the first at index {tuple(int(i) for i in bad[0])}.")
    if np.any(np.isnan(log_weights)) or np.any(log_weights == np.inf):
        raise DataError(f"log_weights: {int(np.sum(~(log_weights < np.inf)))} values are NaN or +inf.")
    if np.all(log_weights == -np.inf):
        raise DataError("log_weights: all are -inf, so no point has any weight.")
