"""A particle filter on a finite program, enumerated: its exact law, ancestors included, against the program's measure.

For every program, number of particles, scheme and threshold, and for every whole trace x,

    sum over worlds w of P(w) exp(F(w)) Zhat(w) sum_i W_i(w) [x_i(w) = x]  =  measure of x,

with F the scores pushed outwards (Ścibior et al. 2018). Statistical tests of Zhat miss faults that this one finds.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from probinf.errors import ArgumentError, ArgumentTypeError, UnknownNameError
from probinf.language import statements as pi
from probinf.language.program import Model, model
from probinf.transformations.algorithms import enumerate_program, population, recorded
from probinf.transformations.resampling import SCHEMES
from probinf.validity.measures import assert_same_measure, atoms, discrepancy
from probinf.validity.programs import (
    DATA,
    PROGRAMS,
    counter_around_a_call,
    hidden_markov,
    static_parameter,
    zero_weights,
)

# Every program meets "multinomial, always" and one more rule in turn; the whole grid is in the slow lane. Multinomial,
# because two sorted ancestors are idempotent (A[A] = A), which hides faults in the order of composition.
RULES = [*((s, t) for t in (0.5, 1.0) for s in SCHEMES if (s, t) != ("multinomial", 1.0)), ("systematic", 0.0)]
PAIRS = [
    (name, *rule)
    for i, name in enumerate(PROGRAMS)
    for rule in (("multinomial", 0.5 if name == "nested_loops" else 1.0), RULES[i % len(RULES)])
]
ONE = ["hidden_markov", "random_branch", "early_termination", "zero_weights", "no_mass", "random_inputs"]
THREE = ["hidden_markov", "zero_weights", "timed_factor"]
TOO_MANY = {("nested_loops", 3), ("random_inputs", 3), ("static_parameter", 3), ("early_termination", 3)}


@functools.cache
def reference(name):
    return enumerate_program(PROGRAMS[name])


@pytest.mark.parametrize(("name", "scheme", "threshold"), PAIRS)
def test_two_particles_mean_the_programs_measure(name, scheme, threshold):
    assert_same_measure(population(PROGRAMS[name], 2, resample=scheme, threshold=threshold), reference(name))


@pytest.mark.parametrize(
    ("name", "scheme"), [*((name, "multinomial") for name in ONE), *(("zero_weights", s) for s in ("ssp", "killing"))]
)
def test_one_particle_means_the_programs_measure(name, scheme):
    assert_same_measure(population(PROGRAMS[name], 1, resample=scheme, threshold=1.0), reference(name))


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", THREE)
def test_three_particles_mean_the_programs_measure(name, scheme):
    threshold = 0.5 if scheme in ("multinomial", "killing") else 1.0
    assert_same_measure(population(PROGRAMS[name], 3, resample=scheme, threshold=threshold), reference(name))


@pytest.mark.slow
@pytest.mark.parametrize(("num", "scheme", "threshold"), list(itertools.product((1, 2, 3), SCHEMES, (0.0, 0.5, 1.0))))
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_whole_grid(name, num, scheme, threshold):
    if num == 3 and (scheme in ("multinomial", "stratified", "killing") or (name, num) in TOO_MANY):
        num = 2  # millions of worlds otherwise
    assert_same_measure(population(PROGRAMS[name], num, resample=scheme, threshold=threshold), reference(name))


@model
def two_scores():
    """Two draws with a score each: small enough for populations of populations."""
    a = pi.sample("a", dist.Bernoulli(0.3))
    pi.factor("f", jnp.where(a == 1, -0.2, -1.1))
    b = pi.sample("b", dist.Bernoulli(jnp.where(a == 1, 0.8, 0.4)))
    pi.factor("g", jnp.where(a == b, 0.5, -0.7))
    return a, b


@pytest.mark.parametrize("program", [two_scores(), zero_weights(), static_parameter(DATA[:1])], ids=lambda p: p.name)
@pytest.mark.parametrize(("outer", "inner"), [(1, 2), (2, 1), (2, 2)])
def test_a_population_of_populations_means_the_programs_measure(program, outer, inner):
    within = population(program, inner, resample="systematic", threshold=1.0, push_evidence=True)
    assert_same_measure(population(within, outer, resample="systematic", threshold=1.0), program)


@pytest.mark.parametrize("scheme", ["systematic", "multinomial"])
def test_resampling_inside_a_loop_that_holds_nothing_random_moves_what_is_outside(scheme):
    program = counter_around_a_call()
    assert_same_measure(population(program, 2, resample=scheme, threshold=0.9), program)


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_pushed_evidence_is_scored_once(threshold):
    """With push_evidence the returned population holds the last increment only; the rest are scores of the program."""
    program = hidden_markov(DATA)
    pushed = population(program, 2, threshold=threshold, push_evidence=True)
    assert_same_measure(pushed, program)
    assert float(np.abs(enumerate_program(pushed).values.collected).max()) == 0.0


@pytest.mark.parametrize("name", ["hidden_markov", "random_branch", "zero_weights"])
def test_the_evidence_estimate_is_unbiased(name):
    law = enumerate_program(population(PROGRAMS[name], 2, resample="systematic", threshold=0.5))
    estimates = np.exp(np.asarray(jax.vmap(lambda p: p.log_evidence)(law.values)))
    mean, exact = np.sum(np.exp(law.log_weights) * estimates), np.exp(reference(name).log_evidence)
    np.testing.assert_allclose(mean, exact, rtol=1e-12, atol=0)


def named(program):
    """The same program, its return value under names, so that recording it says where the mass of each result is."""

    def function(*operands):
        args, kwargs = program.arguments.join(operands)
        for i, leaf in enumerate(jax.tree.leaves(program.function(*args, **kwargs))):
            pi.deterministic(f"result{i}", leaf)

    function.__name__ = f"named_{program.name}"
    return Model(function)(*program.arguments.dynamic)


@pytest.mark.parametrize("name", PROGRAMS)
def test_recording_keeps_the_measure(name):
    """The recorded program's marginal on the results equals the program's measure, conditional sites included."""
    law = enumerate_program(recorded(named(PROGRAMS[name])))
    results = [law.values[f"result{i}"] for i in range(len(jax.tree.leaves(reference(name).values)))]
    marginal = type(law)(law.log_weights, tuple(results))
    error, scale = discrepancy(marginal, reference(name))
    assert error <= 1e-12 * scale


def test_a_population_of_a_recorded_program_keeps_whole_traces():
    program = recorded(hidden_markov(DATA))
    assert_same_measure(population(program, 2, threshold=1.0), program)
    path = enumerate_program(hidden_markov(DATA))
    np.testing.assert_array_equal(np.sort(atoms(enumerate_program(program))[0]), np.sort(atoms(path)[0]))


def test_the_history_ends_with_the_evidence_of_the_result(key):
    result, log_weight = population(hidden_markov(DATA), 5, resample="systematic", threshold=0.5).run(key)
    assert float(log_weight) == 0.0
    history = result.history["y"]
    assert history["ess"].shape == (2,)
    np.testing.assert_allclose(history["log_evidence"][-1], result.log_evidence, rtol=1e-13)
    assert np.all((history["ess"] >= 1 - 1e-12) & (history["ess"] <= 5 + 1e-12))


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_a_population_without_mass_reports_it_and_holds_no_nan(threshold, key):
    result, _ = population(PROGRAMS["no_mass"], 4, threshold=threshold).run(key)
    assert float(result.log_evidence) == -np.inf
    assert np.all(np.asarray(result.log_weights) == -np.inf)
    assert np.isfinite(float(result.collected))
    assert np.all(np.asarray(result.history["f"]["ess"]) == 0)


def test_one_particle_without_resampling_is_a_weighted_draw():
    """N = 1: the law of (value, weight) is the law of one forward run."""
    law = enumerate_program(population(hidden_markov(DATA), 1, threshold=1.0))
    weights = np.exp(law.log_weights + np.asarray(jax.vmap(lambda p: p.log_evidence)(law.values)))
    exact = reference("hidden_markov").table()
    paths = [tuple(p) for p in np.asarray(law.values.particles)[:, 0].tolist()]
    for path, weight in zip(paths, weights, strict=True):
        np.testing.assert_allclose(weight, exact[(path,)], rtol=1e-13)


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_particles_agree_with_exact_posterior_means_at_scale(threshold, key):
    """20,000 particles against the enumerated posterior: 6 standard errors of a mean of independent draws, or 2e-9."""
    program = hidden_markov(DATA)
    result, _ = population(program, 20_000, threshold=threshold).run(key)
    exact = program_mean(program)
    mean = np.asarray(result.expectation(lambda z: jnp.asarray(z, float)))
    # Weights lie within [0.1, 0.9]^2, so the variance of the ratio is at most 81/4 of an independent draw's.
    np.testing.assert_allclose(mean, exact, atol=6 * np.sqrt(81 / 4 * 0.25 / 20_000))


def program_mean(program):
    measure = enumerate_program(program)
    mass = np.exp(measure.log_weights)
    return (mass[:, None] * np.asarray(measure.values)).sum(0) / mass.sum()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("num", "options", "error", "message"),
    [
        (0, {}, ArgumentError, "num_particles: expected at least 1, found 0"),
        (2.5, {}, ArgumentTypeError, "num_particles: expected an integer"),
        (True, {}, ArgumentTypeError, "num_particles: expected an integer"),
        (2, {"threshold": 1.5}, ArgumentError, r"threshold: expected a fraction in \[0, 1\], found 1.5"),
        (2, {"threshold": float("nan")}, ArgumentError, "threshold: expected a fraction"),
        (2, {"resample": "systemic"}, UnknownNameError, "Did you mean 'systematic'"),
    ],
)
def test_numbers_outside_their_range_are_refused(num, options, error, message):
    with pytest.raises(error, match=message):
        population(hidden_markov(DATA), num, **options)
