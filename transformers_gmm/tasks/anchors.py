"""Ranges to radio anchors, a few of which are far off: what the tasks of real recordings share."""

from __future__ import annotations

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array

from transformers_gmm.components import Components, heaviest
from transformers_gmm.updates import Hypothesis, branch, factor, predict_value


class Anchors(eqx.Module):
    """Anchors at known places; z = s |x - a| + noise, the noise N(0, sd^2) or, now and then, N(0, outlier_sd^2).

    The first two entries of the state are the position in the plane. There is one sensor for each anchor, `anchor_0`,
    `anchor_1`, ..., in the order of `places`.

    Attributes:
        places: x, y of each anchor and its height above the target, metres.
        sd, outlier_sd: metres.
        outlier_share: probability of the second kind of noise.
        scale_entry: index of the state's entry s that stretches ranges; None where s = 1.
    """

    places: tuple[tuple[float, float, float], ...] = eqx.field(static=True)
    sd: float = eqx.field(static=True)
    outlier_sd: float = eqx.field(static=True)
    outlier_share: float = eqx.field(static=True)
    scale_entry: int | None = eqx.field(static=True, default=None)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sensors."""
        return tuple(f"anchor_{i}" for i in range(len(self.places)))

    def range_of(self, state: Array, index: int) -> Array:
        """The range to an anchor without noise, metres; states (..., D) to (...)."""
        return self._range_from(jnp.array(self.places[index], state.dtype), state)

    def _range_from(self, place: Array, state: Array) -> Array:
        dx, dy = state[..., 0] - place[0], state[..., 1] - place[1]
        distance = jnp.sqrt(dx**2 + dy**2 + place[2] ** 2 + 1e-6)
        return distance if self.scale_entry is None else state[..., self.scale_entry] * distance

    def sensors(self) -> dict[str, Any]:
        """For a `System`."""

        def hears(index: int) -> Any:
            return lambda x: self.distribution(self.range_of(x, index))

        return {name: hears(i) for i, name in enumerate(self.names)}

    def distribution(self, mean: Array) -> dist.Distribution:
        """Of a value, given the range without noise."""
        kinds = dist.Categorical(jnp.array([1 - self.outlier_share, self.outlier_share], mean.dtype))
        sds = jnp.array([self.sd, self.outlier_sd], mean.dtype)
        return dist.MixtureSameFamily(kinds, dist.Normal(jnp.stack([mean, mean], axis=-1), sds))

    def simulate(self, key: jax.Array, states: Array) -> dict[str, Array]:
        """Sensor -> values (..., 1) of states (..., D)."""
        values = {}
        for i, (name, one) in enumerate(zip(self.names, jax.random.split(key, len(self.places)), strict=True)):
            keys, mean = jax.random.split(one), self.range_of(states, i)
            is_off = jax.random.bernoulli(keys[0], self.outlier_share, mean.shape)
            noise = jnp.where(is_off, self.outlier_sd, self.sd) * jax.random.normal(keys[1], mean.shape)
            values[name] = (mean + noise)[..., None]
        return values

    def updated(
        self, belief: Components, values: dict[str, Array], present: dict[str, Array], *, merge: bool = True
    ) -> Components:
        """The belief after the anchors that were heard, in turn.

        Each component branches into "right" and "off". With `merge` the two become one with their moments
        (probabilistic data association): no component is spent on outliers. Else the heaviest branches are kept.
        """
        hypotheses = (
            Hypothesis(math.log1p(-self.outlier_share), self.sd**2),
            Hypothesis(math.log(self.outlier_share), self.outlier_sd**2),
        )
        given = (
            jnp.asarray(np.array(self.places), belief.means.dtype),
            jnp.stack([values[name][..., 0] for name in self.names]),
            jnp.stack([present[name] for name in self.names]),
        )

        # One loop whose body is compiled once, however many anchors there are.
        def hear(belief: Components, anchor: tuple[Array, Array, Array]) -> tuple[Components, None]:
            place, value, is_heard = anchor
            prediction = predict_value(belief, lambda x: self._range_from(place, x))
            innovation = value[..., None] - prediction.mean
            branches = branch(belief, prediction, innovation, hypotheses, is_heard)
            return (merged_in_groups if merge else heaviest)(branches, belief.num_components), None

        return jax.lax.scan(hear, belief, given)[0]

    def misfits(self, belief: Components, values: dict[str, Array], present: dict[str, Array]) -> Array:
        """By component and anchor: value minus range from the mean, in units of the noise, squashed; (..., K, A)."""
        columns = [
            jnp.where(
                present[name][..., None], jnp.arcsinh((values[name] - self.range_of(belief.means, i)) / self.sd), 0
            )
            for i, name in enumerate(self.names)
        ]
        return jnp.stack(columns, axis=-1)

    def tokens(self, values: dict[str, Array], present: dict[str, Array]) -> tuple[Array, Array]:
        """One token an anchor: range / 30 m and which anchor, (..., A, 1 + A); and the mask (..., A)."""
        count = len(self.places)
        heard = jnp.stack([present[name] for name in self.names], axis=-1)
        size = jnp.stack([values[name][..., 0] for name in self.names], axis=-1) / 30
        size = jnp.where(heard, size, 0)
        which = jnp.broadcast_to(jnp.asarray(np.eye(count), size.dtype), (*size.shape, count))
        return jnp.concatenate([size[..., None], which], axis=-1), heard

    def bend(self, belief: Components) -> Array:
        """How far the arc of equal range leaves each component's tangent within one deviation, in noise sds; (..., K).

        The largest over the anchors: sigma^2 / (2 r sd), sigma the deviation across the line of sight.
        """
        places = jnp.asarray(np.array(self.places), belief.means.dtype)
        places = places.reshape((1,) * (belief.means.ndim - 1) + places.shape)
        dx, dy = belief.means[..., 0, None] - places[..., 0], belief.means[..., 1, None] - places[..., 1]  # (..., K, A)
        r2 = dx**2 + dy**2 + self.sd**2
        rows = belief.scale_tril[..., :2, :]
        across = -dy[..., None] * rows[..., 0, None, :] + dx[..., None] * rows[..., 1, None, :]
        variance = jnp.sum(across**2, axis=-1) / r2
        return jnp.max(variance / (2 * jnp.sqrt(r2) * self.sd), axis=-1)


def merged_in_groups(components: Components, k: int) -> Components:
    """`k` components out of J k: those with the same index modulo k are merged to their common moments."""
    lead = components.log_weights.shape[:-1]
    log_weights = components.log_weights.reshape(*lead, -1, k)
    total = jax.nn.logsumexp(log_weights, axis=-2)
    # An empty group keeps its moments: the weights of its members are then equal.
    share = jax.nn.softmax(jnp.maximum(log_weights, -1e4), axis=-2)
    means = components.means.reshape(*lead, -1, k, components.dim)
    mean = jnp.sum(share[..., None] * means, axis=-3)
    gaps = means - mean[..., None, :, :]
    covariances = components.covariances.reshape(*lead, -1, k, components.dim, components.dim)
    spread = covariances + gaps[..., :, None] * gaps[..., None, :]
    return Components(total, mean, factor(jnp.sum(share[..., None, None] * spread, axis=-4)))
