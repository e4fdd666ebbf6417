"""Resample a population when it is due; of many populations under `vmap`, those that are due."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Bool, Float

from probinf.transformations.resampling import scheme

_LONG = 512  # particles from which on populations take turns on CPU, as in probinf.transformations.running


def resample_if(
    name: str,
    due: Bool[Array, ""],
    key: Array,
    log_weights: Float[Array, " particles"],
    particles: Float[Array, "particles dim"],
) -> Float[Array, "particles dim"]:
    """The children by the scheme `name` if `due`, else the particles as they are.

    Under `vmap` a condition becomes a choice: every population would be resampled, and most for nothing. On CPU large
    populations take turns instead, and those that are not due are passed over.
    """
    return _resample_if(name)(due, key, log_weights, particles)


@functools.lru_cache
def _resample_if(name: str) -> Callable[..., Array]:
    def one(due: Array, key: Array, log_weights: Array, particles: Array) -> Array:
        def chosen() -> Array:
            ancestors = scheme(name)(log_weights, log_weights.shape[0]).sample(key)
            return jnp.take(particles, ancestors, axis=0, mode="clip")

        return jax.lax.cond(due, chosen, lambda: particles)

    run = custom_vmap(one)

    @run.def_vmap
    def rule(axis_size: int, in_batched: list[bool], *args: Any) -> tuple[Array, bool]:
        due, key, log_weights, particles = (
            a if b else jnp.broadcast_to(a, (axis_size, *a.shape)) for a, b in zip(args, in_batched, strict=True)
        )
        if log_weights.shape[-1] < _LONG:
            return jax.vmap(one)(due, key, log_weights, particles), True
        return jax.lax.platform_dependent(
            due,
            key,
            log_weights,
            particles,
            cpu=lambda *lanes: jax.lax.map(lambda lane: run(*lane), lanes),
            default=jax.vmap(one),
        ), True

    return run
