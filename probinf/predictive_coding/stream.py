"""A network as a state-space system, and its closed-form updates as a method of the streaming protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jaxtyping import Array

from probinf.errors import ArgumentTypeError, ModelError
from probinf.predictive_coding.couplings import VALUE, VOLATILITY, apply
from probinf.predictive_coding.nodes import BinaryInput, ContinuousInput
from probinf.predictive_coding.plan import Numbers, Plan
from probinf.predictive_coding.prediction import Carry, predict, scaled
from probinf.predictive_coding.step import step
from probinf.representations.mixture import GaussianMixture
from probinf.streaming import AbstractFilterMethod, Fault, Sensor, System, UpdateInfo, state_space

if TYPE_CHECKING:
    from probinf.predictive_coding.network import Network


class Transition(dist.Distribution):
    """Distribution of all states after a step of length `dt`, given all states before it: parents first."""

    support = dist.constraints.real_vector  # pyright: ignore[reportAssignmentType]
    arg_constraints: Mapping[str, Any] = {}
    pytree_data_fields = ("before", "dt", "numbers")
    pytree_aux_fields = ("plan",)

    def __init__(self, plan: Plan, numbers: Numbers, before: Array, dt: Array | None) -> None:
        self.plan, self.numbers, self.before, self.dt = plan, numbers, before, dt
        super().__init__((), (before.shape[-1],))

    def sample(self, key: jax.Array | None, sample_shape: tuple[int, ...] = ()) -> Array:
        assert key is not None
        noise = jax.random.normal(key, (*sample_shape, self.before.shape[-1]), self.before.dtype)

        def one(noise: Array) -> Array:
            drawn: dict[int, Any] = {}
            for i in self.plan.top_down:
                if i in self.plan.states:
                    mean, sd = conditional(self.plan, self.numbers, drawn, self.before, self.dt, i)
                    drawn[i] = mean + sd * noise[self.plan.states.index(i)]
            return jnp.stack([drawn[i] for i in self.plan.states])

        for _ in sample_shape:
            one = jax.vmap(one)
        return one(noise)

    def log_prob(self, value: Array) -> Array:  # pyright: ignore[reportIncompatibleMethodOverride]
        if value.ndim > 1:
            return jax.vmap(self.log_prob)(value)
        states = dict(zip(self.plan.states, value, strict=True))
        total = jnp.zeros((), value.dtype)
        for i in self.plan.states:
            mean, sd = conditional(self.plan, self.numbers, states, self.before, self.dt, i)
            total = total + dist.Normal(mean, sd).log_prob(states[i])
        return total


def conditional(
    plan: Plan, numbers: Numbers, states: Mapping[int, Any], before: Array, dt: Array | None, i: int
) -> tuple[Any, Any]:
    """Mean and standard deviation of state `i` given its own last value and its parents' new ones."""
    own = numbers.nodes[i]
    # As in the network's own prediction, a step of no length changes nothing.
    autoconnection = own["autoconnection"] if dt is None else jnp.where(dt > 0.0, own["autoconnection"], 1.0)
    mean = autoconnection * before[plan.states.index(i)]
    mean = mean + scaled(dt, own["drift"] + drive(plan, numbers, states, i))
    exponent = own["tonic_volatility"]
    for e in plan.parents(i, VOLATILITY):
        exponent = exponent + numbers.strengths[e.index] * states[e.parent]
    return mean, jnp.sqrt(scaled(dt, jnp.exp(exponent)))


def drive(plan: Plan, numbers: Numbers, states: Mapping[int, Any], i: int) -> Any:
    """Sum of alpha g(x) over the value parents of a node."""
    total: Any = 0.0
    for e in plan.parents(i, VALUE):
        x = states[e.parent] if e.parent in states else numbers.nodes[e.parent]["mean"]
        total = total + numbers.strengths[e.index] * apply(e.function, x)
    return total


def emission(plan: Plan, numbers: Numbers, states: Mapping[int, Any], i: int) -> dist.Distribution:
    """Distribution of the value of leaf `i` given the states."""
    mean = drive(plan, numbers, states, i)
    if plan.nodes[i].kind == "binary input":
        return dist.Bernoulli(logits=mean)
    variance, terms = 1.0 / numbers.nodes[i]["precision"], plan.parents(i, VOLATILITY)
    if terms:
        gained = jnp.exp(sum(numbers.strengths[e.index] * states[e.parent] for e in terms))
        variance = variance * gained if plan.nodes[i].noise == "multiplicative" else variance + gained
    return dist.Normal(mean, jnp.sqrt(variance))


class Motion:
    """The `move` of a network's system: calling it gives the transition; it remembers the network."""

    def __init__(self, network: Network) -> None:
        self.network, self.plan = network, network.plan()
        self.numbers = jax.tree.map(jnp.asarray, network.numbers())

    def __call__(self, x: Array, dt: Array | None) -> dist.Distribution:
        plan = self.plan
        if any(e.parent in plan.states and e.child in plan.states for e in plan.edges):
            return Transition(plan, self.numbers, x, dt)
        # States that do not act on each other are Gaussian, which Gaussian filters can read.
        parts = [conditional(plan, self.numbers, {}, x, dt, i) for i in plan.states]
        means, sds = zip(*parts, strict=True)
        return dist.Normal(jnp.stack(means), jnp.stack(sds)).to_event(1)


