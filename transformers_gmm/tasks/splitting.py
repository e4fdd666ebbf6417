"""Components where they are needed: the pair that is most alike is merged, the most bent one split."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from transformers_gmm.components import Components
from transformers_gmm.updates import factor

_APART = 0.8  # of a deviation: how far the halves of a split lie from its middle


def respread(belief: Components, bend: Callable[[Components], Array], least: float) -> Components:
    """The belief with its two most alike components merged and the heaviest bent one split in the room so made.

    Merging keeps the mean and covariance of the pair (Runnalls 2007); so does splitting, along the longest axis of the
    position, the state's first two entries. Empty components are alike to all others, so they are filled first.

    Args:
        belief: of at least two components.
        bend: how badly a Gaussian fits each component, (..., K).
        least: weight times bend from which a split is worth its merge.

    References:
        Runnalls (2007), Kullback-Leibler approach to Gaussian mixture reduction, IEEE TAES 43(3).
    """
    log_weights = jnp.maximum(belief.log_weights, -1e4)
    finite = Components(log_weights, belief.means, belief.scale_tril)
    first, second, merged = _most_alike(finite)
    k = belief.num_components
    is_first, is_second = (jax.nn.one_hot(i, k, dtype=bool) for i in (first, second))
    rest = _replaced(finite, is_first, merged)
    rest = Components(jnp.where(is_second, -1e4, rest.log_weights), rest.means, rest.scale_tril)
    need = jnp.where(is_second, 0, jnp.exp(rest.log_weights) * bend(rest))
    worst = jnp.argmax(need, axis=-1)
    is_worst = jax.nn.one_hot(worst, k, dtype=bool)
    low, high = _split(_taken(rest, worst))
    new = _replaced(_replaced(rest, is_worst, low), is_second, high)
    worth = jnp.max(need, axis=-1) > least
    return jax.tree.map(
        lambda a, b: jnp.where(worth.reshape(worth.shape + (1,) * (a.ndim - worth.ndim)), a, b), new, belief
    )


def _most_alike(belief: Components) -> tuple[Array, Array, Components]:
    """Indices of the pair of least cost, and what it merges to (one component)."""
    k = belief.num_components
    row, column = (np.asarray(i) for i in np.triu_indices(k, 1))
    log_weight = jnp.logaddexp(belief.log_weights[..., row], belief.log_weights[..., column])
    share = jnp.exp(belief.log_weights[..., row] - log_weight)
    gap = belief.means[..., row, :] - belief.means[..., column, :]
    mean = belief.means[..., column, :] + share[..., None] * gap
    covariances = belief.covariances
    a, b = share[..., None, None], (1 - share)[..., None, None]
    between = a * b * gap[..., :, None] * gap[..., None, :]
    root = factor(a * covariances[..., row, :, :] + b * covariances[..., column, :, :] + between)
    own = _log_det(belief.scale_tril)
    cost = jnp.exp(log_weight) * (_log_det(root) - share * own[..., row] - (1 - share) * own[..., column])
    best = jnp.argmin(cost, axis=-1)
    pair = _taken(Components(log_weight, mean, root), best)
    return jnp.asarray(row)[best], jnp.asarray(column)[best], pair


def _split(one: Components) -> tuple[Components, Components]:
    """Two equal halves of a component, with its mean and covariance, apart along the position's longest axis."""
    covariance = one.covariances
    a, b, c = covariance[..., 0, 0], covariance[..., 0, 1], covariance[..., 1, 1]
    angle = 0.5 * jnp.arctan2(2 * b, a - c)
    axis = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    along = jnp.sum(covariance[..., :, :2] * axis[..., None, :], axis=-1)  # covariance with the position along the axis
    length = jnp.sqrt(jnp.sum(along[..., :2] * axis, axis=-1))
    shift = _APART * along / length[..., None]
    root = factor(covariance - shift[..., :, None] * shift[..., None, :])
    half = one.log_weights - jnp.log(jnp.asarray(2, one.log_weights.dtype))
    return Components(half, one.means - shift, root), Components(half, one.means + shift, root)


def _taken(components: Components, index: Array) -> Components:
    """One component of each mixture, (..., 1, ...)."""
    return jax.tree.map(
        lambda x: jnp.take_along_axis(x, index.reshape(index.shape + (1,) * (x.ndim - index.ndim)), axis=index.ndim),
        components,
    )


def _replaced(components: Components, where: Array, one: Components) -> Components:
    return jax.tree.map(
        lambda x, new: jnp.where(where.reshape(where.shape + (1,) * (x.ndim - where.ndim)), new, x), components, one
    )


def _log_det(factors: Array) -> Array:
    return jnp.sum(jnp.log(jnp.diagonal(factors, axis1=-2, axis2=-1)), axis=-1)
