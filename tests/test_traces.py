"""Traces under static shapes: the program seen through units of randomness is the program."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import probinf as pi
from probinf.errors import InferenceError, ModelError, UnknownNameError
from probinf.kernels.running import find_starts, require_starts, with_key
from probinf.transformations.algorithms import enumerate_program
from probinf.transformations.randomness import Ticks
from probinf.transformations.targets import Assigned, Prefix
from probinf.validity.measures import assert_same_measure, discrepancy
from probinf.validity.programs import DATA, PROGRAMS, hidden_markov
from probinf.validity.shipped import ticked


@pi.model
def halves(ys):
    """Probabilities that are multiples of 1/2, so that two ticks are exact."""

    def step(z, y):
        z = pi.sample("z", dist.BernoulliProbs(jnp.where(z == 1, 0.5, 1.0)))
        pi.factor("f", jnp.where(z == y, 0.0, -0.7))
        return z, z

    return jax.lax.scan(step, 0, ys)[1]


def test_ticks_are_exact_where_probabilities_are_multiples_of_their_share():
    assert_same_measure(ticked(halves(DATA)), halves(DATA))


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_has_traces_and_their_weights_are_its_scores(name, key):
    """A trace has one weight, which is not NaN, and stopping after all scores changes nothing."""
    target = pi.Traced(PROGRAMS[name])
    slots = with_key(target.draw, key)
    trace = target.replay(slots)
    assert np.shape(trace.log_weight) == ()
    assert not np.isnan(trace.log_weight)
    again = target.replay(slots)
    assert float(again.log_weight) == float(trace.log_weight)
    whole = target.replay(slots, jnp.int32(target.num_scores + 5))
    np.testing.assert_allclose(float(whole.log_weight), float(trace.log_weight), rtol=1e-13)


def test_prefixes_take_the_scores_one_by_one(key):
    target = pi.Traced(hidden_markov(DATA))
    slots = with_key(target.draw, key)
    weights = [float(Prefix(target, jnp.int32(c)).replay(slots).log_weight) for c in range(3)]
    z = np.asarray(target.values_of(slots)["z"])
    emission = np.array([0.2, 0.9])
    steps = [np.log(np.where(y == 1, emission[s], 1 - emission[s])) for s, y in zip(z, np.asarray(DATA), strict=True)]
    np.testing.assert_allclose(weights, np.cumsum([0.0, *steps]), rtol=1e-12)


def test_ages_count_the_scores_before_each_place(key):
    target = pi.Traced(hidden_markov(DATA))
    np.testing.assert_array_equal(target.ages_of(with_key(target.draw, key))["z"], [0, 1])


@pi.model
def scales():
    sigma = pi.sample("sigma", dist.LogNormal(0.0, 0.5))
    x = pi.sample("x", dist.Normal(0.0, sigma).expand([3]))
    pi.observe("y", dist.Normal(x, 1.0), jnp.array([0.1, -1.0, 2.0]))


def test_values_are_weighed_by_their_density_on_unconstrained_space(key):
    program = scales()
    target = pi.Traced(program, values=("sigma", "x"))
    slots = with_key(target.draw, key)
    drawn = target.values_of(slots)
    expected = program.log_density({"sigma": drawn["sigma"], "x": drawn["x"]}) + jnp.log(drawn["sigma"])
    np.testing.assert_allclose(float(target.replay(slots).log_weight), float(expected), rtol=1e-12)
    back = target.slots_from({"sigma": drawn["sigma"], "x": drawn["x"]})
    np.testing.assert_allclose(back["sigma"], slots["sigma"], rtol=1e-12)
    np.testing.assert_allclose(back["x"], slots["x"], rtol=1e-12)


def test_draws_of_units_and_values_have_the_prior_law():
    """20,000 traces; 6 standard errors: false alarm below 1e-8 for the four moments."""
    target = pi.Traced(scales(), values=("sigma",))
    keys = jax.random.split(jax.random.key(0), 20_000)
    values = jax.vmap(lambda k: target.values_of(with_key(target.draw, k)))(keys)
    log_sigma = np.log(np.asarray(values["sigma"]))
    assert abs(log_sigma.mean()) < 6 * 0.5 / np.sqrt(20_000)
    assert abs(log_sigma.std() - 0.5) < 6 * 0.5 / np.sqrt(2 * 20_000)
    z = np.asarray(values["x"])[:, 0] / np.asarray(values["sigma"])
    assert abs(z.mean()) < 6 / np.sqrt(20_000)
    assert abs(z.std() - 1) < 6 / np.sqrt(2 * 20_000)


def test_assignments_weigh_their_log_density():
    program = hidden_markov(DATA)
    value = {"z": jnp.array([1, 0])}
    assert float(Assigned(program).replay(value).log_weight) == float(program.log_density(value))


@pytest.mark.bad_input
def test_values_of_sites_that_may_not_be_reached_are_refused():
    with pytest.raises(ModelError, match="not reached in every execution"):
        pi.Traced(PROGRAMS["random_branch"], values=[PROGRAMS["random_branch"].staged.latent()[-1].name])


@pytest.mark.bad_input
def test_an_unknown_site_gets_the_nearest_name():
    with pytest.raises(UnknownNameError, match="Did you mean 'sigma'"):
        pi.Traced(scales(), values=("sigm",))


@pytest.mark.bad_input
def test_a_program_without_mass_has_no_start():
    with pytest.raises(InferenceError, match="positive weight was found for 2 of 2 chains"):
        require_starts(jax.jit(lambda k: find_starts(pi.Traced(PROGRAMS["no_mass"]), k, 2))(jax.random.key(0)))


def test_a_ticked_program_of_a_broken_unit_differs(monkeypatch):
    """The reference of the suite is not vacuous: another quantile gives another measure."""
    exact = enumerate_program(ticked(hidden_markov(DATA)))
    monkeypatch.setattr(Ticks, "value", lambda self, law, unit: jnp.zeros((), jnp.int64))
    broken = enumerate_program(ticked(hidden_markov(DATA)))
    assert discrepancy(exact, broken)[0] > 1e-3
