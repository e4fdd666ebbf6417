"""A damped target in the plane, seen by one sensor for range, with clutter, and one for bearing."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array

from probinf.representations.angular import Angular, wrap
from probinf.representations.mixture import GaussianMixture
from probinf.streaming.system import System
from transformers_gmm.components import Components
from transformers_gmm.config import NetworkConfig, TrainingConfig
from transformers_gmm.examples import Problem
from transformers_gmm.recurrent import AbstractRecurrentTask, Series, Step
from transformers_gmm.tasks.ranges import known
from transformers_gmm.updates import Hypothesis, branch_and_keep, chosen, moved, predict_value

_DECAY = math.exp(-1.0)
_AXIS = np.array([[1.0, 1.0 - _DECAY], [0.0, _DECAY]])
MATRIX = np.kron(np.eye(2), _AXIS)
NOISE_FACTOR = np.kron(np.eye(2), np.array([[0.1], [0.2]]))
NOISE = NOISE_FACTOR @ NOISE_FACTOR.T
START_MEAN = np.array([1.0, 0.0, 1.0, 0.0])
ECHO, SHORT, FLAT, FARTHEST = 0.7, 0.2, 0.1, 20.0
BEARING_SD = 0.1


def distance(state: Array) -> Array:
    """From the origin; the state is (p_x, v_x, p_y, v_y)."""
    return jnp.sqrt(state[..., 0] ** 2 + state[..., 2] ** 2 + 1e-8)


def direction(state: Array) -> Array:
    """atan2(p_x, p_y), radians."""
    # Near the origin the derivative has no bound; a hundredth of the position noise away it has.
    return jnp.arctan2(state[..., 0], jnp.where(state[..., 2] == 0, 1e-6, state[..., 2]))


def log_density(values: dict[str, Array], present: dict[str, Array], state: Array) -> Array:
    """Log density of the values of one instant given states (..., D) whose batch axes the values share, nats."""
    r, z = distance(state), values["range"][..., 0]
    sd = 0.1 * (r + 1)
    echo = math.log(ECHO) - 0.5 * ((z - r) / sd) ** 2 - jnp.log(sd * math.sqrt(2 * math.pi))
    range_part = jnp.logaddexp(echo, log_clutter(z))
    gap = wrap(values["bearing"][..., 0] - direction(state))
    bearing_part = -0.5 * (gap / BEARING_SD) ** 2 - math.log(BEARING_SD * math.sqrt(2 * math.pi))
    return jnp.where(present["range"], range_part, 0) + jnp.where(present["bearing"], bearing_part, 0)


def log_clutter(value: Array) -> Array:
    """Log density of a range that is no echo, times its probability: an exponential and a uniform part."""
    return jnp.log(SHORT * jnp.exp(-value) + FLAT / FARTHEST)


class RangeBearing(AbstractRecurrentTask):
    """The tracking problem of Whittle et al., section 4.3.1: 30 % of the ranges are clutter.

    Series start from copies of one Gaussian, or, half of them, from a random mixture around it; each sensor drops out
    with probability `dropout`, so that one network serves every subset.

    References:
        Whittle et al. (2026), Distribution Transformers, section 4.3.1 and appendix I.
    """

    name: str = eqx.field(static=True, default="range_bearing")
    config: NetworkConfig = eqx.field(
        static=True,
        default=NetworkConfig(
            dim=4, num_components=8, context={"bearing": 3, "previous": 9, "range": 3}, token_features=10, width=64,
            heads=4, layers=3, feedforward=128,
        ),
    )  # fmt: skip
    training: TrainingConfig = eqx.field(
        static=True, default=TrainingConfig(steps=1_000, batch=1024, learning_rate=5e-4, warm_up=0.1, seed=4)
    )
    sensors: dict[str, int] = eqx.field(static=True, default_factory=lambda: {"range": 1, "bearing": 1})
    num_controls: int = eqx.field(static=True, default=0)
    time_step: float | None = eqx.field(static=True, default=1.0)
    horizon: int = eqx.field(static=True, default=100)
    unroll: int = eqx.field(static=True, default=1)
    groups: int = eqx.field(static=True, default=16)
    dropout: float = eqx.field(static=True, default=0.1)
    random_priors: float = eqx.field(static=True, default=0.5)

    def simulate(self, key: jax.Array, n: int) -> Series:
        keys = jax.random.split(key, 5)
        prior = self.prior(keys[0], n)
        start = prior.sample(keys[1], 1)[:, 0]
        noise = jax.random.normal(keys[2], (self.horizon - 1, n, 2)) @ jnp.asarray(NOISE_FACTOR.T, start.dtype)

        def move(x, noise):
            x = x @ jnp.asarray(MATRIX.T, x.dtype) + noise
            return x, x

        # The first values belong to the start itself.
        _, later = jax.lax.scan(move, start, noise)
        states = jnp.concatenate([start[None], later])
        present = {
            name: jax.random.bernoulli(one, 1 - self.dropout, states.shape[:2])
            for name, one in zip(("range", "bearing"), jax.random.split(keys[3]), strict=True)
        }
        elapsed = jnp.ones((self.horizon, n)).at[0].set(0.0)
        steps = Step(elapsed, jnp.zeros((self.horizon, n, 0)), simulate_values(keys[4], states), present)
        return Series(prior, states, steps)

    def prior(self, key: jax.Array, n: int) -> Components:
        """K copies of N((1, 0, 1, 0), I) with weights 1 : 2 : ... : K, or random mixtures spread like it."""
        k = self.config.num_components
        keys = jax.random.split(key, 5)
        copies = jnp.log(jnp.arange(1.0, k + 1) / (k * (k + 1) / 2))
        logits = jnp.log(jax.random.dirichlet(keys[0], jnp.full(k, 0.5), (n,)) + 1e-6)
        is_random = jax.random.bernoulli(keys[1], self.random_priors, (n, 1))
        centre = jnp.asarray(START_MEAN)[None, None]
        far = jnp.exp(jax.random.normal(keys[2], (n, 1, 1)) * 0.5)
        means = centre + far * jax.random.normal(keys[3], (n, k, 4)) * jnp.array([1.5, 0.5, 1.5, 0.5])[None, None]
        widths = jnp.exp(0.5 * jax.random.normal(keys[4], (n, k, 4)) - 0.7)
        widths = jnp.where(is_random[..., None], widths, 1.0)
        return Components(
            jax.nn.log_softmax(jnp.where(is_random, logits, copies[None]), axis=-1),
            jnp.where(is_random[..., None], means, centre),
            widths[..., None] * jnp.eye(4)[None, None],
        )

    def system(self, prior: GaussianMixture) -> System:
        """The motion's noise has rank two; a millionth of its size is added so that it has a density."""

        def move(x: Array, dt: Array) -> dist.Distribution:
            kind = x.dtype
            noise = jnp.asarray(NOISE + 1e-6 * np.eye(4), kind)
            return dist.MultivariateNormal(jnp.asarray(MATRIX, kind) @ x, noise)

        def see_range(x: Array) -> dist.Distribution:
            r = distance(x)
            parts = [dist.Normal(r, 0.1 * (r + 1)), dist.Exponential(1.0), dist.Uniform(0.0, FARTHEST)]
            weights = dist.Categorical(probs=jnp.array([ECHO, SHORT, FLAT], x.dtype))
            return dist.MixtureGeneral(weights, parts, support=dist.constraints.real)

        def see_bearing(x: Array) -> dist.Distribution:
            return Angular(direction(x), BEARING_SD)

        return System(prior, move, {"range": see_range, "bearing": see_bearing}, name="range and bearing")

    def problem(self, previous: Components, step: Step) -> Problem:
        predicted = chosen(step.elapsed > 0, moved(previous, MATRIX, NOISE), previous)
        base = _updated(predicted, step)
        tokens = {name: value_token(step.values[name][..., 0], name)[..., None, :] for name in ("range", "bearing")}
        return Problem(
            base,
            base.mean,
            jnp.sqrt(base.variance),
            jnp.concatenate([_absolute(base)[..., 1:], _misfits(base, step)], axis=-1),
            tokens | {"previous": _absolute(predicted)},
            {name: step.present[name][..., None] for name in tokens} | {"previous": known(predicted)},
        )


