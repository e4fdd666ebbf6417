"""A program suspended at its scores: advance one, move what has been drawn, finish.

This is `Seq` of Ścibior et al. (2018) in the form in which it is proved: a suspended program is a trace and the number
of scores met; resuming runs the program again with the same trace. `finish` turns it back into a program with the
measure of the one that was suspended, whatever happened in between. `hoist t` needs no name here: transformations map
programs to programs, so applying t one level down is `population(t(p), N)`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from probinf.language.primitives import Site, bind_factor
from probinf.language.program import Program
from probinf.language.staging import Arguments
from probinf.transformations.randomness import Randomness
from probinf.transformations.rejuvenation import check_move, increment
from probinf.transformations.targets import Prefix
from probinf.transformations.traces import Trace, Traced


@dataclasses.dataclass(frozen=True, eq=False)
class Suspended:
    """A program stopped at one of its scores. Claim of every method: exact.

    Attributes:
        target: the program, through its traces.
        layers: what has happened: None for a score met, or a kernel that moved the trace.
    """

    target: Traced
    layers: tuple[Any, ...] = ()

    @property
    def done(self) -> int:
        """Number of scores met."""
        return sum(layer is None for layer in self.layers)

    @property
    def is_finished(self) -> bool:
        """Whether every score has been met."""
        return self.done >= self.target.num_scores

    def advance(self) -> Suspended:
        """Meet the next score; a finished program is left as it is."""
        return self if self.is_finished else dataclasses.replace(self, layers=(*self.layers, None))

    def hoist_first(self, kernel: Any) -> Suspended:
        """Move the trace by a kernel that keeps the scores met so far.

        Raises:
            ArgumentError: the kernel does not claim to keep its target.
        """
        check_move(kernel)
        return dataclasses.replace(self, layers=(*self.layers, kernel))

    def finish(self) -> Program:
        """Run all that is left: a program with the measure of the one that was suspended."""
        program = self.target.program
        function = _Finished(self.target, self.layers)
        name = f"finish({program.name}, {len(self.layers)} layers)"
        return Program(name, function, Arguments.split((program.operands,), {}))


@dataclasses.dataclass(frozen=True, eq=False)
class _Finished:
    target: Traced
    layers: tuple[Any, ...]

    def __call__(self, operands: Any) -> Any:
        target = self.target.at(operands)
        trace, done = target.replay(target.draw(), jnp.zeros((), jnp.int32)), 0

        def meet(trace: Trace, stop: Any) -> tuple[Trace, None]:
            new = target.replay(trace.slots, stop)
            bind_factor(Site(""), increment(trace.log_weight, new.log_weight))
            return new, None

        for layer in self.layers:
            if layer is None:
                done += 1
                trace, _ = meet(trace, jnp.int32(done))
            else:
                trace, _ = layer.step(Prefix(target, jnp.int32(done)), trace)
        rest = jnp.arange(done + 1, target.num_scores + 1, dtype=jnp.int32)
        trace, _ = jax.lax.scan(meet, trace, rest)
        return target.result_of(trace.slots)


def suspend(program: Program, *, values: Iterable[str] = (), randomness: Randomness | None = None) -> Suspended:
    """Stop a program before its first score.

    Args:
        program: any program without scores inside while loops.
        values: sites that hold values, for kernels that look at them.
        randomness: keys by default.
    """
    return Suspended(Traced(program, values=values, randomness=randomness))
