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


def _profile(key: jax.Array, theta: Float[Array, " 4"]) -> Float[Array, " points"]:
    r"""One profile.

    An arrival at delay tau contributes $g \sin(\pi f) / (N \sin(\pi (n - b - f) / N))$ to point n, where
    $N \tau / \tau_{max} = b + f$ with b whole: the inverse transform of its phases, up to phases that drop out of the
    modulus, since gains and noise are circular.
    """
    key_count, key_bin, key_fraction, key_gain, key_noise = jax.random.split(key, 5)
    kind = theta.dtype
    gain, decay, rate, noise = jnp.asarray(LOWEST, kind) + jnp.asarray(RANGE, kind) * theta
    count = jax.random.poisson(key_count, rate * LONGEST)
    whole = jax.random.randint(key_bin, (MOST,), 0, POINTS).astype(kind)
    fraction = jax.random.uniform(key_fraction, (MOST,), kind, minval=-0.5, maxval=0.5)
    fraction = jnp.where(jnp.abs(fraction) < 1e-6, jnp.asarray(1e-6, kind), fraction)
    delay = jnp.mod(whole + fraction, POINTS) / POINTS * LONGEST
    power = jnp.where(jnp.arange(MOST) < count, gain * jnp.exp(-delay / decay) * BANDWIDTH / rate, 0)
    gains = jnp.sqrt(power / 2)[None] * jax.random.normal(key_gain, (2, MOST), kind)
    # Whole numbers first: their sum with a small fraction would round to a pole of the kernel.
    place = (jnp.arange(POINTS, dtype=kind)[:, None] - whole[None]) - fraction[None]
    kernel = jnp.sin(jnp.pi * fraction)[None] / (POINTS * jnp.sin(jnp.pi * place / POINTS))
    received = jnp.einsum("nl,cl->cn", kernel, gains, precision="highest")
    received = received + jnp.sqrt(noise / (2 * POINTS)) * jax.random.normal(key_noise, (2, POINTS), kind)
    return (10 * jnp.log10(jnp.sum(received**2, axis=0)) + 140) / 60
