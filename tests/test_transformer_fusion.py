"""The published fusion update: its base against importance sampling, and the points that training learns from."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from transformers_gmm.components import Components
from transformers_gmm.tasks.fusion_update import FusionUpdate

N, DRAWS = 60, 4096


@functools.cache
def solved():
    """Problems, and what the base is worth there: gaps to the exact posterior, effective shares, training points."""
    task = FusionUpdate(num_points=2000)

    @jax.jit
    def solve(key):
        keys = jax.random.split(key, 3)
        given = task.draw(keys[0], N)
        base, prior = task.problem(given.prior, given.data).base, given.prior
        proposal = Components(
            jnp.concatenate([base.log_weights, prior.log_weights], axis=1) + math.log(0.5),
            jnp.concatenate([base.means, prior.means], axis=1),
            jnp.concatenate([base.scale_tril, prior.scale_tril], axis=1),
        )
        x = proposal.sample(keys[1], DRAWS)
        log_joint = task.log_joint(prior, given.data, x)
        log_weights = log_joint - proposal.log_prob(x)
        log_z = jax.nn.logsumexp(log_weights, axis=1, keepdims=True) - math.log(DRAWS)
        masses = jax.nn.softmax(log_weights, axis=1)
        gaps = jnp.sum(masses * (log_joint - log_z - base.log_prob(x)), axis=1)
        mean = jnp.sum(masses[..., None] * x, axis=1)
        return base, gaps, mean, 1 / jnp.sum(masses**2, axis=1) / DRAWS, task.simulate(keys[2], N)

    return solve(jax.random.key(11))


def test_the_base_is_near_the_exact_posterior():
    """A moment-matched update of each component has a gap of 0.1 nats here."""
    base, gaps, mean, share, _ = solved()
    assert float(share.min()) > 0.05  # the reference can be trusted
    assert -0.002 < float(gaps.mean()) < 0.02
    assert float(gaps.max()) < 0.15
    error = (np.asarray(base.mean) - np.asarray(mean)) / np.sqrt(np.asarray(base.variance))
    # Importance sampling errs by about 1 / sqrt(share x draws) < 0.07 standard deviations.
    assert np.abs(error).max() < 0.3


def test_weights_of_training_points_are_normalised_and_finite():
    *_, examples = solved()
    np.testing.assert_allclose(np.exp(np.asarray(examples.log_weights)).sum(axis=1), 1, rtol=1e-6)
    assert np.isfinite(np.asarray(examples.points)).all()


def test_turning_the_plane_turns_the_base():
    task = FusionUpdate()
    given = task.draw(jax.random.key(3), 4)
    c, s = math.cos(2.5), math.sin(2.5)
    turn = np.kron(np.array([[c, s], [-s, c]]), np.eye(2))  # of (p_x, v_x) against (p_y, v_y): bearings grow by 2.5
    base = jax.jit(lambda prior, data: task.problem(prior, data).base)
    straight = base(given.prior, given.data)
    covariances = turn @ np.asarray(given.prior.covariances) @ turn.T
    prior = Components(
        given.prior.log_weights,
        jnp.asarray(np.asarray(given.prior.means) @ turn.T),
        jnp.asarray(np.linalg.cholesky(covariances)),
    )
    bearing = jnp.asarray((np.asarray(given.data["bearing"]) + 2.5 + np.pi) % (2 * np.pi) - np.pi)
    turned = base(prior, {"range": given.data["range"], "bearing": bearing})
    np.testing.assert_allclose(turned.log_weights, straight.log_weights, atol=1e-6)
    np.testing.assert_allclose(turned.means, np.asarray(straight.means) @ turn.T, atol=1e-6)
    np.testing.assert_allclose(turned.covariances, turn @ np.asarray(straight.covariances) @ turn.T, atol=1e-6)
