"""Ten properties of every filter (one test per cell). A new method is one more row of METHODS."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probinf.errors import ArgumentError
from probinf.streaming import AbstractFilterMethod, compiled, stack_beliefs, unstack_beliefs
from smc.ensemble import EnsembleKalmanFilter
from smc.extended import EKF
from smc.gaussian_sum import GaussianSum
from smc.interacting import InteractingMultipleModels
from smc.particles import ParticleFilter
from smc.regularised import RegularisedParticleFilter
from smc.unscented import UKF
from tests.streaming_models import beacons, cruise, cruise_log, joint_gaussian


class Row(NamedTuple):
    """A method and how closely two answers of it agree.

    Attributes:
        method: the method.
        tolerance: accepted distance from an exact answer, in posterior standard deviations for means, relative for
            covariances, in nats for the evidence. Rounding for deterministic methods; for random ones state how many
            Monte Carlo standard errors it is.
        single: the same in 32-bit floats.
        rotation: the same when the plane is rotated, None where it equals `tolerance`.
    """

    method: AbstractFilterMethod
    tolerance: float
    single: float = 1e-4
    rotation: float | None = None


METHODS = {
    "ekf": Row(EKF(), 1e-6),
    # Sigma points lie along Cholesky axes, which do not turn with the plane: a rotated problem is approximated at other
    # points, and the answers agree to the accuracy of the approximation only.
    "ukf": Row(UKF(), 1e-6, rotation=0.1),
    "gaussian sum": Row(GaussianSum(), 1e-6),
    # Two modes that move alike, so that there is an exact answer: whatever mixing and weighing do, they must do right.
    "interacting models": Row(
        InteractingMultipleModels({"one": None, "other": None}, rates=[[-0.3, 0.3], [0.8, -0.8]]), 1e-6
    ),
    # 20,000 members: one standard error of a mean is 0.007 sd, of a variance 1 %, and some updates later a few times
    # that; 0.15 is more than 6 of them.
    "ensemble": Row(EnsembleKalmanFilter(20_000), 0.15, single=0.15, rotation=0.15),
    # 40,000 particles keep at least 2,000 effective ones on these problems: a mean is off by 0.022 sd at one standard
    # error, and 0.15 is more than 6 of them (two sides, some 300 comparisons: a false alarm once in 10^6 seeds).
    "particles": Row(ParticleFilter(40_000), 0.15, single=0.15, rotation=0.15),
    "regularised": Row(RegularisedParticleFilter(40_000), 0.15, single=0.15, rotation=0.15),
}


@pytest.fixture(params=METHODS, name="row")
def _row(request):
    return METHODS[request.param]


def distance(belief, mean, cov):
    """How far a belief is from a mean and covariance: standard deviations, and relative for the covariance."""
    mean, cov = np.asarray(mean, np.float64), np.asarray(cov, np.float64)
    sd = np.sqrt(np.diag(cov))
    of_mean = np.abs((np.asarray(belief.mean) - mean) / sd).max()
    of_cov = np.abs((np.asarray(belief.cov) - cov) / np.outer(sd, sd)).max()
    return max(of_mean, of_cov)


def apply(filter, belief, log):
    for event in log:
        belief, _ = filter.update(belief, event.time, event.sensor, event.value, event.inputs)
    return belief


def test_1_equals_the_kalman_filter_on_linear_gaussian_systems(row):
    log = cruise_log()
    run = cruise().filter(row.method).run(log, key=0, t0=0.0)
    for k in range(len(log)):
        mean, cov, _ = joint_gaussian(log, 0.0, last=k)
        sd = np.sqrt(np.diag(cov[k]))
        assert np.abs((np.asarray(run.means[k]) - mean[k]) / sd).max() < row.tolerance
        assert np.abs((np.asarray(run.covs[k]) - cov[k]) / np.outer(sd, sd)).max() < row.tolerance
    _, _, evidence = joint_gaussian(log, 0.0)
    assert abs(float(run.log_evidence) - evidence) < row.tolerance * abs(evidence)


def test_1_holds_in_32_bit(row):
    log = cruise_log()
    mean, cov, evidence = joint_gaussian(log, 0.0)
    with jax.enable_x64(False):
        run = cruise().filter(row.method).run(log, key=0, t0=0.0)
        assert run.means.dtype == jnp.float32
        assert distance(run.belief, mean[-1], cov[-1]) < row.single
        assert abs(float(run.log_evidence) - evidence) < row.single * abs(evidence)


def test_2_a_value_that_is_missing_altogether_is_no_update(row):
    filter = cruise().filter(row.method)
    belief = filter.start(0, 0.0)
    updated, info = filter.update(belief, 1.3, "gps", [np.nan, np.nan])
    predicted = filter.predict(belief, 1.3)
    np.testing.assert_array_equal(updated.mean, predicted.mean)
    np.testing.assert_array_equal(updated.cov, predicted.cov)
    assert float(info.predictive_log_density) == 0.0
    assert int(info.num_missing) == 2


def test_2_with_a_coordinate_missing_it_is_the_sensor_restricted_to_the_others(row):
    filter = cruise().filter(row.method)
    belief = filter.start(0, 0.0)
    partly, info = filter.update(belief, 1.3, "gps", [2.5, np.nan])
    restricted, other = filter.update(belief, 1.3, "east", 2.5)
    assert distance(partly, restricted.mean, restricted.cov) < row.tolerance
    assert abs(float(info.predictive_log_density - other.predictive_log_density)) < row.tolerance
    assert np.isfinite(np.asarray(partly.mean)).all()


def test_3_predicting_twice_is_predicting_once(row):
    filter = cruise().filter(row.method)
    belief = filter.start(0, 0.0)
    once = filter.predict(belief, 2.0)
    twice = filter.predict(filter.predict(belief, 0.7), 2.0)
    assert distance(twice, once.mean, once.cov) < row.tolerance


def test_3_no_time_changes_nothing(row):
    filter = cruise().filter(row.method)
    belief = filter.start(0, 3.0)
    same = filter.predict(belief, 3.0)
    for a, b in zip(jax.tree.leaves(belief.state), jax.tree.leaves(same.state), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def test_4_events_of_one_time_may_come_in_either_order(row):
    filter = cruise().filter(row.method)
    belief = filter.start(0, 0.0)
    one, _ = filter.update(belief, 1.0, "gps", [1.4, -1.5])
    one, _ = filter.update(one, 1.0, "speed", 0.2)
    other, _ = filter.update(belief, 1.0, "speed", 0.2)
    other, _ = filter.update(other, 1.0, "gps", [1.4, -1.5])
    assert distance(one, other.mean, other.cov) < row.tolerance
    assert abs(float(one.log_evidence - other.log_evidence)) < row.tolerance


def test_5_a_sensor_with_unbounded_noise_says_nothing(row):
    filter = cruise().filter(row.method)
    belief = filter.start(0, 0.0)
    updated, _ = filter.update(belief, 0.0, "blind", 1e3)
    assert distance(updated, belief.mean, belief.cov) < row.tolerance


def test_6_the_log_evidence_is_the_sum_of_the_log_predictive_densities(row):
    log = cruise_log(seed=3)
    filter = cruise().filter(row.method)
    run = filter.run(log, key=0, t0=0.0)
    total = float(jnp.sum(run.predictive_log_densities))
    np.testing.assert_allclose(float(run.log_evidence), total, rtol=1e-12)
    np.testing.assert_allclose(float(apply(filter, filter.start(0, 0.0), log).log_evidence), total, rtol=1e-9)
    _, _, evidence = joint_gaussian(log, 0.0)
    assert abs(total - evidence) < row.tolerance * abs(evidence)


def test_7_a_late_event_inside_the_lag_is_as_if_in_order(row):
    log = cruise_log(seed=1)
    order = [0, 1, 2, 5, 3, 6, 7, 4, 8, 9, 10, 11]
    times = log.times[order]
    lag = float(np.max(np.maximum.accumulate(times) - times))
    assert lag > 0.0
    filter = cruise().filter(row.method, lag=lag)
    belief = filter.start(0, 0.0)
    for k in order:
        event = log[k]
        belief, _ = filter.update(belief, event.time, event.sensor, event.value)
    expected = apply(filter, filter.start(0, 0.0), log)
    np.testing.assert_array_equal(belief.mean, expected.mean)
    np.testing.assert_array_equal(belief.cov, expected.cov)
    assert float(belief.log_evidence) == float(expected.log_evidence)


def test_7_a_late_event_outside_the_lag_is_refused(row):
    filter = cruise().filter(row.method, lag=0.5)
    belief, _ = filter.update(filter.start(0, 0.0), 2.0, "speed", 0.3)
    before = np.asarray(belief.mean)
    with pytest.raises(ArgumentError, match=r"sensor 'speed'.* 1\.25 s .* 2 s.*lag, which is 0\.5 s"):
        filter.update(belief, 1.25, "speed", 0.1)
    np.testing.assert_array_equal(belief.mean, before)


def test_8_a_target_straight_behind_the_sensor_is_like_one_in_front(row):
    """The same situation turned by half a turn: bearings jump there, the answer must not."""
    answers = []
    for side in (1.0, -1.0):
        system = beacons(jnp.zeros(2), jnp.asarray(0.0), jnp.array([5.0 * side, 0.3 * side]))
        filter = system.filter(row.method)
        belief = filter.start(0, 0.0)
        # Bearings on both sides of the cut of the half turn.
        for k, angle in enumerate((-0.02, 0.01, -0.03)):
            bearing = np.angle(np.exp(1j * (angle + (0.0 if side > 0 else np.pi))))
            belief, info = filter.update(belief, float(k), "bearing", bearing)
            assert abs(float(info.innovation[0])) < 1.0 or np.isnan(float(info.innovation[0]))
        answers.append(belief)
    front, back = answers
    flip = np.diag([-1.0, -1.0, 1.0])
    assert distance(back, flip @ front.mean, flip @ front.cov @ flip) < row.tolerance
    assert abs(float(front.log_evidence - back.log_evidence)) < row.tolerance


def test_8_an_angle_in_the_state_may_pass_half_a_turn(row):
    """Readings just beyond half a turn pull the heading over the cut, not back through zero."""
    answers = []
    for turn in (0.0, np.pi - 0.05):
        filter = beacons(jnp.zeros(2), jnp.asarray(turn), jnp.array([5.0, 0.0])).filter(row.method)
        belief = filter.start(0, 0.0)
        for k, reading in enumerate((0.1, 0.2, 0.15)):
            belief, _ = filter.update(belief, float(k), "compass", np.angle(np.exp(1j * (turn + reading))))
        answers.append(belief)
    gap = np.angle(np.exp(1j * float(answers[1].mean[2] - answers[0].mean[2] - (np.pi - 0.05))))
    sd = float(jnp.sqrt(answers[0].cov[2, 2]))
    assert abs(gap) < row.tolerance * sd
    assert abs(float(answers[1].mean[2])) <= np.pi


def test_9_shifting_the_clock_shifts_nothing_else(row):
    """A shift by a power of two keeps all time differences to the bit; the result must be the same to the bit."""
    log = cruise_log(seed=2)
    grid = np.round(log.times * 256) / 256
    events = [event._replace(time=float(t)) for event, t in zip(log, grid, strict=True)]
    filter = cruise().filter(row.method)
    run = filter.run(events, key=0, t0=0.0)
    late = filter.run([e._replace(time=e.time + 2.0**30) for e in events], key=0, t0=2.0**30)
    np.testing.assert_array_equal(run.means, late.means)
    np.testing.assert_array_equal(run.covs, late.covs)


def walk(method, rotation, shift, turn):
    """The belief of a walker after ranges and a bearing, in a plane that is rotated (by `turn`) and shifted."""
    beacon, start = np.array([8.0, 3.0]), np.array([5.0, 0.3])
    system = beacons(jnp.asarray(shift), jnp.asarray(0.0), jnp.asarray(rotation @ start + shift))
    filter = system.filter(method)
    belief = filter.start(0, 0.0)
    belief, _ = filter.update(belief, 1.0, "distance", 4.2, rotation @ beacon + shift)
    belief, _ = filter.update(belief, 1.5, "bearing", np.angle(np.exp(1j * (0.1 + turn))))
    belief, _ = filter.update(belief, 2.5, "distance", 4.5, rotation @ beacon + shift)
    return belief


def test_9_shifting_the_plane_shifts_the_answer(row):
    shift = np.array([32.0, -12.0])
    plain, moved = (walk(row.method, np.eye(2), s, 0.0) for s in (np.zeros(2), shift))
    assert distance(moved, plain.mean + np.append(shift, 0.0), plain.cov) < row.tolerance
    assert abs(float(moved.log_evidence - plain.log_evidence)) < row.tolerance


def test_9_rotating_the_plane_rotates_the_answer(row):
    tolerance = row.tolerance if row.rotation is None else row.rotation
    turn = 0.7
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    plain, moved = walk(row.method, np.eye(2), np.zeros(2), 0.0), walk(row.method, rotation, np.zeros(2), turn)
    lift = np.eye(3)
    lift[:2, :2] = rotation
    assert distance(moved, lift @ np.asarray(plain.mean), lift @ np.asarray(plain.cov) @ lift.T) < tolerance
    assert abs(float(moved.log_evidence - plain.log_evidence)) < tolerance


def test_10_a_batch_is_as_good_as_single_calls(row):
    filter = cruise().filter(row.method)
    values = np.array([[1.0, -2.0], [1.5, np.nan], [np.nan, np.nan]])
    beliefs = [filter.start(k, 0.0) for k in range(3)]
    for times in ((0.4, 1.0, 0.0), (0.4, 0.4, 0.4)):  # clocks of their own, and one clock
        batch, infos = filter.update_batch(stack_beliefs(beliefs), times, "gps", values)
        singles = [filter.update(b, t, "gps", v) for b, t, v in zip(beliefs, times, values, strict=True)]
        _agree(batch, infos, singles)


@pytest.mark.parametrize("size", [4, 5])
def test_a_batch_too_large_for_the_cache_is_as_good_as_single_calls(size, monkeypatch):
    """Two beliefs at a time; of five, one is left over."""
    filter = cruise().filter(ParticleFilter(30))
    beliefs = [filter.start(k, 0.0) for k in range(size)]
    batch = stack_beliefs(beliefs)
    monkeypatch.setattr(compiled, "_CACHE", sum(x.nbytes for x in jax.tree.leaves(batch.state)) // 2)
    assert compiled._block(batch.state) == 2
    values = np.linspace(-1.0, 1.0, 2 * size).reshape(size, 2)
    for times in (np.linspace(0.2, 0.6, size), np.full(size, 0.6)):
        after, infos = filter.update_batch(batch, times, "gps", values)
        singles = [filter.update(b, t, "gps", v) for b, t, v in zip(beliefs, times, values, strict=True)]
        _agree(after, infos, singles)


def _agree(batch, infos, singles):
    for k, (belief, (expected, info)) in enumerate(zip(unstack_beliefs(batch), singles, strict=True)):
        np.testing.assert_allclose(belief.mean, expected.mean, rtol=1e-12)
        np.testing.assert_allclose(belief.cov, expected.cov, rtol=1e-12, atol=1e-14)
        assert float(belief.time) == float(expected.time)
        np.testing.assert_allclose(infos.predictive_log_density[k], info.predictive_log_density, rtol=1e-12)
