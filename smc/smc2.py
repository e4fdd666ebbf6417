"""SMC²: parameters and states of a sequential program together, by particles of particle filters."""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from probinf.errors import InferenceError, ModelError
from probinf.inference.method import AbstractMethod, check_count
from probinf.inference.posterior import Posterior
from probinf.language.evaluate import evaluate
from probinf.language.handlers import Condition, Forward, ScoreUnconstrained, Unconstrain
from probinf.language.program import Program
from probinf.language.staging import Staged, restage
from probinf.progress import Progress
from probinf.random import as_key
from probinf.transformations.algorithms import check_particles
from probinf.transformations.population import Resampling, log_mean_exp, run_population
from probinf.transformations.resampling import Systematic, effective_sample_size, scheme
from smc.suspended import Inner, Suspended, no_loop, suspend


_HISTORY = 4  # particles of the last filters, whose paths are returned, relative to the others


@dataclasses.dataclass(frozen=True)
class SMC2(AbstractMethod):
    """SMC² (Chopin, Jacob & Papaspiliopoulos 2013): exact inference on static parameters of a sequential program.

    Every parameter particle carries a particle filter over the states. Observations come in one at a time; when the
    parameter particles have degenerated they are resampled and moved by particle marginal Metropolis-Hastings, whose
    filter runs over all observations so far (the accepted evidence estimate is kept, never recomputed). The parameters'
    posterior is exact for any number of state particles as the number of parameter particles grows. At the end each
    parameter particle runs a fresh filter with history and four times the particles, from which one path of states is
    drawn; that conditional draw is consistent in the number of state particles.

    The proposal of the moves is fitted to the particles, which makes the evidence consistent instead of unbiased.

    Args:
        num_parameters: parameter particles.
        num_particles: particles of each filter.
        num_moves: Metropolis-Hastings steps at each rejuvenation.
        resample: scheme of the inner filters.
        threshold: rejuvenate when the effective sample size of the parameters is at most this fraction.
    """

    num_parameters: int = 256
    num_particles: int = 256
    num_moves: int = 4
    resample: str = "systematic"
    threshold: float = 0.5

    def __post_init__(self) -> None:
        check_count("num_parameters", self.num_parameters, minimum=8)
        check_count("num_moves", self.num_moves, minimum=1)
        check_particles(self.num_particles, self.threshold)
        scheme(self.resample)

    def run(self, program: Program, key: Any, *, progress: bool = False) -> Posterior:
        """Draw parameters and states.

        Ctrl-C raises an `InferenceError` whose `.partial` is the posterior of the parameters given the observations
        used so far.

        Raises:
            ModelError: the program has no observed loop, no static parameter, or a discrete one.
            InferenceError: all parameter particles died.
        """
        began = time.perf_counter()
        inner = suspend(program)
        if inner is None:
            raise no_loop(program)
        _check_static(program, inner)
        rule = Resampling(self.resample, 0.5)
        engine = _Engine(program.staged, inner, self.num_parameters, self.num_particles, rule)
        operands = program.operands
        key_start, key_steps, key_end = jax.random.split(as_key(key), 3)
        theta = engine.prior(operands, key_start)
        state = engine.start(operands, theta, jax.random.fold_in(key_start, 1))
        log_weights = jnp.zeros(self.num_parameters) + state.collected * 0
        log_evidence, history, acceptance = 0.0, [], []
        with Progress(inner.length, f"SMC², {self.num_parameters} x {self.num_particles}") if progress else _Quiet() as bar:
            t = 0
            try:
                for t in range(inner.length):
                    step_key = jax.random.fold_in(key_steps, t)
                    state, log_weights, increment, ess = engine.step(operands, theta, state, log_weights, t, step_key)
                    log_evidence += float(increment)
                    if not np.isfinite(float(increment)):
                        raise self._dead(t, inner, theta, log_evidence, history)
                    history.append((float(ess), log_evidence))
                    if float(ess) <= self.threshold * self.num_parameters and t + 1 < inner.length:
                        theta, state, rates = engine.rejuvenate(
                            operands, theta, state, log_weights, t + 1, jax.random.fold_in(step_key, 1), self.num_moves
                        )
                        log_weights = jnp.zeros_like(log_weights)
                        acceptance.append((t, float(rates)))
                    bar.update(1, ess=float(ess), log_evidence=log_evidence)
            except KeyboardInterrupt as stop:
                error = InferenceError(f"SMC2 was interrupted after {t} of {inner.length} observations.")
                error.partial = self._posterior(program, engine, {}, theta, log_weights, log_evidence, history, acceptance, began)
                raise error from stop
            # One more rejuvenation, so that the parameters returned are as good as the last move can make them.
            theta, state, rates = engine.rejuvenate(
                operands, theta, state, log_weights, inner.length, jax.random.fold_in(key_end, 0), self.num_moves
            )
            acceptance.append((inner.length, float(rates)))
        values = engine.finish(operands, theta, jax.random.fold_in(key_end, 1))
        return self._posterior(program, engine, values, theta, None, log_evidence, history, acceptance, began)

    def _dead(self, t: int, inner: Suspended, theta: Any, log_evidence: float, history: list) -> InferenceError:
        error = InferenceError(
            f"SMC2: every parameter particle of model {inner.name!r} gives observation {t} (of {inner.length}) probability "
            "zero. Likely causes: an outlier under a light-tailed density, a prior that excludes the data, too few "
            "particles."
        )
        error.partial = {"theta": theta, "log_evidence": log_evidence, "history": history}
        return error

    def _posterior(
        self, program: Program, engine: _Engine, values: dict, theta: Any, log_weights: Any, log_evidence: float,
        history: list, acceptance: list, began: float,
    ) -> Posterior:
        draws = dict(values) if values else dict(engine.constrain(program.operands, theta))
        weights = None if log_weights is None else np.asarray(log_weights, np.float64)[None]
        notes = []
        rates = [r for _, r in acceptance]
        if rates and min(rates) < 0.05:
            worst = min(acceptance, key=lambda p: p[1])
            notes.append(
                f"Only {worst[1]:.1%} of the moves at step {worst[0]} were accepted: raise num_particles (noisy evidence "
                "estimates stick) or num_moves."
            )
        flat = np.asarray(jax.vmap(lambda p: ravel_pytree(p)[0])(theta))
        distinct = len(np.unique(flat, axis=0))
        if distinct < 0.5 * len(flat):
            notes.append(f"{distinct} distinct parameter values among {len(flat)}: raise num_moves.")
        dims = {s.name: s.dims for s in program.sites if s.name in draws}
        return Posterior(
            draws={n: np.asarray(v)[None] for n, v in draws.items()},
            log_weights=np.zeros((1, self.num_parameters)) if weights is None else weights,
            log_evidence=log_evidence,
            dims=dims,
            coords=program.unconstrained().coords,
            method=f"SMC², {self.num_parameters} parameter x {self.num_particles} state particles",
            claim="consistent",
            warnings=tuple(notes),
            seconds=time.perf_counter() - began,
            model=program.name,
        )


