"""Waste-free SMC samplers: every state that a move passes through is a particle."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf.errors import ArgumentError
from probinf.kernels.kernel import Kernel
from probinf.language.primitives import Site, bind_sample
from probinf.language.program import Program
from probinf.language.staging import Arguments
from probinf.representations.population import Population
from probinf.transformations.population import Many, Resampling, State, log_mean_exp, population_frame
from probinf.transformations.randomness import Randomness
from probinf.transformations.rejuvenation import check_ladder, check_move
from probinf.transformations.resampling import scheme
from probinf.transformations.targets import Tempered
from probinf.transformations.traces import Trace, Traced


@dataclasses.dataclass(frozen=True, eq=False)
class _WasteFree:
    target: Traced
    ladder: tuple[float, ...]
    kernel: Kernel
    num_chains: int
    length: int
    scheme: str

    def __call__(self, operands: Any) -> Population:
        target = self.target.at(operands)
        num = self.num_chains * self.length
        dtype = jnp.result_type(float)
        slots = each(num, lambda: target.draw())
        collected, before = jnp.zeros((), dtype), 0.0
        log_weights = jnp.zeros(num, dtype)
        for step in self.ladder:
            log_score = jax.vmap(lambda s: target.prior_and_score(s)[1])(slots)
            log_weights = jnp.where(log_score == -jnp.inf, -jnp.inf, (step - before) * log_score)
            before = step
            if step == 1.0:
                break
            mean = log_mean_exp(log_weights)
            alive = mean > -jnp.inf
            # A population that died goes on with weight zero, and no scheme is asked for ancestors without weights.
            collected = collected + jnp.where(alive, mean, -jnp.inf)
            safe = jnp.where(alive, log_weights, jnp.zeros_like(log_weights))
            (ancestors,) = bind_sample(Site(""), scheme(self.scheme)(safe, self.num_chains))
            start = jax.tree.map(lambda x, a=ancestors: x[a], slots)
            level = Tempered(target, jnp.asarray(step, dtype))
            slots = self._chains(level, start)
        particles = jax.vmap(target.result_of)(slots)
        return Population(particles, log_weights, collected, {})

    def _chains(self, level: Tempered, start: Any) -> Any:
        """All states of one chain from each start, the start included: leading axis chains x length."""

        def move(state: Trace, _: Any) -> tuple[Trace, Any]:
            new = each(self.num_chains, lambda st: self.kernel.step(level, st)[0], state)
            return new, new.slots

        first = jax.vmap(level.replay)(start)
        _, rest = jax.lax.scan(move, first, None, length=self.length - 1)
        stacked = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, rest)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), stacked)


def each(num: int, function: Any, *args: Any) -> Any:
    """Emit a function with statements for `num` lanes side by side; arguments have a leading axis of lanes."""
    leaves, structure = jax.tree.flatten(args)
    one = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in leaves]
    closed, shapes = jax.make_jaxpr(lambda *xs: function(*jax.tree.unflatten(structure, xs)), return_shape=True)(*one)
    zero = State(jnp.zeros(num, jnp.result_type(float)), jnp.zeros((), jnp.result_type(float)))
    outs, _ = population_frame(closed, [Many(x) for x in leaves], zero, num, Resampling(threshold=0.0))
    return jax.tree.unflatten(jax.tree.structure(shapes), outs)


def waste_free(
    program: Program,
    exponents: Sequence[float],
    kernel: Kernel,
    *,
    num_chains: int,
    length: int,
    resample: str = "systematic",
    values: Sequence[str] = (),
    randomness: Randomness | None = None,
) -> Program:
    """Waste-free SMC (Dau & Chopin 2022) along a fixed tempering ladder. Claim: unbiased.

    At each step `num_chains` particles are resampled out of `num_chains * length`, and each starts a chain whose
    `length` states are all kept as particles.

    Args:
        program: any program.
        exponents: rise from above 0 to 1, fixed in advance.
        kernel: invariant.
        num_chains: resampled particles.
        length: states of each chain, the start included.
        resample: scheme.
        values: sites that hold values.
        randomness: keys by default.

    Returns:
        A program that returns a `Population` of `num_chains * length` particles.
    """
    ladder = check_ladder(exponents)
    check_move(kernel)
    for name, value in (("num_chains", num_chains), ("length", length)):
        if int(value) < 1:
            raise ArgumentError(f"{name}: expected at least 1, found {value}.")
    target = Traced(program, values=values, randomness=randomness)
    function = _WasteFree(target, ladder, kernel, int(num_chains), int(length), resample)
    name = f"waste_free({program.name}, {num_chains} x {length}, {np.size(exponents)} steps)"
    return Program(name, function, Arguments.split((program.operands,), {}))
