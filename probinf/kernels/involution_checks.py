"""Run-time check of involutive kernels: what has to hold at every point, looked at where chains go."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf.errors import ArgumentTypeError, InferenceError, ModelError
from probinf.kernels.involutive import (
    Auxiliary,
    Involution,
    InvolutiveKernel,
    Position,
    continuous_part,
    log_det_of_live,
)
from probinf.kernels.kernel import Kernel
from probinf.kernels.running import with_key
from probinf.random import as_key


@dataclasses.dataclass(frozen=True)
class InvolutionReport:
    """What was found for one involutive kernel; errors are the largest over all moves that can be reversed.

    Attributes:
        name: the kernel's name.
        num_moves: moves looked at.
        num_impossible: moves whose reverse has probability zero; they are rejected.
        num_undefined: moves whose log ratio is NaN; they are rejected.
        involution_error: Phi(Phi(x)) against x, relative; infinite if a discrete value differs.
        antisymmetry_error: |log r + log r of the reverse|, nats.
        difference_error: log |det| by automatic differentiation against central differences, nats.
        given_error: the log |det| that was given against the automatic one, nats; None if none was given.
        num_mismatched: moves between points of different dimension.
    """

    name: str
    num_moves: int
    num_impossible: int
    num_undefined: int
    involution_error: float
    antisymmetry_error: float
    difference_error: float
    given_error: float | None
    num_mismatched: int

    def __str__(self) -> str:
        given = "-" if self.given_error is None else f"{self.given_error:.1e}"
        return (
            f"{self.name}: {self.num_moves} moves, {self.num_impossible} without reverse, {self.num_undefined} "
            f"undefined, {self.num_mismatched} of unequal dimension; involution {self.involution_error:.1e}, "
            f"antisymmetry {self.antisymmetry_error:.1e} nats, Jacobian against differences "
            f"{self.difference_error:.1e}, given Jacobian {given}"
        )


def check_involution(
    kernel: Kernel, target: Any, states: Position, *, seed: Any = 0, num_draws: int = 8, tolerance: float | None = None
) -> tuple[InvolutionReport, ...]:
    """Check every involutive kernel in a kernel: involution, antisymmetry, Jacobian, dimensions.

    Args:
        kernel: involutive, or composed of such kernels; other parts are passed over.
        target: what the kernel moves in.
        states: pytree of positions stacked along a leading axis, as a chain visits them.
        seed: integer or key, for the auxiliary draws.
        num_draws: moves from each state.
        tolerance: for errors that are rounding (relative, or nats); 1e-8 with 64-bit floats and 1e-3 otherwise. Finite
            differences get 1e-5 and 5e-2.

    Returns:
        One report per involutive kernel, in order.

    Raises:
        ArgumentTypeError: there is no involutive kernel in it.
        InferenceError: a state has density zero.
        ModelError: a check fails; the message holds the kernel, what was found and what was expected.
    """
    found = list(_involutive(kernel))
    if not found:
        raise ArgumentTypeError(f"kernel: expected an involutive kernel or one composed of them, found {kernel!r}.")
    weights = np.asarray(jax.vmap(lambda x: target.replay(x).log_weight)(states))
    if not (weights > -np.inf).all():
        worst = int(np.flatnonzero(~(weights > -np.inf))[0])
        raise InferenceError(
            f"states: state {worst} has log density {weights[worst]}; checks start where chains can be."
        )
    is_wide = jnp.result_type(float) == jnp.float64
    tolerance = (1e-8 if is_wide else 1e-3) if tolerance is None else tolerance
    reports = []
    for key, part in zip(jax.random.split(as_key(seed), len(found)), found, strict=True):
        report = _look(part, target, states, key, num_draws)
        _judge(report, tolerance, 1e-5 if is_wide else 5e-2)
        reports.append(report)
    return tuple(reports)


def _involutive(kernel: Kernel) -> Iterator[InvolutiveKernel]:
    if isinstance(kernel, InvolutiveKernel):
        yield kernel
    for part in kernel.parts:
        yield from _involutive(part)


def _look(kernel: InvolutiveKernel, target: Any, states: Position, key: jax.Array, num_draws: int) -> InvolutionReport:
    move = kernel.move
    assert move is not None
    num_states = jax.tree.leaves(states)[0].shape[0]
    keys = jax.random.split(key, (num_states, num_draws))

    def one(key: jax.Array, position: Position) -> dict[str, jax.Array]:
        return _facts(move, target, position, with_key(move.propose, key, position))

    facts = jax.jit(jax.vmap(jax.vmap(one, (0, None)), (0, 0)))(keys, states)
    facts = {n: np.asarray(v).reshape(-1) for n, v in facts.items()}
    possible = ~facts["impossible"]
    reversible = possible & (facts["ratio"] > -np.inf)

    def worst(name: str, among: np.ndarray) -> float:
        return float(np.max(facts[name][among], initial=0.0))

    return InvolutionReport(
        kernel.name,
        num_states * num_draws,
        int(facts["impossible"].sum()),
        int((np.isnan(facts["ratio"]) & possible).sum()),
        worst("round_trip", possible),
        worst("antisymmetry", reversible),
        worst("difference", reversible),
        None if move.log_jacobian is None else worst("given", reversible),
        int((facts["mismatch"] & reversible).sum()),
    )


def _facts(move: Involution, target: Any, position: Position, values: Auxiliary) -> dict[str, jax.Array]:
    new, back = move.image(position, values)
    correction, impossible = move.log_correction(position, values, new, back)
    twice = move.image(new, back)
    correction_back, _ = move.log_correction(new, back, *twice)
    gain = target.replay(new).log_weight - target.replay(position).log_weight
    jacobian = move.jacobian(position, values)
    automatic = log_det_of_live(jacobian)
    dimensions = [move.num_drawn(x, v) for x, v in ((position, values), (new, back))]
    if move.dimension is not None:
        dimensions = [
            n + jnp.asarray(move.dimension(x), n.dtype) for n, x in zip(dimensions, (position, new), strict=True)
        ]
    live = [jnp.sum(jnp.any(jacobian != 0, axis=axis)) for axis in (0, 1)]
    return {
        "ratio": gain + correction,
        "impossible": impossible,
        "round_trip": _distance((position, values), twice),
        # The target's part cancels where the round trip closes, which is looked at above.
        "antisymmetry": _gap(correction, -correction_back),
        "difference": _gap(automatic, log_det_of_live(_differences(move, position, values))),
        "given": _gap(automatic, move.log_det(position, values)),
        "mismatch": (dimensions[0] != dimensions[1]) | (live[0] != live[1]),
    }


def _gap(a: jax.Array, b: jax.Array) -> jax.Array:
    gap = jnp.where(a == b, jnp.zeros_like(a), jnp.abs(a - b))
    return jnp.where(jnp.isnan(gap), jnp.inf, gap)


def _distance(old: Any, new: Any) -> jax.Array:
    """Largest relative distance of two points; infinite if a discrete leaf differs."""
    total = jnp.zeros((), jnp.result_type(float))
    for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
        if jnp.issubdtype(jnp.result_type(a), jnp.floating):
            gap = jnp.abs(a - b) / (1 + jnp.abs(a))
            gap = jnp.where(jnp.isnan(gap), jnp.inf, gap)
        else:
            gap = jnp.where(a == b, 0.0, jnp.inf)
        total = jnp.maximum(total, jnp.max(gap, initial=0.0).astype(total.dtype))
    return total


def _differences(move: Involution, position: Position, values: Auxiliary) -> jax.Array:
    """The Jacobian by central differences, steps relative to each coordinate."""
    point, rebuild = continuous_part((position, dict(values)))
    size = jnp.where(point == 0, jnp.ones_like(point), jnp.abs(point))
    steps = jnp.diag(size * jnp.cbrt(jnp.finfo(point.dtype).eps))

    def column(step: jax.Array) -> jax.Array:
        low, high = point - step, point + step
        gap = jnp.sum(high - low)
        ends = [continuous_part(move.image(*rebuild(x)))[0] for x in (low, high)]
        return (ends[1] - ends[0]) / gap

    return jax.vmap(column, out_axes=1)(steps)


def _judge(report: InvolutionReport, tolerance: float, difference_tolerance: float) -> None:
    checks = (
        (report.involution_error, tolerance, "Phi(Phi(x)) is not x", "relative error"),
        (float(report.num_mismatched), 0.0, "the dimensions on both sides differ", "moves"),
        (report.difference_error, difference_tolerance, "the Jacobian is not that of finite differences", "nats"),
        (report.given_error or 0.0, tolerance, "the log_jacobian given is not that of the involution", "nats"),
        (report.antisymmetry_error, tolerance, "log r of a move and of its reverse do not cancel", "nats"),
    )
    for found, allowed, what, unit in checks:
        if not found <= allowed:
            raise ModelError(
                f"Kernel {report.name!r}: {what}: found {found:.3g} {unit}, expected at most {allowed:g}. In full: "
                f"{report}"
            )
