"""Mixtures over constrained values: a Gaussian mixture over f(x) as a NumPyro distribution of x, Jacobian included."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform

from probinf.errors import ArgumentError, ArgumentTypeError

Support = Any  # a NumPyro constraint, or a pair of one and the shape of the constrained value


class BlockTransform(Transform):
    """Consecutive blocks of a vector, each through its own bijection and flattened; event dimension one.

    Args:
        parts: for each block its bijection (`biject_to` of a support), the size of the unconstrained block and the
            shape of the constrained value.
    """

    def __init__(self, parts: Sequence[tuple[Transform, int, tuple[int, ...]]]) -> None:
        self.transforms = [transform for transform, _, _ in parts]
        self.sizes = tuple(size for _, size, _ in parts)
        self.shapes = tuple(shape for _, _, shape in parts)

    @property
    def domain(self) -> Any:
        return constraints.real_vector

    @property
    def codomain(self) -> Any:
        return constraints.independent(constraints.real, 1)

    def __call__(self, x: Any) -> Any:
        parts = zip(self.transforms, self._blocks(x), self.shapes, strict=True)
        return jnp.concatenate([self._flat(f(block), shape) for f, block, shape in parts], axis=-1)

    def _inverse(self, y: Any) -> Any:
        parts = zip(self.transforms, self._values(y), self.shapes, strict=True)
        return jnp.concatenate([self._flat(f.inv(v), f.inverse_shape(shape)) for f, v, shape in parts], axis=-1)

    def log_abs_det_jacobian(self, x: Any, y: Any, intermediates: Any = None) -> Any:
        """Log |det df^-1/dx| with respect to the free entries of the constrained values, summed over the blocks."""
        parts = zip(self.transforms, self._blocks(x), self._values(y), strict=True)
        batch = jnp.ndim(x) - 1
        each = [jnp.asarray(f.log_abs_det_jacobian(block, value)) for f, block, value in parts]
        return sum(jnp.sum(part, axis=tuple(range(batch, part.ndim))) for part in each)

    def forward_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Sizes of constrained vectors."""
        return (*shape[:-1], sum(math.prod(s) for s in self.shapes))

    def inverse_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Sizes of unconstrained vectors."""
        return (*shape[:-1], sum(self.sizes))

    def tree_flatten(self) -> Any:
        return (self.transforms,), (("transforms",), {"sizes": self.sizes, "shapes": self.shapes})

    def eq(self, other: object, static: bool = False) -> Any:
        """Whether the blocks and their bijections are the same."""
        if not isinstance(other, BlockTransform) or (self.sizes, self.shapes) != (other.sizes, other.shapes):
            return False
        return all(a.eq(b, static=static) for a, b in zip(self.transforms, other.transforms, strict=True))

    def _blocks(self, x: Any) -> list[Any]:
        blocks, start = [], 0
        for f, size, shape in zip(self.transforms, self.sizes, self.shapes, strict=True):
            block = x[..., start : start + size]
            blocks.append(block.reshape(*x.shape[:-1], *f.inverse_shape(shape)))
            start += size
        return blocks

    def _values(self, y: Any) -> list[Any]:
        values, start = [], 0
        for shape in self.shapes:
            size = math.prod(shape)
            values.append(y[..., start : start + size].reshape(*y.shape[:-1], *shape))
            start += size
        return values

    @staticmethod
    def _flat(value: Any, shape: tuple[int, ...]) -> Any:
        return value.reshape(*value.shape[: value.ndim - len(shape)], math.prod(shape))


def bijection(supports: Sequence[Support], dim: int) -> BlockTransform:
    """From vectors (d,) to constrained values, one support after the other.

    Raises:
        ArgumentTypeError: an entry is no NumPyro constraint.
        ArgumentError: the supports do not take up d coordinates.
    """
    parts = []
    for i, support in enumerate(supports):
        constraint, shape = support if isinstance(support, tuple) else (support, ())
        if not isinstance(constraint, constraints.Constraint):
            raise ArgumentTypeError(
                f"supports: entry {i}: expected a NumPyro constraint such as constraints.positive, or a pair of one "
                f"and a shape, found {type(constraint).__name__}."
            )
        if len(shape) < constraint.event_dim:
            raise ArgumentError(
                f"supports: entry {i}: values of {constraint} have {constraint.event_dim} axes, found the shape "
                f"{shape}. Write (constraint, shape)."
            )
        transform = dist.biject_to(constraint)
        parts.append((transform, math.prod(transform.inverse_shape(shape)), tuple(shape)))
    taken = sum(size for _, size, _ in parts)
    if taken != dim:
        raise ArgumentError(
            f"supports: expected supports of {dim} unconstrained coordinates in all, these have {taken}."
        )
    return BlockTransform(parts)


def constrained(mixture: dist.Distribution, supports: Sequence[Support]) -> dist.Distribution:
    """The distribution of x where f(x) has the given distribution over vectors, f the bijections of the supports."""
    (dim,) = mixture.event_shape
    with jax.numpy_rank_promotion("allow"):
        return dist.TransformedDistribution(mixture, bijection(supports, dim))
