"""The filter of islands: an unbiased evidence for few and small islands, and an exchange that only permutes."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import smc
from probinf.transformations.population import Resampling
from smc.islands import Ring, Settings
from smc.proposals import Bootstrap
from smc.sharding import ONE_DEVICE
from tests.kalman import local_level_log_evidence


class Walk(smc.StateSpaceModel):
    def initial(self):
        return dist.Normal(0.0, 1.0)

    def transition(self, t, x):
        return dist.Normal(0.9 * x, 0.5)

    def observation(self, t, x):
        return dist.Normal(x, 0.5)


YS = jnp.array([0.4, 1.3, 0.9, -0.6, 0.2])


def last_mean():
    """E[x_4 | y] from the joint Gaussian."""
    variance, cov = 1.0, np.empty((5, 5))
    for t in range(5):
        cov[t, t:] = cov[t:, t] = variance * 0.9 ** np.arange(5 - t)
        variance = 0.81 * variance + 0.25
    return float(cov[-1] @ np.linalg.solve(cov + 0.25 * np.eye(5), np.asarray(YS)))


CASES = {
    "at every step": {"threshold": 1.0},
    "when needed, multinomial": {"threshold": 0.6, "resample": "multinomial", "exchange": 0.5},
    "looking ahead": {
        "threshold": 0.8,
        "proposal": smc.Guided(
            lambda model, t, x, y: dist.Normal(0.6 * x + 0.3 * y, 0.6),
            log_lookahead=lambda model, t, x, y: -0.5 * (y - x) ** 2,
        ),
    },
}


@pytest.mark.parametrize("case", CASES)
def test_evidence_and_evidence_times_moments_are_unbiased(case):
    """Three islands of four particles. |z| > 5.5 has probability 4e-8, three cases with two numbers each: 2e-7.

    The runs are one vmap, which shows that the filter may be vmapped.
    """
    log_evidence = local_level_log_evidence(YS, 0.5, 0.5, coefficient=0.9, variance=0.75 / 0.81)

    def one(key):
        run = smc.island_filter(Walk(), YS, key, num_particles=12, num_islands=3, **CASES[case])
        ratio = jnp.exp(run.log_evidence - log_evidence)
        weights = jax.nn.softmax(run.log_weights)
        return ratio - 1.0, ratio * (run.mean[-1] - last_mean()), run.mean[-1] - weights @ run.particles

    gap, gap_of_mean, moments = (
        np.asarray(v) for v in jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), 8000))
    )
    np.testing.assert_allclose(moments, 0.0, atol=1e-12)
    for found in (gap, gap_of_mean):
        error = found.std() / np.sqrt(len(found))
        assert abs(found.mean()) < 5.5 * error
        assert 5.5 * error < 0.05  # a bias of 5 % would be seen


def test_the_exchange_permutes_particles_with_their_weights():
    """Each island hands its rows on to the next; the weighted population stays what it was."""
    settings = Settings(4, 8, 2, Resampling("systematic", 1.0), True, ONE_DEVICE)
    ring = Ring(Walk(), YS, Bootstrap(), jax.random.key(0), settings)
    x = jnp.arange(32.0).reshape(4, 8)
    moved, weights = ring.passed_on((x, -x))
    np.testing.assert_array_equal(weights, -moved)
    np.testing.assert_array_equal(np.sort(np.ravel(moved)), np.arange(32.0))
    came_from = np.asarray(moved) // 8
    own = np.arange(4)[:, None]
    assert ((came_from == own).sum(axis=1) == 6).all()
    assert ((came_from == (own - 1) % 4).sum(axis=1) == 2).all()


def test_islands_that_died_are_settled_by_their_neighbours():
    """Half of the first states are impossible, and some islands hold nothing else."""

    class Sided(Walk):
        def observation(self, t, x):
            return dist.Uniform(jnp.where(x > 0.8, -1.0, 5.0), 9.0)

    found = smc.island_filter(Sided(), jnp.zeros(6), 5, num_particles=32, num_islands=8, threshold=1.0)
    assert np.isfinite(found.log_increments).all()
    assert (np.asarray(found.ess) <= 32 + 1e-9).all()
