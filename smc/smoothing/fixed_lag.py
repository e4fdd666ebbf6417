"""Smoothing with observations up to a fixed lag: from a history, or in the filter's own pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from probinf.arguments import positive_integer
from probinf.claims import Claim
from probinf.errors import ArgumentTypeError
from probinf.random import as_key
from probinf.transformations.resampling import effective_sample_size
from smc.filtering import History, WeightedRows
from smc.proposals import Proposal
from smc.rider import Rider
from smc.smoothing.method import Draws, SmoothingMethod, always, take_particles
from smc.smoothing.one_pass import filter_along
from smc.state_space_model import StateSpaceModel


class FixedLag(SmoothingMethod):
    """Each state given the observations until `lag` steps later (Kitagawa & Sato 2001; Olsson et al. 2008). O(T N lag).

    The family tree is followed back for `lag` steps only, before the paths have coalesced. Claim: approximate. The
    estimates converge to the moments given y_0, ..., y_{t+lag}, not given all observations; the difference is of the
    order of the chain's forgetting over `lag` steps and does not go away with more particles. The marginals are those
    of single times; they are not paths.

    Args:
        lag: number of later observations taken into account.
    """

    claim: ClassVar[Claim] = Claim.APPROXIMATE
    lag: int = eqx.field(static=True)

    def __init__(self, lag: int = 20) -> None:
        self.lag = positive_integer("lag", lag)

    def draw(self, model: StateSpaceModel, ys: Array, history: History, key: Array) -> Draws:
        steps, num = history.log_weights.shape
        times = jnp.arange(steps)
        start = jnp.minimum(times + self.lag, steps - 1)
        index = jnp.broadcast_to(jnp.arange(num, dtype=history.ancestors.dtype), (steps, num))

        def back(index: Array, k: Array) -> tuple[Array, None]:
            """All times go one step back together, those that have arrived wait."""
            at = start - k
            parents = jax.vmap(lambda ancestors, i: ancestors[i])(history.ancestors[jnp.maximum(at, 0)], index)
            return jnp.where((at > times)[:, None], parents, index), None

        indices, _ = jax.lax.scan(back, index, jnp.arange(min(self.lag, steps - 1)))
        log_weights = history.log_weights[start]
        return Draws(take_particles(history, indices), log_weights, indices, False, None, always(steps))


class Lagged(eqx.Module):
    """States given the observations until `lag` steps later, without the particles behind them.

    Attributes:
        mean: (T, *state) means.
        variance: (T, *state) variances.
        expectation: (T, *value) of the function that was given, or None.
        log_evidence: scalar, the filter's estimate of log p(y_0, ..., y_{T-1}), nats.
        ess: (T,) effective sample sizes of the weights.
        distinct: (T,) number of different particles with positive weight. Where it is small the lag is long for this
            number of particles, and the estimate rests on few draws.
        claim: approximate.
    """

    mean: Array
    variance: Array
    expectation: Array | None
    log_evidence: Array
    ess: Array
    distinct: Array
    claim: Claim = eqx.field(static=True, default=Claim.APPROXIMATE)


def smooth_fixed_lag(
    model: StateSpaceModel,
    ys: Any,
    key: Any = 0,
    *,
    lag: int = 20,
    function: Callable[[Any], Any] | None = None,
    num_particles: int = 1000,
    proposal: Proposal | None = None,
    resample: str = "systematic",
    threshold: float = 0.5,
) -> Lagged:
    """`FixedLag` in the filter's own pass, for long series: memory O(N lag) besides the answers, time O(T N lag).

    Every particle carries its last `lag` ancestors along. The answers are those of
    `smooth(..., method=FixedLag(lag))` with the same key, whose claim is approximate.

    Args:
        model: the model.
        ys: observations, (T, *observation).
        key: key or integer seed.
        lag: number of later observations taken into account.
        function: a function of one state to an array, whose expectations are wanted.
        num_particles: N.
        proposal: `Bootstrap()` by default; `Guided`, `Linearised`.
        resample: name of a resampling scheme.
        threshold: the filter resamples when its effective sample size is at most this fraction of N.

    Raises:
        ArgumentError, ArgumentTypeError: an argument is out of range; it is named.
        InferenceError: the filter lost all particles; the time is named.

    References:
        Kitagawa & Sato (2001); Olsson, Cappé, Douc & Moulines (2008), Bernoulli 14.
    """
    if function is not None and not callable(function):
        raise ArgumentTypeError(f"function: expected a function of a state, found {type(function).__name__}.")
    window = positive_integer("lag", lag)
    k_filter, _ = jax.random.split(as_key(key, argument="key"))
    rider = _Window(window, function)
    run, ride, found = filter_along(
        rider, "smooth_fixed_lag", model, ys, k_filter, num_particles, proposal, resample, threshold
    )
    mean, variance, ess, distinct, expectation = _closed(rider, ride, found, run.log_weights)
    return Lagged(mean, variance, expectation, run.log_evidence, ess, distinct)


class _Window(Rider):
    """The last `lag` + 1 ancestors of every particle: states (lag + 1, N, *state) and indices, in a ring over time."""

    lag: int = eqx.field(static=True)
    function: Callable[[Any], Any] | None = eqx.field(static=True)

    def start(self, model: Any, first: WeightedRows) -> tuple[Any, Any]:
        num = first.log_weights.shape[0]
        states = jnp.broadcast_to(first.x, (self.lag + 1, *first.x.shape))
        indices = jnp.broadcast_to(jnp.arange(num, dtype=jnp.int32), (self.lag + 1, num))
        return (states, indices), self.estimates(first.x, indices[0], first.log_weights)

    def step(
        self, model: Any, t: Any, state: Any, before: WeightedRows, ancestors: Array, after: WeightedRows
    ) -> tuple[Any, Any]:
        index = jnp.arange(ancestors.shape[0], dtype=jnp.int32)
        states, indices = jax.lax.cond(
            jnp.any(ancestors != index),
            lambda rows: jax.tree.map(lambda a: jnp.take(a, ancestors, axis=1, mode="clip"), rows),
            lambda rows: rows,
            state,
        )
        at = t % (self.lag + 1)
        states, indices = states.at[at].set(after.x), indices.at[at].set(index)
        oldest = (t + 1) % (self.lag + 1)  # of time t - lag, once there is one
        return (states, indices), self.estimates(states[oldest], indices[oldest], after.log_weights)

    def estimates(self, x: Array, indices: Array, log_weights: Array) -> tuple:
        """Mean, variance, effective sample size, number of different particles, expectation; of one time."""
        weights = jax.nn.softmax(log_weights)
        values = x.astype(weights.dtype)
        mean = jnp.tensordot(weights, values, axes=1)
        variance = jnp.tensordot(weights, (values - mean[None]) ** 2, axes=1)
        distinct = jnp.sum(jnp.zeros(weights.shape, bool).at[indices].max(weights > 0), dtype=jnp.int32)
        expectation = None
        if self.function is not None:
            found = jax.vmap(self.function)(x)
            expectation = jnp.tensordot(weights, found.astype(weights.dtype), axes=1)
        return mean, variance, effective_sample_size(log_weights), distinct, expectation


@eqx.filter_jit
def _closed(rider: _Window, ride: tuple[Array, Array], found: tuple, log_weights: Array) -> tuple:
    """The estimates of all times in order: those that left the window, and those in it at the end."""
    states, indices = ride
    last = found[0].shape[0] - 1
    left = max(last - rider.lag, 0)  # times whose estimate is in `found`; that of time 0 was made at t = lag
    slots = (jnp.arange(left, last + 1) % (rider.lag + 1)).astype(jnp.int32)
    held = jax.lax.map(lambda slot: rider.estimates(states[slot], indices[slot], log_weights), slots)
    return jax.tree.map(lambda a, b: jnp.concatenate([a[rider.lag : rider.lag + left], b]), found, held)
