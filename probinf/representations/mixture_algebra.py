"""Conditioning and multiplying Gaussian mixtures: each result is a Gaussian mixture again, exactly.

Both work on square roots of covariances by orthogonal transformations (an LQ decomposition); no covariance is ever
subtracted from another, so 32-bit floats keep half of their digits even where a value pins a coordinate down.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from probinf.representations.mixture_fit import log_normal_of_white

#: Log weights (K,), means (K, d) and lower Cholesky factors (K, d, d) of one mixture.
Parameters = tuple[Array, Array, Array]


def lower_factor(root: Float[Array, "rows columns"]) -> Float[Array, "rows rows"]:
    """The lower triangular L with L L' = R R' and a diagonal that is not negative, for a wide or square root R."""
    upper = jnp.linalg.qr(root.T, mode="r")
    signs = jnp.where(jnp.diagonal(upper) < 0, -1, 1).astype(root.dtype)
    return (upper * signs[:, None]).T


def condition_gaussian(
    root: Float[Array, "rows columns"], mean: Float[Array, " rows"], value: Float[Array, " given"]
) -> tuple[Float[Array, ""], Float[Array, " rest"], Float[Array, "rest rest"]]:
    """Condition a Gaussian N(mean, R R') on its leading entries.

    Returns:
        Log density of the value, nats, and mean and lower factor of the other entries given it.
    """
    given = value.shape[0]
    lower = lower_factor(root)
    head = lower[:given, :given]
    white = jax.scipy.linalg.solve_triangular(head, value - mean[:given], lower=True)
    return log_normal_of_white(white, head), mean[given:] + lower[given:, :given] @ white, lower[given:, given:]


@jax.jit
def condition(mixture: Parameters, order: Int[Array, " dim"], values: Float[Array, " given"]) -> Parameters:
    r"""The mixture of the coordinates `order[len(values):]` given those at `order[:len(values)]`.

    $$w'_k \propto w_k N(v;\ m_{k,g}, P_{k,gg}).$$
    """
    log_weights, means, factors = mixture
    each, means, factors = jax.vmap(condition_gaussian, in_axes=(0, 0, None))(
        factors[:, order], means[:, order], values
    )
    return jax.nn.log_softmax(log_weights + each), means, factors


@jax.jit
def product(first: Parameters, second: Parameters) -> tuple[Float[Array, ""], Parameters]:
    r"""The normalised product of two mixture densities, K L components.

    $N(x; a, A) N(x; b, B) = N(a; b, A + B) N(x; c, C)$: what is left of x when x plus noise of covariance B is seen
    to be b.

    Returns:
        Log of the integral of the product, nats, and the parameters.
    """
    (log_v, a, root_a), (log_w, b, root_b) = first, second
    dim = a.shape[1]

    def pair(a: Array, root_a: Array, b: Array, root_b: Array) -> tuple[Array, Array, Array]:
        seen = jnp.concatenate([root_a, root_b], axis=1)
        state = jnp.concatenate([root_a, jnp.zeros_like(root_b)], axis=1)
        return condition_gaussian(jnp.concatenate([seen, state]), jnp.concatenate([a, a]), b)

    against_all = jax.vmap(pair, in_axes=(None, None, 0, 0))
    each, means, factors = jax.vmap(against_all, in_axes=(0, 0, None, None))(a, root_a, b, root_b)
    joint = (log_v[:, None] + log_w[None, :] + each).reshape(-1)
    total = jax.nn.logsumexp(joint)
    return total, (joint - total, means.reshape(-1, dim), factors.reshape(-1, dim, dim))
