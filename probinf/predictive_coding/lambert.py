"""The principal branch of the Lambert W function of exp(x)."""

from __future__ import annotations

import jax
import jax.numpy as jnp


@jax.custom_jvp
def lambert_w_of_exp(x: jax.Array) -> jax.Array:
    """W(exp(x)): the w > 0 with w + log w = x. Never forms exp(x), so any finite x serves.

    Winitzki's start, off by a per cent at most, and two steps of fourth order (Fritsch, Shafer & Crowley 1973): five
    elementary functions in all.
    """
    x = jnp.maximum(x, 0.995 * jnp.log(jnp.finfo(jnp.result_type(x)).tiny))  # below, W = exp(x) underflows
    softplus = jax.nn.softplus(x)
    w = softplus * (1.0 - jnp.log1p(softplus) / (2.0 + softplus))
    for _ in range(2):
        gap = x - jnp.log(w) - w
        q = 2.0 * (1.0 + w) * (1.0 + w + 2.0 / 3.0 * gap)
        w = w * (1.0 + gap / (1.0 + w) * (q - gap) / (q - 2.0 * gap))
    return w


@lambert_w_of_exp.defjvp
def _jvp(primals: tuple, tangents: tuple) -> tuple:
    (x,), (dx,) = primals, tangents
    w = lambert_w_of_exp(x)
    return w, dx * w / (1.0 + w)
