"""Randomness at the door: an integer seed or any kind of JAX key becomes one typed key."""

from __future__ import annotations

import numbers

import jax
import jax.numpy as jnp
import numpy as np

from probinf.errors import ArgumentError, ArgumentTypeError


def as_key(seed: int | np.integer | np.ndarray | jax.Array, *, argument: str = "seed") -> jax.Array:
    """Return a typed scalar key from an integer seed, a typed key or an old-style raw key.

    Args:
        seed: an integer, a scalar `jax.random.key`, or a raw `uint32` key of shape (2,).
        argument: the name to use in messages.

    Raises:
        ArgumentTypeError: it is none of these.
        ArgumentError: it is a batch of keys, or a negative seed.
    """
    if isinstance(seed, bool) or seed is None:
        raise ArgumentTypeError(f"{argument}: expected an integer or a key such as jax.random.key(0), found {seed!r}.")
    if isinstance(seed, numbers.Integral):
        if seed < 0:
            raise ArgumentError(f"{argument}: expected a non-negative integer, found {seed}.")
        return jax.random.key(int(seed))
    if isinstance(seed, jax.Array) and jnp.issubdtype(seed.dtype, jax.dtypes.prng_key):
        if seed.shape != ():
            raise ArgumentError(
                f"{argument}: expected one key of shape (), found a batch of shape {seed.shape}. "
                "Pass one key; the library splits it over chains and particles."
            )
        return seed
    if isinstance(seed, jax.Array | np.ndarray) and seed.dtype == np.uint32:
        if seed.shape != (2,):
            raise ArgumentError(f"{argument}: expected one raw key of shape (2,), found shape {seed.shape}.")
        return jax.random.wrap_key_data(jnp.asarray(seed))
    if isinstance(seed, jax.Array | np.ndarray) and seed.shape == () and np.issubdtype(seed.dtype, np.integer):
        return jax.random.key(seed)
    raise ArgumentTypeError(
        f"{argument}: expected an integer or a key such as jax.random.key(0), found {type(seed).__name__}."
    )
