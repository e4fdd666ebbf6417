"""NumPyro models as programs: their statements are translated while the model is staged.

A NumPyro statement is a message that passes through a stack of handlers. Ours stands at the bottom, below every handler
of the user (plates, mask, scale, condition, substitute, reparam, do, scope), so it sees what they have made of the
statement and emits it as one of our primitives.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import numpyro.handlers
import numpyro.primitives

from probinf import _jax
from probinf.errors import ArgumentTypeError, DataError, ModelError
from probinf.language import statements
from probinf.language.checks import observed_value
from probinf.language.distributions import log_density, standard_promotion
from probinf.language.numpyro_loops import control_flow
from probinf.language.numpyro_unsupported import label_of, unsupported
from probinf.language.places import call_text, caller, caller_frame
from probinf.language.primitives import Site, bind_factor, bind_observe, deterministic_p
from probinf.language.statements import Plate


class Translate(numpyro.primitives.Messenger):
    """Emits every NumPyro statement that reaches it as a statement of the program being staged."""

    def __init__(self) -> None:
        super().__init__()
        self._last_observed = ""

    def process_message(self, msg: Any) -> None:
        msg["stop"] = True  # handlers outside of the program do not see inside
        kind = msg["type"]
        if kind == "sample":
            self._sample(msg)
        elif kind == "deterministic":
            msg["value"] = _deterministic(msg)
        elif kind == "control_flow":
            control_flow(msg)
        elif kind == "plate":
            if msg["value"] is None:
                raise unsupported("plate(subsample_size=...)", f"plate {msg['name']!r} ({caller()})")
        elif kind == "param":
            if msg["value"] is None:
                is_module = str(msg["name"]).endswith("$params")
                raise unsupported("numpyro.module" if is_module else "numpyro.param", label_of(msg))
        elif kind == "mutable":
            raise unsupported("numpyro.primitives.mutable", label_of(msg))
        elif kind == "prng_key":
            _refuse_key()
        elif kind not in ("inspect", "subsample"):
            raise unsupported("funsor (handlers.collapse, enum)", f"statement {kind!r} ({caller()})")

    def _sample(self, msg: Any) -> None:
        name, value, scale = msg["name"], msg["value"], msg["scale"]
        distribution = msg["fn"]
        sample_shape = msg["kwargs"].get("sample_shape", ())
        if sample_shape:
            distribution = distribution.expand((*sample_shape, *distribution.batch_shape))
        if isinstance(_base(distribution), dist.Unit):
            with standard_promotion():
                log_factor = distribution.log_prob(jnp.zeros(distribution.shape()))
                _factor(name, log_factor if scale is None else scale * log_factor)
            msg["value"] = jnp.zeros(distribution.shape())
            return
        is_latent = value is None
        if is_latent and _is_one(scale) and isinstance(_base(distribution), dist.Delta):
            msg["value"] = _delta(name, distribution, msg["cond_indep_stack"])
            return
        if is_latent:
            if not _is_one(scale):
                raise unsupported("handlers.scale on a latent site", label_of(msg))
            distribution = self._unmasked(msg, distribution)
            site, distribution = _site(name, distribution, msg["cond_indep_stack"], called_with_obs())
            msg["value"] = statements.draw_at(site, distribution)
            return
        if name.endswith("_observed"):
            self._last_observed = name
        distribution = _fit(label_of(msg), distribution, value)
        if isinstance(_outer_mask(distribution), dist.MaskedDistribution):
            value = _stand_in(distribution, value)
        site, distribution = _site(name, distribution, msg["cond_indep_stack"])
        value = observed_value(site, distribution, value)
        msg["value"] = value
        if _is_one(scale):
            bind_observe(site, distribution, value)
            return
        if jnp.ndim(scale) == 0:
            weight = jnp.asarray(scale) * log_density(distribution, value)
        else:
            with standard_promotion():
                weight = jnp.sum(scale * distribution.log_prob(value))
        _factor(name, weight)

    def _unmasked(self, msg: Any, distribution: Any) -> Any:
        """A latent site without a mask that covers nothing; the second half of `obs_mask` keeps its whole prior."""
        masked = _outer_mask(distribution)
        if not isinstance(masked, dist.MaskedDistribution):
            return distribution
        mask = masked._mask
        whole = not isinstance(mask, _jax.Tracer) and bool(np.all(np.asarray(mask)))
        imputed = msg["name"].endswith("_unobserved") and self._last_observed == _twin(msg["name"])
        if not (whole or imputed):
            raise unsupported("handlers.mask on a latent site", label_of(msg))
        return masked.base_dist.expand(distribution.batch_shape)


def _twin(name: str) -> str:
    return name.removesuffix("_unobserved") + "_observed"


def _is_one(scale: Any) -> bool:
    if scale is None:
        return True
    return not isinstance(scale, _jax.Tracer) and bool(np.all(np.asarray(scale) == 1))


_WRAPPERS = (dist.ExpandedDistribution, dist.MaskedDistribution, dist.Independent)


def _base(distribution: Any) -> Any:
    while isinstance(distribution, _WRAPPERS):
        distribution = distribution.base_dist
    return distribution


def _outer_mask(distribution: Any) -> Any:
    """The mask around a distribution, below expansions."""
    while isinstance(distribution, dist.ExpandedDistribution):
        distribution = distribution.base_dist
    return distribution


def _site(name: str, distribution: Any, frames: Any, is_unset: bool = False) -> tuple[Site, Any]:
    # A `do` handler sends a message through the plates twice, so a frame may be listed twice.
    plates = {frame.dim: Plate(frame.name, frame.size, frame.dim) for frame in frames}
    return statements.site_of(name, distribution, caller(), tuple(plates.values()), is_unset=is_unset)


def _fit(label: str, distribution: Any, value: Any) -> Any:
    """The distribution repeated over the value's batch axes: NumPyro needs no plate around a vector of data."""
    shape = np.shape(value)
    batch = shape[: max(len(shape) - distribution.event_dim, 0)]
    own = tuple(distribution.batch_shape)
    if not shape or batch == own:
        return distribution
    try:
        joined = np.broadcast_shapes(batch, own)
    except ValueError:
        return distribution  # the check of the value says what is wrong
    if joined == batch:
        return distribution.expand(batch)
    raise DataError(
        f"{label}: the observed value has shape {shape}, the distribution has batch shape {own} and event shape "
        f"{tuple(distribution.event_shape)}: NumPyro would repeat the value silently to {joined}. Write "
        f"obs=jnp.broadcast_to(value, {(*joined, *distribution.event_shape)}) if that is meant."
    )


