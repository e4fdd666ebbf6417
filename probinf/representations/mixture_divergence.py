r"""Kullback-Leibler divergence between Gaussian mixtures: rigorous bounds in closed form.

There is no closed form of KL(p || q) = E_p log p - E_p log q for mixtures, but each half lies between two sums over
pairs of components:

$$\sum_a w_a \Big(\log \sum_b v_b e^{-KL(f_a \| g_b)} - H(f_a)\Big) \le E_p \log q \le
  \sum_a w_a \log \sum_b v_b \int f_a g_b,$$

on the left by choosing how to share f_a among the g_b, on the right by Jensen's inequality.

References:
    Hershey & Olsen (2007), Approximating the Kullback-Leibler divergence between Gaussian mixture models, ICASSP,
    sections 4 and 7. Durrieu, Thiran & Kelly (2012), Lower and upper bounds for approximation of the Kullback-Leibler
    divergence between Gaussian mixture models, ICASSP, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probinf.representations.mixture_algebra import Parameters, lower_factor
from probinf.representations.mixture_fit import gaussian_log_density


@jax.jit
def kl_bounds(first: Parameters, second: Parameters) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Numbers below and above KL(first || second), nats. Both are exact for two single Gaussians."""
    weights = jnp.exp(first[0])
    entropy = jax.vmap(gaussian_entropy)(first[2])

    def mean_log(other: Parameters) -> tuple[Array, Array]:
        """Bounds of E log `other` under each component of the first, (K,) twice."""
        near = jax.nn.logsumexp(other[0][None] - _pairs(gaussian_kl, first, other), axis=1) - entropy
        far = jax.nn.logsumexp(other[0][None] + _pairs(_log_overlap, first, other), axis=1)
        return near, far

    own_low, own_high = mean_log(first)
    low, high = mean_log(second)
    # A single Gaussian's own term is known, and KL is convex in its first argument.
    alone = first[0].shape[0] == 1
    own_low, own_high = (-entropy, -entropy) if alone else (own_low, own_high)
    if second[0].shape[0] == 1:
        high = low
    upper = jnp.minimum(weights @ (own_high - low), weights @ (-entropy - low))
    return jnp.maximum(weights @ (own_low - high), 0), upper


def gaussian_entropy(scale_tril: Float[Array, "dim dim"]) -> Float[Array, ""]:
    """Differential entropy of a Gaussian, nats."""
    dim = scale_tril.shape[0]
    return jnp.sum(jnp.log(jnp.diagonal(scale_tril))) + 0.5 * dim * (1 + math.log(2 * math.pi))


def gaussian_kl(
    mean: Float[Array, " dim"],
    scale_tril: Float[Array, "dim dim"],
    other_mean: Float[Array, " dim"],
    other_scale_tril: Float[Array, "dim dim"],
) -> Float[Array, ""]:
    """KL of one Gaussian from another, nats."""
    white = jax.scipy.linalg.solve_triangular(other_scale_tril, mean - other_mean, lower=True)
    ratio = jax.scipy.linalg.solve_triangular(other_scale_tril, scale_tril, lower=True)
    log_ratio = jnp.sum(jnp.log(jnp.diagonal(ratio)))
    return 0.5 * (jnp.sum(ratio**2) + white @ white - mean.shape[0]) - log_ratio


def _log_overlap(a: Array, root_a: Array, b: Array, root_b: Array) -> Array:
    return gaussian_log_density(a, b, lower_factor(jnp.concatenate([root_a, root_b], axis=1)))


def _pairs(function: Callable[..., Array], first: Parameters, second: Parameters) -> Float[Array, "comps others"]:
    against_all = jax.vmap(function, in_axes=(None, None, 0, 0))
    return jax.vmap(against_all, in_axes=(0, 0, None, None))(*first[1:], *second[1:])
