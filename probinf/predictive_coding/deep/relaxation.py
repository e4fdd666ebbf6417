"""Inference: the free activities move downhill in energy."""

from __future__ import annotations

import abc
import functools
from typing import Any, NamedTuple, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from probinf.arguments import positive_integer
from probinf.predictive_coding.deep.checks import positive_number
from probinf.predictive_coding.deep.clamping import (
    Clamp,
    Free,
    activities,
    clamped,
    energies,
    layer_energies,
    start,
    with_first,
)
from probinf.predictive_coding.deep.energy import Gaussian, NoEnergy
from probinf.predictive_coding.deep.network import DeepNetwork
from probinf.predictive_coding.deep.optimisers import as_optimiser, moved

_MOST_FRONTS = 4  # steps written out for that; each costs a compilation of the network


class RelaxationInfo(NamedTuple):
    """How an inference went.

    Attributes:
        energies: before each step; one that has stopped keeps its last.
        num_steps: steps taken.
        gradient_norm: largest derivative of the energy in a free activity, at the end.
        is_converged: whether that is within the tolerance (of `FixedSteps`: whether it is finite).
    """

    energies: Float[Array, "steps examples"]
    num_steps: Int[Array, " examples"]
    gradient_norm: Float[Array, " examples"]
    is_converged: Bool[Array, " examples"]


class AbstractRelaxation(eqx.Module):
    """A way to find activities of low energy for a batch of examples."""

    @abc.abstractmethod
    def run(self, network: DeepNetwork, clamp: Clamp, free: Free) -> tuple[Free, RelaxationInfo]:
        """Activities of low energy, from those of a forward pass; everything has a leading axis of examples."""

    def check(self, network: DeepNetwork) -> None:
        """Raise if the network is not one that this relaxation can treat."""


class FixedSteps(AbstractRelaxation):
    """So many steps of gradient descent, or of any Optax transformation, on the summed energy.

    Steps do not depend on the size of the batch. From a forward pass layer l moves first at step L - l.

    Args:
        num_steps: T.
        optimiser: a step size, or an Optax transformation such as `optax.sgd(0.05, momentum=0.5)`.
    """

    num_steps: int = eqx.field(static=True, default=8)
    optimiser: Any = eqx.field(static=True, default=0.1)

    def __check_init__(self) -> None:
        positive_integer("num_steps", self.num_steps)
        as_optimiser("optimiser", self.optimiser)

    def run(self, network: DeepNetwork, clamp: Clamp, free: Free) -> tuple[Free, RelaxationInfo]:
        optimiser = as_optimiser("optimiser", self.optimiser)
        descent = jax.grad(_summed, argnums=2, has_aux=True)
        first_steps = self._fronts(network, clamp)
        first_traces = []
        for front in first_steps:
            still = free[:front]
            moving, before = jax.grad(lambda below, still=still: _summed(network, clamp, still + below), has_aux=True)(
                free[front:]
            )
            below, _ = moved(optimiser, free[front:], moving, optimiser.init(cast(Any, free[front:])))
            free = still + below
            first_traces.append(before)

        def step(carry: tuple[Free, Any], _: None) -> tuple[tuple[Free, Any], Array]:
            free, state = carry
            gradient, before = descent(network, clamp, free)
            return moved(optimiser, free, gradient, state), before

        start, length = (free, optimiser.init(cast(Any, free))), self.num_steps - len(first_steps)
        (free, _), trace = jax.lax.scan(step, start, length=length)
        trace = jnp.concatenate([jnp.stack(first_traces), trace]) if first_traces else trace
        norm = _largest(*descent(network, clamp, free))
        return free, RelaxationInfo(trace, jnp.full(norm.shape, self.num_steps), norm, jnp.isfinite(norm))

    def _fronts(self, network: DeepNetwork, clamp: Clamp) -> range:
        """For each of the first steps the layer from which on activities move.

        Before it every error is exactly 0 after a forward pass, and so is every derivative: a step of plain descent
        need not look there. The front rises by one layer a step.
        """
        is_plain = not isinstance(self.optimiser, optax.GradientTransformation)
        is_held = clamp.inputs is not None and clamp.outputs is not None and clamp.observed is None
        is_gaussian = all(isinstance(energy, Gaussian | NoEnergy) for energy in network.energies[:-1])
        if not (is_plain and is_held and is_gaussian):
            return range(0)
        return range(len(network.layers) - 1, 1, -1)[: min(self.num_steps, _MOST_FRONTS)]


