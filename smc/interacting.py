"""Interacting multiple models: one Gaussian filter for each way of moving, mixed before every motion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from probinf.errors import ArgumentError, ArgumentTypeError
from probinf.representations.concrete import is_concrete
from probinf.representations.mixture import GaussianMixture
from probinf.streaming.method import AbstractFilterMethod, UpdateInfo
from probinf.streaming.stream_belief import StreamBelief
from probinf.streaming.system import System
from smc.gaussian_filter import AbstractGaussianFilter, GaussianState, difference, wrap_entries
from smc.gaussian_sum import GaussianSum, GaussianSumState, weigh_components


class InteractingMultipleModels(AbstractFilterMethod):
    r"""Interacting multiple models (Blom & Bar-Shalom 1988): the motion is one of M, and jumps between them.

    A belief is M Gaussians, one for each mode, weighted by the mode's probability. Before a motion over dt the Gaussian
    of each mode becomes the mixture of those it may have come from, collapsed to one Gaussian of the same mean and
    covariance; then every mode moves, sees the value, and is weighted by what it predicted.

    Exact for one linear-Gaussian mode, and for several up to the second motion; from then on the collapse is an
    approximation, unless there are no jumps.

    Args:
        modes: name to the mode's motion: a function `(x, dt)` or `(x, dt, u)` as a `System` takes, a whole `System`
            with the same state and sensors (its motion and its sensors are used, its prior is not), or None for the
            filter's own system.
        rates: (M, M), rates of jumps per second from row to column, non-negative off the diagonal, rows summing to
            zero; over dt the probabilities are $\exp(\text{rates}\, dt)$, whatever the pattern of times.
        transition: (M, M), instead of `rates`: probabilities of jumps from row to column at every motion, however long;
            rows sum to one. For streams of one period.
        initial: (M,), probabilities at the start; equal by default.
        base: the filter of one mode: `EKF()` or `UKF()`, without a gate.
    """

    names: tuple[str, ...] = eqx.field(static=True)
    models: tuple[Any, ...] = eqx.field(static=True)
    jumps: Float[Array, "modes modes"]
    continuous: bool = eqx.field(static=True)
    initial: Float[Array, " modes"]
    bank: GaussianSum

    def __init__(
        self,
        modes: Mapping[str, Callable[..., Any] | System | None],
        *,
        rates: Any = None,
        transition: Any = None,
        initial: Any = None,
        base: AbstractGaussianFilter | None = None,
    ) -> None:
        if not isinstance(modes, Mapping) or not modes:
            raise ArgumentTypeError("modes: expected a dictionary from names to motions, with one entry or more.")
        for name, model in modes.items():
            if not (model is None or callable(model) or isinstance(model, System)):
                raise ArgumentTypeError(
                    f"modes: {name!r}: expected a motion (x, dt), a System or None, found {type(model).__name__}."
                )
        self.names, self.models = tuple(modes), tuple(modes.values())
        count = len(self.names)
        if rates is None and transition is None and count == 1:
            rates = np.zeros((1, 1))
        if (rates is None) == (transition is None):
            raise ArgumentError("rates: pass either rates (per second) or transition (per motion).")
        self.continuous = transition is None
        name, total = ("rates", 0.0) if self.continuous else ("transition", 1.0)
        self.jumps = _checked(name, rates if self.continuous else transition, (count, count), total, self.continuous)
        self.initial = _checked("initial", np.full(count, 1 / count) if initial is None else initial, (count,), 1.0)
        self.bank = GaussianSum(base)

    # -- the protocol -----------------------------------------------------------------------------------------------

    def init(self, key: jax.Array, system: System) -> GaussianSumState:
        self._check_systems(system)
        one = self.bank.base.init(key, system)
        many = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(self.names), *leaf.shape)), one)
        return GaussianSumState(many, jnp.log(self.initial).astype(system.dtype))

    def predict(self, state: GaussianSumState, system: System, dt: Array, control: Array | None) -> GaussianSumState:
        if len(self.names) > 1:
            state = mix(state, self.jump_probabilities(dt))
        moved = [
            self.bank.base.predict(one, model, dt, control)
            for one, model in zip(self._split(state), self._systems(system), strict=True)
        ]
        return GaussianSumState(jax.tree.map(lambda *rows: jnp.stack(rows), *moved), state.log_weights)

    def update(
        self, state: GaussianSumState, system: System, sensor: str, value: Array, observed: Array, inputs: Array | None
    ) -> tuple[GaussianSumState, UpdateInfo]:
        if not any(isinstance(model, System) for model in self.models):
            return self.bank.update(state, system, sensor, value, observed, inputs)
        parts = [
            self.bank.base.update(one, model, sensor, value, observed, inputs)
            for one, model in zip(self._split(state), self._systems(system), strict=True)
        ]
        updated, infos = jax.tree.map(lambda *rows: jnp.stack(rows), *parts)
        return weigh_components(state.log_weights, updated, infos, observed)

    def mean(self, state: GaussianSumState) -> Array:
        return self.bank.mean(state)

    def cov(self, state: GaussianSumState) -> Array:
        return self.bank.cov(state)

    def sample(self, state: GaussianSumState, key: jax.Array, n: int) -> Array:
        return self.bank.sample(state, key, n)

    def log_prob(self, state: GaussianSumState, x: Array) -> Array:
        return self.bank.log_prob(state, x)

    def as_mixture(self, state: GaussianSumState, k: int) -> GaussianMixture:
        return self.bank.as_mixture(state, k)

    def claim(self, system: System) -> str:
        if len(self.names) > 1 or not (self.models[0] is None or isinstance(self.models[0], System)):
            return "approximate"
        (model,) = self._systems(system)
        return self.bank.base.claim(model)

    def reason(self, system: System) -> str:
        if len(self.names) > 1:
            return "each mode's mixture of pasts is collapsed to one Gaussian before every motion"
        return self.bank.base.reason(self._systems(system)[0])

    def notes(self, system: System) -> tuple[str, ...]:
        return self.bank.base.notes(system)

    def check(self, state: GaussianSumState) -> Array:
        return self.bank.check(state)

    # -- modes ------------------------------------------------------------------------------------------------------

    def mode_probabilities(self, belief: StreamBelief) -> dict[str, Array]:
        """Probability of each mode given all events so far; arrays (B,) for a batch of B beliefs."""
        probabilities = jnp.exp(belief.state.log_weights)
        return {name: probabilities[..., k] for k, name in enumerate(self.names)}

    def jump_probabilities(self, dt: Array) -> Float[Array, "modes modes"]:
        """Probabilities of the mode after a motion over dt (columns) given the mode before it (rows)."""
        jumps = self.jumps.astype(dt.dtype)
        return jnp.maximum(jax.scipy.linalg.expm(jumps * dt), 0) if self.continuous else jumps

    def _systems(self, system: System) -> list[System]:
        """The system of every mode, with the prior of the filter's own."""
        return [_system_of(model, system) for model in self.models]

    def _split(self, state: GaussianSumState) -> list[GaussianState]:
        return [jax.tree.map(lambda leaf, k=k: leaf[k], state.components) for k in range(len(self.names))]

    def _check_systems(self, system: System) -> None:
        self._systems(system)  # a motion is tried where it is put into a system
        for name, model in zip(self.names, self.models, strict=True):
            if not isinstance(model, System):
                continue
            if (model.dim, model.angles) != (system.dim, system.angles):
                raise ArgumentError(
                    f"modes: {name!r}: its state has {model.dim} entries and angles {model.angles}, that of "
                    f"{system.name!r} has {system.dim} and {system.angles}."
                )
            absent = sorted(set(system.sensors) - set(model.sensors))
            if absent:
                raise ArgumentError(f"modes: {name!r}: its system has no sensor {', '.join(map(repr, absent))}.")


