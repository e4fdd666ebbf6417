"""Transformations of programs into programs: recording, populations, and the exact measure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from probinf.errors import ArgumentError, ArgumentTypeError, UnknownNameError
from probinf.language.handlers import Condition
from probinf.language.program import Program
from probinf.language.staging import Arguments, Staged
from probinf.representations.population import Population
from probinf.transformations.enumeration import FiniteMeasure, enumerate_worlds
from probinf.transformations.population import Resampling, run_population
from probinf.transformations.resampling import scheme


@dataclasses.dataclass(frozen=True)
class _Recorded:
    staged: Staged

    def __call__(self, operands: Any) -> dict[str, Any]:
        return self.staged.run(operands, Condition(record=True), (), {})[2]


def recorded(program: Program) -> Program:
    """The same measure, on the values of all latent and named sites instead of the return value. Claim: exact."""
    return Program(program.name, _Recorded(program.staged), Arguments.split((program.operands,), {}))


@dataclasses.dataclass(frozen=True)
class _Populated:
    staged: Staged
    num: int
    resampling: Resampling

    def __call__(self, operands: Any) -> Population:
        outs, state, history = run_population(self.staged.closed, jax.tree.leaves(operands), self.num, self.resampling)
        particles = jax.tree.unflatten(self.staged.results, outs)
        return Population(particles, state.log_weights, state.log_evidence, history)


def population(
    program: Program,
    num_particles: int,
    *,
    resample: str = "systematic",
    threshold: float = 0.5,
    push_evidence: bool = False,
    priority: Callable[[jax.Array], jax.Array] | None = None,
    shared: Iterable[str] = (),
) -> Program:
    """Run a program by particles that resample after observations: a program that returns a `Population`.

    Sequential Monte Carlo as a transformation of programs (Ścibior et al. 2018): `spawn`, then `advance` and `resample`
    at every suspension. Claim: unbiased, for any scheme and threshold and wherever the program observes.

    Args:
        program: any program.
        num_particles: number of particles, at least 1.
        resample: "systematic", "stratified", "multinomial", "residual", "ssp" or "killing".
        threshold: resample when the effective sample size is at most this fraction of the particles; 0 never
            (importance sampling), 1 always.
        push_evidence: score the evidence in the returned program at every resampling, so that algorithms nest.
        priority: choose ancestors by these log priorities, a function of the log weights (N,), instead of by weight; a
            survivor keeps its weight over its priority.
        shared: names of sites drawn once for all particles: parameters, where the population is over states.

    Raises:
        ArgumentError: a number outside its range.
        UnknownNameError: no such scheme.
    """
    check_particles(num_particles, threshold)
    scheme(resample)
    names = frozenset((shared,) if isinstance(shared, str) else shared)
    latent = [s.name for s in program.staged.latent()]
    for name in sorted(names - set(latent)):
        raise UnknownNameError(name, latent, "latent site", f"program {program.name!r}")
    rule = Resampling(resample, float(threshold), push_evidence, priority, names)
    function = _Populated(program.staged, int(num_particles), rule)
    return Program(f"population({program.name})", function, Arguments.split((program.operands,), {}))


def check_particles(num_particles: Any, threshold: Any) -> None:
    """Door checks of a particle method's numbers."""
    if isinstance(num_particles, bool) or not isinstance(num_particles, int | np.integer):
        raise ArgumentTypeError(f"num_particles: expected an integer, found {num_particles!r}.")
    if num_particles < 1:
        raise ArgumentError(f"num_particles: expected at least 1, found {num_particles}.")
    if not 0 <= float(threshold) <= 1:
        raise ArgumentError(f"threshold: expected a fraction in [0, 1], found {threshold}.")


def enumerate_program(program: Program) -> FiniteMeasure:
    """The exact measure of a program with finitely many executions. Claim: exact.

    Raises:
        ModelError: a draw without finite support.
    """
    log_weights, outs = enumerate_worlds(program.staged.closed, program.operands)
    return FiniteMeasure(log_weights, jax.tree.unflatten(program.staged.results, outs))