def simulate_values(key: jax.Array, states: Array) -> dict[str, Array]:
    """Ranges in [0, 20] and bearings in [-pi, pi) of states (..., 4), each (..., 1)."""
    keys = jax.random.split(key, 5)
    r = distance(states)
    echo = r + 0.1 * (r + 1) * jax.random.normal(keys[0], r.shape)
    short = jax.random.exponential(keys[1], r.shape)
    flat = FARTHEST * jax.random.uniform(keys[2], r.shape)
    u = jax.random.uniform(keys[3], r.shape)
    z = jnp.clip(jnp.where(u < ECHO, echo, jnp.where(u < ECHO + SHORT, short, flat)), 0, FARTHEST)
    bearing = wrap(direction(states) + BEARING_SD * jax.random.normal(keys[4], r.shape))
    return {"range": z[..., None], "bearing": bearing[..., None]}


def _updated(belief: Components, step: Step) -> Components:
    """Bearing first: it is the surer one, and says which way a range points."""
    bearing, z = step.values["bearing"][..., 0], step.values["range"][..., 0]
    prediction = predict_value(belief, direction, lambda a, b: wrap(a - b))
    innovation = wrap(bearing[..., None] - prediction.mean)
    belief = branch_and_keep(belief, prediction, innovation, [Hypothesis(0.0, BEARING_SD**2)], step.present["bearing"])
    prediction = predict_value(belief, distance)
    sd = 0.1 * (jnp.maximum(prediction.mean, 0) + 1)
    return branch_and_keep(
        belief,
        prediction,
        z[..., None] - prediction.mean,
        [Hypothesis(math.log(ECHO), sd**2)],
        step.present["range"],
        log_clutter=log_clutter(z),
    )


def value_token(value: Array, name: str) -> Array:
    """What the network sees of a value of the sensor of that name, (..., 3)."""
    if name == "bearing":
        return jnp.stack([jnp.sin(value), jnp.cos(value), value / 3], axis=-1)
    return jnp.stack([value / 5, jnp.log1p(jnp.maximum(value, 0)), jnp.exp(-value)], axis=-1)


def _misfits(belief: Components, step: Step) -> Array:
    """By component: innovation of range and bearing at its mean in units of their noise, squashed; 0 where absent."""
    means = belief.means
    r = distance(means)
    gaps = {
        "range": (step.values["range"] - r) / (0.1 * (r + 1)),
        "bearing": wrap(step.values["bearing"] - direction(means)) / BEARING_SD,
    }
    return jnp.stack(
        [jnp.where(step.present[name][..., None], jnp.arcsinh(gap), 0) for name, gap in gaps.items()], axis=-1
    )


def _absolute(belief: Components) -> Array:
    """Log weight, means and log marginal widths, (..., K, 9)."""
    units = jnp.array([2.0, 0.3, 2.0, 0.3], belief.means.dtype).reshape((1,) * (belief.means.ndim - 1) + (4,))
    weight = jnp.maximum(belief.log_weights, -12.0)[..., None] / 4
    own = jnp.sqrt(jnp.sum(belief.scale_tril**2, axis=-1))
    return jnp.concatenate([weight, belief.means / units, jnp.log(own)], axis=-1)
