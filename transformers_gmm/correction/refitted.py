"""A filter that restarts another one at every instant from a mixture fitted to correctly weighted points."""

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
from smc.gaussian_sum import GaussianSum
from smc.particles import summed
from smc.unscented import UKF
from transformers_gmm.components import Components
from transformers_gmm.correction.proposals import (
    Proposal,
    check_share,
    fault_of,
    log_density,
    sensor_log_probs,
)
from transformers_gmm.correction.refit import refit
from transformers_gmm.correction.residual import Residual
from transformers_gmm.updates import factor


class RefittedState(eqx.Module):
    """A mixture, and the other filter's state, started from it.

    Attributes:
        base: the other filter's state; it has seen the events of this instant.
        mixture: the belief now.
        residual: what the mixture leaves out.
        key: for the next step.
        ess: effective sample size of the last points.
        angles: indices of the entries that are angles.
    """

    base: Any
    mixture: GaussianMixture
    residual: Residual
    key: Array
    ess: Float[Array, ""]
    angles: tuple[int, ...] = eqx.field(static=True, default=())


class RefittedFilter(AbstractFilterMethod):
    r"""Bayes' rule by importance sampling on a mixture's own prediction, and a mixture fitted to the result.

    Components are predicted one by one (`smc.UKF`: exactly, where motions are linear). With the prediction π and the
    posterior q that the other filter makes of it and an event, points from $r = (1 - a) q + a \pi$ weigh
    $p(z \mid x)\, \pi(x) / r(x)$, and q moves to them (`refit`). What K components leave out the points carry on,
    where the motion is wide enough to smooth them (`residual`). The motion needs no density: its noise may be singular,
    and then what is left of the error is the fit. For curved motions there is that of the prediction, too.

    Args:
        base: a filtering method that can start from a `GaussianMixture` and keeps its number of components:
            `smc.GaussianSum()`, `smc.UKF()`, a network.
        num_points: for each event.
        num_components: of the mixtures, at most.
        share: a.
    """

    base: AbstractFilterMethod
    num_points: int = eqx.field(static=True)
    num_components: int = eqx.field(static=True)
    share: float = eqx.field(static=True)

    def __init__(self, base: Any, num_points: int = 256, *, num_components: int = 16, share: float = 0.1) -> None:
        if not isinstance(base, AbstractFilterMethod):
            raise ArgumentTypeError(f"base: expected a filtering method, found {type(base).__name__}.")
        self.base = base
        self.num_points = positive_integer("num_points", num_points)
        self.num_components = positive_integer("num_components", num_components)
        self.share = check_share(share)

    def init(self, key: jax.Array, system: System) -> RefittedState:
        key, key_base = jax.random.split(as_key(key, argument="key"))
        base = self.base.init(key_base, system)
        mixture = self.base.as_mixture(base, self.num_components)
        none = Residual.of_points(
            jnp.broadcast_to(mixture.means[:1], (self.num_points, system.dim)), jnp.zeros(self.num_points, system.dtype)
        )
        ess = jnp.asarray(jnp.nan, system.dtype)
        return RefittedState(base, mixture, none, key, ess, system.angles)

    def predict(self, state: RefittedState, system: System, dt: Array, control: Array | None) -> RefittedState:
        key, key_base, key_bank = jax.random.split(state.key, 3)
        bank = GaussianSum(UKF())
        moved = bank.predict(bank.init(key_bank, system.with_prior(state.mixture)), system, dt, control)
        mixture = Components(moved.log_weights, moved.components.mean, factor(moved.components.cov)).as_mixture()
        base = self.base.init(key_base, system.with_prior(mixture))
        residual = state.residual.moved(system, dt, control, mixture)
        return RefittedState(base, mixture, residual, key, state.ess, state.angles)

    def update(
        self, state: RefittedState, system: System, sensor: str, value: Array, observed: Array, inputs: Array | None
    ) -> tuple[RefittedState, UpdateInfo]:
        key, key_points = jax.random.split(state.key)
        base, base_info = self.base.update(state.base, system, sensor, value, observed, inputs)
        # A base that has failed proposes what it believed before.
        sound = base_info.fault == 0
        base = jax.tree.map(lambda new, old: jax.lax.select(sound, new, old), base, state.base)
        posterior = self.base.as_mixture(base, self.num_components)
        # Half of the prediction's share is drawn where its mixture leaves something out.
        parts = (posterior, state.residual.gaussians(state.mixture), state.mixture)
        proposal = Proposal(parts, (1.0 - self.share, 0.5 * self.share, 0.5 * self.share), state.angles)
        x, log_ratio = proposal.draw(key_points, self.num_points)
        log_mixture = log_density(state.mixture, x, state.angles)
        log_prediction = state.residual.added(x, log_mixture)
        log_weights = log_prediction - log_mixture + log_ratio
        log_weights = log_weights + sensor_log_probs(system, sensor, x, value, observed, inputs)
        increment, ess = summed(log_weights)
        log_proposal = log_mixture - log_ratio
        start = Components.from_mixture(posterior)
        fitted = refit(start, x, log_weights - increment, log_proposal, state.angles).as_mixture()
        excess = jnp.exp(log_weights - increment) - jnp.exp(log_density(fitted, x, state.angles) - log_proposal)
        left = Residual.of_points(x, excess / self.num_points)
        seen = jnp.any(observed)
        increment = jnp.where(seen, increment, 0)
        info = UpdateInfo.create(increment, observed, ess=ess, fault=fault_of(increment))
        new = RefittedState(base, fitted, left, key, ess, state.angles)
        # What is missing altogether changes nothing, to the bit.
        return jax.tree.map(lambda a, b: jax.lax.select(seen, a, b), new, state), info

    def mean(self, state: RefittedState) -> Array:
        return state.mixture.mean

    def cov(self, state: RefittedState) -> Array:
        return state.mixture.cov

    def sample(self, state: RefittedState, key: jax.Array, n: int) -> Array:
        return state.mixture.sample(key, n)

    def log_prob(self, state: RefittedState, x: Array) -> Array:
        return log_density(state.mixture, x.reshape(-1, x.shape[-1]), state.angles).reshape(x.shape[:-1])

    def as_mixture(self, state: RefittedState, k: int) -> GaussianMixture:
        return state.mixture.reduce(k)

    def claim(self, system: System) -> str:
        return "approximate"

    def reason(self, system: System) -> str:
        return "each event is weighed exactly; a mixture of few components stands for the result"

    def check(self, state: RefittedState) -> Array:
        return self.base.check(state.base)
