"""A random walk in the plane, seen through ranges to three beacons, one of which is seldom heard."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array

from probinf.representations.mixture import GaussianMixture
from probinf.streaming.system import System
from transformers_gmm.components import Components
from transformers_gmm.config import NetworkConfig, TrainingConfig
from transformers_gmm.examples import Problem
from transformers_gmm.recurrent import AbstractRecurrentTask, Series, Step
from transformers_gmm.tasks import ranges
from transformers_gmm.tasks.mixture_priors import few_components
from transformers_gmm.updates import chosen, hedged, moved

_STEP_VARIANCE = 0.25


class Beacons(AbstractRecurrentTask):
    """x' = x + N(0, 0.25 I); ranges to (-10, 0), (10, 0), (0, 14), heard with probability 0.3, 0.3, 0.03.

    Only the third beacon can tell y from -y. Nothing is heard for 8 steps; a tenth of the ranges is too long.
    """

    name: str = eqx.field(static=True, default="beacons")
    config: NetworkConfig = eqx.field(
        static=True,
        default=NetworkConfig(
            dim=2, num_components=8, context={"previous": 5, "range": 4}, token_features=7, width=32, heads=4, layers=2,
            feedforward=64,
        ),
    )  # fmt: skip
    training: TrainingConfig = eqx.field(
        static=True, default=TrainingConfig(steps=1_000, batch=4096, learning_rate=2e-3, seed=2)
    )
    sensors: dict[str, int] = eqx.field(static=True, default_factory=lambda: dict.fromkeys(ranges.NAMES, 1))
    num_controls: int = eqx.field(static=True, default=0)
    time_step: float | None = eqx.field(static=True, default=1.0)
    horizon: int = eqx.field(static=True, default=40)
    unroll: int = eqx.field(static=True, default=8)
    groups: int = eqx.field(static=True, default=4)

    def simulate(self, key: jax.Array, n: int) -> Series:
        keys = jax.random.split(key, 5)
        one = jnp.ones((1, 2))
        prior = few_components(keys[0], n, self.config.num_components, 0 * one, 6 * one, (2.5 * one, 0.3), spread=0.7)
        start = prior.sample(keys[1], 1)[:, 0]
        steps = jnp.sqrt(_STEP_VARIANCE) * jax.random.normal(keys[2], (self.horizon, n, 2))
        states = start[None] + jnp.cumsum(steps, axis=0)
        values = ranges.simulate_ranges(keys[3], states)
        heard = ranges.simulate_hearing(keys[4], (self.horizon, n), (0.3, 0.3, 0.03), 8, (10, 21))
        return Series(prior, states, Step(jnp.ones((self.horizon, n)), jnp.zeros((self.horizon, n, 0)), values, heard))

    def system(self, prior: GaussianMixture) -> System:
        def move(x: Array, dt: Array) -> dist.Distribution:
            return dist.Normal(x, jnp.sqrt(_STEP_VARIANCE)).to_event(1)

        return System(prior, move, ranges.sensors(), name="beacons")

    def problem(self, previous: Components, step: Step) -> Problem:
        previous = hedged(previous)
        later = moved(previous, np.eye(2), _STEP_VARIANCE * np.eye(2))
        predicted = chosen(step.elapsed > 0, later, previous)
        base = ranges.updated(predicted, step.values, step.present)
        tokens, heard = ranges.range_tokens(step.values, step.present)
        seen = ranges.absolute(base, 10.0)[..., 1:]
        return Problem(
            base,
            base.mean,
            jnp.sqrt(base.variance),
            jnp.concatenate([seen, ranges.misfits(base, step.values, step.present)], axis=-1),
            {"previous": ranges.absolute(predicted, 10.0), "range": tokens},
            {"previous": ranges.known(predicted), "range": heard},
        )
