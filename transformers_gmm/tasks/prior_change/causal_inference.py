"""Bayesian causal inference: an observer who judges whether a sight and a sound share one source."""

from __future__ import annotations

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from transformers_gmm.components import Components
from transformers_gmm.config import NetworkConfig, TrainingConfig
from transformers_gmm.tasks.prior_change.priors import Prior, PriorSettings
from transformers_gmm.tasks.prior_change.splitting import corners
from transformers_gmm.tasks.prior_change.task import AbstractTractable, context_widths

#: Logs of sigma_V, sigma_A, sigma_s, sigma_m (degrees) and the logit of p_same: theta = 0 and one unit of theta.
CENTRE = (math.log(2), math.log(2), math.log(5), math.log(0.3), 0.0)
UNIT = (0.35, 0.35, 0.5, 0.35, 1.0)
RESCALING, LAPSE, RANGE = 4 / 3, 0.02, 45.0  # of sounds; share of responses at random; degrees to each side
#: Where the sight is seen and the sound is heard on average in each of 49 trials, degrees.
PLACES = (np.array(list(np.ndindex(7, 7))) * 5.0 - 15.0) * [1.0, RESCALING]
#: Quadrature of a measurement: nodes at this distance (standard deviations), each a narrow Gaussian of `NARROW`.
SPACING, NARROW, NODES = 0.3, 0.18, 27


class CausalInference(AbstractTractable):
    """98 responses: 49 pairs of places, first where the sight was, then where the sound was.

    Measurements x_V ~ N(s_V, sigma_V²) and x_A ~ N(4/3 s_A, sigma_A²). The observer believes in sources
    ~ N(0, sigma_s²) and in a shared one with probability p_same, and averages both explanations' estimates by their
    posterior. The response adds N(0, sigma_m²); 2 % are uniform on (-45, 45). Five parameters, training prior N(0, I).
    The base is the prior; responses are in degrees / 10.

    References:
        Körding et al. (2007), Causal inference in multisensory perception; constants as in Yang et al. (2026),
        PriorGuide, code of task `bav`.
    """

    name: str = eqx.field(static=True, default="causal_inference")
    num_points: int = eqx.field(static=True, default=1)
    settings: PriorSettings = eqx.field(static=True, default=PriorSettings.normal(5, 1.0))
    config: NetworkConfig = eqx.field(
        static=True, default=NetworkConfig(5, 16, context_widths(5, sight=6, sound=6), width=64, layers=3)
    )
    training: TrainingConfig = eqx.field(static=True, default=TrainingConfig(steps=8000, batch=512))

    def observe(self, key: jax.Array, theta: Float[Array, "n 5"]) -> Float[Array, "n responses"]:
        """Responses, shape (n, 98)."""
        key_measure, key_motor, key_lapse, key_guess = jax.random.split(key, 4)
        n, kind = theta.shape[0], theta.dtype
        parameters = tuple(part[:, None, None] for part in _physical(theta))
        sigma_v, sigma_a, _, sigma_m, _ = parameters
        noise = jax.random.normal(key_measure, (2, n, 2, 49), kind)
        places = jnp.asarray(PLACES.T, kind)[:, None, None]
        sight, sound = _estimates(parameters, places[0] + sigma_v * noise[0], places[1] + sigma_a * noise[1])
        estimates = jnp.stack([sight[:, 0], sound[:, 1]], axis=1)
        response = estimates + sigma_m * jax.random.normal(key_motor, estimates.shape, kind)
        guess = jax.random.uniform(key_guess, response.shape, kind, minval=-RANGE, maxval=RANGE)
        lapses = jax.random.uniform(key_lapse, response.shape, kind) < LAPSE
        return jnp.where(lapses, guess, response).reshape(n, 98) / 10

    def base(self, prior: Prior, data: Float[Array, "n responses"]) -> Components:
        """The prior, each component as eight."""
        return corners(prior, 8)

    def features(self, data: Float[Array, "n responses"]) -> dict[str, Array]:
        """One token per trial: places, response, its distances to both places, and the nearer one's clipped."""
        places = jnp.broadcast_to(jnp.asarray(PLACES, data.dtype)[None], (data.shape[0], 49, 2))
        tokens = {}
        for name, response in zip(("sight", "sound"), jnp.split(10 * data, 2, axis=1), strict=True):
            gaps = response[..., None] - places
            clipped = jnp.clip(gaps / 2, -3, 3)
            tokens[name] = jnp.concatenate([places / 10, response[..., None] / 10, clipped, clipped[..., :1] ** 2], -1)
        return tokens

    def log_likelihood(
        self, theta: Float[Array, "points 5"], data: Float[Array, " responses"]
    ) -> Float[Array, " points"]:
        """Log likelihood at several parameters, by quadrature over both measurements."""
        return jax.vmap(lambda t: _log_likelihood(t, data))(theta)


