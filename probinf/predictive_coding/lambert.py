"""The principal branch of the Lambert W function of exp(x)."""

from __future__ import annotations

import jax
import jax.numpy as jnp


@jax.custom_jvp
def lambert_w_of_exp(x: jax.Array) -> jax.Array:
    """W(exp(x)): the w > 0 with w + log w = x. Never forms exp(x) of a positive x, so any finite x serves.

    A rational start, of exp(x) below 0 and of x above, off by a per cent at most, and steps of fourth order (Fritsch,
    Shafer & Crowley 1973): one brings single precision, two bring double. Elementary functions: two, or three.
    """
    dtype = jnp.result_type(x)
    x = jnp.maximum(x, 0.995 * jnp.log(jnp.finfo(dtype).tiny))  # below, W = exp(x) underflows
    is_small = x < 0.0
    z = jnp.exp(jnp.where(is_small, x, 0.0))
    fraction = 1.0 / jnp.where(is_small, 1.0 + 1.228572 * z, x + 6.999310)
    w = jnp.where(is_small, z * (1.0 + 0.267230 * z) * fraction, x - 3.956597 + 31.659313 * fraction)
    for _ in range(1 if jnp.finfo(dtype).bits <= 32 else 2):
        gap = x - jnp.log(w) - w
        q = 2.0 * (1.0 + w) * (1.0 + w + 2.0 / 3.0 * gap)
        w = w + w * gap * (q - gap) / ((1.0 + w) * (q - 2.0 * gap))
    return w


@lambert_w_of_exp.defjvp
def _jvp(primals: tuple, tangents: tuple) -> tuple:
    (x,), (dx,) = primals, tangents
    w = lambert_w_of_exp(x)
    return w, dx * w / (1.0 + w)
