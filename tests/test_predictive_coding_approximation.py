"""Exact beside approximate: smoothing and PMMH on a network's model, and beliefs that particles correct.

Seeds are fixed; statistical tests state how often they would fail by chance.
"""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy import stats

import probinf as pi
import smc
from probinf.errors import ArgumentError, DataError, ModelError, UnknownNameError
from probinf.predictive_coding import (
    Network,
    NetworkLaws,
    categorical_hgf,
    corrected_filter,
    divergence_from,
    two_armed_bandit,
)

OMEGA = "x1.tonic_volatility"
U = np.array([0.3, 0.1, 1.9, 2.4, 2.2, np.nan, 2.9, 0.4])


class Series(NetworkLaws, smc.StateSpaceModel):
    """A network as the smoothers take it."""


def volatile(strength: float = 1.0, **settings) -> Network:
    return (
        Network("volatile", **settings)
        .continuous_input("u", precision=4.0, missing="nan")
        .continuous_state("x1", precision=0.8, tonic_volatility=-1.0, autoconnection=0.9)
        .continuous_state("x2", mean=0.2, precision=1.5, tonic_volatility=-1.0, autoconnection=0.8)
        .value("x1", "u")
        .volatility("x2", "x1", strength)
    )


def exact_smoother(u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances of x1 before and after every step without volatility coupling: one joint Gaussian."""
    count, gained = len(u) + 1, np.exp(-1.0)
    precision, linear = np.zeros((count, count)), np.zeros(count)
    precision[0, 0] = 0.8
    for t in range(1, count):
        link = np.zeros(count)
        link[t], link[t - 1] = 1.0, -0.9
        precision += np.outer(link, link) / gained
        if not np.isnan(u[t - 1]):
            precision[t, t] += 4.0
            linear[t] += 4.0 * u[t - 1]
    covariance = np.linalg.inv(precision)
    return covariance @ linear, np.diag(covariance)


def test_smoothing_a_network_gives_the_exact_law_where_it_is_gaussian():
    """Eight runs: Student's t with 7 degrees of freedom exceeds 9.5 by chance once in 30,000, at 27 numbers 1e-3."""
    model = Series(volatile(strength=0.0))
    runs = [smc.smooth(model, model.rows(U), key=k, num_particles=400) for k in range(8)]
    mean, variance = exact_smoother(U)
    assert runs[0].mean.shape == (9, 2)
    means = np.stack([run.mean for run in runs])
    # Nothing is learnt of the volatility: its law stays the prior's.
    expected = np.stack([mean, 0.2 * 0.8 ** np.arange(9)], axis=1)
    error = means.std(axis=0, ddof=1) / np.sqrt(8)
    assert error.max() < 0.12
    assert (np.abs(means.mean(axis=0) - expected) < 9.5 * error).all()
    spreads = np.stack([run.variance[:, 0] for run in runs])
    assert (np.abs(spreads.mean(axis=0) - variance) < 9.5 * spreads.std(axis=0, ddof=1) / np.sqrt(8)).all()
    log_z = np.array([float(run.log_evidence) for run in runs])
    exact = float(volatile(strength=0.0).log_likelihood(U))  # one linear state
    assert abs(log_z.mean() - exact) < 9.5 * log_z.std(ddof=1) / np.sqrt(8) + 0.05  # the logarithm's own bias
    with pytest.raises(ModelError, match="one continuous or binary input"):
        NetworkLaws(two_armed_bandit())
    with pytest.raises(DataError, match="one series"):
        model.rows(np.zeros((3, 2)))


def test_numbers_with_priors_are_sites_of_the_program():
    network, prior = volatile(), dist.Normal(-2.0, 1.0)
    u = U[:3]
    values = {"x1_start": 0.1, "x2_start": 0.3, "x1": np.array([0.4, 0.2, 1.1]), "x2": np.array([0.1, 0.0, 0.5])}
    values = {k: jnp.asarray(v) for k, v in values.items()}
    wide, plain = network.program(u, priors={OMEGA: prior}), network.replace({OMEGA: -1.7}).program(u)
    found = wide.unconstrained().logdensity(wide.operands, {**values, OMEGA: jnp.asarray(-1.7)})
    expected = plain.unconstrained().logdensity(plain.operands, values) + prior.log_prob(-1.7)
    assert float(found) == pytest.approx(float(expected), rel=1e-12)
    with pytest.raises(UnknownNameError, match=r"x1\.omega"):
        network.program(u, priors={"x1.omega": prior})


@pytest.mark.slow
@pytest.mark.relaxed_promotion("samplers run under JAX's ordinary settings")
def test_pmmh_has_the_exact_posterior_of_a_number_of_a_network():
    """One linear state, whose likelihood the network has exactly; Student's t over 8 chains, false alarms 1e-3."""
    network = Network().continuous_input("u", precision=4.0).continuous_state("x1", precision=0.8).value("x1", "u")
    u, prior = np.array([0.3, 0.1, 1.9, 2.4, 2.2, 2.9, 0.4]), dist.Normal(-2.0, 1.0)
    grid = np.linspace(-7.0, 4.0, 441)
    log_p = np.asarray(network.replace({OMEGA: grid}).log_likelihood(u)) + np.asarray(prior.log_prob(grid))
    weights = np.exp(log_p - log_p.max())
    exact = float(weights @ grid / weights.sum())
    method = smc.PMMH(64, num_draws=300, num_warmup=100, num_chains=8)
    found = pi.infer(network.program(u, priors={OMEGA: prior}), method, seed=0, progress=False)
    chains = found[OMEGA].mean(axis=1)
    assert abs(chains.mean() - exact) < 5.4 * chains.std(ddof=1) / np.sqrt(8)
    assert chains.std(ddof=1) < 0.4
    assert found.claim == "invariant"


# -- corrected beliefs ------------------------------------------------------------------------------------------------


def test_exact_beliefs_are_not_corrected():
    """One linear state: the weights of all particles are equal, whatever was drawn."""
    network = Network().continuous_input("u", missing="nan").continuous_state("x1", autoconnection=0.9).value("x1", "u")
    found, plain = corrected_filter(network, U, num_particles=64), network.filter(U)
    np.testing.assert_allclose(found.overlap, 1.0, rtol=1e-9)
    assert not np.asarray(found.corrected).any()
    np.testing.assert_allclose(found.run["x1"].mean, plain["x1"].mean, rtol=1e-12)
    np.testing.assert_allclose(found.run.log_densities, plain.log_densities, rtol=1e-12)


def test_one_corrected_step_has_the_exact_moments():
    """A surprising value, against quadrature in two dimensions; 40,000 particles, five standard errors."""
    network, u, count = volatile(), 4.0, 40_000
    found = corrected_filter(network, [u], num_particles=count, threshold=1.0)
    x1, x2 = np.meshgrid(np.linspace(-3.0, 8.0, 441), np.linspace(-6.0, 8.0, 561), indexing="ij")
    gained = np.exp(-1.0 + x2)
    p = stats.norm.pdf(x2, 0.8 * 0.2, np.sqrt(0.64 / 1.5 + np.exp(-1.0)))
    p = p * stats.norm.pdf(x1, 0.0, np.sqrt(0.81 / 0.8 + gained)) * stats.norm.pdf(u, x1, 0.5)
    total = p.sum() * (11.0 / 440) * (14.0 / 560)
    p = p / p.sum()
    assert float(found.overlap[0]) < 0.9
    assert bool(found.corrected[0])
    assert float(found.inverse_temperature[0]) == 1.0
    for name, x in (("x1", x1), ("x2", x2)):
        mean, variance = float((p * x).sum()), float((p * x**2).sum() - (p * x).sum() ** 2)
        share = 0.1  # of the particles, below which the weights would have been tempered
        assert abs(float(found.run[name].mean[0]) - mean) < 5 * np.sqrt(variance / (share * count))
        assert abs(1 / float(found.run[name].precision[0]) / variance - 1) < 5 * np.sqrt(2 / (share * count))
    assert float(found.run.log_densities[0]) == pytest.approx(np.log(total), abs=5 / np.sqrt(0.1 * count))


def test_correction_brings_the_beliefs_of_a_volatility_network_closer_to_the_filtering_distribution():
    """Divergence from a particle filter whose own error in it is below 0.001."""
    rng = np.random.default_rng(3)
    u = np.cumsum(rng.normal(0.0, np.where(np.arange(40) // 10 % 2, 2.0, 0.3)))
    network = volatile().replace({"x1.autoconnection": 1.0, "x2.autoconnection": 0.95})
    log = pi.Log({"u": (np.arange(1.0, 41.0), u)})
    particles = network.system().filter(smc.ParticleFilter(4000)).run(log, key=0, t0=0.0)
    found = corrected_filter(network, u, num_particles=512, threshold=0.95)
    before, after = (divergence_from(run, particles.means, particles.covs) for run in (network.filter(u), found.run))
    for name in ("x1", "x2"):
        assert after[name].mean() < 0.6 * before[name].mean(), (name, before[name].mean(), after[name].mean())
    assert 0.05 < np.asarray(found.corrected).mean() < 1.0


def test_what_cannot_be_corrected_is_refused():
    with pytest.raises(ModelError, match="categorical"):
        corrected_filter(categorical_hgf(3), np.zeros(3))
    with pytest.raises(DataError, match="one series"):
        corrected_filter(volatile(), np.zeros((3, 2)))
    with pytest.raises(ArgumentError, match="num_particles"):
        corrected_filter(volatile(), U, num_particles=5)
    with pytest.raises(ArgumentError, match="threshold"):
        corrected_filter(volatile(), U, threshold=1.5)
