"""The compiled pieces of PMMH: starts from the prior, filters at given parameters, and one chain that walks."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from probinf.kernels.chains import cached, counted
from probinf.kernels.flat import FlatLayout
from probinf.language.staging import Staged
from probinf.transformations.population import Resampling
from smc.static_parameters import draw_parameters, filter_given, prior_density
from smc.suspended import Suspended

BATCH = 64  # parameter vectors that one call of `evaluate` filters
CAPACITY = 100  # the longest piece of a chain, in steps

_TARGET_ACCEPTANCE = 0.2  # the estimate's noise costs acceptance: less than the 0.234 to 0.44 of an exact likelihood
_DECAY = 0.6


class Estimate(NamedTuple):
    """Parameters with the filter that was run at them; what a chain carries and a rejected move keeps whole.

    Attributes:
        x: (d,) unconstrained parameters.
        log_prior: their log prior density, Jacobian included, nats.
        log_evidence: log of the filter's estimate of p(data | parameters), nats; -inf where it was NaN.
        path: one path of the other sites, drawn from the filter; empty where none is wanted.
    """

    x: jax.Array
    log_prior: jax.Array
    log_evidence: jax.Array
    path: dict


class Walk(NamedTuple):
    """The random walk: steps exp(log_scale) * factor @ normal.

    Attributes:
        factor: (d, d) triangular.
        log_scale: scalar.
        num_steps: steps since the factor was renewed, which the adaptation of the scale slows down with.
    """

    factor: jax.Array
    log_scale: jax.Array
    num_steps: jax.Array


class Rows(NamedTuple):
    """Kept states of one chain, leading axis CAPACITY.

    Attributes:
        now: the states.
        acceptance_rate: acceptance probability of each step.
        is_wrong: the evidence of the step's proposal was NaN.
    """

    now: Estimate
    acceptance_rate: jax.Array
    is_wrong: jax.Array


class Engine:
    """Pure functions of arrays, compiled once for each program and number of particles."""

    def __init__(self, staged: Staged, inner: Suspended, num: int, rule: Resampling, *, paths: bool) -> None:
        self.staged, self.inner, self.num, self.rule, self.paths = staged, inner, num, rule, paths
        self.prior = counted(self._prior)
        self.evaluate = counted(self._evaluate)
        self.advance = counted(self._advance)
        self.constrain = counted(self._constrain)

    def layout(self, operands: Any) -> FlatLayout:
        """Where each parameter stands in the vector."""
        return FlatLayout(jax.eval_shape(lambda o: draw_parameters(self.inner, o, jax.random.key(0)), operands))

    def _prior(self, operands: Any, key: jax.Array) -> jax.Array:
        """Draws from the prior, (BATCH, d)."""
        ravel = self.layout(operands).ravel
        keys = jax.random.split(key, BATCH)
        return jax.vmap(lambda key: ravel(draw_parameters(self.inner, operands, key)))(keys)

    def _evaluate(self, operands: Any, x: jax.Array, key: jax.Array) -> Estimate:
        """An independent filter at each row of x (BATCH, d), one after the other."""
        one = lambda args: self._estimate(operands, *args)[0]  # noqa: E731
        return jax.lax.map(one, (x, jax.random.split(key, BATCH)))

    def _estimate(self, operands: Any, x: jax.Array, key: jax.Array) -> tuple[Estimate, jax.Array]:
        log_prior, values = prior_density(self.inner, operands, self.layout(operands).unravel(x))
        key_filter, key_path = jax.random.split(key)
        log_evidence, log_weights, paths = filter_given(
            self.staged, operands, values, self.num, self.rule, key_filter, record=self.paths
        )
        path = {}
        if self.paths:
            j = jax.random.categorical(key_path, log_weights)
            path = {name: rows[j] for name, rows in paths.items()}
        wrong = jnp.isnan(log_evidence)
        log_evidence = jnp.where(wrong, -jnp.inf, log_evidence).astype(x.dtype)
        return Estimate(x, log_prior.astype(x.dtype), log_evidence, path), wrong

    def _advance(
        self,
        operands: Any,
        now: Estimate,
        walk: Walk,
        key: jax.Array,
        first_step: jax.Array,
        num_steps: jax.Array,
        is_adapting: jax.Array,
    ) -> tuple[Estimate, Walk, Rows]:
        """`num_steps` (at most CAPACITY) steps of one chain; the rows after them are zero."""

        def step(i: jax.Array, carry: tuple) -> tuple:
            now, walk, rows = carry
            key_step, key_filter, key_accept = jax.random.split(jax.random.fold_in(key, first_step + i), 3)
            gap = walk.factor @ jax.random.normal(key_step, now.x.shape, now.x.dtype)
            new, wrong = self._estimate(operands, now.x + jnp.exp(walk.log_scale) * gap, key_filter)
            log_ratio = new.log_prior + new.log_evidence - now.log_prior - now.log_evidence
            log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)  # a density outside its support
            accepted = -jax.random.exponential(key_accept, (), log_ratio.dtype) < log_ratio
            now = jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new, now)
            rate = jnp.exp(jnp.minimum(log_ratio, 0))
            gain = jnp.where(is_adapting, (walk.num_steps + 1).astype(rate.dtype) ** -_DECAY, 0)
            walk = Walk(walk.factor, walk.log_scale + gain * (rate - _TARGET_ACCEPTANCE), walk.num_steps + 1)
            row = Rows(now, rate, wrong)
            return now, walk, jax.tree.map(lambda all, one: all.at[i].set(one), rows, row)

        empty = jax.tree.map(
            lambda leaf: jnp.zeros((CAPACITY, *leaf.shape), leaf.dtype), Rows(now, now.log_prior, jnp.asarray(False))
        )
        return jax.lax.fori_loop(0, num_steps, step, (now, walk, empty))

    def _constrain(self, operands: Any, x: jax.Array) -> dict:
        """Parameters on their own scale at each row of x (..., d)."""
        unravel = self.layout(operands).unravel
        flat = x.reshape(-1, x.shape[-1])
        values = jax.vmap(lambda row: prior_density(self.inner, operands, unravel(row))[1])(flat)
        return jax.tree.map(lambda v: v.reshape(*x.shape[:-1], *v.shape[1:]), values)


def engine_for(staged: Staged, inner: Suspended, num: int, rule: Resampling, *, paths: bool) -> Engine:
    """The engine of an earlier run of the same program and size, if there was one."""
    build = functools.partial(Engine, staged, inner, num, rule, paths=paths)
    return cached(("pmmh", staged, num, rule, paths), build)
