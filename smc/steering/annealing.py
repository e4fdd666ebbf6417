"""Temperatures for resampling: flatter weights keep particles alive that an overconfident judge would kill."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probinf.errors import ArgumentError, UnknownNameError

Scalar = Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class EntropicAnnealing:
    r"""The schedules of the entropic particle filter (Giannone et al. 2026, arXiv 2510.05825).

    With s = t / max_steps and e the effective sample size over N:

    - "ess": $\tau_t = \max(1, (1 - s) / e)$ while e < threshold and s < early, else 1; the published default;
    - "entropy": $\tau_t = \max(1, 1 / (h + (1 - h) s))$, $h = -\sum_i w_i \log w_i / \log N$;
    - "base": $\tau_t = \max(1, 2 - s)$.

    Raises:
        UnknownNameError: no such method.
        ArgumentError: a threshold or an early phase outside [0, 1].
    """

    method: str = "ess"
    threshold: float = 0.5
    early: float = 0.5

    def __post_init__(self) -> None:
        if self.method not in ("ess", "entropy", "base"):
            raise UnknownNameError(self.method, ("ess", "entropy", "base"), "method", "EntropicAnnealing")
        for name in ("threshold", "early"):
            if not 0 <= getattr(self, name) <= 1:
                raise ArgumentError(f"{name}: expected a share between 0 and 1, found {getattr(self, name)!r}.")

    def __call__(self, log_weights: Float[Array, " particles"], share: Scalar) -> Scalar:
        """The temperature for normalised log weights (N,) after a share of the steps."""
        num = log_weights.shape[0]
        if self.method == "base":
            return jnp.maximum(2 - share, 1)
        if self.method == "entropy":
            if num == 1:
                return jnp.ones_like(share)
            finite = jnp.where(log_weights > -jnp.inf, log_weights, 0)
            evenness = -jnp.sum(jnp.exp(log_weights) * finite) / jnp.log(jnp.asarray(num, share.dtype))
            return jnp.maximum(1 / (evenness + (1 - evenness) * share), 1)
        ess = relative_ess(log_weights)
        return jnp.where((ess < self.threshold) & (share < self.early), jnp.maximum((1 - share) / ess, 1), 1)


@dataclasses.dataclass(frozen=True)
class FloorAnnealing:
    r"""The lowest temperature at which resampling keeps an effective sample size of `floor` times N.

    $\tau = \min\{\tau \ge 1 : \mathrm{ESS}(w^{1/\tau}) \ge \text{floor} \cdot N\}$, by 40 halvings of 1 / tau. It acts
    at any step and whatever the shape of the weights, which a schedule in closed form does not. With dead particles
    the floor counts the live ones.

    Raises:
        ArgumentError: a floor outside [0, 1).
    """

    floor: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.floor < 1:
            raise ArgumentError(f"floor: expected a share of at least 0 and below 1, found {self.floor!r}.")

    def __call__(self, log_weights: Float[Array, " particles"], share: Scalar) -> Scalar:
        """The temperature for normalised log weights (N,); the share of the steps plays no part."""
        alive = jnp.mean((log_weights > -jnp.inf).astype(log_weights.dtype))
        goal = self.floor * alive

        def enough(power: Array) -> Array:
            powered = jnp.where(log_weights > -jnp.inf, power * log_weights, -jnp.inf)
            return relative_ess(powered - jax.nn.logsumexp(powered)) >= goal

        def halve(_: Any, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bounds
            middle = (low + high) / 2
            good = enough(middle)
            return jnp.where(good, middle, low), jnp.where(good, high, middle)

        one = jnp.ones_like(share)
        # Never 0: the ESS of equal weights may be a rounding error below the goal.
        low, _ = jax.lax.fori_loop(0, 40, halve, (one * 1e-6, one))
        return jnp.where(enough(one), 1, 1 / low)


def relative_ess(log_weights: Float[Array, " particles"]) -> Scalar:
    """Effective sample size over N, between 1 / N and 1, of normalised log weights."""
    return jnp.exp(-jax.nn.logsumexp(2 * log_weights)) / log_weights.shape[0]
