"""Systems that the streaming tests share, and the closed form for linear Gaussian ones."""

import math

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from scipy.stats import multivariate_normal

from probinf.representations.angular import Angular
from probinf.streaming import Log, Sensor, System, state_space

PRIOR_MEAN = np.array([1.0, -2.0, 0.3, 0.1])
PRIOR_COV = np.diag([4.0, 3.0, 0.5, 0.25]) + 0.1
GPS_COV = np.array([[0.5, 0.2], [0.2, 0.4]])
INTENSITY = 0.05
SPEED_SD = 0.3


def transition(dt):
    """Constant velocity in the plane: matrix and noise covariance (NumPy or JAX scalars alike)."""
    one, zero = jnp.ones_like(dt), jnp.zeros_like(dt)
    eye = jnp.eye(2, dtype=dt.dtype)
    matrix = jnp.kron(jnp.stack([jnp.stack([one, dt]), jnp.stack([zero, one])]), eye)
    noise = INTENSITY * jnp.stack([jnp.stack([dt**3 / 3, dt**2 / 2]), jnp.stack([dt**2 / 2, dt])])
    return matrix, jnp.kron(noise, eye)


def move_linear(x, dt):
    matrix, noise = transition(dt)
    return dist.MultivariateNormal(matrix @ x, noise)


@state_space
def cruise(gps_scale=1.0, prior_mean=PRIOR_MEAN):
    """Linear Gaussian: position with correlated noise, and one component of the velocity."""
    return System(
        prior=dist.MultivariateNormal(jnp.asarray(prior_mean, float), covariance_matrix=jnp.asarray(PRIOR_COV, float)),
        move=move_linear,
        see={
            "gps": Sensor(
                lambda x: dist.MultivariateNormal(x[:2], covariance_matrix=gps_scale * jnp.asarray(GPS_COV, float)),
                missing="nan",
            ),
            "speed": lambda x: dist.Normal(x[2], SPEED_SD),
            "east": lambda x: dist.Normal(x[0], math.sqrt(GPS_COV[0, 0])),
            "blind": lambda x: dist.Normal(x[0], 1e9),
        },
        linear_gaussian=True,
    )


MATRICES = {"gps": (np.eye(2, 4), GPS_COV), "speed": (np.eye(4)[2:3], np.array([[SPEED_SD**2]]))}


def cruise_log(seed=0, n=12):
    """Events of both sensors at irregular times, some positions with missing coordinates."""
    rng = np.random.default_rng(seed)
    t, events = 0.5, []
    for k in range(n):
        t += float(rng.exponential(0.7)) if k % 4 else 0.0
        if rng.random() < 0.6:
            value = rng.normal([1.0 + 0.3 * t, -2.0 + 0.1 * t], 0.8)
            if k % 5 == 2:
                value[k % 2] = np.nan
            events.append((t, "gps", value))
        else:
            events.append((t, "speed", rng.normal(0.3, 0.5)))
    return Log(events)


def joint_gaussian(log, t0, last=None):
    """Mean and covariance at every event given all events up to `last` (all: smoothing), and the log evidence.

    The joint Gaussian of the states at all events and of all observed coordinates is written down whole and conditioned
    once: no recursion in common with a filter.
    """
    n = len(log)
    times = np.concatenate([[t0], log.times])
    means, covs = [PRIOR_MEAN], np.zeros((n + 1, n + 1, 4, 4))
    covs[0, 0] = PRIOR_COV
    for k in range(1, n + 1):
        matrix, noise = (np.asarray(part) for part in transition(jnp.asarray(times[k] - times[k - 1], jnp.float64)))
        means.append(matrix @ means[-1])
        for j in range(k):
            covs[k, j] = matrix @ covs[k - 1, j]
            covs[j, k] = covs[k, j].T
        covs[k, k] = matrix @ covs[k - 1, k - 1] @ matrix.T + noise
    joint_mean = np.concatenate(means[1:])
    joint_cov = covs[1:, 1:].transpose(0, 2, 1, 3).reshape(4 * n, 4 * n)
    rows, noises, values = [], [], []
    for k in range(n if last is None else last + 1):
        event = log[k]
        matrix, noise = MATRICES[event.sensor]
        value = np.atleast_1d(event.value)
        seen = np.flatnonzero(~np.isnan(value))
        if not len(seen):
            continue
        row = np.zeros((len(seen), 4 * n))
        row[:, 4 * k : 4 * k + 4] = matrix[seen]
        rows.append(row)
        noises.append(noise[np.ix_(seen, seen)])
        values.append(value[seen])
    observe, value = np.concatenate(rows), np.concatenate(values)
    noise = np.zeros((len(value), len(value)))
    start = 0
    for block in noises:
        noise[start : start + len(block), start : start + len(block)] = block
        start += len(block)
    spread = observe @ joint_cov @ observe.T + noise
    gain = np.linalg.solve(spread, observe @ joint_cov).T
    mean = joint_mean + gain @ (value - observe @ joint_mean)
    cov = joint_cov - gain @ observe @ joint_cov
    evidence = multivariate_normal(observe @ joint_mean, spread).logpdf(value)
    blocks = cov.reshape(n, 4, n, 4)
    return mean.reshape(n, 4), np.stack([blocks[k, :, k] for k in range(n)]), evidence


@state_space
def beacons(origin, turn, prior_mean):
    """A walker in the plane that measures bearings to and distances from an origin; `turn` rotates its compass."""

    def bearing(x):
        return Angular(jnp.arctan2(x[1] - origin[1], x[0] - origin[0]), 0.05)

    def distance(x, beacon):
        return dist.Normal(jnp.sqrt((x[0] - beacon[0]) ** 2 + (x[1] - beacon[1]) ** 2), 0.3)

    return System(
        prior=dist.MultivariateNormal(
            jnp.concatenate([prior_mean, turn[None]]), covariance_matrix=jnp.diag(jnp.array([0.5, 0.5, 0.01]))
        ),
        move=lambda x, dt: dist.MultivariateNormal(x, covariance_matrix=0.1 * dt * jnp.eye(3)),
        see={"bearing": bearing, "distance": Sensor(distance, inputs=(2,)), "compass": lambda x: Angular(x[2], 0.1)},
        angles=(2,),
    )
