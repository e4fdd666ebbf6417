"""muPC: scales of the layers with which networks of a hundred layers and more stay stable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from probinf.predictive_coding.deep.layers import Dense, activation_named
from probinf.predictive_coding.deep.network import DeepNetwork, checked_sizes
from probinf.random import as_key


def mupc_scales(sizes: Sequence[int], *, residual: bool = True) -> tuple[float, ...]:
    r"""The factor of each layer's output.

    $a_1 = 1/\sqrt{D}$ for D inputs; $a_\ell = 1/\sqrt{N}$ in between, $1/\sqrt{N L}$ with one-layer skips, for N units
    in the layer above and L layers in all; $a_L = 1/N$.

    Args:
        sizes: units of each layer, input first.
        residual: whether the layers in between have skips.

    References:
        Innocenti et al. (2025), muPC: scaling predictive coding to 100+ layer networks, arXiv 2505.13124, table 1.
    """
    sizes = checked_sizes(sizes)
    depth = len(sizes) - 1
    between = [(n * (depth if residual else 1)) ** -0.5 for n in sizes[1:-2]]
    last = [1.0 / sizes[-2]] if depth > 1 else []
    return (sizes[0] ** -0.5, *([] if depth == 1 else between), *last)


def mupc(
    sizes: Sequence[int],
    *,
    key: Any,
    activation: str | Callable[[Any], Any] = "relu",
    residual: bool = True,
    output_energy: Any = None,
) -> DeepNetwork:
    r"""A network $u = a_\ell W \phi(z)$ with muPC scales, standard normal weights and no biases.

    Args:
        sizes: units of each layer, input first; the hidden ones must be equal for skips.
        key: a seed or key.
        activation: phi, of the hidden layers.
        residual: skips over the layers in between.
        output_energy: of the last layer.
    """
    scales, phi = mupc_scales(sizes, residual=residual), activation_named(activation)
    keys = jax.random.split(as_key(key, argument="key"), len(scales))
    layers = []
    for i, (one, scale) in enumerate(zip(keys, scales, strict=True)):
        weight = jax.random.normal(one, (sizes[i + 1], sizes[i]))
        above = activation_named("identity") if i == 0 else phi
        skip = residual and 0 < i < len(scales) - 1
        layers.append(Dense(weight, None, above, activate_first=True, scale=scale, skip=skip))
    return DeepNetwork(layers, sizes[0], output_energy=output_energy)
