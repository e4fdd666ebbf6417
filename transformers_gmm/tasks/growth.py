"""A one-dimensional growth model whose sensor cannot see the sign of the state."""

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
from transformers_gmm.tasks.mixture_priors import few_components
from transformers_gmm.updates import chosen

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def drift(x: Array, cosine: Array) -> Array:
    """x/2 + 25 x/(1 + x^2) + 8 cos(1.2 k); `cosine` is cos(1.2 k)."""
    return 0.5 * x + 25 * x / (1 + x**2) + 8 * cosine


class Growth(AbstractRecurrentTask):
    """x' = x/2 + 25 x/(1 + x^2) + 8 cos(1.2 k) + N(0, 10), z = x^2/20 + N(0, 1), missing with probability 0.3.

    The prior is a mixture of one to three components. The control of a step is cos(1.2 k).

    References:
        Gordon, Salmond & Smith (1993), Novel approach to nonlinear/non-Gaussian Bayesian state estimation.
    """

    name: str = eqx.field(static=True, default="growth")
    config: NetworkConfig = eqx.field(
        static=True,
        default=NetworkConfig(
            dim=1, num_components=8, context={"measurement": 5, "previous": 5}, token_features=2, width=32, heads=4,
            layers=2, feedforward=64,
        ),
    )  # fmt: skip
    training: TrainingConfig = eqx.field(
        static=True, default=TrainingConfig(steps=1_000, batch=4096, learning_rate=2e-3, seed=1)
    )
    sensors: dict[str, int] = eqx.field(static=True, default_factory=lambda: {"square": 1})
    num_controls: int = eqx.field(static=True, default=1)
    time_step: float | None = eqx.field(static=True, default=1.0)
    horizon: int = eqx.field(static=True, default=40)
    unroll: int = eqx.field(static=True, default=8)
    groups: int = eqx.field(static=True, default=4)

    def simulate(self, key: jax.Array, n: int) -> Series:
        keys = jax.random.split(key, 5)
        one = jnp.ones((1, 1))
        prior = few_components(keys[0], n, self.config.num_components, 0 * one, 10 * one, (jnp.exp(0.5) * one, 0.5))
        start = prior.sample(keys[1], 1)[:, 0]
        cosines = jnp.cos(1.2 * jnp.arange(1.0, self.horizon + 1))

        def move(x, given):
            cosine, key = given
            x = drift(x, cosine) + jnp.sqrt(10.0) * jax.random.normal(key, x.shape)
            return x, x

        _, states = jax.lax.scan(move, start, (cosines, jax.random.split(keys[2], self.horizon)))
        values = states**2 / 20 + jax.random.normal(keys[3], states.shape)
        present = jax.random.bernoulli(keys[4], 0.7, states.shape[:2])
        elapsed = jnp.ones(present.shape)
        control = jnp.broadcast_to(cosines[:, None, None], states.shape)
        return Series(prior, states, Step(elapsed, control, {"square": values}, {"square": present}))

    def system(self, prior: GaussianMixture) -> System:
        """The control of a step is cos(1.2 k), shape (1,)."""

        def move(x: Array, dt: Array, cosine: Array | None) -> dist.Distribution:
            # None: the dry run, and steps in which no time passes.
            return dist.Normal(drift(x, jnp.zeros(1, x.dtype) if cosine is None else cosine), jnp.sqrt(10.0)).to_event(
                1
            )

        def square(x: Array) -> dist.Distribution:
            return dist.Normal(x**2 / 20, 1.0).to_event(1)

        return System(prior, move, {"square": square}, name="growth")

    def problem(self, previous: Components, step: Step) -> Problem:
        cosine, present = step.control[..., 0], step.present["square"]
        value = jnp.where(present, step.values["square"][..., 0], 0.0)
        predicted = chosen(step.elapsed > 0, _moved(previous, cosine), previous)
        base = _updated(predicted, value, present, self.config.num_components)
        on = present.astype(value.dtype)
        size = jnp.sqrt(20 * jnp.maximum(value, 0))
        measurement = jnp.stack([on, value / 10, on * size / 10, on * jnp.tanh(value), cosine], axis=-1)
        return Problem(
            base,
            base.mean,
            jnp.sqrt(base.variance),
            _absolute(base)[..., 1:],
            {"measurement": measurement[..., None, :], "previous": _previous(previous)},
            {
                "measurement": jnp.ones_like(present)[..., None],
                "previous": previous.log_weights > -20.0,
            },
        )


def _moved(belief: Components, cosine: Array) -> Components:
    """Each component with the moments of its image, by Gauss-Hermite quadrature."""
    mean, sd = belief.means[..., 0], belief.scale_tril[..., 0, 0]
    nodes = mean[..., None] + sd[..., None] * _NODES.reshape((1,) * mean.ndim + (-1,))
    weights = jnp.asarray(_WEIGHTS.reshape((1,) * mean.ndim + (-1,)), mean.dtype)
    images = drift(nodes, cosine[..., None, None])
    centre = jnp.sum(weights * images, axis=-1)
    variance = jnp.sum(weights * (images - centre[..., None]) ** 2, axis=-1) + 10.0
    return Components(belief.log_weights, centre[..., None], jnp.sqrt(variance)[..., None, None])


def _updated(predicted: Components, value: Array, present: Array, k: int) -> Components:
    """The likelihood has a peak on either side of zero: each component is updated at both."""
    mean, variance = predicted.means[..., 0], predicted.scale_tril[..., 0, 0] ** 2
    peak = jnp.sqrt(20 * jnp.maximum(value, 0.3))[..., None]
    noise = 100 / peak**2  # of the state near the peak, from the slope of the square there
    total = variance + noise
    gain, here = variance / total, present[..., None]
    sd = jnp.where(here, jnp.sqrt(variance * noise / total), jnp.sqrt(variance))
    weights, means = [], []
    for side in (1, -1):
        gap = side * peak - mean
        log_evidence = -0.5 * (gap**2 / total + jnp.log(total))
        stay = predicted.log_weights if side == 1 else -jnp.inf
        weights.append(jnp.where(here, predicted.log_weights + log_evidence, stay))
        means.append(jnp.where(here, mean + gain * gap, mean))
    both = Components(
        jax.nn.log_softmax(jnp.concatenate(weights, -1), axis=-1),
        jnp.concatenate(means, -1)[..., None],
        jnp.concatenate([sd, sd], -1)[..., None, None],
    )
    return heaviest(both, k)


def _absolute(belief: Components) -> Array:
    """Log weight, mean and log width in units of the model, (..., K, 3)."""
    weight = jnp.maximum(belief.log_weights, -12.0) / 4
    return jnp.stack([weight, belief.means[..., 0] / 10, jnp.log(belief.scale_tril[..., 0, 0])], axis=-1)


def _previous(belief: Components) -> Array:
    """The belief before the step: what the motion's steep part near zero does to it is for the network to see."""
    mean = belief.means[..., 0]
    return jnp.concatenate([_absolute(belief), jnp.stack([jnp.tanh(mean), jnp.tanh(mean / 4)], axis=-1)], axis=-1)
