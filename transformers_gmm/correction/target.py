"""What a mixture is corrected towards: an unnormalised log density of a vector, or a program on unconstrained space."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf.errors import ArgumentError, ArgumentTypeError, ModelError
from probinf.kernels.chains import cached
from probinf.kernels.flat import FlatLayout
from probinf.language.program import Program


@dataclasses.dataclass(frozen=True)
class Target:
    """A log density over vectors (d,) that need not be normalised.

    Attributes:
        log_density: (x, *args) to a scalar, nats; -inf is a legal zero. Compiled code belongs to this function, so hand
            over the same one for new data.
        args: arrays that it depends on: data, say.
        constrain: (x, *args) to values by site, or None.
        name: used in messages.
    """

    log_density: Callable[..., Any]
    args: tuple[Any, ...] = ()
    constrain: Callable[..., Mapping[str, Any]] | None = None
    name: str = "the target"


def as_target(target: Target | Program | Callable[..., Any], dim: int) -> Target:
    """A target over vectors of `dim` entries.

    Raises:
        ArgumentTypeError: neither a program nor a target nor a function.
        ArgumentError: a program with another number of unconstrained coordinates.
        ModelError: a program with sites that cannot be seen as a vector.
    """
    if isinstance(target, Program):
        target = program_target(target)
    if isinstance(target, Target):
        size = getattr(target.log_density, "dim", dim)
        if size != dim:
            raise ArgumentError(
                f"target: {target.name} has {size} unconstrained coordinates, the mixture has {dim}; they must agree."
            )
        return target
    if not callable(target):
        raise ArgumentTypeError(
            f"target: expected a function x -> log density, a Target or a program with data given, found "
            f"{type(target).__name__}."
        )
    return Target(target)


def program_target(program: Program, sites: Sequence[str] | None = None) -> Target:
    """The joint density of a program's latent sites and its data, as a density of one unconstrained vector.

    Args:
        program: data given; every latent site continuous and always there.
        sites: all latent sites, in the order of the mixture's coordinates; in alphabetical order by default. The
            bijections are NumPyro's: log for positive values, logit for shares, the identity for real ones.

    Raises:
        ModelError: discrete or conditional latent sites, or none.
        ArgumentError: `sites` are not the latent sites.
    """
    whole = program.unconstrained()
    for found, what in ((whole.discrete_sites, "discrete"), (whole.conditional_sites, "conditional")):
        if found:
            raise ModelError(f"program: a mixture stands for continuous latent sites; {list(found)} are {what}.")
    latent = sorted(whole.position_shapes)
    if not latent:
        raise ModelError(f"program: {program.name!r} has no latent site.")
    order = tuple(latent if sites is None else sites)
    if sorted(order) != latent:
        raise ArgumentError(f"sites: expected all latent sites {latent} of {program.name!r}, found {list(order)}.")
    density, constrain = cached(("mixture target", program.staged, order), lambda: _functions(whole, order))
    return Target(density, (whole.operands,), constrain, repr(program.name))


class _ProgramDensity:
    """A program's log density as a function of a vector and the program's operands."""

    def __init__(self, whole: Any, split: Callable[[jax.Array], dict[str, jax.Array]], dim: int) -> None:
        self.whole, self.split, self.dim = whole, split, dim

    def __call__(self, x: jax.Array, operands: Any) -> jax.Array:
        return self.whole.logdensity(operands, self.split(x))


def _functions(whole: Any, order: tuple[str, ...]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    layout = FlatLayout(whole.position_shapes)
    sizes = {name: int(np.prod(shape, dtype=int)) for name, shape in layout.shapes.items()}
    starts = dict(zip(order, np.cumsum([0, *(sizes[name] for name in order)]), strict=False))
    place = np.concatenate([np.arange(sizes[name]) + starts[name] for name in layout.shapes])

    def split(x: jax.Array) -> dict[str, jax.Array]:
        return layout.unravel(jnp.asarray(x, layout.dtype)[place])

    def constrain(x: jax.Array, operands: Any) -> dict[str, jax.Array]:
        return whole.constrain(operands, split(x))

    return _ProgramDensity(whole, split, layout.dim), constrain
