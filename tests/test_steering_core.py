"""`smc.steer`, traced: proper weighting proved by enumeration, exact answers, limits, traps, faults."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import smc
from examples import steering_letters as letters
from probinf.errors import ArgumentError, DataError, InferenceError, ModelError
from probinf.transformations.resampling import SCHEMES, scheme
from smc.steering.answers import answer_index
from smc.steering.resampler import Population
from tests.compile_count import compiled
from tests.steering_models import STEPS, WEIGHTS, sequences, three_letters

ANNEALS = {
    "none": None,
    "ess": smc.EntropicAnnealing(),
    "entropy": smc.EntropicAnnealing("entropy"),
    "base": smc.EntropicAnnealing("base"),
    "floor": smc.FloorAnnealing(),
}
LOG_WEIGHTS = jnp.array([0.3, -2.0, 1.5, -jnp.inf])


def population(lookahead):
    ahead = jnp.array([-1.0, 2.0, -3.0, 0.5]) if lookahead else jnp.zeros(4)
    return Population(LOG_WEIGHTS, ahead, jnp.zeros(4), jnp.zeros(4, bool), jnp.asarray(1, jnp.int32), 4)


def mean_offspring_weight(rule):
    """E[sum of the weights of j's children], by enumeration of all ancestor vectors."""
    log_q, _, _ = rule.log_resampling_weights(population(rule.lookahead))
    vectors, log_p = scheme(rule.scheme)(log_q, 4).enumerate()
    found = np.zeros(4)
    for ancestors, p in zip(vectors, np.exp(log_p), strict=True):
        carried = np.exp(np.asarray(rule.carried(LOG_WEIGHTS, log_q, jnp.asarray(ancestors))))
        np.add.at(found, ancestors, p * carried)
    return found


@pytest.mark.parametrize("name", SCHEMES)
def test_every_corrected_combination_is_properly_weighted_exactly(name):
    """So E[Z^] = Z for every N: the mean weight of a particle's children is its own weight."""
    for anneal, lookahead in itertools.product(ANNEALS.values(), (False, True)):
        rule = smc.Resampler("always", anneal, name, lookahead=lookahead)
        assert rule.claim == "unbiased"
        np.testing.assert_allclose(mean_offspring_weight(rule), np.exp(LOG_WEIGHTS), rtol=1e-12)


def test_what_drops_the_residual_weight_is_not_properly_weighted():
    plain = smc.Resampler("always", None, correct=False)
    assert plain.claim == "unbiased"
    np.testing.assert_allclose(mean_offspring_weight(plain), np.exp(LOG_WEIGHTS), rtol=1e-12)
    for rule in (smc.entropic_particle_filter("base"), smc.Resampler("always", None, correct=False, lookahead=True)):
        assert rule.claim == "approximate"
        gap = mean_offspring_weight(rule) - np.exp(LOG_WEIGHTS)
        assert np.abs(gap).max() > 0.2


def test_a_particle_whose_one_successor_is_worthless_may_still_be_drawn():
    """Another successor may fare better, so q > 0 wherever w > 0."""
    here = population(True)._replace(log_ahead=jnp.array([0.0, 0.0, -jnp.inf, 0.0]))
    log_q, _, _ = smc.Resampler(lookahead=True).log_resampling_weights(here)
    np.testing.assert_array_equal(log_q > -jnp.inf, -jnp.inf < LOG_WEIGHTS)


def test_annealing_schedules_are_the_published_ones():
    log_weights = jnp.log(jnp.array([0.85, 0.05, 0.05, 0.05]))
    share = jnp.asarray(0.25)
    w = np.exp(np.asarray(log_weights))
    ess, h = 1 / (w**2).sum() / 4, -(w * np.log(w)).sum() / np.log(4)
    np.testing.assert_allclose(smc.EntropicAnnealing()(log_weights, share), 0.75 / ess)
    np.testing.assert_allclose(smc.EntropicAnnealing("entropy")(log_weights, share), 1 / (h + (1 - h) * 0.25))
    np.testing.assert_allclose(smc.EntropicAnnealing("base")(log_weights, share), 1.75)
    assert smc.EntropicAnnealing()(log_weights, jnp.asarray(0.5)) == 1
    for method in ("ess", "entropy"):
        assert smc.EntropicAnnealing(method)(jnp.zeros(1), share) == 1
    # A 50/50 split of the weights leaves e at 1/2, and the published schedule does not act.
    half = jnp.log(jnp.array([0.5, 0.5 - 2e-9, 1e-9, 1e-9]))
    assert smc.EntropicAnnealing()(half, share) == 1
    tau = float(smc.FloorAnnealing(0.8)(half, share))
    powered = np.exp(np.asarray(half) / tau)
    np.testing.assert_allclose(powered.sum() ** 2 / (powered**2).sum() / 4, 0.8, rtol=1e-6)
    assert smc.FloorAnnealing(0.8)(jnp.log(jnp.full(4, 0.25)), share) == 1


EXACT = {
    "A": (8.909927, 1.000000, [0.1993, 0.0122, 0.0006, 0.0122], [3.664, 2.239, 1, 3.567, 3.256, 1]),
    "B": (11.139187, 1.000000, [0.1993, 0.0122, 0.0006, 0.0122], [5.467, 3.883, 2.427, 3.002, 1.643, 1]),
    "C": (19.909927, 1.000000, [0.0839, 0.8333, 0.9963, 0.9999], [4.746, 1]),
    "D": (7.058218, 0.996693, [0.4036, 0.0852, 0.0152, 0.0049], [2.471, 1.907, 1, 1, 1.345, 1]),
}


@pytest.mark.parametrize("name", EXACT)
def test_the_letter_cases_have_their_reference_answers(name):
    log_z, right, filtered, temperatures = EXACT[name]
    exact = letters.exact(letters.CASES[name])
    assert abs(exact.log_evidence - log_z) < 1e-6
    assert abs(exact.right - right) < 1e-6
    np.testing.assert_allclose(exact.filtered[:4], filtered, atol=1e-4)  # the reference cuts the last digit off
    np.testing.assert_allclose(exact.temperatures[: len(temperatures)], temperatures, atol=6e-4)


@pytest.fixture(scope="module")
def mild():
    """A case whose Z^ has light tails."""
    return letters.Case(2, 0.4, 0.2, 0.05)


RULES = {
    "default": smc.Resampler(),
    "floor and look-ahead": smc.Resampler("always", smc.FloorAnnealing(), "stratified", lookahead=True),
    "own trigger": smc.Resampler(lambda step, ess: (step % 3 == 0) | (ess < 0.3), None, "residual"),
}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("floor and look-ahead", "own trigger")]


