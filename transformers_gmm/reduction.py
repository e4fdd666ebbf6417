"""Fewer components for a batch of mixtures: those most alike are merged, and no hypothesis is dropped."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from probinf.representations.mixture_reduction import runnalls
from transformers_gmm.components import Components, heaviest
from transformers_gmm.updates import factor


def reduced(components: Components, k: int) -> Components:
    """At most `k` components that are not empty, by Runnalls' cheapest merges, heaviest first.

    Weight, mean and covariance of each mixture are kept. The `k` heaviest would often be near-duplicates, whose merge
    costs nothing, while a light component apart from them, which the next values may prove right, would be lost.
    Where all mixtures have room, nothing is merged, and only then does it cost as little as `heaviest`.

    References:
        Runnalls (2007), Kullback-Leibler approach to Gaussian mixture reduction, IEEE TAES 43(3).
    """
    crowded = jnp.any(jnp.sum(components.log_weights > -jnp.inf, axis=-1) > k)
    keep = functools.partial(heaviest, k=k)
    return jax.lax.cond(crowded, functools.partial(_merged, k=k), keep, components)


def _merged(components: Components, k: int) -> Components:
    merge = jnp.vectorize(functools.partial(runnalls, k=k), signature="(n),(n,d),(n,d,d)->(k),(k,d),(k,d,d)")
    weights, means, covariances = merge(jnp.exp(components.log_weights), components.means, components.covariances)
    return Components(jax.nn.log_softmax(jnp.log(weights), axis=-1), means, factor(covariances))
