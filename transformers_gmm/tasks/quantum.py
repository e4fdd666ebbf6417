"""A parameter of a Hamiltonian from ten single measurements with unsteady settings."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float

from transformers_gmm.config import NetworkConfig, TrainingConfig
from transformers_gmm.examples import Problem
from transformers_gmm.meta_priors import WIDE, Beta, PositivePairs
from transformers_gmm.tasks.static import AbstractStaticTask, Draws, LogDensity, line_fit, line_moments, line_points

#: Nominal initial states (real amplitudes of |0> and |1>, normalised after the noise) and times of the measurements.
STATES = np.array([(1.0, 0.0)] * 5 + [(0.0, 1.0)] * 2 + [(1.0, 1.0)] * 3)
TIMES = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 1.0, 2.0, 1.0, 2.0, 3.0])
STATE_NOISE, TIME_NOISE = 0.1, 0.05  # standard deviations, of each amplitude and of the time

_NUM_POINTS = 128


class Quantum(AbstractStaticTask):
    r"""$H = \Delta \sigma_x + (1 - \Delta) \sigma_z$ with $\Delta = x \sim \text{Beta}(a, b)$; the latent is logit x.

    Ten times a state is prepared, left alone for a while and found in |0> or not; preparation and time are noisy. The
    base is a fit of K components to the posterior on a grid, with the noise integrated out; the network sees the prior
    and the ten outcomes.

    Attributes:
        as_run: the public code's simulator, $\Delta = 1 / (1 + e^{-x})$, in place of the published text's.
        meta_prior: of (a, b).

    References:
        Whittle et al. (2026), Distribution Transformers, section 4.2.2 and appendix H.
    """

    name: str = eqx.field(static=True)
    config: NetworkConfig = eqx.field(static=True)
    training: TrainingConfig = eqx.field(static=True)
    as_run: bool = eqx.field(static=True)
    meta_prior: PositivePairs = eqx.field(static=True)

    def __init__(self, *, as_run: bool = False, meta_prior: PositivePairs = WIDE) -> None:
        self.name = "quantum_as_run" if as_run else "quantum"
        self.config = NetworkConfig(
            dim=1, num_components=5, context={"outcomes": 10, "prior": 2}, width=32, heads=4, layers=2, feedforward=128,
            by_rank=False,
        )  # fmt: skip
        self.training = TrainingConfig(steps=4_000, batch=512, learning_rate=3e-3, seed=1)
        self.as_run = as_run
        self.meta_prior = meta_prior

    def draw(self, key: jax.Array, n: int) -> Draws:
        key_prior, key_latent, key_state, key_time, key_data = jr.split(key, 5)
        prior = Beta(*self.meta_prior.sample(key_prior, n))
        logit = prior.sample_logit(key_latent)
        kind = logit.dtype
        states = jnp.asarray(STATES, kind)[None] + STATE_NOISE * jr.normal(key_state, (n, *STATES.shape), kind)
        states = states / jnp.linalg.norm(states, axis=-1, keepdims=True)
        times = jnp.asarray(TIMES, kind)[None] + TIME_NOISE * jr.normal(key_time, (n, TIMES.size), kind)
        probability = _found_in_zero(self._delta(logit)[:, None], states, times)
        return Draws(prior, logit[:, None], jr.uniform(key_data, probability.shape, kind) < probability)

    def success(self, logit: Float[Array, "*batch"]) -> Float[Array, "*batch settings"]:
        r"""Probability of finding |0> in each of the ten settings, noise integrated out, shape (..., 10).

        The quadratic forms of the noisy state are sums over quadrature nodes, done once; the mean over the time's noise
        is $E \cos(2 \omega t) = \cos(2 \omega t_0) \exp(-2 \omega^2 \tau^2)$.
        """
        delta = self._delta(logit)[..., None]
        shape = (1,) * logit.ndim + (-1,)
        first, mixed, second = (jnp.asarray(m.reshape(shape), logit.dtype) for m in _STATE_MOMENTS)
        times = jnp.asarray(TIMES.reshape(shape), logit.dtype)
        square = delta**2 + (1 - delta) ** 2
        wave = jnp.cos(2 * jnp.sqrt(square) * times) * jnp.exp(-2 * square * TIME_NOISE**2)
        turned = (1 - delta) ** 2 * first + 2 * delta * (1 - delta) * mixed + delta**2 * second
        return 0.5 * (1 + wave) * first + 0.5 * (1 - wave) * turned / square

    def problem(self, prior: Beta, data: Bool[Array, "batch settings"]) -> Problem:
        log_density = self._unnormalised(prior, data)
        location, scale = line_moments(log_density, *prior.logit_moments())
        base = line_fit(log_density, location, scale, self.config.num_components)
        kind = location.dtype
        context = {
            "outcomes": jnp.where(data, 1, -1).astype(kind)[:, None],
            "prior": jnp.log(jnp.stack([prior.a, prior.b], axis=-1))[:, None],
        }
        return Problem(
            base,
            location[:, None],
            scale[:, None],
            jnp.zeros((data.shape[0], self.config.num_components, 0), kind),
            context,
            {name: jnp.ones((data.shape[0], 1), bool) for name in context},
        )

    def posterior_points(self, key: jax.Array, prior: Beta, data: Bool[Array, "batch settings"]) -> tuple[Array, Array]:
        log_density = self._unnormalised(prior, data)
        return line_points(key, log_density, *line_moments(log_density, *prior.logit_moments()), _NUM_POINTS)

    def log_posterior(
        self, prior: Beta, data: Bool[Array, "batch settings"], points: Float[Array, "batch points one"]
    ) -> Array:
        log_density = self._unnormalised(prior, data)
        mean, sd = prior.logit_moments()
        steps = jnp.linspace(-10.0, 10.0, 401, dtype=mean.dtype)
        log_sum = jax.nn.logsumexp(log_density(mean[:, None] + sd[:, None] * steps[None]), axis=-1)
        return log_density(points[..., 0]) - (log_sum + jnp.log(sd * (steps[1] - steps[0])))[:, None]

    def parameters(self, prior: Beta) -> dict[str, Array]:
        return {"probability": jnp.log(jnp.stack([prior.a, prior.b], axis=-1))}

    def sources(self, data: Bool[Array, "batch settings"]) -> dict[str, Array]:
        outcomes = data.astype(jnp.result_type(float))
        return {f"setting_{j}": outcomes[:, j, None, None] for j in range(TIMES.size)}

    def _delta(self, logit: Array) -> Array:
        probability = jax.nn.sigmoid(logit)
        return jax.nn.sigmoid(probability) if self.as_run else probability

    def _unnormalised(self, prior: Beta, data: Bool[Array, "batch settings"]) -> LogDensity:
        def log_density(logit: Float[Array, "batch points"]) -> Float[Array, "batch points"]:
            success = self.success(logit)
            of_outcome = jnp.where(data[:, None], success, 1 - success)
            return prior.log_density(logit) + jnp.sum(jnp.log(of_outcome), axis=-1)

        return log_density


def quantum_as_run() -> Quantum:
    """The public code's version."""
    return Quantum(as_run=True)