def _stand_in(distribution: Any, value: Any) -> Any:
    """The value with legal entries where the mask hides it: NaN is common there."""
    masked = _outer_mask(distribution)
    value = jnp.asarray(value)
    mask = jnp.broadcast_to(jnp.asarray(masked._mask), distribution.batch_shape)
    mask = jnp.broadcast_to(mask.reshape(mask.shape + (1,) * distribution.event_dim), distribution.shape())
    try:
        legal = distribution.support.feasible_like(jnp.zeros(distribution.shape(), value.dtype))
    except NotImplementedError:
        return value
    return jnp.where(mask, jnp.broadcast_to(value, mask.shape), legal.astype(value.dtype))


def _factor(name: str, log_factor: Any) -> None:
    site = Site(statements.full_name(name, "factor"), where=caller(), family="factor")
    bind_factor(site, jnp.asarray(log_factor, jnp.result_type(float)))


def _delta(name: str, distribution: Any, frames: Any) -> Any:
    """A draw that is known: a named value, and its log density as a factor."""
    base = _base(distribution)
    value = _jax.as_strong(jnp.broadcast_to(jnp.asarray(base.v), distribution.shape()))
    site, _ = _site(name, distribution, frames)
    if isinstance(base.log_density, _jax.Tracer) or np.any(np.asarray(base.log_density) != 0):
        with standard_promotion():
            _factor(f"{name}_log_density", jnp.sum(distribution.log_prob(value)))
    return deterministic_p.bind(value, site=dataclasses.replace(site, family="deterministic"))[0]


