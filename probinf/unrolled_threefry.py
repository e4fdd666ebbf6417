"""JAX's own threefry with its rounds written out: the same numbers, drawn in half the time on a CPU.

JAX keeps the rounds in a loop there, which starts some twenty operations for every array of numbers and for every new
key. Written out they are one operation, and the draw's own arithmetic joins it. Keys are words, and words are drawn the
same, so which form draws is a choice of the compiled program alone.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def threefry(key: jax.Array, first: jax.Array, second: Any, rounds: int = 20) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32: two uint32 words for every pair of counter words; `key` is (2,) uint32 (Salmon et al. 2011)."""
    second = jnp.broadcast_to(jnp.asarray(second, jnp.uint32), first.shape)
    return rounds_of_threefry(key, first + key[0], second + key[1], rounds)


def rounds_of_threefry(key: jax.Array, x: jax.Array, y: jax.Array, rounds: int) -> tuple[jax.Array, jax.Array]:
    """The rounds, from counter words x and y, uint32 of one shape, to which the key's have been added."""
    words = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    for i in range(rounds):
        r = _ROTATIONS[i // 4 % 2][i % 4]
        x = x + y
        y = ((y << np.uint32(r)) | (y >> np.uint32(32 - r))) ^ x
        if i % 4 == 3:
            turn = i // 4 + 1
            x = x + words[turn % 3]
            y = y + words[(turn + 1) % 3] + np.uint32(turn)
    return x, y


def unrolled(key: jax.Array) -> jax.Array:
    """The key that draws the same numbers with the rounds written out; itself unless it is threefry's, on a CPU."""
    by_position = jax.config.jax_threefry_partitionable  # pyright: ignore[reportAttributeAccessIssue]
    if str(jax.random.key_impl(key)) != "threefry2x32" or not by_position or jax.default_backend() != "cpu":
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=UNROLLED)


def rolled(key: jax.Array) -> jax.Array:
    """JAX's own threefry key made of the words of a key: for what JAX draws with no other kind."""
    words = jax.random.key_data(key)
    return _own(words) if words.shape[-1] == 2 else key


def _own(words: jax.Array) -> jax.Array:
    return jax.random.wrap_key_data(words, impl="threefry2x32")


def positions(shape: tuple[int, ...], start: jax.Array) -> jax.Array:
    """The number of each place of `shape` plus the scalar `start`, uint32.

    It is a sum over axes, so that it can be computed a part at a time.

    Each axis is a vector until `start`, which differs from draw to draw, is in the sum: all places by themselves would
    be the same at every turn of a loop, and kept in memory for all of it.
    """
    at = start
    for axis, size in enumerate(shape):
        stride = np.uint32(math.prod(shape[axis + 1 :]))
        own = jax.lax.iota(jnp.uint32, size) * stride
        at = jnp.expand_dims(at, axis) + own.reshape((1,) * axis + (size,))
    return at


def _hashed(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Both words for every place, the counter (0, number of the place)."""
    return rounds_of_threefry(key, jnp.broadcast_to(key[0], shape), positions(shape, key[1]), 20)


def _bits(key: jax.Array, width: int, shape: tuple[int, ...]) -> jax.Array:
    if math.prod(shape) >= 2**32:
        return jax.random.bits(_own(key), shape, f"uint{width}")
    high, low = _hashed(key, shape)
    if width == 64:
        return (high.astype(jnp.uint64) << np.uint64(32)) | low.astype(jnp.uint64)
    return (high ^ low).astype(f"uint{width}")


def _children(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return _kept(jnp.stack(_hashed(key, shape), axis=-1))


def _folded(key: jax.Array, data: Any) -> jax.Array:
    return _kept(jnp.stack(threefry(key, jnp.zeros((), jnp.uint32), jnp.asarray(data).astype(jnp.uint32))))


def _kept(words: jax.Array) -> jax.Array:
    # Fused into what draws from them, the rounds of a key would be compiled again for every use.
    return jax.lax.optimization_barrier(words)


UNROLLED = define_prng_impl(
    key_shape=(2,),
    seed=lambda seed: jax.random.key_data(jax.random.key(seed, impl="threefry2x32")),
    split=_children,
    random_bits=_bits,
    fold_in=_folded,
    name="threefry2x32_unrolled",
    tag="fru",
)