class ToConvergence(AbstractRelaxation):
    """Gradient descent until every derivative of the energy is small; the energy never rises.

    Each example has its own Barzilai-Borwein step size; a step that would raise the energy is taken back and quartered.

    Args:
        tolerance: largest derivative left.
        max_steps: gives up after so many, with `is_converged` False.

    References:
        Barzilai & Borwein (1988), Two-point step size gradient methods, eq. 5.
    """

    tolerance: float = eqx.field(static=True, default=1e-4)
    max_steps: int = eqx.field(static=True, default=500)

    def __check_init__(self) -> None:
        positive_number("tolerance", self.tolerance)
        positive_integer("max_steps", self.max_steps)

    def run(self, network: DeepNetwork, clamp: Clamp, free: Free) -> tuple[Free, RelaxationInfo]:
        descent = jax.grad(_summed, argnums=2, has_aux=True)
        gradient, energy = descent(network, clamp, free)
        slack = 8.0 * jnp.finfo(energy.dtype).eps  # rounding of an energy must not look like a rise

        def unfinished(carry: Any) -> Array:
            i, _, gradient, energy, *_ = carry
            return (i < self.max_steps) & jnp.any(_largest(gradient, energy) > self.tolerance)

        def step(carry: Any) -> Any:
            i, free, gradient, energy, size, trace, taken = carry
            active = _largest(gradient, energy) > self.tolerance
            length = jnp.where(active, size, jnp.zeros_like(size))
            trial = jax.tree.map(lambda z, g: z - _along(length, g) * g, free, gradient)
            new_gradient, new_energy = descent(network, clamp, trial)
            accepted = active & (new_energy <= energy + slack * (1.0 + jnp.abs(energy)))
            square = length**2 * _inner(gradient, gradient, energy)
            curvature = length * (_inner(gradient, gradient, energy) - _inner(gradient, new_gradient, energy))
            proposal = jnp.where(curvature > 0.0, square / jnp.where(curvature > 0.0, curvature, 1.0), 2.0 * size)
            size = jnp.where(accepted, proposal, jnp.where(active, 0.25 * size, size))
            free, gradient = (
                jax.tree.map(lambda a, b: jnp.where(_along(accepted, a), a, b), new, old)
                for new, old in ((trial, free), (new_gradient, gradient))
            )
            trace = trace.at[i].set(energy)
            energy = jnp.where(accepted, new_energy, energy)
            return i + 1, free, gradient, energy, size, trace, taken + active.astype(taken.dtype)

        size = 1.0 / (1.0 + jnp.sqrt(_inner(gradient, gradient, energy)))
        trace = jnp.zeros((self.max_steps, *energy.shape), energy.dtype)
        count = jnp.zeros(energy.shape, jnp.asarray(0).dtype)
        carry = (0, free, gradient, energy, size, trace, count)
        i, free, gradient, energy, _, trace, count = jax.lax.while_loop(unfinished, step, carry)
        trace = jnp.where(jnp.arange(self.max_steps)[:, None] < i, trace, energy[None])
        norm = _largest(gradient, energy)
        return free, RelaxationInfo(trace, count, norm, norm <= self.tolerance)


class Equilibrium(NamedTuple):
    """Activities after an inference.

    Attributes:
        activities: of the layers 0..L, each (examples, *shape).
        predictions: of the layers 1..L.
        energies: of the layers 0..L, nats; column 0 is the prior of free inputs.
        info: how the inference went.
    """

    activities: tuple[Array, ...]
    predictions: tuple[Array, ...]
    energies: Float[Array, "examples layers"]
    info: RelaxationInfo


def relax(
    network: DeepNetwork,
    relaxation: AbstractRelaxation,
    *,
    inputs: Any = None,
    outputs: Any = None,
    observed: Any = None,
) -> Equilibrium:
    """Infer the free activities given those that are held.

    Args:
        network: layers and energies.
        relaxation: `FixedSteps`, `ToConvergence` or `ExactLinear`.
        inputs: (examples, *input_shape), or None: z_0 is then inferred under the prior.
        outputs: (examples, *output_shape), or None: the outputs are then predicted.
        observed: booleans of one output or of all: which units are held. The others are inferred; their values in
            `outputs` are not looked at.

    Raises:
        DataError: data of another shape, or not finite.
        ArgumentError: nothing is clamped, or the relaxation cannot treat this network.

    Example:
        >>> network = mlp((3, 5, 2), key=0)
        >>> found = relax(network, ToConvergence(), inputs=jnp.ones((4, 3)), outputs=jnp.zeros((4, 2)))
        >>> bool(found.info.is_converged.all())
        True
    """
    relaxation.check(network)
    return _relaxed(network, relaxation, clamped(network, inputs, outputs, observed))


@eqx.filter_jit
def _relaxed(network: DeepNetwork, relaxation: AbstractRelaxation, clamp: Clamp) -> Equilibrium:
    clamp, free = prepared(network, clamp)
    free, info = relaxation.run(network, clamp, free)
    z = jax.vmap(activities)(clamp, free)
    predictions = tuple(jax.vmap(layer)(above) for layer, above in zip(network.layers, z[:-1], strict=True))
    return Equilibrium(z, predictions, jax.vmap(layer_energies, (None, 0, 0))(network, clamp, free), info)


def prepared(network: DeepNetwork, clamp: Clamp) -> tuple[Clamp, Free]:
    """A batch's clamp with its first predictions, and the start of a forward pass."""
    clamp = jax.vmap(lambda c: with_first(network, c))(clamp)
    return clamp, jax.vmap(lambda c: start(network, c))(clamp)


def _summed(network: DeepNetwork, clamp: Clamp, free: Free) -> tuple[Array, Array]:
    """The summed energy, whose gradient in one example's activities knows nothing of the others, and its parts."""
    each = energies(network, clamp, free)
    return jnp.sum(each), each


def _along(values: Array, like: Array) -> Array:
    """One value per example, shaped to multiply activities."""
    return values.reshape(values.shape + (1,) * (like.ndim - 1))


def _inner(a: Free, b: Free, like: Array) -> Array:
    """Inner product of each example; `like` has an entry for each."""
    parts = jax.tree.map(lambda x, y: jnp.sum((x * y).reshape(len(x), -1), axis=1), a, b)
    return sum(jax.tree.leaves(parts), jnp.zeros_like(like))


def _largest(gradient: Free, like: Array) -> Array:
    """Largest absolute entry of each example, 0 where nothing is free."""
    parts = jax.tree.map(lambda g: jnp.max(jnp.abs(g).reshape(len(g), -1), axis=1), gradient)
    return functools.reduce(jnp.maximum, jax.tree.leaves(parts), jnp.zeros_like(like))
