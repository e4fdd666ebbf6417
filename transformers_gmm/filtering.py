"""A trained network as a filter: the library's streaming protocol on mixtures."""

from __future__ import annotations

import functools

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
from transformers_gmm.packed import PackedNetwork
from transformers_gmm.recurrent import AbstractRecurrentTask, Step, base_only

_NUM_DRAWS = 64  # for the predictive density of values, by importance sampling from the new belief
_SAME_TIME = 1e-3  # relative; time differences of recordings are not exact


class MixtureState(eqx.Module):
    """A mixture, and what it was made of: the belief of the instant before and all values of this instant.

    Attributes:
        current: the belief now.
        previous: the belief before this instant.
        predicted: the belief of this instant before its values.
        step: values and controls of this instant so far.
        log_evidence: log density of this instant's values so far given the past, nats.
    """

    current: Components
    previous: Components
    predicted: Components
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
    network: PackedNetwork | None

    def __init__(self, task: AbstractRecurrentTask, network: nnx.Module | None = None) -> None:
        self.task, self.network = task, None if network is None else PackedNetwork(network)

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
        nothing = self._nothing(system, jnp.zeros(()))
        return MixtureState(start, start, start, nothing, jnp.zeros((), system.dtype))

    def predict(self, state: MixtureState, system: System, dt: Array, control: Array | None) -> MixtureState:
        step = self._nothing(system, dt, control)
        current = self._answer(state.current, step)
        return MixtureState(current, state.current, current, step, jnp.zeros((), system.dtype))

    def update(
        self, state: MixtureState, system: System, sensor: str, value: Array, observed: Array, inputs: Array | None
    ) -> tuple[MixtureState, UpdateInfo]:
        seen = jnp.all(observed)
        step = Step(
            state.step.elapsed,
            state.step.control,
            state.step.values | {sensor: jnp.where(observed, value, 0).reshape(-1)},
            state.step.present | {sensor: seen},
        )
        current = self._answer(state.previous, step)
        sound = jnp.all(jnp.array([jnp.all(jnp.isfinite(x)) for x in (current.means, current.scale_tril)]))
        current = jax.tree.map(lambda new, old: jnp.where(seen & sound, new, old), current, state.current)
        total = self._log_evidence(state.predicted, current, system, step, sensor, observed, inputs)
        log_density = jnp.where(seen & sound, total - state.log_evidence, 0)
        info = UpdateInfo.create(
            log_density,
            observed.reshape(-1),
            fault=jnp.where(sound, 0, int(Fault.UPDATE)).astype(jnp.int32),
        )
        total = state.log_evidence + log_density
        return MixtureState(current, state.previous, state.predicted, step, total), info

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
        network = base_only if self.network is None else self.network
        return jax.tree.map(lambda x: x[0], network(self.task.problem(*batched)))

    def _log_evidence(
        self,
        predicted: Components,
        after: Components,
        system: System,
        step: Step,
        sensor: str,
        observed: Array,
        inputs: Array | None,
    ) -> Array:
        """Of all values of this instant: E of p(values | x) predicted(x) / after(x) under the belief after them.

        The draws are the same for every value, and the values count together, so their order changes nothing.
        """
        draws = after.sample(jax.random.key(0), _NUM_DRAWS)
        each = predicted.log_prob(draws) - after.log_prob(draws)
        for name, value in step.values.items():
            shape = system.describe_sensor(name, None if inputs is None or name != sensor else inputs.shape).event_shape
            mask = observed if name == sensor else jnp.ones(shape, bool)
            given = inputs if name == sensor else None
            fit = functools.partial(_fit, system, name, value.reshape(shape), mask, given)
            each = each + jnp.where(step.present[name], jax.vmap(fit)(draws), 0)
        return jax.nn.logsumexp(each) - jnp.log(_NUM_DRAWS)

    def check(self, state: MixtureState) -> Array:
        """Flags a time step that the motion was not trained for."""
        if self.task.time_step is None:
            return jnp.zeros((), jnp.int32)
        elapsed = state.step.elapsed
        odd = (elapsed > 0) & (jnp.abs(elapsed - self.task.time_step) > _SAME_TIME * self.task.time_step)
        return jnp.where(odd, int(Fault.PREDICTION), 0).astype(jnp.int32)

    def _nothing(self, system: System, elapsed: Array, control: Array | None = None) -> Step:
        sizes = self.task.sensors
        empty = (
            jnp.zeros(self.task.num_controls, system.dtype)
            if control is None
            else jnp.asarray(control, system.dtype).reshape(-1)
        )
        values = {name: jnp.zeros(size, system.dtype) for name, size in sizes.items()}
        return Step(jnp.asarray(elapsed, system.dtype), empty, values, dict.fromkeys(sizes, jnp.zeros((), bool)))

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


def _fit(system: System, name: str, value: Array, mask: Array, inputs: Array | None, x: Array) -> Array:
    return system.sensor_log_prob(name, x, value, mask, inputs)
