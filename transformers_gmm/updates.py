"""Component-wise analytic updates: what is known of a posterior before anything is learned."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from smc.small_normal import cholesky
from transformers_gmm.components import Components, heaviest

JITTER = 1e-6  # share of the diagonal below which a pivot is rounding of 32-bit downdates


class Prediction(NamedTuple):
    """A scalar measurement as each component predicts it, noise left out.

    Attributes:
        mean: shape (..., K).
        cross: covariance with the state, shape (..., K, D).
        variance: shape (..., K).
    """

    mean: Array
    cross: Array
    variance: Array


class Hypothesis(NamedTuple):
    """One way a value can come about: signal plus bias plus Gaussian noise.

    Attributes:
        log_weight: log probability of this way, scalar.
        variance: of the noise, a scalar or shape (..., K).
        bias: mean of the noise.
    """

    log_weight: float
    variance: Array | float
    bias: float = 0.0


def moved(components: Components, matrix: np.ndarray, noise: np.ndarray) -> Components:
    """Through x' = A x + N(0, Q), exactly: A and Q of shape (D, D)."""
    kind = components.means.dtype
    a, q = jnp.asarray(matrix, kind), jnp.asarray(noise, kind)
    means = components.means @ a.T
    factors = jnp.einsum("ij,...jk->...ik", a, components.scale_tril)
    covariances = jnp.einsum("...ij,...kj->...ik", factors, factors)
    return Components(components.log_weights, means, factor(covariances + _like(q, covariances)))


def chosen(condition: Bool[Array, "*batch"], yes: Components, no: Components) -> Components:
    """Component by component `yes` where the condition holds, else `no`."""
    return jax.tree.map(
        lambda a, b: jnp.where(condition.reshape(condition.shape + (1,) * (a.ndim - condition.ndim)), a, b), yes, no
    )


def hedged(belief: Components, weight: float = 0.01, inflation: float = 3.0) -> Components:
    """The belief with its lightest component, if lighter than `weight`, replaced by a broad Gaussian of that weight.

    The broad one has the belief's mean and `inflation` times its standard deviations. It costs about `weight` nats
    where the belief is right, and finds the target again where it is not: no component of a lost belief could.
    """
    lightest = jnp.argmin(belief.log_weights, axis=-1)
    is_it = jax.nn.one_hot(lightest, belief.num_components, dtype=bool)
    rest = jax.nn.log_softmax(jnp.where(is_it, -jnp.inf, belief.log_weights), axis=-1) + math.log1p(-weight)
    sd = inflation * jnp.sqrt(belief.variance)
    eye = jnp.asarray(np.eye(belief.dim), sd.dtype)
    broad = (sd[..., :, None] * _like(eye, sd[..., None]))[..., None, :, :]
    new = Components(
        jnp.where(is_it, jnp.asarray(math.log(weight), rest.dtype), rest),
        jnp.where(is_it[..., None], belief.mean[..., None, :], belief.means),
        jnp.where(is_it[..., None, None], broad, belief.scale_tril),
    )
    return chosen(jnp.min(belief.log_weights, axis=-1) < math.log(weight), new, belief)


def predict_value(
    components: Components,
    function: Callable[[Array], Array],
    difference: Callable[[Array, Array], Array] = jnp.subtract,
) -> Prediction:
    """Moments of a scalar function of the state under each component, by 2 D symmetric sigma points.

    Args:
        components: the belief.
        function: states (..., D) to values (...).
        difference: of two values; on the circle for angles.

    References:
        Arasaratnam & Haykin (2009), Cubature Kalman Filters, IEEE TAC 54(6), eq. 20.
    """
    dim = components.dim
    arms = math.sqrt(dim) * jnp.swapaxes(components.scale_tril, -1, -2)  # rows are columns of L
    deviations = jnp.concatenate([arms, -arms], axis=-2)
    centre = function(components.means)
    gaps = difference(function(components.means[..., None, :] + deviations), centre[..., None])
    shift = jnp.mean(gaps, axis=-1)
    gaps = gaps - shift[..., None]
    cross = jnp.mean(gaps[..., None] * deviations, axis=-2)
    return Prediction(centre + shift, cross, jnp.mean(gaps**2, axis=-1))


def branch(
    components: Components,
    prediction: Prediction,
    innovation: Float[Array, "*batch comps"],
    hypotheses: Sequence[Hypothesis],
    present: Bool[Array, "*batch"],
    *,
    log_clutter: Float[Array, "*batch"] | None = None,
) -> Components:
    """Kalman updates of every component under every hypothesis, J K components in all, weighted by their evidence.

    Args:
        components: the belief before.
        prediction: of the value, without noise.
        innovation: value minus predicted mean.
        hypotheses: J ways in which the value can have come about.
        present: where False, the components stay as they are and the other branches are empty.
        log_clutter: log density of the value, prior weight included, if it has nothing to do with the state: one more
            branch, in which the belief stays.
    """
    covariances = components.covariances
    weights, means, spreads = [], [], []
    for index, hypothesis in enumerate(hypotheses):
        total = prediction.variance + hypothesis.variance
        gap = innovation - hypothesis.bias
        gain = prediction.cross / total[..., None]
        log_density = -0.5 * (gap**2 / total + jnp.log(2 * jnp.pi * total)) + hypothesis.log_weight
        stay = components.log_weights if index == 0 else jnp.full_like(components.log_weights, -jnp.inf)
        here = present[..., None]
        weights.append(jnp.where(here, components.log_weights + log_density, stay))
        means.append(jnp.where(here[..., None], components.means + gain * gap[..., None], components.means))
        down = gain[..., :, None] * prediction.cross[..., None, :]
        spreads.append(jnp.where(here[..., None, None], covariances - down, covariances))
    if log_clutter is not None:
        clutter = components.log_weights + log_clutter[..., None]
        weights.append(jnp.where(present[..., None], clutter, -jnp.inf))
        means.append(components.means)
        spreads.append(covariances)
    log_weights = jax.nn.log_softmax(jnp.concatenate(weights, axis=-1), axis=-1)
    return Components(log_weights, jnp.concatenate(means, axis=-2), factor(jnp.concatenate(spreads, axis=-3)))


def branch_and_keep(components: Components, *args, **kwargs) -> Components:
    """`branch`, then as many components as before: the heaviest."""
    return heaviest(branch(components, *args, **kwargs), components.num_components)


def factor(covariances: Float[Array, "*batch dim dim"]) -> Float[Array, "*batch dim dim"]:
    """Cholesky factors (..., D, D) of matrices that are positive definite but for rounding: never NaN for finite input.

    A pivot that a 32-bit downdate has made negative becomes a millionth of its diagonal entry.
    """
    return cholesky(covariances, JITTER)


def _like(matrix: Array, batch: Array) -> Array:
    return matrix.reshape((1,) * (batch.ndim - matrix.ndim) + matrix.shape)
