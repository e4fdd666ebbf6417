"""Interacting multiple models: the Kalman filter with one mode, all mode sequences where it is exact, bad input."""

import itertools

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.linalg import expm
from scipy.stats import multivariate_normal, norm

import probinf as pi
import smc
from probinf.errors import ArgumentError, ArgumentTypeError, ModelError
from probinf.streaming import stack_beliefs
from tests.streaming_models import cruise, cruise_log, joint_gaussian, move_linear

RATES = np.array([[-0.2, 0.2], [0.5, -0.5]])
START = np.array([0.6, 0.4])
FORWARD = np.array([[[1.0, 1.0], [0.0, 1.0]], [[1.0, 0.3], [-0.4, 0.8]]])
MOTION = np.array([[[0.2, 0.05], [0.05, 0.1]], [[1.0, 0.0], [0.0, 0.7]]])
MEAN, COV = np.array([0.5, -0.2]), np.array([[1.0, 0.3], [0.3, 0.8]])
NOISE = 0.5


def straight(x, dt):
    return dist.MultivariateNormal(jnp.asarray(FORWARD[0]) @ x, jnp.asarray(MOTION[0]))


def turning(x, dt):
    return dist.MultivariateNormal(jnp.asarray(FORWARD[1]) @ x, jnp.asarray(MOTION[1]))


def place(x):
    return dist.Normal(x[:1], NOISE).to_event(1)


def system(move=straight, see=place):
    prior = dist.MultivariateNormal(jnp.asarray(MEAN), jnp.asarray(COV))
    return pi.System(prior, move, {"place": see}, linear_gaussian=True, name="two ways")


def along(path, ys, predict_only=False):
    """NumPy's Kalman filter along one sequence of modes, one second between values."""
    mean, cov, total = MEAN, COV, 0.0
    for step, mode in enumerate(path):
        mean, cov = FORWARD[mode] @ mean, FORWARD[mode] @ cov @ FORWARD[mode].T + MOTION[mode]
        if predict_only and step == len(path) - 1:
            break
        spread = cov[0, 0] + NOISE**2
        total += norm.logpdf(ys[step], mean[0], np.sqrt(spread))
        gain = cov[:, 0] / spread
        mean, cov = mean + gain * (ys[step] - mean[0]), cov - np.outer(gain, cov[0])
    return total, mean, cov


def enumerated(jumps, ys, predict_only=False):
    """Evidence, probabilities of the last mode, and mean and covariance, from all mode sequences (the start's too)."""
    masses, lasts, means, covs = [], [], [], []
    for path in itertools.product((0, 1), repeat=len(ys) + 1):
        log_density, mean, cov = along(path[1:], ys, predict_only)
        masses.append(
            START[path[0]] * np.prod([jumps[a, b] for a, b in itertools.pairwise(path)]) * np.exp(log_density)
        )
        lasts.append(path[-1])
        means.append(mean)
        covs.append(cov)
    masses, lasts, means, covs = map(np.array, (masses, lasts, means, covs))
    weights = masses / masses.sum()
    mean = weights @ means
    gaps = means - mean
    cov = np.tensordot(weights, covs, 1) + (weights[:, None] * gaps).T @ gaps
    return np.log(masses.sum()), np.array([weights[lasts == k].sum() for k in (0, 1)]), mean, cov


def bank(**settings):
    return smc.InteractingMultipleModels({"straight": None, "turn": turning}, initial=START, **settings)


