"""Resampling schemes as distributions over ancestor vectors: the classical four, and the table of all.

Each scheme has a deterministic half (uniforms and log weights in, ancestors out, testable at 0 and 1 - eps), a draw,
and an exact finite enumeration. All satisfy E[#{i: a_i = j}] = m w_j / W, which is all that validity asks for
(Ścibior et al. 2018; Chopin & Papaspiliopoulos 2020, chapter 9).
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf.transformations.ancestors import Ancestors, ancestors_from_run_ends, weights_from_log
from probinf.transformations.branching import SSP
from probinf.transformations.inversion import invert, multinomial_ancestors
from probinf.transformations.killing import Killing
from probinf.transformations.running import in_turn, prefix_sum, running_sum, total

__all__ = [
    "SCHEMES",
    "SSP",
    "Ancestors",
    "Killing",
    "Multinomial",
    "Residual",
    "Stratified",
    "Systematic",
    "ancestors_from_run_ends",
    "effective_sample_size",
    "multinomial_ancestors",
    "prefix_sum",
    "residual_ancestors",
    "scheme",
    "stratified_ancestors",
    "systematic_ancestors",
    "weights_from_log",
]


@in_turn
def systematic_ancestors(uniform: jax.Array, log_weights: jax.Array, num: int) -> jax.Array:
    """Ancestors of systematic resampling from its single uniform number in [0, 1)."""
    weights = weights_from_log(log_weights)
    cumulative = prefix_sum(weights)
    scaled = num * (cumulative / jnp.where(cumulative[-1] > 0, cumulative[-1], 1))
    run_ends = jnp.clip(jnp.ceil(scaled - uniform), 0, num).astype(jnp.int32)
    return ancestors_from_run_ends(run_ends, weights, num)


@in_turn
def stratified_ancestors(uniforms: jax.Array, log_weights: jax.Array, num: int) -> jax.Array:
    """Ancestors of stratified resampling from one uniform number per stratum."""
    weights = weights_from_log(log_weights)
    cumulative = prefix_sum(weights)
    scaled = num * (cumulative / jnp.where(cumulative[-1] > 0, cumulative[-1], 1))
    stratum = jnp.clip(jnp.floor(scaled), 0, num - 1).astype(jnp.int32)
    passed = uniforms[stratum] < scaled - stratum.astype(scaled.dtype)
    run_ends = jnp.clip(stratum + passed.astype(jnp.int32), 0, num)
    return ancestors_from_run_ends(run_ends, weights, num)


@in_turn
def residual_ancestors(uniforms: jax.Array, log_weights: jax.Array, num: int) -> jax.Array:
    """Deterministic copies of the whole parts of the expected offspring, the rest multinomial."""
    weights = weights_from_log(log_weights)
    mass = total(weights)
    expected = num * weights / jnp.where(mass > 0, mass, 1)
    # One unit in the last place must not turn 2.9999999 expected children into two sure ones and a spare.
    whole = jnp.floor(expected + 16 * jnp.finfo(expected.dtype).eps * expected)
    ends = jnp.clip(running_sum(whole.astype(jnp.int32)), 0, num)
    sure = ancestors_from_run_ends(ends, jnp.where(whole > 0, weights, 0), num)
    rest = jnp.maximum(expected - whole, 0)
    # When nothing is left over the rest is rounding noise, and no slot uses it.
    drawn = multinomial_ancestors(uniforms, jnp.where(rest > 0, jnp.log(rest), -jnp.inf), num)
    return jnp.where(jnp.arange(num, dtype=jnp.int32) < ends[-1], sure, drawn)


class Systematic(Ancestors):
    """One uniform number for all positions (Carpenter, Clifford & Fearnhead 1999)."""

    def num_uniforms(self) -> tuple[int, ...]:
        return ()

    def from_uniforms(self, uniforms: jax.Array, log_weights: jax.Array) -> jax.Array:
        return systematic_ancestors(uniforms, log_weights, self.num)

    def outcomes(self, w: np.ndarray) -> tuple[list, list]:
        # Piecewise constant in the uniform number; it jumps at the fractional parts of num * C_i.
        cumulative = np.cumsum(w)
        knots = np.unique(np.concatenate([[0.0, 1.0], (self.num * cumulative) % 1.0]))
        middles, lengths = (knots[:-1] + knots[1:]) / 2, np.diff(knots)
        return [invert(cumulative, (np.arange(self.num) + u) / self.num, w) for u in middles], list(lengths)


class Stratified(Ancestors):
    """One uniform number in each of `num` strata (Kitagawa 1996)."""

    def from_uniforms(self, uniforms: jax.Array, log_weights: jax.Array) -> jax.Array:
        return stratified_ancestors(uniforms, log_weights, self.num)

    def outcomes(self, w: np.ndarray) -> tuple[list, list]:
        cumulative = np.cumsum(w)
        choices = []
        for k in range(self.num):
            inside = cumulative[(cumulative > k / self.num) & (cumulative < (k + 1) / self.num)]
            knots = np.concatenate([[k / self.num], inside, [(k + 1) / self.num]])
            middles = (knots[:-1] + knots[1:]) / 2
            choices.append(list(zip(invert(cumulative, middles, w), np.diff(knots) * self.num, strict=True)))
        combined = list(itertools.product(*choices))
        return [[a for a, _ in c] for c in combined], [float(np.prod([p for _, p in c])) for c in combined]


class Multinomial(Ancestors):
    """Independent ancestors."""

    def from_uniforms(self, uniforms: jax.Array, log_weights: jax.Array) -> jax.Array:
        return multinomial_ancestors(uniforms, log_weights, self.num)

    def outcomes(self, w: np.ndarray) -> tuple[list, list]:
        vectors = list(itertools.product(range(len(w)), repeat=self.num))
        return [list(v) for v in vectors], [float(np.prod(w[list(v)])) for v in vectors]


class Residual(Ancestors):
    """Whole parts of the expected offspring for sure, the rest multinomial (Liu & Chen 1998)."""

    def from_uniforms(self, uniforms: jax.Array, log_weights: jax.Array) -> jax.Array:
        return residual_ancestors(uniforms, log_weights, self.num)

    def outcomes(self, w: np.ndarray) -> tuple[list, list]:
        expected = self.num * w
        whole = np.floor(expected + 16 * np.finfo(float).eps * expected)
        sure = np.repeat(np.arange(len(w)), whole.astype(int))
        left = self.num - len(sure)
        if left == 0:
            return [list(sure)], [1.0]
        rest = np.maximum(expected - whole, 0)
        rest = rest / rest.sum()
        tails = list(itertools.product(range(len(w)), repeat=left))
        return [[*sure, *t] for t in tails], [float(np.prod(rest[list(t)])) for t in tails]


SCHEMES: dict[str, type[Ancestors]] = {
    "systematic": Systematic,
    "stratified": Stratified,
    "multinomial": Multinomial,
    "residual": Residual,
    "ssp": SSP,
    "killing": Killing,
}


def scheme(name: str) -> type[Ancestors]:
    """Look a scheme up by name.

    Raises:
        UnknownNameError: with the nearest name.
    """
    from probinf.errors import UnknownNameError

    if name not in SCHEMES:
        raise UnknownNameError(name, SCHEMES, "resampling scheme", "probinf")
    return SCHEMES[name]


def effective_sample_size(log_weights: Any) -> jax.Array:
    """Kish's effective sample size (sum w)^2 / sum w^2; zero when all weights are zero."""
    w = weights_from_log(log_weights)
    mass, squares = jnp.sum(w), jnp.sum(w * w)
    return jnp.where(squares > 0, mass * mass / jnp.where(squares > 0, squares, 1), 0)
