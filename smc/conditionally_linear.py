"""Models that are linear and Gaussian once part of the state is known, and the Kalman filter of that part."""

from __future__ import annotations

import abc
import math
from typing import Any, ClassVar, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from probinf.errors import ArgumentError, ModelError
from probinf.language.distributions import draw, standard_promotion
from probinf.random import as_key
from smc.kalman import square_root, symmetric
from smc.small_normal import cholesky, product, solve_lower
from smc.state_space_model import checked_rows


class LinearGaussian(NamedTuple):
    r"""The law of $A z + b + \varepsilon$, $\varepsilon \sim N(0, \text{noise})$.

    Attributes:
        matrix: A, (p, d).
        noise: covariance, (p, p).
        offset: b, (p,); None for zero.
    """

    matrix: Any
    noise: Any
    offset: Any = None


class Gaussian(NamedTuple):
    """A mean (d,) and a covariance (d, d)."""

    mean: Any
    cov: Any


class ConditionallyLinear(eqx.Module):
    r"""A Markov chain $u_t$ of any kind, and a linear-Gaussian model of $z_t$ whose matrices depend on it.

    $$z_t = F z_{t-1} + b + N(0, Q), \qquad y_t = H z_t + c + N(0, R),$$

    where F, b, Q depend on t, u_{t-1} and u_t, and H, c, R on t and u_t. The chain u does not look at z. With a
    discrete u this is a jump Markov linear system. Subclass it; fields are parameters::

        class Gearbox(smc.ConditionallyLinear):
            stay: float

            def initial(self):
                return dist.Categorical(jnp.array([0.5, 0.5]))

            def transition(self, t, u):
                return dist.Categorical(jnp.where(jnp.arange(2) == u, self.stay, 1 - self.stay))

            def linear_initial(self, u):
                return smc.Gaussian(jnp.zeros(1), jnp.eye(1))

            def linear_transition(self, t, u_before, u):
                return smc.LinearGaussian(jnp.eye(1), jnp.where(u == 0, 0.01, 1.0) * jnp.eye(1))

            def linear_observation(self, t, u):
                return smc.LinearGaussian(jnp.eye(1), 0.25 * jnp.eye(1))

            def summary(self, u):
                return jax.nn.one_hot(u, 2)   # its filtering means are the probabilities of the gears

    Attributes:
        missing: "nan" lets NaN stand for coordinates that were not observed; they are left out exactly.
    """

    missing: ClassVar[Literal["error", "nan"]] = "error"

    @abc.abstractmethod
    def initial(self) -> dist.Distribution:
        """The law of u_0: one array of any shape, discrete or continuous."""

    @abc.abstractmethod
    def transition(self, t: Any, u: Any) -> dist.Distribution:
        """The law of u_t given u_{t-1}; t is a traced integer, at least 1."""

    @abc.abstractmethod
    def linear_initial(self, u: Any) -> Gaussian:
        """Mean and covariance of z_0 given u_0."""

    @abc.abstractmethod
    def linear_transition(self, t: Any, u_before: Any, u: Any) -> LinearGaussian:
        """F, Q and b: the law of z_t given z_{t-1}, u_{t-1} and u_t."""

    @abc.abstractmethod
    def linear_observation(self, t: Any, u: Any) -> LinearGaussian:
        """H, R and c: the law of y_t given z_t and u_t."""

    def summary(self, u: Any) -> Any:
        """What a filter averages of u; u itself by default. An array."""
        return u

    def simulate(self, key: Any, num_steps: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """One run: u (T, ...), z (T, d) and y (T, p).

        Raises:
            ArgumentError: `num_steps` is below 1.
        """
        if num_steps < 1:
            raise ArgumentError(f"num_steps: expected at least 1, found {num_steps}.")
        k_u, k_z, k_y, k_rest = jax.random.split(as_key(key, argument="key"), 4)

        def normal(key: jax.Array, mean: jax.Array, cov: jax.Array) -> jax.Array:
            return mean + square_root(cov) @ jax.random.normal(key, mean.shape, mean.dtype)

        def see(key: jax.Array, t: Any, u: jax.Array, z: jax.Array) -> jax.Array:
            law = observation_at(self, t, u)
            return normal(key, law.matrix @ z + law.offset, law.noise)

        with standard_promotion():
            u0 = draw(self.initial(), k_u)
        first = initial_at(self, u0)
        z0 = normal(k_z, first.mean, first.cov)

        def step(carry: tuple, t: jax.Array) -> tuple[tuple, tuple]:
            u_before, z = carry
            k_u, k_z, k_y = jax.random.split(jax.random.fold_in(k_rest, t), 3)
            with standard_promotion():
                u = draw(self.transition(t, u_before), k_u).astype(u_before.dtype)
            law = transition_at(self, t, u_before, u)
            z = normal(k_z, law.matrix @ z + law.offset, law.noise)
            return (u, z), (u, z, see(k_y, t, u, z))

        start = (u0, z0, see(k_y, jnp.asarray(0), u0, z0))
        _, rest = jax.lax.scan(step, start[:2], jnp.arange(1, num_steps))
        us, zs, ys = (jnp.concatenate([a[None], b]) for a, b in zip(start, rest, strict=True))
        return us, zs, ys

    def check_data(self, ys: Any) -> jax.Array:
        """Observations as an array (T, p), checked at the door.

        Raises:
            ModelError: a law is not a distribution of one value, or a matrix does not fit the others; it is named.
            ArgumentError: wrong shape, NaN where the model does not declare it, or an infinite value; the row is named.
        """
        seen = jax.eval_shape(lambda: _checked_shapes(self))
        return checked_rows(type(self).__name__, ys, seen, self.missing)


def predict(z: Gaussian, law: LinearGaussian) -> Gaussian:
    """The Gaussian moved by the law."""
    cov = product(product(law.matrix, z.cov), law.matrix.T) + law.noise
    return Gaussian(_times(law.matrix, z.mean) + law.offset, symmetric(cov))


def update(z: Gaussian, law: LinearGaussian, y: jax.Array, seen: jax.Array) -> tuple[Gaussian, jax.Array]:
    """The Gaussian given that the law showed y (p,), and the log density that it predicted, nats.

    Coordinates that were not `seen` are left out exactly: their rows are those of a sensor that shows the identity's
    noise and nothing of z. The covariance is in Joseph form.
    """
    dtype = z.mean.dtype
    matrix = jnp.where(seen[:, None], law.matrix, 0)
    noise = jnp.where(seen[:, None] & seen[None, :], law.noise, jnp.eye(seen.size, dtype=dtype))
    residual = jnp.where(seen, y - _times(matrix, z.mean) - law.offset, 0)
    cross = product(matrix, z.cov)
    factor = cholesky(symmetric(product(cross, matrix.T) + noise))
    white = solve_lower(factor, residual)
    inverse = solve_lower(factor, jnp.eye(seen.size, dtype=dtype))
    gain = product(product(inverse.T, inverse), cross).T
    keep = jnp.eye(z.mean.size, dtype=dtype) - product(gain, matrix)
    cov = product(product(keep, z.cov), keep.T) + product(product(gain, noise), gain.T)
    half_log_det = jnp.sum(jnp.log(jnp.diagonal(factor)))
    count = jnp.sum(seen, dtype=jnp.int32).astype(dtype)
    log_density = -0.5 * jnp.sum(white**2) - half_log_det - 0.5 * count * math.log(2 * math.pi)
    return Gaussian(z.mean + _times(gain, residual), symmetric(cov)), log_density


def initial_at(model: ConditionallyLinear, u: Any) -> Gaussian:
    """`linear_initial` in the library's floats."""
    with standard_promotion():
        mean, cov = model.linear_initial(u)
    return Gaussian(_float(mean), _float(cov))


def transition_at(model: ConditionallyLinear, t: Any, u_before: Any, u: Any) -> LinearGaussian:
    """`linear_transition` in the library's floats, the offset written out."""
    with standard_promotion():
        return _complete(model.linear_transition(t, u_before, u))


def observation_at(model: ConditionallyLinear, t: Any, u: Any) -> LinearGaussian:
    """`linear_observation` in the library's floats, the offset written out."""
    with standard_promotion():
        return _complete(model.linear_observation(t, u))


def _complete(law: Any) -> LinearGaussian:
    matrix, noise, offset = law
    matrix = _float(matrix)
    offset = jnp.zeros(matrix.shape[0], matrix.dtype) if offset is None else _float(offset)
    return LinearGaussian(matrix, _float(noise), offset)


def _float(x: Any) -> jax.Array:
    return jnp.asarray(x).astype(jnp.result_type(float))


def _times(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    return jnp.sum(matrix * vector[None, :], axis=1)


def _checked_shapes(model: ConditionallyLinear) -> jax.Array:
    """Something of an observation's shape; every law is looked at on the way."""
    name, t = type(model).__name__, jnp.asarray(1)
    with standard_promotion():
        u = _value(f"{name}.initial()", model.initial())
        moved = _value(f"{name}.transition(t, u)", model.transition(t, u))
    if moved.shape != u.shape:
        raise ModelError(f"{name}.transition(t, u): its draw has shape {moved.shape}, but u_0 has shape {u.shape}.")
    with standard_promotion():
        laws = [model.linear_initial(u), model.linear_transition(t, u, u), model.linear_observation(t, u)]
    start, motion, see = laws
    if not (isinstance(start, tuple) and len(start) == 2):
        raise ModelError(f"{name}.linear_initial(u): expected a Gaussian(mean, cov), found {type(start).__name__}.")
    dim = jnp.size(start[0])
    _expect(f"{name}.linear_initial(u).mean", start[0], (dim,))
    _expect(f"{name}.linear_initial(u).cov", start[1], (dim, dim))
    for function, law in (("linear_transition(t, u_before, u)", motion), ("linear_observation(t, u)", see)):
        if not isinstance(law, LinearGaussian):
            raise ModelError(f"{name}.{function}: expected a LinearGaussian, found {type(law).__name__}.")
    rows = (dim, jnp.shape(see.noise)[-1] if jnp.ndim(see.noise) else 1)
    for function, law, out in zip(("linear_transition", "linear_observation"), (motion, see), rows, strict=True):
        _expect(f"{name}.{function}(...).matrix", law.matrix, (out, dim))
        _expect(f"{name}.{function}(...).noise", law.noise, (out, out))
        if law.offset is not None:
            _expect(f"{name}.{function}(...).offset", law.offset, (out,))
    return observation_at(model, t, u).offset


def _value(where: str, law: Any) -> jax.Array:
    if not isinstance(law, dist.Distribution):
        raise ModelError(f"{where}: expected a distribution, found {type(law).__name__}.")
    if law.batch_shape:
        raise ModelError(f"{where}: expected a distribution of one value, found batch shape {law.batch_shape}.")
    return draw(law, jax.random.key(0))


def _expect(where: str, found: Any, shape: tuple[int, ...]) -> None:
    if jnp.shape(found) != shape:
        raise ModelError(f"{where}: expected shape {shape}, found {jnp.shape(found)}.")