@state_space
def network_system(network: Network) -> System:
    """The generative model of a network as a system: states in the network's order, one sensor for each input.

    Every filter of the library runs on it; `ClosedForm()` with the network's own updates.

    Raises:
        ModelError: an input that is neither continuous nor binary: its beliefs are no state.
    """
    for node in network.fed_inputs():
        if not isinstance(node, ContinuousInput | BinaryInput):
            raise ModelError(
                f"{node.KIND} {node.name!r}: only continuous and binary inputs can be sensors of a system."
            )
    motion = Motion(network)
    states = [motion.numbers.nodes[i] for i in motion.plan.states]
    means = jnp.stack([own["mean"] for own in states]) * 1.0
    precisions = jnp.stack([own["precision"] for own in states]) * 1.0
    prior = dist.Normal(means, 1.0 / jnp.sqrt(precisions)).to_event(1)

    def sensor(i: int) -> Sensor:
        def see(x: Array) -> dist.Distribution:
            return emission(motion.plan, motion.numbers, dict(zip(motion.plan.states, x, strict=True)), i)

        return Sensor(see, missing=network.nodes[i].missing)  # pyright: ignore[reportAttributeAccessIssue]

    sensors = {network.nodes[i].name: sensor(i) for i in motion.plan.fed}
    return System(prior, motion, sensors, name=network.name)


class NetworkState(NamedTuple):
    """The belief, and what the next update starts from: the belief at the last event and the time since (seconds)."""

    mean: Array
    precision: Array
    mean_before: Array
    precision_before: Array
    waiting: Array


class ClosedForm(AbstractFilterMethod):
    """The network's own updates as a filter method: one Gaussian for each state, no correlations.

    Values of several inputs at one time are taken one after the other, the later ones with a step of no length, which
    moves no volatility parent. For simultaneous values use `Network.filter`.
    """

    def init(self, key: jax.Array, system: System) -> NetworkState:
        motion = _motion(system)
        states = [motion.numbers.nodes[i] for i in motion.plan.states]
        means, precisions = (
            jnp.stack([jnp.asarray(own[field], system.dtype) for own in states]) for field in ("mean", "precision")
        )
        return NetworkState(means, precisions, means, precisions, jnp.zeros((), system.dtype))

    def predict(self, state: NetworkState, system: System, dt: Array, control: Array | None) -> NetworkState:
        plan, numbers = _motion(system).plan, _motion(system).numbers
        found = predict(plan, numbers, _carry(state.mean, state.precision), dt)
        means, precisions = (
            jnp.stack([getattr(found[i], part) for i in plan.states]) for part in ("mean", "precision")
        )
        return NetworkState(means, precisions, state.mean, state.precision, dt)

    def update(
        self, state: NetworkState, system: System, sensor: str, value: Array, observed: Array, inputs: Array | None
    ) -> tuple[NetworkState, UpdateInfo]:
        motion = _motion(system)
        plan, names = motion.plan, [node.name for node in motion.network.nodes]
        values = {i: value if names[i] == sensor else jnp.zeros_like(value) for i in plan.fed}
        flags = {i: observed if names[i] == sensor else jnp.zeros_like(observed) for i in plan.fed}
        before = _carry(state.mean_before, state.precision_before)
        carry, outcome = step(plan, motion.numbers, before, values, flags, state.waiting)
        sound = jnp.isfinite(outcome.log_density)
        # A belief of single Gaussians has no covariance to test the innovation by: it is given, the NIS is not.
        belief = outcome.nodes[names.index(sensor)]
        innovation = jnp.where(observed, value - belief.expected_mean, jnp.nan)
        info = UpdateInfo.create(
            jnp.where(sound, outcome.log_density, 0.0),
            observed,
            innovation=innovation.reshape(1),
            fault=jnp.where(sound, 0, int(Fault.UPDATE)).astype(jnp.int32),
        )
        means, precisions = jnp.stack(carry.means), jnp.stack(carry.precisions)
        return NetworkState(means, precisions, means, precisions, jnp.zeros_like(state.waiting)), info

    def mean(self, state: NetworkState) -> Array:
        return state.mean

    def cov(self, state: NetworkState) -> Array:
        return jnp.diag(1.0 / state.precision)

    def sample(self, state: NetworkState, key: jax.Array, n: int) -> Array:
        noise = jax.random.normal(key, (n, *state.mean.shape), state.mean.dtype)
        return state.mean[None] + noise / jnp.sqrt(state.precision)[None]

    def log_prob(self, state: NetworkState, x: Array) -> Array:
        return dist.Normal(state.mean, 1.0 / jnp.sqrt(state.precision)).to_event(1).log_prob(x)

    def as_mixture(self, state: NetworkState, k: int) -> GaussianMixture:
        return GaussianMixture.gaussian(state.mean, self.cov(state))

    def claim(self, system: System) -> str:
        plan = _motion(system).plan
        linear = all(e.kind == VALUE and e.function is None for e in plan.edges)
        continuous = all(plan.nodes[i].kind == "continuous input" for i in plan.leaves)
        return "exact" if linear and continuous and len(plan.states) == 1 else "approximate"

    def reason(self, system: System) -> str:
        if self.claim(system) == "exact":
            return "one state, linear and Gaussian"
        return "every state keeps a Gaussian of its own"

    def check(self, state: NetworkState) -> Array:
        sound = jnp.isfinite(state.mean).all() & (state.precision > 0.0).all()
        return jnp.where(sound, 0, int(Fault.PREDICTION)).astype(jnp.int32)


def _motion(system: System) -> Motion:
    if not isinstance(system.move, Motion):
        raise ArgumentTypeError("ClosedForm: expected the system of a network; make it with network.system().")
    return system.move


def _carry(means: Array, precisions: Array) -> Carry:
    return Carry(tuple(means), tuple(precisions), ())
