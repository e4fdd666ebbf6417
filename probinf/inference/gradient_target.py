"""What a gradient sampler asks of a program, with the settings that say how to see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from probinf.errors import ArgumentTypeError, ModelError, UnknownNameError
from probinf.inference.method import check_option


def check_init(init: Any) -> None:
    """Refuse what cannot say where chains start; the values of a dict are checked when the model is known."""
    if isinstance(init, str):
        check_option("init", init, ("uniform", "prior"))
    elif not isinstance(init, Mapping):
        raise ArgumentTypeError(
            f"init: expected 'uniform', 'prior' or a dict from site to value, found {type(init).__name__}."
        )


def gradient_target(program: Any, method: str, non_centred: Sequence[str], keep: Sequence[str] | None) -> Any:
    """The program on unconstrained space, checked.

    Raises:
        ModelError: the program has discrete or conditional latent sites, or none at all.
        UnknownNameError: `keep` names no site.
    """
    target = program
    if hasattr(program, "unconstrained"):
        target = program.unconstrained(non_centred=non_centred) if non_centred else program.unconstrained()
    check_target(target, method)
    known = [*target.position_shapes, *target.dims]
    for name in keep or ():
        if name not in known:
            raise UnknownNameError(name, set(known), "site", f"model {target.name!r}")
    return target


def check_target(target: Any, method: str) -> None:
    """Refuse what a gradient sampler cannot handle, by name."""
    if target.discrete_sites:
        names = ", ".join(map(repr, target.discrete_sites))
        raise ModelError(
            f"{method} needs gradients, and model {target.name!r} has discrete latent sites: {names}. Sum them out "
            "with pi.enumerate_program, or use SMC(), which takes any site."
        )
    conditional = getattr(target, "conditional_sites", ())
    if conditional:
        names = ", ".join(map(repr, conditional))
        raise ModelError(
            f"{method} needs a fixed set of latent sites, and model {target.name!r} reaches these under some values of "
            f"others only: {names}. Use SMC(), which follows each branch."
        )
    if not target.position_shapes:
        raise ModelError(f"Model {target.name!r} has no latent site: nothing to infer. Are all of them observed?")
    wrong = [n for n, leaf in target.position_shapes.items() if not jnp.issubdtype(leaf.dtype, jnp.floating)]
    if wrong:
        raise ModelError(f"{method} needs real unconstrained values; in model {target.name!r} these are not: {wrong}.")