@pytest.mark.parametrize("name", ["default", *SLOW])
def test_the_evidence_is_unbiased_over_runs(mild, name):
    """z-test of 10,000 runs at N = 4, |z| < 4: a false alarm in 16,000."""
    cell = letters.measure(mild, RULES[name], 4, 10_000, 3, 10_000)
    assert cell.ratio_error < 0.01
    assert abs(cell.ratio - 1) < 4 * cell.ratio_error


def test_the_uncorrected_filter_converges_to_the_tempered_flow_and_not_to_the_target():
    """At N = 100,000 (case C: Z^ is 2.1 nats off). The limits are exact; found 0.002 from the first."""
    case = letters.CASES["C"]
    exact = letters.exact(case)
    assert exact.annealed_log_evidence - exact.log_evidence > 1.5
    found = letters.estimates(case, smc.entropic_particle_filter(), 100_000, jax.random.split(jax.random.key(0), 1))
    assert abs(float(found.log_evidence[0]) - exact.annealed_log_evidence) < 0.05
    assert abs(float(found.log_evidence[0]) - exact.log_evidence) > 1.0


def stops(length_of):
    """Answers of kind 0 or 1 with equal prior odds; kind k finishes after `length_of[k]` steps."""

    def propose(states, keys):
        kind, length = states
        drawn = jax.vmap(partial(jax.random.bernoulli, p=0.5))(keys).astype(jnp.int32)
        return jnp.where(length == 0, drawn, kind), length + 1

    def finished(states):
        return states[1] >= jnp.asarray(length_of, jnp.int32)[states[0]]

    def score(states):
        # The whole reward, 2.0, comes with the last step of either kind.
        return jnp.where(finished(states), 2.0, 0.0)

    return smc.BlackBox((jnp.int32(0), jnp.int32(0)), propose, score, finished)


