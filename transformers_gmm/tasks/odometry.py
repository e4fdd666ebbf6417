"""A vehicle counts its wheels' turns and hears radio beacons, and does not know where it starts."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from probinf.representations.angular import wrap
from probinf.representations.mixture import GaussianMixture
from probinf.streaming.system import System
from transformers_gmm.components import Components
from transformers_gmm.config import NetworkConfig, TrainingConfig
from transformers_gmm.correction.proposals import on_circle
from transformers_gmm.examples import Problem
from transformers_gmm.recurrent import AbstractRecurrentTask, Series, Step
from transformers_gmm.tasks.anchors import Anchors
from transformers_gmm.tasks.ranges import absolute
from transformers_gmm.updates import chosen, factor

HEADING, SCALE = 2, 3
#: The survey of the Plaza 1 recording (Djugash et al. 2009); noise levels chosen on it.
PLAZA = Anchors(
    places=((-46.6232, 11.0255, 0.0), (11.0361, -6.9587, 0.0), (22.0531, 23.8485, 0.0), (-17.6649, 59.0092, 0.0)),
    sd=0.6, outlier_sd=4.0, outlier_share=0.05, scale_entry=SCALE,
)  # fmt: skip


class Odometry(AbstractRecurrentTask):
    """State (x, y, heading, range scale); the control is (distance, turn) since the instant before, m and rad.

    The heading may be known to no better than the circle and the place to no better than a field of 80 m: the prior of
    `unknown_start` is a grid of Gaussians, each of which follows the wheels and is weighted by the ranges it predicted.
    Ranges are stretched by an unknown factor, which is learned on the way.

    Attributes:
        anchors: the beacons.
        grid: Gaussians of an unknown start along x, y and heading; their product is the number of components.
        margin: how far outside of the beacons' bounding box a start may lie, metres.
        scale_sd: of the unknown range scale around one.
        drift, slip: standard deviations of distance, of the way sideways (m) and of heading (rad): per root second, and
            per metre, per metre and per radian of the control.
        scale_drift: of the scale, per root second.
    """

    name: str = eqx.field(static=True, default="odometry")
    config: NetworkConfig = eqx.field(
        static=True,
        default=NetworkConfig(
            dim=4, num_components=64, context={"control": 3, "range": 5}, token_features=14, width=32, heads=4,
            layers=2, feedforward=64,
        ),
    )  # fmt: skip
    training: TrainingConfig = eqx.field(
        static=True, default=TrainingConfig(steps=1_000, batch=512, learning_rate=5e-4, warm_up=0.1, seed=9)
    )
    anchors: Anchors = eqx.field(static=True, default=PLAZA)
    grid: tuple[int, int, int] = eqx.field(static=True, default=(4, 4, 4))
    margin: float = eqx.field(static=True, default=10.0)
    scale_sd: float = eqx.field(static=True, default=0.1)
    drift: tuple[float, float, float] = eqx.field(static=True, default=(0.022, 0.005, 0.0045))
    slip: tuple[float, float, float] = eqx.field(static=True, default=(0.02, 0.005, 0.02))
    scale_drift: float = eqx.field(static=True, default=2e-4)
    sensors: dict[str, int] = eqx.field(static=True, init=False)
    num_controls: int = eqx.field(static=True, default=2)
    time_step: float | None = eqx.field(static=True, default=None)
    horizon: int = eqx.field(static=True, default=60)
    unroll: int = eqx.field(static=True, default=1)
    groups: int = eqx.field(static=True, default=16)

    def __post_init__(self) -> None:
        self.sensors = dict.fromkeys(self.anchors.names, 1)

    def unknown_start(self) -> GaussianMixture:
        """Uniform over the field around the beacons and over all headings, as a grid of Gaussians.

        Neighbours overlap: a standard deviation is half of a cell.
        """
        low, _, cell = self._field()
        axes = [a + (np.arange(n) + 0.5) * c for a, n, c in zip(low, self.grid, cell, strict=True)]
        means = np.stack(np.meshgrid(*axes, [1.0], indexing="ij"), axis=-1).reshape(-1, 4)
        sds = np.append(cell / 2, self.scale_sd)
        return GaussianMixture(
            np.full(len(means), 1 / len(means)), means, scale_tril=np.broadcast_to(np.diag(sds), (len(means), 4, 4))
        )

    def simulate(self, key: jax.Array, n: int) -> Series:
        """Starts uniform over field and headings; a walking pace with stops and turns; four instants a second."""
        keys = jax.random.split(key, 7)
        low, high, _ = self._field()
        low, width = jnp.asarray(low, float)[None], jnp.asarray(high - low, float)[None]
        start = low + width * jax.random.uniform(keys[0], (n, 3))
        scale = 1 + self.scale_sd * jax.random.normal(keys[1], (n, 1))
        start = jnp.concatenate([start, scale], axis=-1)
        seconds = 0.25
        speed = _wandering(keys[2], (self.horizon, n), 1.0, 0.5)
        rate = _wandering(keys[3], (self.horizon, n), 0.0, 0.3)
        control = jnp.stack([jnp.maximum(speed, 0.0) * seconds, rate * seconds], axis=-1)
        elapsed = jnp.full((self.horizon, n), seconds)
        noise = jax.random.normal(keys[4], (self.horizon, n, 4))

        def move(x: Array, given: tuple[Array, Array]) -> tuple[Array, Array]:
            control, noise = given
            x = _driven(x, control)
            root = self._noise_root(x, control, jnp.full_like(control[..., 0], seconds))
            x = x + jnp.sum(root * noise[..., None, :], axis=-1)
            return x, x

        _, states = jax.lax.scan(move, start, (control, noise))
        values = self.anchors.simulate(keys[5], states)
        which = jax.random.randint(keys[6], elapsed.shape, 0, len(values) + 1)  # the last: none is heard
        present = {name: which == i for i, name in enumerate(values)}
        prior = Components.from_mixture(self.unknown_start())
        prior = jax.tree.map(lambda x: jnp.broadcast_to(jnp.asarray(x, float), (n, *x.shape)), prior)
        return Series(prior, states, Step(elapsed, control, values, present))

    def log_score(self, belief: Components, states: Float[Array, "*batch dim"]) -> Float[Array, "*batch"]:
        """Log density at the true states, of the heading on the circle."""
        return on_circle(belief.log_prob, states[..., None, :], (HEADING,))[..., 0]

    def system(self, prior: GaussianMixture) -> System:
        def move(x: Array, dt: Array, control: Array) -> dist.Distribution:
            moved = _driven(x, control)
            return dist.MultivariateNormal(moved, scale_tril=self._noise_root(moved, control, dt))

        return System(prior, move, self.anchors.sensors(), angles=(HEADING,), name="odometry and ranges")

    def problem(self, previous: Components, step: Step) -> Problem:
        predicted = chosen(step.elapsed > 0, self._moved(previous, step), previous)
        base = _headed_alike(self.anchors.updated(predicted, step.values, step.present))
        tokens, heard = self.anchors.tokens(step.values, step.present)
        heading, scale = base.means[..., HEADING], base.means[..., SCALE]
        turned = jnp.stack([jnp.sin(heading), jnp.cos(heading), 10 * (scale - 1)], axis=-1)
        place = absolute(base, 30.0, 1.0)
        seen = [place[..., 1:3], place[..., 5:], turned, self.anchors.misfits(base, step.values, step.present)]
        control = jnp.concatenate([step.elapsed[..., None], step.control], axis=-1)
        return Problem(
            base,
            base.mean,
            jnp.sqrt(base.variance),
            jnp.concatenate([*seen, self.anchors.bend(base)[..., None]], axis=-1),
            {"control": 4 * control[..., None, :], "range": tokens},
            {"control": jnp.ones_like(step.elapsed, bool)[..., None], "range": heard},
        )

    def _field(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lower and upper ends of x, y and heading, and the size of a cell."""
        places = np.array(self.anchors.places)[:, :2]
        low = np.append(places.min(axis=0) - self.margin, -math.pi)
        high = np.append(places.max(axis=0) + self.margin, math.pi)
        return low, high, (high - low) / np.array(self.grid)

    def _moved(self, belief: Components, step: Step) -> Components:
        """Through the motion by 2 D symmetric sigma points, noise at the mean heading."""
        arms = math.sqrt(4) * jnp.swapaxes(belief.scale_tril, -1, -2)
        points = belief.means[..., None, :] + jnp.concatenate([arms, -arms], axis=-2)
        control = step.control[..., None, :]
        points = _driven(points, control[..., None, :])
        means = jnp.mean(points, axis=-2)
        gaps = points - means[..., None, :]
        spread = jnp.mean(gaps[..., :, None] * gaps[..., None, :], axis=-3)
        root = self._noise_root(means, control, step.elapsed[..., None])
        return Components(belief.log_weights, means, factor(spread + root @ jnp.swapaxes(root, -1, -2)))

    def _noise_root(self, moved: Array, control: Array, elapsed: Array) -> Array:
        """Lower Cholesky factor of the motion's noise at states after it, (..., 4, 4); elapsed is positive."""
        way, turn = jnp.abs(control[..., 0]), jnp.abs(control[..., 1])
        along, aside, round_ = (
            (steady**2 * elapsed + (share * much) ** 2)
            for steady, share, much in zip(self.drift, self.slip, (way, way, turn), strict=True)
        )
        middle = moved[..., HEADING] - 0.5 * control[..., 1]
        c, s = jnp.cos(middle), jnp.sin(middle)
        first = jnp.sqrt(along * c**2 + aside * s**2)
        below = (along - aside) * c * s / first
        second = jnp.sqrt(along * aside) / first
        zero = jnp.zeros_like(first)
        third, last = (
            jnp.broadcast_to(jnp.sqrt(round_), first.shape),
            jnp.broadcast_to(self.scale_drift * jnp.sqrt(elapsed), first.shape),
        )
        rows = ([first, zero, zero, zero], [below, second, zero, zero], [zero, zero, third, zero], [zero] * 3 + [last])
        return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def _driven(state: Array, control: Array) -> Array:
    """The distance along the mean of the headings before and after; states (..., 4), controls (..., 2)."""
    x, y, heading, scale = (state[..., i] for i in range(4))
    way, turn = control[..., 0], control[..., 1]
    middle = heading + 0.5 * turn
    return jnp.stack([x + way * jnp.cos(middle), y + way * jnp.sin(middle), heading + turn, scale], axis=-1)


def _headed_alike(belief: Components) -> Components:
    """Headings within half a turn of the heaviest component's, which is in (-pi, pi]: means then make sense."""
    heading = belief.means[..., HEADING]
    best = jnp.argmax(belief.log_weights, axis=-1)[..., None]
    centre = wrap(jnp.take_along_axis(heading, best, axis=-1))
    alike = centre + wrap(heading - centre)
    return Components(belief.log_weights, belief.means.at[..., HEADING].set(alike), belief.scale_tril)


def _wandering(key: jax.Array, shape: tuple[int, int], mean: float, sd: float) -> Array:
    """Stationary first-order autoregressions over the first axis, persistence 0.9 a step."""
    noise = sd * jax.random.normal(key, shape)

    def step(x: Array, e: Array) -> tuple[Array, Array]:
        x = 0.9 * x + math.sqrt(0.19) * e
        return x, x

    return mean + jax.lax.scan(step, noise[0], noise)[1]
