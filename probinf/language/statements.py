"""What users write inside a model: sample, observe, factor, deterministic, plate, scope, vmap."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from probinf import _jax
from probinf.errors import ArgumentError, ArgumentTypeError, DataError, ModelError
from probinf.language.primitives import Site, bind_factor, bind_observe, bind_sample, deterministic_p

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@dataclasses.dataclass(frozen=True)
class Plate:
    """An axis of conditionally independent repetitions; `dim` counts from the right, -1 is the last batch axis."""

    name: str
    size: int
    dim: int


@dataclasses.dataclass
class Context:
    """What surrounds a statement while a model is being staged."""

    model: str = "model"
    plates: tuple[Plate, ...] = ()
    scope: str = ""
    token: Any = None


_context: contextvars.ContextVar[Context | None] = contextvars.ContextVar("probinf_context", default=None)


@contextlib.contextmanager
def staging(model: str) -> Iterator[None]:
    """Open the context in which statements are legal."""
    reset = _context.set(Context(model=model))
    try:
        yield
    finally:
        _context.reset(reset)


def is_staging() -> bool:
    """Whether statements are legal here: a model is being staged."""
    return _context.get() is not None


@contextlib.contextmanager
def _within(**changes: Any) -> Iterator[None]:
    reset = _context.set(dataclasses.replace(_current("plate"), **changes))
    try:
        yield
    finally:
        _context.reset(reset)


def _current(statement: str) -> Context:
    context = _context.get()
    if context is None:
        raise ModelError(
            f"pi.{statement} was called outside of a model. Decorate the function with @pi.model and run the program: "
            "pi.infer(model(...), method, seed=0) or model(...).simulate(seed=0)."
        )
    return context


def caller() -> str:
    """File and line of the nearest frame outside of this package and of installed libraries."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith(_PACKAGE) and "site-packages" not in name and "contextlib" not in name:
            return f"{os.path.basename(name)}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def sample(name: str, distribution: dist.Distribution, *, obs: Any = None, broadcast: bool = False) -> jax.Array:
    """Draw the value of a site, or observe it when `obs` is given.

    Args:
        name: unique in the program (under its scopes).
        distribution: any NumPyro distribution; plates around the call widen its batch shape.
        obs: the observed value, of shape `batch_shape + event_shape`.
        broadcast: allow an `obs` of another shape that broadcasts to that one.

    Returns:
        The value, of shape `batch_shape + event_shape`.

    Raises:
        ModelError: not a legal statement here (see the message).
        DataError: `obs` has another shape, is NaN or infinite, or lies outside the support.
    """
    context = _current("sample")
    where = caller()
    site, distribution = _site(name, distribution, context, where)
    if obs is not None:
        value = observed_value(site, distribution, obs, broadcast=broadcast)
        bind_observe(site, distribution, value)
        return value
    token = () if context.token is None else (context.token,)
    if not token and _jax.inside_plain_vmap():
        tracers = [x for x in jax.tree.leaves(distribution) if "BatchTrace" in type(x).__name__ or _is_mapped(x)]
        if not tracers:
            raise ModelError(
                f"Site {site.label} is drawn under jax.vmap, but nothing in its distribution differs between the "
                "lanes: all of them would share one draw. Use `with pi.plate(name, size):`, or pi.vmap in place of "
                "jax.vmap, for independent draws."
            )
    (value,) = bind_sample(site, distribution, *token)
    return value


def _is_mapped(x: Any) -> bool:
    return isinstance(x, jax.core.Tracer) and "Batch" in type(x).__name__


def observe(name: str, distribution: dist.Distribution, value: Any, *, broadcast: bool = False) -> jax.Array:
    """Observe `value` at a site: the same as `sample(name, distribution, obs=value)`, and None is an error."""
    if value is None:
        raise DataError(f"Site {name!r}: observe needs a value, found None. Use pi.sample for a latent site.")
    return sample(name, distribution, obs=value, broadcast=broadcast)


def factor(name: str, log_factor: Any) -> None:
    """Multiply the weight of this execution by `exp(log_factor)`; an array is summed. `-inf` is a legal zero."""
    context = _current("factor")
    site = Site(_full_name(name, context, "factor"), where=caller(), family="factor")
    value = jnp.asarray(log_factor)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        value = value.astype(jnp.result_type(float))
    bind_factor(site, value)


def deterministic(name: str, value: Any) -> jax.Array:
    """Name a computed value so that it appears among the results."""
    context = _current("deterministic")
    value = _jax.as_strong(value)
    names = [p.name for p in sorted(context.plates, key=lambda p: p.dim)]
    dims = tuple(names) if value.ndim >= len(names) else ()
    site = Site(_full_name(name, context, "deterministic"), dims=dims, where=caller(), family="deterministic")
    return deterministic_p.bind(value, site=site)[0]


