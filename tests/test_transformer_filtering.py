"""Networks as filters: the protocol, exactness where the model is linear, and the gap to an exact filter."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import smc
from benchmarks.distribution_transformer import exact_filters
from probinf.errors import ArgumentError, ModelError
from probinf.representations.mixture import GaussianMixture
from probinf.streaming import System
from transformers_gmm.components import Components, heaviest
from transformers_gmm.filtering import MixtureFilter
from transformers_gmm.pretrained import load
from transformers_gmm.recurrent import base_only, bounded, run
from transformers_gmm.tasks import range_bearing, ranges
from transformers_gmm.tasks.beacons import Beacons
from transformers_gmm.tasks.growth import Growth
from transformers_gmm.tasks.linear_sensors import LinearSensors
from transformers_gmm.tasks.range_bearing import RangeBearing
from transformers_gmm.updates import factor, hedged


def first_prior(series) -> GaussianMixture:
    """The prior of the first series without its empty components."""
    one = jax.tree.map(lambda x: x[0], series.prior)
    keep = np.isfinite(np.asarray(one.log_weights))
    return GaussianMixture(jnp.exp(one.log_weights[keep]), one.means[keep], scale_tril=one.scale_tril[keep])


@pytest.mark.parametrize("unroll", [1, 8])
def test_windows_of_training_hold_every_step_of_every_series_once(unroll):
    task = Growth(groups=2, unroll=unroll)
    series = task.simulate(jax.random.key(0), 4)
    windows = task.pieces(base_only, series)
    _, scores = run(base_only, task, series.prior, series.steps, series.states)
    for group, part in ((0, scores[:, :2]), (1, scores[:, 2:])):
        window = jax.tree.map(lambda x, group=group: x[group], windows)
        np.testing.assert_allclose(task.loss(base_only, window), -bounded(part).mean(), rtol=1e-6)


def test_linear_sensors_without_outliers_are_a_kalman_filter():
    """The velocity sensor is Gaussian: the filter is the bank of Kalman filters, evidence included."""
    task = LinearSensors()
    prior = GaussianMixture([0.3, 0.7], [[0.0, 0, 1, 0], [5.0, 1, 0, 0]], np.stack([np.eye(4), 2 * np.eye(4)]))
    system = task.system(prior)
    linear = System(prior, system.move, {"velocity": lambda x: dist.Normal(x[2:], 0.3).to_event(1)})
    ours, exact = system.filter(MixtureFilter(task)), linear.filter(smc.GaussianSum(smc.EKF()))
    a, b = ours.start(0, 0.0), exact.start(0, 0.0)
    for t, value in ((0.5, [0.2, 0.1]), (1.7, [0.4, -0.3]), (1.9, [0.3, 0.0])):
        a = ours.predict(a, t)
        a, _ = ours.update(a, t, "velocity", jnp.array(value))
        b = exact.predict(b, t)
        b, _ = exact.update(b, t, "velocity", jnp.array(value))
        np.testing.assert_allclose(a.mean, b.mean, atol=1e-6)
        np.testing.assert_allclose(a.cov, b.cov, atol=1e-6)
    # The evidence is an average over 64 draws from the belief, whose weights are all equal where the belief is exact.
    np.testing.assert_allclose(a.log_evidence, b.log_evidence, atol=1e-5)


def test_values_of_one_instant_come_in_any_order_and_an_absent_one_changes_nothing(key):
    task = Beacons()
    series = task.simulate(key, 1)
    tracker = task.system(first_prior(series)).filter(MixtureFilter(task))
    west, east = jnp.array([9.0]), jnp.array([12.0])
    start = tracker.predict(tracker.start(0, 0.0), 1.0)
    one, _ = tracker.update(tracker.update(start, 1.0, "west", west)[0], 1.0, "east", east)
    other, _ = tracker.update(tracker.update(start, 1.0, "east", east)[0], 1.0, "west", west)
    np.testing.assert_array_equal(one.mean, other.mean)
    np.testing.assert_array_equal(one.cov, other.cov)
    np.testing.assert_allclose(one.log_evidence, other.log_evidence, rtol=1e-12)
    assert float(one.log_evidence) != 0.0


def test_the_predictive_density_of_a_value_is_that_of_a_large_particle_filter(key):
    """Growth model, 12 steps: both estimate the same evidence; the filter's error is a few hundredths of a nat."""
    task, network = load("growth").task, load("growth").network
    series = task.simulate(key, 1)
    system = task.system(first_prior(series))
    found = {}
    for name, method in (("network", MixtureFilter(task, network)), ("particles", smc.ParticleFilter(20_000))):
        tracker = system.filter(method)
        belief = tracker.start(1, 0.0)
        for t in range(12):
            belief = tracker.predict(belief, t + 1.0, control=series.steps.control[t, 0])
            if bool(series.steps.present["square"][t, 0]):
                belief, _ = tracker.update(belief, t + 1.0, "square", series.steps.values["square"][t, 0])
        found[name] = float(belief.log_evidence)
    assert abs(found["network"] - found["particles"]) < 0.5


