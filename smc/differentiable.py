r"""The log evidence of a bootstrap filter as a function that can be differentiated and climbed.

Ordinary resampling cuts the gradient: the ancestors' indices have none, and the weights are forgotten. Two ways out:

- `"stop_gradient"`: the ancestor keeps its normalised weight over the same number without gradient, which is 1
  (Ścibior & Wood 2021). The values are those of the ordinary filter. Seen as a function of the parameters with the
  ancestors fixed, the evidence estimate stays unbiased for every value near by, hence Z-hat times the gradient of
  log Z-hat is *unbiased* for the gradient of Z, for every resampling scheme; the gradient of log Z-hat is *consistent*.
  Its variance grows with the square of the number of steps.
- `"transport"`: particles are moved instead of chosen (`optimal_transport`). Little variance, but biased for fixed
  epsilon: *approximate*.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from probinf.claims import Claim
from probinf.errors import ArgumentError
from probinf.random import as_key
from probinf.transformations.population import log_mean_exp
from probinf.transformations.resampling import effective_sample_size, scheme
from smc.optimal_transport import CLAIM, transport

Step = Callable[[jax.Array, Any, Any], tuple[Any, jax.Array]]

#: What the gradient of the log evidence estimate is for the true one.
GRADIENT_CLAIMS = {"stop_gradient": Claim.CONSISTENT, "transport": CLAIM}


def without_its_value(log_weights: jax.Array) -> jax.Array:
    """Zeros with the gradient of the log weights: the weight of a chosen particle over itself; -inf counts as 0."""
    finite = jnp.where(jnp.isfinite(log_weights), log_weights, 0)
    return finite - jax.lax.stop_gradient(finite)


def differentiable_log_evidence(
    step: Step,
    start: Any,
    ys: Any,
    key: Any,
    *,
    gradient: str = "stop_gradient",
    resample: str = "systematic",
    threshold: float = 0.5,
    epsilon: float = 0.1,
    num_iterations: int = 50,
) -> jax.Array:
    """Log evidence estimate of a bootstrap filter, differentiable in whatever `step` and `start` depend on.

    For an Optax loop compile a function of parameters and key:

        loss = lambda theta, key: -differentiable_log_evidence(partial(step, theta), start, ys, key)
        value, slope = jax.jit(jax.value_and_grad(loss))(theta, key)

    Args:
        step: `(key, particles, y) -> (particles, log_weights)` for the whole population: moves all particles by
            differentiable functions of noise and weighs them, (N,), nats. A draw that is not such a function adds
            `without_its_value(log density of the draw)` to its log weight.
        start: particles before the first step, a pytree of arrays (N, ...); floats for "transport".
        ys: pytree of measurements, stacked along time.
        key: an integer or a key.
        gradient: "stop_gradient" or "transport".
        resample: scheme of the former.
        threshold: resample when the effective sample size is at most this fraction; 1 always, 0 never.
        epsilon: of the transport.
        num_iterations: of the transport.

    Returns:
        Scalar, nats; exp of it is unbiased for the evidence with "stop_gradient".

    Raises:
        ArgumentError: no such gradient, or a threshold outside [0, 1].
        UnknownNameError: no such scheme.
    """
    if gradient not in GRADIENT_CLAIMS:
        raise ArgumentError(f"gradient: expected one of {', '.join(map(repr, GRADIENT_CLAIMS))}, found {gradient!r}.")
    if not 0 <= threshold <= 1:
        raise ArgumentError(f"threshold: expected a number from 0 to 1, found {threshold}.")
    law = scheme(resample)
    num = jax.tree.leaves(start)[0].shape[0]
    length = jax.tree.leaves(ys)[0].shape[0]

    def chosen(key: jax.Array, particles: Any, log_weights: jax.Array) -> tuple[Any, jax.Array]:
        ancestors = law(jax.lax.stop_gradient(log_weights), num).sample(key)
        relative = log_weights - log_mean_exp(log_weights)
        return jax.tree.map(lambda x: x[ancestors], particles), without_its_value(relative[ancestors])

    def moved(key: jax.Array, particles: Any, log_weights: jax.Array) -> tuple[Any, jax.Array]:
        del key
        new = transport(log_weights, particles, epsilon=epsilon, num_iterations=num_iterations)
        return new, jnp.zeros_like(log_weights)

    spread = chosen if gradient == "stop_gradient" else moved

    def advance(carry: tuple, inputs: tuple) -> tuple[tuple, None]:
        particles, log_weights, log_evidence = carry
        y, key = inputs
        key_step, key_resample = jax.random.split(key)
        particles, increments = step(key_step, particles, y)
        log_weights = log_weights + increments
        increment = log_mean_exp(log_weights)
        alive = increment > -jnp.inf
        ess = effective_sample_size(jax.lax.stop_gradient(log_weights))
        due = alive & (ess <= threshold * num) if threshold < 1 else alive
        particles, log_weights = jax.lax.cond(
            due, spread, lambda key, x, lw: (x, lw), key_resample, particles, log_weights
        )
        return (particles, log_weights, log_evidence + jnp.where(due, increment, jnp.zeros_like(increment))), None

    probe = jax.eval_shape(step, jax.random.key(0), start, jax.tree.map(lambda y: y[0], ys))
    if probe[1].shape != (num,):
        raise ArgumentError(f"step: expected log weights of shape ({num},), found {probe[1].shape}.")
    dtype = probe[1].dtype
    keys = jax.random.split(as_key(key, argument="key"), length)
    carry = (start, jnp.zeros(num, dtype), jnp.zeros((), dtype))
    (_, log_weights, log_evidence), _ = jax.lax.scan(advance, carry, (ys, keys))
    return log_evidence + log_mean_exp(log_weights)
