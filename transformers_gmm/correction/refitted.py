"""A filter that restarts another one after every event from a mixture fitted to correctly weighted points."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probinf.arguments import positive_integer
from probinf.errors import ArgumentTypeError
from probinf.random import as_key
from probinf.representations.mixture import GaussianMixture
from probinf.streaming.method import AbstractFilterMethod, UpdateInfo
from probinf.streaming.system import System
from smc.particles import summed
from transformers_gmm.correction.proposals import Proposal, check_share, fault_of, on_circle, sensor_log_probs


class RefittedState(eqx.Module):
    """The other filter's state, started from the fitted mixture, and the key for the next event."""

    base: Any
    mixture: GaussianMixture
    key: Array
    ess: Float[Array, ""]
    angles: tuple[int, ...] = eqx.field(static=True, default=())


class RefittedFilter(AbstractFilterMethod):
    r"""Bayes' rule by importance sampling on the other filter's own prediction, and a mixture fitted to the result.

    With the prediction π and the posterior q that the other filter makes of an event, points from
    $r = (1 - a) q + a \pi$ weigh $p(z \mid x)\, \pi(x) / r(x)$; q moves to them by expectation maximisation and the
    other filter starts anew from there. What is left of the error is the fit of K components, and the prediction's own:
    exact for linear motions. The motion needs no density, so its noise may be singular.

    Args:
        base: a filtering method that can start from a `GaussianMixture` and keeps its number of components:
            `smc.GaussianSum()`, `smc.UKF()`, a network.
        num_points: for each event.
        num_components: of the mixtures, at most.
        share: a.
        strength: points that q counts for in the fit.
    """

    base: AbstractFilterMethod
    num_points: int = eqx.field(static=True)
    num_components: int = eqx.field(static=True)
    share: float = eqx.field(static=True)
    strength: float = eqx.field(static=True)

    def __init__(
        self, base: Any, num_points: int = 256, *, num_components: int = 16, share: float = 0.1, strength: float = 10.0
    ) -> None:
        if not isinstance(base, AbstractFilterMethod):
            raise ArgumentTypeError(f"base: expected a filtering method, found {type(base).__name__}.")
        self.base = base
        self.num_points = positive_integer("num_points", num_points)
        self.num_components = positive_integer("num_components", num_components)
        self.share, self.strength = check_share(share), float(strength)

    def init(self, key: jax.Array, system: System) -> RefittedState:
        key, key_base = jax.random.split(as_key(key, argument="key"))
        base = self.base.init(key_base, system)
        mixture = self.base.as_mixture(base, self.num_components)
        return RefittedState(base, mixture, key, jnp.asarray(jnp.nan, system.dtype), system.angles)

    def predict(self, state: RefittedState, system: System, dt: Array, control: Array | None) -> RefittedState:
        base = self.base.predict(state.base, system, dt, control)
        mixture = self.base.as_mixture(base, self.num_components)
        return RefittedState(base, mixture, state.key, state.ess, state.angles)

    def update(
        self, state: RefittedState, system: System, sensor: str, value: Array, observed: Array, inputs: Array | None
    ) -> tuple[RefittedState, UpdateInfo]:
        key, key_points, key_base = jax.random.split(state.key, 3)
        updated, base_info = self.base.update(state.base, system, sensor, value, observed, inputs)
        sound = base_info.fault == 0
        updated = jax.tree.map(lambda new, old: jax.lax.select(sound, new, old), updated, state.base)
        posterior = self.base.as_mixture(updated, self.num_components)
        proposal = Proposal((posterior, state.mixture), (1.0 - self.share, self.share), state.angles)
        x, log_ratio = proposal.draw(key_points, self.num_points)
        log_weights = log_ratio + sensor_log_probs(system, sensor, x, value, observed, inputs)
        increment, ess = summed(log_weights)
        fitted = posterior.refine(x, log_weights, strength=self.strength)
        restarted = self.base.init(key_base, system.with_prior(fitted))
        seen = jnp.any(observed)
        increment = jnp.where(seen, increment, 0)
        info = UpdateInfo.create(increment, observed, ess=ess, fault=fault_of(increment))
        new = RefittedState(restarted, fitted, key, ess, state.angles)
        # What is missing altogether changes nothing, to the bit.
        return jax.tree.map(lambda a, b: jax.lax.select(seen, a, b), new, state), info

    def mean(self, state: RefittedState) -> Array:
        return self.base.mean(state.base)

    def cov(self, state: RefittedState) -> Array:
        return self.base.cov(state.base)

    def sample(self, state: RefittedState, key: jax.Array, n: int) -> Array:
        return self.base.sample(state.base, key, n)

    def log_prob(self, state: RefittedState, x: Array) -> Array:
        return on_circle(state.mixture.log_prob, x, state.angles)

    def as_mixture(self, state: RefittedState, k: int) -> GaussianMixture:
        return state.mixture.reduce(k)

    def claim(self, system: System) -> str:
        return "approximate"

    def reason(self, system: System) -> str:
        return "each event is weighed exactly; a mixture of few components stands for the result"

    def check(self, state: RefittedState) -> Array:
        return self.base.check(state.base)
