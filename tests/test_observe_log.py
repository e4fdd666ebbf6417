"""A log emitted inside a model means what the filter of the same system computes."""

import jax.numpy as jnp
import numpy as np
import pytest

import probinf as pi
from tests.streaming_models import cruise, cruise_log

pytestmark = pytest.mark.relaxed_promotion("the program's own arithmetic follows ordinary promotion")


@pi.model
def emitted(log, together):
    return pi.observe_log(cruise(), log, t0=0.0, together=together)


def test_particles_of_the_emitted_program_find_the_kalman_evidence():
    from smc.extended import EKF

    log = cruise_log()
    exact = float(cruise().filter(EKF()).run(log, key=0, t0=0.0).log_evidence)
    run = pi.population(emitted(log, 0.0), 4000)
    values = np.array([float(run.run(seed)[0].log_evidence) for seed in range(20)])
    estimates = np.exp(values - exact)
    error = estimates.std(ddof=1) / np.sqrt(len(estimates))
    # Student t with 19 degrees of freedom: a false alarm once in 10^5.
    assert abs(estimates.mean() - 1) < 6.0 * error
    assert values.std() < 0.5


def test_the_log_density_is_the_product_of_motion_and_sensors(key):
    log = cruise_log()
    program = emitted(log, 0.0)
    draw = program.simulate(key)
    states = np.concatenate([np.asarray(draw["x0"])[None], np.asarray(draw["x"])])
    system = cruise()
    times = np.unique(np.concatenate([[0.0], log.times]))
    total = float(system.prior.log_prob(states[0]))
    for before, after, dt in zip(states[:-1], states[1:], np.diff(times), strict=True):
        total += float(system.move_distribution(jnp.asarray(before), jnp.asarray(dt)).log_prob(after))
    for event in log:
        x = jnp.asarray(states[np.searchsorted(times, event.time)])
        total += float(system.sensor_distribution(event.sensor, x, event.inputs).log_prob(event.value).sum())
    assert float(program.log_density({"x0": states[0], "x": states[1:]})) == pytest.approx(total, rel=1e-10)


def test_events_close_together_share_a_state():
    log = pi.Log([(0.0, "speed", 0.1), (0.001, "speed", 0.2), (1.0, "speed", 0.3), (1.004, "gps", [1.0, 2.0])])
    shapes = {s.name: s.shape for s in emitted(log, 0.01).sites}
    assert shapes["x"] == (1, cruise().dim)
    assert {s.name: s.shape for s in emitted(log, 0.0).sites}["x"] == (3, cruise().dim)


def test_an_event_before_the_start_and_an_empty_log_are_refused():
    with pytest.raises(pi.ArgumentError, match="t0"):
        emitted(pi.Log([(-1.0, "speed", 0.1)]), 0.0).sites  # noqa: B018
    with pytest.raises(pi.DataError, match="no events"):
        emitted(cruise_log()[:0], 0.0).sites  # noqa: B018
