"""How far the closed-form beliefs are from the filtering distribution: divergence for each node over time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from probinf.errors import ArgumentError

if TYPE_CHECKING:
    from probinf.predictive_coding.run import NetworkRun


def divergence_from(run: NetworkRun, means: Any, covs: Any) -> dict[str, np.ndarray]:
    r"""KL divergence of each state's belief from a reference with these moments, nats, shape (T,) by name.

    $KL(N(m, v) \| N(\mu, 1/\pi)) = \frac12 (\pi v + \pi (m - \mu)^2 - 1 - \log \pi v)$ with $m, v$ from the reference,
    say a particle filter on `network.system()` (`FilterRun.means`, `FilterRun.covs`). Whatever the reference's shape,
    this is what the belief loses to the best Gaussian.

    Args:
        run: the network's beliefs.
        means: shape (T, number of states), in the order of `network.state_names()`.
        covs: shape (T, number of states, number of states).
    """
    names = run.network.state_names()
    means, covs = np.asarray(means), np.asarray(covs)
    if means.shape != (len(run), len(names)) or covs.shape != (*means.shape, len(names)):
        raise ArgumentError(
            f"means, covs: expected shapes {(len(run), len(names))} and {(len(run), len(names), len(names))} for a run "
            f"of one series, found {means.shape} and {covs.shape}."
        )
    found = {}
    for i, name in enumerate(names):
        mean, precision = np.asarray(run[name].mean), np.asarray(run[name].precision)
        share = precision * covs[:, i, i]
        found[name] = 0.5 * (share + precision * (means[:, i] - mean) ** 2 - 1.0 - np.log(share))
    return found
