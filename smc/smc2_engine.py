"""The compiled pieces of SMC²: parameters' prior and proposals, filters that start and advance, paths at the end."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from probinf.kernels.chains import cached, counted
from probinf.language.staging import Staged
from probinf.transformations.population import Resampling
from probinf.transformations.resampling import Systematic
from smc.static_parameters import draw_parameters, filter_given, prior_density
from smc.suspended import Inner, Suspended

_HISTORY = 4  # particles of the last filters, whose paths are returned, relative to the others
_WIDENED = 1.2  # the independence proposal against the particles' spread, so that it dominates the tails


class Engine:
    """Pure functions of arrays, compiled once for each program and size. Parameters are dicts of unconstrained sites.

    The loop's body is compiled in `advance` only, which serves the filters' steps and the replays of the moves.
    """

    def __init__(self, staged: Staged, inner: Suspended, num_outer: int, num_inner: int, rule: Resampling) -> None:
        self.staged, self.inner, self.num_outer, self.num_inner, self.rule = staged, inner, num_outer, num_inner, rule
        self.prior = counted(self._prior)
        self.constrain = counted(self._constrain)
        self.start = counted(self._start)
        self.advance = counted(self._advance)
        self.resample = counted(self._resample)
        self.propose = counted(self._propose)
        self.accept = counted(self._accept)
        self.finish = counted(self._finish)

    # -- parameters -------------------------------------------------------------------------------------------------

    def _prior(self, operands: Any, key: jax.Array) -> dict:
        return jax.vmap(lambda key: draw_parameters(self.inner, operands, key))(jax.random.split(key, self.num_outer))

    def _density(self, operands: Any, theta: dict) -> tuple[jax.Array, dict]:
        return prior_density(self.inner, operands, theta)

    def _constrain(self, operands: Any, theta: dict) -> dict:
        return jax.vmap(lambda th: self._density(operands, th)[1])(theta)

    # -- filters ----------------------------------------------------------------------------------------------------

    def _start(self, operands: Any, theta: dict, keys: jax.Array) -> tuple[Inner, jax.Array]:
        """Populations before the first step, and their log evidence (what the prefix observes)."""

        def one(th: dict, key: jax.Array) -> tuple[Inner, jax.Array]:
            values = self._density(operands, th)[1]
            state = self.inner.start(operands, values, key, self.num_inner, self.rule)
            return state, state.log_evidence

        return jax.vmap(one)(theta, keys)

    def _advance(
        self, operands: Any, theta: dict, state: Inner, first: Any, last: Any, keys: jax.Array
    ) -> tuple[Inner, jax.Array]:
        """Populations after the steps from `first` to before `last`, and their log evidence so far."""

        def one(th: dict, st: Inner, key: jax.Array) -> tuple[Inner, jax.Array]:
            shared = self.inner.shared(operands, self._density(operands, th)[1])

            def body(t: Any, st: Inner) -> Inner:
                return self.inner.step(st, shared, t, jax.random.fold_in(key, t), self.rule)

            st = jax.lax.fori_loop(first, last, body, st)
            return st, st.log_evidence

        return jax.vmap(one)(theta, state, keys)

    # -- moves ------------------------------------------------------------------------------------------------------

    def _resample(
        self, operands: Any, theta: dict, state: Inner, log_z: jax.Array, log_weights: jax.Array, key: jax.Array
    ) -> tuple:
        """Parameter particles with their filters and evidences, and their log prior; the spread before resampling."""
        flat = jax.vmap(lambda p: ravel_pytree(p)[0])(theta)
        weights = jax.nn.softmax(log_weights).astype(flat.dtype)
        mean = weights @ flat
        gaps = flat - mean[None]
        cov = (weights[:, None] * gaps).T @ gaps
        cov = cov + (1e-10 + 1e-8 * jnp.diag(jnp.diag(cov))) * jnp.eye(flat.shape[1], dtype=flat.dtype)
        ancestors = Systematic(log_weights, self.num_outer).sample(key)
        theta, state, log_z = jax.tree.map(lambda x: x[ancestors], (theta, state, log_z))
        prior = jax.vmap(lambda th: self._density(operands, th)[0])(theta)
        return theta, state, log_z, prior, (mean, jnp.linalg.cholesky(cov))

    def _propose(self, operands: Any, theta: dict, spread: tuple, key: jax.Array) -> tuple:
        """Proposals, their log prior, and the log ratio of proposal densities."""
        mean, factor = spread
        unravel = ravel_pytree(jax.tree.map(lambda x: x[0], theta))[1]
        flat = jax.vmap(lambda p: ravel_pytree(p)[0])(theta)
        key_mix, key_z = jax.random.split(key)
        z = jax.random.normal(key_z, flat.shape, flat.dtype) @ factor.T
        # A fair coin per move, not a state-dependent choice, so the mixture keeps the target.
        walk = jax.random.bernoulli(key_mix, 0.5)
        scale = jnp.asarray(2.38 / np.sqrt(flat.shape[1]), flat.dtype)
        proposal = jnp.where(walk, flat + scale * z, mean[None] + _WIDENED * z)

        def log_q(f: jax.Array) -> jax.Array:
            white = jax.scipy.linalg.solve_triangular(factor, f - mean, lower=True)
            return -0.5 * jnp.sum(white**2) / _WIDENED**2

        correction = jnp.where(walk, 0, jax.vmap(log_q)(flat) - jax.vmap(log_q)(proposal))
        proposed = jax.vmap(unravel)(proposal)
        prior = jax.vmap(lambda th: self._density(operands, th)[0])(proposed)
        return proposed, prior, correction

    def _accept(self, old: tuple, new: tuple, correction: jax.Array, key: jax.Array) -> tuple:
        """Metropolis-Hastings on (parameters, filter, evidence, prior): a rejected move keeps all four as they were."""
        log_ratio = new[2] + new[3] - old[2] - old[3] + correction
        log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
        accepted = -jax.random.exponential(key, log_ratio.shape, log_ratio.dtype) < log_ratio

        def select(a: jax.Array, b: jax.Array) -> jax.Array:
            return jnp.where(accepted.reshape(accepted.shape + (1,) * (b.ndim - 1)), a, b)

        return jax.tree.map(select, new, old), jnp.mean(accepted.astype(log_ratio.dtype))

    # -- the end ----------------------------------------------------------------------------------------------------

    def _finish(self, operands: Any, theta: dict, key: jax.Array) -> dict:
        """Parameters, and for each of them one path of states from a fresh filter with history."""

        def one(args: Any) -> dict:
            th, key = args
            values = self._density(operands, th)[1]
            _, log_weights, paths = filter_given(
                self.staged, operands, values, _HISTORY * self.num_inner, self.rule, key, record=True
            )
            j = jax.random.categorical(jax.random.fold_in(key, 1), log_weights)
            return {**values, **{n: v[j] for n, v in paths.items()}}

        keys = jax.random.split(key, self.num_outer)
        return jax.lax.map(one, (theta, keys), batch_size=min(16, self.num_outer))


def engine_for(staged: Staged, inner: Suspended, num_outer: int, num_inner: int, rule: Resampling) -> Engine:
    """The engine of an earlier run of the same program and sizes, if there was one."""
    build = functools.partial(Engine, staged, inner, num_outer, num_inner, rule)
    return cached(("smc2", staged, num_outer, num_inner, rule), build)
