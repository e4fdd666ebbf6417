"""Ranges to beacons with non-line-of-sight errors: what the two range-only problems share."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Bool, Float

from transformers_gmm.components import Components
from transformers_gmm.updates import Hypothesis, branch_and_keep, predict_value

BEACONS = np.array([[-10.0, 0.0], [10.0, 0.0], [0.0, 14.0]])
NAMES = ("west", "east", "north")
NOISE_SD, LATE, EXCESS = 0.5, 0.1, 8.0  # metres; probability and mean of a positive error
HYPOTHESES = (
    Hypothesis(math.log(1 - LATE), NOISE_SD**2),
    Hypothesis(math.log(LATE), NOISE_SD**2 + EXCESS**2, EXCESS),
)


def simulate_ranges(key: jax.Array, positions: Float[Array, "time batch 2"]) -> dict[str, Array]:
    """Beacon -> ranges (T, n, 1): distance + N(0, 0.25), plus Exp(8) with probability 0.1."""
    ranges = {}
    for name, place, one in zip(NAMES, BEACONS, jax.random.split(key, 3), strict=True):
        keys = jax.random.split(one, 3)
        clean = jnp.linalg.norm(positions - place.reshape(1, 1, 2), axis=-1)
        noise = NOISE_SD * jax.random.normal(keys[0], clean.shape)
        excess = EXCESS * jax.random.exponential(keys[2], clean.shape)
        late = jnp.where(jax.random.bernoulli(keys[1], LATE, clean.shape), excess, 0)
        ranges[name] = (clean + noise + late)[..., None]
    return ranges


def simulate_hearing(
    key: jax.Array, shape: tuple[int, int], probabilities: tuple[float, ...], silent: int, starts: tuple[int, int]
) -> dict[str, Bool[Array, "time batch"]]:
    """Beacon -> whether it is heard, (T, n); nothing for `silent` steps from a start uniform on {starts}."""
    keys = jax.random.split(key, 4)
    first = jax.random.randint(keys[3], (1, shape[1]), starts[0], starts[1] + 1)
    step = jnp.arange(1, shape[0] + 1)[:, None]
    open_ = (step < first) | (step >= first + silent)
    return {
        name: jax.random.bernoulli(one, p, shape) & open_
        for name, p, one in zip(NAMES, probabilities, keys[:3], strict=True)
    }


def log_density(value: Array, distance: Array) -> Array:
    """Log density of a range given the true distance, nats."""
    rate, sd = 1 / EXCESS, NOISE_SD
    normal = -0.5 * ((value - distance) / sd) ** 2 - math.log(sd * math.sqrt(2 * math.pi))
    z = (value - distance - rate * sd**2) / sd
    late = math.log(rate) + rate * (distance - value) + 0.5 * (rate * sd) ** 2 + jax.scipy.special.log_ndtr(z)
    return jnp.logaddexp(math.log(1 - LATE) + normal, math.log(LATE) + late)


class LateRange(dist.Distribution):
    """A distance plus N(0, 0.25), and plus Exp(8) with probability 0.1; batch shape () and event shape (1,)."""

    arg_constraints = {"distance": dist.constraints.real}  # noqa: RUF012
    support = dist.constraints.real_vector  # pyright: ignore[reportAssignmentType] - NumPyro's own declaration

    def __init__(self, distance: Any, *, validate_args: bool | None = None) -> None:
        self.distance = jnp.asarray(distance)
        super().__init__(self.distance.shape, (1,), validate_args=validate_args)

    def log_prob(self, value: Any) -> Array:
        return log_density(value[..., 0], self.distance)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        keys, shape = jax.random.split(key, 3), (*sample_shape, *self.batch_shape)
        excess = EXCESS * jax.random.exponential(keys[2], shape)
        late = jnp.where(jax.random.bernoulli(keys[1], LATE, shape), excess, 0)
        return (self.distance + NOISE_SD * jax.random.normal(keys[0], shape) + late)[..., None]

    @property
    def mean(self) -> Array:
        return (self.distance + LATE * EXCESS)[..., None]

    @property
    def variance(self) -> Array:
        return jnp.full_like(self.distance, NOISE_SD**2 + LATE * (2 - LATE) * EXCESS**2)[..., None]


def sensors() -> dict[str, Any]:
    """Beacon -> its sensor, for a state whose first two entries are the position."""

    def hears(place: np.ndarray) -> Any:
        return lambda x: LateRange(_distance_to(place)(x))

    return {name: hears(place) for name, place in zip(NAMES, BEACONS, strict=True)}


def updated(belief: Components, values: dict[str, Array], present: dict[str, Array]) -> Components:
    """The belief after the beacons that were heard, in turn; the position is the state's first two entries."""
    for name, place in zip(NAMES, BEACONS, strict=True):
        distance = _distance_to(place)
        prediction = predict_value(belief, distance)
        innovation = values[name][..., 0][..., None] - prediction.mean
        belief = branch_and_keep(belief, prediction, innovation, HYPOTHESES, present[name])
    return belief


def misfits(belief: Components, values: dict[str, Array], present: dict[str, Array]) -> Array:
    """By component and beacon: range minus distance from the mean, squashed; 0 where not heard. (..., K, 3)."""
    columns = []
    for name, place in zip(NAMES, BEACONS, strict=True):
        gap = values[name] - _distance_to(place)(belief.means)
        columns.append(jnp.where(present[name][..., None], jnp.arcsinh(gap), 0))
    return jnp.stack(columns, axis=-1)


def range_tokens(values: dict[str, Array], present: dict[str, Array]) -> tuple[Array, Array]:
    """One token a beacon: range / 10 and which beacon, (..., 3, 4); and the mask (..., 3)."""
    heard = jnp.stack([present[name] for name in NAMES], axis=-1)
    size = jnp.stack([values[name][..., 0] for name in NAMES], axis=-1) / 10
    size = jnp.where(heard, size, 0)
    which = jnp.broadcast_to(jnp.eye(3, dtype=size.dtype), (*size.shape, 3))
    return jnp.concatenate([size[..., None], which], axis=-1), heard


def absolute(belief: Components, length: float, speed: float | None = None) -> Array:
    """Log weight, means and log marginal widths in units of the model, (..., K, 1 + 2 D)."""
    units = np.array([length, length] + ([] if speed is None else [speed, speed]))
    units = jnp.asarray(units.reshape((1,) * (belief.means.ndim - 1) + (-1,)), belief.means.dtype)
    weight = jnp.maximum(belief.log_weights, -12.0)[..., None] / 4
    own = jnp.sqrt(jnp.sum(belief.scale_tril**2, axis=-1))
    return jnp.concatenate([weight, belief.means / units, jnp.log(own)], axis=-1)


def known(belief: Components) -> Any:
    """Components that are not empty, (..., K)."""
    return belief.log_weights > -20.0


def _distance_to(place: np.ndarray) -> Any:
    def distance(state: Array) -> Array:
        dx, dy = state[..., 0] - float(place[0]), state[..., 1] - float(place[1])
        return jnp.sqrt(dx**2 + dy**2 + 1e-6)

    return distance
