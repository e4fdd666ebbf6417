"""Particle Gibbs and parallel tempering: a sweep started from exact draws stays exact, and three mutants do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import smc
from benchmarks.steering_mutants import MUTANTS, sweep_codes
from probinf.errors import ArgumentError
from smc.steering import sweeps
from tests.steering_models import STEPS, WEIGHTS, sequences, three_letters

RUNS = 40_000


@pytest.fixture(scope="module")
def toy():
    chain = three_letters()
    paths, prior, g = sequences(chain)
    target = prior * g / (prior * g).sum()
    return chain, paths, target


def one_sweep(toy, rule=None, seed=0):
    """Codes of the paths after one sweep of each of many exact draws."""
    chain, paths, target = toy
    rule = smc.Resampler("always", None, "multinomial") if rule is None else rule
    return sweep_codes(chain.box(), paths, target, rule, RUNS, seed)


def p_value(codes, target):
    """Chi-square test of the 81 frequencies, those of fewer than 5 expected visits in one cell."""
    expected, counts = len(codes) * target, np.bincount(codes, minlength=81)
    rare = expected < 5
    pairs = [np.append(x[~rare], x[rare].sum()) for x in (counts, expected)]
    return stats.chisquare(*pairs).pvalue


ALPHA = 1e-5  # false alarms of each right sweep; the mutants below are rejected at 1e-8


@pytest.mark.parametrize(
    "rule",
    [None, smc.Resampler("ess", smc.FloorAnnealing(0.9), "systematic", lookahead=True)],
    ids=["plain", "annealed, look-ahead, systematic"],
)
def test_a_sweep_leaves_the_target_unchanged(toy, rule):
    assert p_value(one_sweep(toy, rule), toy[2]) > ALPHA


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_of_the_sweep_are_caught(toy, name):
    with MUTANTS[name]():
        assert p_value(one_sweep(toy), toy[2]) < 1e-8


def test_swaps_and_ladders():
    up = jnp.array([1.0, 0.5, 0.25, 0.125])
    # Hotter chains hold better paths: both pairs of the turn swap for sure.
    order, accepted = sweeps.swap(jax.random.key(0), jnp.array([0.0, 50.0, 0.0, 900.0]), up, jnp.asarray(0, jnp.int32))
    assert order.tolist() == [1, 0, 3, 2]
    assert accepted.tolist() == [True, False, True, False]
    order, _ = sweeps.swap(jax.random.key(0), jnp.array([0.0, 0.0, 900.0, 0.0]), up, jnp.asarray(1, jnp.int32))
    assert order.tolist() == [0, 2, 1, 3]
    # Worse by 50 nats at half the power: never.
    order, _ = sweeps.swap(jax.random.key(0), jnp.array([50.0, 0.0, 0.0, 0.0]), up, jnp.asarray(0, jnp.int32))
    assert order.tolist()[:2] == [0, 1]


def test_the_swap_is_in_detailed_balance(toy):
    """exp(L x power) on both chains: acceptance there and back differ by the ratio of the joint densities."""
    powers, low, high = jnp.array([1.0, 0.4]), 0.3, 1.1
    keys = jax.random.split(jax.random.key(3), 20_000)

    def rate(a, b):
        accepted = jax.vmap(lambda k: sweeps.swap(k, jnp.array([a, b]), powers, jnp.asarray(0, jnp.int32))[1][0])(keys)
        return float(jnp.mean(accepted))

    assert rate(low, high) == 1.0
    expected = np.exp(0.6 * (low - high))
    assert abs(rate(high, low) - expected) < 4 * np.sqrt(expected * (1 - expected) / 20_000)


def test_a_tempered_chain_keeps_the_target(toy):
    """3,000 sweeps at three temperatures; means of 1 nat's spread agree within 5 batch standard errors."""
    chain, paths, target = toy
    run = smc.tempered_sweeps(
        chain.box(),
        1,
        num_particles=4,
        num_sweeps=3000,
        max_steps=STEPS,
        potential=WEIGHTS,
        temperatures=(1.0, 2.0, 4.0),
    )
    log_g = np.asarray(chain.log_g)[np.arange(STEPS), paths].sum(axis=1)
    batches = np.asarray(run.log_potential).reshape(30, -1).mean(axis=1)
    assert abs(batches.mean() - target @ log_g) < 5 * batches.std(ddof=1) / np.sqrt(30)
    last = np.asarray(run.paths[0])
    np.testing.assert_allclose(run.log_potential, np.asarray(chain.log_g)[np.arange(STEPS), last].sum(axis=1))
    assert run.generator_calls == 3 * 4 * STEPS * 3000
    assert run.swap_rate.shape == (2,)
    assert ((np.asarray(run.swap_rate) > 0.3) & (np.asarray(run.swap_rate) < 1)).all()
    assert run.claim == "invariant"


def test_what_sweeps_refuse(toy):
    settings = {"num_sweeps": 2, "max_steps": STEPS, "potential": WEIGHTS}
    box = toy[0].box()
    with pytest.raises(ArgumentError, match="at least 2 particles"):
        smc.gibbs_sweeps(box, num_particles=1, **settings)
    with pytest.raises(ArgumentError, match="keeps its residual weights"):
        smc.gibbs_sweeps(box, num_particles=3, rule=smc.entropic_particle_filter(), **settings)
    for ladder in ((), (2.0,), (1.0, 1.0), (1.0, 0.5)):
        with pytest.raises(ArgumentError, match="an increasing ladder that begins with 1"):
            smc.tempered_sweeps(box, num_particles=3, temperatures=ladder, **settings)