@pytest.mark.parametrize("base", [smc.EKF(), smc.UKF()], ids=["extended", "unscented"])
@pytest.mark.parametrize("names", ["a", "abc"], ids=["one mode", "three equal modes"])
def test_one_mode_or_equal_modes_are_the_kalman_filter(names, base):
    log = cruise_log()
    mean, cov, evidence = joint_gaussian(log, 0.0)
    count = len(names)
    rates = 0.3 * (np.ones((count, count)) - count * np.eye(count))
    modes = {name: (None, move_linear, cruise())[k] for k, name in enumerate(names)}
    run = cruise().filter(smc.InteractingMultipleModels(modes, rates=rates, base=base)).run(log, key=0, t0=0.0)
    np.testing.assert_allclose(run.belief.mean, mean[-1], rtol=1e-10)
    np.testing.assert_allclose(run.belief.cov, cov[-1], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(run.log_evidence, evidence, rtol=1e-10)
    plain = cruise().filter(base).run(log, key=0, t0=0.0)
    np.testing.assert_allclose(run.means, plain.means, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(run.covs, plain.covs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("given", ["rates", "transition"])
def test_it_is_exact_up_to_the_second_motion(given):
    """After one value, and after the next motion: all mode sequences. Then the collapse shows, and stays small."""
    jumps = expm(RATES)
    method = bank(rates=RATES) if given == "rates" else bank(transition=jumps)
    filter = system().filter(method)
    belief, info = filter.update(filter.start(0, 0.0), 1.0, "place", [1.9])
    evidence, probabilities, mean, cov = enumerated(jumps, [1.9])
    np.testing.assert_allclose(belief.log_evidence, evidence, rtol=1e-10)
    np.testing.assert_allclose(info.predictive_log_density, evidence, rtol=1e-10)
    np.testing.assert_allclose(belief.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(belief.cov, cov, rtol=1e-10)
    found = method.mode_probabilities(belief)
    np.testing.assert_allclose([found["straight"], found["turn"]], probabilities, rtol=1e-10)
    whole = belief.as_mixture(2)
    np.testing.assert_allclose(np.sort(whole.weights), np.sort(probabilities), rtol=1e-10)
    np.testing.assert_allclose(belief.as_mixture(1).cov, cov, rtol=1e-8)
    point = np.array([0.3, 0.1])
    density = sum(
        w * multivariate_normal.pdf(point, m, c)
        for w, m, c in zip(whole.weights, whole.means, whole.covariances, strict=True)
    )
    np.testing.assert_allclose(belief.log_prob(point), np.log(density), rtol=1e-9)

    ahead = filter.predict(belief, 2.0)
    _, probabilities, mean, cov = enumerated(jumps, [1.9, np.nan], predict_only=True)
    np.testing.assert_allclose(ahead.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(ahead.cov, cov, rtol=1e-10)
    np.testing.assert_allclose(list(method.mode_probabilities(ahead).values()), probabilities, rtol=1e-10)

    # Two values: each mode's predictive density is that of one Gaussian instead of two (measured: 0.0207 nats apart).
    belief, _ = filter.update(ahead, 2.0, "place", [1.2])
    evidence, probabilities, mean, cov = enumerated(jumps, [1.9, 1.2])
    assert 1e-6 < abs(float(belief.log_evidence) - evidence) < 0.03
    assert np.all(np.abs(np.asarray(belief.mean) - mean) < 0.05 * np.sqrt(np.diag(cov)))
    np.testing.assert_allclose(method.mode_probabilities(belief)["turn"], probabilities[1], atol=0.01)


def test_without_jumps_it_is_exact_for_ever():
    """Static modes: nothing is ever collapsed, and the probabilities are those of comparing two Kalman filters."""
    ys = [1.9, 1.2, 0.3, -0.5]
    filter = system().filter(bank(rates=np.zeros((2, 2))))
    run = filter.run([(k + 1.0, "place", [y]) for k, y in enumerate(ys)], key=0, t0=0.0)
    evidence, probabilities, mean, cov = enumerated(np.eye(2), ys)
    assert probabilities.min() > 1e-3  # both modes are alive
    np.testing.assert_allclose(run.log_evidence, evidence, rtol=1e-10)
    np.testing.assert_allclose(run.belief.mean, mean, rtol=1e-10)
    np.testing.assert_allclose(run.belief.cov, cov, rtol=1e-10)


def test_modes_may_differ_in_their_sensors():
    """A mode that moves alike and sees with more noise: after one value, Bayes' rule between two Kalman filters."""
    loud = system(see=lambda x: dist.Normal(x[:1], 5.0).to_event(1))
    method = smc.InteractingMultipleModels({"quiet": None, "loud": loud}, rates=np.zeros((2, 2)))
    filter = system().filter(method)
    belief, info = filter.update(filter.start(0, 0.0), 1.0, "place", [4.0])
    mean, variance = (FORWARD[0] @ MEAN)[0], (FORWARD[0] @ COV @ FORWARD[0].T + MOTION[0])[0, 0]
    densities = norm.pdf(4.0, mean, np.sqrt(variance + np.array([NOISE, 5.0]) ** 2)) / 2
    np.testing.assert_allclose(info.predictive_log_density, np.log(densities.sum()), rtol=1e-10)
    np.testing.assert_allclose(method.mode_probabilities(belief)["loud"], densities[1] / densities.sum(), rtol=1e-10)


def test_a_mode_that_cannot_be_reached_keeps_its_gaussian():
    method = bank(transition=np.array([[1.0, 0.0], [1.0, 0.0]]))
    filter = system().filter(method)
    belief, _ = filter.update(filter.start(0, 0.0), 1.0, "place", [1.9])
    _, mean, _ = along((0,), [1.9])
    np.testing.assert_allclose(belief.mean, mean, rtol=1e-10)
    assert float(method.mode_probabilities(belief)["turn"]) == 0.0
    assert np.isfinite(np.asarray(belief.cov)).all()


def test_angles_are_mixed_on_the_circle():
    """Two modes turn to either side of half a turn; their mixture lies there, not at zero."""

    def turn(by):
        return lambda x, dt: dist.Normal(x + by * dt, 0.1).to_event(1)

    whole = pi.System(
        dist.Normal(jnp.array([np.pi - 0.05]), 0.1).to_event(1),
        turn(0.0),
        {"compass": lambda x: pi.Angular(x[0], 0.3)},
        angles=(0,),
    )
    rates = 2.0 * np.array([[-1.0, 1.0], [1.0, -1.0]])
    filter = whole.filter(smc.InteractingMultipleModels({"left": turn(0.3), "right": turn(-0.3)}, rates=rates))
    belief = filter.start(0, 0.0)
    for k in range(4):
        belief = filter.predict(belief, k + 1.0)
    # The turns are +-0.3 a step, with equal probabilities: mean pi - 0.05, standard deviation below 0.7.
    np.testing.assert_allclose(np.abs(belief.mean), np.pi - 0.05, atol=1e-6)
    assert float(belief.cov[0, 0]) < 0.5


def test_a_batch_has_the_probabilities_of_each():
    method = bank(rates=RATES)
    filter = system().filter(method)
    beliefs = stack_beliefs([filter.start(k, 0.0) for k in range(2)])
    beliefs, _ = filter.update_batch(beliefs, 1.0, "place", [[1.9], [-1.0]])
    one, _ = filter.update(filter.start(0, 0.0), 1.0, "place", [-1.0])
    found = method.mode_probabilities(beliefs)["turn"]
    assert found.shape == (2,)
    np.testing.assert_allclose(found[1], method.mode_probabilities(one)["turn"], rtol=1e-12)


def test_new_rates_compile_nothing():
    steps = []
    for rate in (0.1, 0.4):
        filter = system_once.filter(bank(rates=rate * np.array([[-1.0, 1.0], [1.0, -1.0]])))
        filter.update(filter.start(0, 0.0), 1.0, "place", [1.9])
        steps.append(filter.num_compiles)
    assert steps[1] == 0


system_once = system()


def test_claims_say_what_holds():
    assert smc.InteractingMultipleModels({"only": None}).claim(system()) == "exact"
    assert smc.InteractingMultipleModels({"only": turning}).claim(system()) == "approximate"
    assert bank(rates=RATES).claim(system()) == "approximate"
    assert "collapsed" in bank(rates=RATES).reason(system())


@pytest.mark.bad_input
def test_bad_settings_are_refused():
    with pytest.raises(ArgumentTypeError, match="modes: expected a dictionary"):
        smc.InteractingMultipleModels([straight])
    with pytest.raises(ArgumentTypeError, match="modes: 'turn': expected a motion"):
        smc.InteractingMultipleModels({"turn": 3.0})
    with pytest.raises(ArgumentError, match="pass either rates"):
        smc.InteractingMultipleModels({"a": None, "b": turning})
    with pytest.raises(ArgumentError, match=r"rates: expected shape \(2, 2\), one entry for each mode, found \(1, 2\)"):
        bank(rates=[[0.0, 0.0]])
    with pytest.raises(ArgumentError, match="rates: expected its rows to sum to 0"):
        bank(rates=[[-0.1, 0.2], [0.1, -0.1]])
    with pytest.raises(ArgumentError, match="none off the diagonal below zero"):
        bank(rates=[[0.1, -0.1], [0.1, -0.1]])
    with pytest.raises(ArgumentError, match="transition: expected its rows to sum to 1"):
        bank(transition=[[0.9, 0.2], [0.5, 0.5]])
    with pytest.raises(ArgumentError, match="initial: expected it to sum to 1"):
        smc.InteractingMultipleModels({"a": None, "b": None}, rates=RATES, initial=[0.5, 0.6])
    with pytest.raises(ArgumentTypeError, match=r"base: expected EKF\(\) or UKF\(\)"):
        bank(rates=RATES, base=smc.ParticleFilter(10))
    with pytest.raises(ArgumentError, match="modes: 'b': its state has 4 entries"):
        system().filter(smc.InteractingMultipleModels({"a": None, "b": cruise()}, rates=RATES)).start(0, 0.0)
    other = pi.System(system().prior, straight, {"range": place})
    with pytest.raises(ArgumentError, match="modes: 'b': its system has no sensor 'place'"):
        system().filter(smc.InteractingMultipleModels({"a": None, "b": other}, rates=RATES)).start(0, 0.0)
    wrong = smc.InteractingMultipleModels({"a": None, "b": lambda x, dt: place(x)}, rates=RATES)
    with pytest.raises(ModelError, match=r"returned event shape \(1,\), expected \(2,\)"):
        system().filter(wrong).start(0, 0.0)
