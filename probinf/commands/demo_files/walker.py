"""Where is the walker? Ranges to four radio anchors; one in twenty is an outlier.

State: x, y (m) and their velocities (m/s). The inputs of a range are the position of its anchor (m).
"""

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

import probinf as pi

START = (-2.6, -4.2)  # m
HEIGHT = 0.13  # m, of the target
ACCELERATION = 0.5  # spectral density of the driving noise, m²/s³
RANGE_SD, OUTLIER_SD, OUTLIER_SHARE = 0.25, 1.5, 0.05  # m, m, -


def move(x: jax.Array, dt: jax.Array) -> dist.Distribution:
    """Constant velocity, driven by white acceleration."""
    noise = jnp.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]])
    mean = jnp.concatenate([x[:2] + dt * x[2:], x[2:]])
    return dist.MultivariateNormal(mean, ACCELERATION * jnp.kron(noise, jnp.eye(2)))


def hear(x: jax.Array, anchor: jax.Array) -> dist.Distribution:
    """A range: its distance with a little noise, or now and then with a lot."""
    distance = jnp.sqrt(jnp.sum((x[:2] - anchor[:2]) ** 2) + (HEIGHT - anchor[2]) ** 2)
    share = dist.Categorical(jnp.array([1.0 - OUTLIER_SHARE, OUTLIER_SHARE]))
    noise = jnp.array([RANGE_SD, OUTLIER_SD])
    return dist.MixtureSameFamily(share, dist.Normal(jnp.stack([distance] * 2), noise))


@pi.state_space
def walker() -> pi.System:
    """The system that `probinf filter walker.py:walker` runs."""
    start = jnp.array([*START, 0.0, 0.0])
    prior = dist.MultivariateNormal(start, jnp.diag(jnp.array([0.25, 0.25, 1.0, 1.0])))
    return pi.System(prior=prior, move=move, see={"range": hear})
