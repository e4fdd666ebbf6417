"""Killing resampling: a particle keeps its place with probability w / max w, else a multinomial draw takes it.

Del Moral (2004), Feynman-Kac Formulae, section 3.5. For evenly weighted particles nothing moves at all, which makes it
the scheme of choice where weights hardly differ from step to step (fine discretisations in time; Chopin, Singh, Soto &
Vihola 2022). The slots are independent, but not alike.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from probinf.errors import ArgumentError
from probinf.transformations.ancestors import Ancestors, rotate, weights_from_log
from probinf.transformations.inversion import multinomial_ancestors
from probinf.transformations.running import in_turn, total


def candidates(uniforms: jax.Array, size: int, num: int) -> jax.Array:
    """The particle that each slot may keep, when there are not as many slots as particles.

    Slot k stands for the particles' places from k N / num to (k + 1) N / num and picks one by its share of them, so
    that every particle is a candidate num / N times on average.
    """
    places = (jnp.arange(num).astype(uniforms.dtype) + uniforms) * (size / num)
    return jnp.minimum(places.astype(jnp.int32), size - 1)


@in_turn
def killing_ancestors(uniforms: jax.Array, log_weights: jax.Array, num: int) -> jax.Array:
    """Ancestors of killing resampling.

    Args:
        uniforms: (num,) for as many slots as particles; else (2, num), the second row for the candidates.
        log_weights: (N,) unnormalised.
        num: number of slots.
    """
    size = log_weights.shape[0]
    coins, own = (uniforms, jnp.arange(num, dtype=jnp.int32)) if num == size else (uniforms[0], None)
    kept = candidates(uniforms[1], size, num) if own is None else own
    chance = weights_from_log(log_weights)[kept]
    is_kept = coins < chance
    # Given that it is not below the chance, what is left of the uniform number is uniform again.
    again = (coins - chance) / jnp.where(is_kept, 1, 1 - chance)
    return jnp.where(is_kept, kept, multinomial_ancestors(jnp.clip(again, 0, 1), log_weights, num))


class Killing(Ancestors):
    """A particle survives with probability w / max w, else its slot goes to a multinomial draw (Del Moral 2004)."""

    def num_uniforms(self) -> tuple[int, ...]:
        return (self.num,) if self.num == self.log_weights.shape[-1] else (2, self.num)

    def from_uniforms(self, uniforms: jax.Array, log_weights: jax.Array) -> jax.Array:
        return killing_ancestors(uniforms, log_weights, self.num)

    def given_first(self, key: jax.Array, log_weights: jax.Array) -> jax.Array:
        """The slot that comes first is drawn by its chance of particle 0; the others, being independent, are as always.

        Raises:
            ArgumentError: not as many slots as particles.
        """
        if self.num != log_weights.shape[0]:
            raise ArgumentError(f"killing: a conditional draw needs {log_weights.shape[0]} slots, found {self.num}.")
        key_slot, key_rest = jax.random.split(key)
        weights = weights_from_log(log_weights)
        chance = (1 - weights) * (weights[0] / total(weights))
        first = jax.random.categorical(key_slot, jnp.log(chance.at[0].add(weights[0])))
        uniforms = jax.random.uniform(key_rest, (self.num,), log_weights.dtype)
        return rotate(self.from_uniforms(uniforms, log_weights).at[first].set(0), first)

    def outcomes(self, w: np.ndarray) -> tuple[list, list]:
        size, num = len(w), self.num
        places = np.arange(num + 1) * size / num
        slots = []
        for k in range(num):
            overlap = np.minimum(np.arange(size) + 1, places[k + 1]) - np.maximum(np.arange(size), places[k])
            by = np.maximum(overlap, 0) * num / size
            chance = by * w / w.max()
            slots.append(chance + (by.sum() - chance.sum()) * w)
        vectors = [list(v) for v in itertools.product(*(np.flatnonzero(p > 0) for p in slots))]
        return vectors, [float(np.prod([p[a] for p, a in zip(slots, v, strict=True)])) for v in vectors]
