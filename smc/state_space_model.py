"""State-space models in discrete time, given by their three laws; what particle filters and smoothers take."""

from __future__ import annotations

import abc
from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from probinf.errors import ArgumentError, ModelError
from probinf.language import statements
from probinf.language.distributions import draw, log_density, standard_promotion
from probinf.language.program import Program
from probinf.language.staging import Arguments
from probinf.random import as_key
from probinf.representations.concrete import is_concrete
from probinf.streaming.masking import masked_log_prob


class StateSpaceModel(eqx.Module):
    r"""A hidden Markov chain $x_0, x_1, \dots$ and an observation $y_t$ of each state.

    Subclass it; fields are parameters, so that new values compile nothing, gradients flow into them and `jax.vmap` runs
    many of them::

        class StochasticVolatility(smc.StateSpaceModel):
            persistence: float
            scale: float

            def initial(self):
                return dist.Normal(0.0, self.scale / jnp.sqrt(1 - self.persistence**2))

            def transition(self, t, x):
                return dist.Normal(self.persistence * x, self.scale)

            def observation(self, t, x):
                return dist.Normal(0.0, jnp.exp(x / 2))

    The laws are written for one state; filters run them for all particles at once. Time-varying inputs are fields that
    the laws index by `t`. A state is one array of any shape, an observation too.

    Attributes:
        missing: "nan" lets NaN stand for coordinates that were not observed; they are left out exactly.
    """

    missing: ClassVar[Literal["error", "nan"]] = "error"

    @abc.abstractmethod
    def initial(self) -> dist.Distribution:
        """The law of x_0."""

    @abc.abstractmethod
    def transition(self, t: Any, x: Any) -> dist.Distribution:
        """The law of x_t given x_{t-1}; t is a traced integer, at least 1."""

    @abc.abstractmethod
    def observation(self, t: Any, x: Any) -> dist.Distribution:
        """The law of y_t given x_t."""

    def log_observation(self, t: Any, x: Any, y: Any) -> jax.Array:
        """Log density of the observed coordinates of y_t at the state x_t, nats."""
        with standard_promotion():
            law = self.observation(t, x)
            if self.missing == "nan":
                return masked_log_prob(law, y, ~jnp.isnan(y))
            return log_density(law, y)

    def log_transition(self, t: Any, x_before: Any, x: Any) -> jax.Array:
        """Log density of x_t given x_{t-1}, nats."""
        return log_density(_law(self.transition, t, x_before), x)

    def simulate(self, key: Any, num_steps: int) -> tuple[jax.Array, jax.Array]:
        """States and observations of one run.

        Args:
            key: key or integer seed.
            num_steps: T, at least 1.

        Returns:
            States (T, *state) and observations (T, *observation).

        Raises:
            ArgumentError: `num_steps` is below 1.
        """
        if num_steps < 1:
            raise ArgumentError(f"num_steps: expected at least 1, found {num_steps}.")
        k_first, k_see, k_rest = jax.random.split(as_key(key, argument="key"), 3)
        x0 = draw(_law(self.initial), k_first)
        y0 = draw(_law(self.observation, jnp.asarray(0), x0), k_see)

        def step(x: jax.Array, t: jax.Array) -> tuple[jax.Array, tuple]:
            k_move, k_look = jax.random.split(jax.random.fold_in(k_rest, t))
            x = draw(_law(self.transition, t, x), k_move).astype(x.dtype)
            return x, (x, draw(_law(self.observation, t, x), k_look))

        _, (xs, ys) = jax.lax.scan(step, x0, jnp.arange(1, num_steps))
        return jnp.concatenate([x0[None], xs]), jnp.concatenate([y0[None], ys])

    def program(self, ys: Any, proposal: Any = None) -> Program:
        """The model as a program, for `pi.infer` and the algorithms that take programs.

        Sites are "x0", "x" (T - 1, ...), "y0" and "y"; the result is the states, (T, *state).

        Args:
            ys: observations (T, *observation).
            proposal: a `smc.Proposal` that draws the states instead, weighted so that the measure is the same; a
                population of this program is the guided filter.

        Raises:
            ArgumentError, ModelError: as `check_data`.
        """
        return Program(type(self).__name__, _as_program, Arguments.split((self, self.check_data(ys), proposal), {}))

    def check_data(self, ys: Any) -> jax.Array:
        """Observations as an array (T, *observation), checked at the door.

        Raises:
            ModelError: a law fails or has a batch shape.
            ArgumentError: wrong shape, NaN where the model does not declare it, or an infinite value; the row is named.
        """
        name = type(self).__name__
        _, seen = jax.eval_shape(lambda: _shapes(self))
        return checked_rows(name, ys, seen, self.missing)


