"""Tasks of real recordings: analytic parts against closed forms, and a vehicle that finds itself."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.distribution_transformer.recordings import blocked, walker_task
from examples import unknown_start, uwb_recording
from transformers_gmm.components import Components, heaviest
from transformers_gmm.recurrent import Step
from transformers_gmm.tasks import volatility
from transformers_gmm.tasks.anchors import Anchors, merged_in_groups
from transformers_gmm.tasks.odometry import Odometry
from transformers_gmm.tasks.splitting import respread
from transformers_gmm.tasks.walker import Walker

ONE_ANCHOR = Anchors(((0.0, 0.0, 0.0),), 0.3, 3.0, 0.1)


def random_components(key, k: int, dim: int = 4) -> Components:
    keys = jax.random.split(key, 3)
    factors = jnp.tril(0.3 * jax.random.normal(keys[0], (1, k, dim, dim))) + jnp.eye(dim)[None, None]
    log_weights = jax.nn.log_softmax(jax.random.normal(keys[1], (1, k)))
    return Components(log_weights, 3 * jax.random.normal(keys[2], (1, k, dim)), factors)


def test_respreading_keeps_mean_and_covariance_and_fills_what_is_empty(key):
    belief = random_components(key, 5)
    new = respread(belief, lambda b: jnp.ones(b.log_weights.shape), 0.0)
    np.testing.assert_allclose(new.mean, belief.mean, atol=1e-12)
    np.testing.assert_allclose(new.cov, belief.cov, atol=1e-12)
    assert not np.allclose(np.sort(new.log_weights), np.sort(belief.log_weights))
    padded = heaviest(random_components(key, 3), 5)
    fuller = respread(padded, lambda b: jnp.ones(b.log_weights.shape), 0.0)
    assert int(jnp.sum(padded.log_weights > -100)) == 3
    assert int(jnp.sum(fuller.log_weights > -100)) == 4
    np.testing.assert_allclose(fuller.cov, padded.cov, atol=1e-12)
    # A single component among empty ones is split, too.
    alone = heaviest(random_components(key, 1), 3)
    assert int(jnp.sum(respread(alone, lambda b: jnp.ones(b.log_weights.shape), 0.0).log_weights > -100)) == 2
    same = respread(belief, lambda b: jnp.zeros(b.log_weights.shape), 0.01)
    np.testing.assert_array_equal(same.means, belief.means)


def test_the_most_bent_component_is_split_along_its_longest_axis():
    means = jnp.array([[[0.0, 30.0], [0.0, 0.0], [40.0, 0.0]]])
    factors = jnp.array([[[[5.0, 0.0], [0.0, 0.2]], [[0.2, 0.0], [0.0, 0.2]], [[0.2, 0.0], [0.0, 0.2]]]])
    belief = Components(jnp.log(jnp.array([[0.98, 0.01, 0.01]])), means, factors)
    bend = ONE_ANCHOR.bend(belief)
    # 25 / (2 * 30 * 0.3), with a noise deviation in place of a distance of zero.
    np.testing.assert_allclose(bend[0, 0], 25 / (2 * 30 * 0.3), rtol=1e-3)
    new = respread(belief, ONE_ANCHOR.bend, 1e-3)
    halves = np.sort(np.asarray(new.means[0, :, 0])[np.asarray(new.means[0, :, 1]) > 29])
    np.testing.assert_allclose(halves, [-4.0, 4.0], atol=1e-9)


def test_groups_are_merged_to_their_moments(key):
    branches = random_components(key, 6)
    empty = jnp.where(jnp.arange(6)[None] % 3 == 2, -jnp.inf, branches.log_weights)
    branches = dataclasses.replace(branches, log_weights=jax.nn.log_softmax(empty))
    merged = merged_in_groups(branches, 3)
    np.testing.assert_allclose(merged.mean, branches.mean, atol=1e-12)
    np.testing.assert_allclose(merged.cov, branches.cov, atol=1e-12)
    w = np.exp(np.asarray(branches.log_weights[0, [0, 3]]))
    pair = np.asarray(branches.means[0, [0, 3]])
    np.testing.assert_allclose(merged.means[0, 0], w @ pair / w.sum(), atol=1e-12)
    assert np.isfinite(np.asarray(merged.scale_tril)).all()


@pytest.mark.parametrize("merge", [True, False])
def test_an_update_by_a_range_is_bayes_rule_where_a_component_is_small(merge):
    """Against a grid: moments within two hundredths of a prior deviation; an absent anchor changes nothing."""
    mean, sd = np.array([20.0, 15.0]), 0.4
    belief = Components(jnp.zeros((1, 1)), jnp.asarray(mean)[None, None], sd * jnp.eye(2)[None, None])
    belief = belief if merge else heaviest(belief, 2)
    value = 26.2
    on = {"anchor_0": jnp.array([True])}
    found = ONE_ANCHOR.updated(belief, {"anchor_0": jnp.array([[value]])}, on, merge=merge)
    axis = np.linspace(-6 * sd, 6 * sd, 241)
    x = mean + np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    fit = ONE_ANCHOR.distribution(ONE_ANCHOR.range_of(jnp.asarray(x), 0)).log_prob(jnp.asarray(value))
    log_weights = np.asarray(fit) - 0.5 * np.sum((x - mean) ** 2, axis=1) / sd**2
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    exact = weights @ x
    np.testing.assert_allclose(found.mean[0], exact, atol=0.02 * sd)
    np.testing.assert_allclose(found.cov[0], (weights[:, None] * (x - exact)).T @ (x - exact), atol=0.02 * sd**2)
    off = ONE_ANCHOR.updated(belief, {"anchor_0": jnp.array([[value]])}, {"anchor_0": jnp.array([False])}, merge=merge)
    np.testing.assert_allclose(off.cov, belief.cov, atol=1e-12)
    np.testing.assert_allclose(off.mean, belief.mean, atol=1e-12)


def test_the_vehicles_motion_is_the_same_in_the_base_and_in_the_system():
    task = Odometry()
    state, control, elapsed = jnp.array([3.0, -2.0, 0.7, 1.1]), jnp.array([0.3, 0.1]), jnp.asarray(0.25)
    motion: Any = task.system(task.unknown_start()).move_distribution(state, elapsed, control)
    middle = 0.75
    np.testing.assert_allclose(motion.mean, [3 + 0.3 * np.cos(middle), -2 + 0.3 * np.sin(middle), 0.8, 1.1])
    along, aside = 0.022**2 * 0.25 + (0.02 * 0.3) ** 2, 0.005**2 * 0.25 + (0.005 * 0.3) ** 2
    turn = np.array([[np.cos(middle), -np.sin(middle)], [np.sin(middle), np.cos(middle)]])
    covariance = np.asarray(motion.covariance_matrix)
    np.testing.assert_allclose(covariance[:2, :2], turn @ np.diag([along, aside]) @ turn.T, rtol=1e-9)
    np.testing.assert_allclose(covariance[2, 2], 0.0045**2 * 0.25 + (0.02 * 0.1) ** 2, rtol=1e-9)
    sharp = Components(jnp.zeros((1, 1)), state[None, None], 1e-6 * jnp.eye(4)[None, None])
    none = {name: jnp.zeros((1, 1)) for name in task.sensors}
    step = Step(elapsed[None], control[None], none, {name: jnp.array([False]) for name in none})
    base = task.problem(sharp, step).base
    np.testing.assert_allclose(base.mean[0], motion.mean, atol=1e-9)
    np.testing.assert_allclose(base.cov[0], covariance, atol=1e-9)


def test_the_walkers_motion_is_the_same_in_the_base_in_the_system_and_in_the_simulator():
    """The closed form of white acceleration; the simulator's moments over 4,000 draws, 5 standard errors."""
    task = Walker(horizon=10)
    state, seconds = jnp.array([3.0, -2.0, 0.7, 1.1]), 0.1
    noise = task.acceleration * np.kron([[seconds**3 / 3, seconds**2 / 2], [seconds**2 / 2, seconds]], np.eye(2))
    sharp = Components(jnp.zeros((1, 1)), state[None, None], 1e-6 * jnp.eye(4)[None, None])
    moved = task._moved(sharp, jnp.array([seconds]))
    np.testing.assert_allclose(moved.mean[0], [3.07, -1.89, 0.7, 1.1], atol=1e-9)
    np.testing.assert_allclose(moved.cov[0], noise, atol=1e-9)
    motion: Any = task.system(moved_prior(sharp)).move_distribution(state, jnp.asarray(seconds))
    np.testing.assert_allclose(motion.covariance_matrix, noise, rtol=1e-9)
    states = np.asarray(jax.jit(lambda key: task.simulate(key, 4000).states)(jax.random.key(0)))
    gap = states[1] - np.concatenate([states[0, :, :2] + seconds * states[0, :, 2:], states[0, :, 2:]], axis=1)
    scale = np.sqrt(np.diag(noise))
    found = (gap / scale).T @ (gap / scale) / len(gap)
    np.testing.assert_allclose(found, noise / np.outer(scale, scale), atol=5 * np.sqrt(2 / len(gap)))