def _physical(theta: Float[Array, "*n 5"]) -> tuple[Array, ...]:
    """sigma_V, sigma_A, sigma_s, sigma_m and the logit of p_same, each of shape (*n,)."""
    raw = [centre + unit * theta[..., i] for i, (centre, unit) in enumerate(zip(CENTRE, UNIT, strict=True))]
    return (*(jnp.exp(part) for part in raw[:4]), raw[4])


def _estimates(parameters: tuple[Array, ...], x_v: Array, x_a: Array) -> tuple[Array, Array]:
    """Where the observer puts the sight and the sound, given both measurements."""
    var_v, var_a, var_s = (part**2 for part in parameters[:3])
    shared = (x_v / var_v + x_a / var_a) / (1 / var_v + 1 / var_a + 1 / var_s)
    alone_v, alone_a = x_v * var_s / (var_v + var_s), x_a * var_s / (var_a + var_s)
    det = var_v * var_a + var_s * (var_v + var_a)
    square = ((var_a + var_s) * x_v**2 - 2 * var_s * x_v * x_a + (var_v + var_s) * x_a**2) / det
    apart = x_v**2 / (var_v + var_s) + x_a**2 / (var_a + var_s)
    log_odds = parameters[4] - 0.5 * (square + jnp.log(det) - apart - jnp.log((var_v + var_s) * (var_a + var_s)))
    one = jax.nn.sigmoid(log_odds)
    return one * shared + (1 - one) * alone_v, one * shared + (1 - one) * alone_a


def _log_likelihood(theta: Float[Array, " 5"], data: Float[Array, " responses"]) -> Float[Array, ""]:
    """One parameter vector. At a node a response is normal around the estimate, spread by the estimate's slopes."""
    kind = theta.dtype
    parameters = _physical(theta)
    sigma_v, sigma_a, _, sigma_m, _ = parameters
    node = SPACING * (jnp.arange(NODES, dtype=kind) - (NODES - 1) / 2)
    log_mass = jax.nn.log_softmax(-0.5 * node**2 / (1 - NARROW**2))
    log_mass = log_mass[:, None] + log_mass[None, :]

    def trial(given: tuple[Array, Array]) -> Array:
        place, responses = given
        x_v, x_a = jnp.broadcast_arrays((place[0] + sigma_v * node)[:, None], (place[1] + sigma_a * node)[None, :])
        zero, one = jnp.zeros_like(x_v), jnp.ones_like(x_v)
        estimates, slopes_v = jax.jvp(lambda *x: _estimates(parameters, *x), (x_v, x_a), (one, zero))
        _, slopes_a = jax.jvp(lambda *x: _estimates(parameters, *x), (x_v, x_a), (zero, one))
        total = jnp.zeros((), kind)
        for i, (estimate, slope_v, slope_a) in enumerate(zip(estimates, slopes_v, slopes_a, strict=True)):
            spread = sigma_m**2 + (NARROW * sigma_v * slope_v) ** 2 + (NARROW * sigma_a * slope_a) ** 2
            log_normal = jax.nn.logsumexp(norm.logpdf(responses[i], estimate, jnp.sqrt(spread)) + log_mass)
            total = total + jnp.logaddexp(math.log1p(-LAPSE) + log_normal, math.log(LAPSE / (2 * RANGE)))
        return total

    # Trial by trial: many parameters at once would fill the memory with nodes otherwise.
    return jnp.sum(jax.lax.map(trial, (jnp.asarray(PLACES, kind), 10 * data.reshape(2, 49).T)))
