"""What users write inside a model: sample, observe, factor, deterministic, plate, scope, vmap."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from probinf import _jax
from probinf.errors import ArgumentError, ArgumentTypeError, DataError, ModelError
from probinf.language.checks import check_parameters, family_name, observed_value
from probinf.language.places import caller
from probinf.language.primitives import Site, bind_factor, bind_observe, bind_sample, deterministic_p


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
    vmaps: int = 0  # those around the whole program, which are no concern of its statements
    plates: tuple[Plate, ...] = ()
    scope: str = ""
    token: Any = None
    sites: list[tuple[Site, tuple[int, ...]]] = dataclasses.field(default_factory=list)  # drawn so far, for messages


_context: contextvars.ContextVar[Context | None] = contextvars.ContextVar("probinf_context", default=None)


@contextlib.contextmanager
def staging(model: str) -> Iterator[None]:
    """Open the context in which statements are legal."""
    reset = _context.set(Context(model=model, vmaps=len(_jax.vmaps_around())))
    try:
        yield
    finally:
        _context.reset(reset)


def is_staging() -> bool:
    """Whether statements are legal here: a model is being staged."""
    return _context.get() is not None


def sites_so_far() -> list[tuple[Site, tuple[int, ...]]]:
    """The sites that the model being staged has reached, with their shapes."""
    context = _context.get()
    return [] if context is None else context.sites


@contextlib.contextmanager
def _within(**changes: Any) -> Iterator[None]:
    reset = _context.set(dataclasses.replace(_current("plate"), **changes))
    try:
        yield
    finally:
        _context.reset(reset)


def _current(statement: str, name: Any = "") -> Context:
    context = _context.get()
    if context is None:
        raise ModelError(
            f"pi.{statement}({repr(name) if name else ''}) was called outside of a model. Decorate "
            "the function with @pi.model and run the program: pi.infer(model(...), method, seed=0) or "
            "model(...).simulate(seed=0)."
        )
    return context


_LATENT: Any = object()


def sample(name: str, distribution: dist.Distribution, *, obs: Any = _LATENT, broadcast: bool = False) -> jax.Array:
    """Draw the value of a site, or observe it when `obs` is given.

    Args:
        name: unique in the program (under its scopes).
        distribution: any NumPyro distribution; plates around the call widen its batch shape.
        obs: the observed value, of shape `batch_shape + event_shape`. None leaves the site latent; inference says so
            when the None comes from an argument of the model.
        broadcast: allow an `obs` of another shape that broadcasts to that one.

    Returns:
        The value, of shape `batch_shape + event_shape`.

    Raises:
        ModelError: not a legal statement here (see the message).
        DataError: `obs` has another shape, is NaN or infinite, or lies outside the support.
    """
    site, distribution = site_of(name, distribution, caller(), is_unset=obs is None)
    if obs is not None and obs is not _LATENT:
        value = observed_value(site, distribution, obs, broadcast=broadcast)
        bind_observe(site, distribution, value)
        return value
    return draw_at(site, distribution)


def draw_at(site: Site, distribution: dist.Distribution) -> jax.Array:
    """Emit the draw of a latent site; under `pi.vmap` every lane draws for itself.

    Raises:
        ModelError: unmapped by the innermost `jax.vmap`, or a family that cannot be drawn from.
    """
    context = _current("sample")
    token = () if context.token is None else (context.token,)
    vmaps = _jax.vmaps_around()
    if len(vmaps) > context.vmaps and not any(
        _jax.is_mapped_by(vmaps[0], x) for x in (*token, *jax.tree.leaves(distribution))
    ):
        raise ModelError(
            f"Site {site.label} is drawn under jax.vmap, but its distribution is not seen to differ between the lanes "
            "(inside a jit, scan or cond it never is): they would share one draw. Use `with pi.plate(name, size):`, or "
            "pi.vmap in place of jax.vmap, for independent draws."
        )
    (value,) = bind_sample(site, distribution, *token)
    return value


def observe(name: str, distribution: dist.Distribution, value: Any, *, broadcast: bool = False) -> jax.Array:
    """Observe `value` at a site: the same as `sample(name, distribution, obs=value)`, and None is an error."""
    if value is None:
        raise DataError(f"Site {name!r}: observe needs a value, found None. Use pi.sample for a latent site.")
    return sample(name, distribution, obs=value, broadcast=broadcast)


def factor(name: str, log_factor: Any) -> None:
    """Multiply the weight of this execution by `exp(log_factor)`; an array is summed. `-inf` is a legal zero."""
    site = Site(full_name(name, "factor"), where=caller(), family="factor")
    value = jnp.asarray(log_factor)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        value = value.astype(jnp.result_type(float))
    bind_factor(site, value)


def deterministic(name: str, value: Any) -> jax.Array:
    """Name a computed value so that it appears among the results."""
    context = _current("deterministic", name)
    value = _jax.as_strong(value)
    names = [p.name for p in sorted(context.plates, key=lambda p: p.dim)]
    dims = tuple(names) if value.ndim >= len(names) else ()
    site = Site(full_name(name, "deterministic"), dims=dims, where=caller(), family="deterministic")
    return deterministic_p.bind(value, site=site)[0]


@contextlib.contextmanager
def plate(name: str, size: int, *, dim: int | None = None) -> Iterator[jax.Array]:
    """Conditionally independent repetitions along one batch axis, as NumPyro's plate.

    Args:
        name: the axis's name; it becomes the dimension's name in results.
        size: number of repetitions, a Python integer; 0 is refused when the program is staged, unless it allows that.
        dim: batch axis counted from the right (negative); the rightmost free one by default.

    Yields:
        The indices 0..size-1.
    """
    context = _current("plate", name)
    if isinstance(size, bool) or not isinstance(size, int | np.integer):
        raise ArgumentTypeError(f"plate {name!r}: size must be a Python integer, found {type(size).__name__}.")
    if size < 0:
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


def full_name(name: Any, statement: str) -> str:
    """A site's name under the scopes that are open."""
    context = _current(statement, name)
    if not isinstance(name, str) or not name:
        raise ArgumentTypeError(
            f"pi.{statement} ({caller()}): the first argument is the site's name, a non-empty string; found "
            f"{repr(name) if isinstance(name, str) else type(name).__name__}."
        )
    return context.scope + name


