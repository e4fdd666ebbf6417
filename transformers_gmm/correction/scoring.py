r"""The density of a corrected filter's belief at a point, as it should be scored.

$$p(x) = \frac{p(z \mid x)\, \sum_j w_j\, p(x \mid x_j)}{Z},$$

with Z estimated from draws of its own: the mean weight of the particles themselves was made by the same draws, so that
the logarithm of the ratio would be too high on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from probinf.streaming.system import System
from transformers_gmm.correction.filter import CorrectedState, proposal_of
from transformers_gmm.correction.proposals import log_density, sensor_log_probs


class Seen(NamedTuple):
    """One event of the instant: sensor, value and which of its entries were observed (all, if None)."""

    sensor: str
    value: Any
    observed: Any = None
    inputs: Any = None


def filtering_log_prob(
    system: System,
    state: CorrectedState,
    events: Sequence[Seen],
    x: Float[Array, "*batch dim"],
    key: jax.Array,
    *,
    num_draws: int = 20_000,
    share: float = 0.2,
) -> tuple[Float[Array, " *batch"], Float[Array, ""]]:
    """Log density of the belief at points, and the standard error of log Z, nats.

    Args:
        system: the system.
        state: the filter's state after the events (`belief.state`).
        events: all events since the last motion; one with nothing observed does not count.
        x: shape (..., d).
        key: for the draws that estimate Z; independent of the filter's.
        num_draws: how many. They come from the filter's proposal, so fewer serve where the base is good.
        share: of them that come from the prediction.
    """
    dim = x.shape[-1]

    def log_joint(points: Float[Array, "n dim"]) -> tuple[Array, Array]:
        terms = []
        for event in events:
            value = jnp.asarray(event.value, system.dtype)
            observed = jnp.ones(value.shape, bool) if event.observed is None else jnp.asarray(event.observed)
            inputs = None if event.inputs is None else jnp.asarray(event.inputs, system.dtype)
            term = sensor_log_probs(system, event.sensor, points, value, observed, inputs)
            terms.append(jnp.where(jnp.any(observed), term, 0))
        likelihood = sum(terms, jnp.zeros(points.shape[0], points.dtype))
        return likelihood, log_density(state.prediction, points, state.angles)

    proposal = proposal_of(state.prediction, state.before, state.posterior, share, state.angles)
    draws, log_ratio = proposal.draw(key, num_draws)
    log_weights = log_joint(draws)[0] + log_ratio
    log_z = jax.nn.logsumexp(log_weights) - jnp.log(num_draws)
    error = jnp.std(jnp.exp(log_weights - log_z)) / num_draws**0.5
    likelihood, prediction = log_joint(x.reshape(-1, dim))
    return (likelihood + prediction - log_z).reshape(x.shape[:-1]), error
