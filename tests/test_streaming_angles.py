"""An angle that was not declared is noticed, one that was is left in peace."""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import probinf as pi
import smc

pytestmark = pytest.mark.relaxed_promotion("a user's model follows ordinary promotion")


def turning(sensor):
    """A target that circles the origin, seen by its bearing."""
    return pi.System(
        prior=dist.MultivariateNormal(jnp.array([-5.0, 0.2, 0.0, -1.0]), 0.1 * jnp.eye(4)),
        move=lambda x, dt: dist.MultivariateNormal(jnp.concatenate([x[:2] + dt * x[2:], x[2:]]), dt * jnp.eye(4)),
        see={"bearing": sensor},
    )


def bearing(x):
    return dist.Normal(jnp.arctan2(x[1], x[0]), 0.05)


def around():
    angles = np.angle(np.exp(1j * np.linspace(2.5, 2.5 + 2 * np.pi, 30)))
    return pi.Log([(float(t), "bearing", a) for t, a in enumerate(angles)])


def test_an_undeclared_angle_is_named_with_the_remedy():
    run = turning(bearing).filter(smc.EKF()).run(around(), key=0, t0=0.0)
    (hint,) = [w for w in run.warnings if "angle" in w]
    assert "'bearing'" in hint
    assert "angles=(0,)" in hint


def test_a_declared_angle_gives_no_hint():
    run = turning(pi.Sensor(bearing, angles=(0,))).filter(smc.EKF()).run(around(), key=0, t0=0.0)
    assert not [w for w in run.warnings if "angle" in w]
