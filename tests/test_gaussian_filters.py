"""Extended and unscented Kalman filters and their smoother, against closed forms, quadrature and known numbers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.optimize
import scipy.special
import scipy.stats

from probinf.errors import ArgumentError, InferenceError, ProbinfError
from probinf.representations.angular import Angular
from probinf.representations.mixture import GaussianMixture
from probinf.streaming import Filter, Log, Sensor, System, state_space
from smc.extended import EKF
from smc.gaussian_approximation import moments
from smc.kalman import Affine as AffineModel
from smc.kalman import gain, innovate, joseph
from smc.unscented import UKF, sigma_points
from tests.streaming_models import cruise, cruise_log, joint_gaussian

DATA = Path(__file__).parent / "data"
FILTERS = {"ekf": EKF(), "ukf": UKF()}


@pytest.fixture(params=FILTERS, name="method")
def _method(request):
    return FILTERS[request.param]


# -- whole runs against known answers -----------------------------------------------------------------------------


@state_space
def local_level(level_variance, noise_variance, first):
    """Given the first value, the level is N(first, noise variance): the diffuse start of the textbook."""
    return System(
        prior=dist.Normal(first, jnp.sqrt(noise_variance)).to_event(1),
        move=lambda x, dt: dist.Normal(x, jnp.sqrt(level_variance * dt)).to_event(1),
        see={"flow": lambda x: dist.Normal(x[0], jnp.sqrt(noise_variance))},
        linear_gaussian=True,
    )


def test_nile_has_the_log_likelihood_of_the_textbook(method):
    year, volume = np.loadtxt(DATA / "nile" / "nile.csv", delimiter=",", skiprows=1).T
    log = Log({"flow": (year[1:], volume[1:])})
    system = local_level(1469.1, 15099.0, volume[:1])
    run = system.filter(method).run(log, t0=year[0])
    assert len(run) == 99
    np.testing.assert_allclose(float(run.log_evidence), -632.546, atol=5e-4)  # published to three decimals
    assert run.claim == "exact"


def test_nile_variances_of_the_textbook_are_where_the_gradient_vanishes():
    """The gradient of the log evidence passes through the compiled scan; at the published maximum it is zero."""
    year, volume = np.loadtxt(DATA / "nile" / "nile.csv", delimiter=",", skiprows=1).T
    log = Log({"flow": (year[1:], volume[1:])})

    def score(logs):
        level, noise = jnp.exp(logs)
        return local_level(level, noise, jnp.asarray(volume[:1])).filter(EKF()).run(log, t0=year[0]).log_evidence

    best = jnp.log(jnp.array([1469.1, 15098.5]))
    gradient = jax.grad(score)(best)
    # Five published digits: the gradient is below curvature (about 10 per unit of log variance) times 1e-4.
    assert float(jnp.abs(gradient).max()) < 1e-3


def lidar_radar():
    """Log, true (px, py, vx, vy), and the first position."""
    events, truth = [], []
    for line in (DATA / "lidar_radar" / "measurements.txt").read_text().splitlines():
        kind, *numbers = line.split()
        size = 2 if kind == "L" else 3
        numbers = [float(n) for n in numbers]
        sensor = "lidar" if kind == "L" else "radar"
        events.append((numbers[size] / 1e6, sensor, numbers[:size]))
        truth.append(numbers[size + 1 : size + 5])
    return Log(events), np.array(truth), np.array(events[0][2])


def radar(position, velocity):
    distance = jnp.sqrt(position @ position)
    mean = jnp.stack([distance, jnp.arctan2(position[1], position[0]), position @ velocity / distance])
    return dist.MultivariateNormal(mean, covariance_matrix=jnp.diag(jnp.array([0.3, 0.03, 0.3]) ** 2))


@state_space
def turning(acceleration, turning, first):
    """Constant turn rate and velocity: position, speed, heading, turn rate."""

    def move(x, dt):
        px, py, speed, heading, rate = x
        straight = jnp.abs(rate) < 1e-4
        safe = jnp.where(straight, 1.0, rate)
        ahead = jnp.stack([jnp.cos(heading), jnp.sin(heading)])
        arc = jnp.stack(
            [jnp.sin(heading + safe * dt) - jnp.sin(heading), jnp.cos(heading) - jnp.cos(heading + safe * dt)]
        )
        step = jnp.where(straight, speed * dt * ahead, speed / safe * arc)
        mean = jnp.stack([px + step[0], py + step[1], speed, heading + rate * dt, rate])
        push = acceleration * jnp.concatenate([0.5 * dt**2 * ahead, dt[None], jnp.zeros(2)])
        twist = turning * jnp.concatenate([jnp.zeros(3), jnp.stack([0.5 * dt**2, dt])])
        noise = jnp.outer(push, push) + jnp.outer(twist, twist) + 1e-9 * jnp.eye(5)
        return dist.MultivariateNormal(mean, covariance_matrix=noise)

    def see_radar(x):
        return radar(x[:2], x[2] * jnp.stack([jnp.cos(x[3]), jnp.sin(x[3])]))

    start = jnp.concatenate([first, jnp.zeros(3)])
    spread = jnp.array([0.15, 0.15, 5.0, 2.0, 1.0])
    return System(
        prior=dist.Normal(start, spread).to_event(1),
        move=move,
        see={"lidar": lambda x: dist.Normal(x[:2], 0.15).to_event(1), "radar": Sensor(see_radar, angles=(1,))},
        angles=(3,),
    )


def test_lidar_and_radar_reach_the_accepted_accuracy():
    log, truth, first = lidar_radar()
    run = turning(1.5, 0.6, jnp.asarray(first)).filter(UKF()).run(log[1:], t0=log.times[0])
    px, py, speed, heading, _ = np.asarray(run.means).T
    estimate = np.stack([px, py, speed * np.cos(heading), speed * np.sin(heading)], axis=1)
    rmse = np.sqrt(np.mean((estimate - truth[1:]) ** 2, axis=0))
    assert (rmse <= [0.11, 0.11, 0.52, 0.52]).all()
    # The mean of n chi-square variables with m degrees of freedom has sd sqrt(2 m / n). Within 4 sd (false alarm 1e-4
    # for a filter that is right; an approximate one may be off by more, so this is a bound on its error as well).
    for sensor, size in (("lidar", 2), ("radar", 3)):
        nis = np.asarray(run.info.nis)[run.sensors == sensor]
        assert abs(nis.mean() - size) < 4.0 * np.sqrt(2 * size / len(nis))


def test_smoothing_is_conditioning_on_all_events(method):
    log = cruise_log(seed=4, n=10)
    smoothed = cruise().filter(method).smooth(log, t0=0.0)
    mean, cov, _ = joint_gaussian(log, 0.0)
    sd = np.sqrt(np.diagonal(cov, axis1=1, axis2=2))
    np.testing.assert_array_less(np.abs((np.asarray(smoothed.means) - mean) / sd), 1e-6)
    np.testing.assert_array_less(np.abs(np.asarray(smoothed.covs) - cov) / (sd[:, :, None] * sd[:, None, :]), 1e-6)


def test_smoothing_passes_over_the_half_turn(method):
    system = System(
        prior=dist.Normal(jnp.array([3.0]), jnp.array([0.2])).to_event(1),
        move=lambda x, dt: dist.Normal(x, 0.1 * jnp.sqrt(dt)).to_event(1),
        see={"compass": lambda x: Angular(x[0], 0.1)},
        angles=(0,),
    )
    smoothed = system.filter(method).smooth([(0.0, "compass", 3.1), (1.0, "compass", -3.1), (2.0, "compass", -2.9)])
    flat = System(
        prior=dist.Normal(jnp.array([3.0]), jnp.array([0.2])).to_event(1),
        move=lambda x, dt: dist.Normal(x, 0.1 * jnp.sqrt(dt)).to_event(1),
        see={"line": lambda x: dist.Normal(x[0], 0.1)},
    )
    turn = 2.0 * np.pi
    expected = flat.filter(method).smooth([(0.0, "line", 3.1), (1.0, "line", turn - 3.1), (2.0, "line", turn - 2.9)])
    gap = np.exp(1j * np.asarray(smoothed.means)) - np.exp(1j * np.asarray(expected.means))
    np.testing.assert_allclose(np.abs(gap), 0.0, atol=1e-9)
    np.testing.assert_allclose(smoothed.covs, expected.covs, rtol=1e-9)


# -- single updates -----------------------------------------------------------------------------------------------


def scalar_system(sensor, prior_sd=1.0, prior_mean=0.5, **options):
    return System(
        prior=dist.Normal(jnp.array([prior_mean]), jnp.array([prior_sd])).to_event(1),
        move=lambda x, dt: dist.Normal(x, jnp.sqrt(dt)).to_event(1),
        see={"z": sensor},
        **options,
    )


def scalar_update(method, sensor, value, **options):
    filter = scalar_system(sensor, **options).filter(method)
    return filter.update(filter.start(0, 0.0), 0.0, "z", value)


def conjugate(mean, variance, noise, value):
    """Posterior mean and variance of a normal mean under normal noise."""
    share = variance / (variance + noise)
    return mean + share * (value - mean), (1.0 - share) * variance


def test_a_value_beyond_the_gate_is_refused_and_said_so(method):
    gated = type(method)(gate=9.0)
    sensor = lambda x: dist.Normal(x[0], 0.5)  # noqa: E731
    belief, info = scalar_update(gated, sensor, 0.5 + 3.01 * np.sqrt(1.25))
    assert bool(info.gated)
    assert (float(belief.mean[0]), float(belief.cov[0, 0])) == (0.5, 1.0)
    # The density reported is still that of the value under the Gaussian prediction.
    expected = scipy.stats.norm(0.5, np.sqrt(1.25)).logpdf(0.5 + 3.01 * np.sqrt(1.25))
    np.testing.assert_allclose(float(info.predictive_log_density), expected, rtol=1e-12)
    belief, info = scalar_update(gated, sensor, 0.5 + 2.99 * np.sqrt(1.25))
    assert not bool(info.gated)
    mean, variance = conjugate(0.5, 1.0, 0.25, 0.5 + 2.99 * np.sqrt(1.25))
    np.testing.assert_allclose([float(belief.mean[0]), float(belief.cov[0, 0])], [mean, variance], rtol=1e-12)
    np.testing.assert_allclose(float(info.nis), 2.99**2, rtol=1e-12)


def mixture_noise(x):
    """Mostly N(x, 0.25), sometimes shifted by 4."""
    weights = dist.Categorical(probs=jnp.array([0.7, 0.3]))
    return dist.MixtureSameFamily(weights, dist.Normal(x[0] + jnp.array([0.0, 4.0]), jnp.array([0.5, 1.0])))


def mixture_general(x):
    weights = dist.Categorical(probs=jnp.array([0.3, 0.7]))
    return dist.MixtureGeneral(weights, [dist.Normal(x[0] + 4.0, 1.0), dist.Normal(x[0], 0.5)])


@pytest.mark.parametrize("sensor", [mixture_noise, mixture_general])
def test_nominal_noise_is_the_heaviest_component(method, sensor):
    belief, _ = scalar_update(type(method)(noise="nominal"), sensor, 1.1)
    mean, variance = conjugate(0.5, 1.0, 0.25, 1.1)
    np.testing.assert_allclose([float(belief.mean[0]), float(belief.cov[0, 0])], [mean, variance], rtol=1e-10)


@pytest.mark.parametrize("sensor", [mixture_noise, mixture_general])
def test_moment_noise_has_the_mean_and_variance_of_the_mixture(method, sensor):
    belief, _ = scalar_update(type(method)(noise="moment"), sensor, 1.1)
    noise = 0.7 * 0.25 + 0.3 * 1.0 + 0.7 * 0.3 * 4.0**2
    mean, variance = conjugate(0.5, 1.0, noise, 1.1 - 0.3 * 4.0)
    np.testing.assert_allclose([float(belief.mean[0]), float(belief.cov[0, 0])], [mean, variance], rtol=1e-10)


def test_student_t_noise_is_its_scale_or_its_variance(method):
    sensor = lambda x: dist.StudentT(4.0, x[0], 0.5)  # noqa: E731
    for noise, variance in (("nominal", 0.25), ("moment", 0.25 * 4 / 2)):
        belief, _ = scalar_update(type(method)(noise=noise), sensor, 1.1)
        mean, cov = conjugate(0.5, 1.0, variance, 1.1)
        np.testing.assert_allclose([float(belief.mean[0]), float(belief.cov[0, 0])], [mean, cov], rtol=1e-10)


def test_noise_may_depend_on_the_state(method):
    """It is taken at the predicted mean."""
    belief, _ = scalar_update(method, lambda x: dist.Normal(x[0], 0.2 + x[0] ** 2), 1.1)
    mean, cov = conjugate(0.5, 1.0, 0.45**2, 1.1)
    np.testing.assert_allclose([float(belief.mean[0]), float(belief.cov[0, 0])], [mean, cov], rtol=1e-10)


def test_the_iterated_filter_ends_at_the_mode():
    """Gauss-Newton on the log posterior: its fixed point is the posterior mode (Bell & Cathey 1993)."""
    sensor = lambda x: dist.Normal(jnp.exp(x[0]), 0.3)  # noqa: E731
    belief, _ = scalar_update(EKF(iterations=40), sensor, 3.0)

    def loss(x):
        return 0.5 * (x - 0.5) ** 2 + 0.5 * ((3.0 - np.exp(x)) / 0.3) ** 2

    mode = scipy.optimize.minimize_scalar(loss, bounds=(0.0, 2.0), method="bounded", options={"xatol": 1e-12}).x
    np.testing.assert_allclose(float(belief.mean[0]), mode, atol=1e-6)
    slope = np.exp(mode)
    np.testing.assert_allclose(float(belief.cov[0, 0]), 1.0 / (1.0 + slope**2 / 0.09), rtol=1e-5)
    plain, _ = scalar_update(EKF(), sensor, 3.0)
    assert loss(float(belief.mean[0])) < loss(float(plain.mean[0]))


def test_the_unscented_filter_knows_the_moments_of_a_square():
    """For x ~ N(m, P): E x^2 = m^2 + P and Var x^2 = 2 P^2 + 4 m^2 P, exact under the default sigma points."""
    m, p = 0.5, 1.0
    _, info = scalar_update(UKF(), lambda x: dist.Normal(x[0] ** 2, 0.3), 2.0)
    innovation = 2.0 - (m**2 + p)
    variance = 2 * p**2 + 4 * m**2 * p + 0.09
    np.testing.assert_allclose(float(info.innovation[0]), innovation, rtol=1e-12)
    np.testing.assert_allclose(float(info.nis), innovation**2 / variance, rtol=1e-10)


@pytest.mark.parametrize(("alpha", "beta", "kappa"), [(1.0, 2.0, 0.0), (1.0, 0.0, -1.0), (0.1, 2.0, 1.0)])
def test_sigma_points_have_the_mean_and_covariance_they_stand_for(alpha, beta, kappa):
    root = np.array([[1.0, 0.0, 0.0], [0.3, 0.5, 0.0], [-0.2, 0.1, 2.0]])
    cov = root @ root.T
    points = sigma_points(jnp.asarray(cov), *(jnp.asarray(v) for v in (alpha, beta, kappa)))
    np.testing.assert_allclose(float(jnp.sum(points.mean_weights)), 1.0, rtol=1e-12)
    np.testing.assert_allclose(points.mean_weights @ points.deviations, 0.0, atol=1e-12)
    spread = points.deviations.T @ (points.cov_weights[:, None] * points.deviations)
    np.testing.assert_allclose(spread, cov, rtol=1e-10)


def test_angles_are_averaged_on_the_circle_by_the_unscented_filter():
    """The same heading problem at 0 and at half a turn."""
    answers = []
    for turn in (0.0, np.pi):
        system = System(
            prior=dist.Normal(jnp.array([0.0, turn]), jnp.array([0.1, 0.6])).to_event(1),
            move=lambda x, dt: dist.Normal(jnp.stack([x[0], x[1] + 0.2 * jnp.sin(2 * x[1]) * dt]), 0.05).to_event(1),
            see={"compass": lambda x: Angular(x[1], 0.2)},
            angles=(1,),
        )
        filter = system.filter(UKF())
        belief, _ = filter.update(filter.start(0, 0.0), 1.0, "compass", np.angle(np.exp(1j * (turn + 0.3))))
        answers.append((np.exp(1j * (float(belief.mean[1]) - turn)), float(belief.cov[1, 1])))
    np.testing.assert_allclose(answers[1], answers[0], atol=1e-9)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_masked_updates_are_updates_with_the_row_deleted(missing):
    rng = np.random.default_rng(missing)
    root = rng.normal(size=(4, 4))
    cov, matrix = root @ root.T, rng.normal(size=(3, 4))
    noise_root = rng.normal(size=(3, 3))
    noise, residual = noise_root @ noise_root.T, rng.normal(size=3)
    seen = np.delete(np.arange(3), missing)
    observed = np.isin(np.arange(3), seen)

    def update(matrix, noise, residual, observed):
        model = AffineModel(jnp.zeros(len(residual)), jnp.asarray(matrix), jnp.asarray(noise))
        innovation = innovate(jnp.asarray(cov), model, jnp.asarray(residual), jnp.asarray(observed))
        k = gain(jnp.asarray(cov), innovation)
        return k @ innovation.residual, joseph(jnp.asarray(cov), k, innovation), innovation.log_density, innovation.nis

    whole = update(matrix, noise, residual, observed)
    part = update(matrix[seen], noise[np.ix_(seen, seen)], residual[seen], np.ones(2, bool))
    for a, b in zip(whole, part, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_the_update_keeps_the_covariance_positive_when_the_sensor_is_all_but_exact(method):
    belief, _ = scalar_update(method, lambda x: dist.Normal(x[0], 1e-9), 0.7, prior_sd=1e3)
    assert 0.0 < float(belief.cov[0, 0]) < 1e-15


# -- moments of distributions -------------------------------------------------------------------------------------


def test_moments_of_vectors_and_circles():
    t = dist.MultivariateStudentT(5.0, jnp.array([1.0, 2.0]), jnp.array([[1.0, 0.0], [0.5, 2.0]]))
    scale = np.array([[1.0, 0.5], [0.5, 4.25]])
    np.testing.assert_allclose(moments(t, "nominal")[1], scale, rtol=1e-12)
    np.testing.assert_allclose(moments(t, "moment")[1], scale * 5 / 3, rtol=1e-12)
    # The wrapped normal with the mean resultant length of a von Mises: exp(-variance / 2) = I1(k) / I0(k).
    mean, cov = moments(dist.VonMises(0.3, 4.0))
    length = scipy.special.iv(1, 4.0) / scipy.special.iv(0, 4.0)
    np.testing.assert_allclose([float(mean[0]), np.exp(-float(cov[0, 0]) / 2)], [0.3, length], rtol=1e-10)


def test_moments_of_a_mixture_of_vectors_are_those_of_its_draws_in_closed_form():
    mixture = GaussianMixture(
        [0.2, 0.5, 0.3], [[0.0, 1.0], [2.0, -1.0], [5.0, 0.5]], np.stack([np.eye(2) * s for s in (1.0, 0.5, 2.0)])
    )
    mean, cov = moments(mixture.as_distribution(), "moment")
    np.testing.assert_allclose(mean, mixture.mean, rtol=1e-12)
    np.testing.assert_allclose(cov, mixture.cov, rtol=1e-12)
    mean, cov = moments(mixture.as_distribution(), "nominal")
    np.testing.assert_allclose(mean, [2.0, -1.0], rtol=1e-12)
    np.testing.assert_allclose(cov, 0.5 * np.eye(2), rtol=1e-12, atol=1e-15)


# -- honesty ------------------------------------------------------------------------------------------------------


def test_claims_follow_the_system_and_the_gate():
    linear, other = cruise(), scalar_system(lambda x: dist.Normal(x[0] ** 2, 1.0))
    assert linear.filter(EKF()).start(0, 0.0).claim == "exact"
    assert linear.filter(EKF(gate=9.0)).start(0, 0.0).claim == "approximate"
    assert other.filter(UKF()).start(0, 0.0).claim == "approximate"
    assert "linear_gaussian" in other.filter(UKF()).run([(0.0, "z", 1.0)]).reason


def test_a_mixture_prior_is_replaced_by_one_gaussian_and_the_run_says_so(method):
    prior = GaussianMixture([0.4, 0.6], [[-3.0], [2.0]], [[[1.0]], [[0.5]]])
    system = scalar_system(lambda x: dist.Normal(x[0], 1.0)).with_prior(prior)
    run = system.filter(method).run([(0.0, "z", 1.0)])
    mean, variance = conjugate(0.0, 0.4 * 10.0 + 0.6 * 4.5, 1.0, 1.0)
    np.testing.assert_allclose([float(run.means[0, 0]), float(run.covs[0, 0, 0])], [mean, variance], rtol=1e-10)
    assert "mixture of 2 components" in repr(run)


FAULTS = {
    "mean": lambda x, dt: dist.Normal(jnp.sqrt(x - 10.0), 1.0).to_event(1),
    "covariance": lambda x, dt: dist.MultivariateNormal(x, covariance_matrix=dt * jnp.diag(jnp.array([1.0, -3.0]))),
}


@pytest.mark.parametrize("move", FAULTS)
def test_a_motion_that_breaks_the_belief_is_reported_and_nothing_is_lost(method, move):
    system = System(
        prior=dist.Normal(jnp.zeros(2), 1.0).to_event(1),
        move=FAULTS[move],
        see={"z": lambda x: dist.Normal(x[0], 1.0)},
    )
    filter = system.filter(method)
    start = filter.start(0, 0.0)
    with pytest.raises(InferenceError, match="scale_tril"):
        filter.update(start, 1.0, "z", 0.3)
    with pytest.raises(InferenceError, match=r"event 1 \(sensor 'z', t = 2 s\)") as caught:
        filter.run([(0.0, "z", 0.3), (2.0, "z", 0.1)], t0=0.0)
    expected, _ = filter.update(start, 0.0, "z", 0.3)
    np.testing.assert_array_equal(caught.value.partial.means, np.asarray(expected.mean)[None])


def test_a_fault_can_end_a_run_quietly(method):
    system = scalar_system(lambda x: dist.Normal(jnp.log(x[0] - 0.4), 1.0), prior_sd=1e-3)
    filter = Filter(system, method, on_fault="stop")
    good, _ = filter.update(filter.start(0, 0.0), 0.0, "z", -2.0)
    run = filter.run([(0.0, "z", -2.0), (1e4, "z", -1e9), (1e4, "z", 0.0)], t0=0.0)
    assert len(run) < 3
    assert "stopped before event" in run.warnings[-1]
    np.testing.assert_array_equal(run.means[0], good.mean)
    assert np.isfinite(np.asarray(run.means)).all()


@pytest.mark.parametrize("how", ["covariance_matrix", "scale_tril"])
def test_a_singular_motion_is_legal(method, how):
    """A bias that does not move."""
    system = System(
        prior=dist.Normal(jnp.zeros(2), 1.0).to_event(1),
        move=lambda x, dt: dist.MultivariateNormal(x, **{how: jnp.diag(jnp.array([1.0, 0.0]))}),
        see={"z": lambda x: dist.Normal(x[0] + x[1], 1.0)},
    )
    filter = system.filter(method)
    belief, _ = filter.update(filter.start(0, 0.0), 1.0, "z", 2.0)
    cov = np.diag([2.0, 1.0])
    spread = 1.0 + 2.0 + 1.0
    np.testing.assert_allclose(belief.mean, np.array([2.0, 1.0]) * 2.0 / spread, rtol=1e-9)
    np.testing.assert_allclose(belief.cov, cov - np.outer([2.0, 1.0], [2.0, 1.0]) / spread, rtol=1e-9)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: EKF(gate=-1.0), "gate"),
        (lambda: EKF(gate="9"), "gate"),
        (lambda: UKF(noise="typical"), "noise"),
        (lambda: EKF(iterations=0), "iterations"),
        (lambda: UKF(alpha=0.0), "alpha"),
        (lambda: cruise().filter(UKF(kappa=-4.0)).run(cruise_log(), t0=0.0), "kappa"),
    ],
)
def test_settings_are_checked(make, word):
    with pytest.raises(ProbinfError, match=word):
        make()


def test_the_log_density_of_a_belief_is_that_of_its_gaussian(method):
    filter = cruise().filter(method)
    belief = filter.start(0, 0.0)
    x = np.array([[1.0, -1.0, 0.2, 0.3], [0.0, 0.0, 0.0, 0.0]])
    expected = scipy.stats.multivariate_normal(belief.mean, belief.cov).logpdf(x)
    np.testing.assert_allclose(belief.log_prob(x), expected, rtol=1e-10)
    with pytest.raises(ArgumentError, match="x: expected shape"):
        belief.log_prob(np.zeros(3))


def test_draws_of_a_belief_have_its_moments(method, key):
    belief = cruise().filter(method).start(0, 0.0)
    n = 20_000
    draws = np.asarray(belief.sample(key, n))
    white = np.linalg.solve(np.linalg.cholesky(np.asarray(belief.cov)), (draws - np.asarray(belief.mean)).T)
    # Whitened: means N(0, 1/n), second moments with sd at most sqrt(2/n). 14 comparisons at 5 sd: false alarm < 1e-5.
    assert np.abs(white.mean(axis=1)).max() < 5.0 / np.sqrt(n)
    assert np.abs(white @ white.T / n - np.eye(4)).max() < 5.0 * np.sqrt(2.0 / n)
