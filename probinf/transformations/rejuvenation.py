"""Moves between scores: resample-move, tempering and annealing as programs with the same measure.

Each program here draws a whole trace first and meets the scores one after the other, a kernel moving the trace in
between. A kernel that keeps the product of the scores met so far keeps the measure, so any algorithm may run these
programs: `population` of a rejuvenated program is resample-move SMC, of a tempered one an SMC sampler.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf.claims import Claim
from probinf.errors import ArgumentError, ArgumentTypeError, ModelError
from probinf.language.primitives import Site, bind_factor
from probinf.language.program import Program
from probinf.language.staging import Arguments
from probinf.transformations.randomness import Randomness
from probinf.transformations.targets import Prefix, Tempered
from probinf.transformations.traces import Trace, Traced


def increment(old: jax.Array, new: jax.Array) -> jax.Array:
    """New - old, and -inf wherever the weight is gone."""
    return jnp.where(new == -jnp.inf, -jnp.inf, new - jnp.where(old == -jnp.inf, 0, old))


@dataclasses.dataclass(frozen=True, eq=False)
class _Rejuvenated:
    target: Traced
    kernel: Any
    freeze: bool

    def __call__(self, operands: Any) -> Any:
        target = self.target.at(operands)
        slots = target.draw()

        def layer(trace: Trace, c: jax.Array) -> tuple[Trace, None]:
            stop = c + 1
            new = target.replay(trace.slots, stop)
            bind_factor(Site(""), increment(trace.log_weight, new.log_weight))
            new, _ = self.kernel.step(Prefix(target, stop, c if self.freeze else None), new)
            return new, None

        start = target.replay(slots, jnp.zeros((), jnp.int32))
        trace, _ = jax.lax.scan(layer, start, jnp.arange(target.num_scores, dtype=jnp.int32))
        return target.result_of(trace.slots)


def rejuvenated(
    program: Program,
    kernel: Any,
    *,
    values: Iterable[str] = (),
    freeze: bool = False,
    randomness: Randomness | None = None,
) -> Program:
    """The same program with a move of its trace after every score. Claim: exact if the kernel is invariant.

    After score c the kernel targets the first c scores, later ones excluded. `population(rejuvenated(program, kernel),
    N)` is resample-move SMC (Gilks & Berzuini 2001); with `values` the kernel may move those sites locally. Every move
    runs the program again, so the cost grows with the square of the number of scores.

    Args:
        program: any program without scores inside while loops.
        kernel: for traces; `pi.cycle(pi.refresh_future(), pi.trace_mh())` lets particles that share an ancestor differ.
        values: sites that hold values.
        freeze: move only what was drawn since the last score (the cheap variant); earlier choices stay.
        randomness: keys by default.

    Raises:
        ModelError: a score inside a while loop.
    """
    check_move(kernel)
    target = Traced(program, values=values, randomness=randomness)
    if any(None in s.loops for s in program.staged.sites if s.kind in ("observe", "factor")):
        raise ModelError(
            f"rejuvenated: program {program.name!r} scores inside a while loop, so the number of its suspensions is "
            "not known. Use lax.scan or lax.fori_loop with fixed bounds."
        )
    name = f"rejuvenated({program.name}, {kernel.name})"
    return Program(name, _Rejuvenated(target, kernel, freeze), Arguments.split((program.operands,), {}))


@dataclasses.dataclass(frozen=True, eq=False)
class _TemperedProgram:
    target: Traced
    exponents: tuple[float, ...]
    kernel: Any

    def __call__(self, operands: Any) -> Any:
        target = self.target.at(operands)
        slots = target.draw()
        ladder = jnp.asarray(np.array(self.exponents), jnp.result_type(float))

        def layer(state: Any, step: jax.Array) -> tuple[Any, None]:
            slots, log_score, done = state
            # The last factor is what is left of the score, so that the factors multiply to it exactly.
            share = jnp.where(step == ladder[-1], 1 - done, step - done)
            bind_factor(Site(""), jnp.where(log_score == -jnp.inf, -jnp.inf, share * log_score))
            level = Tempered(target, step)
            trace, _ = self.kernel.step(level, level.replay(slots))
            return (trace.slots, target.prior_and_score(trace.slots)[1], step), None

        log_score = target.prior_and_score(slots)[1]
        start = (slots, log_score, jnp.zeros((), ladder.dtype))
        (slots, _, _), _ = jax.lax.scan(layer, start, ladder)
        return target.result_of(slots)


def tempered(
    program: Program,
    exponents: Sequence[float],
    kernel: Any,
    *,
    values: Iterable[str] = (),
    randomness: Randomness | None = None,
) -> Program:
    """The same program, its scores split into powers, a move after each. Claim: exact if the kernel is invariant.

    All scores together are raised to the exponents one after the other, which end at 1 and are fixed in advance; the
    kernel targets the power reached. `population` of it is an SMC sampler (Del Moral, Doucet & Jasra 2006), one
    particle of it annealed importance sampling (Neal 2001).

    Raises:
        ArgumentError: exponents that do not rise from above 0 to 1.
    """
    ladder = check_ladder(exponents)
    check_move(kernel)
    target = Traced(program, values=values, randomness=randomness)
    name = f"tempered({program.name}, {len(ladder)} steps, {kernel.name})"
    return Program(name, _TemperedProgram(target, ladder, kernel), Arguments.split((program.operands,), {}))


def check_move(kernel: Any) -> None:
    """Refuse a kernel that does not claim to keep its target.

    Raises:
        ArgumentError: its claim is weaker.
        ArgumentTypeError: no kernel.
    """
    if not hasattr(kernel, "claim"):
        raise ArgumentTypeError(f"kernel: expected a kernel such as pi.trace_mh(), found {kernel!r}.")
    if not kernel.claim.implies(Claim.INVARIANT):
        raise ArgumentError(
            f"kernel: {kernel.name} claims to be {kernel.claim}, and a move inside a program must leave its target "
            "invariant. Fix its adaptation, or correct it by an accept step."
        )


def check_ladder(exponents: Sequence[float]) -> tuple[float, ...]:
    """The exponents as floats.

    Raises:
        ArgumentError: they do not rise from above 0 to 1.
    """
    ladder = tuple(float(e) for e in exponents)
    if not ladder or ladder[-1] != 1 or ladder[0] <= 0 or any(b <= a for a, b in itertools.pairwise(ladder)):
        raise ArgumentError(f"exponents: expected numbers that rise from above 0 and end at 1, found {list(ladder)}.")
    return ladder
