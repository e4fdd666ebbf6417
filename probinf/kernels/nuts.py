"""The No-U-Turn sampler for several chains: BlackJAX's kernel in whitened coordinates, compiled once per model.

One compiled program advances a chain by up to `capacity` steps, in warm-up and in sampling alike; how many steps, and
whether they adapt, are arguments. A host loop calls it. Randomness of step n is `fold_in(chain key, n)`: the draws do
not depend on how the run is cut into pieces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probinf.kernels.adaptation import (
    Metric,
    Moments,
    StepSizeState,
    apply_scale,
    restart_step_size,
    scale_from_moments,
    solve_scale,
    start_moments,
    start_step_size,
    update_moments,
    update_step_size,
)
from probinf.kernels.banded import BandedScale

_MOMENTUM_BLOCK = 128

LogDensity = Callable[[Any, Float[Array, " dim"]], Float[Array, ""]]


class Geometry(NamedTuple):
    """Coordinates shared by all chains: x = shift + scale z. The scale is empty unless the metric is fixed."""

    shift: Float[Array, " dim"]
    scale: BandedScale | Float[Array, ...]


class ChainState(NamedTuple):
    """One chain: where it is in whitened coordinates, and what it has learned."""

    z: Float[Array, " dim"]
    logdensity: Float[Array, ""]
    gradient: Float[Array, " dim"]
    scale: Float[Array, ...]
    step_size: StepSizeState
    moments: Moments


class Draws(NamedTuple):
    """What a chain leaves behind at each step. Leading axes: (steps, ...), or (chains, steps, ...) once gathered."""

    x: Array
    lp: Array
    energy: Array
    acceptance_rate: Array
    diverging: Array
    tree_depth: Array
    n_steps: Array
    step_size: Array


def _whiten(
    logdensity: LogDensity, operands: Any, shift: Array, scale: BandedScale | Array
) -> Callable[[Array], Array]:
    return lambda z: logdensity(operands, shift + apply_scale(scale, z))


def unit_metric() -> Any:
    """BlackJAX's description of a standard normal momentum, for positions that are vectors.

    Momenta of many dimensions are drawn in blocks: XLA would spread one long draw over threads, which costs more than
    it gains and which native code cannot do.
    """
    from blackjax.mcmc.metrics import Metric as KernelMetric

    def sample_momentum(key: Array, position: Array) -> Array:
        dim = position.shape[0]
        if dim <= _MOMENTUM_BLOCK:
            return jax.random.normal(key, (dim,), position.dtype)
        keys = jax.random.split(key, -(-dim // _MOMENTUM_BLOCK))
        blocks = jax.lax.map(lambda key: jax.random.normal(key, (_MOMENTUM_BLOCK,), position.dtype), keys)
        return blocks.reshape(-1)[:dim]

    def kinetic_energy(momentum: Array, position: Array | None = None) -> Array:
        del position
        return 0.5 * jnp.dot(momentum, momentum)

    def is_turning(
        left: Array, right: Array, total: Array, position_left: Array | None = None, position_right: Array | None = None
    ) -> Array:
        del position_left, position_right
        rho = total - 0.5 * (left + right)
        return (jnp.dot(left, rho) <= 0.0) | (jnp.dot(right, rho) <= 0.0)

    def scale(position: Array, element: Array, *, inv: bool, trans: bool) -> Array:
        del position, inv, trans
        return element

    parts: tuple[Any, ...] = (sample_momentum, kinetic_energy, is_turning, scale)
    return KernelMetric(*parts)


def start_chain(
    logdensity: LogDensity, metric: Metric, operands: Any, geometry: Geometry, z: Float[Array, " dim"]
) -> ChainState:
    """A chain at z that has learned nothing, its scale 1 unless the metric is fixed."""
    dim, dtype = z.shape[0], z.dtype
    shapes = {"diagonal": jnp.ones(dim, dtype), "dense": jnp.eye(dim, dtype=dtype), "fixed": jnp.zeros(0, dtype)}
    scale = geometry.scale if metric == "fixed" else shapes[metric]
    value, gradient = jax.value_and_grad(_whiten(logdensity, operands, geometry.shift, scale))(z)
    step_size = start_step_size(jnp.ones((), dtype))
    return ChainState(z, value, gradient, shapes[metric], step_size, start_moments(dim, dtype, metric))


def renew_scale(
    logdensity: LogDensity, metric: Metric, operands: Any, geometry: Geometry, state: ChainState
) -> ChainState:
    """End a warm-up window: new scale, same position, fresh moments, step size adapted anew."""
    scale = scale_from_moments(state.moments, state.scale)
    z = solve_scale(scale, apply_scale(state.scale, state.z))
    value, gradient = jax.value_and_grad(_whiten(logdensity, operands, geometry.shift, scale))(z)
    moments = start_moments(z.shape[0], z.dtype, metric)
    return ChainState(z, value, gradient, scale, restart_step_size(state.step_size), moments)


def advance_chain(
    logdensity: LogDensity,
    metric: Metric,
    max_tree_depth: int,
    capacity: int,
    operands: Any,
    geometry: Geometry,
    target_acceptance: Float[Array, ""],
    first_step: Array,
    num_steps: Array,
    is_adapting: Array,
    is_collecting: Array,
    state: ChainState,
    key: Array,
) -> tuple[ChainState, Draws]:
    """Advance one chain by `num_steps` <= `capacity` steps.

    Args:
        logdensity: function of (operands, x), in nats.
        metric: how the scale is found.
        max_tree_depth: at most 2**max_tree_depth - 1 gradients a step.
        capacity: length of the returned arrays; rows from `num_steps` on are zero.
        operands: data of the model.
        geometry: the shared coordinates.
        target_acceptance: aim of the step size adaptation.
        first_step: number of the first step since the start of the chain; it selects the randomness.
        num_steps: how many steps to take.
        is_adapting: adapt the step size.
        is_collecting: add the positions to the moments.
        state: the chain.
        key: key of the chain, the same in every call.
    """
    import blackjax

    new_hmc_state: Any = blackjax.mcmc.hmc.HMCState
    kernel, metric_of_kernel = blackjax.nuts.build_kernel(), unit_metric()
    dim, dtype = state.z.shape[0], state.z.dtype
    scale = geometry.scale if metric == "fixed" else state.scale
    whitened = _whiten(logdensity, operands, geometry.shift, scale)

    def body(n: Array, carry: tuple[ChainState, Draws]) -> tuple[ChainState, Draws]:
        state, draws = carry
        adapted = state.step_size
        step_size = jnp.exp(jnp.where(is_adapting, adapted.log_step_size, adapted.log_step_size_average))
        hmc_state = new_hmc_state(state.z, state.logdensity, state.gradient)
        step_key = jax.random.fold_in(key, first_step + n)
        new, info = kernel(step_key, hmc_state, whitened, step_size, metric_of_kernel, max_tree_depth)
        x = geometry.shift + apply_scale(scale, new.position)
        adapted = jax.lax.cond(
            is_adapting, lambda: update_step_size(adapted, info.acceptance_rate, target_acceptance), lambda: adapted
        )
        moments = state.moments
        if metric != "fixed":
            # Gradients in x exist for a diagonal scale only; a dense one does not use them.
            gradient = new.logdensity_grad / scale if metric == "diagonal" else new.logdensity_grad
            moments = jax.lax.cond(is_collecting, lambda: update_moments(moments, x, gradient), lambda: moments)
        row = Draws(
            x,
            new.logdensity,
            info.energy,
            info.acceptance_rate,
            info.is_divergent,
            info.num_trajectory_expansions,
            info.num_integration_steps,
            step_size,
        )
        draws = jax.tree.map(
            lambda rows, value: jax.lax.dynamic_update_index_in_dim(rows, value.astype(rows.dtype), n, 0), draws, row
        )
        state = ChainState(new.position, new.logdensity, new.logdensity_grad, state.scale, adapted, moments)
        return state, draws

    scalars = [jnp.zeros(capacity, kind) for kind in (dtype, dtype, dtype, bool, jnp.int32, jnp.int32, dtype)]
    return jax.lax.fori_loop(0, num_steps, body, (state, Draws(jnp.zeros((capacity, dim), dtype), *scalars)))
