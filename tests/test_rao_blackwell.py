"""The Rao-Blackwellised filter: exact against sums over all mode sequences, the Kalman filter's answers, bad input."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.stats import multivariate_normal

import smc
from probinf.errors import ArgumentError, ArgumentTypeError, InferenceError, ModelError, UnknownNameError
from probinf.transformations.algorithms import enumerate_program
from smc.rao_blackwell import as_rao_blackwell
from smc.small_normal import cholesky, product, solve_lower

START = np.array([0.3, 0.7])
JUMP = np.array([[0.8, 0.2], [0.35, 0.65]])
F = np.array([[[1.0, 0.5], [0.0, 0.9]], [[0.6, -0.3], [0.4, 0.5]]])
SHIFT = np.array([[0.0, 0.1], [0.5, -0.2]])
Q = np.array([[[0.3, 0.1], [0.1, 0.2]], [[1.0, 0.0], [0.0, 0.5]]])
H = np.array([[[1.0, 0.0], [1.0, 1.0]], [[0.5, 0.0], [0.0, 2.0]]])
OFFSET = np.array([[0.0, 0.2], [-0.3, 0.0]])
R = np.array([[[0.4, 0.1], [0.1, 0.6]], [[0.2, 0.0], [0.0, 0.9]]])
MEAN = np.array([[0.0, 1.0], [0.5, 0.5]])
COV = np.array([[[1.0, 0.2], [0.2, 0.5]], [[2.0, 0.0], [0.0, 1.0]]])
YS = jnp.array([[0.4, 1.1], [-0.6, 0.3], [1.5, 2.0]])


class Switching(smc.ConditionallyLinear):
    """Two modes; everything depends on the mode, and the motion on the mode before as well."""

    missing = "nan"
    scale: float = 1.0

    def initial(self):
        return dist.CategoricalProbs(jnp.asarray(START))

    def transition(self, t, u):
        return dist.CategoricalProbs(jnp.asarray(JUMP)[u])

    def linear_initial(self, u):
        return smc.Gaussian(jnp.asarray(MEAN)[u], jnp.asarray(COV)[u])

    def linear_transition(self, t, u_before, u):
        return smc.LinearGaussian(jnp.asarray(F)[u], jnp.asarray(Q)[u], jnp.asarray(SHIFT)[u_before])

    def linear_observation(self, t, u):
        return smc.LinearGaussian(jnp.asarray(H)[u], self.scale * jnp.asarray(R)[u], jnp.asarray(OFFSET)[u])

    def summary(self, u):
        return jax.nn.one_hot(u, 2)


def along(path, ys):
    """The Kalman filter in NumPy along one sequence of modes: log p(y | path), and mean and covariance at the end."""
    mean, cov, total = MEAN[path[0]], COV[path[0]], 0.0
    for t, (u, y) in enumerate(zip(path, ys, strict=True)):
        if t:
            mean = F[u] @ mean + SHIFT[path[t - 1]]
            cov = F[u] @ cov @ F[u].T + Q[u]
        see = ~np.isnan(y)
        matrix, noise = H[u][see], R[u][np.ix_(see, see)]
        if not see.any():
            continue
        spread = matrix @ cov @ matrix.T + noise
        residual = y[see] - matrix @ mean - OFFSET[u][see]
        total += multivariate_normal(np.zeros(see.sum()), spread).logpdf(residual)
        gain = np.linalg.solve(spread, matrix @ cov).T
        mean, cov = mean + gain @ residual, cov - gain @ matrix @ cov
    return total, mean, cov


def exact(ys, until):
    """Sums over all sequences up to time `until`: evidence, and evidence times the moments of u, z and z squared."""
    ys = np.asarray(ys)[: until + 1]
    total, modes, first, second = 0.0, np.zeros(2), np.zeros(2), np.zeros(2)
    for path in itertools.product((0, 1), repeat=until + 1):
        mass = START[path[0]] * math.prod(JUMP[a, b] for a, b in itertools.pairwise(path))
        log_density, mean, cov = along(path, ys)
        mass = mass * np.exp(log_density)
        total += mass
        modes[path[-1]] += mass
        first += mass * mean
        second += mass * (np.diag(cov) + mean**2)
    return total, modes, first, second


@pytest.mark.parametrize("proposal", ["prior", "optimal"])
@pytest.mark.parametrize(("scheme", "threshold", "ys"), [("systematic", 1.0, YS), ("multinomial", 0.8, YS[:2])])
def test_evidence_and_moments_are_unbiased_at_every_time(proposal, scheme, threshold, ys):
    """All executions of the filter with two particles, against all mode sequences."""
    program = smc.rao_blackwell_program(
        Switching(), ys, num_particles=2, proposal=proposal, resample=scheme, threshold=threshold, moments=True
    )
    law = enumerate_program(program)
    weights = np.exp(law.log_weights)
    np.testing.assert_allclose(weights.sum(), 1, atol=1e-12)
    found = as_rao_blackwell(jax.tree.map(jnp.asarray, law.values))
    for t in range(len(ys)):
        evidence = weights * np.exp(found.log_increments[:, : t + 1].sum(axis=1))
        total, modes, first, second = exact(ys, t)
        np.testing.assert_allclose(evidence.sum(), total, rtol=1e-12)
        np.testing.assert_allclose(evidence @ found.summary[:, t], modes, rtol=1e-12)
        np.testing.assert_allclose(evidence @ found.mean[:, t], first, rtol=1e-11)
        np.testing.assert_allclose(evidence @ (found.variance[:, t] + found.mean[:, t] ** 2), second, rtol=1e-11)


def test_a_missing_coordinate_is_left_out_of_every_sequence():
    ys = YS.at[1, 0].set(jnp.nan).at[2].set(jnp.nan)
    law = enumerate_program(smc.rao_blackwell_program(Switching(), ys, num_particles=1, threshold=0.0))
    for t in range(3):
        evidence = np.exp(law.log_weights + np.asarray(law.values.log_increments)[:, : t + 1].sum(axis=1)).sum()
        np.testing.assert_allclose(evidence, exact(ys, t)[0], rtol=1e-12)
    np.testing.assert_allclose(law.values.log_increments[:, 2], 0, atol=1e-12)


class Straight(Switching):
    """One mode, so that any number of particles is the Kalman filter."""

    def initial(self):
        return dist.CategoricalProbs(jnp.ones(1))

    def transition(self, t, u):
        return dist.CategoricalProbs(jnp.ones(1))

    def summary(self, u):
        return u


@pytest.mark.parametrize("proposal", ["prior", "optimal"])
def test_with_one_mode_it_is_the_kalman_filter(proposal):
    _, _, ys = Straight().simulate(3, 20)
    run = smc.rao_blackwell_filter(Straight(), ys, num_particles=3, proposal=proposal)
    log_density, mean, cov = along([0] * 20, np.asarray(ys))
    np.testing.assert_allclose(run.log_evidence, log_density, rtol=1e-10)
    np.testing.assert_allclose(run.mean[-1], mean, rtol=1e-9)
    np.testing.assert_allclose(run.variance[-1], np.diag(cov), rtol=1e-9)
    np.testing.assert_allclose(run.particles.cov[0], cov, rtol=1e-9)
    np.testing.assert_allclose(run.ess, 3, rtol=1e-12)


class Clutter(smc.ConditionallyLinear):
    """A continuous u: the log of the noise's scale, a random walk."""

    def initial(self):
        return dist.Normal(0.0, 0.5)

    def transition(self, t, u):
        return dist.Normal(0.9 * u, 0.3)

    def linear_initial(self, u):
        return smc.Gaussian(jnp.zeros(1), jnp.eye(1))

    def linear_transition(self, t, u_before, u):
        return smc.LinearGaussian(0.9 * jnp.eye(1), 0.5 * jnp.eye(1))

    def linear_observation(self, t, u):
        return smc.LinearGaussian(jnp.eye(1), jnp.exp(2 * u) * jnp.eye(1))


