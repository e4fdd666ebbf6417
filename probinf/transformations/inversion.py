"""Ancestors by inverting the cumulative weights, at positions in any order."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from probinf.transformations.ancestors import weights_from_log
from probinf.transformations.running import in_turn, prefix_sum, running_max


@in_turn
def multinomial_ancestors(uniforms: jax.Array, log_weights: jax.Array, num: int) -> jax.Array:
    """Independent ancestors, one per uniform number in [0, 1).

    The slots are independent by construction: the score estimator of gradients and conditional SMC need their joint
    law, so the ancestors are not sorted.
    """
    del num  # one per uniform number
    weights = weights_from_log(log_weights)
    cumulative = prefix_sum(weights)
    total = cumulative[-1]
    found = jnp.searchsorted(cumulative, uniforms * total, side="right").astype(jnp.int32)
    # Prefix sums by blocks may move by a rounding error where a particle of weight zero stands.
    n = weights.shape[0]
    index = jnp.arange(n, dtype=jnp.int32)
    live = weights > 0
    first = jnp.min(jnp.where(live, index, n - 1))
    return running_max(jnp.where(live, index, first), n)[jnp.minimum(found, n - 1)]


def invert(cumulative: np.ndarray, positions: np.ndarray, w: np.ndarray) -> list[int]:
    """The particles at positions in [0, 1) of the normalised cumulative weights, none of weight zero at the end."""
    last = int(np.max(np.nonzero(w)[0]))
    return [min(int(i), last) for i in np.searchsorted(cumulative, positions, side="right")]
