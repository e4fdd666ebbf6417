"""The filter's own business: shapes, names, missing values, compiled steps, controls, priors, forecasts."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from probinf.errors import (
    ArgumentError,
    ArgumentTypeError,
    DataError,
    ModelError,
    ProbinfError,
    UnknownNameError,
)
from probinf.representations.belief import AbstractBelief
from probinf.representations.mixture import GaussianMixture
from probinf.streaming import Filter, Log, Sensor, System, state_space
from smc.extended import EKF
from tests.streaming_models import PRIOR_MEAN, cruise, cruise_log


def wander(**options):
    """One coordinate, one sensor that takes inputs."""
    return System(
        prior=dist.Normal(jnp.zeros(1), 1.0).to_event(1),
        move=lambda x, dt: dist.Normal(x, jnp.sqrt(dt)).to_event(1),
        see={
            "z": lambda x: dist.Normal(x[0], 1.0),
            "lever": lambda x, arm: dist.Normal(arm[0] * x[0] + arm[1], 1.0),
            "count": lambda x: dist.Poisson(jnp.exp(x[0])),
            "pair": Sensor(lambda x: dist.Dirichlet(jnp.exp(x[0]) * jnp.ones(2)), missing="nan"),
        },
        name="wander",
        **options,
    )


# -- compiled once ------------------------------------------------------------------------------------------------


def test_one_step_serves_thousands_of_events_and_other_parameters():
    log = cruise_log(n=40)
    first = cruise(1.0, PRIOR_MEAN).filter(EKF())
    belief = first.start(0, 0.0)
    for event in log:
        belief, _ = first.update(belief, event.time, event.sensor, event.value)
    compiled = first.num_compiles
    assert compiled <= 2  # one per sensor; none if an earlier test compiled them
    rng = np.random.default_rng(0)
    for _ in range(2000):
        belief, _ = first.update(belief, float(belief.time) + rng.exponential(), "speed", rng.normal())
    assert first.num_compiles == compiled
    other = cruise(2.0, PRIOR_MEAN + 1.0).filter(EKF())
    belief = other.start(0, 0.0)
    for event in log:
        belief, _ = other.update(belief, event.time, event.sensor, event.value)
    assert other.num_compiles == 0
    # The parameters did arrive: the answer is that of a system whose numbers are constants.
    constant = cruise.__wrapped__(2.0, PRIOR_MEAN + 1.0).filter(EKF()).run(log, t0=0.0)
    np.testing.assert_allclose(belief.mean, constant.means[-1], rtol=1e-10)


def test_a_second_run_of_the_same_length_compiles_nothing():
    filter = cruise().filter(EKF())
    filter.run(cruise_log(seed=5, n=9), t0=0.0)
    before = filter.num_compiles
    filter.run(cruise_log(seed=5, n=9), t0=0.0)
    assert filter.num_compiles == before


def test_a_function_that_needs_concrete_numbers_still_makes_a_system():
    @state_space
    def rounded(size):
        scale = float(np.round(size))  # NumPy on an argument cannot be traced
        return System(
            prior=dist.Normal(jnp.zeros(1), scale).to_event(1),
            move=lambda x, dt: dist.Normal(x, scale * jnp.sqrt(dt)).to_event(1),
            see={"z": lambda x: dist.Normal(x[0], scale)},
        )

    belief, _ = rounded(2.2).filter(EKF()).update(rounded(2.2).filter(EKF()).start(0, 0.0), 0.0, "z", 1.0)
    np.testing.assert_allclose(float(belief.mean[0]), 0.5, rtol=1e-12)


def test_event_by_event_and_the_scan_agree():
    log = cruise_log(seed=6)
    filter = cruise().filter(EKF())
    run = filter.run(log, t0=0.0)
    belief = filter.start(0, 0.0)
    for k, event in enumerate(log):
        belief, info = filter.update(belief, event.time, event.sensor, event.value)
        np.testing.assert_allclose(belief.mean, run.means[k], rtol=1e-10)
        np.testing.assert_allclose(info.predictive_log_density, run.predictive_log_densities[k], rtol=1e-9, atol=1e-12)
        assert int(info.num_missing) == int(run.info.num_missing[k])
    rest = filter.run(log[7:], belief=filter.run(log[:7], t0=0.0).belief)
    np.testing.assert_allclose(rest.belief.mean, run.belief.mean, rtol=1e-10)
    np.testing.assert_allclose(float(rest.log_evidence), float(run.log_evidence), rtol=1e-10)


def test_the_pure_step_under_vmap_is_the_update():
    filter = cruise().filter(EKF())
    step = filter.step_function("speed")
    state = filter.start(0, 0.0).state
    values = jnp.array([0.1, 0.4])
    states, infos = jax.vmap(lambda v: step(state, jnp.asarray(0.8), v))(values)
    for k, value in enumerate(values):
        belief, info = filter.update(filter.start(0, 0.0), 0.8, "speed", float(value))
        np.testing.assert_allclose(states.mean[k], belief.mean, rtol=1e-12)
        np.testing.assert_allclose(infos.nis[k], info.nis, rtol=1e-12)


# -- refused at the door ------------------------------------------------------------------------------------------

REFUSED = {
    "unknown sensor": (("Z", 1.0), UnknownNameError, r"'Z' is not a sensor of 'wander'. Did you mean 'z'\?"),
    "NaN not declared": (("z", np.nan), DataError, r"sensor 'z' of 'wander': 1 of 1 values are NaN.*missing='nan'"),
    "infinite": (("z", np.inf), DataError, "sensor 'z' of 'wander', value: .*never accepted as missing"),
    "infinite though missing is declared": (("pair", [np.inf, 0.5]), DataError, "never accepted as missing"),
    "wrong size": (("z", [1.0, 2.0]), DataError, r"expected a value of shape \(\), given shape \(2,\)"),
    "words": (("z", "high"), ArgumentTypeError, "sensor 'z' of 'wander', value: expected real numbers"),
    "no inputs": (("lever", 1.0), ArgumentError, "sensor 'lever' of 'wander' takes inputs"),
    "inputs too many": (("z", 1.0, [1.0]), ArgumentError, "takes only the state"),
    "inputs of a wrong shape": (
        ("lever", 1.0, [[1.0, 2.0]]),
        ModelError,
        "sensor 'lever' of 'wander' returned a batch",
    ),
    "NaN in inputs": (("lever", 1.0, [np.nan, 1.0]), DataError, "sensor 'lever' of 'wander', inputs"),
    "outside the support": (("count", 2.5), DataError, "sensor 'count' of 'wander': 1 values are outside the support"),
    "partly missing without marginals": (("pair", [np.nan, 0.5]), DataError, "partly missing"),
    "a control nobody takes": (("z", 1.0, None, [1.0]), ArgumentError, "takes \\(x, dt\\) only"),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("case", REFUSED)
def test_events_that_cannot_be_are_refused_by_sensor(case):
    event, kind, message = REFUSED[case]
    filter = wander().filter(EKF())
    belief = filter.start(0, 0.0)
    with pytest.raises(kind, match=message) as caught:
        filter.update(belief, 1.0, *event)
    assert len(str(caught.value).splitlines()) <= 12
    assert filter.num_compiles == 0
    after, _ = filter.update(belief, 0.0, "z", 1.0)  # nothing was spoilt
    np.testing.assert_allclose(float(after.mean[0]), 0.5, rtol=1e-12)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "value", [np.nan, np.inf, -np.inf, np.array([1.0, 2.0]), np.array(1 + 2j), "high", np.array("high"), None]
)
def test_a_sensor_that_is_known_refuses_what_it_refused_at_first(value):
    filter = wander().filter(EKF())
    belief = filter.start(0, 0.0)
    with pytest.raises(ProbinfError) as first:
        filter.update(belief, 0.0, "z", value)
    for good in (1.0, 1, np.float32(1.0), np.array([1.0]), True, [1.0]):
        after, _ = filter.update(belief, 0.0, "z", good)
        np.testing.assert_allclose(float(after.mean[0]), 0.5, rtol=1e-12)
    with pytest.raises(type(first.value)) as again:
        filter.update(belief, 0.0, "z", value)
    assert str(again.value) == str(first.value)


def test_inputs_keep_the_shape_of_the_first_event():
    filter = wander().filter(EKF())
    belief, _ = filter.update(filter.start(0, 0.0), 0.0, "lever", 1.0, [1.0, 0.0])
    with pytest.raises(ArgumentError, match=r"sensor 'lever'.*expected inputs of shape \(2,\).*given \(3,\)"):
        filter.update(belief, 0.0, "lever", 1.0, [1.0, 0.0, 0.0])


def test_the_same_checks_guard_a_whole_log():
    filter = wander().filter(EKF())
    with pytest.raises(DataError, match="sensor 'z' of 'wander': 1 of 2 values are NaN, the first at row 1 of the log"):
        filter.run([(0.0, "z", 1.0), (1.0, "z", np.nan)])
    with pytest.raises(DataError, match=r"sensor 'count'.*the first is -1.0 at row 0 of the log"):
        filter.run([(0.0, "count", -1.0)])
    with pytest.raises(UnknownNameError, match="'zz' is not a sensor"):
        filter.run([(0.0, "zz", 1.0)])
    with pytest.raises(DataError, match=r"expected values of shape \(\), the log has \(2,\)"):
        filter.run([(0.0, "z", [1.0, 2.0])])
    with pytest.raises(DataError, match="allow_empty=True"):
        filter.run(Log([(0.0, "z", 1.0)])[:0])
    empty = filter.run(Log([(0.0, "z", 1.0)])[:0], t0=3.0, allow_empty=True)
    assert float(empty.belief.time) == 3.0
    assert float(empty.log_evidence) == 0.0


@pytest.mark.bad_input
def test_clocks_and_settings_are_checked():
    system = wander()
    with pytest.raises(ArgumentError, match="lag"):
        system.filter(EKF(), lag=-1.0)
    with pytest.raises(ArgumentTypeError, match="method"):
        system.filter("ekf")
    with pytest.raises(ArgumentError, match="on_fault"):
        Filter(system, EKF(), on_fault="ignore")
    filter = system.filter(EKF())
    belief = filter.start(0, 5.0)
    with pytest.raises(ArgumentError, match=r"predict: t = 4 s lies before the belief's time 5 s"):
        filter.predict(belief, 4.0)
    with pytest.raises(ArgumentError, match="t: expected a finite number"):
        filter.predict(belief, np.nan)
    with pytest.raises(ArgumentTypeError, match="t: expected a number of seconds"):
        filter.predict(belief, "noon")
    with pytest.raises(ArgumentTypeError, match="belief: expected one from start"):
        filter.predict(GaussianMixture([1.0], [[0.0]], [[[1.0]]]), 6.0)


def test_late_events_before_the_start_are_refused():
    filter = wander().filter(EKF(), lag=10.0)
    belief, _ = filter.update(filter.start(0, 5.0), 6.0, "z", 1.0)
    with pytest.raises(ArgumentError, match=r"event at 4 s .*only what came after 5 s"):
        filter.update(belief, 4.0, "z", 1.0)


def test_the_history_is_no_longer_than_the_lag():
    filter = wander().filter(EKF(), lag=3.0)
    belief = filter.start(0, 0.0)
    for k in range(50):
        belief, _ = filter.update(belief, float(k), "z", 0.1)
        assert len(belief.history) <= 4
    assert not wander().filter(EKF()).start(0, 0.0).history


# -- systems ------------------------------------------------------------------------------------------------------

PRIOR = dist.Normal(jnp.zeros(2), 1.0).to_event(1)


def stay(x, dt):
    return dist.Normal(x, jnp.sqrt(dt)).to_event(1)


SYSTEMS = {
    "scalar prior": (
        lambda: System(dist.Normal(0.0, 1.0), stay, {}),
        r"prior of 'system'.*for a scalar state .expand\(\[1\]\)",
    ),
    "prior of another kind": (lambda: System(3.0, stay, {}), "expected a GaussianMixture"),
    "motion of another size": (
        lambda: System(PRIOR, lambda x, dt: dist.Normal(x[:1], 1.0).to_event(1), {}),
        r"move of 'system' returned event shape \(1,\), expected \(2,\)",
    ),
    "motion that is a batch": (
        lambda: System(PRIOR, lambda x, dt: dist.Normal(x, 1.0), {}),
        r"move of 'system' returned a batch.*\.to_event\(1\)",
    ),
    "motion without time": (lambda: System(PRIOR, lambda x: PRIOR, {}), "move: the function must take"),
    "sensor that fails": (
        lambda: System(PRIOR, stay, {"a": lambda x: dist.Normal(x @ jnp.zeros(3), 1.0)}),
        "sensor 'a' of 'system' failed in a dry run",
    ),
    "sensor that returns a number": (
        lambda: System(PRIOR, stay, {"a": lambda x: x[0]}),
        "sensor 'a' of 'system' returned .*expected a NumPyro distribution",
    ),
    "sensor that is a number": (lambda: System(PRIOR, stay, {"a": 3.0}), "expected a function from the state"),
    "angle out of range": (lambda: System(PRIOR, stay, {}, angles=(2,)), "angles: 2 is not the index"),
    "angle of a value out of range": (
        lambda: System(PRIOR, stay, {"a": Sensor(lambda x: dist.Normal(x[0], 1.0), angles=(1,))}),
        "angles .1. are not coordinates",
    ),
    "not a system": (lambda: state_space(lambda: 3)(), "returned int; return a System"),
    "missing by another name": (lambda: Sensor(lambda x: PRIOR, missing="None"), "missing must be None or 'nan'"),
    "not linear": (
        lambda: System(PRIOR, stay, {"a": lambda x: dist.Normal(x[0] ** 2, 1.0)}, linear_gaussian=True),
        "the mean of sensor 'a' of 'system' is not linear",
    ),
    "noise that changes": (
        lambda: System(PRIOR, lambda x, dt: dist.Normal(x, jnp.exp(x)).to_event(1), {}, linear_gaussian=True),
        "the covariance of move of 'system' changes with the state",
    ),
    "not gaussian": (
        lambda: System(PRIOR, stay, {"a": lambda x: dist.StudentT(4.0, x[0], 1.0)}, linear_gaussian=True),
        "not Gaussian",
    ),
}


@pytest.mark.bad_input
@pytest.mark.parametrize("case", SYSTEMS)
def test_systems_that_cannot_work_are_refused_when_they_are_written(case):
    make, message = SYSTEMS[case]
    with pytest.raises(ProbinfError, match=message):
        make()


def test_a_control_reaches_the_motion():
    system = System(
        prior=dist.Normal(jnp.zeros(2), 1.0).to_event(1),
        move=lambda x, dt, u: dist.Normal(x + u * dt, 0.1).to_event(1),
        see={"z": lambda x: dist.Normal(x[0], 1.0)},
        name="driven",
    )
    filter = system.filter(EKF())
    belief = filter.start(0, 0.0)
    with pytest.raises(ArgumentError, match="move of 'driven' needs a control for a step of 2 s"):
        filter.predict(belief, 2.0)
    moved = filter.predict(belief, 2.0, control=[1.0, -3.0])
    np.testing.assert_allclose(moved.mean, [2.0, -6.0], rtol=1e-12)
    with pytest.raises(ArgumentError, match=r"expected a control of shape \(2,\), given \(1,\)"):
        filter.predict(belief, 2.0, control=[1.0])
    run = filter.run([(0.0, None, None, None, [0.0, 0.0]), (2.0, None, None, None, [1.0, -3.0])])
    np.testing.assert_allclose(run.means[-1], [2.0, -6.0], rtol=1e-12)
    ahead = filter.forecast(moved, [3.0, 5.0], controls=[[1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(ahead.means, [[3.0, -6.0], [3.0, -4.0]], rtol=1e-12)


def test_a_belief_is_the_prior_of_the_next_filter():
    log = cruise_log(seed=7)
    whole = cruise().filter(EKF()).run(log, t0=0.0)
    first = cruise().filter(EKF()).run(log[:6], t0=0.0)
    assert isinstance(first.belief, AbstractBelief)
    second = cruise().with_prior(first.belief).filter(EKF())
    rest = second.run(log[6:], t0=float(first.times[-1]))
    np.testing.assert_allclose(rest.belief.mean, whole.belief.mean, rtol=1e-9)
    np.testing.assert_allclose(rest.belief.cov, whole.belief.cov, rtol=1e-9)
    np.testing.assert_allclose(float(first.log_evidence + rest.log_evidence), float(whole.log_evidence), rtol=1e-9)
    mixture = first.belief.as_mixture(3)
    np.testing.assert_allclose(mixture.mean, first.belief.mean, rtol=1e-12)
    with pytest.raises(ArgumentError, match="the state of 'cruise' has 4 entries, this prior has 1"):
        cruise().with_prior(GaussianMixture([1.0], [[0.0]], [[[1.0]]]))


def test_a_forecast_is_a_row_of_predictions():
    filter = cruise().filter(EKF())
    belief = filter.start(0, 0.0)
    ahead = filter.forecast(belief, [0.0, 1.0, 2.5])
    for k, t in enumerate((0.0, 1.0, 2.5)):
        expected = filter.predict(belief, t)
        np.testing.assert_allclose(ahead.means[k], expected.mean, rtol=1e-9)
        np.testing.assert_allclose(ahead.covs[k], expected.cov, rtol=1e-9)
    with pytest.raises(ArgumentError, match="times"):
        filter.forecast(belief, [2.0, 1.0])


def test_the_evidence_of_many_events_keeps_its_digits_in_32_bit():
    n = 5000
    log = Log({"z": (np.arange(n) * 1e-3, np.zeros(n))})
    exact = float(wander().filter(EKF()).run(log).log_evidence)
    with jax.enable_x64(False):
        run = wander().filter(EKF()).run(log)
        single = np.asarray(run.predictive_log_densities, np.float64).sum()
        # The sum of the 32-bit terms, added in 64 bits, against the compensated sum: one rounding of the result.
        assert abs(float(run.log_evidence) - single) <= abs(exact) * 2.0**-23
    np.testing.assert_allclose(single, exact, rtol=1e-4)


def test_results_print_what_matters():
    run = cruise().filter(EKF(gate=9.0)).run(cruise_log(), t0=0.0)
    text = repr(run)
    for word in ("EKF", "12 events", "log evidence", "gated", "missing", "approximate"):
        assert word in text
    assert "StreamBelief(EKF, t=" in repr(run.belief)
    assert "Filter('cruise', EKF" in repr(cruise().filter(EKF()))
