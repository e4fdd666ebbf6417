r"""What a gradient sampler learns during warm-up: its step size and its coordinates.

The kernel moves in whitened coordinates z, with x = shift + scale z, under an identity metric. A scale of shape (dim,)
is a diagonal metric, one of shape (dim, dim) a dense one: inverse mass matrix = scale scaleᵀ. Compared with a metric
inside the kernel this costs two products with the scale for each gradient and none for each U-turn test.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probinf.kernels.banded import BandedScale, apply_banded

#: "diagonal" and "dense" learn the scale; "fixed" takes it as given and learns the step size only.
Metric = Literal["diagonal", "dense", "fixed"]

# Hoffman & Gelman (2014), section 3.2.1: the values that Stan, NumPyro and BlackJAX use.
_GAMMA, _T0, _KAPPA = 0.05, 10.0, 0.75
# After the coordinates change, a step that is too long costs one gradient and one that is too short a whole tree.
_SHORTEST_RESTART = 0.1


class StepSizeState(NamedTuple):
    """Dual averaging of the log step size; all scalars of the position's dtype."""

    log_step_size: Float[Array, ""]
    log_step_size_average: Float[Array, ""]
    num_updates: Float[Array, ""]
    mean_error: Float[Array, ""]
    anchor: Float[Array, ""]


def start_step_size(step_size: Float[Array, ""]) -> StepSizeState:
    """Dual averaging anchored at ten times `step_size`."""
    log_step = jnp.log(step_size)
    zero = jnp.zeros_like(log_step)
    return StepSizeState(log_step, log_step, zero, zero, log_step + float(np.log(10.0)))


def update_step_size(
    state: StepSizeState, acceptance_rate: Float[Array, ""], target: Float[Array, ""]
) -> StepSizeState:
    """One step of dual averaging towards E[acceptance rate] = target.

    References:
        Hoffman & Gelman (2014), The No-U-Turn Sampler, equation 6.
    """
    count = state.num_updates + 1.0
    weight = 1.0 / (count + _T0)
    # A proposal of energy NaN counts as refused.
    error = target - jnp.where(jnp.isfinite(acceptance_rate), acceptance_rate, 0.0)
    mean_error = (1.0 - weight) * state.mean_error + weight * error
    log_step = state.anchor - jnp.sqrt(count) / _GAMMA * mean_error
    decay = count ** (-_KAPPA)
    average = decay * log_step + (1.0 - decay) * state.log_step_size_average
    return StepSizeState(log_step, average, count, mean_error, state.anchor)


class Moments(NamedTuple):
    """Running means and centred second moments of positions and, for a diagonal metric, of gradients (Welford)."""

    num_points: Float[Array, ""]
    mean: Float[Array, " dim"]
    second: Float[Array, ...]
    mean_gradient: Float[Array, " dim"]
    second_gradient: Float[Array, " dim"]


def start_moments(dim: int, dtype: jnp.dtype, metric: Metric) -> Moments:
    """No observation yet. A fixed metric keeps empty arrays, so that the state costs nothing."""
    size = 0 if metric == "fixed" else dim
    zeros = jnp.zeros(size, dtype)
    second = jnp.zeros((size, size), dtype) if metric == "dense" else zeros
    return Moments(jnp.zeros((), dtype), zeros, second, zeros, zeros)


def update_moments(moments: Moments, x: Float[Array, " dim"], gradient: Float[Array, " dim"]) -> Moments:
    """Add one position and the gradient of the log density there."""
    count = moments.num_points + 1.0
    step = x - moments.mean
    mean = moments.mean + step / count
    outer = (x - mean)[:, None] * step[None, :] if moments.second.ndim == 2 else (x - mean) * step
    step_gradient = gradient - moments.mean_gradient
    mean_gradient = moments.mean_gradient + step_gradient / count
    second_gradient = moments.second_gradient + (gradient - mean_gradient) * step_gradient
    return Moments(count, mean, moments.second + outer, mean_gradient, second_gradient)


