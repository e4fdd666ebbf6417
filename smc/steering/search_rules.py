"""Rules of search in the place of resampling: beams, diverse trees, halving. They optimise; nothing is unbiased."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probinf.arguments import positive_integer
from probinf.claims import Claim
from probinf.errors import ArgumentError
from smc.steering.resampler import Choice, Population


def _choice(population: Population, ancestors: Array, log_weights: Array) -> Choice:
    one = jnp.ones((), log_weights.dtype)
    moved = jnp.any(ancestors != jnp.arange(len(ancestors), dtype=ancestors.dtype))
    return Choice(ancestors.astype(jnp.int32), log_weights, one, one, moved)


def _live_scores(population: Population) -> Float[Array, " particles"]:
    return jnp.where(population.log_weights > -jnp.inf, population.scores, -jnp.inf)


@dataclasses.dataclass(frozen=True)
class Beam:
    """Beam search: of N prefixes the best N / width go on, each with `width` children (Snell et al. 2024).

    Finished prefixes compete with the others and may keep their places.

    Raises:
        ArgumentError: N is no multiple of the width.
    """

    width: int = 4
    claim: ClassVar[Claim] = Claim.APPROXIMATE
    lookahead: ClassVar[bool] = False

    def check(self, num_particles: int) -> None:
        """Refuse a population that the width does not divide."""
        positive_integer("width", self.width)
        if num_particles % self.width:
            raise ArgumentError(f"num_particles: {num_particles} is no multiple of the width {self.width}.")

    def choose(self, key: Array, population: Population, *, conditional: bool = False) -> Choice:
        """The best prefixes, `width` copies each; the earlier one wins a tie."""
        del key, conditional
        num = len(population.scores)
        _, best = jax.lax.top_k(_live_scores(population), num // self.width)
        ancestors = jnp.repeat(best, self.width, total_repeat_length=num)
        return _choice(population, ancestors, population.log_weights[ancestors])


@dataclasses.dataclass(frozen=True)
class DiverseTree:
    """Diverse verifier tree search: N / width trees that never mix, each keeps its best of `width` children.

    Raises:
        ArgumentError: N is no multiple of the width.

    References:
        Beeching, Tunstall & Rush (2024), Scaling test-time compute with open models.
    """

    width: int = 4
    claim: ClassVar[Claim] = Claim.APPROXIMATE
    lookahead: ClassVar[bool] = False

    def check(self, num_particles: int) -> None:
        """Refuse a population that the width does not divide."""
        Beam(self.width).check(num_particles)

    def choose(self, key: Array, population: Population, *, conditional: bool = False) -> Choice:
        """The best child of each tree, `width` copies of it."""
        del key, conditional
        num = len(population.scores)
        trees = _live_scores(population).reshape(-1, self.width)
        best = jnp.argmax(trees, axis=1).astype(jnp.int32) + self.width * jnp.arange(len(trees), dtype=jnp.int32)
        ancestors = jnp.repeat(best, self.width, total_repeat_length=num)
        return _choice(population, ancestors, population.log_weights[ancestors])


@dataclasses.dataclass(frozen=True)
class Halving:
    """Pruned best-of-N: after every `every` steps the worse half of the live prefixes is given up.

    What is given up costs no further calls; one prefix always stays (successive halving, Jamieson & Talwalkar 2016).

    Raises:
        ArgumentError, ArgumentTypeError: `every` is no positive integer.
    """

    every: int = 1
    claim: ClassVar[Claim] = Claim.APPROXIMATE
    lookahead: ClassVar[bool] = False

    def check(self, num_particles: int) -> None:
        """Refuse a period that is none."""
        del num_particles
        positive_integer("every", self.every)

    def choose(self, key: Array, population: Population, *, conditional: bool = False) -> Choice:
        """Everybody stays in place; the worse half loses its weight."""
        del key, conditional
        scores = _live_scores(population)
        alive = jnp.sum(scores > -jnp.inf, dtype=jnp.int32)
        order = jnp.argsort(-scores, stable=True)
        rank = jnp.zeros(len(scores), jnp.int32).at[order].set(jnp.arange(len(scores), dtype=jnp.int32))
        stays = (rank < (alive + 1) // 2) | (population.step % self.every != 0)
        kept = jnp.where(stays, population.log_weights, -jnp.inf)
        return _choice(population, jnp.arange(len(scores), dtype=jnp.int32), kept)
