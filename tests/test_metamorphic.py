"""Pairs of programs that mean the same, and algorithms that are each other: entrywise equality by enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import probinf as pi
from probinf.transformations.algorithms import enumerate_program
from probinf.validity.measures import assert_same_measure
from probinf.validity.programs import DATA, PROGRAMS, hidden_markov

P = jnp.array([0.3, 0.8])


def draw(name, p):
    return pi.sample(name, dist.BernoulliProbs(p))


@pi.model
def plain():
    a = draw("a", 0.3)
    b = draw("b", 0.6)
    pi.factor("f", jnp.where(a == b, -0.2, -1.3))
    return a, b


@pi.model
def swapped():
    b = draw("b", 0.6)
    a = draw("a", 0.3)
    pi.factor("f", jnp.where(a == b, -0.2, -1.3))
    return a, b


@pi.model
def split_factor():
    a = draw("a", 0.3)
    b = draw("b", 0.6)
    pi.factor("f", 0.4 * jnp.where(a == b, -0.2, -1.3))
    pi.factor("g", 0.6 * jnp.where(a == b, -0.2, -1.3))
    return a, b


@pi.model
def with_an_unused_draw():
    a = draw("a", 0.3)
    draw("c", 0.9)
    b = draw("b", 0.6)
    pi.factor("f", jnp.where(a == b, -0.2, -1.3))
    return a, b


@pi.model
def under_jit():
    a = draw("a", 0.3)

    @jax.jit
    def rest(a):
        b = draw("b", 0.6)
        pi.factor("f", jnp.where(a == b, -0.2, -1.3))
        return b

    return a, rest(a)


@pi.model
def part():
    return draw("b", 0.6)


@pi.model
def with_a_sub_model():
    a = draw("a", 0.3)
    b = part()
    pi.factor("f", jnp.where(a == b, -0.2, -1.3))
    return a, b


@pytest.mark.parametrize("other", [swapped, split_factor, with_an_unused_draw, under_jit, with_a_sub_model])
def test_programs_that_mean_the_same(other):
    assert_same_measure(other(), plain())
    assert_same_measure(pi.population(other(), 2, threshold=1.0), plain())


@pi.model
def unrolled(ys):
    z, path = 0, []
    for t in range(2):
        z = pi.sample(f"z{t}", dist.CategoricalProbs(jnp.array([[0.7, 0.3], [0.2, 0.8]])[z]))
        p = jnp.array([0.2, 0.9])[z]
        pi.observe(f"y{t}", dist.BernoulliProbs(p), ys[t])
        path.append(z)
    return jnp.stack(path)


def test_a_scan_is_its_unrolled_loop():
    assert_same_measure(unrolled(DATA), hidden_markov(DATA))


@pi.model
def plated():
    with pi.plate("n", 2):
        x = pi.sample("x", dist.BernoulliProbs(P))
    pi.factor("f", -0.4 * jnp.sum(x.astype(float)))
    return x


@pi.model
def looped():
    def step(total, p):
        x = draw("x", p)
        return total + x, x

    total, x = jax.lax.scan(step, jnp.zeros((), jnp.int64), P)
    pi.factor("f", -0.4 * total.astype(float))
    return x


def test_a_plate_is_a_loop():
    assert_same_measure(plated(), looped())


def test_a_constant_score_scales_the_evidence():
    @pi.model
    def scaled():
        pi.factor("c", 1.5)
        return plain.function()

    assert enumerate_program(scaled()).log_evidence == pytest.approx(enumerate_program(plain()).log_evidence + 1.5)


@pytest.mark.parametrize("name", ["hidden_markov", "random_branch", "zero_weights"])
def test_a_population_that_never_resamples_is_importance_sampling(name):
    """Worlds of N = 2 without resampling: pairs of independent weighted draws."""
    law = enumerate_program(pi.population(PROGRAMS[name], 2, threshold=0.0))
    weights = np.asarray(law.values.log_weights)
    one = enumerate_program(pi.population(PROGRAMS[name], 1, threshold=0.0))
    mass = np.exp(one.log_weights) @ np.exp(np.asarray(one.values.log_weights))
    second = np.exp(law.log_weights) @ np.exp(weights)
    np.testing.assert_allclose(second, np.repeat(mass, 2), rtol=1e-12)
    both = np.exp(law.log_weights) @ np.exp(weights.sum(axis=1))
    np.testing.assert_allclose(both, float(mass[0]) ** 2, rtol=1e-12)


def test_one_particle_annealed_is_annealed_importance_sampling(key):
    """A ladder of one step is a weighted draw followed by a move: the weight is the score of the draw."""
    program = pi.population(pi.tempered(plain(), (1.0,), pi.redraw()), 1, threshold=0.0)
    weights = [float(program.run(k)[0].log_weights[0]) for k in jax.random.split(key, 20)]
    assert set(np.round(weights, 12)) <= {-0.2, -1.3}
    assert len(set(np.round(weights, 12))) == 2


def test_marginalising_before_or_after_a_population_is_the_same():
    """A sub-program summed out by hand against the same sub-program drawn."""

    @pi.model
    def summed():
        a = draw("a", 0.3)
        match = jnp.where(a == 1, 0.6, 0.4)
        pi.factor("f", jnp.log(match * jnp.exp(-0.2) + (1 - match) * jnp.exp(-1.3)))
        return a

    @pi.model
    def drawn():
        return plain.function()[0]

    assert_same_measure(pi.population(summed(), 2, threshold=1.0), drawn())


def test_vectorised_data_sets_equal_a_loop_over_them(key):
    series = jnp.array([[1, 0], [0, 0], [1, 1]])
    program = hidden_markov(series[0])

    def evidence(ys):
        other = program.with_operands(jax.tree.map(lambda _: ys, program.operands))
        return pi.population(other, 50, threshold=1.0).run(key)[0].log_evidence

    together = jax.vmap(evidence)(series)
    one_by_one = jnp.stack([evidence(ys) for ys in series])
    np.testing.assert_allclose(together, one_by_one, rtol=1e-12)