def moved_prior(components: Components):
    return jax.tree.map(lambda x: x[0], components).as_mixture()


def test_headings_are_brought_to_the_same_turn():
    task = Odometry()
    means = jnp.zeros((1, 64, 4)).at[..., 3].set(1.0).at[0, :, 2].set(3.1).at[0, 1, 2].set(-3.1 - 4 * np.pi)
    belief = Components(jnp.full((1, 64), -jnp.log(64.0)), means, 0.1 * jnp.broadcast_to(jnp.eye(4), (1, 64, 4, 4)))
    none = {name: jnp.zeros((1, 1)) for name in task.sensors}
    step = Step(jnp.zeros(1), jnp.zeros((1, 2)), none, {name: jnp.array([False]) for name in none})
    heading = np.asarray(task.problem(belief, step).base.means[0, :, 2])
    np.testing.assert_allclose(heading[:2], [3.1, 2 * np.pi - 3.1], atol=1e-9)


@pytest.mark.relaxed_promotion("examples are written for JAX's ordinary settings")
def test_a_vehicle_finds_itself_where_particles_do_not(tmp_path):
    """A simulated drive; two hundred particles in a field of 80 m and all headings are too few."""
    found = unknown_start.main(["--events", "160", "--particles", "200", "--out", str(tmp_path)])
    assert found["64 Gaussians"] < 30
    assert found["200 particles"] > 30
    assert (tmp_path / "unknown_start.png").stat().st_size > 5000


