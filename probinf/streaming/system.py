"""A state-space system: a prior, a motion over any time difference, and any number of named sensors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from probinf.errors import ArgumentError, ArgumentTypeError, ModelError, UnknownNameError
from probinf.representations.angular import wrap
from probinf.representations.concrete import default_float, is_concrete
from probinf.streaming import recipe as recipes
from probinf.streaming.dry_run import abstract_distribution, positional_parameters
from probinf.streaming.linearity import check_linear_gaussian
from probinf.streaming.masking import masked_log_prob, separable
from probinf.streaming.sensor import Sensor

if TYPE_CHECKING:
    from probinf.streaming.filter import Filter
    from probinf.streaming.method import AbstractFilterMethod

__all__ = ["Sensor", "System", "state_space"]


class System:
    """A hidden state x(t) of shape (d,), how it moves, and how each sensor sees it.

    Args:
        prior: distribution of the state at the start: a `GaussianMixture`, a NumPyro distribution of event shape (d,),
            or any belief (something with `mean`, `cov`, `sample` and `log_prob`).
        move: `(x, dt)` or `(x, dt, u)` to the distribution of the state a time `dt` > 0 later, event shape (d,); `u` is
            the control, `None` where none is given. It is never called with dt = 0: no time leaves a belief unchanged.
        see: name to sensor; a sensor is a `Sensor` or a plain function `(x)` or `(x, inputs)`.
        angles: indices of state entries that are angles in radians.
        linear_gaussian: the user's word that everything is linear with Gaussian noise, checked numerically here;
            Gaussian filters then claim to be exact.
        name: used in messages.

    Raises:
        ModelError: a function fails in the dry run, or returns something of the wrong kind or shape.
        ArgumentTypeError, ArgumentError: an argument is of the wrong kind.
    """

    def __init__(
        self,
        prior: Any,
        move: Callable[..., dist.Distribution],
        see: Mapping[str, Sensor | Callable[..., dist.Distribution]],
        *,
        angles: Sequence[int] = (),
        linear_gaussian: bool = False,
        name: str = "system",
    ) -> None:
        if not callable(move):
            raise ArgumentTypeError(f"move: expected a function (x, dt) or (x, dt, u), found {type(move).__name__}.")
        if not isinstance(see, Mapping) or not all(isinstance(k, str) for k in see):
            raise ArgumentTypeError("see: expected a dictionary from sensor names to functions or Sensor objects.")
        self.prior, self.move, self.name = prior, move, name
        self.sensors = {k: s if isinstance(s, Sensor) else Sensor(s) for k, s in see.items()}
        self.linear_gaussian = bool(linear_gaussian)
        self.dim = _prior_dim(prior, name)
        self.dtype = default_float()
        self.angles = tuple(int(a) % self.dim if -self.dim <= a < self.dim else _bad_angle(a, self.dim) for a in angles)
        self.takes_control, self.needs_control = _accepts_control(move), False
        self.recipe: recipes.Call | recipes.Constant = recipes.Constant(self)
        if not recipes.rebuilding():
            self._check()

    # -- the model as distributions: pure functions of arrays -------------------------------------------------------

    def sample_prior(self, key: jax.Array, n: int) -> jax.Array:
        """Draws from the prior, shape (n, d)."""
        if isinstance(self.prior, dist.Distribution):
            draws = self.prior.sample(key, (n,))
        else:
            draws = self.prior.sample(key, n)
        return jnp.asarray(draws, self.dtype)

    def move_distribution(self, x: jax.Array, dt: jax.Array, control: jax.Array | None = None) -> dist.Distribution:
        """Distribution of the state a time `dt` > 0 after it was `x` (d,)."""
        return self.move(x, dt, control) if self.takes_control else self.move(x, dt)

    def sensor_distribution(self, name: str, x: jax.Array, inputs: jax.Array | None = None) -> dist.Distribution:
        """Distribution of the value of sensor `name` at the state `x` (d,)."""
        return self.sensor(name).distribution(x, inputs)

    def sensor_log_prob(
        self, name: str, x: jax.Array, value: jax.Array, observed: jax.Array, inputs: jax.Array | None = None
    ) -> jax.Array:
        """Log density of the observed coordinates of a value at one state, nats; `masked_log_prob` says how."""
        sensor = self.sensor(name)
        mask = observed if sensor.missing else None  # nothing can be missing: no masking to pay for
        return masked_log_prob(sensor.distribution(x, inputs), value, mask, sensor.angles)

    def wrap_angles(self, x: jax.Array) -> jax.Array:
        """States of shape (..., d) with their angles in (-pi, pi]."""
        if not self.angles:
            return x
        index = np.asarray(self.angles)
        return x.at[..., index].set(wrap(x[..., index]))

    # -- names and shapes -------------------------------------------------------------------------------------------

    def sensor(self, name: str) -> Sensor:
        """The sensor of that name; `UnknownNameError` if there is none."""
        try:
            return self.sensors[name]
        except (KeyError, TypeError):
            raise UnknownNameError(name, self.sensors, "sensor", repr(self.name)) from None

    def label(self, sensor: str) -> str:
        """The words that name a sensor in messages."""
        return f"sensor {sensor!r} of {self.name!r}"

    def describe_sensor(self, name: str, input_shape: tuple[int, ...] | None) -> dist.Distribution:
        """The sensor's distribution with abstract parameters, for inputs of that shape (`None`: no inputs)."""
        sensor, where = self.sensor(name), self.label(name)
        arguments = [jax.ShapeDtypeStruct((self.dim,), self.dtype)]
        if input_shape is not None and not sensor.takes_inputs:
            raise ArgumentError(f"{where} takes only the state, but inputs of shape {input_shape} were given.")
        if input_shape is not None:
            arguments.append(jax.ShapeDtypeStruct(input_shape, self.dtype))
        distribution = abstract_distribution(where, sensor.distribution, *arguments)
        sensor.check_angles(where, distribution)
        if sensor.missing and len(distribution.event_shape) > 0 and not separable(distribution):
            sensor.whole = True
        return distribution

    def with_prior(self, prior: Any) -> System:
        """The same system with another prior (say, the belief in which another run ended)."""
        other = object.__new__(System)
        other.__dict__.update(self.__dict__)
        other.prior = prior
        dim = _prior_dim(prior, self.name)
        if dim != self.dim:
            raise ArgumentError(f"prior: the state of {self.name!r} has {self.dim} entries, this prior has {dim}.")
        _check_prior_values(prior)
        other.recipe = recipes.with_prior(self.recipe, other)
        return other

    def with_move(self, move: Callable[..., dist.Distribution]) -> System:
        """The same system with another motion, checked by a dry run."""
        other = object.__new__(System)
        other.__dict__.update(self.__dict__)
        other.move = move
        other.takes_control, other.needs_control = _accepts_control(move), False
        other.recipe = recipes.Constant(other)
        other._check_move()
        return other

    def filter(self, method: AbstractFilterMethod, lag: float = 0.0) -> Filter:
        """A filter for this system; see `probinf.streaming.Filter`."""
        from probinf.streaming.filter import Filter

        return Filter(self, method, lag=lag)

    def __repr__(self) -> str:
        return f"System({self.name!r}, dim={self.dim}, sensors={sorted(self.sensors)}, angles={self.angles})"

    # -- checks at the door -----------------------------------------------------------------------------------------

    def _check_move(self) -> None:
        x = jax.ShapeDtypeStruct((self.dim,), self.dtype)
        dt = jax.ShapeDtypeStruct((), self.dtype)
        try:
            moved = abstract_distribution(f"move of {self.name!r}", self.move_distribution, x, dt, None)
        except ModelError:
            if not self.takes_control:
                raise
            self.needs_control = True  # it cannot do without a control, whose shape the first event will show
        else:
            if moved.event_shape != (self.dim,):
                raise ModelError(
                    f"move of {self.name!r} returned event shape {moved.event_shape}, expected {(self.dim,)} "
                    "as the prior's."
                )

    def _check(self) -> None:
        self._check_move()
        for name, sensor in self.sensors.items():
            if sensor.inputs is not None or not sensor.needs_inputs:
                self.describe_sensor(name, sensor.inputs)
        _check_prior_values(self.prior)
        if self.linear_gaussian:
            check_linear_gaussian(self)


