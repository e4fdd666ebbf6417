"""Fewer components for a batch of mixtures: those most alike are merged, and no hypothesis is dropped."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from probinf.representations.mixture_reduction import runnalls
from transformers_gmm.components import Components, heaviest
from transformers_gmm.updates import factor


def reduced(components: Components, k: int) -> Components:
    """`k` components by Runnalls' cheapest merges, heaviest first; weight, mean and covariance are those of all.

    The `k` heaviest would often be near-duplicates, which cost nothing to merge, while a light component apart from
    them, which the next values may prove right, would be lost. Where every mixture of the batch has room, nothing is
    merged, and the answer is that of `heaviest`.

    Args:
        components: (..., K), some of them perhaps empty.
        k: where fewer are not empty, empty ones remain.

    References:
        Runnalls (2007), Kullback-Leibler approach to Gaussian mixture reduction, IEEE TAES 43(3).
    """
    keep = functools.partial(heaviest, k=k)
    if components.num_components <= k:
        return keep(components)
    crowded = jnp.any(jnp.sum(components.log_weights > -jnp.inf, axis=-1) > k)
    return jax.lax.cond(crowded, functools.partial(_merged, k=k), keep, components)


def _merged(components: Components, k: int) -> Components:
    merge = jnp.vectorize(functools.partial(runnalls, k=k), signature="(n),(n,d),(n,d,d)->(k),(k,d),(k,d,d)")
    weights, means, covariances = merge(jnp.exp(components.log_weights), components.means, components.covariances)
    empty = weights == 0
    log_weights = jnp.where(empty, -jnp.inf, jnp.log(jnp.where(empty, 1, weights)))  # finite gradients
    return Components(jax.nn.log_softmax(log_weights, axis=-1), means, factor(covariances))
