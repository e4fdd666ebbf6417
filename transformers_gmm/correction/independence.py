"""A mixture as the proposal of a Markov chain: independence Metropolis-Hastings, exact for any mixture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from probinf.errors import ArgumentError
from probinf.kernels.involutive import InvolutiveKernel, involutive
from probinf.language.statements import sample
from probinf.representations.mixture import GaussianMixture


def mixture_independence(q: GaussianMixture, sites: Sequence[str] | None = None) -> InvolutiveKernel:
    """Propose from a mixture, whatever the position, and accept by the ratio of weights. Claim: reversible.

    Where the mixture is right every proposal is accepted and draws are independent; where it is wrong the chain is slow
    but no less right. Cycle it with a local kernel, so that regions the mixture has forgotten are reached too:
    `pi.MCMC(pi.cycle(mixture_independence(q), pi.random_walk(0.3)), values=("mu", "log_scale"))`.

    Args:
        q: over unconstrained vectors.
        sites: entries of the position in the order of q's coordinates, each flattened; all of them in alphabetical
            order by default. Entries that are not named are left as they are. They must be held as values
            (`MCMC(..., values=sites)`), on unconstrained space.

    Raises:
        ArgumentError: at the first step, if the entries do not make up vectors of q's dimension.
    """

    def chosen(position: dict[str, Any]) -> list[str]:
        names = sorted(position) if sites is None else list(sites)
        missing = [name for name in names if name not in position]
        size = sum(jnp.size(position[name]) for name in names if name in position)
        if missing or size != q.dim:
            raise ArgumentError(
                f"sites: expected entries of the position ({', '.join(sorted(position))}) with {q.dim} coordinates in "
                f"all, found {names} with {size}."
            )
        return names

    def propose(position: dict[str, Any]) -> jax.Array:
        chosen(position)
        return sample("vector", q.as_distribution())

    def swap(position: dict[str, Any], values: dict[str, jax.Array]) -> tuple[dict[str, Any], dict[str, jax.Array]]:
        new, old, start = dict(position), [], 0
        for name in chosen(position):
            here = jnp.asarray(position[name])
            old.append(here.reshape(-1).astype(values["vector"].dtype))
            piece = values["vector"][start : start + here.size]
            new[name] = piece.reshape(here.shape).astype(here.dtype)
            start += here.size
        return new, {"vector": jnp.concatenate(old)}

    return involutive(propose, swap, log_jacobian=lambda *_: 0.0, name=f"mixture_independence({q.num_components})")
