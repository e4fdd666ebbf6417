"""The exact measure of finite programs, against sums written by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from probinf.errors import ModelError
from probinf.language import statements as pi
from probinf.language.program import model
from probinf.transformations.algorithms import enumerate_program
from probinf.validity.programs import DATA, EMISSION, PROGRAMS, TRANSITION, hidden_markov
from probinf.validity.random_programs import generated


def bernoulli(p, x):
    return p if x else 1 - p


def assert_table(program, expected):
    table = enumerate_program(program).table()
    for key in set(table) | set(expected):
        assert table.get(key, 0.0) == pytest.approx(expected.get(key, 0.0), rel=1e-13, abs=1e-300), key


def test_hidden_markov_model():
    transition, emission, expected = np.asarray(TRANSITION), np.asarray(EMISSION), {}
    for path in itertools.product((0, 1), repeat=2):
        mass, z = 1.0, 0
        for new, y in zip(path, (1, 0), strict=True):
            mass *= transition[z, new] * bernoulli(emission[new], y)
            z = new
        expected[(path,)] = mass
    assert_table(hidden_markov(DATA), expected)


def test_static_parameter():
    expected = {}
    for theta, *path in itertools.product((0, 1), repeat=3):
        mass, carry = bernoulli(0.4, theta), 0
        for z, y in zip(path, (1, 0), strict=True):
            mass *= bernoulli(0.7 if carry == theta else 0.25, z) * np.exp((0 if z == y else -1.2) + 0.3 * theta)
            carry = z
        expected[theta, tuple(z + theta for z in path)] = mass
    assert_table(PROGRAMS["static_parameter"], expected)


def test_random_branch():
    expected = {
        (1, 1): 0.3 * 0.6 * np.exp(-0.5) * 0.9,
        (0, 0): 0.7 * np.exp(-0.2) * 0.3,
    }
    assert_table(PROGRAMS["random_branch"], expected)


def test_early_termination():
    expected = {}
    for a in (0, 1):
        go, base = (0.8 if a else 0.4), bernoulli(0.3, a)
        first = {g: bernoulli(go, g) * np.exp(-0.3 * g + 0.5 * a) for g in (0, 1)}
        expected[a, 1] = base * first[0] * np.exp(-0.4 * a)
        expected[a, 2] = base * first[1] * (first[0] + first[1]) * np.exp(-0.8 * a)
    assert_table(PROGRAMS["early_termination"], expected)


def test_scores_in_a_condition_count_once_per_evaluation():
    loop = np.exp(3 * -0.25 - 0.5)
    expected = {(1, 2): loop * 0.3 * np.exp(0.4), (0, 2): loop * 0.7 * np.exp(-0.2)}
    assert_table(PROGRAMS["score_in_condition"], expected)


def test_draws_in_a_condition():
    stop = 0.6  # at n = 0 the loop goes on exactly when `go` is drawn
    again = 0.4 * np.exp(-0.7)
    last = (0.6 + 0.4 * np.exp(-0.7)) * np.exp(0.2)
    assert_table(PROGRAMS["draw_in_condition"], {(0,): stop, (1,): again * last * np.exp(-0.3)})


def test_three_way_switch():
    o = [0.2, 0.9, 0.5, 0.7]
    expected = {
        (0, 0): 0.5 * 0.7 * o[0],
        (0, 1): 0.5 * 0.3 * np.exp(0.6) * o[1],
        (1, 2): 0.2 * np.exp(-0.7) * o[2],
        (2, 3): 0.3 * o[3],
    }
    assert_table(PROGRAMS["three_way_switch"], expected)


def test_nested_plates():
    ys, expected = [[1, 0], [1, 1]], {}
    for z in itertools.product((0, 1), repeat=2):
        mass = bernoulli(0.3, z[0]) * bernoulli(0.6, z[1])
        for row in ys:  # the inner plate is the left axis, the outer one the right axis
            for zi, y in zip(z, row, strict=True):
                mass *= bernoulli(0.8 if zi else 0.1, y)
        expected[(z,)] = mass
    assert_table(PROGRAMS["nested_plates"], expected)


def test_reversed_loops_run_backwards():
    expected = {}
    for a, first, second in itertools.product((0, 1), repeat=3):
        mass, z = bernoulli(0.4, a), 0
        for new, y in ((second, 0), (first, 1)):
            mass *= bernoulli(0.7 if z == a else 0.2, new) * np.exp(0 if new == y else -1.0)
            z = new
        expected[a, (first, second), first] = mass
    assert_table(PROGRAMS["reversed_loop"], expected)


def test_a_program_without_mass():
    measure = enumerate_program(PROGRAMS["no_mass"])
    assert measure.log_evidence == -np.inf
    assert set(measure.table().values()) == {0.0}


def test_expectations_integrate_against_the_unnormalised_measure():
    measure = enumerate_program(PROGRAMS["unequal_factors"])
    total = sum(mass * key[0] for key, mass in measure.table().items())
    assert measure.expectation(lambda value: value[0]) == pytest.approx(total, rel=1e-14)
    assert measure.expectation(lambda value: 1.0) == pytest.approx(np.exp(measure.log_evidence), rel=1e-14)


@model
def families():
    k = pi.sample("k", dist.Binomial(2, 0.3))
    u = pi.sample("u", dist.DiscreteUniform(k, k + 1))
    with pi.plate("n", 2):
        c = pi.sample("c", dist.Categorical(jnp.array([0.2, 0.8])))
    return k, u, c


def test_other_families_and_supports_that_depend_on_draws():
    table = enumerate_program(families()).table()
    binomial = [0.49, 0.42, 0.09]
    assert sum(table.values()) == pytest.approx(1, rel=1e-13)
    assert table[2, 3, (0, 1)] == pytest.approx(binomial[2] * 0.5 * 0.2 * 0.8, rel=1e-13)


@model
def gaussian():
    return pi.sample("x", dist.Normal(0.0, 1.0))


@model
def wide():
    with pi.plate("n", 25):
        return pi.sample("x", dist.Bernoulli(0.5))


def test_a_draw_without_finite_support_is_refused_by_name():
    with pytest.raises(ModelError, match=r"'x' .*Normal has no finite support"):
        enumerate_program(gaussian())


def test_too_many_values_are_refused_by_name():
    with pytest.raises(ModelError, match=r"'x' .*2\^25 values are too many"):
        enumerate_program(wide())


def test_the_random_language_means_what_its_grammar_says():
    """One tree of every statement, against the sum written by hand."""
    tree = (
        ("draw", 0, 0, 0),  # x0 ~ B(.2): values[0] is the constant 0
        ("branch", 1, (("draw", 0, 1, 1), ("factor", 2, 0, 2)), (("factor", 0, 1, 1),)),
        ("observe", 2, 0, 2),
    )
    expected = {
        (1, 1): 0.2 * 0.5 * np.exp(-0.9) * 0.75,
        (1, 0): 0.2 * 0.5 * 1.0 * 0.2,
        (0, 0): 0.8 * np.exp(0.4) * 0.2,
    }
    assert_table(generated(tree), expected)


def test_unrolled_and_scanned_loops_mean_the_same():
    @model
    def unrolled(ys):
        z, path = 0, []
        for t in range(2):
            z = pi.sample(f"z{t}", dist.Categorical(jnp.asarray(TRANSITION)[z]))
            pi.sample(f"y{t}", dist.Bernoulli(jnp.asarray(EMISSION)[z]), obs=ys[t])
            path.append(z)
        return jnp.stack(path)

    assert_table(unrolled(DATA), enumerate_program(hidden_markov(DATA)).table())


def test_jit_changes_nothing():
    @model
    def compiled(ys):
        return jax.jit(hidden_markov.function)(ys)

    assert_table(compiled(DATA), enumerate_program(hidden_markov(DATA)).table())


@pytest.mark.parametrize("name", ["hidden_markov", "random_branch", "no_mass", "zero_weights"])
def test_aggregating_merges_equal_results_and_keeps_the_measure(name):
    law = enumerate_program(PROGRAMS[name])
    merged = law.aggregate()
    assert len(merged.log_weights) == len(law.table())
    assert merged.table() == pytest.approx(law.table(), rel=1e-13)
    np.testing.assert_allclose(merged.log_evidence, law.log_evidence, rtol=1e-13)


def test_worlds_that_agree_on_what_is_left_are_merged():
    """A hundred draws that only their sum needs: 101 rows, not 2^100 worlds; the sum is binomial."""

    @model
    def coins():
        def step(total, _):
            return total + pi.sample("x", dist.BernoulliProbs(0.3)), None

        return jax.lax.scan(step, jnp.zeros((), jnp.int64), length=100)[0]

    table = enumerate_program(coins()).table()
    assert len(table) == 101
    for k in (0, 17, 30, 64, 100):
        expected = float(jnp.exp(dist.Binomial(100, 0.3).log_prob(k)))
        np.testing.assert_allclose(table[(k,)], expected, rtol=1e-10)
