"""Threefry two words at a time: what a filter that meets one event at a time draws its numbers with.

JAX's own threefry hashes once for every 32-bit word and keeps one of the two words that come out (so that it can be
sharded), in a loop of many small operations. Here both words are kept and the rounds are written out; the rows "bound"
of benchmarks/streaming.py time both. Same cipher, same number of rounds (Salmon et al. 2011, Threefry-2x32-20), other
counters, so other numbers.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl

from probinf._jax import xla_marks

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)
_BITS, _CHILDREN, _DATA = 0, 1, 2  # the counter's second word: draws, splits and folds never meet


def threefry(key: jax.Array, first: jax.Array, second: Any) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32 with 20 rounds: two uint32 words for every pair of counter words; `key` is (2,) uint32."""
    words = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    x = first + words[0]
    y = jnp.broadcast_to(jnp.asarray(second, jnp.uint32), first.shape) + words[1]
    for turn in range(5):
        for r in _ROTATIONS[turn % 2]:
            x = x + y
            y = ((y << np.uint32(r)) | (y >> np.uint32(32 - r))) ^ x
        x = x + words[(turn + 1) % 3]
        y = y + words[(turn + 2) % 3] + np.uint32(turn + 1)
    return x, y


def _bits(key: jax.Array, width: int, shape: tuple[int, ...]) -> jax.Array:
    size = math.prod(shape)
    pairs = size if width == 64 else -(-size // 2)
    assert pairs < 2**32, f"{size} numbers from one key need more than 32 bits of counter"
    words = _words(key, pairs)
    if width == 64:
        high, low = (w.astype(jnp.uint64) for w in words)
        return ((high << np.uint64(32)) | low).reshape(shape)
    flat = jnp.concatenate(words)[:size].reshape(shape)
    return flat if width == 32 else flat.astype(f"uint{width}")


def _words(key: jax.Array, pairs: int) -> tuple[jax.Array, jax.Array]:
    def rounds(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        return threefry(key, jax.lax.iota(jnp.uint32, pairs), _BITS)

    if jax.default_backend() != "cpu":
        return rounds(key)
    # A call of its own on CPU: fused into what uses them the rounds may be computed once for every use.
    with xla_marks(inlineable="false"):
        return jax.jit(rounds)(key)


def _seed(seed: jax.Array) -> jax.Array:
    low = jnp.asarray(seed).astype(jnp.uint32)
    return jnp.stack(threefry(jnp.zeros(2, jnp.uint32), low, _DATA))


def _children(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    counter = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    return jnp.stack(threefry(key, counter, _CHILDREN), axis=-1)


def _folded(key: jax.Array, data: Any) -> jax.Array:
    return jnp.stack(threefry(key, jnp.asarray(data).astype(jnp.uint32), _DATA))


PAIRED = define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_children,
    random_bits=_bits,
    fold_in=_folded,
    name="threefry2x32_paired",
    tag="t2p",
)


def paired(key: jax.Array) -> jax.Array:
    """A key of this generator made of the words of a JAX key; keys of other than two words stay what they are."""
    words = jax.random.key_data(key)
    return jax.random.wrap_key_data(words, impl=PAIRED) if words.shape[-1] == 2 else key


def as_before(new: jax.Array, key: jax.Array) -> jax.Array:
    """The key `new` as a key of the generator that `key` belongs to, so that beliefs keep the type of key given."""
    return jax.random.wrap_key_data(jax.random.key_data(new), impl=jax.random.key_impl(key))