class ClutterWhole(smc.StateSpaceModel):
    """The same model with z drawn as well."""

    def initial(self):
        return dist.Normal(jnp.zeros(2), jnp.array([0.5, 1.0])).to_event(1)

    def transition(self, t, x):
        return dist.Normal(0.9 * x, jnp.array([0.3, 0.5**0.5])).to_event(1)

    def observation(self, t, x):
        return dist.Normal(x[1:], jnp.exp(x[:1])).to_event(1)


def test_integrating_out_lowers_the_variance_and_keeps_the_mean():
    """100 runs each. The means of the evidence agree within 5 joint standard errors (false alarm 1e-6)."""
    _, _, ys = Clutter().simulate(1, 15)
    keys = jax.random.split(jax.random.key(2), 100)
    marginal = jax.vmap(lambda key: smc.rao_blackwell_filter(Clutter(), ys, key, num_particles=100))(keys)
    whole = jax.vmap(lambda key: smc.particle_filter(ClutterWhole(), ys, key, num_particles=100))(keys)
    centre = float(np.mean(marginal.log_evidence))
    a, b = (np.exp(np.asarray(run.log_evidence) - centre) for run in (marginal, whole))
    assert abs(a.mean() - b.mean()) < 5 * np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 100)
    # The variances of the two are a factor of 5 apart; that of 100 runs is known to 15 per cent.
    assert a.var() < 0.5 * b.var()
    assert marginal.summary.shape == (100, 15)


