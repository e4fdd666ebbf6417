"""One step of a population through a small program, for algorithms that meet their data one at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from probinf.language.evaluate import evaluate
from probinf.language.handlers import Forward
from probinf.transformations.population import Many, Resampling, State, population_frame


def advance_population(
    function: Callable[[Any], Any],
    particles: Any,
    log_weights: jax.Array,
    key: jax.Array,
    *,
    resampling: Resampling | None = None,
    resample_first: bool = False,
) -> tuple[Any, jax.Array, jax.Array]:
    """Run every particle through a function with statements.

    The function is staged for one particle and interpreted for all of them, exactly as a whole program is.

    Args:
        function: one particle to its result, drawing and scoring on the way.
        particles: pytree of arrays with a leading particle axis.
        log_weights: (N,), unnormalised, nats.
        key: for all draws of the step, ancestors included.
        resampling: the rule; never by default.
        resample_first: resample before the function runs instead of after its scores.

    Returns:
        Results, log weights, and the log evidence collected by resampling.
    """
    leaves, structure = jax.tree.flatten(particles)

    def emitted(log_weights: jax.Array, *rows: jax.Array) -> Any:
        return emit_population(
            function,
            jax.tree.unflatten(structure, rows),
            log_weights,
            resampling=resampling,
            resample_first=resample_first,
        )

    staged, result = jax.make_jaxpr(emitted, return_shape=True)(log_weights, *leaves)
    handler = Forward()
    flat, _, _ = evaluate(staged, [log_weights, *leaves], handler, handler.start(key), {})
    outs, log_weights, collected = jax.tree.unflatten(jax.tree.structure(result), flat)
    # Without a resampling the evidence is a literal of the program.
    return outs, log_weights, jax.numpy.asarray(collected)


def emit_population(
    function: Callable[[Any], Any],
    particles: Any,
    log_weights: jax.Array,
    *,
    resampling: Resampling | None = None,
    resample_first: bool = False,
) -> tuple[Any, jax.Array, jax.Array]:
    """`advance_population` as statements of the program being staged, whose randomness it then shares.

    Args:
        function: one particle to its result, drawing and scoring on the way.
        particles: pytree of arrays with a leading particle axis.
        log_weights: (N,), unnormalised, nats.
        resampling: the rule; never by default.
        resample_first: resample before the function runs instead of after its scores.

    Returns:
        Results, log weights, and the log evidence collected by resampling.
    """
    num = log_weights.shape[0]
    rule = resampling or Resampling(threshold=0.0)
    leaves, structure = jax.tree.flatten(particles)
    one = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in leaves]
    closed, shapes = jax.make_jaxpr(lambda *xs: function(jax.tree.unflatten(structure, xs)), return_shape=True)(*one)
    state = State(log_weights, jax.numpy.zeros((), log_weights.dtype))
    outs, state = population_frame(closed, [Many(r) for r in leaves], state, num, rule, resample_first=resample_first)
    return jax.tree.unflatten(jax.tree.structure(shapes), outs), state.log_weights, state.log_evidence
