"""SMC²: parameters and states of a sequential program together, by particles of particle filters."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf.errors import InferenceError, ModelError
from probinf.inference.diagnostics import kish_ess
from probinf.inference.method import AbstractMethod, check_count
from probinf.inference.nuts_run import bar_for
from probinf.inference.posterior import Posterior
from probinf.language.program import Program
from probinf.language.sites import only_sometimes
from probinf.random import as_key
from probinf.transformations.algorithms import check_particles
from probinf.transformations.population import Resampling
from probinf.transformations.resampling import scheme
from smc.evidence import combine_evidence, pack_history
from smc.smc2_engine import Engine, engine_for, suspended
from smc.suspended import Suspended, no_loop


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
        num_runs: independent runs, one after the other; from two on the evidence has a standard error.

    Raises:
        ArgumentError: a setting has an impossible value; it is named.
        ArgumentTypeError: a setting is of the wrong kind.
        UnknownNameError: no such resampling scheme.
    """

    num_parameters: int = 256
    num_particles: int = 256
    num_moves: int = 4
    resample: str = "systematic"
    threshold: float = 0.5
    num_runs: int = 1

    def __post_init__(self) -> None:
        check_count("num_parameters", self.num_parameters, minimum=8)
        check_count("num_moves", self.num_moves, minimum=1)
        check_count("num_runs", self.num_runs)
        check_particles(self.num_particles, self.threshold)
        scheme(self.resample)

    def run(self, program: Program, key: Any, *, progress: bool = False) -> Posterior:
        """Draw parameters and states.

        Ctrl-C raises an `InferenceError` whose `.partial` is the posterior of the parameters given the observations
        used so far.

        Raises:
            ModelError: the program has no observed loop, no static parameter, or a discrete one.
            InferenceError: all parameter particles died, or an evidence is NaN.
        """
        began = time.perf_counter()
        inner = suspended(program)
        if inner is None:
            raise no_loop(program)
        _check_static(program, inner)
        rule = Resampling(self.resample, 0.5)
        engine = engine_for(program.staged, inner, int(self.num_parameters), int(self.num_particles), rule)
        operands = jax.tree.map(jnp.asarray, program.operands)
        key, finished = as_key(key, argument="key"), []
        total = inner.length * self.num_runs
        with bar_for(progress, total, f"SMC², {self.num_parameters} x {self.num_particles}") as bar:
            for r in range(self.num_runs):
                run = _Run(self, program, inner, engine, operands, jax.random.fold_in(key, r))
                try:
                    run.start()
                    while run.t < inner.length:
                        run.step()
                        if bar is not None:
                            bar.update(1, ess=run.history[-1][0], log_evidence=run.log_evidence)
                    run.rejuvenate(is_last=True)
                    values = engine.finish(operands, run.theta, run.key_end)
                except KeyboardInterrupt as stop:
                    error = InferenceError(
                        f"SMC2 was interrupted after {run.t} of {inner.length} observations of run "
                        f"{r + 1} of {self.num_runs}."
                    )
                    error.partial = run.partial(began)
                    raise error from stop
                finished.append((run, {n: np.asarray(v) for n, v in values.items()}))
        return _posterior([run for run, _ in finished], [values for _, values in finished], began)


