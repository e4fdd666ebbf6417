"""How compiled code gets a System back from arrays, so that new parameter values do not recompile anything."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

if TYPE_CHECKING:
    from probinf.streaming.system import System

_REBUILDING = contextvars.ContextVar("probinf_streaming_rebuilding", default=False)


def rebuilding() -> bool:
    """Whether a System is being built inside compiled code (its checks were done at the door)."""
    return _REBUILDING.get()


@contextlib.contextmanager
def _rebuild() -> Iterator[None]:
    token = _REBUILDING.set(True)
    try:
        yield
    finally:
        _REBUILDING.reset(token)


class Constant:
    """A System that is part of the program: its numbers are constants of the compiled code."""

    arrays: tuple = ()

    def __init__(self, system: System) -> None:
        self.key = _Constant(system)


class _Constant:
    """Hashable by the identity of the system it holds."""

    def __init__(self, system: System) -> None:
        self.system = system

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Constant) and other.system is self.system

    def __hash__(self) -> int:
        return id(self.system)

    def build(self, arrays: tuple) -> System:
        return self.system


class Call:
    """A System made by a decorated function: `arrays` are traced, `key` (function, structure, the rest) is static."""

    def __init__(self, key: _Call, arrays: tuple) -> None:
        self.key, self.arrays = key, arrays


class _Call:
    def __init__(self, function: Callable, structure: Any, static: tuple, name: str) -> None:
        self.function, self.structure, self.static, self.name = function, structure, static, name
        self._parts = (function, structure, tuple((type(s), s) for s in static))
        self._hash = hash(self._parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Call) and other._parts == self._parts

    def __hash__(self) -> int:
        return self._hash

    def build(self, arrays: tuple) -> System:
        given = iter(arrays)
        leaves = [next(given) if leaf is _TRACED else leaf for leaf in self.static]
        args, kwargs = jax.tree.unflatten(self.structure, leaves)
        with _rebuild():
            system = self.function(*args, **kwargs)
        system.name = self.name
        return system


class _Traced:
    """Stands in the static part for an argument that is traced."""


_TRACED = _Traced


def from_call(function: Callable, args: tuple, kwargs: dict, system: System) -> Call | Constant:
    """The recipe of `function(*args, **kwargs)`; a constant where the function cannot be traced."""
    leaves, structure = jax.tree.flatten((args, kwargs))
    traced = [isinstance(leaf, float | jax.Array | np.ndarray | np.floating) for leaf in leaves]
    arrays = tuple(leaf for leaf, t in zip(leaves, traced, strict=True) if t)
    static = tuple(_TRACED if t else leaf for leaf, t in zip(leaves, traced, strict=True))
    try:
        key = _Call(function, structure, static, system.name)
        jax.eval_shape(lambda a: (key.build(a), 0)[1], arrays)
    except Exception:  # the system itself was built; only its arguments cannot be abstract (or hashed)
        return Constant(system)
    return Call(key, arrays)


def with_prior(recipe: Call | Constant, system: System) -> Call | Constant:
    """The recipe of a system with a new prior: steps never look at the prior, so a call's recipe still serves."""
    return recipe if isinstance(recipe, Call) else Constant(system)