def mix(state: GaussianSumState, jumps: Float[Array, "modes modes"]) -> GaussianSumState:
    r"""Interaction: the Gaussian of each mode after the jump, collapsed from the modes before it.

    $c_j = \sum_i \mu_i \Pi_{ij}$ are the new probabilities and $\mu_i \Pi_{ij} / c_j$ the mixture's weights; mean and
    covariance of the mixture are kept. A mode that cannot be reached keeps its own Gaussian.

    References:
        Bar-Shalom, Li & Kirubarajan (2001), Estimation with Applications to Tracking and Navigation, section 11.6.6.
    """
    means, covs, angles = state.components.mean, state.components.cov, state.components.angles
    log_joint = state.log_weights[:, None] + jnp.log(jumps)
    log_new = jax.scipy.special.logsumexp(log_joint, axis=0)
    reached = log_new > -jnp.inf
    safe = jnp.where(reached, log_new, 0)
    weights = jnp.where(
        reached[None, :], jnp.exp(log_joint - safe[None, :]), jnp.eye(means.shape[0], dtype=means.dtype)
    )

    def collapse(weights: Array, own: Array) -> GaussianState:
        gaps = difference(means, own[None], angles)  # on the circle, about the mode's own mean
        shift = weights @ gaps
        spread = difference(gaps, shift[None], angles)
        cov = jnp.tensordot(weights, covs, axes=1) + (weights[:, None] * spread).T @ spread
        return GaussianState(wrap_entries(own + shift, angles), cov, angles)

    return GaussianSumState(jax.vmap(collapse)(weights.T, means), log_new)


def _system_of(model: Any, system: System) -> System:
    if model is None:
        return system
    if isinstance(model, System):
        return model
    return system.with_move(model)


def _checked(name: str, given: Any, shape: tuple[int, ...], total: float, rates: bool = False) -> Array:
    """Rates or probabilities as an array of that shape whose rows sum to `total`."""
    if not is_concrete(given):
        return given
    try:
        values = np.asarray(given, float)
    except (TypeError, ValueError):
        raise ArgumentTypeError(f"{name}: expected numbers of shape {shape}, found {type(given).__name__}.") from None
    if values.shape != shape:
        raise ArgumentError(f"{name}: expected shape {shape}, one entry for each mode, found {values.shape}.")
    off = values - np.diag(np.diag(values)) if rates else values
    if not np.all(np.isfinite(values)) or np.any(off < 0):
        where = "off the diagonal " if rates else ""
        raise ArgumentError(f"{name}: expected finite numbers, none {where}below zero, found {values.tolist()}.")
    sums = values.sum(axis=-1)
    if np.any(np.abs(sums - total) > 1e-6 * max(1.0, float(np.abs(values).max()))):
        what = "its rows" if values.ndim == 2 else "it"
        raise ArgumentError(f"{name}: expected {what} to sum to {total:g}, found {sums.tolist()}.")
    return jnp.asarray(values, float)