def update_moments_by_batch(
    moments: Moments, x: Float[Array, "points dim"], gradient: Float[Array, "points dim"]
) -> Moments:
    """Add many positions and gradients at once, for a diagonal metric.

    References:
        Chan, Golub & LeVeque (1983), Algorithms for Computing the Sample Variance, equation 2.1.
    """
    size = x.shape[0]
    count = moments.num_points + size
    share, cross = size / count, size * moments.num_points / count

    def joined(mean: Array, second: Array, values: Array) -> tuple[Array, Array]:
        centre = jnp.mean(values, axis=0)
        step = centre - mean
        inside = jnp.sum((values - centre[None, :]) ** 2, axis=0)
        return mean + share * step, second + inside + cross * step**2

    mean, second = joined(moments.mean, moments.second, x)
    mean_gradient, second_gradient = joined(moments.mean_gradient, moments.second_gradient, gradient)
    return Moments(count, mean, second, mean_gradient, second_gradient)


def scale_from_moments(moments: Moments, previous: Float[Array, ...]) -> Float[Array, ...]:
    r"""The scale learned from one window.

    Diagonal: variance_i = sqrt(Var[x_i] / Var[g_i]), g the gradient of the log density; it minimises the Fisher
    divergence between the whitened target and a standard normal, and needs fewer draws than Var[x_i] alone.
    Dense: Cholesky factor of the sample covariance, shrunk towards its own diagonal D:
    (n S + w D) / (n + w), with w = 0.005 where n > 2 dim and w = dim where the sample cannot carry dim² numbers.

    A coordinate that never moved, or a covariance that has no factor, keeps the previous scale.

    References:
        Seyboldt, Carlson & Carpenter (2026), Preconditioning Hamiltonian Monte Carlo by minimizing Fisher divergence.
    """
    freedom = jnp.maximum(moments.num_points - 1.0, 1.0)
    if previous.ndim == 1:
        variance = moments.second / freedom
        fisher = jnp.sqrt(variance / (moments.second_gradient / freedom))
        variance = jnp.where(jnp.isfinite(fisher) & (fisher > 0.0), fisher, variance)
        return jnp.where(jnp.isfinite(variance) & (variance > 0.0), jnp.sqrt(variance), previous)
    dim = previous.shape[0]
    covariance = moments.second / freedom
    weight = jnp.where(moments.num_points > 2.0 * dim, 0.005, float(dim)).astype(covariance.dtype)
    shrunk = (moments.num_points * covariance + weight * jnp.diag(jnp.diag(covariance))) / (moments.num_points + weight)
    factor = jnp.linalg.cholesky(shrunk)
    return jnp.where(jnp.all(jnp.isfinite(factor)), factor, previous)


def restart_step_size(state: StepSizeState) -> StepSizeState:
    """Begin dual averaging anew after the coordinates changed."""
    return start_step_size(jnp.maximum(jnp.exp(state.log_step_size_average), _SHORTEST_RESTART))


def apply_scale(scale: BandedScale | Float[Array, ...], z: Float[Array, " dim"]) -> Float[Array, " dim"]:
    """Scale z, for a diagonal, a dense or a banded scale."""
    if isinstance(scale, BandedScale):
        return apply_banded(scale, z)
    return scale * z if scale.ndim == 1 else scale @ z


def solve_scale(scale: Float[Array, ...], x: Float[Array, " dim"]) -> Float[Array, " dim"]:
    """The z with scale z = x; a dense scale is lower triangular here."""
    return x / scale if scale.ndim == 1 else jax.scipy.linalg.solve_triangular(scale, x, lower=True)


class Segment(NamedTuple):
    """A stretch of warm-up: its length, whether it feeds the moments, whether the scale is renewed at its end."""

    num_steps: int
    is_collecting: bool
    renews: bool


def warmup_segments(num_warmup: int, metric: Metric) -> list[Segment]:
    """Stan's schedule: 75 steps to arrive, windows of 25, 50, 100, ... that learn the scale, 50 for the step size.

    The last window is stretched to the end of the slow phase. Below 150 steps the three phases take 15, 75 and 10
    percent; below 20, or with a fixed metric, only the step size is adapted.

    References:
        Stan Reference Manual, "Automatic parameter tuning".
    """
    if metric == "fixed" or num_warmup < 20:
        return [Segment(num_warmup, False, False)] if num_warmup else []
    first, window, last = 75, 25, 50
    if first + window + last > num_warmup:
        first, last = int(0.15 * num_warmup), int(0.1 * num_warmup)
        window = num_warmup - first - last
    segments = [Segment(first, False, False)]
    left = num_warmup - first - last
    while left > 0:
        size = left if left < 3 * window else window
        segments.append(Segment(size, True, True))
        left -= size
        window *= 2
    return [*segments, Segment(last, False, False)]
