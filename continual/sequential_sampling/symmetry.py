"""Hidden units in one order: networks that differ in the numbering of their units are the same function."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from continual.sequential_sampling.weight_models import SoftmaxNetwork

_ROUNDS = 2  # the second matches to the mean of the first
_SWEEPS = 3  # over the layers: a unit's partners are the units it is connected to


def aligned(network: SoftmaxNetwork, draws: Float[np.ndarray, "draws weights"]) -> Float[np.ndarray, "draws weights"]:
    """Draws with the hidden units of each in the order that matches a common reference best.

    Layer by layer, units are assigned to the reference's so that the inner product of weights is largest: of incoming
    weights at first, then of all, which climbs to a local maximum. Each row is the same function as before, with the
    same density under prior and likelihood.

    References:
        Ainsworth, Hayase & Srinivasa (2023), Git re-basin, section 3.2 (weight matching).
    """
    draws = np.asarray(draws)
    if not network.hidden:
        return draws
    reference = draws[0]
    for _ in range(_ROUNDS):
        draws = np.stack([_matched(network, row, reference) for row in draws])
        reference = draws.mean(axis=0)
    return draws


def _matched(network: SoftmaxNetwork, weights: np.ndarray, reference: np.ndarray) -> np.ndarray:
    ours, theirs = network.layers(weights), network.layers(reference)
    for sweep in range(_SWEEPS):
        for i in range(len(ours) - 1):
            gain = theirs[i].T @ ours[i]
            if sweep:  # at first the next layer's own order is unknown
                gain = gain + theirs[i + 1][:-1] @ ours[i + 1][:-1].T
            order = linear_sum_assignment(gain, maximize=True)[1]
            ours[i] = ours[i][:, order]
            ours[i + 1] = np.concatenate([ours[i + 1][:-1][order], ours[i + 1][-1:]])
    return np.concatenate([layer.ravel() for layer in ours])