def state_space(function: Callable[..., System]) -> Callable[..., System]:
    """Decorate a function that returns a `System`, so that its arguments become inputs of the compiled code.

    Filters of `boat(theta_1)` and `boat(theta_2)` then share their compiled steps as long as shapes agree. Arrays and
    floats among the arguments are traced; everything else (integers, strings, flags) is part of the program. A function
    that needs concrete arrays (NumPy calls on its arguments) still works, compiled anew for every call.

    Raises:
        ModelError: the function returned something else than a `System`.
    """

    @functools.wraps(function)
    def build(*args: Any, **kwargs: Any) -> System:
        system = function(*args, **kwargs)
        if not isinstance(system, System):
            raise ModelError(
                f"{function.__name__!r} is decorated with state_space but returned {type(system).__name__}; "
                "return a System."
            )
        if system.name == "system":
            system.name = function.__name__
        if not recipes.rebuilding():
            system.recipe = recipes.from_call(function, args, kwargs, system)
        return system

    return build


def _accepts_control(move: Callable[..., Any]) -> bool:
    needed, accepted = positional_parameters(move)
    if needed > 3 or accepted < 2:
        raise ArgumentError(f"move: the function must take (x, dt) or (x, dt, u); it needs {needed} arguments.")
    return accepted >= 3


def _bad_angle(angle: Any, dim: int) -> int:
    raise ArgumentError(f"angles: {angle} is not the index of a state entry; the state has {dim} entries.")


def _prior_dim(prior: Any, name: str) -> int:
    if isinstance(prior, dist.Distribution):
        if prior.batch_shape != () or len(prior.event_shape) != 1:
            raise ModelError(
                f"prior of {name!r}: expected a distribution over state vectors, batch shape () and event shape (d,), "
                f"found batch shape {prior.batch_shape} and event shape {prior.event_shape}. "
                "For independent entries use .to_event(1); for a scalar state .expand([1]).to_event(1)."
            )
        return prior.event_shape[0]
    if not all(hasattr(prior, part) for part in ("mean", "cov", "sample", "log_prob")):
        raise ArgumentTypeError(
            f"prior of {name!r}: expected a GaussianMixture, a NumPyro distribution or a belief, "
            f"found {type(prior).__name__}."
        )
    shape = jnp.shape(prior.mean)
    if len(shape) != 1:
        raise ModelError(f"prior of {name!r}: expected a mean of shape (d,), found {shape}.")
    return shape[0]


def _check_prior_values(prior: Any) -> None:
    mean = prior.mean
    if is_concrete(mean) and not np.all(np.isfinite(np.asarray(mean))):
        raise ModelError(f"prior: its mean is not finite: {np.asarray(mean)}.")
