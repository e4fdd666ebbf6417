"""Random Gaussian mixtures to start series from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transformers_gmm.components import Components


def few_components(
    key: jax.Array,
    n: int,
    k: int,
    centre: Float[Array, "one dim"],
    scale: Float[Array, "one dim"],
    widths: tuple,
    spread: float = 1.0,
) -> Components:
    """`n` mixtures of one to three components, then empty ones up to `k`.

    Weights are a softmax of spread N(0, 1), means N(centre, scale^2), standard deviations exp(b u) s with u ~ N(0, 1).

    Args:
        key: of the draws.
        n: number of mixtures.
        k: number of components of each, empty ones included.
        centre: of the means, shape (1, D).
        scale: of the means, shape (1, D).
        widths: (s of shape (1, D), b).
        spread: of the weights' logits.
    """
    dim = centre.shape[-1]
    keys = jax.random.split(key, 4)
    count = jax.random.randint(keys[0], (n, 1), 1, 4)
    logits = spread * jax.random.normal(keys[1], (n, k))
    logits = jnp.where(jnp.arange(k)[None] < count, logits, -jnp.inf)
    means = centre[None] + scale[None] * jax.random.normal(keys[2], (n, k, dim))
    width, jitter = widths
    sds = width[None] * jnp.exp(jitter * jax.random.normal(keys[3], (n, k, dim)))
    return Components(jax.nn.log_softmax(logits, axis=-1), means, sds[..., None] * jnp.eye(dim)[None, None])