def test_the_shipped_growth_network_is_close_to_the_exact_filter():
    """40 series from a seed that training never saw: the mean gap to a 1,601-point grid is under 0.03 nats a step."""
    task, network = load("growth").task, load("growth").network
    series = task.simulate(jax.random.key(4711), 40)
    truth = exact_filters.growth(series)
    _, scores = jax.jit(lambda s: run(network, task, s.prior, s.steps, s.states))(series)
    gap = (truth - np.asarray(scores)).mean(0)
    assert gap.mean() < 0.03
    _, without = jax.jit(lambda s: run(base_only, task, s.prior, s.steps, s.states))(series)
    assert (truth - np.asarray(without)).mean() > 0.1  # what was learned matters


@pytest.mark.bad_input
def test_a_system_that_the_network_was_not_trained_for_is_refused():
    method = load("growth").filter_method()
    prior = GaussianMixture.gaussian(np.zeros(1), np.eye(1))
    other = System(
        prior, lambda x, dt: dist.Normal(x, 1.0).to_event(1), {"level": lambda x: dist.Normal(x, 1.0).to_event(1)}
    )
    with pytest.raises(ModelError, match=r"trained for sensors \['square'\].*\['level'\]"):
        other.filter(method).start(0, 0.0)
    plane = GaussianMixture.gaussian(np.zeros(2), np.eye(2))
    other = System(plane, lambda x, dt: dist.Normal(x, 1.0).to_event(1), {"square": lambda x: dist.Normal(x[0], 1.0)})
    with pytest.raises(ArgumentError, match="trained for 1 state entries"):
        other.filter(method).start(0, 0.0)


def test_densities_of_tasks_integrate_to_one():
    values = np.linspace(-5.0, 150.0, 400_001)
    for distance in (0.5, 12.0):
        density = np.exp(np.asarray(ranges.log_density(jnp.asarray(values), jnp.asarray(distance))))
        np.testing.assert_allclose(np.trapezoid(density, values), 1.0, atol=1e-6)
    state = jnp.array([3.0, 0.0, 4.0, 0.0])
    on = {"range": jnp.asarray(True), "bearing": jnp.asarray(False)}
    grid = jnp.linspace(0.0, 20.0, 20_001)
    values = {"range": grid[:, None], "bearing": jnp.zeros((20_001, 1))}
    density = np.exp(np.asarray(range_bearing.log_density(values, on, jnp.broadcast_to(state, (20_001, 4)))))
    np.testing.assert_allclose(np.trapezoid(density, np.asarray(grid)), 1.0, atol=1e-4)


def test_the_simulator_of_the_tracking_task_has_its_density(key):
    """Ranges of one state: the share of echoes within two deviations, against the density's integral (4.5 s.e.)."""
    states = jnp.broadcast_to(jnp.array([3.0, 0.0, 4.0, 0.0]), (20_000, 4))
    drawn = np.asarray(range_bearing.simulate_values(key, states)["range"][:, 0])
    inside = np.mean(np.abs(drawn - 5.0) < 1.2)
    grid = jnp.linspace(3.8, 6.2, 4001)
    on = {"range": jnp.asarray(True), "bearing": jnp.asarray(False)}
    values = {"range": grid[:, None], "bearing": jnp.zeros((4001, 1))}
    density = np.exp(np.asarray(range_bearing.log_density(values, on, states[:4001])))
    expected = np.trapezoid(density, np.asarray(grid))
    assert abs(inside - expected) < 4.5 * np.sqrt(expected * (1 - expected) / 20_000)


def test_a_broad_component_replaces_a_negligible_one():
    belief = Components(
        jnp.log(jnp.array([[0.6, 0.399, 0.001]])), jnp.array([[[0.0], [1.0], [50.0]]]), 0.1 * jnp.ones((1, 3, 1, 1))
    )
    wide = hedged(belief, weight=0.01, inflation=3.0)
    np.testing.assert_allclose(jnp.exp(wide.log_weights), [[0.99 * 0.6 / 0.999, 0.99 * 0.399 / 0.999, 0.01]], rtol=1e-6)
    np.testing.assert_allclose(wide.means[0, 2], belief.mean[0])
    np.testing.assert_allclose(wide.scale_tril[0, 2, 0, 0], 3 * np.sqrt(belief.variance[0, 0]))
    even = dataclasses.replace(belief, log_weights=jnp.log(jnp.full((1, 3), 1 / 3)))
    np.testing.assert_array_equal(hedged(even).means, even.means)


def test_factors_are_exact_where_that_is_possible_and_finite_where_rounding_spoils_them(key):
    root = jnp.tril(jax.random.normal(key, (3, 4, 4)), -1) + 2 * jnp.eye(4)[None]
    matrix = root @ jnp.swapaxes(root, -1, -2)
    np.testing.assert_allclose(factor(matrix), root, rtol=1e-8, atol=1e-8)
    spoiled = jnp.ones((1, 2, 2)).at[0, 1, 1].set(1 - 1e-7)
    assert np.all(np.isfinite(factor(spoiled)))


def test_tracking_starts_without_a_motion_and_masks_silent_sensors(key):
    task = RangeBearing(dropout=0.5)
    series = task.simulate(key, 3)
    assert not bool((series.steps.elapsed[0] > 0).any())
    assert bool((series.steps.elapsed[1:] > 0).all())
    silent = jax.tree.map(lambda x: x[0], series.steps)
    silent = dataclasses.replace(silent, present={name: jnp.zeros_like(p) for name, p in silent.present.items()})
    base = task.problem(series.prior, silent).base
    np.testing.assert_allclose(base.mean, heaviest(series.prior, 8).mean, atol=1e-5)
