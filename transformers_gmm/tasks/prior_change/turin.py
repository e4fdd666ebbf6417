"""Turin: four parameters of a radio channel from its power delay profile; there is no likelihood."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from transformers_gmm.components import Components
from transformers_gmm.config import NetworkConfig, TrainingConfig
from transformers_gmm.tasks.prior_change.priors import Prior, PriorSettings
from transformers_gmm.tasks.prior_change.splitting import corners
from transformers_gmm.tasks.prior_change.task import AbstractPriorChange, context_widths

POINTS, BANDWIDTH = 101, 5e8
LONGEST = (POINTS - 1) / BANDWIDTH  # seconds, the longest delay
MOST = 1250  # arrivals kept; there are 1000 on average at the highest rate, and more than this in one of 1e13 runs
_TERMS = 10
#: Gain, decay time (s), rate of arrivals (1/s) and noise variance at theta = 0, and what one unit of theta adds.
LOWEST = (1e-9, 1e-9, 1e7, 1e-10)
RANGE = (9e-9, 9e-9, 4.99e9, 9e-10)


class Turin(AbstractPriorChange):
    """Power of 101 delays, (dB + 140) / 60: arrivals are a Poisson process with Gaussian gains that decay.

    Arrivals at rate lambda over 200 ns have complex gains of variance G0 exp(-tau / T) B / lambda; the transfer
    function at 101 frequencies gets noise of variance sigma²; the profile is the squared modulus of its inverse
    Fourier transform. Training prior U(0, 1). The base is the prior.

    References:
        Turin et al. (1972); Bharti et al. (2019), Estimator for stochastic channel model without multipath extraction.
    """

    name: str = eqx.field(static=True, default="turin")
    settings: PriorSettings = eqx.field(static=True, default=PriorSettings.uniform(4, 0.0, 1.0))
    config: NetworkConfig = eqx.field(
        static=True,
        default=NetworkConfig(4, 16, context_widths(4, profile=POINTS, start=24, moments=8), width=96, layers=3),
    )
    training: TrainingConfig = eqx.field(static=True, default=TrainingConfig(steps=8000, batch=512))

    def observe(self, key: jax.Array, theta: Float[Array, "n 4"]) -> Float[Array, "n points"]:
        """Profiles, shape (n, 101)."""
        return jax.vmap(_profile)(jax.random.split(key, theta.shape[0]), theta)

    def base(self, prior: Prior, data: Float[Array, "n points"]) -> Components:
        """The prior, each component as eight."""
        return corners(prior, 8)

    def features(self, data: Float[Array, "n points"]) -> dict[str, Array]:
        """The profile, its first part enlarged, and moments of the power and of its logarithm."""
        decibel = 60 * data - 140
        power = 10 ** (decibel / 10) * 1e10
        delay = jnp.arange(30, dtype=data.dtype)[None] / 10
        floor = jnp.median(power[:, 30:], axis=1, keepdims=True)
        signal = power[:, :30] - floor / np.log(2)
        moments = [
            jnp.log(jnp.sum(power[:, :30], axis=1)),
            jnp.log(jnp.sum(power[:, :30] * delay, axis=1)),
            jnp.log(jnp.sum(power[:, :30] * delay**2, axis=1)),
            jnp.log(jnp.mean(power[:, 30:], axis=1)),
            jnp.log(floor[:, 0]),
            jnp.sum(signal * delay, axis=1) / (jnp.abs(jnp.sum(signal, axis=1)) + floor[:, 0]),
            jnp.mean(decibel[:, 40:], axis=1) / 10 + 11,
            jnp.std(decibel[:, 40:], axis=1) / 5,
        ]
        return {
            "profile": data[:, None] * 6 - 1.5,
            "start": (decibel[:, None, :24] - jnp.mean(decibel[:, 40:], axis=1)[:, None, None]) / 10,
            "moments": jnp.stack(moments, axis=-1)[:, None],
        }


def _kernel_matrix() -> Float[np.ndarray, "points terms_points"]:
    r"""What Chebyshev moments of the gains in every bin give at every point.

    An arrival at delay tau, $N \tau / \tau_{max} = b + f$ with b whole, gives its gain times
    $D(x) = \sin(\pi x) / (N \sin(\pi x / N))$ at x = n - b - f to point n: the inverse transform of its phases, up to
    phases that drop out of the modulus, since gains and noise are circular. As a function of f in [-1/2, 1/2] D has no
    frequency above a half, so `_TERMS` Chebyshev polynomials give it to 1e-8.
    """
    angles = np.pi * (np.arange(_TERMS) + 0.5) / _TERMS
    x = np.arange(POINTS)[:, None] - np.cos(angles)[None] / 2
    nodes = np.sin(np.pi * x) / (POINTS * np.sin(np.pi * x / POINTS))
    terms = nodes @ np.cos(angles[:, None] * np.arange(_TERMS)) * np.where(np.arange(_TERMS) == 0, 1, 2) / _TERMS
    gap = (np.arange(POINTS)[:, None] - np.arange(POINTS)[None]) % POINTS
    return terms[gap].reshape(POINTS, POINTS * _TERMS)


_KERNEL = _kernel_matrix()


def _profile(key: jax.Array, theta: Float[Array, " 4"]) -> Float[Array, " points"]:
    """One profile."""
    key_count, key_bin, key_fraction, key_gain, key_noise = jax.random.split(key, 5)
    kind = theta.dtype
    gain, decay, rate, noise = jnp.asarray(LOWEST, kind) + jnp.asarray(RANGE, kind) * theta
    count = jax.random.poisson(key_count, rate * LONGEST)
    whole = jax.random.randint(key_bin, (MOST,), 0, POINTS)
    fraction = jax.random.uniform(key_fraction, (MOST,), kind, minval=-0.5, maxval=0.5)
    delay = jnp.mod(whole.astype(kind) + fraction, POINTS) / POINTS * LONGEST
    power = jnp.where(jnp.arange(MOST) < count, gain * jnp.exp(-delay / decay) * BANDWIDTH / rate, 0)
    gains = jnp.sqrt(power / 2)[None] * jax.random.normal(key_gain, (2, MOST), kind)
    polynomials = [jnp.ones_like(fraction), 2 * fraction]
    while len(polynomials) < _TERMS:
        polynomials.append(4 * fraction * polynomials[-1] - polynomials[-2])
    rows = (jnp.stack(polynomials, axis=1)[:, :, None] * gains.T[:, None]).reshape(MOST, 2 * _TERMS)
    moments = jnp.zeros((POINTS, 2 * _TERMS), kind).at[whole].add(rows).reshape(POINTS * _TERMS, 2)
    received = jnp.matmul(jnp.asarray(_KERNEL, kind), moments, precision="highest").T
    received = received + jnp.sqrt(noise / (2 * POINTS)) * jax.random.normal(key_noise, (2, POINTS), kind)
    return (10 * jnp.log10(jnp.sum(received**2, axis=0)) + 140) / 60
