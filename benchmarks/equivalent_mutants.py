"""Automatic mutants that no check can kill because they mean the same, each with the reason.

A mutant is named by its module and the text of the change (`Change.identity`), so that the table outlives moved lines.
"""

from __future__ import annotations

# ruff: noqa: E501
# fmt: off
EQUIVALENT: dict[str, str] = {
    "kernels.trace_moves.propose: which = emit(dist.DiscreteUniform(0, total - 1)) if total > 1 else jnp.zeros((), jnp.int32) => which = emit(dist.DiscreteUniform(0, total - 1)) if (total >= 1) else jnp.zeros((), jnp.int32)": "of a single place the even choice is that place",
    "transformations.rejuvenation.__call__: trace, _ = jax.lax.scan(layer, start, jnp.arange(target.num_scores, dtype=jnp.int32)) => trace, _ = jax.lax.scan(layer, start, jnp.arange(target.num_scores))": "the same numbers in the default integer type",
    "kernels.trace_moves.step: sizes = {n: int(np.prod((*p.loops, *p.event), dtype=int)) for n, p in places.items()} => sizes = {n: int(np.prod((*p.loops, *p.event))) for n, p in places.items()}": "a product of integers is one, and the empty one is made an integer outside",
}
