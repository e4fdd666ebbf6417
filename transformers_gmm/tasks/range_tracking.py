"""Tracking position and velocity from ranges to three beacons."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array

from probinf.representations.mixture import GaussianMixture
from probinf.streaming.system import System
from transformers_gmm.components import Components, heaviest
from transformers_gmm.config import NetworkConfig, TrainingConfig
from transformers_gmm.examples import Problem
from transformers_gmm.recurrent import AbstractRecurrentTask, Series, Step
from transformers_gmm.tasks import ranges
from transformers_gmm.updates import chosen, moved

_EYE = np.eye(2)
MATRIX = np.kron(np.array([[1, 1], [-0.01, 0.85]]), _EYE)
NOISE = 0.15 * np.kron(np.array([[1 / 3, 1 / 2], [1 / 2, 1]]), _EYE)


class RangeTracking(AbstractRecurrentTask):
    """p' = p + v, v' = 0.85 v - 0.01 p with correlated noise; ranges as in `Beacons`, heard more often.

    The prior is two mirror images, at y = 7 and y = -7; until the third beacon is heard nothing can tell them apart.
    """

    name: str = eqx.field(static=True, default="range_tracking")
    config: NetworkConfig = eqx.field(
        static=True,
        default=NetworkConfig(
            dim=4, num_components=8, context={"previous": 9, "range": 4}, token_features=11, width=48, heads=4,
            layers=3, feedforward=96,
        ),
    )  # fmt: skip
    training: TrainingConfig = eqx.field(
        static=True, default=TrainingConfig(steps=1_000, batch=1024, learning_rate=1e-3, warm_up=0.1, seed=3)
    )
    sensors: dict[str, int] = eqx.field(static=True, default_factory=lambda: dict.fromkeys(ranges.NAMES, 1))
    num_controls: int = eqx.field(static=True, default=0)
    time_step: float | None = eqx.field(static=True, default=1.0)
    horizon: int = eqx.field(static=True, default=40)
    unroll: int = eqx.field(static=True, default=1)
    groups: int = eqx.field(static=True, default=16)

    def simulate(self, key: jax.Array, n: int) -> Series:
        keys = jax.random.split(key, 4)
        prior = self.prior(n)
        start = prior.sample(keys[0], 1)[:, 0]
        noise = jax.random.normal(keys[1], (self.horizon, n, 4)) @ jnp.asarray(np.linalg.cholesky(NOISE).T, float)

        def move(x, noise):
            x = x @ jnp.asarray(MATRIX.T, x.dtype) + noise
            return x, x

        _, states = jax.lax.scan(move, start, noise)
        values = ranges.simulate_ranges(keys[2], states[..., :2])
        heard = ranges.simulate_hearing(keys[3], (self.horizon, n), (0.4, 0.4, 0.03), 6, (8, 25))
        return Series(prior, states, Step(jnp.ones((self.horizon, n)), jnp.zeros((self.horizon, n, 0)), values, heard))

    def prior(self, n: int) -> Components:
        """The prior of the problem, `n` times, shape (n, K, ...)."""
        means = jnp.array([[0.0, 7.0, 0.0, 0.0], [0.0, -7.0, 0.0, 0.0]])
        factors = jnp.broadcast_to(jnp.diag(jnp.array([3.0, 3.0, 0.5, 0.5])), (2, 4, 4))
        two = Components(jnp.log(jnp.array([0.5, 0.5])), means, factors)
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (n, *x.shape)), heaviest(two, self.config.num_components))

    def system(self, prior: GaussianMixture) -> System:
        def move(x: Array, dt: Array) -> dist.Distribution:
            return dist.MultivariateNormal(jnp.asarray(MATRIX, x.dtype) @ x, jnp.asarray(NOISE, x.dtype))

        return System(prior, move, ranges.sensors(), name="range_tracking")

    def problem(self, previous: Components, step: Step) -> Problem:
        predicted = chosen(step.elapsed > 0, moved(previous, MATRIX, NOISE), previous)
        base = ranges.updated(predicted, step.values, step.present)
        tokens, heard = ranges.range_tokens(step.values, step.present)
        seen = ranges.absolute(base, 10.0, 1.0)[..., 1:]
        return Problem(
            base,
            base.mean,
            jnp.sqrt(base.variance),
            jnp.concatenate([seen, ranges.misfits(base, step.values, step.present)], axis=-1),
            {"previous": ranges.absolute(predicted, 10.0, 1.0), "range": tokens},
            {"previous": ranges.known(predicted), "range": heard},
        )
