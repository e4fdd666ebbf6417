"""The front door of particle smoothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from probinf.claims import Claim
from probinf.errors import ArgumentError, ArgumentTypeError, InferenceError, ModelError
from probinf.inference.posterior import Posterior
from probinf.random import as_key
from probinf.representations.concrete import is_concrete
from probinf.transformations.resampling import effective_sample_size
from smc.filtering import FilterRun, History, particle_filter
from smc.proposals import Proposal
from smc.smoothing.backward_sampling import BackwardSampling
from smc.smoothing.method import SmoothingMethod
from smc.state_space_model import StateSpaceModel


class Smoothed(eqx.Module):
    """States given all observations.

    Attributes:
        mean: (T, *state) smoothed means.
        variance: (T, *state) smoothed variances.
        log_evidence: scalar, the filter's estimate of log p(y_0, ..., y_{T-1}), nats.
        particles: (T, K, *state).
        log_weights: (T, K) their weights, nats, unnormalised.
        ess: (T,) effective sample sizes of these weights.
        distinct: (T,) number of different particles of the filter with positive weight; None where the method makes its
            own. Where it is small, the estimate rests on few draws whatever `ess` says.
        indices: (T, K) which particle of the filter each one is, or None.
        acceptance: (T - 1,) share of accepted proposals from t + 1 to t, or None.
        joined: column k is one path through time, and not only K marginals.
        claim: what the method keeps.
    """

    mean: Array
    variance: Array
    log_evidence: Array
    particles: Array
    log_weights: Array
    ess: Array
    distinct: Array | None
    indices: Array | None
    acceptance: Array | None
    joined: bool = eqx.field(static=True)
    claim: Claim = eqx.field(static=True)

    @property
    def paths(self) -> Array:
        """Whole paths, (K, T, *state), with weights `log_weights[-1]`.

        Raises:
            ModelError: the method gives marginals, which are not paths.
        """
        if not self.joined:
            raise ModelError("paths: this method gives the states of single times; use smc.BackwardSampling.")
        return jnp.moveaxis(self.particles, 1, 0)

    def to_posterior(self, name: str = "x") -> Posterior:
        """The paths as a `Posterior` with one site, to be summarised, plotted, exported to ArviZ or saved.

        Raises:
            ModelError: the method gives marginals, which are not paths.
        """
        return Posterior(
            {name: np.asarray(self.paths)[None]},
            log_weights=np.asarray(self.log_weights[-1])[None],
            log_evidence=float(self.log_evidence),
            method=f"particle smoothing, {self.particles.shape[1]} paths",
            claim=str(self.claim),
        )

    def expectation(self, function: Callable[[Any], Any]) -> Array:
        """Smoothed expectations of a function of one state, (T, *value)."""
        values = jax.vmap(jax.vmap(function))(self.particles)
        return _average(jax.nn.softmax(self.log_weights, axis=1), values)


def smooth(
    model: StateSpaceModel,
    ys: Any,
    key: Any = 0,
    *,
    method: SmoothingMethod | None = None,
    num_particles: int = 1000,
    proposal: Proposal | None = None,
    resample: str = "systematic",
    threshold: float = 0.5,
    run: FilterRun | None = None,
) -> Smoothed:
    """Filter, then smooth: states given all observations. Compiled once per shape; may be vmapped and jitted.

    Args:
        model: the model.
        ys: observations, (T, *observation).
        key: key or integer seed.
        method: `BackwardSampling()` by default; `Genealogy`, `FixedLag`, `MarginalSmoothing`, `TwoFilter`.
        num_particles: N of the filter.
        proposal: the filter's; `Bootstrap()` by default.
        resample: the filter's resampling scheme.
        threshold: the filter resamples when its effective sample size is at most this fraction of N.
        run: a run of `particle_filter(..., history=True)` on the same model and observations to smooth instead; the
            filter's settings are then not used.

    Raises:
        ArgumentError, ArgumentTypeError: an argument is out of range; it is named.
        InferenceError: the filter lost all particles, a state has no possible predecessor, or the stated bound of the
            transition density is not one.
    """
    if not isinstance(model, StateSpaceModel):
        raise ArgumentTypeError(f"model: expected a StateSpaceModel, found {type(model).__name__}.")
    method = BackwardSampling() if method is None else method
    if not isinstance(method, SmoothingMethod):
        raise ArgumentTypeError(
            f"method: expected a smoothing method such as smc.BackwardSampling(), found {type(method).__name__}."
        )
    ys = model.check_data(ys)
    method.check(model)
    k_filter, k_smooth = jax.random.split(as_key(key, argument="key"))
    if run is None:
        run = particle_filter(
            model,
            ys,
            k_filter,
            num_particles=num_particles,
            proposal=proposal,
            resample=resample,
            threshold=threshold,
            moments=False,
            history=True,
        )
    elif not isinstance(run, FilterRun):
        raise ArgumentTypeError(f"run: expected a FilterRun of smc.particle_filter, found {type(run).__name__}.")
    if run.history is None:
        raise ArgumentError("run: its populations were not kept; call smc.particle_filter(..., history=True).")
    kept = run.history.log_weights.shape[0]
    if kept != ys.shape[0]:
        raise ArgumentError(f"run: it has {kept} time steps, but ys has {ys.shape[0]}; give the same observations.")
    # Parameters given as Python floats are data too: new values compile nothing.
    traced = jax.tree.map(lambda v: jnp.asarray(v) if isinstance(v, float | np.floating) else v, model)
    found, sound, excess = _smooth(traced, ys, run.history, run.log_evidence, k_smooth, method)
    check_draws(sound, excess, type(model).__name__)
    return found


@eqx.filter_jit
def _smooth(
    model: StateSpaceModel, ys: Array, history: History, log_evidence: Array, key: Array, method: SmoothingMethod
) -> tuple[Smoothed, Array, Array | None]:
    draws = method.draw(model, ys, history, key)
    weights = jax.nn.softmax(draws.log_weights, axis=1)
    values = draws.particles.astype(weights.dtype)  # states may be integers
    mean = _average(weights, values)
    variance = _average(weights, (values - mean[:, None]) ** 2)
    distinct = None
    if draws.indices is not None:
        num = history.log_weights.shape[1]
        distinct = jax.vmap(lambda i, w: jnp.sum(jnp.zeros(num, bool).at[i].max(w > 0), dtype=jnp.int32))(
            draws.indices, weights
        )
    found = Smoothed(
        mean,
        variance,
        log_evidence,
        draws.particles,
        draws.log_weights,
        jax.vmap(effective_sample_size)(draws.log_weights),
        distinct,
        draws.indices,
        draws.acceptance,
        draws.joined,
        method.claim,
    )
    return found, draws.sound, draws.excess


def _average(weights: Array, values: Array) -> Array:
    """Weighted averages over the second axis of (T, K, ...)."""
    return jax.vmap(lambda w, v: jnp.tensordot(w, v.astype(w.dtype), axes=1))(weights, values)


def check_draws(sound: Array, excess: Array | None, name: str, where: str = "smooth") -> None:
    """Raise `InferenceError` where a state had no predecessor, or a stated bound is not one."""
    if not is_concrete(sound):
        return
    wrong = ~np.asarray(sound)
    if wrong.any():
        t = int(np.flatnonzero(wrong)[-1])
        raise InferenceError(
            f"{where}: a state of {name} at t = {t + 1} has no predecessor of positive finite weight at t = {t}. "
            "Likely causes: log_transition does not match transition, or a law of the model gives NaN."
        )
    if excess is not None and float(excess) > 1e-3:
        raise InferenceError(
            f"{where}: bound: a transition density of {name} exceeds the stated bound by {float(excess):.3g} nats, so "
            "that rejection is not exact; give a larger one."
        )