def test_settling_is_the_first_time_of_a_long_enough_stretch():
    times = np.arange(0.0, 40.0)
    errors = np.full(40, 5.0)
    errors[3:9] = 1.0  # five seconds: too short
    errors[12:] = 1.0
    assert unknown_start.settled(times, errors) == 12.0
    errors[20] = 3.0
    assert unknown_start.settled(times, errors) == 21.0
    errors[30] = 3.0
    assert unknown_start.settled(times, errors) == float("inf")


def test_a_recorded_drive_is_read_with_the_way_split_at_every_range(tmp_path):
    (tmp_path / "beacons.csv").write_text("beacon_id,x_m,y_m\n4,0,0\n7,10,0\n")
    rows = "t_s,delta_distance_m,delta_heading_rad\n1.0,0.5,0.0\n2.0,1.0,0.2\n3.0,2.0,0.0\n"
    (tmp_path / "odometry.csv").write_text(rows)
    (tmp_path / "ranges.csv").write_text("t_s,antenna_id,beacon_id,range_m\n0.5,1,4,9\n1.25,1,7,5.5\n2.5,1,4,6.5\n")
    (tmp_path / "truth.csv").write_text("t_s,x_m,y_m,heading_rad\n0,0,0,0\n4,8,4,0\n")
    drive = unknown_start.recorded(tmp_path)
    np.testing.assert_array_equal(drive.log.times, [1.0, 1.25, 2.0, 2.5, 3.0])
    assert list(drive.log.sensor_names) == [None, "anchor_1", None, "anchor_0", None]
    controls = np.asarray(drive.log.controls)
    np.testing.assert_allclose(controls[:, 0], [0.0, 0.25, 0.75, 1.0, 1.0])
    np.testing.assert_allclose(controls[:, 1], [0.0, 0.05, 0.15, 0.0, 0.0])
    assert drive.task.anchors.places[1][:2] == (10.0, 0.0)


def test_the_walkers_log_is_the_recording_with_a_sensor_for_each_anchor():
    recording = uwb_recording.load("nlos_a1", 5.0)
    task, log = walker_task(recording)
    np.testing.assert_array_equal(log.times, recording.log.times)
    np.testing.assert_array_equal(log.values[:, 0], recording.log.values[:, 0])
    for i in (0, 5, 11):
        place = np.array(task.anchors.places[task.anchors.names.index(log[i].sensor)])
        np.testing.assert_allclose(place, recording.log.inputs[i] - [0, 0, recording.height])


def test_blocked_errors_of_independent_blocks():
    gains = np.array([1.0, 1.0, 3.0, 3.0])
    mean, half = blocked(np.array([0.0, 1.0, 10.0, 11.0]), gains)
    assert mean == 2.0
    np.testing.assert_allclose(half, 1.96 * np.sqrt(4 + 4) / 4)