def _deterministic(msg: Any) -> Any:
    where = caller()
    names = {frame.dim: frame.name for frame in msg["cond_indep_stack"]}
    paths, structure = jax.tree_util.tree_flatten_with_path(msg["value"])
    values = []
    for path, leaf in paths:
        leaf = _jax.as_strong(leaf)
        depth = -min(names, default=0)
        dims = tuple(names.get(d) for d in range(-depth, 0)) if leaf.ndim >= depth else ()
        name = statements.full_name(msg["name"] + jax.tree_util.keystr(path), "deterministic")
        site = Site(name, dims=dims, where=where, family="deterministic")
        values.append(deterministic_p.bind(leaf, site=site)[0])
    return jax.tree.unflatten(structure, values)


def _refuse_key() -> None:
    """`uncondition` asks for a key that nobody uses; everyone else draws behind our back."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code is not numpyro.primitives.prng_key.__code__:
        frame = frame.f_back
    asking = frame.f_back.f_locals if frame is not None and frame.f_back is not None else {}
    if isinstance(asking.get("self"), numpyro.handlers.uncondition):
        return
    if isinstance(asking.get("self"), numpyro.handlers.block):
        raise unsupported("handlers.block on a latent site", label_of({"name": asking["msg"].get("name", "?")}))
    raise unsupported("numpyro.prng_key", caller())


def called_with_obs() -> bool:
    """Whether the call of the statement names `obs`: the site became latent because it was given None."""
    text = call_text(caller_frame())
    return "obs=" in text.replace(" ", "")


# -- at the door -------------------------------------------------------------------------------------------------------


def from_numpyro(model: Callable, *args: Any, **kwargs: Any) -> Any:
    """A NumPyro model with its arguments as a program; the model is not changed.

    Args:
        model: a function with `numpyro.sample`, `plate`, `factor`, `deterministic`, `scan` and `cond`, with or without
            handlers around it. Features without a meaning as a program are listed in
            `numpyro_unsupported`.
        args: its arguments; arrays and floats are traced.
        kwargs: its keyword arguments.

    Returns:
        A `Program`.

    Raises:
        ArgumentTypeError: `model` cannot be called.
    """
    from probinf.language.program import Program
    from probinf.language.staging import Arguments

    if not callable(model):
        raise ArgumentTypeError(f"from_numpyro: expected a model, a function; found {type(model).__name__}.")
    return Program(_name(model), model, Arguments.split(args, kwargs))


def as_program(x: Any, /, *args: Any, **kwargs: Any) -> Any:
    """A program from a program, a model with its arguments, or a NumPyro model with its arguments.

    Raises:
        ArgumentTypeError: `x` is none of these, or a program with arguments.
        ModelError: a plain function without any statement.
    """
    from probinf.language.program import Model, Program

    if isinstance(x, Program):
        if args or kwargs:
            raise ArgumentTypeError(f"Program {x.name!r} has its arguments already; pass the model to give it others.")
        return x
    if isinstance(x, Model):
        return x(*args, **kwargs)
    if not callable(x):
        raise ArgumentTypeError(
            f"Expected a program (a @pi.model called with its arguments) or a NumPyro model, found {type(x).__name__}."
        )
    program = from_numpyro(x, *args, **kwargs)
    if not program.sites:
        raise ModelError(f"Function {program.name!r} makes no statement: it neither draws nor observes anything.")
    return program


def _name(model: Any) -> str:
    if isinstance(model, functools.partial):
        return _name(model.func)
    return getattr(model, "__name__", type(model).__name__)
