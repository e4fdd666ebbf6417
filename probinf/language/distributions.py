"""NumPyro distributions as data: parameters as arrays, everything else hashable; batching; log densities."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions.batch_util import promote_batch_shape

from probinf._jax import ClosedJaxpr, as_strong, jaxprs_in_params
from probinf.language.small_products import draw_normal
from probinf.unrolled_threefry import rolled


@contextlib.contextmanager
def standard_promotion() -> Iterator[None]:
    """NumPyro is written for JAX's standard promotion rules; programs may be run under stricter ones."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def flatten(distribution: dist.Distribution) -> tuple[list[jax.Array], Any]:
    """Parameters of a distribution as strongly typed arrays, and its hashable structure."""
    leaves, structure = jax.tree.flatten(distribution)
    return [as_strong(leaf) for leaf in leaves], structure


def draw(distribution: dist.Distribution, key: jax.Array) -> jax.Array:
    """One draw of shape `batch_shape + event_shape`.

    Raises:
        NotImplementedError: the distribution is improper.
    """
    with standard_promotion():
        if type(distribution) is dist.MultivariateNormal:
            return draw_normal(distribution, key)
        try:
            return jnp.asarray(distribution.sample(key))
        except NotImplementedError:  # Poisson: for JAX's own kind of key only
            return jnp.asarray(distribution.sample(rolled(key)))


def stand_in(distribution: dist.Distribution) -> jax.Array:
    """Some value in the support, of a draw's shape: what an improper distribution offers in place of a draw."""
    with standard_promotion():
        return cast(Any, distribution.support).feasible_like(jnp.zeros(distribution.shape()))


@functools.lru_cache(maxsize=8)
def abstract_key() -> Any:
    """The type of a key; making a real one while staging would leave an equation in the program."""
    return jax.eval_shape(lambda: jax.random.key(0))


def draw_type(leaves: Sequence[Any], structure: Any) -> tuple[tuple[int, ...], Any]:
    """Shape and dtype of a draw, found without computing one; improper distributions have a type as well."""
    law = jax.tree.unflatten(structure, leaves)
    if hasattr(law, "draw_dtype"):  # a law of ours that knows
        return tuple(law.shape()), law.draw_dtype

    def one(ls: list, key: jax.Array) -> jax.Array:
        distribution = jax.tree.unflatten(structure, ls)
        try:
            return draw(distribution, key)
        except NotImplementedError:
            return stand_in(distribution)

    out = jax.eval_shape(one, list(leaves), abstract_key())
    return tuple(out.shape), out.dtype


def log_density(distribution: dist.Distribution, value: Any) -> jax.Array:
    """Scalar log density of a value, summed over the batch; -inf outside the support.

    NumPyro evaluates densities outside the support unless told otherwise (a negative value under a LogNormal gives
    NaN, 2.5 under a Poisson a finite number), so the support is applied here.
    """
    with standard_promotion():
        return _log_density(distribution, jnp.asarray(value))


def _log_density(distribution: dist.Distribution, value: jax.Array) -> jax.Array:
    inside = supported(distribution, value)
    # A legal stand-in keeps the gradient of the discarded branch finite.
    safe = value
    if inside is not None:
        stand_in = jax.lax.stop_gradient(cast(Any, distribution.support).feasible_like(value)).astype(value.dtype)
        event_dim = distribution.event_dim
        spread = inside.reshape(inside.shape + (1,) * event_dim)
        safe = jnp.where(jnp.broadcast_to(spread, value.shape), value, stand_in)
    logp = _elementwise(distribution, safe)
    if inside is not None:
        logp = jnp.where(jnp.broadcast_to(inside, logp.shape), logp, jnp.asarray(-jnp.inf, logp.dtype))
    return jnp.sum(logp)


