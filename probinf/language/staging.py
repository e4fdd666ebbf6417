"""Staging: a Python function with statements becomes a jaxpr and a table of sites, once per shape."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf import _jax
from probinf.language.evaluate import evaluate, refuse_unsupported
from probinf.language.handlers import Condition
from probinf.language.mistakes import ConcreteNeeded, explain
from probinf.language.numpyro_models import Translate
from probinf.language.sites import SiteInfo, check_unique, sites_of
from probinf.language.statements import staging


@dataclasses.dataclass(frozen=True, eq=False)
class Staged:
    """A staged program. Compares by identity, so it can be a static argument of compiled functions.

    Attributes:
        name: the model's name.
        closed: the jaxpr; its operands are the leaves of `Program.operands`.
        results: the structure of the model's return value.
        sites: the table of sites.
    """

    name: str
    closed: _jax.ClosedJaxpr
    results: Any
    sites: tuple[SiteInfo, ...]

    def latent(self) -> list[SiteInfo]:
        """Sites that are drawn."""
        return [s for s in self.sites if s.kind == "sample"]

    def run(self, operands: Any, handler: Any, state: Any, values: Mapping[str, Any]) -> tuple[Any, Any, dict]:
        """Evaluate in one world: the model's return value, the handler's final state, the records."""
        outs, state, records = evaluate(self.closed, jax.tree.leaves(operands), handler, state, values)
        return jax.tree.unflatten(self.results, outs), state, records


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments of a model, split into arrays (traced) and the rest (static, hashable)."""

    structure: Any
    static: tuple[Any, ...]
    dynamic: tuple[Any, ...]

    @staticmethod
    def split(args: tuple, kwargs: dict) -> Arguments:
        """Separate arrays and floats from everything else."""
        leaves, structure = jax.tree.flatten((args, kwargs))
        moving = [_is_array(x) for x in leaves]
        static = tuple(_Traced if m else _hashable(x) for x, m in zip(leaves, moving, strict=True))
        return Arguments(structure, static, tuple(x for x, m in zip(leaves, moving, strict=True) if m))

    def join(self, dynamic: Any) -> tuple[tuple, dict]:
        """Put arrays (or tracers) back in their places."""
        rest = iter(dynamic)
        leaves = [next(rest) if x is _Traced else (x.value if isinstance(x, _ById) else x) for x in self.static]
        return jax.tree.unflatten(self.structure, leaves)


class _Traced:
    """Marks the place of an array among static arguments."""


@dataclasses.dataclass(frozen=True, eq=False)
class _ById:
    value: Any


def _is_array(x: Any) -> bool:
    if isinstance(x, jax.Array | float | np.floating):
        return True
    return isinstance(x, np.ndarray) and x.dtype.kind in "biufc"


def _hashable(x: Any) -> Any:
    try:
        hash(x)
    except TypeError:
        return _ById(x)
    return x


_CONCRETE_NEEDED = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
    ConcreteNeeded,
)
_cache: collections.OrderedDict[Any, Staged] = collections.OrderedDict()
_CACHE_SIZE = 512


def stage(
    name: str, function: Callable, arguments: Arguments, given: Mapping[str, Any], priors: Mapping[str, Any]
) -> tuple[Staged, Any]:
    """Stage a function, with some sites observed or given other priors.

    Returns:
        The staged program, and the operands that it takes.
    """
    prior_leaves, prior_structure = jax.tree.flatten(dict(priors))
    rest = (dict(given), prior_leaves)
    key = (
        name,
        function,
        arguments.structure,
        arguments.static,
        _types((arguments.dynamic, rest)),
        jax.tree.structure(rest),
        prior_structure,
        _jax.x64_enabled(),
    )
    if key in _cache:
        _cache.move_to_end(key)
        return _cache[key], (arguments.dynamic, rest)
    try:
        staged = _condition(
            _stage_plain(name, function, arguments, arguments.dynamic), arguments.dynamic, rest, prior_structure
        )
    except _CONCRETE_NEEDED:
        # NumPy calls and Python branches on the *data* are legal: stage once more with the arrays as constants.
        staged = _condition(_stage_plain(name, function, arguments, None), (), rest, prior_structure)
        return staged, ((), rest)
    _cache[key] = staged
    while len(_cache) > _CACHE_SIZE:
        _cache.popitem(last=False)
    return staged, (arguments.dynamic, rest)


def _types(tree: Any) -> tuple:
    def one(x: Any) -> tuple:
        weak = isinstance(x, float) or bool(getattr(x, "weak_type", False))
        x = x if hasattr(x, "dtype") else np.asarray(x)
        return tuple(x.shape), str(x.dtype), weak

    return tuple(one(x) for x in jax.tree.leaves(tree))


def _stage_plain(name: str, function: Callable, arguments: Arguments, dynamic: Any | None) -> Staged:
    def flat(*leaves: Any) -> Any:
        args, kwargs = arguments.join(leaves if dynamic is not None else arguments.dynamic)
        with staging(name), Translate(), explain(name, final=dynamic is None or not arguments.dynamic):
            return jax.tree.map(_jax.as_strong, function(*args, **kwargs))

    closed, shapes = jax.make_jaxpr(flat, return_shape=True)(*(dynamic if dynamic is not None else ()))
    refuse_unsupported(closed.jaxpr)
    sites = sites_of(closed.jaxpr)
    check_unique(name, sites)
    return Staged(name, closed, jax.tree.structure(shapes), sites)


def _condition(plain: Staged, dynamic: Any, rest: Any, prior_structure: Any) -> Staged:
    given, prior_leaves = rest

    def emit(dyn: Any, rest_in: Any) -> Any:
        values, leaves = rest_in
        priors = jax.tree.unflatten(prior_structure, leaves)
        if not values and not priors:
            return evaluate_as_is(plain, dyn)
        return plain.run(dyn, Condition(priors), (), values)[0]

    def evaluate_as_is(program: Staged, operands: Any) -> Any:
        return program.run(operands, Condition(), (), {})[0]

    if not given and not prior_leaves:
        return plain
    closed, shapes = jax.make_jaxpr(emit, return_shape=True)(dynamic, (dict(given), list(prior_leaves)))
    return Staged(plain.name, closed, jax.tree.structure(shapes), sites_of(closed.jaxpr))


def restage(name: str, function: Callable, operands: Any) -> Staged:
    """Stage a function that emits statements itself (a transformed program) on the given operands."""
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(operands)
    return Staged(name, closed, jax.tree.structure(shapes), sites_of(closed.jaxpr))


def abstract(x: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of an array-like."""
    x = jnp.asarray(x)
    return jax.ShapeDtypeStruct(x.shape, x.dtype)
