"""Densities fitted to draws of weights, to stand for a posterior as the prior of the next task."""

from __future__ import annotations

import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from continual.sequential_sampling.symmetry import aligned
from continual.sequential_sampling.weight_models import SoftmaxNetwork
from probinf.arguments import positive_integer
from probinf.errors import ArgumentError, DataError
from probinf.representations.belief import AbstractBelief
from probinf.representations.mixture import GaussianMixture


class AbstractEstimator(eqx.Module):
    """A family of densities and how to choose one. Fields are settings."""

    def num_required(self, num_weights: int) -> int:
        """The fewest draws that can be fitted: a covariance needs more draws than weights."""
        return num_weights + 1

    @abc.abstractmethod
    def fit(self, key: jax.Array, draws: Float[np.ndarray, "draws weights"]) -> AbstractBelief:
        """The density that stands for the draws.

        Raises:
            DataError: too few draws for the number of weights.
        """


class GaussianEstimator(AbstractEstimator):
    """Mean and full covariance of the draws."""

    def fit(self, key: jax.Array, draws: Float[np.ndarray, "draws weights"]) -> GaussianMixture:
        require_enough(self, draws)
        return GaussianMixture.from_samples(jnp.asarray(draws))


class MixtureEstimator(AbstractEstimator):
    """A Gaussian mixture with full covariances; held-out log density chooses how many, then all draws are fitted.

    Args:
        components: numbers to choose from. The result always has as many as the largest, empty ones included, so that
            what is compiled for one serves all.
        held_out: share of the draws that the choice is made by.
    """

    components: tuple[int, ...] = eqx.field(static=True, default=(1, 2, 4, 8))
    held_out: float = eqx.field(static=True, default=0.25)

    def __check_init__(self) -> None:
        if not self.components:
            raise ArgumentError("components: expected at least one number, found none.")
        for count in self.components:
            positive_integer("components", count)
        if not 0 < self.held_out < 1:
            raise ArgumentError(f"held_out: expected a share between 0 and 1, found {self.held_out}.")

    def num_required(self, num_weights: int) -> int:
        return math.ceil((num_weights + 2) / (1 - self.held_out))  # 2: the share is rounded

    def fit(self, key: jax.Array, draws: Float[np.ndarray, "draws weights"]) -> GaussianMixture:
        require_enough(self, draws)
        key_order, key_choice, key_fit = jax.random.split(key, 3)
        order = np.asarray(jax.random.permutation(key_order, len(draws)))
        held = round(self.held_out * len(draws))
        train, kept = draws[order[held:]], draws[order[:held]]
        scores = {}
        for count in self.components:
            found = _fitted(key_choice, train, count)
            if found is not None:
                scores[count] = float(jnp.mean(found.log_prob(jnp.asarray(kept)))) if held else -count
        for count in sorted(scores, key=lambda count: scores[count], reverse=True):
            if (fitted := _fitted(key_fit, draws, count)) is not None:
                return _padded(fitted, max(self.components))
        raise DataError(
            f"draws: no mixture of {self.components} components can be fitted; every try had one whose draws do not "
            f"span all {draws.shape[1]} dimensions. Draw more, allow fewer components, or take a smaller network."
        )


class Aligned(AbstractEstimator):
    """Hidden units of all draws put into one order before a density is fitted.

    Likelihood and first prior do not change when hidden units are renumbered, so a posterior has a copy in each of the
    (width!) orders of each layer. The copies say the same, one is enough, and few modes can be fitted to one.

    Args:
        estimator: what is fitted then.
        network: whose units are renumbered.
    """

    estimator: AbstractEstimator
    network: SoftmaxNetwork

    def num_required(self, num_weights: int) -> int:
        return self.estimator.num_required(num_weights)

    def fit(self, key: jax.Array, draws: Float[np.ndarray, "draws weights"]) -> AbstractBelief:
        return self.estimator.fit(key, aligned(self.network, draws))


def require_enough(estimator: AbstractEstimator, draws: np.ndarray) -> None:
    """Door check of draws.

    Raises:
        DataError: there are fewer than the estimator needs.
    """
    least = estimator.num_required(draws.shape[1])
    if len(draws) < least:
        raise DataError(
            f"draws: {len(draws)} draws of {draws.shape[1]} weights, but {type(estimator).__name__} needs {least} or "
            "more. Draw more, or take a smaller network."
        )


def _fitted(key: jax.Array, draws: np.ndarray, count: int) -> GaussianMixture | None:
    """A mixture of that many components; None where the draws of one of them do not span all dimensions."""
    try:
        return GaussianMixture.from_samples(jnp.asarray(draws), k=count, key=key)
    except DataError:
        return None


def _padded(mixture: GaussianMixture, count: int) -> GaussianMixture:
    """The same density with empty components added."""
    missing = count - mixture.num_components
    if not missing:
        return mixture
    grown: list[Any] = [
        jnp.concatenate([part, jnp.broadcast_to(part[:1], (missing, *part.shape[1:]))])
        for part in (mixture.weights, mixture.means, mixture.scale_tril)
    ]
    weights = grown[0].at[mixture.num_components :].set(0)
    # In float32 the weights of thousands of draws add up to 1 less closely than a mixture is checked for.
    return GaussianMixture(weights / jnp.sum(weights), grown[1], scale_tril=grown[2])
