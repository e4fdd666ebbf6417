"""Linear motion and linear sensors with mixture noise: the exact belief is a mixture, and the base finds it."""

from __future__ import annotations

import math
from typing import Any

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
from transformers_gmm.reduction import reduced
from transformers_gmm.tasks.mixture_priors import few_components
from transformers_gmm.updates import factor

_EYE = np.eye(2)
#: sensor -> (rows of the state it sees, ways its noise can come about: weight, mean, variance)
SENSORS: dict[str, tuple[tuple[int, ...], tuple[tuple[float, float, float], ...]]] = {
    "position": ((0, 1), ((0.85, 0.0, 1.0), (0.15, 0.0, 100.0))),
    "velocity": ((2, 3), ((1.0, 0.0, 0.09),)),
    "east": ((0,), ((0.7, 0.0, 0.25), (0.3, 4.0, 1.0))),
}
_PROBABILITIES = (0.3, 0.3, 0.4)
_BLACKOUT = 8.0  # seconds in which every position event is a velocity event instead


def motion(dt: Array) -> tuple[Array, Array]:
    """F (..., 4, 4) and Q (..., 4, 4) of a time difference (...), seconds; the state is (px, py, vx, vy)."""
    one, zero = jnp.ones_like(dt), jnp.zeros_like(dt)
    f = jnp.stack([jnp.stack([one, dt], -1), jnp.stack([zero, one], -1)], -2)
    q = 0.05 * jnp.stack([jnp.stack([dt**3 / 3, dt**2 / 2], -1), jnp.stack([dt**2 / 2, dt], -1)], -2)
    eye = jnp.asarray(_EYE, dt.dtype)
    spread = lambda m: jnp.einsum("...ij,kl->...ikjl", m, eye).reshape(*dt.shape, 4, 4)  # noqa: E731
    return spread(f), spread(q)


class LinearSensors(AbstractRecurrentTask):
    """Constant velocity; position with outliers, velocity, and an eastward coordinate with a second path.

    Every sensor is linear, so branching over the ways its noise can come about is exact up to the merges that keep the
    number of components: no network is needed.

    Attributes:
        merge: merge the components most alike, at a cost that grows with the square of their number. Else the heaviest
            are kept: as good where they are very many.
    """

    name: str = eqx.field(static=True, default="linear_sensors")
    config: NetworkConfig = eqx.field(
        static=True, default=NetworkConfig(dim=4, num_components=16, context={"none": 1}, width=8, heads=1, layers=1)
    )
    training: TrainingConfig = eqx.field(static=True, default=TrainingConfig(steps=1))
    sensors: dict[str, int] = eqx.field(
        static=True, default_factory=lambda: {name: len(rows) for name, (rows, _) in SENSORS.items()}
    )
    num_controls: int = eqx.field(static=True, default=0)
    time_step: float | None = eqx.field(static=True, default=None)
    horizon: int = eqx.field(static=True, default=40)
    unroll: int = eqx.field(static=True, default=1)
    groups: int = eqx.field(static=True, default=4)
    merge: bool = eqx.field(static=True, default=True)

    def simulate(self, key: jax.Array, n: int) -> Series:
        keys = jax.random.split(key, 8)
        unit = jnp.ones((1, 4))
        scale = jnp.array([[8.0, 8.0, 1.0, 1.0]])
        widths = (jnp.array([[2.0, 2.0, 0.5, 0.5]]), 0.3)
        prior = few_components(keys[0], n, self.config.num_components, 0 * unit, scale, widths)
        start = prior.sample(keys[1], 1)[:, 0]
        shape = (self.horizon, n)
        dt = jnp.clip(0.7 * jax.random.exponential(keys[2], shape), 0.05, 5.0)
        f, q = motion(dt)
        noise = jnp.einsum("tnij,tnj->tni", jnp.linalg.cholesky(q), jax.random.normal(keys[3], (*shape, 4)))

        def move(x, given):
            f, noise = given
            x = jnp.einsum("nij,nj->ni", f, x) + noise
            return x, x

        _, states = jax.lax.scan(move, start, (f, noise))
        which = jax.random.choice(keys[4], 3, shape, p=jnp.array(_PROBABILITIES))
        since, time = jax.random.uniform(keys[5], (1, n), maxval=15.0), jnp.cumsum(dt, axis=0)
        dark = (time >= since) & (time < since + _BLACKOUT) & (which == 0)
        which = jnp.where(dark, 1, which)
        values, present = {}, {}
        for index, (name, (rows, ways)) in enumerate(SENSORS.items()):
            way_key, noise_key = jax.random.split(jax.random.fold_in(keys[6], index))
            weights, means, variances = (jnp.array(column) for column in zip(*ways, strict=True))
            way = jax.random.choice(way_key, len(ways), shape, p=weights)
            spread = jnp.sqrt(variances[way])[..., None] * jax.random.normal(noise_key, (*shape, len(rows)))
            values[name] = states[..., np.array(rows)] + means[way][..., None] + spread
            present[name] = which == index
        return Series(prior, states, Step(dt, jnp.zeros((*shape, 0)), values, present))

    def problem(self, previous: Components, step: Step) -> Problem:
        dt = step.elapsed
        f, q = motion(dt)
        covariances = jnp.einsum("...ij,...kjl,...ml->...kim", f, previous.covariances, f) + q[..., None, :, :]
        means = jnp.einsum("...ij,...kj->...ki", f, previous.means)
        belief = Components(previous.log_weights, means, factor(covariances))
        fewer = reduced if self.merge else heaviest
        for name in sorted(SENSORS):
            belief = fewer(branched(belief, name, step.values[name], step.present[name]), self.config.num_components)
        none = jnp.zeros((*dt.shape, self.config.num_components, 0), dt.dtype)
        return Problem(belief, belief.mean, jnp.sqrt(belief.variance), none, {}, {})

    def system(self, prior: GaussianMixture) -> System:
        def move(x: Array, dt: Array) -> dist.Distribution:
            f, q = motion(jnp.asarray(dt, x.dtype))
            return dist.MultivariateNormal(f @ x, q)

        def sensor(rows: tuple[int, ...], ways: tuple[tuple[float, float, float], ...]) -> Any:
            weights, means, variances = (np.array(column) for column in zip(*ways, strict=True))

            def see(x: Array) -> dist.Distribution:
                seen = x[np.array(rows)]
                centres = seen[None, :] + jnp.asarray(means, x.dtype)[:, None]
                scales = jnp.asarray(np.sqrt(variances), x.dtype)[:, None]
                parts = dist.Normal(centres, jnp.broadcast_to(scales, centres.shape)).to_event(1)
                return dist.MixtureSameFamily(dist.Categorical(probs=jnp.asarray(weights, x.dtype)), parts)

            return see

        see = {name: sensor(*parts) for name, parts in SENSORS.items()}
        return System(prior, move, see, name="linear sensors")