def site_of(
    name: str, distribution: Any, where: str, plates: tuple[Plate, ...] = (), *, is_unset: bool = False
) -> tuple[Site, dist.Distribution]:
    """The site of a draw or an observation, and its distribution widened by the plates around it.

    Args:
        name: as written.
        distribution: as written.
        where: file and line of the statement.
        plates: further plates than those that are open.
        is_unset: the statement was given obs=None.

    Raises:
        ArgumentTypeError: the name is not a string, or there is no distribution.
        ModelError: an impossible parameter, or a batch shape that does not fit a plate.
    """
    full, context = full_name(name, "sample"), _current("sample")
    if not isinstance(distribution, dist.Distribution):
        raise ArgumentTypeError(
            f"Site {full!r} ({where}): expected a NumPyro distribution, found {type(distribution).__name__}. "
            f"Use pi.deterministic({name!r}, value) for a known value."
        )
    plates = (*context.plates, *plates)
    check_parameters(full, where, distribution)
    if plates:
        distribution = _expand(full, where, distribution, plates)
    by_dim = {p.dim: p.name for p in plates}
    dims = tuple(by_dim.get(d) for d in range(-len(distribution.batch_shape), 0))
    support = distribution.support
    known = not any(isinstance(x, _jax.Tracer) for x in jax.tree.leaves(support))
    site = Site(
        full,
        dims=dims,
        where=where,
        support=support if known else None,
        family=family_name(distribution),
        is_unset=is_unset,
    )
    context.sites.append((site, tuple(distribution.batch_shape) + tuple(distribution.event_shape)))
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