def _elementwise(distribution: dist.Distribution, value: jax.Array) -> jax.Array:
    """Log density of shape `batch_shape` at a value in the support."""
    if type(distribution) is dist.Independent:
        each = _elementwise(distribution.base_dist, value)
        return jnp.sum(each, axis=tuple(range(-distribution.reinterpreted_batch_ndims, 0)))
    if type(distribution) is dist.BernoulliLogits:
        logits = jnp.asarray(distribution.logits)
        return log_sigmoid(logits * jnp.where(value == 1, jnp.ones((), logits.dtype), -jnp.ones((), logits.dtype)))
    if type(distribution) is dist.Normal:
        # NumPyro's log(sqrt(2 pi) scale) apart: the compiler knows log(exp(x)), which scales often are.
        loc, scale = (jnp.asarray(part) for part in (distribution.loc, distribution.scale))
        return -0.5 * ((value - loc) / scale) ** 2 - jnp.log(scale) - 0.5 * math.log(2 * math.pi)
    return jnp.asarray(distribution.log_prob(value))


@jax.custom_jvp
def log_sigmoid(x: jax.Array) -> jax.Array:
    """log(1 / (1 + exp(-x))), its derivative one sigmoid.

    Left to automatic differentiation, the gradient of a logistic regression of 1000 x 25 takes about 1.6 times as long
    (64 chains at once, CPU).
    """
    return jnp.minimum(x, 0.0) - jnp.log1p(jnp.exp(-jnp.abs(x)))


@log_sigmoid.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    return log_sigmoid(x), jax.nn.sigmoid(-x) * dx


_REAL = (
    type(dist.constraints.real),
    type(dist.constraints.real_vector),
    type(dist.constraints.real_matrix),
    type(dist.constraints.circular),
)


def supported(distribution: dist.Distribution, value: jax.Array) -> jax.Array | None:
    """Which elements (shape `batch_shape`) of a value lie in the support; None when every real number does.

    Also None for constraints that cannot be tested elementwise or have no stand-in value.
    """
    support = distribution.support
    if support is None or isinstance(support, _REAL):
        return None
    if isinstance(support, dist.constraints.independent) and isinstance(support.base_constraint, _REAL):
        return None
    try:
        inside = jnp.asarray(support(value))
        support.feasible_like(value)
    except NotImplementedError:
        return None
    return inside


class Lanes(dist.Distribution):
    """Independent copies of one family along a new leading axis, parameters possibly different in each lane.

    The general and always correct form; `lanes` prefers the family's own batching where that is proved to agree.
    """

    pytree_aux_fields = ("structure", "axes", "size")
    pytree_data_fields = ("leaves",)

    def __init__(self, leaves: tuple, structure: Any, axes: tuple[int | None, ...], size: int) -> None:
        self.leaves, self.structure, self.axes, self.size = tuple(leaves), structure, axes, size
        one = self._one(tuple(_first(x, a) for x, a in zip(leaves, axes, strict=True)))
        super().__init__(batch_shape=(size, *one.batch_shape), event_shape=one.event_shape)

    def _one(self, leaves: tuple) -> dist.Distribution:
        return jax.tree.unflatten(self.structure, list(leaves))

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        if sample_shape:
            keys = jax.random.split(key, sample_shape)
            flat = jax.vmap(self.sample)(keys.reshape(-1))
            return flat.reshape(*sample_shape, *flat.shape[1:])
        keys = jax.random.split(key, self.size)
        return jax.vmap(lambda k, ls: jnp.asarray(self._one(ls).sample(k)), in_axes=(0, self.axes))(keys, self.leaves)

    def log_prob(self, value: jax.Array, intermediates: Any = None) -> jax.Array:
        def log_prob(value: jax.Array) -> jax.Array:
            each = jax.vmap(lambda v, ls: jnp.asarray(self._one(ls).log_prob(v)), in_axes=(0, self.axes))
            return each(value, self.leaves)

        for _ in range(jnp.ndim(value) - self.event_dim - len(self.batch_shape)):  # sample axes, as when expanded
            log_prob = jax.vmap(log_prob)
        return log_prob(value)

    @property
    def support(self) -> Any:
        # Bounds may differ between lanes (Pareto, truncation): stack them, aligned with the value from the right.
        support = self._one(tuple(_first(x, a) for x, a in zip(self.leaves, self.axes, strict=True))).support
        if not jax.tree.leaves(support):
            return support
        own: Any = support
        while isinstance(own, dist.constraints.independent):
            own = own.base_constraint
        # A bound of a whole vector, as a multinomial's total, has no axes for the vector's entries.
        rank = len(self.batch_shape) - 1 + self.event_dim - own.event_dim

        def align(bound: jax.Array) -> jax.Array:
            return bound.reshape((self.size, *(1,) * (rank - bound.ndim + 1), *bound.shape[1:]))

        return jax.tree.map(align, jax.vmap(lambda ls: self._one(ls).support, in_axes=(self.axes,))(self.leaves))