class _Run:
    """The parameter particles of one run, with their filters, between two observations."""

    def __init__(
        self, method: SMC2, program: Program, inner: Suspended, engine: Engine, operands: Any, key: jax.Array
    ) -> None:
        self.method, self.program, self.inner, self.engine, self.operands = method, program, inner, engine, operands
        self.key_start, self.key_steps, self.key_end = jax.random.split(key, 3)
        self.t, self.log_evidence = 0, 0.0
        self.theta: Any = None
        self.state: Any = None
        self.log_z = np.zeros(method.num_parameters)
        self.log_weights = np.zeros(method.num_parameters)
        self.history: list[tuple[float, float]] = []
        self.acceptance: list[tuple[int, float]] = []

    def start(self) -> None:
        """Parameters from the prior, each with a filter before its first step."""
        key_prior, key_filters = jax.random.split(self.key_start)
        self.theta = self.engine.prior(self.operands, key_prior)
        self.state, _ = self.engine.start(self.operands, self.theta, self._keys(key_filters))

    def step(self) -> None:
        """One observation.

        Raises:
            InferenceError: all parameter particles died, or an evidence is NaN.
        """
        key = jax.random.fold_in(self.key_steps, self.t)
        state, log_z = self.engine.advance(
            self.operands, self.theta, self.state, self.t, self.t + 1, self._keys(jax.random.fold_in(key, 0))
        )
        log_z = np.asarray(log_z, np.float64)
        with np.errstate(invalid="ignore"):  # a filter that died earlier stays at -inf
            # At the first step the old evidence is zero, so that what the prefix observed counts with it.
            gains = np.where(np.isneginf(log_z), -np.inf, log_z - self.log_z)
        updated = self.log_weights + gains
        top = np.max(updated)
        if not np.isfinite(top):
            raise self._dead(updated)
        increment = top + np.log(np.mean(np.exp(updated - top)))
        # The four belong together: an interrupt must not find some of them new.
        self.state, self.log_z, self.log_weights, self.t = state, log_z, updated - increment, self.t + 1
        self.log_evidence += float(increment)
        self.history.append((kish_ess(self.log_weights), self.log_evidence))
        if self.history[-1][0] <= self.method.threshold * self.method.num_parameters and self.t < self.inner.length:
            self.rejuvenate()

    def rejuvenate(self, *, is_last: bool = False) -> None:
        """Resample the parameters and move them; at the end once more, so that they are as good as moves make them."""
        key = jax.random.fold_in(self.key_steps, self.inner.length if is_last else self.t - 1)
        key_resample, key_moves = jax.random.split(jax.random.fold_in(key, 1))
        dtype = jnp.result_type(float)
        engine, operands = self.engine, self.operands
        theta, state, log_z, prior, spread = engine.resample(
            operands,
            self.theta,
            self.state,
            jnp.asarray(self.log_z, dtype),
            jnp.asarray(self.log_weights, dtype),
            key_resample,
        )
        current, rates = (theta, state, log_z, prior), []
        for m in range(self.method.num_moves):
            key_propose, key_start, key_run, key_accept = jax.random.split(jax.random.fold_in(key_moves, m), 4)
            proposed, new_prior, correction = engine.propose(operands, current[0], spread, key_propose)
            fresh, _ = engine.start(operands, proposed, self._keys(key_start))
            fresh, new_z = engine.advance(operands, proposed, fresh, 0, self.t, self._keys(key_run))
            current, rate = engine.accept(current, (proposed, fresh, new_z, new_prior), correction, key_accept)
            rates.append(float(rate))
        self.theta, self.state = current[:2]
        self.log_z, self.log_weights = np.asarray(current[2], np.float64), np.zeros(self.method.num_parameters)
        self.acceptance.append((self.t, float(np.mean(rates))))

    def partial(self, began: float) -> Posterior | None:
        """The parameters given the observations so far; None before the first."""
        if self.theta is None:
            return None
        values = {n: np.asarray(v) for n, v in self.engine.constrain(self.operands, self.theta).items()}
        found = _posterior([self], [values], began)
        return dataclasses.replace(
            found,
            is_partial=True,
            log_weights=self.log_weights[None],
            warnings=(f"Interrupted after {self.t} of {self.inner.length} observations.", *found.warnings),
        )

    def _keys(self, key: jax.Array) -> jax.Array:
        return jax.random.split(key, self.method.num_parameters)

    def _dead(self, updated: np.ndarray) -> InferenceError:
        where = f"observation {self.t} (of {self.inner.length}, counted from 0)"
        wrong = int(np.sum(np.isnan(updated)))
        if wrong:
            message = (
                f"SMC2: the evidence of {wrong} of {updated.size} parameter particles of model "
                f"{self.inner.name!r} is NaN at "
                f"{where}. Likely causes: a parameter outside its range, log or sqrt of a negative number, 0/0."
            )
        else:
            message = (
                f"SMC2: every parameter particle of model {self.inner.name!r} gives {where} "
                "probability zero. Likely causes: "
                "an outlier under a light-tailed density, a prior that excludes the data, too few particles."
            )
        error = InferenceError(message)
        error.partial = {"theta": self.theta, "log_evidence": self.log_evidence, "history": self.history}
        return error


def _posterior(runs: list[_Run], values: list[dict[str, np.ndarray]], began: float) -> Posterior:
    method, program = runs[0].method, runs[0].program
    log_z = np.array([run.log_evidence for run in runs])
    log_evidence, sd = combine_evidence(log_z)
    draws = {name: np.stack([v[name] for v in values]) for name in values[0]}
    past = np.array([run.history for run in runs]).reshape(len(runs), -1, 2)
    return Posterior(
        draws=draws,
        # Within a run all draws weigh the same; runs count by their evidence.
        log_weights=np.broadcast_to(log_z[:, None], (len(runs), method.num_parameters)),
        log_evidence=log_evidence,
        log_evidence_sd=sd,
        dims={s.name: s.dims for s in program.sites if s.name in draws},
        coords=program.unconstrained().coords,
        method=f"SMC², {method.num_parameters} parameter x {method.num_particles} state particles",
        claim="consistent",
        warnings=tuple(_notes(runs)),
        seconds=time.perf_counter() - began,
        checkpoint=pack_history({"ess": past[:, :, 0], "log_evidence": past[:, :, 1]}),
        model=program.name,
    )


def _notes(runs: list[_Run]) -> list[str]:
    notes = []
    rates = [pair for run in runs for pair in run.acceptance]
    if rates:
        step, rate = min(rates, key=lambda pair: pair[1])
        if rate < 0.05:
            notes.append(
                f"Only {rate:.1%} of the moves after {step} observations were accepted: raise "
                "num_particles (noisy evidence "
                "estimates stick) or num_moves."
            )
    for run in runs:
        flat = np.concatenate(
            [np.asarray(v).reshape(run.method.num_parameters, -1) for v in run.theta.values()], axis=1
        )
        distinct = len(np.unique(flat, axis=0))
        if distinct < 0.5 * len(flat):
            notes.append(f"{distinct} distinct parameter values among {len(flat)}: raise num_moves.")
            break
    return notes


def _check_static(program: Program, inner: Suspended) -> None:
    if not inner.static:
        raise ModelError(
            f"Model {program.name!r} has no static latent site, so there is nothing for SMC2 to move: use smc.SMC()."
        )
    sometimes = {s.name for s in only_sometimes(program.sites)}
    for wrong, what in (
        ([s.name for s in program.sites if s.name in inner.static and s.discrete], "discrete"),
        ([name for name in inner.static if name in sometimes], "reached under some values of others only"),
    ):
        if wrong:
            raise ModelError(
                f"SMC2 moves continuous parameters; {wrong} of model {program.name!r} are {what}. Use smc.SMC()."
            )
