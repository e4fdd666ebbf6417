"""Particle algorithms written as pipelines: spawn, what happens at each observation, finish.

    at_each = smc.at_each_observation(smc.resample("systematic"), smc.move(pi.trace_mh(), steps=3))
    algorithm = smc.spawn(512) >> at_each >> smc.finish()

An algorithm is a function from program to program (`algorithm(program)` returns a `Population`), a method for
`pi.infer`, and something that `pi.validate` checks.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from probinf.claims import Claim
from probinf.errors import ArgumentError, ArgumentTypeError, InferenceError
from probinf.inference.method import AbstractMethod, check_count
from probinf.inference.posterior import Posterior
from probinf.kernels.kernel import Kernel, cycle, repeat
from probinf.kernels.trace_moves import refresh_future
from probinf.language.program import Program
from probinf.random import as_key
from probinf.transformations.algorithms import check_particles, population, recorded
from probinf.transformations.randomness import Randomness, Ticks
from probinf.transformations.rejuvenation import rejuvenated
from probinf.transformations.resampling import scheme


@dataclasses.dataclass(frozen=True)
class Spawn:
    """N copies of the program, each of weight 1/N."""

    num_particles: int


@dataclasses.dataclass(frozen=True)
class Resample:
    """Resample by a scheme when the effective sample size is at most a fraction of the particles."""

    scheme: str
    threshold: float


@dataclasses.dataclass(frozen=True)
class Move:
    """Move every particle's trace."""

    kernel: Kernel
    steps: int
    values: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class AtEach:
    """What happens after every observation: at most one resampling rule, then moves in order."""

    steps: tuple[Resample | Move, ...]


@dataclasses.dataclass(frozen=True)
class Finish:
    """Run all that is left."""


def spawn(num_particles: int) -> Algorithm:
    """Begin with this many particles."""
    check_count("num_particles", num_particles)
    return Algorithm(int(num_particles))


def resample(name: str = "systematic", *, threshold: float = 0.5) -> Resample:
    """A resampling rule: at ESS <= threshold x N; 1 always, 0 never."""
    scheme(name)
    check_particles(1, threshold)
    return Resample(name, float(threshold))


def move(kernel: Kernel, *, steps: int = 1, values: Iterable[str] = ()) -> Move:
    """Moves of the trace; with `values` the kernel may look at those sites' values."""
    if not isinstance(kernel, Kernel):
        raise ArgumentTypeError(f"kernel: expected a kernel such as pi.trace_mh(), found {type(kernel).__name__}.")
    check_count("steps", steps)
    return Move(kernel, int(steps), (values,) if isinstance(values, str) else tuple(values))


def at_each_observation(*steps: Resample | Move) -> AtEach:
    """Steps after every observation."""
    if not steps or not all(isinstance(s, Resample | Move) for s in steps):
        raise ArgumentTypeError("at_each_observation: expected smc.resample(...) and smc.move(...) steps.")
    if sum(isinstance(s, Resample) for s in steps) > 1:
        raise ArgumentError("at_each_observation: expected at most one resampling step, found several.")
    if any(isinstance(s, Resample) for s in steps[1:]):
        raise ArgumentError("at_each_observation: the resampling step comes first, moves after it.")
    return AtEach(tuple(steps))


def finish() -> Finish:
    """Run the rest of the program."""
    return Finish()


@dataclasses.dataclass(frozen=True)
class Algorithm(AbstractMethod):
    """A pipeline. Claim: unbiased when every move is invariant, consistent otherwise.

    Attributes:
        num_particles: from `spawn`.
        each: what happens at each observation; nothing by default (importance sampling).
        is_finished: whether `finish` has been added.
        randomness: keys, or ticks for proofs.
    """

    num_particles: int
    each: AtEach | None = None
    is_finished: bool = False
    randomness: Randomness | None = None

    def __rshift__(self, step: Any) -> Algorithm:
        if self.is_finished:
            raise ArgumentError("The algorithm is finished: nothing can follow smc.finish().")
        if isinstance(step, Resample | Move):
            step = at_each_observation(step)
        if isinstance(step, Finish):
            return dataclasses.replace(self, is_finished=True)
        if isinstance(step, AtEach):
            before = () if self.each is None else self.each.steps
            return dataclasses.replace(self, each=at_each_observation(*before, *step.steps))
        raise ArgumentTypeError(f"Expected a step such as smc.resample() or smc.finish(), found {type(step).__name__}.")

    @property
    def moves(self) -> tuple[Move, ...]:
        """The moves, in order."""
        return () if self.each is None else tuple(s for s in self.each.steps if isinstance(s, Move))

    @property
    def rule(self) -> Resample:
        """The resampling rule; never by default."""
        steps = () if self.each is None else self.each.steps
        return next((s for s in steps if isinstance(s, Resample)), Resample("systematic", 0.0))

    @property
    def claim(self) -> Claim:
        """The meet of the parts' claims."""
        kept = [Claim.UNBIASED if m.kernel.claim.implies(Claim.INVARIANT) else m.kernel.claim for m in self.moves]
        return Claim.meet([Claim.UNBIASED, *kept])

    def __call__(self, program: Program) -> Program:
        """The algorithm as a program that returns a `Population`."""
        if not self.is_finished:
            raise ArgumentError("The algorithm is not finished: end the pipeline with >> smc.finish().")
        if self.moves:
            # Particles that share an ancestor get a future of their own before they are moved.
            kernel = cycle(refresh_future(), *(repeat(m.kernel, m.steps) for m in self.moves))
            values = tuple(dict.fromkeys(n for m in self.moves for n in m.values))
            program = rejuvenated(program, kernel, values=values, randomness=self.randomness)
        return population(program, self.num_particles, resample=self.rule.scheme, threshold=self.rule.threshold)

    def with_num_particles(self, num_particles: int) -> Algorithm:
        """The same with another number of particles, finite where it has moves: what `validate` enumerates."""
        return dataclasses.replace(
            self, num_particles=num_particles, randomness=Ticks(2) if self.moves else self.randomness
        )

    def reference(self, program: Program) -> Program:
        """What the enumerated algorithm is compared with."""
        from probinf.validity.shipped import ticked

        return ticked(program) if isinstance(self.randomness, Ticks) else program

    def run(self, program: Program, key: Any, *, progress: bool = False) -> Posterior:
        """Draw from the posterior of a program: one run, weighted particles of all named sites.

        Raises:
            InferenceError: all particles died.
        """
        began = time.perf_counter()
        result, _ = self(recorded(program)).run(as_key(key, argument="key"))
        log_evidence = float(result.log_evidence)
        if not np.isfinite(log_evidence):
            raise InferenceError(f"All {self.num_particles} particles of model {program.name!r} died: evidence 0.")
        draws = {n: np.asarray(v)[None] for n, v in result.particles.items()}
        return Posterior(
            draws,
            log_weights=np.asarray(result.log_weights, np.float64)[None] + float(result.collected),
            log_evidence=log_evidence,
            dims={s.name: s.dims for s in program.sites if s.name in draws},
            method=repr(self),
            claim=str(self.claim),
            seconds=time.perf_counter() - began,
            model=program.name,
        )

    def __repr__(self) -> str:
        parts = [f"spawn({self.num_particles})"]
        if self.each is not None:
            steps = [
                f"resample({s.scheme!r}, threshold={s.threshold:g})"
                if isinstance(s, Resample)
                else f"move({s.kernel.name}, steps={s.steps})"
                for s in self.each.steps
            ]
            parts.append(f"at_each_observation({', '.join(steps)})")
        return " >> ".join([*parts, "finish()"] if self.is_finished else parts)