@contextlib.contextmanager
def plate(name: str, size: int, *, dim: int | None = None) -> Iterator[jax.Array]:
    """Conditionally independent repetitions along one batch axis, as NumPyro's plate.

    Args:
        name: the axis's name; it becomes the dimension's name in results.
        size: number of repetitions, a positive Python integer.
        dim: batch axis counted from the right (negative); the rightmost free one by default.

    Yields:
        The indices 0..size-1.
    """
    context = _current("plate")
    if isinstance(size, bool) or not isinstance(size, int | np.integer):
        raise ArgumentTypeError(f"plate {name!r}: size must be a Python integer, found {type(size).__name__}.")
    if size < 1:
        raise ArgumentError(f"plate {name!r}: size must be at least 1, found {size}.")
    taken = {p.dim: p.name for p in context.plates}
    if dim is None:
        dim = next(d for d in range(-1, -len(taken) - 2, -1) if d not in taken)
    if dim >= 0:
        raise ArgumentError(f"plate {name!r}: dim counts batch axes from the right and must be negative, found {dim}.")
    if dim in taken:
        raise ModelError(f"plate {name!r}: batch axis {dim} is already taken by plate {taken[dim]!r}.")
    if name in taken.values():
        raise ModelError(f"plate {name!r} is already open here. Give the inner plate another name.")
    with _within(plates=(*context.plates, Plate(name, int(size), dim))):
        yield jnp.arange(size)


@contextlib.contextmanager
def scope(prefix: str) -> Iterator[None]:
    """Prefix the names of the sites inside with `prefix/`, so that a sub-model can be used twice."""
    context = _current("scope")
    with _within(scope=f"{context.scope}{prefix}/"):
        yield


def vmap(function: Callable, in_axes: Any = 0, out_axes: Any = 0, *, axis_size: int | None = None) -> Callable:
    """`jax.vmap` for functions with draws inside: every lane draws for itself."""

    def mapped(*args: Any) -> Any:
        context = _current("vmap")
        size = axis_size
        if size is None:
            axes = in_axes if isinstance(in_axes, tuple | list) else (in_axes,) * len(args)
            sizes = {
                np.shape(leaf)[axis]
                for arg, axis in zip(args, axes, strict=True)
                if isinstance(axis, int)
                for leaf in jax.tree.leaves(arg)
            }
            if len(sizes) != 1:
                raise ArgumentError(f"vmap: mapped arguments must share one length, found {sorted(sizes)}.")
            size = sizes.pop()

        def lane(token: jax.Array, *inner: Any) -> Any:
            joined = token if context.token is None else token + context.token
            with _within(token=joined):
                return function(*inner)

        axes = tuple(in_axes) if isinstance(in_axes, tuple | list) else (in_axes,) * len(args)
        return jax.vmap(lane, (0, *axes), out_axes)(jnp.zeros(size), *args)

    return mapped


def _full_name(name: Any, context: Context, statement: str) -> str:
    if not isinstance(name, str) or not name:
        raise ArgumentTypeError(
            f"pi.{statement}: the first argument is the site's name, a non-empty string; found {name!r}."
        )
    return context.scope + name


def _site(name: str, distribution: Any, context: Context, where: str) -> tuple[Site, dist.Distribution]:
    full = _full_name(name, context, "sample")
    if not isinstance(distribution, dist.Distribution):
        raise ArgumentTypeError(
            f"Site {full!r} ({where}): expected a NumPyro distribution, found {type(distribution).__name__}. "
            "Write numpyro.distributions.Delta(value) for a known value."
        )
    check_parameters(full, where, distribution)
    if context.plates:
        distribution = _expand(full, where, distribution, context.plates)
    by_dim = {p.dim: p.name for p in context.plates}
    dims = tuple(by_dim.get(d) for d in range(-len(distribution.batch_shape), 0))
    support = distribution.support
    known = not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(support))
    site = Site(full, dims=dims, where=where, support=support if known else None, family=type(distribution).__name__)
    return site, distribution


def _expand(name: str, where: str, distribution: Any, plates: tuple[Plate, ...]) -> Any:
    shape = list(distribution.batch_shape)
    for p in plates:
        while len(shape) < -p.dim:
            shape.insert(0, 1)
        if shape[p.dim] not in (1, p.size):
            raise ModelError(
                f"Site {name!r} ({where}): batch shape {tuple(distribution.batch_shape)} does not fit plate "
                f"{p.name!r} of size {p.size} on axis {p.dim}; that axis has length {shape[p.dim]}. "
                "Use .to_event(1) for dependent axes, or give the plate another dim."
            )
        shape[p.dim] = p.size
    return distribution.expand(tuple(shape)) if tuple(shape) != distribution.batch_shape else distribution


