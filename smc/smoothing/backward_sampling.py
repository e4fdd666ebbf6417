"""Paths drawn backwards through the filter's populations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from probinf.arguments import positive_integer
from probinf.claims import Claim
from probinf.errors import ArgumentError, UnknownNameError
from smc.filtering import History
from smc.smoothing.backward_weights import backward_indices
from smc.smoothing.method import Draws, SmoothingMethod, take_particles
from smc.smoothing.metropolis import metropolis_indices
from smc.smoothing.rejection import checked_bound, log_bound, rejection_indices
from smc.smoothing.search import InverseCdf
from smc.state_space_model import StateSpaceModel

_RULES = ("exact", "rejection", "mcmc")


class BackwardSampling(SmoothingMethod):
    r"""Forward filtering, backward sampling (Godsill, Doucet & West 2004).

    A last state is drawn by weight; then, given x_{t+1}, its predecessor among the N particles at t with probability
    proportional to $W_t^n\, p(x_{t+1} \mid x_t^n)$. The weights ask for the transition density and nothing else: they
    hold for every proposal, resampling scheme and threshold of the filter.

    Claim: unbiased (evidence estimate times path), for every rule and number of moves.

    Args:
        num_paths: M; as many as the filter has particles by default.
        rule: how a predecessor is found.
            "exact" weighs all N particles, O(N) a path and step.
            "rejection" accepts candidates with probability density / bound; the same law. Its cost does not grow with N
            where the bound is tight, and is about twice that of "exact" where it is bad.
            "mcmc" makes a few Metropolis moves from the filter's own ancestor, O(log N).
        bound: for "rejection": log of an upper bound on p(x_{t+1} | x_t), a number or a function of (model, t + 1).
            By default the model's method `log_transition_bound(t)`, or the height of the mode of Normal,
            MultivariateNormal, StudentT, Laplace, Logistic and Cauchy transitions.
        max_tries: for "rejection": tries before a predecessor is drawn by "exact"; N by default.
        moves: for "mcmc": number of moves, 1 by default.
    """

    claim: ClassVar[Claim] = Claim.UNBIASED
    num_paths: int | None = eqx.field(static=True)
    rule: Literal["exact", "rejection", "mcmc"] = eqx.field(static=True)
    bound: float | Callable[..., Any] | None = eqx.field(static=True)
    max_tries: int | None = eqx.field(static=True)
    moves: int | None = eqx.field(static=True)

    def __init__(
        self,
        num_paths: int | None = None,
        rule: Literal["exact", "rejection", "mcmc"] = "exact",
        *,
        bound: float | Callable[..., Any] | None = None,
        max_tries: int | None = None,
        moves: int | None = None,
    ) -> None:
        if rule not in _RULES:
            raise UnknownNameError(rule, _RULES, "rule", "BackwardSampling")
        for name, value, owner in (
            ("bound", bound, "rejection"),
            ("max_tries", max_tries, "rejection"),
            ("moves", moves, "mcmc"),
        ):
            if value is not None and rule != owner:
                raise ArgumentError(f"{name}: belongs to rule={owner!r}, found rule={rule!r}.")
        self.num_paths = None if num_paths is None else positive_integer("num_paths", num_paths)
        self.rule = rule
        self.bound = checked_bound(bound)
        self.max_tries = None if max_tries is None else positive_integer("max_tries", max_tries)
        self.moves = None if moves is None else positive_integer("moves", moves)

    def draw(self, model: StateSpaceModel, ys: Array, history: History, key: Array) -> Draws:
        steps, num = history.log_weights.shape
        paths = self.num_paths or num
        k_last, k_rest = jax.random.split(key)
        dtype = history.log_weights.dtype
        last = InverseCdf.of(history.log_weights[-1])(jax.random.uniform(k_last, (paths,), dtype))

        def step(carry: tuple, row: tuple) -> tuple[tuple, tuple]:
            after, index = carry
            t, before, log_weights, ancestors, key = row
            accepted, excess, sound = jnp.ones((), dtype), jnp.asarray(-jnp.inf, dtype), jnp.asarray(True)
            if self.rule == "exact":
                uniforms = jax.random.uniform(key, (paths,), dtype)
                index, sound = backward_indices(model, t, before, log_weights, after, uniforms)
            elif self.rule == "rejection":
                bound = jnp.asarray(log_bound(model, t, before, self.bound), dtype)
                index, accepted, sound, excess = rejection_indices(
                    model, t, before, log_weights, after, key, bound, self.max_tries or num
                )
            else:
                start = ancestors[index]
                index, accepted = metropolis_indices(model, t, before, log_weights, after, start, key, self.moves or 1)
            new = (before[index], index)
            return new, (index, accepted.astype(dtype), sound, excess.astype(dtype))

        rows = (
            jnp.arange(1, steps),
            history.particles[:-1],
            history.log_weights[:-1],
            history.ancestors[1:],
            jax.random.split(k_rest, steps - 1),
        )
        begin = (history.particles[-1][last], last)
        _, (earlier, accepted, sound, excess) = jax.lax.scan(step, begin, rows, reverse=True)
        indices = jnp.concatenate([earlier, last[None]])
        return Draws(
            take_particles(history, indices),
            jnp.zeros((steps, paths), dtype),
            indices,
            True,
            None if self.rule == "exact" else accepted,
            sound,
            jnp.max(excess, initial=-jnp.inf) if self.rule == "rejection" else None,
        )
