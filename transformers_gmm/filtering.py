"""A trained network as a filter: the library's streaming protocol on mixtures."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from probinf.errors import ArgumentError, ModelError
from probinf.representations.mixture import GaussianMixture
from probinf.streaming.method import AbstractFilterMethod, Fault, UpdateInfo
from probinf.streaming.system import System
from smc.gaussian_approximation import prior_moments
from transformers_gmm.components import Components, heaviest
from transformers_gmm.recurrent import AbstractRecurrentTask, Step, base_only

_NUM_DRAWS = 64  # for the predictive density of a value, by importance sampling from the new belief


class MixtureState(eqx.Module):
    """A mixture, and what it was made of: the belief of the instant before and all values of this instant.

    Attributes:
        current: the belief now.
        previous: the belief before this instant.
        step: values and controls of this instant so far.
        log_evidence: log density of this instant's values so far given the past, nats.
    """

    current: Components
    previous: Components
    step: Step
    log_evidence: Float[Array, ""]


class MixtureFilter(AbstractFilterMethod):
    """Filters with a trained network; values of one instant may come in any order, and any of them may be missing.

    Args:
        task: what the network was trained for; the system must be its model (`task.system(prior)`).
        network: the trained network; the analytic part alone if left out.

    References:
        Whittle et al. (2026), Distribution Transformers, section 4.3: the posterior is the next prior.
    """

    task: AbstractRecurrentTask
    definition: Any = eqx.field(static=True)
    weights: Any

    def __init__(self, task: AbstractRecurrentTask, network: Any = None) -> None:
        self.task = task
        self.definition, self.weights = (None, None) if network is None else nnx.split(network)

    def init(self, key: jax.Array, system: System) -> MixtureState:
        self._check(system)
        prior = system.prior
        if not isinstance(prior, GaussianMixture):
            mean, cov = prior_moments(prior)
            prior = GaussianMixture.gaussian(mean, cov)
        k = self.task.config.num_components
        if prior.num_components > k:
            prior = prior.reduce(k)
        start = heaviest(Components.from_mixture(prior), k)
        start = jax.tree.map(lambda x: jnp.asarray(x, system.dtype), start)
        return MixtureState(start, start, self._nothing(system, moves=False), jnp.zeros((), system.dtype))

    def predict(self, state: MixtureState, system: System, dt: Array, control: Array | None) -> MixtureState:
        step = self._nothing(system, moves=True, control=control)
        current = self._answer(state.current, step)
        return MixtureState(current, state.current, step, jnp.zeros((), system.dtype))

    def update(
        self, state: MixtureState, system: System, sensor: str, value: Array, observed: Array, inputs: Array | None
    ) -> tuple[MixtureState, UpdateInfo]:
        seen = jnp.all(observed)
        step = Step(
            state.step.moves,
            state.step.control,
            state.step.values | {sensor: jnp.where(observed, value, 0).reshape(-1)},
            state.step.present | {sensor: seen},
        )
        current = self._answer(state.previous, step)
        sound = jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in (current.means, current.scale_tril)]))
        current = jax.tree.map(lambda new, old: jnp.where(seen & sound, new, old), current, state.current)
        log_density = self._log_predictive(state.current, current, system, sensor, value, observed, inputs)
        log_density = jnp.where(seen & sound, log_density, 0)
        info = UpdateInfo.create(
            log_density,
            observed.reshape(-1),
            fault=jnp.where(sound, 0, int(Fault.UPDATE)).astype(jnp.int32),
        )
        return MixtureState(current, state.previous, step, state.log_evidence + log_density), info

    def mean(self, state: MixtureState) -> Array:
        return state.current.mean

    def cov(self, state: MixtureState) -> Array:
        return state.current.cov

    def sample(self, state: MixtureState, key: jax.Array, n: int) -> Array:
        return state.current.sample(key, n)

    def log_prob(self, state: MixtureState, x: Array) -> Array:
        return state.current.log_prob(x.reshape(-1, x.shape[-1])).reshape(x.shape[:-1])

    def as_mixture(self, state: MixtureState, k: int) -> GaussianMixture:
        return state.current.as_mixture().reduce(k)

    def claim(self, system: System) -> str:
        return "approximate"

    def reason(self, system: System) -> str:
        return "a learned mixture stands for the belief; CorrectedFilter makes it consistent"

    def _answer(self, previous: Components, step: Step) -> Components:
        batched = jax.tree.map(lambda x: x[None], (previous, step))
        network = base_only if self.definition is None else nnx.merge(self.definition, self.weights)
        return jax.tree.map(lambda x: x[0], network(self.task.problem(*batched)))

    def _log_predictive(
        self,
        before: Components,
        after: Components,
        system: System,
        sensor: str,
        value: Array,
        observed: Array,
        inputs: Array | None,
    ) -> Array:
        """E of p(value | x) before(x) / after(x) under the belief after it: the same draws for every value."""
        draws = after.sample(jax.random.key(0), _NUM_DRAWS)
        fits = jax.vmap(lambda x: system.sensor_log_prob(sensor, x, value, observed, inputs))(draws)
        each = fits + before.log_prob(draws) - after.log_prob(draws)
        return jax.nn.logsumexp(each) - jnp.log(_NUM_DRAWS)

    def _nothing(self, system: System, *, moves: bool, control: Array | None = None) -> Step:
        sizes = self.task.sensors
        empty = jnp.zeros(self.task.num_controls, system.dtype) if control is None else jnp.asarray(control, system.dtype).reshape(-1)
        values = {name: jnp.zeros(size, system.dtype) for name, size in sizes.items()}
        return Step(jnp.asarray(moves), empty, values, dict.fromkeys(sizes, jnp.zeros((), bool)))

    def _check(self, system: System) -> None:
        config = self.task.config
        if system.dim != config.dim:
            raise ArgumentError(
                f"network: trained for {config.dim} state entries, the system {system.name!r} has {system.dim}."
            )
        if sorted(system.sensors) != sorted(self.task.sensors):
            raise ModelError(
                f"network: trained for sensors {sorted(self.task.sensors)}, the system {system.name!r} has "
                f"{sorted(system.sensors)}."
            )
