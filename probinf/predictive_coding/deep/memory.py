"""Associative memory: patterns are stored by training on causes, and completed from a part."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Float

from probinf.predictive_coding.deep.network import DeepNetwork
from probinf.predictive_coding.deep.relaxation import AbstractRelaxation, ToConvergence, relax


def recall(
    network: DeepNetwork, outputs: Any, observed: Any, *, relaxation: AbstractRelaxation | None = None
) -> Float[Array, "examples ..."]:
    """Complete patterns: infer causes and missing units from the observed ones.

    Args:
        network: trained with `train(network, ..., outputs=patterns)`, without inputs.
        outputs: (examples, *output_shape); unobserved entries are not looked at.
        observed: booleans of one pattern or of all.
        relaxation: `ToConvergence()` by default.

    Returns:
        The patterns, their observed units as given.

    References:
        Salvatori et al. (2021), Associative memories via predictive coding, NeurIPS 34.
    """
    found = relax(network, relaxation or ToConvergence(), outputs=outputs, observed=observed)
    return found.activities[-1]


def reconstruct(
    network: DeepNetwork, outputs: Any, *, relaxation: AbstractRelaxation | None = None
) -> Float[Array, "examples ..."]:
    """What the inferred causes of each pattern predict, the pattern itself being held.

    Args:
        network: a generative one.
        outputs: (examples, *output_shape).
        relaxation: `ToConvergence()` by default.

    Returns:
        The forward pass from the causes, which shows what they alone know.
    """
    found = relax(network, relaxation or ToConvergence(), outputs=outputs)
    return network(found.activities[0])
