"""The numbers of the streaming particle filter: streams are good, lanes are as single draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import probinf as pi
from benchmarks.random_quality import quality
from probinf.streaming import unstack_beliefs
from probinf.unrolled_threefry import threefry
from smc.extended import EKF
from smc.paired_threefry import PAIRED, PAIRED_13, as_before, paired, sooner
from smc.particles import ParticleFilter, summed
from smc.resample_lanes import resample_if
from tests.streaming_models import cruise


@pytest.mark.slow
@pytest.mark.parametrize("generator", [PAIRED, PAIRED_13])
def test_all_tests_of_quality_pass(generator):
    """False alarm at most 1e-6 (Bonferroni)."""
    results = list(quality(0, 16, generator))
    assert len(results) > 80
    worst = min(results, key=lambda r: r.p_value)
    assert worst.p_value * len(results) > 1e-6, worst


def test_words_children_and_folds_never_meet():
    key = jax.random.key(3, impl=PAIRED)
    words = np.asarray(jax.random.bits(key, (64,), "uint32"))
    children = np.asarray(jax.random.key_data(jax.random.split(key, 32))).reshape(-1)
    folds = jax.vmap(lambda i: jax.random.key_data(jax.random.fold_in(key, i)))(jnp.arange(32))
    assert np.unique(np.concatenate([words, children, np.asarray(folds).reshape(-1)])).size == 192
    wide = np.asarray(jax.random.bits(key, (32,), "uint64"))
    assert {int(w) for w in wide & np.uint64(2**32 - 1)} | {int(w) for w in wide >> np.uint64(32)} == set(
        words.tolist()
    )
    assert np.unique(np.asarray(jax.random.bits(key, (1000,), "uint8"))).size > 200


@pytest.mark.parametrize("generator", [PAIRED, PAIRED_13])
def test_lanes_draw_as_single_keys_do(generator):
    keys = jax.random.split(jax.random.key(1, impl=generator), 5)
    together = jax.vmap(lambda k: jax.random.normal(k, (7,)))(keys)
    np.testing.assert_array_equal(together, jnp.stack([jax.random.normal(k, (7,)) for k in keys]))


def test_keys_keep_their_type_outside():
    for key in (jax.random.key(0), pi.fast_key(0), jax.random.key(0, impl="rbg")):
        inner = paired(key)
        assert as_before(jax.random.split(inner)[1], key).dtype == key.dtype
        assert (jax.random.key_impl(inner) == PAIRED) == (jax.random.key_data(key).size == 2)


def test_a_fast_key_draws_by_thirteen_rounds_from_its_words():
    """Word pairs of Threefry-2x32-13: the rounds before the last injections of the twenty, which JAX has."""
    key = sooner(pi.fast_key(3))
    assert jax.random.key_impl(key) == PAIRED_13
    words = jax.random.key_data(pi.fast_key(3))
    np.testing.assert_array_equal(jax.random.key_data(key), words)
    counter = jnp.arange(4, dtype=jnp.uint32)
    expected = jnp.concatenate(threefry(words, counter, 0, 13))
    np.testing.assert_array_equal(jax.random.bits(key, (8,), "uint32"), expected)
    first, second = threefry(words, jnp.arange(4100, dtype=jnp.uint32), 0, 13)  # of many numbers each has its own hash
    np.testing.assert_array_equal(jax.random.bits(key, (41, 100), "uint32"), (first ^ second).reshape(41, 100))
    assert sooner(jax.random.key(0, impl="rbg")).dtype == jax.random.key(0, impl="rbg").dtype


@pytest.mark.parametrize("kind", ["fast", "rbg"])
def test_filters_take_keys_of_any_generator(kind):
    """Within 0.3 prior standard deviations of the Kalman mean: over 6 standard errors at 2,000 particles."""
    make = pi.fast_key if kind == "fast" else lambda seed: jax.random.key(seed, impl="rbg")
    system = cruise()
    filter = system.filter(ParticleFilter(2000))
    exact, _ = system.filter(EKF()).update(system.filter(EKF()).start(0, 0.0), 1.0, "speed", 0.4)
    belief, _ = filter.update(filter.start(make(1), 0.0), 1.0, "speed", 0.4)
    assert belief.state.key.dtype == make(1).dtype
    scale = np.sqrt(np.diag(np.asarray(exact.cov)))
    assert np.max(np.abs(np.asarray(belief.mean - exact.mean)) / scale) < 0.3
    batch, _ = filter.update_batch(filter.start_batch(jax.random.split(make(1), 2), 0.0), 1.0, "speed", [0.4, 0.4])
    for one in unstack_beliefs(batch):
        assert np.max(np.abs(np.asarray(one.mean - exact.mean)) / scale) < 0.3
    assert not np.array_equal(batch.state.particles[0], batch.state.particles[1])


@pytest.mark.parametrize("num", [8, 600])
def test_only_populations_that_are_due_are_resampled(num):
    rng = np.random.default_rng(num)
    log_weights = jnp.asarray(rng.normal(size=(4, num)))
    particles = jnp.asarray(rng.normal(size=(4, num, 2)))
    due = jnp.array([True, False, True, False])
    keys = jax.random.split(jax.random.key(0), 4)
    run = jax.jit(lambda *row: resample_if("systematic", *row))
    together = jax.jit(jax.vmap(run))(due, keys, log_weights, particles)
    for k in range(4):
        np.testing.assert_array_equal(together[k], run(due[k], keys[k], log_weights[k], particles[k]))
    np.testing.assert_array_equal(together[1], particles[1])
    # Systematic: every particle has the whole part of its expected number of children, or one more.
    weights = np.exp(log_weights[0] - np.max(log_weights[0]))
    expected = num * weights / weights.sum()
    children = np.array([np.sum(together[0, :, 0] == x) for x in particles[0, :, 0]])
    assert np.all((children >= np.floor(expected - 1e-9)) & (children <= np.ceil(expected + 1e-9)))


def test_mean_weight_and_effective_size_come_from_one_pass():
    weights = np.array([0.5, 2.0, 0.0, 1.5])
    log_mean, ess = summed(jnp.log(jnp.asarray(weights)) + 700.0)
    np.testing.assert_allclose(log_mean, 700.0 + np.log(1.0), rtol=1e-14)
    np.testing.assert_allclose(ess, 16.0 / np.sum(weights**2), rtol=1e-12)
    log_mean, ess = summed(jnp.full(3, -jnp.inf))
    assert float(log_mean) == -np.inf
    assert float(ess) == 0.0
    assert np.isnan(float(summed(jnp.array([0.0, jnp.nan]))[0]))
