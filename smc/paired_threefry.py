"""Threefry two words at a time: what particle filters on a CPU draw their numbers with.

JAX's own threefry hashes once for every 32-bit word and keeps one of the two words that come out (so that it can be
sharded), in a loop of many small operations. Here both words are kept and the rounds are written out; the rows "bound"
of benchmarks/streaming.py time both. Same cipher (Salmon et al. 2011, Threefry-2x32), other counters, so other numbers.
A filter that meets one event at a time takes all 20 rounds; a fast key, in a filter of a whole series, 13.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import define_prng_impl

from probinf import fast_random
from probinf._jax import xla_marks
from probinf.unrolled_threefry import positions, rounds_of_threefry, threefry, unrolled

_BITS, _CHILDREN, _DATA = 0, 1, 2  # the counter's second word: draws, splits and folds never meet


def _generator(rounds: int, name: str, tag: str, longest: int = 2**32) -> Any:
    """A generator that keeps both words of a hash as numbers; from `longest` numbers on, one number a hash: their xor.

    A hash for each number costs more, but is one operation with the draw's own arithmetic, spread over all threads.
    """

    def hashed(key: jax.Array, first: jax.Array, second: Any) -> tuple[jax.Array, jax.Array]:
        return threefry(key, first, second, rounds)

    def words(key: jax.Array, pairs: int) -> tuple[jax.Array, jax.Array]:
        if jax.default_backend() != "cpu":
            return hashed(key, jax.lax.iota(jnp.uint32, pairs), _BITS)

        def both(key: jax.Array) -> jax.Array:
            found = hashed(key, jax.lax.iota(jnp.uint32, pairs), _BITS)
            # As two results they would be computed apart, each with all rounds.
            return jax.lax.complex(*(jax.lax.bitcast_convert_type(word, jnp.float32) for word in found))

        # A call of its own: fused into what uses them the rounds may be computed once for every use.
        with xla_marks(inlineable="false"):
            found = jax.jit(both)(key)
        first, second = (jax.lax.bitcast_convert_type(part(found), jnp.uint32) for part in (jax.lax.real, jax.lax.imag))
        return first, second

    def bits(key: jax.Array, width: int, shape: tuple[int, ...]) -> jax.Array:
        size = math.prod(shape)
        if width == 32 and size >= longest and jax.default_backend() == "cpu":
            second = jnp.broadcast_to(key[1] + np.uint32(_BITS), shape)
            first, second = rounds_of_threefry(key, positions(shape, key[0]), second, rounds)
            return first ^ second
        pairs = size if width == 64 else -(-size // 2)
        assert pairs < 2**32, f"{size} numbers from one key need more than 32 bits of counter"
        found = words(key, pairs)
        if width == 64:
            high, low = (w.astype(jnp.uint64) for w in found)
            return ((high << np.uint64(32)) | low).reshape(shape)
        flat = jnp.concatenate(found)[:size].reshape(shape)
        return flat if width == 32 else flat.astype(f"uint{width}")

    def seeded(seed: jax.Array) -> jax.Array:
        low = jnp.asarray(seed).astype(jnp.uint32)
        return jnp.stack(hashed(jnp.zeros(2, jnp.uint32), low, _DATA))

    def children(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        counter = jax.lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
        return jnp.stack(hashed(key, counter, _CHILDREN), axis=-1)

    def folded(key: jax.Array, data: Any) -> jax.Array:
        return jnp.stack(hashed(key, jnp.asarray(data).astype(jnp.uint32), _DATA))

    return define_prng_impl(
        key_shape=(2,), seed=seeded, split=children, random_bits=bits, fold_in=folded, name=name, tag=tag
    )


PAIRED = _generator(20, "threefry2x32_paired", "t2p")
#: The fewest rounds that Salmon et al. found to pass every test of BigCrush are 13.
PAIRED_13 = _generator(13, "threefry2x32_13_paired", "t13", longest=4096)


def paired(key: jax.Array) -> jax.Array:
    """A key of the 20 rounds made of the words of a JAX key; keys of other than two words stay what they are."""
    words = jax.random.key_data(key)
    return jax.random.wrap_key_data(words, impl=PAIRED) if words.shape[-1] == 2 else key


def sooner(key: jax.Array) -> jax.Array:
    """What a filter of a whole series draws with on a CPU.

    A key of JAX's threefry draws the same numbers by written-out rounds. One of `pi.fast_key` draws others, by threefry
    of 13 rounds from its two words: JAX computes four words of Philox for every one that it gives.
    """
    if str(jax.random.key_impl(key)) == fast_random.NAME and jax.default_backend() == "cpu":
        return jax.random.wrap_key_data(jax.random.key_data(key), impl=PAIRED_13)
    return unrolled(key)


def as_before(new: jax.Array, key: jax.Array) -> jax.Array:
    """The key `new` as a key of the generator that `key` belongs to, so that beliefs keep the type of key given."""
    return jax.random.wrap_key_data(jax.random.key_data(new), impl=jax.random.key_impl(key))
