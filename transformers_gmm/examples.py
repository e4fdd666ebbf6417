"""What a network sees of an inference problem, and what it is trained on."""

from __future__ import annotations

import equinox as eqx
from jaxtyping import Array, Bool, Float

from transformers_gmm.components import Components


class Problem(eqx.Module):
    """A batch of inference problems in a frame: an answer before any learning, and what to correct it by.

    Attributes:
        base: the posterior as far as it is known without learning, in the latents' unconstrained units.
        location, scale: centre and spread of the frame, shape (..., D). Networks see means and factors relative to it.
        tokens: further features of each component, shape (..., K, F).
        context: features of the data by source, each of shape (..., S, W): S tokens of width W.
        mask: by source, shape (..., S); False where a token is absent (a sensor that dropped out, a missing row).
    """

    base: Components
    location: Float[Array, "*batch dim"]
    scale: Float[Array, "*batch dim"]
    tokens: Float[Array, "*batch comps feats"]
    context: dict[str, Float[Array, ...]]
    mask: dict[str, Bool[Array, ...]]


class Examples(eqx.Module):
    """Problems with points of their posteriors.

    Attributes:
        problem: B problems.
        points: latents in the unconstrained space, shape (B, M, D). M = 1: one draw from prior and simulator.
        log_weights: shape (B, M), normalised over M. Weighted points of the posterior (a grid, importance draws) give
            the same expected loss as single draws, with less noise.
    """

    problem: Problem
    points: Float[Array, "batch points dim"]
    log_weights: Float[Array, "batch points"]
