"""Where the randomness of a trace comes from: keys for work, a few equally likely ticks for exact proofs.

A trace holds one unit of randomness for every place where its program may draw; the value drawn is a deterministic
function of the unit and the distribution (docs/design.md, "Traces"). With keys every distribution qualifies. With
ticks the space of traces is finite, so that a kernel's transition matrix can be written down.
"""

from __future__ import annotations

import abc
import dataclasses
import itertools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from probinf.language.distributions import draw, log_density, standard_promotion
from probinf.transformations.enumeration import combinations


class RandomKeys(dist.Distribution):
    """Independent uniform keys: raw data of shape `(*shape, *key shape)`."""

    support = dist.constraints.nonnegative_integer  # pyright: ignore[reportAssignmentType]
    arg_constraints: ClassVar[dict] = {}
    pytree_data_fields: ClassVar[tuple] = ()
    pytree_aux_fields = ("shape_of_keys",)

    def __init__(self, shape_of_keys: tuple[int, ...] = ()) -> None:
        self.shape_of_keys = shape_of_keys
        super().__init__(batch_shape=(), event_shape=(*shape_of_keys, *_key_shape()))

    @property
    def draw_dtype(self) -> Any:
        """The type of a draw, for staging."""
        return jnp.dtype("uint32")

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        return jax.random.bits(key, (*sample_shape, *self.event_shape), jnp.uint32)

    def lanes(self, mapped: tuple[bool, ...], size: int) -> RandomKeys:
        """Independent keys for `size` lanes."""
        return RandomKeys((size, *self.shape_of_keys))


def _key_shape() -> tuple[int, ...]:
    return jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))).shape


class Randomness(abc.ABC):
    """Units of randomness: their law, and how a unit and a distribution give a value."""

    #: trailing shape of one unit
    unit: tuple[int, ...]

    @abc.abstractmethod
    def law(self, shape: tuple[int, ...]) -> Any:
        """The law of an array of units of this leading shape."""

    @abc.abstractmethod
    def value(self, distribution: Any, unit: jax.Array) -> jax.Array:
        """The draw that a unit stands for."""

    @abc.abstractmethod
    def fold(self, units: jax.Array, iteration: jax.Array) -> jax.Array:
        """The units of one iteration of a while loop, whose number of iterations is not known."""


@dataclasses.dataclass(frozen=True)
class Keys(Randomness):
    """A key at every place: the base measure is the uniform law of keys, and the weight of a trace its scores alone."""

    @property
    def unit(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return _key_shape()

    def law(self, shape: tuple[int, ...]) -> Any:
        return RandomKeys(shape)

    def value(self, distribution: Any, unit: jax.Array) -> jax.Array:
        return draw(distribution, jax.random.wrap_key_data(unit))

    def fold(self, units: jax.Array, iteration: jax.Array) -> jax.Array:
        def one(unit: jax.Array) -> jax.Array:
            return jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(unit), iteration))

        flat = units.reshape(-1, *self.unit)
        return jax.vmap(one)(flat).reshape(units.shape)


@dataclasses.dataclass(frozen=True)
class Ticks(Randomness):
    """One of `count` equally likely numbers at every place; a value is the quantile at the middle of the tick.

    Exact for distributions whose probabilities are multiples of 1/count, and some other program's exact law otherwise,
    which serves proofs about kernels as well.
    """

    count: int

    unit: ClassVar[tuple[int, ...]] = ()  # pyright: ignore[reportIncompatibleVariableOverride]

    def law(self, shape: tuple[int, ...]) -> Any:
        return dist.CategoricalProbs(jnp.full((*shape, self.count), 1.0 / self.count))

    def value(self, distribution: Any, unit: jax.Array) -> jax.Array:
        middle = (jnp.asarray(unit, jnp.result_type(float)) + 0.5) / self.count
        if hasattr(distribution, "from_uniforms"):
            uniforms = jnp.broadcast_to(middle, (*distribution.batch_shape, *distribution.num_uniforms()))
            one = distribution.from_uniforms
            for _ in distribution.batch_shape:
                one = jax.vmap(one)
            return one(uniforms, distribution.log_weights)
        with standard_promotion():
            shape = (*distribution.batch_shape, *distribution.event_shape)
            leaves, structure = jax.tree.flatten(distribution)
            # The support follows from the shapes: read it off a copy whose parameters are known while tracing.
            stand_in = jax.tree.unflatten(structure, [np.ones(jnp.shape(x), jnp.result_type(x)) for x in leaves])
            with jax.ensure_compile_time_eval():
                atoms = jnp.asarray(combinations("a site", stand_in, shape))
            log_probs = jax.vmap(lambda v: log_density(distribution, v))(atoms)
            cumulative = jnp.cumsum(jnp.exp(log_probs))
            # Half a tick of slack is never needed, a rounding error of slack is: 0.1 + 0.2 against 3 of 10 ticks.
            index = jnp.sum(cumulative <= middle * cumulative[-1], dtype=jnp.int32)
            return atoms[jnp.minimum(index, len(atoms) - 1)]

    def fold(self, units: jax.Array, iteration: jax.Array) -> jax.Array:
        return ((units + iteration.astype(units.dtype)) % self.count).astype(units.dtype)

    def all_units(self, shape: tuple[int, ...]) -> np.ndarray:
        """Every array of units of this shape, stacked along a new first axis."""
        size = int(np.prod(shape, dtype=int))
        grid = np.array(list(itertools.product(range(self.count), repeat=size)))
        return grid.reshape(self.count**size, *shape).astype(np.int32)
