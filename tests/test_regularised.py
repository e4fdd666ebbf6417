"""Kernel smoothing and the regularised filter: kernels, bandwidths, moments kept, distinct particles."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.integrate

import probinf as pi
import smc
from probinf.errors import ArgumentError, UnknownNameError
from smc.kalman import square_root
from smc.kernel_smoothing import kernel_noise, kernel_variance, normals_needed, optimal_bandwidth

WIDE = jnp.array([[2.0, 0.6, 0.0], [0.6, 1.0, 0.1], [0.0, 0.1, 0.3]])


def system(prior, motion_sd=0.1, angles=()):
    dim = prior.event_shape[0]
    return pi.System(
        prior,
        lambda x, dt: dist.Normal(x, motion_sd * jnp.sqrt(dt)).to_event(1),
        {"first": lambda x: dist.Normal(x[0], 0.5)},
        angles=angles,
        name=f"still in {dim}",
    )


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_epanechnikovs_kernel_has_its_moments(dim):
    """E r^2 and E r^4 of the density proportional to r^(d-1) (1 - r^2), by quadrature; 6 standard errors."""
    normals = jax.random.normal(jax.random.key(dim), (200_000, normals_needed("epanechnikov", dim)))
    noise = np.asarray(kernel_noise("epanechnikov", normals, dim))
    assert noise.shape == (200_000, dim)
    radius = (noise**2).sum(axis=1)
    assert radius.max() < 1
    mass = scipy.integrate.quad(lambda r: r ** (dim - 1) * (1 - r * r), 0, 1)[0]
    for power in (2, 4):
        exact = scipy.integrate.quad(lambda r, p=power: r ** (dim - 1 + p) * (1 - r * r), 0, 1)[0] / mass
        values = radius ** (power // 2)
        assert abs(values.mean() - exact) < 6 * values.std() / np.sqrt(200_000)
        if power == 2:
            np.testing.assert_allclose(exact, dim * kernel_variance("epanechnikov", dim), rtol=1e-9)
    np.testing.assert_allclose(np.cov(noise.T), np.eye(dim) / (dim + 4), atol=6e-3 / np.sqrt(dim))


@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov"])
def test_the_bandwidth_is_optimal_for_a_standard_normal_in_one_dimension(kernel):
    r"""AMISE(h) = R(K) / (N h) + h^4 v^2 R(f'') / 4, minimised numerically; R(f'') = 3 / (8 sqrt(pi))."""
    roughness = 1 / (2 * np.sqrt(np.pi)) if kernel == "gaussian" else 3 / 5
    v, curvature = kernel_variance(kernel, 1), 3 / (8 * np.sqrt(np.pi))
    grid = np.linspace(0.01, 3.0, 300_000)
    amise = roughness / (500 * grid) + grid**4 * v**2 * curvature / 4
    np.testing.assert_allclose(optimal_bandwidth(kernel, 1, 500), grid[np.argmin(amise)], rtol=1e-4)


@pytest.mark.parametrize("kernel", ["gaussian", "epanechnikov"])
@pytest.mark.parametrize("shrink", [True, False])
def test_regularising_keeps_the_mean_and_the_covariance_to_the_stated_order(kernel, shrink):
    """4000 repetitions of the step on one weighted cloud of 50: the covariance's mean is the cloud's times the factor.

    Within 6 standard errors of the 9 entries and 3 means: a false alarm below 1e-7 for near-normal means.
    """
    method = smc.RegularisedParticleFilter(50, kernel=kernel, shrink=shrink, resample="multinomial")
    k_x, k_w, k_run = jax.random.split(jax.random.key(1), 3)
    start = system(dist.MultivariateNormal(jnp.zeros(3), WIDE))
    state = method.init(k_x, start)
    weights = jax.nn.log_softmax(jax.random.normal(k_w, (50,)))
    state = eqx.tree_at(lambda s: s.log_weights, state, weights)
    new = jax.vmap(lambda key: method.regularise(state, key))(jax.random.split(k_run, 4000))
    mean, cov = np.asarray(method.mean(state)), np.asarray(method.cov(state))
    spread = optimal_bandwidth(kernel, 3, 50) ** 2 * kernel_variance(kernel, 3)
    assert 0.05 < spread < 0.5  # the factor is put to the test
    means = np.asarray(new.particles).mean(axis=1)
    assert np.all(np.abs(means.mean(axis=0) - mean) < 6 * means.std(axis=0) / np.sqrt(4000))
    gaps = np.asarray(new.particles) - mean
    covs = np.einsum("rni,rnj->rij", gaps, gaps) / 50
    factor = 1.0 if shrink else 1 + spread
    assert np.all(np.abs(covs.mean(axis=0) - factor * cov) < 6 * covs.std(axis=0) / np.sqrt(4000))
    np.testing.assert_array_equal(new.log_weights, 0)


def test_repeated_particles_become_distinct_where_the_motion_is_still():
    still = system(dist.Normal(jnp.zeros(2), 1.0).to_event(1), motion_sd=1e-9)
    counts, covs = {}, {}
    for name, method in (
        ("plain", smc.ParticleFilter(500, threshold=1.0)),
        ("regularised", smc.RegularisedParticleFilter(500, threshold=1.0)),
        ("zero bandwidth", smc.RegularisedParticleFilter(500, threshold=1.0, bandwidth=0.0)),
    ):
        run = still.filter(method).run([(0.1 * k, "first", 1.0) for k in range(12)], key=0, t0=0.0)
        counts[name] = len(np.unique(np.asarray(run.belief.state.particles).round(5)[:, 0]))
        covs[name] = float(run.belief.cov[0, 0])
    assert counts["plain"] < 250
    assert counts["zero bandwidth"] < 250
    assert counts["regularised"] > 495  # rounding may make two of 500 equal
    # Conjugate: variance 1 / (1 + 12 / 0.25) = 0.0204; 20 per cent is 3 standard errors of 500 particles.
    assert abs(covs["regularised"] * 49 - 1) < 0.25


def test_two_modes_survive_without_shrinking():
    """Half the particles at each of two points far apart: shrinking pulls them together by the factor a."""
    apart = dist.MixtureSameFamily(
        dist.CategoricalProbs(jnp.array([0.5, 0.5])),
        dist.Normal(jnp.array([[-5.0], [5.0]]), jnp.array([[0.1], [0.1]])).to_event(1),
    )
    widths = {}
    for shrink, bandwidth in ((True, 1.0), (False, 0.5)):
        method = smc.RegularisedParticleFilter(2000, shrink=shrink, bandwidth=bandwidth)
        state = method.regularise(method.init(jax.random.key(0), system(apart)), jax.random.key(1))
        widths[shrink] = float(np.median(np.abs(np.asarray(state.particles))))
    a = np.sqrt(1 - optimal_bandwidth("epanechnikov", 1, 2000) ** 2 / 5)
    assert abs(widths[True] - 5 * a) < 0.05
    assert abs(widths[False] - 5) < 0.05


def test_angles_are_smoothed_on_the_circle():
    """A heading near half a turn: particles on both sides of the cut stay near it."""
    method = smc.RegularisedParticleFilter(1000, threshold=1.0)
    turned = system(dist.Normal(jnp.array([0.0, np.pi - 0.01]), 0.05).to_event(1), angles=(1,))
    state = method.init(jax.random.key(0), turned)
    moved = method.predict(state, turned, jnp.asarray(0.01), None)
    heading = np.asarray(moved.particles)[:, 1]
    assert (np.abs(heading) > 2.8).all()
    assert (heading > 0).any()
    assert (heading < 0).any()


def test_a_singular_cloud_is_legal():
    np.testing.assert_allclose(square_root(jnp.ones((2, 2))) @ square_root(jnp.ones((2, 2))).T, 1, rtol=1e-12)
    method = smc.RegularisedParticleFilter(100, threshold=1.0)
    state = method.init(jax.random.key(0), system(dist.Normal(jnp.zeros(2), 1.0).to_event(1)))
    state = eqx.tree_at(lambda s: s.particles, state, state.particles.at[:, 1].set(0.0))
    new = method.regularise(state, jax.random.key(1))
    assert np.isfinite(np.asarray(new.particles)).all()
    np.testing.assert_allclose(new.particles[:, 1], 0, atol=1e-9)


@pytest.mark.bad_input
def test_claim_and_bad_settings():
    method = smc.RegularisedParticleFilter(10)
    assert method.claim(system(dist.Normal(jnp.zeros(1), 1.0).to_event(1))) == "consistent"
    with pytest.raises(UnknownNameError, match="kernel"):
        smc.RegularisedParticleFilter(10, kernel="box")
    with pytest.raises(ArgumentError, match="bandwidth: expected a number of at least 0, found -1"):
        smc.RegularisedParticleFilter(10, bandwidth=-1.0)
    with pytest.raises(ArgumentError, match="threshold"):
        smc.RegularisedParticleFilter(10, threshold=2.0)