def _found_in_zero(delta: Array, states: Array, times: Array) -> Array:
    r"""$|\langle 0 | \exp(-iHt) | \psi \rangle|^2$ for real $\psi$, shape (..., 2).

    $\exp(-iHt) = \cos(\omega t) I - i \sin(\omega t) H / \omega$ with $\omega^2 = \Delta^2 + (1 - \Delta)^2$.
    """
    omega = jnp.sqrt(delta**2 + (1 - delta) ** 2)
    turned = (1 - delta) * states[..., 0] + delta * states[..., 1]
    return (jnp.cos(omega * times) * states[..., 0]) ** 2 + (jnp.sin(omega * times) / omega * turned) ** 2


def _state_moments() -> np.ndarray:
    """E[a^2], E[a b], E[b^2] of the normalised noisy state (a, b) in each setting, shape (3, 10)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    weights = np.outer(weights, weights) / (2 * math.pi)
    a = STATES[:, 0, None, None] + STATE_NOISE * nodes[None, :, None]
    b = STATES[:, 1, None, None] + STATE_NOISE * nodes[None, None, :]
    return np.stack([np.sum(weights * part / (a**2 + b**2), axis=(1, 2)) for part in (a * a, a * b, b * b)])


_STATE_MOMENTS = _state_moments()
