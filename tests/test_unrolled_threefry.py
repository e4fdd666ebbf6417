"""The numbers of JAX's threefry, by the written-out rounds: equal in every bit, whatever is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax.extend.random import threefry_2x32

import probinf as pi
import smc
from probinf.fast_random import NAME
from probinf.unrolled_threefry import UNROLLED, rolled, threefry, unrolled
from smc.filtering import filter_program


def test_the_rounds_are_those_of_threefry():
    key, counter = jnp.array([7, 2**31 + 5], jnp.uint32), jnp.arange(64, dtype=jnp.uint32) * np.uint32(40503)
    expected = threefry_2x32(key, jnp.concatenate([counter, jnp.full(64, 9, jnp.uint32)]))
    np.testing.assert_array_equal(jnp.concatenate(threefry(key, counter, 9)), expected)


@pytest.mark.parametrize(
    ("key", "counter", "words"),
    [
        ((0, 0), (0, 0), (0x9D1C5EC6, 0x8BD50731)),
        ((2**32 - 1, 2**32 - 1), (2**32 - 1, 2**32 - 1), (0xFD36D048, 0x2D17272C)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xBA3E4725, 0xF27D669E)),
    ],
)
def test_thirteen_rounds_give_the_published_answers(key, counter, words):
    """The known answers that come with Random123 for threefry2x32 with 13 rounds."""
    key, first, second = (jnp.array(v, jnp.uint32) for v in (key, counter[:1], counter[1:]))
    np.testing.assert_array_equal(jnp.concatenate(threefry(key, first, second, 13)), np.array(words, np.uint32))


@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 1, 4)])
@pytest.mark.parametrize("dtype", ["uint8", "uint32", "uint64"])
def test_words_are_those_of_jax(shape, dtype):
    key = jax.random.key(3)
    np.testing.assert_array_equal(
        jax.random.bits(unrolled(key), shape, dtype), jax.random.bits(key, shape, dtype), strict=True
    )


def test_children_folds_seeds_and_lanes_are_those_of_jax():
    key = jax.random.key(2**40 + 1)
    other = unrolled(key)
    assert jax.random.key_impl(other) == UNROLLED
    for derive in (
        lambda k: jax.random.split(k),
        lambda k: jax.random.split(k, (3, 2)),
        lambda k: jax.random.fold_in(k, 12345),
        lambda k: jax.random.clone(k),
    ):
        np.testing.assert_array_equal(jax.random.key_data(derive(other)), jax.random.key_data(derive(key)))
    np.testing.assert_array_equal(
        jax.random.key_data(jax.random.key(2**40 + 1, impl=UNROLLED)), jax.random.key_data(key)
    )
    np.testing.assert_array_equal(
        jax.vmap(lambda k: jax.random.bits(k, (5,)))(jax.random.split(other, 4)),
        jax.vmap(lambda k: jax.random.bits(k, (5,)))(jax.random.split(key, 4)),
    )


def test_only_threefry_is_changed_and_words_stay():
    for key in (pi.fast_key(0), jax.random.key(0, impl="rbg")):
        assert unrolled(key) is key
    assert rolled(jax.random.key(0, impl="rbg")).dtype == jax.random.key(0, impl="rbg").dtype
    key = jax.random.key(5)
    for other in (unrolled(key), jax.random.wrap_key_data(jax.random.key_data(key), impl=NAME)):
        assert rolled(other).dtype == key.dtype
        np.testing.assert_array_equal(jax.random.key_data(rolled(other)), jax.random.key_data(key))


class Drift(smc.StateSpaceModel):
    def initial(self):
        return dist.Normal(0.0, 1.0)

    def transition(self, t, x):
        return dist.Normal(0.9 * x, 0.5)

    def observation(self, t, x):
        return dist.Normal(x, 0.3)


class Births(smc.StateSpaceModel):
    """JAX draws Poisson numbers with its own threefry only."""

    def initial(self):
        return dist.Poisson(3.0)

    def transition(self, t, x):
        return dist.Poisson(1.0 + 0.5 * x)

    def observation(self, t, x):
        return dist.Normal(1.0 * x, 1.0)


@pytest.mark.parametrize("model", [Drift(), Births()])
def test_a_filter_draws_what_jax_draws(model):
    """Its particles, ancestors included, are those of the program run with JAX's own key."""
    ys, key = jnp.array([0.5, 2.0, 1.0, -0.3, 4.0, 1.5]), jax.random.key(8)
    found = smc.particle_filter(model, ys, key, num_particles=64, history=True)
    assert found.history is not None
    plain = filter_program(model, ys, num_particles=64, history=True).run(key)[0]
    assert plain.history is not None
    np.testing.assert_array_equal(found.history.ancestors, plain.history.ancestors)
    np.testing.assert_allclose(found.particles, plain.particles, rtol=1e-12)
    assert len(np.unique(found.history.ancestors)) > 8


@pytest.mark.parametrize("make", [jax.random.key, pi.fast_key])
def test_counts_are_drawn_with_every_kind_of_key(make):
    """Mean and variance of 4,000 draws of Poisson(3) (fourth central moment 30) within 4 standard errors."""
    found = smc.particle_filter(Births(), jnp.zeros(2), make(3), num_particles=4000, threshold=0.0, history=True)
    assert found.history is not None
    first = np.asarray(found.history.particles[0])
    assert abs(first.mean() - 3) < 4 * np.sqrt(3 / 4000)
    assert abs(first.var() - 3) < 4 * np.sqrt((3 + 2 * 9) / 4000)