def test_history_and_batches_of_parameters():
    run = smc.rao_blackwell_filter(Switching(), YS, 0, num_particles=6, history=True)
    kept = run.history.particles
    assert kept.u.shape == (3, 6)
    assert kept.mean.shape == (3, 6, 2)
    assert kept.cov.shape == (3, 6, 2, 2)
    np.testing.assert_array_equal(kept.cov[-1], run.particles.cov)
    np.testing.assert_allclose(np.asarray(run.summary).sum(axis=1), 1, rtol=1e-12)
    scales = jnp.array([0.5, 2.0])
    batch = jax.vmap(lambda s: smc.rao_blackwell_filter(Switching(s), YS, 0, num_particles=6).log_evidence)(scales)
    alone = [smc.rao_blackwell_filter(Switching(float(s)), YS, 0, num_particles=6).log_evidence for s in scales]
    np.testing.assert_allclose(batch, alone, rtol=1e-10)


class Level(Clutter):
    """A local level seen through unit noise; u has nothing to say."""

    def linear_observation(self, t, u):
        return smc.LinearGaussian(jnp.eye(1), jnp.eye(1))


def test_it_runs_in_32_bit():
    ys, mean, variance, total = [0.4, -1.0, 2.0], 0.0, 1.0, 0.0
    for t, y in enumerate(ys):
        if t:
            mean, variance = 0.9 * mean, 0.81 * variance + 0.5
        total += -0.5 * (np.log(2 * np.pi * (variance + 1)) + (y - mean) ** 2 / (variance + 1))
        mean, variance = mean + variance / (variance + 1) * (y - mean), variance / (variance + 1)
    with jax.enable_x64(False):
        run = smc.rao_blackwell_filter(Level(), jnp.array(ys)[:, None], num_particles=2)
        assert run.mean.dtype == jnp.float32
    np.testing.assert_allclose(float(run.log_evidence), total, rtol=1e-5)
    np.testing.assert_allclose(float(run.variance[-1, 0]), variance, rtol=1e-5)


@pytest.mark.parametrize("dim", [3, 9])
def test_the_small_matrix_product_is_the_product(dim):
    a, b = (jax.random.normal(jax.random.key(k), (dim, dim)) for k in (0, 1))
    np.testing.assert_allclose(product(a, b), np.asarray(a) @ np.asarray(b), rtol=1e-10, atol=1e-12)
    whole = product(a, a.T) + jnp.eye(dim)
    np.testing.assert_allclose(
        solve_lower(cholesky(whole), b), np.linalg.solve(np.linalg.cholesky(whole), b), rtol=1e-9
    )


@pytest.mark.bad_input
def test_bad_input_is_refused_with_its_place():
    class Flat(Switching):
        def linear_observation(self, t, u):
            return smc.LinearGaussian(jnp.ones((2, 3)), jnp.eye(2))

    class Plain(Switching):
        def linear_transition(self, t, u_before, u):
            return jnp.eye(2), jnp.eye(2)

    class Impossible(Straight):
        def linear_observation(self, t, u):
            return smc.LinearGaussian(jnp.zeros((2, 2)), -jnp.eye(2))

    with pytest.raises(
        ModelError, match=r"Flat.linear_observation\(...\).matrix: expected shape \(2, 2\), found \(2, 3\)"
    ):
        smc.rao_blackwell_filter(Flat(), YS)
    with pytest.raises(ModelError, match=r"Plain.linear_transition.*expected a LinearGaussian, found tuple"):
        smc.rao_blackwell_filter(Plain(), YS)
    with pytest.raises(InferenceError, match=r"rao_blackwell_filter: the weights of Impossible are nan at t = 0"):
        smc.rao_blackwell_filter(Impossible(), YS)
    with pytest.raises(ModelError, match=r'"optimal" needs one discrete u.*Clutter.initial\(\) is Normal'):
        smc.rao_blackwell_filter(Clutter(), YS[:, :1], proposal="optimal")
    with pytest.raises(UnknownNameError, match="proposal"):
        smc.rao_blackwell_filter(Clutter(), YS[:, :1], proposal="best")
    with pytest.raises(ArgumentTypeError, match="model: expected a ConditionallyLinear, found ClutterWhole"):
        smc.rao_blackwell_filter(ClutterWhole(), YS)
    with pytest.raises(ArgumentError, match=r"ys: expected shape \(T, 2\)"):
        smc.rao_blackwell_filter(Switching(), YS[:, :1])
    with pytest.raises(ArgumentError, match=r"ys: row 1 of 3 is \[nan\]"):
        smc.rao_blackwell_filter(Clutter(), YS[:, :1].at[1].set(jnp.nan))
