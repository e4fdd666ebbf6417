"""Smoothing of additive functionals in the filter's own pass: PaRIS, and the exact sum over all pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from probinf.arguments import positive_integer
from probinf.claims import Claim
from probinf.errors import ArgumentError, ArgumentTypeError
from probinf.random import as_key
from smc.filtering import WeightedRows
from smc.proposals import Proposal
from smc.rider import Rider
from smc.smoothing.backward_weights import over_blocks
from smc.smoothing.one_pass import filter_along
from smc.smoothing.rejection import checked_bound, log_bound, rejection_indices
from smc.smoothing.smooth import check_draws
from smc.state_space_model import StateSpaceModel


class AdditiveSmoothing(eqx.Module):
    """Smoothed expectations of a sum over time, as observations come in.

    Attributes:
        mean: (T, *value), estimates of E[S_t | y_0, ..., y_t]; the last one is given all observations.
        log_evidence: scalar, the filter's estimate of log p(y_0, ..., y_{T-1}), nats.
        ess: (T,) effective sample sizes of the filtering weights.
        acceptance: (T - 1,) share of accepted tries of the backward draws, or None where nothing is drawn.
        claim: unbiased: the evidence estimate times `mean[t]`, both up to t.
    """

    mean: Array
    log_evidence: Array
    ess: Array
    acceptance: Array | None
    claim: Claim = eqx.field(static=True, default=Claim.UNBIASED)


def smooth_additive(
    model: StateSpaceModel,
    ys: Any,
    function: Callable[[Any, Any, Any], Any],
    key: Any = 0,
    *,
    first: Callable[[Any], Any] | None = None,
    num_draws: int | None = 2,
    num_particles: int = 1000,
    proposal: Proposal | None = None,
    resample: str = "systematic",
    threshold: float = 0.5,
    bound: float | Callable[..., Any] | None = None,
    max_tries: int | None = None,
) -> AdditiveSmoothing:
    r"""Smoothed expectations of $S_t = s_0(x_0) + \sum_{r=1}^{t} s(r, x_{r-1}, x_r)$ for every t, in one pass.

    Each particle carries an estimate of $E[S_t \mid x_t, y_{0:t-1}]$; at each step it becomes the average over M
    predecessors, drawn by the backward law, of theirs plus the new term (PaRIS). With M = 1 the estimates coalesce as
    paths do and their variance grows with T^2; from M = 2 on it grows with T. Memory O(N), whatever T; time O(T N M)
    where the bound is tight. With `num_draws=None` the average is over all N particles by weight, O(T N^2), without
    the noise of drawing (forward smoothing).

    Sufficient statistics of parameters are such sums::

        found = smc.smooth_additive(model, ys, lambda t, before, x: jnp.stack([before**2, before * x]), key=1)
        found.mean[-1]  # sums over all t of E[x_{t-1}^2 | y] and E[x_{t-1} x_t | y]

    Claim: unbiased (evidence estimate times smoothing estimate), for every number of particles and draws.

    Args:
        model: the model; its transition needs a density.
        ys: observations, (T, *observation).
        function: s: (t, x_{t-1}, x_t) to an array; t is a traced integer, at least 1.
        key: key or integer seed.
        first: s_0: x_0 to an array of the same shape; zero by default.
        num_draws: M predecessors for each particle and step; None for all N.
        num_particles: N.
        proposal: `Bootstrap()` by default; `Guided`, `Linearised`.
        resample: name of a resampling scheme.
        threshold: the filter resamples when its effective sample size is at most this fraction of N.
        bound: log of an upper bound on p(x_t | x_{t-1}), as in `BackwardSampling(rule="rejection")`.
        max_tries: tries before a predecessor is drawn among all particles by weight; N by default.

    Raises:
        ArgumentError, ArgumentTypeError: an argument is out of range; it is named.
        InferenceError: the filter lost all particles, a state has no possible predecessor, or the stated bound of the
            transition density is not one.

    References:
        Olsson & Westerborn (2017), Bernoulli 23, Algorithm 2 (PaRIS); Del Moral, Doucet & Singh (2010), forward
        smoothing; Dau & Chopin (2023) for the limit on tries.
    """
    for name, value in (("function", function), ("first", first)):
        if not callable(value) and not (value is None and name == "first"):
            raise ArgumentTypeError(f"{name}: expected a function, found {type(value).__name__}.")
    draws = None if num_draws is None else positive_integer("num_draws", num_draws)
    tries = None if max_tries is None else positive_integer("max_tries", max_tries)
    if draws is None and not (bound is None and tries is None):
        raise ArgumentError("bound, max_tries: belong to backward draws, found num_draws=None, which draws nothing.")
    k_filter, k_smooth = jax.random.split(as_key(key, argument="key"))
    rider = AdditiveStatistic(function, first, draws, checked_bound(bound), tries, None if draws is None else k_smooth)
    run, _, found = filter_along(
        rider, "smooth_additive", model, ys, k_filter, num_particles, proposal, resample, threshold
    )
    mean, sound, drawn = found
    acceptance, excess = (None, None) if drawn is None else (drawn[0][1:], jnp.max(drawn[1]))
    check_draws(sound[1:], excess, type(model).__name__, "smooth_additive")
    return AdditiveSmoothing(mean, run.log_evidence, run.ess, acceptance)


class AdditiveStatistic(Rider):
    """The estimate of E[S_t | x_t, y_{0:t-1}] that every particle carries."""

    function: Callable[[Any, Any, Any], Any] = eqx.field(static=True)
    first: Callable[[Any], Any] | None = eqx.field(static=True)
    num_draws: int | None = eqx.field(static=True)
    bound: float | Callable[..., Any] | None = eqx.field(static=True)
    max_tries: int | None = eqx.field(static=True)
    key: Array | None

    def start(self, model: Any, first: WeightedRows) -> tuple[Any, Any]:
        dtype, one = first.log_weights.dtype, jax.tree.map(lambda x: x[0], first.x)
        if self.first is None:
            value = jax.eval_shape(self.function, jnp.asarray(1), one, one)
            state = jnp.zeros((first.log_weights.shape[0], *value.shape), dtype)
        else:
            state = jax.vmap(self.first)(first.x).astype(dtype)
        drawn = None if self.num_draws is None else (jnp.ones((), dtype), jnp.asarray(-jnp.inf, dtype))
        return state, (self._mean(state, first), jnp.asarray(True), drawn)

    def step(
        self, model: Any, t: Any, state: Array, before: WeightedRows, ancestors: Array, after: WeightedRows
    ) -> tuple[Any, Any]:
        # A particle of weight zero, which may have no possible predecessor and never is one, stands in for the best.
        alive = (after.log_weights > -jnp.inf).reshape(-1, *[1] * (after.x.ndim - 1))
        x = jnp.where(alive, after.x, after.x[jnp.argmax(after.log_weights)][None])
        if self.num_draws is None:
            (new, sound), drawn = self._over_all(model, t, state, before, x), None
        else:
            new, sound, drawn = self._over_draws(model, t, state, before, x, self.num_draws)
        return new, (self._mean(new, after), sound, drawn)

    def _mean(self, state: Array, rows: WeightedRows) -> Array:
        return jnp.tensordot(jax.nn.softmax(rows.log_weights), state, axes=1)

    def _over_all(self, model: Any, t: Any, state: Array, before: WeightedRows, x: Array) -> tuple[Array, Array]:
        num = x.shape[0]

        def average(weights: Array, _: Array, after: Array) -> tuple[Array, Array]:
            weights = weights[:, :num]
            total = jnp.sum(weights, axis=1)
            terms = jax.vmap(lambda z: jax.vmap(lambda b: self.function(t, b, z))(before.x))(after)
            sums = state[None] + terms.astype(state.dtype)
            used = (weights > 0).reshape(*weights.shape, *[1] * (sums.ndim - 2))
            mean = jax.vmap(lambda w, v: jnp.tensordot(w, v, axes=1))(
                weights / total[:, None], jnp.where(used, sums, 0)
            )
            return mean, jnp.isfinite(total) & (total > 0)

        new, sound = over_blocks(model, t, before.x, before.log_weights, x, x, average)
        return new, jnp.all(sound)

    def _over_draws(
        self, model: Any, t: Any, state: Array, before: WeightedRows, x: Array, num_draws: int
    ) -> tuple[Array, Array, tuple]:
        assert self.key is not None
        num, dtype = x.shape[0], state.dtype
        after = jnp.repeat(x, num_draws, axis=0)
        bound = jnp.asarray(log_bound(model, t, before.x, self.bound), dtype)
        index, accepted, sound, excess = rejection_indices(
            model, t, before.x, before.log_weights, after, jax.random.fold_in(self.key, t), bound, self.max_tries or num
        )
        terms = jax.vmap(lambda b, z: self.function(t, b, z))(before.x[index], after)
        sums = (state[index] + terms.astype(dtype)).reshape(num, num_draws, *state.shape[1:])
        return jnp.mean(sums, axis=1), sound, (accepted.astype(dtype), excess.astype(dtype))
