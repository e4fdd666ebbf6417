"""Every kind of seed a user may hold gives the same typed key; everything else is refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from probinf.errors import ArgumentError, ArgumentTypeError
from probinf.random import as_key


def bits(key):
    return np.asarray(jax.random.key_data(key)).tolist()


@given(seed=st.integers(0, 2**63 - 1))
def test_an_integer_gives_the_key_of_that_seed(seed):
    assert bits(as_key(seed)) == bits(jax.random.key(seed))


@pytest.mark.parametrize("make", [int, np.int32, np.uint8, np.int64, np.array, jnp.asarray])
def test_integers_of_any_library_agree(make):
    key = as_key(make(7))
    assert jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    assert bits(key) == bits(jax.random.key(7))


def test_a_typed_key_is_returned_as_it_is(key):
    assert as_key(key) is key


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray])
def test_a_raw_key_becomes_the_typed_key_with_the_same_bits(key, make):
    raw = make(jax.random.key_data(key))
    assert bits(as_key(raw)) == bits(key)


def test_a_typed_key_passes_through_jit(key):
    assert bits(jax.jit(as_key)(key)) == bits(key)


@pytest.mark.bad_input
@pytest.mark.parametrize("seed", [None, True, False, 1.0, "7", [7], np.array(1.5), np.bool_(True), np.array([1, 2])])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(ArgumentTypeError, match="seed: expected an integer or a key"):
        as_key(seed)


def test_a_negative_seed_is_refused():
    with pytest.raises(ArgumentError, match="non-negative integer, found -1"):
        as_key(-1)


def test_a_batch_of_keys_is_refused(key):
    with pytest.raises(ArgumentError, match=r"batch of shape \(3,\)"):
        as_key(jax.random.split(key, 3))


def test_a_batch_of_raw_keys_is_refused():
    with pytest.raises(ArgumentError, match=r"shape \(2,\), found shape \(3, 2\)"):
        as_key(np.zeros((3, 2), dtype=np.uint32))


@pytest.mark.bad_input
def test_the_message_uses_the_name_of_the_argument():
    with pytest.raises(ArgumentTypeError, match=r"^key: expected"):
        as_key(None, argument="key")
