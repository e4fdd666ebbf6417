"""Powers of a likelihood as weights, and the next power by effective sample size: the arithmetic of tempering."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probinf.transformations.resampling import effective_sample_size

_BISECTIONS = 80


def powers(log_likelihood: Array, step: Array) -> Array:
    """Log weights `step * log_likelihood` up to a constant; particles of likelihood zero stay dead for any step."""
    top = jnp.max(log_likelihood)
    dead = log_likelihood == -jnp.inf
    gap = jnp.where(dead, 0, log_likelihood - jnp.where(jnp.isfinite(top), top, 0))
    return jnp.where(dead, -jnp.inf, step * gap)


def next_inverse_temperature(
    log_likelihood: Float[Array, " particles"],
    inverse_temperature: Array,
    threshold: Any,
    base: Float[Array, " particles"] | None = None,
    goal: Array | None = None,
) -> tuple[Array, Array]:
    """The inverse temperature at which the effective sample size has fallen to a share of the living particles.

    The effective sample size of L^δ falls monotonically from the number of particles with L > 0, so the step δ is found
    by bisection, on the scale of log δ: first steps may be as small as 1e-300, and the ESS must be right there too.

    Args:
        log_likelihood: (N,) nats.
        inverse_temperature: the present one.
        threshold: the share, in (0, 1).
        base: (N,) log weights at the present inverse temperature; all equal by default.
        goal: effective sample size to reach instead of threshold times the living particles.

    Returns:
        The next inverse temperature (exactly 1 where it can be reached) and the effective sample size there.
    """
    dtype = log_likelihood.dtype
    wanted = threshold * jnp.sum((log_likelihood > -jnp.inf).astype(dtype)) if goal is None else goal

    def ess(log_step: Array) -> Array:
        log_weights = powers(log_likelihood, jnp.exp(log_step))
        return effective_sample_size(log_weights if base is None else log_weights + base)

    end = jnp.log1p(-inverse_temperature)
    low, high = jnp.log(jnp.asarray(jnp.finfo(dtype).tiny, dtype)), end

    def halve(_: Any, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = 0.5 * (low + high)
        enough = ess(middle) >= wanted
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    low, _ = jax.lax.fori_loop(0, _BISECTIONS, halve, (jnp.minimum(low, high), high))
    reached = ess(end) >= wanted
    new = jnp.where(reached, jnp.ones_like(inverse_temperature), inverse_temperature + jnp.exp(low))
    return new, ess(jnp.where(reached, end, low))