def branched(belief: Components, name: str, value: Array, present: Array) -> Components:
    """Kalman updates of every component under every way the noise can come about, weighted by their evidence."""
    rows, ways = SENSORS[name]
    index = np.array(rows)
    covariances = belief.covariances
    cross = covariances[..., :, index]
    gap = value[..., None, :] - belief.means[..., index]
    here = present[..., None]
    weights, means, spreads = [], [], []
    for number, (weight, mean, variance) in enumerate(ways):
        eye = jnp.asarray(variance * np.eye(len(rows)), covariances.dtype)
        total = cross[..., index, :] + eye.reshape((1,) * (cross.ndim - 2) + eye.shape)
        root = factor(total)
        inverse = _inverse(total)
        gain = jnp.einsum("...ij,...jk->...ik", cross, inverse)
        innovation = gap - mean
        distance = jnp.einsum("...i,...ij,...j->...", innovation, inverse, innovation)
        log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)), axis=-1)
        log_density = math.log(weight) - 0.5 * (distance + log_det + len(rows) * math.log(2 * math.pi))
        stay = belief.log_weights if number == 0 else jnp.full_like(belief.log_weights, -jnp.inf)
        weights.append(jnp.where(here, belief.log_weights + log_density, stay))
        shift = jnp.einsum("...ij,...j->...i", gain, innovation)
        means.append(jnp.where(here[..., None], belief.means + shift, belief.means))
        down = jnp.einsum("...ij,...kj->...ik", gain, cross)
        spreads.append(jnp.where(here[..., None, None], covariances - down, covariances))
    log_weights = jax.nn.log_softmax(jnp.concatenate(weights, axis=-1), axis=-1)
    return Components(log_weights, jnp.concatenate(means, axis=-2), factor(jnp.concatenate(spreads, axis=-3)))


def _inverse(matrix: Array) -> Array:
    """Of 1 x 1 and 2 x 2 matrices, written out: a batched call of LAPACK costs a microsecond for each."""
    if matrix.shape[-1] == 1:
        return 1 / matrix
    a, b, c, d = (matrix[..., i, j] for i in range(2) for j in range(2))
    adjugate = jnp.stack([jnp.stack([d, -b], -1), jnp.stack([-c, a], -1)], -2)
    return adjugate / (a * d - b * c)[..., None, None]
