r"""Kernel smoothing of a weighted cloud: every particle is replaced by a draw from a kernel around it.

Kernels have the covariance of the cloud times $h^2 v$: they are whitened by it, and v is the variance of one coordinate
of the standard kernel. A plain kernel widens the cloud by the factor $1 + h^2 v$. Pulled towards the cloud's mean by
$a = \sqrt{1 - h^2 v}$ first, particles keep mean and covariance in expectation (West 1993).
"""

from __future__ import annotations

import math
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from probinf.errors import UnknownNameError

Kernel = Literal["epanechnikov", "gaussian"]
KERNELS = ("epanechnikov", "gaussian")


def check_kernel(kernel: str, where: str) -> None:
    """Raise unless it is one of `KERNELS`."""
    if kernel not in KERNELS:
        raise UnknownNameError(kernel, KERNELS, "kernel", where)


def optimal_bandwidth(kernel: Kernel, dim: int, num: int) -> float:
    r"""The h that minimises the mean integrated squared error where the truth is standard normal and weights are equal.

    $h = A N^{-1/(d+4)}$ with $A = (4/(d+2))^{1/(d+4)}$ for the Gaussian kernel and
    $A = (8 (d+4) (2\sqrt\pi)^d / c_d)^{1/(d+4)}$ for Epanechnikov's, $c_d$ the volume of the unit ball.

    References:
        Silverman (1986), Density Estimation, section 4.3.2; Musso, Oudjane & Le Gland (2001), section 12.2.
    """
    if kernel == "gaussian":
        scale = 4 / (dim + 2)
    else:
        ball = math.pi ** (dim / 2) / math.gamma(dim / 2 + 1)
        scale = 8 / ball * (dim + 4) * (2 * math.sqrt(math.pi)) ** dim
    return (scale / num) ** (1 / (dim + 4))


def kernel_variance(kernel: Kernel, dim: int) -> float:
    """Variance of one coordinate of the standard kernel: 1, or 1/(d + 4) for Epanechnikov's on the unit ball."""
    return 1.0 if kernel == "gaussian" else 1 / (dim + 4)


def kernel_noise(kernel: Kernel, normals: Float[Array, "rows more"], dim: int) -> Float[Array, "rows dim"]:
    """Draws of the standard kernel from standard normals (N, `normals_needed`).

    Epanechnikov's density, proportional to 1 - |x|^2 on the unit ball of d dimensions, is that of d coordinates of a
    point that is uniform on the unit sphere of d + 4 dimensions.
    """
    if kernel == "gaussian":
        return normals
    return normals[:, :dim] / jnp.sqrt(jnp.sum(normals**2, axis=1, keepdims=True))


def normals_needed(kernel: Kernel, dim: int) -> int:
    """Standard normals for one draw of the kernel."""
    return dim if kernel == "gaussian" else dim + 4


def shrinkage(spread: float) -> float:
    r"""$a = \sqrt{1 - h^2 v}$ for the share $h^2 v$ of the covariance that the kernel brings, at most 1."""
    return math.sqrt(max(0.0, 1 - spread))