def checked_rows(name: str, ys: Any, seen: Any, missing: str) -> jax.Array:
    """Observations (T, *seen.shape) of the model `name`, checked as `StateSpaceModel.check_data` says."""
    ys = jnp.asarray(ys)
    if not jnp.issubdtype(ys.dtype, jnp.inexact) and jnp.issubdtype(seen.dtype, jnp.inexact):
        ys = ys.astype(seen.dtype)
    if ys.ndim < 1 or ys.shape[1:] != seen.shape or ys.shape[0] < 1:
        raise ArgumentError(
            f"ys: expected shape (T, {', '.join(map(str, seen.shape))}) with T at least 1, one observation of "
            f"{name} per row, found {ys.shape}."
        )
    if is_concrete(ys) and jnp.issubdtype(ys.dtype, jnp.inexact):
        values = np.asarray(ys).reshape(ys.shape[0], -1)
        wrong = np.isinf(values) if missing == "nan" else ~np.isfinite(values)
        if wrong.any():
            row = int(np.argmax(wrong.any(axis=1)))
            hint = "" if np.isinf(values[row]).any() else "; set missing = 'nan' in the class if it was not seen"
            raise ArgumentError(
                f"ys: row {row} of {ys.shape[0]} is {np.asarray(ys)[row]}, expected finite numbers{hint}."
            )
    return ys


def _shapes(self: StateSpaceModel) -> tuple[jax.Array, jax.Array]:
    name = type(self).__name__
    key, t = jax.random.key(0), jnp.asarray(1)
    x = _checked_draw(f"{name}.initial()", self.initial(), key)
    moved = _checked_draw(f"{name}.transition(t, x)", _law(self.transition, t, x), key)
    if moved.shape != x.shape:
        raise ModelError(
            f"{name}.transition(t, x): its draw has shape {moved.shape}, but a state has shape {x.shape} (initial())."
        )
    return x, _checked_draw(f"{name}.observation(t, x)", _law(self.observation, t, x), key)


def _checked_draw(where: str, law: Any, key: jax.Array) -> jax.Array:
    if not isinstance(law, dist.Distribution):
        raise ModelError(f"{where}: expected a distribution, found {type(law).__name__}.")
    if law.batch_shape:
        raise ModelError(
            f"{where}: expected a distribution of one value, found batch shape {law.batch_shape}; add "
            f".to_event({len(law.batch_shape)}) for independent entries."
        )
    return draw(law, key)


def _law(function: Any, *args: Any) -> Any:
    with standard_promotion():
        return function(*args)


def _as_program(self: StateSpaceModel, ys: Any, proposal: Any) -> Any:
    x0 = _one_step(self, jnp.asarray(0), None, ys[0], proposal, ("x0", "y0"))

    def step(x: Any, row: Any) -> tuple[Any, Any]:
        t, y = row
        x = _one_step(self, t, x, y, proposal, ("x", "y")).astype(x.dtype)
        return x, x

    _, xs = jax.lax.scan(step, x0, (jnp.arange(1, ys.shape[0]), ys[1:]))
    return jnp.concatenate([x0[None], xs])


def _one_step(self: StateSpaceModel, t: Any, x: Any, y: Any, proposal: Any, names: tuple[str, str]) -> Any:
    if proposal is not None:
        return proposal.propose(self, t, x, y, names)
    x = statements.sample(names[0], _law(self.initial) if x is None else _law(self.transition, t, x))
    if self.missing == "nan":
        statements.factor(names[1], self.log_observation(t, x, y))
    else:
        statements.observe(names[1], _law(self.observation, t, x), y)
    return x
