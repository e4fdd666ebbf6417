"""The fast generator: uniform, independent across words, streams and keys; and the tests that say so can fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import define_prng_impl

from benchmarks.random_quality import quality
from probinf.errors import ArgumentError
from probinf.fast_random import NAME, fast_key


def test_all_tests_of_quality_pass():
    """False alarm at most 1e-6 (Bonferroni)."""
    results = list(quality(0, 16, NAME))
    assert len(results) > 80
    worst = min(results, key=lambda r: r.p_value)
    assert worst.p_value * len(results) > 1e-6, worst


def test_the_tests_of_quality_see_a_poor_generator():
    """A counter times an odd number plus the key: streams overlap, bits do not spread, no word is repeated."""

    def bits(key, width, shape):
        counter = jax.lax.iota(jnp.uint32, int(np.prod(shape))).reshape(shape)
        return counter * np.uint32(0x9E3779B1) + key[0]

    def children(key, shape):
        count = jax.lax.iota(jnp.uint32, int(np.prod(shape))) + np.uint32(1)
        return jnp.stack([key[0] + count * np.uint32(0x85EBCA6B), key[1] ^ count], axis=-1).reshape(*shape, 2)

    poor = define_prng_impl(
        key_shape=(2,),
        seed=lambda seed: jnp.stack([jnp.asarray(seed).astype(jnp.uint32), jnp.zeros((), jnp.uint32)]),
        split=children,
        random_bits=bits,
        fold_in=lambda key, data: key + jnp.asarray(data).astype(jnp.uint32),
        name="poor",
        tag="poor",
    )
    failed = {r.name for r in quality(0, 16, poor) if r.p_value < 1e-8}
    assert "one bit of the key flipped" in failed
    assert any(name.startswith("one stream") for name in failed)
    assert any("streams" in name for name in failed)


def test_a_million_children_of_a_key_differ():
    children = np.asarray(jax.random.key_data(jax.random.split(fast_key(0), 2**20))).astype(np.uint64)
    assert np.unique(children[:, 0] << np.uint64(32) | children[:, 1]).size == 2**20


def test_the_library_takes_its_keys():
    key = fast_key(7)
    np.testing.assert_array_equal(jax.random.key_data(jax.random.key(7, impl=NAME)), jax.random.key_data(key))
    looped = [jax.random.normal(k, (4,)) for k in jax.random.split(key, 6)]
    together = jax.vmap(lambda k: jax.random.normal(k, (4,)))(jax.random.split(key, 6))
    np.testing.assert_array_equal(together, jnp.stack(looped))


def test_seeds_are_checked():
    with pytest.raises(ArgumentError, match="seed: expected a non-negative integer, found -1"):
        fast_key(-1)
    with pytest.raises(ArgumentError, match="found True"):
        fast_key(True)