def _check_static(program: Program, inner: Suspended) -> None:
    info = {s.name: s for s in program.sites}
    if not inner.static:
        raise ModelError(
            f"Model {program.name!r} has no static latent site, so there is nothing for SMC2 to move: use smc.SMC()."
        )
    discrete = [n for n in inner.static if info[n].discrete]
    if discrete:
        raise ModelError(f"SMC2 moves continuous parameters; {discrete} of model {program.name!r} are discrete.")


class _Quiet:
    def __enter__(self) -> _Quiet:
        return self

    def __exit__(self, *_: Any) -> None:
        return None

    def update(self, *_: Any, **__: Any) -> None:
        """Nothing to show."""


class _Prior(ScoreUnconstrained):
    """Density of the static sites only: what the prefix draws otherwise belongs to the inner filters."""

    vectorise_loops = False

    def __init__(self, static: tuple[str, ...]) -> None:
        super().__init__()
        self.static = static

    def sample(self, site: Any, distribution: Any, value: Any, state: Any) -> Any:
        if site.name in self.static:
            return super().sample(site, distribution, value, state)
        return jnp.zeros(distribution.shape(), jnp.result_type(float)), state, {}

    def observe(self, site: Any, distribution: Any, value: Any, state: Any) -> Any:
        return state, {}

    def factor(self, site: Any, log_factor: Any, state: Any) -> Any:
        return state, {}