def _first(leaf: Any, axis: int | None) -> Any:
    return leaf if axis is None else leaf[0]


_PROBE = 1009  # a lane count that no parameter axis has by accident


def lanes(leaves: Sequence[Any], structure: Any, mapped: Sequence[bool], size: int) -> dist.Distribution:
    """The distribution of `size` independent lanes: batch shape `(size, *batch_shape)`.

    Args:
        leaves: parameters; those marked in `mapped` have a leading axis of length `size`.
        structure: from `flatten`, for one lane.
        mapped: which parameters differ between lanes.
        size: number of lanes.
    """
    one = jax.tree.unflatten(structure, [_first(x, 0 if m else None) for x, m in zip(leaves, mapped, strict=True)])
    custom = getattr(type(one), "lanes", None)
    if custom is not None:
        return custom(jax.tree.unflatten(structure, list(leaves)), tuple(mapped), size)
    if not any(mapped):
        return one.expand((size, *one.batch_shape))
    types = tuple((tuple(np.shape(x)[1:] if m else np.shape(x)), x.dtype) for x, m in zip(leaves, mapped, strict=True))
    if _promotes(structure, types, tuple(mapped)):
        return _promote(leaves, structure, mapped)
    axes = tuple(0 if m else None for m in mapped)
    return Lanes(tuple(leaves), structure, axes, size)


def _promote(leaves: Sequence[Any], structure: Any, mapped: Sequence[bool]) -> dist.Distribution:
    # Parameters of one distribution are aligned with each other from the right, so one leading axis keeps them so.
    aligned = [x if m else jnp.expand_dims(x, 0) for x, m in zip(leaves, mapped, strict=True)]
    return promote_batch_shape(jax.tree.unflatten(structure, aligned))


@functools.lru_cache(maxsize=1024)
def _promotes(structure: Any, types: tuple, mapped: tuple[bool, ...]) -> bool:
    """Whether NumPyro's own batching of this family gives every lane draws of its own, of the right shape.

    Checked at an unmistakable lane count. The shape alone is not enough: with an `AffineTransform` whose shift is
    mapped and a base that is not, one draw of the base is shifted N times, and a mixture may share its component.
    """
    single = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in types]
    batched = [
        jax.ShapeDtypeStruct((_PROBE, *shape) if m else shape, dtype)
        for (shape, dtype), m in zip(types, mapped, strict=True)
    ]
    shape, dtype = draw_type(single, structure)
    try:
        closed = jax.make_jaxpr(lambda ls, key: draw(_promote(ls, structure, mapped), key))(batched, abstract_key())
    except Exception:  # any failure of third-party batching means: use the general form
        return False
    (out,) = closed.out_avals
    return tuple(out.shape) == (_PROBE, *shape) and out.dtype == dtype and _draws_per_lane(closed.jaxpr)


_GENERATORS = frozenset({"random_bits", "random_gamma", "threefry2x32", "rng_bit_generator", "rng_uniform"})


def _draws_per_lane(jaxpr: Any) -> bool:
    """Whether every call of a random number generator has the lane axis (the probe is a prime number)."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in _GENERATORS and any(math.prod(v.aval.shape) % _PROBE for v in eqn.outvars):
            return False
        inner = (j.jaxpr if isinstance(j, ClosedJaxpr) else j for j in jaxprs_in_params(eqn.params))
        if not all(map(_draws_per_lane, inner)):
            return False
    return True