def test_answers_of_equal_reward_keep_their_prior_odds_whatever_their_length():
    """A short answer that were weighed again at each later step would win by e^{2 * 4} to 1. z-test, |z| < 4."""
    box = stops([1, 5])

    def one(key):
        run = smc.steer(
            box, key, num_particles=8, max_steps=6, potential=WEIGHTS, rule=smc.Resampler("always"), history=False
        )
        return jnp.exp(run.log_evidence) * jnp.sum(jnp.where(run.states[0] == 0, run.weights, 0)), run.generator_calls

    short, calls = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), 4000))
    short = np.asarray(short) / np.exp(2.0)
    assert abs(short.mean() - 0.5) < 4 * short.std() / np.sqrt(4000)
    assert (np.asarray(calls) <= 8 * 5).all()


def test_the_last_potential_is_used_once():
    """Drawing from the final weights gives the target; a second use of the last score would square it."""
    chain = three_letters()
    run = smc.steer(chain.box(), 0, num_particles=20_000, max_steps=STEPS, potential=WEIGHTS)
    paths, prior, g = sequences(chain)
    target = np.bincount(paths[:, -1], prior * g, 3) / (prior * g).sum()
    twice = np.bincount(paths[:, -1], prior * g * np.exp(np.asarray(chain.log_g)[3, paths[:, -1]]), 3)
    twice = twice / twice.sum()
    weights = np.asarray(run.weights)
    picks = np.random.default_rng(1).choice(20_000, 20_000, p=weights / weights.sum())
    found = np.bincount(np.asarray(run.states[0])[picks], minlength=3) / 20_000
    # Two rounds of 20,000 draws: 0.02 is four standard errors, and the mistake is farther away than that.
    assert np.abs(twice - target).max() > 0.1
    assert np.abs(found - target).max() < 0.02
    index = int(np.asarray(run.log_weights).argmax())
    assert run.answer("argmax")[0] == run.states[0][index]


def test_a_sampled_answer_has_the_law_of_the_weights():
    """Not that of weights times last score. Chi-square of 500 answers, p > 1e-4; the mistake has p < 1e-10."""
    run = smc.steer(three_letters().box(), 0, num_particles=6, max_steps=STEPS, potential=WEIGHTS)
    indices = [answer_index(run, "sample", key=jax.random.key(i)) for i in range(500)]
    counts, weights = np.bincount(indices, minlength=6), np.asarray(run.weights)
    assert stats.chisquare(counts, 500 * weights / weights.sum()).pvalue > 1e-4
    twice = weights * np.exp(np.asarray(run.scores))
    assert stats.chisquare(counts, 500 * twice / twice.sum()).pvalue < 1e-10


def test_lineages_and_histories_agree():
    chain = three_letters()
    run = smc.steer(chain.box(), 0, num_particles=6, max_steps=STEPS, potential=WEIGHTS)
    paths = np.asarray(run.trajectories()[0]).T  # (N, T)
    total = np.asarray(chain.log_g)[np.arange(STEPS), paths].sum(axis=1)
    np.testing.assert_allclose(run.log_potential, total)
    np.testing.assert_array_equal(paths[:, -1], run.states[0])
    assert run.num_steps == STEPS
    assert (run.generator_calls, run.judge_calls) == (24, 24)