class _Engine:
    """The compiled pieces: all pure functions of arrays, cached per program and size."""

    def __init__(self, staged: Staged, inner: Suspended, num_outer: int, num_inner: int, rule: Resampling) -> None:
        self.staged, self.inner, self.num_outer, self.num_inner, self.rule = staged, inner, num_outer, num_inner, rule
        self.step = _jitted(staged, "step", num_outer, num_inner, rule, self._step)
        self.start = _jitted(staged, "start", num_outer, num_inner, rule, self._start)
        self.prior = _jitted(staged, "prior", num_outer, num_inner, rule, self._prior)
        self.constrain = _jitted(staged, "constrain", num_outer, num_inner, rule, self._constrain)
        self.finish = _jitted(staged, "finish", num_outer, num_inner, rule, self._finish)
        self.rejuvenate = _jitted(staged, "rejuvenate", num_outer, num_inner, rule, self._rejuvenate, (6,))

    # -- parameters -------------------------------------------------------------------------------------------------

    def _prior(self, operands: Any, key: jax.Array) -> dict:
        def one(key: jax.Array) -> dict:
            handler = Unconstrain()
            records = self.inner.prefix.run(operands, handler, handler.start(key), {})[2]
            return {n: records[n] for n in self.inner.static}

        return jax.vmap(one)(jax.random.split(key, self.num_outer))

    def _density(self, operands: Any, theta: dict) -> tuple[jax.Array, dict]:
        """Log prior of one unconstrained parameter vector, and its constrained values."""
        handler = _Prior(self.inner.static)
        _, logp, records = self.inner.prefix.run(operands, handler, handler.start(), theta)
        return logp, {n: records[n] for n in self.inner.static}

    def _constrain(self, operands: Any, theta: dict) -> dict:
        return jax.vmap(lambda th: self._density(operands, th)[1])(theta)

    # -- filters ----------------------------------------------------------------------------------------------------

    def _start(self, operands: Any, theta: dict, key: jax.Array) -> Inner:
        def one(th: dict, k: jax.Array) -> Inner:
            values = self._density(operands, th)[1]
            return self.inner.start(operands, values, k, self.num_inner, self.rule)

        return jax.vmap(one)(theta, jax.random.split(key, self.num_outer))

    def _shared(self, operands: Any, th: dict) -> tuple:
        return self.inner.shared(operands, self._density(operands, th)[1])

    def _step(self, operands: Any, theta: dict, state: Inner, log_weights: Any, t: Any, key: jax.Array) -> tuple:
        def one(th: dict, st: Inner, k: jax.Array) -> tuple[Inner, Any]:
            new = self.inner.step(st, self._shared(operands, th), t, k, self.rule)
            # What the prefix observed counts with the first step.
            before = jnp.where(t == 0, jnp.zeros_like(st.log_evidence), st.log_evidence)
            return new, new.log_evidence - before

        state, gains = jax.vmap(one)(theta, state, jax.random.split(key, self.num_outer))
        updated = log_weights + gains
        increment = log_mean_exp(updated) - log_mean_exp(log_weights)
        return state, updated - log_mean_exp(updated), increment, effective_sample_size(updated)

    def _replay(self, operands: Any, th: dict, upto: Any, key: jax.Array) -> Inner:
        """A fresh filter over the first `upto` observations."""
        values = self._density(operands, th)[1]
        inner = self.inner.start(operands, values, key, self.num_inner, self.rule)
        shared = self.inner.shared(operands, values)

        def body(t: Any, st: Inner) -> Inner:
            return self.inner.step(st, shared, t, jax.random.fold_in(key, t), self.rule)

        return jax.lax.fori_loop(0, upto, body, inner)

    # -- moves ------------------------------------------------------------------------------------------------------

    def _rejuvenate(
        self, operands: Any, theta: dict, state: Inner, log_weights: Any, upto: Any, key: jax.Array, num_moves: int
    ) -> tuple[dict, Inner, Any]:
        key_resample, key_moves = jax.random.split(key)
        flat = jax.vmap(lambda p: ravel_pytree(p)[0])(theta)
        unravel = ravel_pytree(jax.tree.map(lambda x: x[0], theta))[1]
        weights = jax.nn.softmax(log_weights)
        mean = weights @ flat
        gaps = flat - mean[None]
        dim = flat.shape[1]
        cov = (weights[:, None] * gaps).T @ gaps + 1e-10 * jnp.eye(dim, dtype=flat.dtype)
        factor = jnp.linalg.cholesky(cov)
        ancestors = Systematic(log_weights, self.num_outer).sample(key_resample)
        flat = flat[ancestors]
        state = jax.tree.map(lambda x: x[ancestors], state)
        prior = jax.vmap(lambda f: self._density(operands, unravel(f))[0])(flat)

        def log_q(f: Any) -> Any:  # the independence proposal, widened so that it dominates the tails
            white = jax.scipy.linalg.solve_triangular(factor, f - mean, lower=True)
            return -0.5 * jnp.sum(white**2) / 1.44

        def move(carry: Any, key: jax.Array) -> Any:
            flat, prior, state = carry
            key_mix, key_z, key_run, key_accept = jax.random.split(key, 4)
            z = jax.random.normal(key_z, flat.shape, flat.dtype) @ factor.T
            # A fair coin per move, not a state-dependent choice, so the mixture keeps the target.
            walk = jax.random.bernoulli(key_mix, 0.5)
            scale = jnp.asarray(2.38 / np.sqrt(dim), flat.dtype)
            proposal = jnp.where(walk, flat + scale * z, mean[None] + 1.2 * z)
            new_prior = jax.vmap(lambda f: self._density(operands, unravel(f))[0])(proposal)
            new_state = jax.vmap(lambda f, k: self._replay(operands, unravel(f), upto, k))(
                proposal, jax.random.split(key_run, self.num_outer)
            )
            correction = jnp.where(walk, 0, jax.vmap(log_q)(flat) - jax.vmap(log_q)(proposal))
            old_z, new_z = jax.vmap(lambda s: s.log_evidence)(state), jax.vmap(lambda s: s.log_evidence)(new_state)
            log_ratio = new_prior + new_z - prior - old_z + correction
            log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
            accept = -jax.random.exponential(key_accept, log_ratio.shape, log_ratio.dtype) < log_ratio

            def choose(new: Any, old: Any) -> Any:
                return jnp.where(accept.reshape(accept.shape + (1,) * (old.ndim - 1)), new, old)

            carry = (choose(proposal, flat), choose(new_prior, prior), jax.tree.map(choose, new_state, state))
            return carry, jnp.mean(accept.astype(flat.dtype))

        (flat, _, state), rates = jax.lax.scan(move, (flat, prior, state), jax.random.split(key_moves, num_moves))
        return jax.vmap(unravel)(flat), state, jnp.mean(rates)

    # -- the end ----------------------------------------------------------------------------------------------------

    def _finish(self, operands: Any, theta: dict, key: jax.Array) -> dict:
        """Parameters, and for each of them one path of states from a fresh filter with history."""

        def one(args: Any) -> dict:
            th, k = args
            values = self._density(operands, th)[1]
            given = restage(
                self.staged.name,
                lambda ops: self.staged.run(ops[0], Condition(freeze=True, record=True), (), ops[1])[2],
                (operands, values),
            )
            paths, log_weights = _filtered(given, (operands, values), _HISTORY * self.num_inner, self.rule, k)
            j = jax.random.categorical(jax.random.fold_in(k, 1), log_weights)
            return {**values, **{n: v[j] for n, v in paths.items()}}

        keys = jax.random.split(key, self.num_outer)
        return jax.lax.map(one, (theta, keys), batch_size=min(16, self.num_outer))


def _filtered(staged: Staged, operands: Any, num: int, rule: Resampling, key: jax.Array) -> tuple[Any, Any]:
    def emitted(ops: Any) -> Any:
        outs, state, _ = run_population(staged.closed, jax.tree.leaves(ops), num, rule)
        return jax.tree.unflatten(staged.results, outs), state.log_weights

    closed, shapes = jax.make_jaxpr(emitted, return_shape=True)(operands)
    handler = Forward()
    flat, _, _ = evaluate(closed, jax.tree.leaves(operands), handler, handler.start(key), {})
    return jax.tree.unflatten(jax.tree.structure(shapes), flat)


@functools.lru_cache(maxsize=64)
def _cache(staged: Staged, num_outer: int, num_inner: int, rule: Resampling) -> dict[str, Any]:
    return {}


def _jitted(
    staged: Staged, name: str, num_outer: int, num_inner: int, rule: Resampling, function: Any, static: tuple = ()
) -> Any:
    """The compiled function of an earlier run of the same program and sizes, if there was one."""
    known = _cache(staged, num_outer, num_inner, rule)
    if name not in known:
        known[name] = jax.jit(function, static_argnums=static)
    return known[name]


