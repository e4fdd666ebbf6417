"""Baselines and allocators: success probabilities by enumeration beside runs, and closed forms."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

import smc
from benchmarks.steering_exact import RIGHT, Toy
from probinf.errors import ArgumentError, ArgumentTypeError
from smc.steering.adaptive import expected_gain
from smc.steering.answers import select_best, select_softmax
from tests.steering_models import STEPS, three_letters

SUM = smc.Potential("exp", "final", "sum")
RUNS = 4000


@pytest.fixture(scope="module")
def toy():
    chain = three_letters()
    return chain, Toy(*(np.asarray(a) for a in (chain.first, chain.table, chain.log_g)))


@functools.cache
def populations(rule, num):
    """Final letters and weights of many runs, (RUNS, num) each."""
    chain = three_letters()

    def one(key):
        run = smc.steer(chain.box(), key, num_particles=num, max_steps=STEPS, potential=SUM, rule=rule, history=False)
        return run.states[0], run.weights

    found = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(num), RUNS))
    return tuple(np.asarray(a) for a in found)


def picks(rule, num, by):
    """One letter of each run: that of the largest weight, or that with most votes."""
    letters, weights = populations(rule, num)
    if by != "argmax":
        votes = weights if by == "vote" else np.ones_like(weights)
        weights = np.einsum("rij,rj->ri", letters[:, :, None] == letters[:, None, :], votes)
    return letters[np.arange(RUNS), weights.argmax(axis=1)]


def agrees(found, expected):
    """|z| < 4.5 for a share of RUNS: a false alarm in 150,000."""
    share = np.mean(found == RIGHT)
    return abs(share - expected) < 4.5 * np.sqrt(expected * (1 - expected) / len(found)) + 1e-12


NEVER = smc.Resampler("never", None)
CASES = {
    "best of 3": (NEVER, 3, "argmax", lambda t: t.best_of(3)),
    "majority of 3": (NEVER, 3, "majority", lambda t: t.vote(3, False)),
    "weighted vote of 3": (NEVER, 3, "vote", lambda t: t.vote(3, True)),
    "beam of 3": (smc.Beam(3), 3, "argmax", lambda t: t.tree(3)),
    "diverse tree of 2": (smc.DiverseTree(2), 2, "argmax", lambda t: t.tree(2)),
    "halving of 3": (smc.Halving(), 3, "argmax", lambda t: t.halving(3)),
}


@pytest.mark.parametrize("name", CASES)
def test_success_is_that_of_the_enumeration(toy, name):
    rule, num, by, exact = CASES[name]
    assert agrees(picks(rule, num, by), exact(toy[1]))


def test_greedy_takes_the_likeliest_letters(toy):
    chain, exact = toy
    run = smc.greedy(chain.box(), max_steps=STEPS, potential=SUM)
    assert float(run.answer()[0] == RIGHT) == exact.greedy()
    assert run.generator_calls == STEPS
    with pytest.raises(ArgumentError, match="needs BlackBox"):
        smc.greedy(smc.BlackBox(0, lambda s: s, lambda s: s), max_steps=2, potential=SUM)


def test_best_first_search_finds_the_best_leaf_of_the_tree(toy):
    chain, exact = toy
    optimism = float(np.asarray(chain.log_g).max())
    found = [
        smc.best_first_search(chain.box(), seed, width=2, max_steps=STEPS, aggregate="sum", optimism=optimism)
        for seed in range(120)
    ]
    assert all(f.is_finished for f in found)
    assert agrees(np.array([int(f.state[0]) for f in found]), exact.best_first(2))
    for f in found[:20]:
        assert f.generator_calls == f.judge_calls == 2 * f.expansions
    cut = smc.best_first_search(
        chain.box(), 0, width=2, max_steps=STEPS, aggregate="sum", optimism=9.0, budget=smc.Budget(5)
    )
    assert (cut.generator_calls, cut.is_finished) == (4, False)


def test_refinement_keeps_the_best_and_stops_when_accepted(toy):
    """A revision that draws a whole sequence anew has a success probability by enumeration."""
    chain, exact = toy
    box = smc.BlackBox((jnp.zeros(STEPS, jnp.int32), jnp.int32(0)), whole_sequence(chain), total_score(chain))
    accept = float(np.quantile(exact.score, 0.8))
    found = [smc.refine(box, box.propose, seed, accept=accept, max_rounds=2, max_steps=1) for seed in range(200)]
    assert agrees(np.array([int(f.state[0][-1]) for f in found]), exact.refined(accept, 2))
    for f in found[:40]:
        assert f.score == f.scores.max()
        assert f.is_accepted == (f.score >= accept)
        assert f.rounds == len(f.scores) - 1 == f.generator_calls - 1 == f.judge_calls - 1
        assert f.rounds == 2 or f.is_accepted


def whole_sequence(chain):
    def propose(states, keys):
        def one(key):
            state = (jnp.full(1, -1, jnp.int32), jnp.zeros(1, jnp.int32))
            letters = []
            for k in jax.random.split(key, STEPS):
                state = chain.propose(state, k[None])
                letters.append(state[0][0])
            return jnp.stack(letters)

        return jax.vmap(one)(keys), states[1] + 1

    return propose


def total_score(chain):
    return lambda states: jnp.sum(chain.log_g[jnp.arange(STEPS), states[0]], axis=1)


def test_search_rules_pick_by_hand_computed_scores():
    scores = jnp.array([0.1, 0.9, 0.4, 0.8, 0.7, 0.2])
    from smc.steering.resampler import Population

    zero = jnp.zeros(6)
    here = Population(zero, zero, scores, zero > 0, jnp.asarray(1, jnp.int32), 4)
    key = jax.random.key(0)
    assert smc.Beam(3).choose(key, here).ancestors.tolist() == [1, 1, 1, 3, 3, 3]
    assert smc.DiverseTree(2).choose(key, here).ancestors.tolist() == [1, 1, 3, 3, 4, 4]
    assert smc.Halving().choose(key, here).log_weights.tolist() == [-np.inf, 0, -np.inf, 0, 0, -np.inf]
    assert smc.Halving(2).choose(key, here).log_weights.tolist() == [0] * 6
    dead = here._replace(log_weights=zero.at[1].set(-jnp.inf))
    assert smc.Beam(3).choose(key, dead).ancestors.tolist() == [3, 3, 3, 4, 4, 4]


def test_halving_pays_for_live_prefixes_only(toy):
    run = smc.steer(toy[0].box(), 0, num_particles=8, max_steps=STEPS, potential=SUM, rule=smc.Halving())
    assert run.generator_calls == 8 + 4 + 2 + 1
    assert (run.log_weights > -jnp.inf).sum() == 1
    assert run.claim == "approximate"


def test_expected_gain_is_the_integral_over_the_predictive_law():
    values = np.array([0.1, 0.5, 0.2, 0.9])
    scale = values.std(ddof=1) * np.sqrt(1.25)
    law = stats.t(3, values.mean(), scale)
    expected, _ = integrate.quad(lambda y: (y - 0.9) * law.pdf(y), 0.9, np.inf)
    np.testing.assert_allclose(expected_gain(values), expected, rtol=1e-7)
    assert expected_gain(np.full(4, 0.5)) == 0
    with pytest.raises(ArgumentError, match="at least 3"):
        expected_gain(values[:2])


def test_adaptive_best_of_n_stops_for_each_of_its_reasons(toy):
    box, settings = toy[0].box(), {"max_steps": STEPS, "aggregate": "sum", "batch": 4}
    free = smc.adaptive_best_of_n(box, 0, price=0.0, max_samples=12, **settings)
    assert (free.reason, len(free.scores), free.generator_calls) == ("max_samples", 12, 12 * STEPS)
    assert free.score == free.scores.max()
    dear = smc.adaptive_best_of_n(box, 0, price=50.0, max_samples=12, **settings)
    assert (dear.reason, len(dear.scores)) == ("not worth another try", 4)
    np.testing.assert_array_equal(dear.scores, free.scores[:4])
    lucky = smc.adaptive_best_of_n(box, 0, price=0.0, max_samples=12, accept=-99.0, **settings)
    assert (lucky.reason, len(lucky.scores)) == ("accepted", 4)
    chosen = np.asarray(toy[0].log_g)
    assert chosen.sum(axis=0).shape == (3,)
    with pytest.raises(ArgumentError, match="price: expected a number of at least 0"):
        smc.adaptive_best_of_n(box, 0, price=-1.0, max_samples=12, **settings)


def test_allocation_is_optimal_by_exhaustive_search():
    won, lost, budget = [3, 1, 0], [0, 2, 4], 7
    found = smc.allocate(won, lost, budget)
    best = max(
        (c for c in itertools.product(range(budget + 1), repeat=3) if sum(c) == budget),
        key=lambda c: smc.expected_coverage(won, lost, c).sum(),
    )
    assert found.tolist() == list(best)
    p = stats.beta(0.5 + 1, 0.5 + 2)
    expected, _ = integrate.quad(lambda x: p.pdf(x) * (1 - (1 - x) ** 5), 0, 1)
    np.testing.assert_allclose(smc.expected_coverage([1], [2], [5]), expected, rtol=1e-7)
    assert smc.allocate([0, 0], [1, 1], 6, values=[1, 0]).tolist() == [6, 0]
    assert smc.allocate([0, 0], [1, 1], 6, costs=[7, 1]).tolist() == [0, 6]
    with pytest.raises(ArgumentError, match="failures"):
        smc.allocate([1, 2], [1], 3)


def test_the_scaling_law_is_recovered_with_honest_intervals():
    """Data from c = 0.8, p ~ Beta(0.6, 2): 90 % intervals of S at an unseen N cover it in 15 of 20 at least."""
    rng, tries, covered = np.random.default_rng(0), np.array([1, 2, 4, 8, 16, 32]), 0
    truth = 0.8 * smc.expected_coverage(0, 0, tries, prior=(0.6, 2.0))
    at_128 = float(0.8 * smc.expected_coverage(0, 0, 128, prior=(0.6, 2.0)))
    for _ in range(20):
        law = smc.fit_scaling(tries, rng.binomial(200, truth), np.full(6, 200))
        seen = law.success(128)
        covered += seen.low <= at_128 <= seen.high
    assert covered >= 15
    best = law.best_number(value=1.0, cost=0.002)
    grid = np.arange(1, 300)
    exact = grid[np.argmax(0.8 * smc.expected_coverage(0, 0, grid, prior=(0.6, 2.0)) - 0.002 * grid)]
    assert best.low <= exact <= best.high
    dear = law.best_number(value=1.0, cost=0.5)
    assert dear.mean < best.mean
    saturation = law.saturation(0.9)
    assert 1 < saturation.low <= saturation.mean <= saturation.high
    with pytest.raises(ArgumentError, match="at least 2 different"):
        smc.fit_scaling([4, 4], [1, 2], [5, 5])
    with pytest.raises(ArgumentError, match="solved"):
        smc.fit_scaling([1, 4], [6, 2], [5, 5])


@pytest.mark.bad_input
def test_what_baselines_refuse(toy):
    box = toy[0].box()
    with pytest.raises(ArgumentError, match="8 is no multiple of the width 3"):
        smc.beam_search(box, num_particles=8, width=3, max_steps=2, potential=SUM)
    with pytest.raises(ArgumentError, match="its mode is 'final', found 'step'"):
        smc.best_of_n(box, num_samples=2, max_steps=2, potential=smc.Potential("exp", "step"))
    with pytest.raises(ArgumentTypeError, match="rule: expected a Resampler"):
        smc.steer(box, num_particles=2, max_steps=2, potential=SUM, rule="systematic")
    with pytest.raises(ArgumentError, match="do not suffice for one expansion"):
        smc.best_first_search(box, width=4, max_steps=2, budget=smc.Budget(3))


def test_selection_among_scores():
    scores = jnp.array([0.2, 1.0, -3.0])
    assert int(select_best(scores)) == 1
    keys = jax.random.split(jax.random.key(0), 20_000)
    picks = jax.vmap(lambda k: select_softmax(k, scores, jnp.asarray(0.5)))(keys)
    expected = np.exp(np.asarray(scores) / 0.5)
    expected /= expected.sum()
    assert stats.chisquare(np.bincount(np.asarray(picks), minlength=3), 20_000 * expected).pvalue > 1e-5
