"""The Gaussian-sum and the ensemble filter beyond the ten properties: exact mixtures, claims, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
import scipy.stats

import probinf as pi
import smc
from probinf.errors import ArgumentError, ArgumentTypeError

WEIGHTS = np.array([0.3, 0.7])
MEANS = np.array([[-4.0, 0.5], [3.0, -0.5]])
COVS = np.array([[[1.0, 0.2], [0.2, 0.5]], [[0.6, 0.0], [0.0, 0.8]]])
NOISE = 0.5


def system(prior):
    def move(x, dt):
        forward = jnp.stack([x[0] + dt * x[1], x[1]])
        return dist.MultivariateNormal(forward, dt * jnp.array([[0.2, 0.05], [0.05, 0.1]]))

    return pi.System(
        prior, move, {"place": lambda x: dist.Normal(x[:1], NOISE).to_event(1)}, linear_gaussian=True, name="two places"
    )


def by_components(ys):
    """Each component's Kalman filter in NumPy; weights by Bayes' rule. One second between values."""
    forward, motion = np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([[0.2, 0.05], [0.05, 0.1]])
    log_w, means, covs = np.log(WEIGHTS), [], []
    for k in range(2):
        mean, cov = MEANS[k], COVS[k]
        for y in ys:
            mean, cov = forward @ mean, forward @ cov @ forward.T + motion
            spread = cov[0, 0] + NOISE**2
            log_w[k] += scipy.stats.norm.logpdf(y, mean[0], np.sqrt(spread))
            gain = cov[:, 0] / spread
            mean, cov = mean + gain * (y - mean[0]), cov - np.outer(gain, cov[0])
        means.append(mean)
        covs.append(cov)
    evidence = np.logaddexp(*log_w)
    return np.exp(log_w - evidence), np.array(means), np.array(covs), evidence


def test_a_mixture_prior_gives_the_exact_mixture_posterior():
    ys = [-1.0, 0.4, 0.2]
    filter = system(pi.GaussianMixture(WEIGHTS, MEANS, COVS)).filter(smc.GaussianSum())
    belief = filter.start(0, 0.0)
    for t, y in enumerate(ys):
        belief, _ = filter.update(belief, t + 1.0, "place", [y])
    weights, means, covs, evidence = by_components(ys)
    assert weights.min() > 0.01  # both hypotheses are alive, so the mixture is put to the test
    mean = weights @ means
    gaps = means - mean
    np.testing.assert_allclose(belief.mean, mean, rtol=1e-9)
    np.testing.assert_allclose(
        belief.cov, np.tensordot(weights, covs, 1) + (weights[:, None] * gaps).T @ gaps, rtol=1e-9
    )
    np.testing.assert_allclose(belief.log_evidence, evidence, rtol=1e-9)
    point = np.array([0.3, 0.1])
    density = sum(
        w * scipy.stats.multivariate_normal.pdf(point, m, c) for w, m, c in zip(weights, means, covs, strict=True)
    )
    np.testing.assert_allclose(belief.log_prob(point), np.log(density), rtol=1e-9)
    whole = belief.as_mixture(2)
    np.testing.assert_allclose(np.sort(whole.weights), np.sort(weights), rtol=1e-9)
    np.testing.assert_allclose(belief.as_mixture(1).cov, belief.cov, rtol=1e-8)
    draws = np.asarray(belief.sample(jax.random.key(0), 20_000))
    # 6 standard errors of each mean.
    assert np.all(np.abs(draws.mean(axis=0) - mean) < 6 * draws.std(axis=0) / np.sqrt(20_000))


def test_a_posterior_mixture_is_the_next_prior():
    first = system(pi.GaussianMixture(WEIGHTS, MEANS, COVS)).filter(smc.GaussianSum())
    belief = first.start(0, 0.0)
    belief, _ = first.update(belief, 1.0, "place", [-1.0])
    again = system(belief.as_mixture(2)).filter(smc.GaussianSum())
    later, _ = again.update(again.start(0, 1.0), 2.0, "place", [0.4])
    straight, _ = first.update(belief, 2.0, "place", [0.4])
    np.testing.assert_allclose(later.mean, straight.mean, rtol=1e-8)


def test_claims_say_what_holds():
    mixture = system(pi.GaussianMixture(WEIGHTS, MEANS, COVS))
    assert smc.GaussianSum().claim(mixture) == "exact"
    assert smc.EnsembleKalmanFilter(10).claim(mixture) == "approximate"
    one = system(dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)))
    assert smc.EnsembleKalmanFilter(10).claim(one) == "consistent"
    law = dist.MixtureSameFamily(
        dist.CategoricalProbs(jnp.asarray(WEIGHTS)), dist.MultivariateNormal(jnp.asarray(MEANS), jnp.asarray(COVS))
    )
    other = pi.System(law, lambda x, dt: dist.Normal(x, dt).to_event(1), {"place": lambda x: dist.Normal(x[0], 1.0)})
    assert smc.GaussianSum().claim(other) == "approximate"
    assert smc.EKF().claim(mixture) == "approximate"  # one Gaussian for two hypotheses
    assert "pass a GaussianMixture" in smc.GaussianSum().notes(other)[0]


def test_inflation_widens_the_ensemble():
    one = system(dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)))
    spreads = []
    for inflation in (1.0, 1.5):
        filter = one.filter(smc.EnsembleKalmanFilter(4000, inflation=inflation))
        belief, _ = filter.update(filter.start(0, 0.0), 1.0, "place", [0.0])
        spreads.append(float(belief.cov[1, 1]))
    assert spreads[1] > 1.5 * spreads[0]


def test_bad_settings_are_refused():
    with pytest.raises(ArgumentTypeError, match=r"base: expected EKF\(\) or UKF\(\), found ParticleFilter"):
        smc.GaussianSum(smc.ParticleFilter(10))
    with pytest.raises(ArgumentError, match="no gate"):
        smc.GaussianSum(smc.EKF(gate=9.0))
    with pytest.raises(ArgumentError, match="num_members: expected at least 2, found 1"):
        smc.EnsembleKalmanFilter(1)
    with pytest.raises(ArgumentTypeError, match="num_members: expected an integer, found True"):
        smc.EnsembleKalmanFilter(True)
    with pytest.raises(ArgumentError, match="inflation: expected a number of at least 1"):
        smc.EnsembleKalmanFilter(10, inflation=0.5)
