"""Someone walks; radio anchors that stand close together measure ranges, at any time and now and then wrongly."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array, Float

from probinf.representations.mixture import GaussianMixture
from probinf.streaming.system import System
from transformers_gmm.components import Components, heaviest
from transformers_gmm.config import NetworkConfig, TrainingConfig
from transformers_gmm.examples import Problem
from transformers_gmm.recurrent import AbstractRecurrentTask, Series, Step
from transformers_gmm.tasks.anchors import Anchors
from transformers_gmm.tasks.ranges import absolute
from transformers_gmm.tasks.splitting import respread
from transformers_gmm.updates import chosen, factor

_ROUNDS, _LEAST = 3, 0.001  # splits per instant, and the weight times bend that is worth one
#: Four anchors within three metres, the target 0.5 to 2 m below them; the noise of ultra-wideband radios outdoors.
CLUSTER = Anchors(
    places=((2.58, 0.87, 1.9), (2.58, -0.87, 1.9), (2.58, -0.87, 0.45), (0.69, 0.87, 0.45)),
    sd=0.25, outlier_sd=1.5, outlier_share=0.05,
)  # fmt: skip


class Walker(AbstractRecurrentTask):
    """State (x, y, vx, vy), velocity driven by white acceleration; ranges to anchors at any times.

    Far from a cluster of anchors a position is known well along the line of sight and badly across it: an arc, which
    the base covers with components that it splits where they are bent.
    """

    name: str = eqx.field(static=True, default="walker")
    config: NetworkConfig = eqx.field(
        static=True,
        default=NetworkConfig(
            dim=4, num_components=24, context={"elapsed": 1, "range": 5}, token_features=13, width=32, heads=4,
            layers=2, feedforward=64,
        ),
    )  # fmt: skip
    training: TrainingConfig = eqx.field(
        static=True, default=TrainingConfig(steps=1_000, batch=1024, learning_rate=1e-3, warm_up=0.1, seed=8)
    )
    anchors: Anchors = eqx.field(static=True, default=CLUSTER)
    acceleration: float = eqx.field(static=True, default=0.5)
    sensors: dict[str, int] = eqx.field(static=True, init=False)
    num_controls: int = eqx.field(static=True, default=0)
    time_step: float | None = eqx.field(static=True, default=None)
    horizon: int = eqx.field(static=True, default=80)
    unroll: int = eqx.field(static=True, default=1)
    groups: int = eqx.field(static=True, default=16)

    def __post_init__(self) -> None:
        self.sensors = dict.fromkeys(self.anchors.names, 1)

    def simulate(self, key: jax.Array, n: int) -> Series:
        """Starts up to 50 m away, known to half a metre; one instant every 0.1 s, an anchor heard half of the time."""
        keys = jax.random.split(key, 5)
        angle = jax.random.uniform(keys[0], (n, 1), maxval=2 * jnp.pi)
        away = jax.random.uniform(keys[1], (n, 1), minval=2.0, maxval=50.0)
        place = away * jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        means = jnp.concatenate([place, jnp.zeros((n, 2))], axis=-1)[:, None]
        root = jnp.broadcast_to(jnp.diag(jnp.array([0.5, 0.5, 1.0, 1.0])), (n, 1, 4, 4))
        prior = heaviest(Components(jnp.zeros((n, 1)), means, root), self.config.num_components)
        start = prior.sample(keys[2], 1)[:, 0]
        elapsed = jnp.full((self.horizon, n), 0.1)
        noise = jax.random.normal(keys[3], (self.horizon, n, 2, 2))

        def move(x: Array, given: tuple[Array, Array]) -> tuple[Array, Array]:
            seconds, noise = given[0][:, None], given[1]
            speed = jnp.sqrt(self.acceleration * seconds)
            shift = seconds * speed * (noise[:, 0] / 2 + noise[:, 1] / math.sqrt(12))
            x = jnp.concatenate([x[:, :2] + seconds * x[:, 2:] + shift, x[:, 2:] + speed * noise[:, 0]], axis=-1)
            return x, x

        _, states = jax.lax.scan(move, start, (elapsed, noise))
        values = self.anchors.simulate(keys[4], states)
        heard = jax.random.split(jax.random.fold_in(key, 1), len(values))
        present = {name: jax.random.bernoulli(one, 0.5, elapsed.shape) for name, one in zip(values, heard, strict=True)}
        return Series(prior, states, Step(elapsed, jnp.zeros((self.horizon, n, 0)), values, present))

    def system(self, prior: GaussianMixture) -> System:
        def move(x: Array, dt: Array) -> dist.Distribution:
            mean = jnp.concatenate([x[:2] + dt * x[2:], x[2:]])
            eye = jnp.eye(2, dtype=x.dtype)
            root = jnp.kron(jnp.array([[dt / math.sqrt(3), 0.0], [math.sqrt(0.75), 0.5]], x.dtype), eye)
            return dist.MultivariateNormal(mean, scale_tril=jnp.sqrt(self.acceleration * dt) * root)

        return System(prior, move, self.anchors.sensors(), name="walker")

    def problem(self, previous: Components, step: Step) -> Problem:
        predicted = chosen(step.elapsed > 0, self._moved(previous, step.elapsed), previous)
        predicted = jax.lax.fori_loop(
            0, _ROUNDS, lambda _, belief: respread(belief, self.anchors.bend, _LEAST), predicted
        )
        base = self.anchors.updated(predicted, step.values, step.present, merge=False)
        tokens, heard = self.anchors.tokens(step.values, step.present)
        misfits = self.anchors.misfits(base, step.values, step.present)
        seen = [absolute(base, 20.0, 1.0)[..., 1:], misfits, self.anchors.bend(base)[..., None]]
        return Problem(
            base,
            base.mean,
            jnp.sqrt(base.variance),
            jnp.concatenate(seen, axis=-1),
            {"elapsed": 10 * step.elapsed[..., None, None], "range": tokens},
            {"elapsed": jnp.ones_like(step.elapsed, bool)[..., None], "range": heard},
        )

    def _moved(self, belief: Components, elapsed: Float[Array, "*batch"]) -> Components:
        seconds = elapsed[..., None, None]
        place, speed = belief.means[..., :2], belief.means[..., 2:]
        means = jnp.concatenate([place + seconds * speed, speed], axis=-1)
        rows = belief.scale_tril
        later = seconds[..., None]
        rows = jnp.concatenate([rows[..., :2, :] + later * rows[..., 2:, :], rows[..., 2:, :]], axis=-2)
        covariances = rows @ jnp.swapaxes(rows, -1, -2)
        eye = jnp.eye(2, dtype=rows.dtype).reshape((1,) * (rows.ndim - 2) + (2, 2))
        corner, side, last = later**3 / 3 * eye, later**2 / 2 * eye, later * eye
        noise = jnp.concatenate([jnp.concatenate([corner, side], -1), jnp.concatenate([side, last], -1)], axis=-2)
        return Components(belief.log_weights, means, factor(covariances + self.acceleration * noise))