def test_conditioning_coordinate_by_coordinate_is_the_inverse_of_the_sum():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(2, volatility.DIM, volatility.DIM))
    covariance, precision = a @ np.swapaxes(a, 1, 2) + np.eye(volatility.DIM), rng.gamma(1.0, size=(2, volatility.DIM))
    after, grown = volatility._conditioned(jnp.asarray(covariance), jnp.asarray(precision))
    diagonal = precision[:, :, None] * np.eye(volatility.DIM)
    np.testing.assert_allclose(after, np.linalg.inv(np.linalg.inv(covariance) + diagonal), rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(grown, np.linalg.slogdet(np.eye(volatility.DIM) + covariance @ diagonal)[1], rtol=1e-12)


@pytest.fixture
def returns():
    return jnp.asarray(np.random.default_rng(1).normal(0, 3.0, volatility.NUM_RETURNS))


def updated_volatilities(prior: Components, returns: jax.Array) -> Components:
    return volatility._updated(prior, (returns @ jnp.asarray(volatility._PROJECTION.T))[None], jnp.array([True]))


def test_the_volatility_base_is_exact_where_one_volatility_is_unknown(returns):
    """Two components that differ in that one: mean, variance and weights by quadrature over it."""
    rng = np.random.default_rng(2)
    rest, places, sds = rng.normal(0, 0.7, volatility.DIM), (-0.8, 0.9), (0.6, 1.1)
    means = np.stack([np.where(np.arange(volatility.DIM) == 3, m, rest) for m in places])
    scales = np.stack([np.where(np.arange(volatility.DIM) == 3, sd, 1e-6) for sd in sds])
    prior = Components(
        jnp.log(jnp.array([[0.3, 0.7]])), jnp.asarray(means)[None], jax.vmap(jnp.diag)(jnp.asarray(scales))[None]
    )
    after = updated_volatilities(prior, returns)
    x = np.linspace(-9, 9, 20_001)
    points = jnp.asarray(np.where(np.arange(volatility.DIM) == 3, x[:, None], rest))
    fit = np.asarray(jax.vmap(functools.partial(volatility.log_density, returns))(points))
    masses = []
    for k, (m, sd) in enumerate(zip(places, sds, strict=True)):
        density = np.exp(fit - fit.max() - 0.5 * ((x - m) / sd) ** 2) / sd
        masses.append(density.sum())
        mean = (density * x).sum() / density.sum()
        np.testing.assert_allclose(after.means[0, k, 3], mean, rtol=1e-5)
        variance = (density * (x - mean) ** 2).sum() / density.sum()
        np.testing.assert_allclose(after.covariances[0, k, 3, 3], variance, rtol=1e-4)
    weights = np.array([0.3, 0.7]) * masses
    np.testing.assert_allclose(np.exp(after.log_weights[0]), weights / weights.sum(), rtol=1e-5)


def test_the_volatility_base_is_near_the_posterior_where_all_are_unknown(returns):
    """Against importance sampling with an effective size above 10,000: standard errors below a hundredth of an sd."""
    rng = np.random.default_rng(3)
    roots = 0.15 * np.tril(rng.normal(size=(2, volatility.DIM, volatility.DIM))) + 0.5 * np.eye(volatility.DIM)
    means = rng.normal(0, 0.5, (2, volatility.DIM))
    prior = Components(jnp.log(jnp.array([[0.5, 0.5]])), jnp.asarray(means)[None], jnp.asarray(roots)[None])
    after = updated_volatilities(prior, returns)
    evidence = []
    for k in range(2):
        draws = means[k] + rng.normal(size=(200_000, volatility.DIM)) @ roots[k].T
        log_weights = np.asarray(jax.vmap(functools.partial(volatility.log_density, returns))(jnp.asarray(draws)))
        weights = np.exp(log_weights - log_weights.max())
        evidence.append(log_weights.max() + np.log(weights.mean()))
        weights /= weights.sum()
        assert 1 / np.sum(weights**2) > 10_000
        mean = weights @ draws
        sd = np.sqrt(weights @ (draws - mean) ** 2)
        np.testing.assert_allclose(np.asarray(after.means[0, k]), mean, atol=0.06 * sd.min())
        np.testing.assert_allclose(np.sqrt(np.diag(after.covariances[0, k])), sd, rtol=0.04)
    np.testing.assert_allclose(after.log_weights[0, 1] - after.log_weights[0, 0], evidence[1] - evidence[0], atol=0.05)
