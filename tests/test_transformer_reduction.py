"""Merging components instead of dropping the light ones: moments, order of merges, and a hypothesis that survives."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from transformers_gmm.components import Components, heaviest
from transformers_gmm.recurrent import Step, base_only, run
from transformers_gmm.reduction import reduced
from transformers_gmm.tasks.linear_sensors import LinearSensors


def random_components(key, lead: tuple[int, ...], k: int, dim: int = 2) -> Components:
    keys = jax.random.split(key, 3)
    factors = jnp.tril(0.3 * jax.random.normal(keys[0], (*lead, k, dim, dim)), -1)
    factors = factors + jnp.broadcast_to(jnp.eye(dim), factors.shape)
    log_weights = jax.nn.log_softmax(jax.random.normal(keys[1], (*lead, k)), axis=-1)
    return Components(log_weights, 3 * jax.random.normal(keys[2], (*lead, k, dim)), factors)


def emptied(belief: Components, which) -> Components:
    log_weights = jnp.where(jnp.asarray(which), -jnp.inf, belief.log_weights)
    return Components(jax.nn.log_softmax(log_weights, axis=-1), belief.means, belief.scale_tril)


def test_merging_keeps_weight_mean_and_covariance(key):
    belief = random_components(key, (2, 3), 6)
    fewer = reduced(belief, 3)
    assert fewer.log_weights.shape == (2, 3, 3)
    np.testing.assert_allclose(jnp.sum(jnp.exp(fewer.log_weights), axis=-1), np.ones((2, 3)), rtol=1e-13)
    np.testing.assert_allclose(fewer.mean, belief.mean, atol=1e-13)
    np.testing.assert_allclose(fewer.cov, belief.cov, atol=1e-13)
    assert bool(jnp.all(jnp.diff(fewer.log_weights, axis=-1) <= 0))


def test_the_pair_of_least_cost_is_merged(key):
    """Three components to two: Runnalls' eq. 21 written out for the three pairs, for 20 mixtures."""
    belief = random_components(key, (20,), 3)
    found = reduced(belief, 2)
    weights, means, covs = (np.asarray(x) for x in (jnp.exp(belief.log_weights), belief.means, belief.covariances))
    pairs = list(itertools.combinations(range(3), 2))
    for w, m, c, left in zip(weights, means, covs, np.exp(np.asarray(found.log_weights)), strict=True):
        costs = []
        for i, j in pairs:
            total = w[i] + w[j]
            gap = (m[i] - m[j])[:, None]
            cov = (w[i] * c[i] + w[j] * c[j]) / total + w[i] * w[j] / total**2 * gap @ gap.T
            log_dets = [np.linalg.slogdet(x)[1] for x in (cov, c[i], c[j])]
            costs.append(0.5 * (total * log_dets[0] - w[i] * log_dets[1] - w[j] * log_dets[2]))
        i, j = pairs[int(np.argmin(costs))]
        np.testing.assert_allclose(np.sort(left), np.sort([w[i] + w[j], w[3 - i - j]]), rtol=1e-12)


def test_duplicates_are_merged_before_light_components():
    means = jnp.array([[0.0, 0.0], [0.01, 0.0], [30.0, 0.0], [0.0, 30.0]])
    factors = jnp.broadcast_to(jnp.eye(2), (4, 2, 2))
    belief = Components(jnp.log(jnp.array([0.6, 0.398, 1e-3, 1e-3])), means, factors)
    fewer = reduced(belief, 3)
    np.testing.assert_allclose(jnp.exp(fewer.log_weights), [0.998, 1e-3, 1e-3], rtol=1e-12)
    np.testing.assert_allclose(fewer.means[0], [0.00398 / 0.998, 0.0], atol=1e-15)
    np.testing.assert_array_equal(np.sort(fewer.means[1:], axis=0), [[0.0, 0.0], [30.0, 30.0]])


def test_a_belief_that_has_room_stays_as_it_is(key):
    """Alone to the bit; beside a crowded one, duplicates and all, up to the rounding of a factorisation."""
    belief = random_components(key, (2,), 6)
    few = emptied(belief, [False, True, False, True, True, False])
    for k in (3, 8):
        jax.tree.map(np.testing.assert_array_equal, reduced(few, k), heaviest(few, k))
    means = belief.means.at[1, 2].set(belief.means[1, 0])  # in the second mixture, two components are the same
    factors = belief.scale_tril.at[1, 2].set(belief.scale_tril[1, 0])
    both = emptied(
        Components(belief.log_weights, means, factors), [[False] * 6, [False, True, False, True, True, False]]
    )
    found, expected = (f(both, 4) for f in (reduced, heaviest))
    assert int(jnp.sum(found.log_weights[1] > -jnp.inf)) == 3
    for name in ("log_weights", "means", "scale_tril"):
        np.testing.assert_allclose(getattr(found, name)[1, :3], getattr(expected, name)[1, :3], atol=1e-12)


def test_gradients_are_finite_beside_empty_components(key):
    belief = random_components(key, (2,), 4)
    both = emptied(belief, [[False] * 4, [False, True, True, True]])

    def spread(reduce, means):
        return jnp.sum(reduce(Components(both.log_weights, means, both.scale_tril)).cov)

    found = jax.grad(functools.partial(spread, functools.partial(reduced, k=2)))(both.means)
    np.testing.assert_allclose(found, jax.grad(functools.partial(spread, lambda c: c))(both.means), atol=1e-12)


def test_a_light_hypothesis_apart_from_duplicates_survives_until_it_is_right():
    """Three near-duplicates and one component of a thousandth, 20 m off, for which later positions speak.

    128 components have every history of every one of the four. Four components that are merged come to the same; the
    four heaviest are the duplicates, and follow a wrong one.
    """
    positions = jnp.array([[0.1, 0.0], [20.3, 0.2], [19.6, -0.1], [20.1, 0.3], [20.2, 0.1]])[:, None]
    start = Components(
        jnp.log(jnp.array([[0.4, 0.3, 0.299, 0.001]])),
        jnp.zeros((1, 4, 4)).at[0, :, 0].set(jnp.array([0.0, 0.02, -0.02, 20.0])),
        jnp.broadcast_to(0.3 * jnp.eye(4), (1, 4, 4, 4)),
    )
    still, on = jnp.zeros((5, 1)), jnp.ones((5, 1), bool)
    values = {"position": positions, "velocity": jnp.zeros((5, 1, 2)), "east": jnp.zeros((5, 1, 1))}
    steps = Step(still, jnp.zeros((5, 1, 0)), values, {"position": on, "velocity": ~on, "east": ~on})
    truth = jnp.zeros((5, 1, 4)).at[..., 0].set(20.0)

    def filtered(k: int, *, merge: bool) -> tuple[Components, jax.Array]:
        task = LinearSensors(config=dataclasses.replace(LinearSensors().config, num_components=k), merge=merge)
        return jax.jit(functools.partial(run, base_only, task))(heaviest(start, k), steps, truth)

    (few, scores), (exact, exact_scores) = filtered(4, merge=True), filtered(128, merge=False)
    assert float(exact.mean[0, 0]) > 19  # the light one was right
    np.testing.assert_allclose(few.mean, exact.mean, atol=0.01)
    np.testing.assert_allclose(few.cov, exact.cov, atol=0.01)
    np.testing.assert_allclose(scores, exact_scores, atol=0.01)