def test_answers_by_vote_score_and_first_to_finish():
    run = smc.steer(stops([1, 5]), 2, num_particles=12, max_steps=6, potential=WEIGHTS, rule=smc.Resampler("never"))
    kinds, weights = np.asarray(run.states[0]), np.asarray(run.weights)
    heavier = int(weights[kinds == 1].sum() > weights[kinds == 0].sum())
    assert run.answer("vote", by=lambda s: s[0])[0] == heavier
    assert run.answer("majority", by=lambda s: int(s[0]))[0] == int((kinds == 1).sum() > 6)
    assert run.answer("score", by=lambda s: np.asarray(s[0]))[0] == 1
    assert run.answer("first")[0] == 0
    assert run.done.all()
    assert run.num_steps == 5  # the run ends when the last answer does
    with pytest.raises(ArgumentError, match="needs a key"):
        run.answer("sample")
    with pytest.raises(ArgumentError, match="needs a function"):
        run.answer("vote")


def test_a_budget_ends_the_run_before_it_is_overspent():
    chain = three_letters()
    cut = smc.steer(chain.box(), 0, num_particles=5, max_steps=STEPS, potential=WEIGHTS, budget=smc.Budget(14, 100))
    assert (cut.generator_calls, cut.num_steps) == (10, 2)
    assert not cut.done.any()
    assert cut.ancestors.shape == (2, 5)
    final = smc.Potential("exp", "final")
    early = smc.steer(chain.box(), 0, num_particles=5, max_steps=STEPS, potential=final, budget=smc.Budget(judge=14))
    np.testing.assert_allclose(early.log_weights, early.scores)  # the last step it can afford is the final one
    with pytest.raises(ArgumentError, match="do not suffice for one step of 5"):
        smc.steer(chain.box(), 0, num_particles=5, max_steps=STEPS, potential=WEIGHTS, budget=smc.Budget(4))


def judged(score):
    return smc.BlackBox(jnp.zeros(()), lambda states, keys: states + 1.0, score)


def test_faults_name_the_step_and_the_particle():
    odds = smc.Potential("odds", "step")
    with pytest.raises(DataError, match=r"score: 1.5 for particle 0 at step 2; link 'odds' needs .* between 0 and 1"):
        smc.steer(judged(lambda s: jnp.where(s == 2, 1.5, 0.5)), num_particles=3, max_steps=3, potential=odds)
    with pytest.raises(DataError, match="NaN for particle 1 at step 3"):
        smc.steer(
            judged(lambda s: jnp.where((s == 3) & (jnp.arange(3) == 1), jnp.nan, 0.5)),
            num_particles=3,
            max_steps=3,
            potential=odds,
        )
    with pytest.raises(InferenceError, match="all 3 weights are zero at step 2") as caught:
        smc.steer(
            judged(lambda s: jnp.where(s == 2, 0.0, 0.5)),
            num_particles=3,
            max_steps=3,
            potential=smc.Potential("bernoulli", "step"),
        )
    assert caught.value.partial.log_evidence == -jnp.inf
    with pytest.raises(ModelError, match="expected one number for each of 3 states"):
        smc.steer(judged(lambda s: s[:2]), num_particles=3, max_steps=3, potential=odds)
    box = smc.BlackBox(jnp.zeros(()), lambda states: (states, states), lambda s: s)
    with pytest.raises(ModelError, match="expected states of the structure"):
        smc.steer(box, num_particles=3, max_steps=3, potential=odds)


def test_new_data_of_the_same_shape_compile_nothing():
    def run(case):
        return smc.steer(case.box(), 1, num_particles=4, max_steps=3, potential=letters.POTENTIAL)

    run(letters.CASES["A"])
    with compiled() as count:
        run(letters.CASES["D"])
    assert count == []


def test_single_precision_gives_the_same_weights():
    chain = three_letters()
    with jax.enable_x64(False):
        single = jax.tree.map(lambda a: a.astype(jnp.float32), chain)
        low = smc.steer(
            single.box(), 0, num_particles=8, max_steps=STEPS, potential=WEIGHTS, rule=smc.Resampler("always")
        )
        assert low.log_weights.dtype == jnp.float32
        total = np.asarray(single.log_g)[np.arange(STEPS), np.asarray(low.trajectories()[0]).T].sum(axis=1)
    np.testing.assert_allclose(low.log_potential, total, rtol=1e-5)
