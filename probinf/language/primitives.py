"""The four statements of a program as JAX primitives: sample, observe, factor, deterministic.

Operands are arrays (distribution parameters, values); everything static is hashable and compares by value, so that
tracing the same model twice gives equal equations. See docs/design.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from probinf._jax import Primitive, define_statement, shaped
from probinf.language import distributions


@dataclasses.dataclass(frozen=True)
class Site:
    """Where a statement stands.

    Attributes:
        name: unique in its program; empty for draws that an algorithm makes for itself (ancestors).
        dims: names of the value's batch axes, right-aligned; None for unnamed ones.
        where: file and line of the statement; not part of the identity.
        support: the constraint, when its bounds are known while staging; not part of the identity.
        family: the distribution's class name, for messages.
        is_unset: the site is latent because the statement was given obs=None; not part of the identity.
    """

    name: str
    dims: tuple[str | None, ...] = ()
    where: str = dataclasses.field(default="", compare=False)
    support: Any = dataclasses.field(default=None, compare=False)
    family: str = dataclasses.field(default="", compare=False)
    is_unset: bool = dataclasses.field(default=False, compare=False)

    @property
    def label(self) -> str:
        """The site for a message: its name and where it stands."""
        return f"{self.name!r}" + (f" ({self.where})" if self.where else "")


_NO_HANDLER = (
    "Site {site} was reached outside of inference: a model runs under a handler that decides what its draws mean. "
    "Use pi.infer(model(...), method, seed=0), model(...).simulate(seed=0), or call the model inside another model."
)


def _sample_abstract(*_: Any, shape: tuple[int, ...], dtype: Any, **__: Any) -> list:
    return [shaped(shape, dtype)]


def _lanes(operands: Sequence[Any], axes: Sequence[Any], count: int, structure: Any) -> tuple[Any, list, int]:
    size = next(x.shape[a] for x, a in zip(operands, axes, strict=True) if a is not None)
    moved = [x if a is None else jnp.moveaxis(x, a, 0) for x, a in zip(operands, axes, strict=True)]
    mapped = [a is not None for a in axes]
    return distributions.lanes(moved[:count], structure, mapped[:count], size), moved, size


def _sample_batch(operands: Any, axes: Any, *, site: Site, structure: Any, count: int, **_: Any) -> tuple:
    batched = _lanes(operands, axes, count, structure)[0]
    return bind_sample(site, batched), [0]


def _observe_batch(operands: Any, axes: Any, *, site: Site, structure: Any, count: int) -> tuple:
    batched, moved, size = _lanes(operands, axes, count, structure)
    value = moved[count]
    if axes[count] is None:
        value = jnp.broadcast_to(value, (size, *value.shape))
    bind_observe(site, batched, value)
    return [], []


def _factor_batch(operands: Any, axes: Any, *, site: Site) -> tuple:
    factor_p.bind(jnp.moveaxis(operands[0], axes[0], 0), site=site)
    return [], []


def _deterministic_batch(operands: Any, axes: Any, *, site: Site) -> tuple:
    return deterministic_p.bind(jnp.moveaxis(operands[0], axes[0], 0), site=site), [0]


def _same(x: Any, **_: Any) -> list:
    return [shaped(x.shape, x.dtype)]


sample_p: Primitive = define_statement("sample", _sample_abstract, _sample_batch, _NO_HANDLER)
observe_p: Primitive = define_statement("observe", lambda *_, **__: [], _observe_batch, _NO_HANDLER)
factor_p: Primitive = define_statement("factor", lambda *_, **__: [], _factor_batch, _NO_HANDLER)
deterministic_p: Primitive = define_statement("deterministic", _same, _deterministic_batch, _NO_HANDLER)
STATEMENTS = frozenset({sample_p, observe_p, factor_p, deterministic_p})


def bind_sample(site: Site, distribution: Any, *tokens: Any) -> list:
    """Emit a draw. `tokens` are extra operands whose only use is to be mapped by `vmap`."""
    leaves, structure = distributions.flatten(distribution)
    shape, dtype = distributions.draw_type(leaves, structure)
    return sample_p.bind(*leaves, *tokens, site=site, structure=structure, count=len(leaves), shape=shape, dtype=dtype)


def bind_observe(site: Site, distribution: Any, value: Any) -> None:
    """Emit an observation of `value`."""
    leaves, structure = distributions.flatten(distribution)
    observe_p.bind(*leaves, jnp.asarray(value), site=site, structure=structure, count=len(leaves))


def bind_factor(site: Site, log_factor: Any) -> None:
    """Emit a log weight; an array is summed."""
    factor_p.bind(jnp.asarray(log_factor), site=site)


def distribution_of(eqn_params: dict, operands: Sequence[Any]) -> Any:
    """The distribution of a sample or observe equation, rebuilt from its operands."""
    return jax.tree.unflatten(eqn_params["structure"], list(operands[: eqn_params["count"]]))
