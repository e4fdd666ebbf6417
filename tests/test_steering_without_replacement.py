"""Selection without replacement: unbiased exactly, exact where everything fits, and worthless copies avoided."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import smc
from probinf.errors import ArgumentError
from smc.steering.without_replacement import keep_without_replacement, log_threshold
from tests.steering_models import STEPS, WEIGHTS, sequences, three_letters

WEIGHTS_SETS = {
    "skewed": [8.0, 0.5, 1.0, 0.25, 0.1, 0.15],
    "equal": [1.0] * 6,
    "with zeros": [0.0, 3.0, 0.0, 1.0, 1.0, 2.0],
    "two large": [5.0, 0.2, 5.0, 0.3, 0.1, 0.4],
}
keep = jax.jit(jax.vmap(keep_without_replacement, in_axes=(0, None, None)), static_argnums=2)


@pytest.mark.parametrize("name", WEIGHTS_SETS)
def test_every_candidate_keeps_its_weight_on_average(name):
    """The kept set is piecewise constant in the one uniform number: integrate over it."""
    w, num = np.array(WEIGHTS_SETS[name]), 3
    log_w = jnp.log(jnp.asarray(w))
    limit = float(log_threshold(log_w, num))
    c = np.exp(-limit)
    assert np.isclose(np.minimum(1, c * w).sum(), num)
    chances = np.where(c * w >= 1, 0, c * w)
    knots = np.unique(np.concatenate([[0, 1], np.cumsum(chances) % 1.0]))
    middles = (knots[:-1] + knots[1:]) / 2
    kept = keep(jnp.asarray(middles), log_w, num)
    mean = np.zeros(6)
    for index, log_weights, length in zip(kept.index, kept.log_weights, np.diff(knots), strict=True):
        live = np.asarray(log_weights) > -np.inf
        assert len(set(np.asarray(index)[live].tolist())) == live.sum() == num
        np.add.at(mean, np.asarray(index), length * np.exp(np.asarray(log_weights)))
    np.testing.assert_allclose(mean, w, rtol=1e-9, atol=1e-12)


def test_what_fits_is_kept_as_it_is():
    log_w = jnp.log(jnp.array([0.0, 3.0, 0.0, 1.0, 0.0, 2.0]))
    kept = keep(jnp.array([0.0, 0.7]), log_w, 3)
    for row in range(2):
        assert sorted(np.asarray(kept.index[row]).tolist()) == [1, 3, 5]
        np.testing.assert_allclose(np.exp(kept.log_weights[row]).sum(), 6.0)


def branch(chain):
    def all_letters(states):
        letter, length = states
        law = jnp.where((length == 0)[:, None], chain.first[None, :], chain.table[letter])
        letters = jnp.broadcast_to(jnp.arange(3, dtype=jnp.int32), (len(letter), 3))
        return (letters, jnp.broadcast_to(length[:, None] + 1, letters.shape)), jnp.log(law)

    return all_letters


@pytest.fixture(scope="module")
def chain():
    return three_letters()


def run(chain, num, seed=0, potential=WEIGHTS):
    start = jnp.int32(-1), jnp.int32(0)
    return smc.steer_without_replacement(
        start, branch(chain), chain.score, seed, num_particles=num, max_steps=STEPS, potential=potential
    )


def test_with_room_for_all_sequences_the_evidence_is_exact(chain):
    _, prior, g = sequences(chain)
    found = run(chain, 81)
    np.testing.assert_allclose(found.log_evidence, np.log(prior @ g), rtol=1e-12)
    np.testing.assert_allclose(np.exp(found.log_weights).sum(), prior @ g)
    assert found.generator_calls == 3 + 9 + 27 + 81


def test_the_evidence_is_unbiased_and_less_noisy_than_with_replacement(chain):
    """z-test of 4,000 runs at N = 4, |z| < 4."""
    _, prior, g = sequences(chain)
    keys = jax.random.split(jax.random.key(0), 4000)
    ratio = np.exp(np.asarray(jax.vmap(lambda k: run(chain, 4, k).log_evidence)(keys))) / (prior @ g)
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / np.sqrt(4000)

    def with_replacement(key):
        return smc.steer(chain.box(), key, num_particles=12, max_steps=STEPS, potential=WEIGHTS).log_evidence

    other = np.exp(np.asarray(jax.jit(jax.vmap(with_replacement))(keys))) / (prior @ g)
    assert ratio.std() < 0.7 * other.std()  # at the same 12 candidates a step


def test_what_is_refused(chain):
    def flat(states):
        return states, jnp.zeros(4)

    with pytest.raises(ArgumentError, match=r"branch: expected log probabilities of shape \(4, K\)"):
        smc.steer_without_replacement(jnp.int32(0), flat, chain.score, num_particles=4, max_steps=2, potential=WEIGHTS)