def check_parameters(name: str, where: str, distribution: Any) -> None:
    """Refuse parameters known to be impossible while staging (a negative scale, weights that do not sum to one)."""
    for parameter, constraint in distribution.arg_constraints.items():
        if parameter not in distribution.__dict__:
            continue  # lazily computed twins of the parameter that was given
        value = distribution.__dict__[parameter]
        if isinstance(value, jax.core.Tracer) or value is None:
            continue
        try:
            legal = np.asarray(constraint(value))
        except (NotImplementedError, ValueError, jax.errors.JAXTypeError):  # bounds that depend on other parameters
            continue
        if not legal.all():
            raise ModelError(
                f"Site {name!r} ({where}): {type(distribution).__name__} got an impossible {parameter} = "
                f"{np.array2string(np.asarray(value), threshold=6)}; expected {constraint_text(constraint)}."
            )
    inner = getattr(distribution, "base_dist", None)
    if isinstance(inner, dist.Distribution):
        check_parameters(name, where, inner)


def constraint_text(constraint: Any) -> str:
    """A constraint in words: 'positive', 'real', 'interval [0, 1]'."""
    text = str(constraint)
    return text.replace("_", " ").replace("Independent(", "").split("(")[0].strip().lower() or text


def observed_value(site: Site, distribution: Any, obs: Any, *, broadcast: bool = False) -> jax.Array:
    """Check an observed value against its site and return it as an array of the site's shape and dtype."""
    expected = tuple(distribution.batch_shape) + tuple(distribution.event_shape)
    value = as_data(f"Site {site.label}", obs)
    if tuple(value.shape) != expected:
        try:
            fits = np.broadcast_shapes(value.shape, expected) == expected
        except ValueError:
            fits = False
        if not (fits and (broadcast or value.ndim == 0)):
            wider = "" if fits or value.size <= np.prod(expected, dtype=int) else _wider(value.shape, expected)
            raise DataError(
                f"Site {site.label}: the observed value has shape {tuple(value.shape)}, the distribution "
                f"({site.family}) has batch shape {tuple(distribution.batch_shape)} and event shape "
                f"{tuple(distribution.event_shape)}, so {expected} is expected{_axes(site)}.{wider} "
                "Pass broadcast=True to repeat a smaller value on purpose."
            )
        value = jnp.broadcast_to(value, expected)
    if not isinstance(value, jax.core.Tracer):
        check_values(site, np.asarray(value))
    return jnp.asarray(value)


def _wider(found: tuple[int, ...], expected: tuple[int, ...]) -> str:
    try:
        np.broadcast_shapes(found, expected)
    except ValueError:
        return ""
    return " The two broadcast to something larger than either: a silent outer product, so this is refused."


def _axes(site: Site) -> str:
    named = [d for d in site.dims if d]
    return f" (axes {', '.join(map(repr, named))})" if named else ""


def as_data(what: str, obs: Any) -> Any:
    """Data as a numeric array, or an error that names what it is for."""
    if isinstance(obs, jax.Array | jax.core.Tracer):
        return obs
    if hasattr(obs, "to_numpy"):  # pandas and xarray
        obs = obs.to_numpy()
    try:
        array = np.asarray(obs)
    except ValueError as error:
        raise ArgumentTypeError(f"{what}: expected a rectangular numeric array, found a ragged {type(obs).__name__}."
                                ) from error
    if array.dtype.kind not in "biufc":
        raise ArgumentTypeError(
            f"{what}: expected numbers, found dtype {array.dtype} ({type(obs).__name__}). "
            "Encode strings and categories as integers first."
        )
    return jnp.asarray(array)


def check_values(site: Site, value: np.ndarray) -> None:
    """Refuse NaN, infinities and values outside a support known while staging."""
    if value.dtype.kind == "f":
        for bad, word in ((np.isnan(value), "NaN"), (np.isinf(value), "infinite")):
            if bad.any():
                index = tuple(int(i) for i in np.argwhere(bad)[0])
                raise DataError(
                    f"Site {site.label}: {int(bad.sum())} of {value.size} observed values are {word}, the first at "
                    f"index {index}. Remove them, or model the missing entries as latent values."
                )
    if site.support is None:
        return
    try:
        inside = np.asarray(site.support(jnp.asarray(value)))
    except (NotImplementedError, TypeError, ValueError):
        return
    if not inside.all():
        index = tuple(int(i) for i in np.argwhere(~inside)[0])
        raise DataError(
            f"Site {site.label}: the observed value {value[index]} at index {index} lies outside the support of "
            f"{site.family} ({constraint_text(site.support)}); {int((~inside).sum())} of {inside.size} do."
        )
