"""Networks that filter: the posterior of one step is the prior of the next, in training as in use."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from probinf.representations.mixture import GaussianMixture
from probinf.streaming.system import System
from transformers_gmm.components import Components
from transformers_gmm.examples import Problem
from transformers_gmm.task import AbstractTask

_FAR = 50.0  # nats; a filter that has lost its target says so with thousands, which would drown all other examples


class Step(eqx.Module):
    """What is known of one instant, for a batch of series.

    Attributes:
        elapsed: seconds since the belief before, shape (...); 0 at the start of a series.
        control: inputs of the motion, shape (..., C); C may be 0.
        values: sensor -> value, shape (..., m); anything finite where absent.
        present: sensor -> whether it reported, shape (...).
    """

    elapsed: Float[Array, "*batch"]
    control: Float[Array, "*batch controls"]
    values: dict[str, Float[Array, ...]]
    present: dict[str, Bool[Array, ...]]


class Series(eqx.Module):
    """Simulated series: priors of shape (n, ...), states (T, n, D) and steps whose arrays lead with (T, n)."""

    prior: Components
    states: Float[Array, "time batch dim"]
    steps: Step


class AbstractRecurrentTask(AbstractTask):
    """A state-space model whose belief is a mixture.

    All values of one instant make one problem, so their order cannot matter, and a sensor that is silent is a masked
    token. Training runs the filter along simulated series and then learns from windows of them, each from the belief
    that the filter had at its start: the beliefs of training are those of use, and what a window forgets costs later.
    With windows of one step every problem is built once, and gradients flow through the network alone: many more
    optimiser steps in the same time, and no product of many Jacobians that could blow up.

    Attributes:
        sensors: name -> number of entries of a value.
        num_controls: C, inputs of the motion.
        time_step: the only time difference the motion knows, seconds; None if it knows any.
        horizon: T, steps of a training series.
        unroll: steps through which a gradient flows, a divisor of `horizon`.
        groups: optimiser steps for each run of a batch of series, one for each group of series; a divisor of the batch.
    """

    sensors: eqx.AbstractVar[dict[str, int]]
    num_controls: eqx.AbstractVar[int]
    time_step: eqx.AbstractVar[float | None]
    horizon: eqx.AbstractVar[int]
    unroll: eqx.AbstractVar[int]
    groups: eqx.AbstractVar[int]

    @abc.abstractmethod
    def simulate(self, key: jax.Array, n: int) -> Series: ...

    @abc.abstractmethod
    def problem(self, previous: Components, step: Step) -> Problem:
        """The belief after the step, as far as it is known without learning, and what to correct it by."""

    @abc.abstractmethod
    def system(self, prior: GaussianMixture) -> System:
        """The same model for every other filter."""

    @property
    def updates(self) -> int:
        return self.groups

    def pieces(self, network: Any, examples: Series) -> tuple[Any, ...]:
        def one(belief: Components, given: tuple[Step, Array]) -> tuple[Components, Any]:
            problem = self.problem(belief, given[0])
            return network(problem), problem if self.unroll == 1 else belief

        data = (examples.steps, examples.states)
        _, before = jax.lax.scan(one, examples.prior, data)
        if self.unroll == 1:
            return jax.tree.map(lambda x: self._grouped(x, 1), (before, examples.states))
        starts = jax.tree.map(lambda x: x[:: self.unroll], before)
        windows = jax.tree.map(lambda x: x.reshape(self.horizon // self.unroll, self.unroll, *x.shape[1:]), data)
        steps, states = jax.tree.map(lambda x: self._grouped(x, 2), windows)
        return jax.tree.map(lambda x: self._grouped(x, 1), starts), steps, states

    def loss(self, network: Any, piece: tuple[Any, ...]) -> Float[Array, ""]:
        if self.unroll == 1:
            problem, states = piece
            return -jnp.mean(bounded(self.log_score(network(problem), states)))

        def one(belief: Components, given: tuple[Step, Array]) -> tuple[Components, Array]:
            step, state = given
            belief = network(self.problem(belief, step))
            return belief, self.log_score(belief, state)

        return -jnp.mean(bounded(jax.lax.scan(one, piece[0], piece[1:])[1]))

    def log_score(self, belief: Components, states: Float[Array, "*batch dim"]) -> Float[Array, "*batch"]:
        """Log density of the belief at the true states."""
        return belief.log_prob(states[..., None, :])[..., 0]

    def _grouped(self, x: Array, axis: int) -> Array:
        """Series, along `axis`, into groups, and the windows of a group, along the axis before, side by side."""
        split = x.reshape(*x.shape[:axis], self.groups, x.shape[axis] // self.groups, *x.shape[axis + 1 :])
        split = jnp.moveaxis(jnp.moveaxis(split, axis, 0), 1, axis)
        size = split.shape[axis] * split.shape[axis + 1]
        return split.reshape(*split.shape[:axis], size, *split.shape[axis + 2 :])


def run(
    network: Any, task: AbstractRecurrentTask, prior: Components, steps: Step, states: Float[Array, "time batch dim"]
) -> tuple[Components, Float[Array, "time batch"]]:
    """Filter a batch of series: the last belief, and log q(x*) of every step, (T, n)."""

    def one(belief: Components, given: tuple[Step, Array]) -> tuple[Components, Array]:
        step, state = given
        belief = network(task.problem(belief, step))
        return belief, task.log_score(belief, state)

    return jax.lax.scan(one, prior, (steps, states))


def base_only(problem: Problem) -> Components:
    """The network that has learned nothing."""
    return problem.base


def bounded(scores: Array) -> Array:
    """Log scores whose tail below -50 nats grows like a logarithm: lost series stay in the loss, but do not rule it."""
    lost = jnp.maximum(-scores - _FAR, 0)
    return jnp.where(scores < -_FAR, -_FAR - jnp.log1p(lost), scores)
