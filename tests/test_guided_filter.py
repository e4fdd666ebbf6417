"""The guided particle filter of a stream against the closed form, and when particle filters resample."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from probinf.streaming import Sensor, System
from smc.extended import EKF
from smc.particles import ParticleFilter

CORRELATED = np.array([[0.5, 0.2], [0.2, 0.4]])


def system(prior_sd=1e-6):
    """Linear and Gaussian, from a start that is all but known: the guided proposal is then the exact posterior."""
    scale_tril = jnp.linalg.cholesky(jnp.array([[0.6, 0.1, 0.2], [0.1, 0.5, 0.0], [0.2, 0.0, 0.7]]))
    return System(
        prior=dist.Normal(jnp.zeros(3), prior_sd).to_event(1),
        move=lambda x, dt: dist.MultivariateNormal(x + dt, scale_tril=scale_tril * jnp.sqrt(dt)),
        see={
            "pair": Sensor(
                lambda x: dist.MultivariateNormal(jnp.stack([x[0] - x[1], x[2]]), jnp.asarray(CORRELATED)),
                missing="nan",
            )
        },
        linear_gaussian=True,
    )


def test_weights_of_the_optimal_proposal_are_equal_and_their_mean_is_the_evidence():
    """One step from a known start: log p(y | x0) for every particle, so no Monte Carlo error in the evidence."""
    exact, guided = system().filter(EKF()), system().filter(ParticleFilter(3000, proposal="extended"))
    for value in ([0.3, 1.8], [np.nan, 1.8], [0.3, np.nan]):
        expected, known = exact.update(exact.start(0, 0.0), 1.5, "pair", value)
        belief, info = guided.update(guided.start(0, 0.0), 1.5, "pair", value)
        np.testing.assert_allclose(info.predictive_log_density, known.predictive_log_density, rtol=1e-5)
        np.testing.assert_allclose(info.ess, 3000.0, rtol=1e-6)
        # Means within 5 standard errors, covariances within 5 of theirs (3000 independent draws): 2e-5 in all.
        spread = np.sqrt(np.diag(np.asarray(expected.cov)))
        assert np.all(np.abs(np.asarray(belief.mean - expected.mean)) < 5 * spread / np.sqrt(3000))
        limits = 5 * np.sqrt(2 / 3000) * np.outer(spread, spread)
        assert np.all(np.abs(np.asarray(belief.cov - expected.cov)) < limits)


def test_nothing_observed_moves_by_the_motion_alone():
    guided = system(1.0).filter(ParticleFilter(50, proposal="extended"))
    start = guided.start(jax.random.key(4), 0.0)
    belief, info = guided.update(start, 1.0, "pair", [np.nan, np.nan])
    np.testing.assert_array_equal(belief.state.particles, guided.predict(start, 1.0).state.particles)
    assert float(info.predictive_log_density) == 0.0


@pytest.mark.parametrize(("threshold", "resamples"), [(1.0, True), (0.99, False), (0.0, False)])
def test_a_threshold_of_one_resamples_before_every_motion(threshold, resamples):
    """Equal weights: multinomial ancestors of 60 particles repeat, but for a chance of 1e-25."""
    still = System(
        prior=dist.Normal(jnp.zeros(1), 1.0).to_event(1), move=lambda x, dt: dist.Normal(x, 1e-12).to_event(1), see={}
    )
    filter = still.filter(ParticleFilter(60, resample="multinomial", threshold=threshold))
    moved = filter.predict(filter.start(0, 0.0), 1.0).state.particles
    assert (np.unique(np.round(np.asarray(moved), 8)).size < 60) == resamples
