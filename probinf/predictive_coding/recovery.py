"""Parameter recovery: simulated subjects, their parameters inferred, both compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from probinf.arguments import positive_integer
from probinf.errors import ArgumentError
from probinf.inference.infer import infer
from probinf.predictive_coding.fitting import (
    GroupPrior,
    check_addresses,
    check_group,
    group_program,
    subject_program,
)
from probinf.predictive_coding.responses import AbstractResponse
from probinf.predictive_coding.simulated_subjects import simulate_responses
from probinf.random import as_key

if TYPE_CHECKING:
    from probinf.inference.method import AbstractMethod
    from probinf.inference.posterior import Posterior
    from probinf.predictive_coding.network import Network


@dataclasses.dataclass(frozen=True)
class Recovery:
    """A parameter recovery study: for each parameter the values drawn, and what was found for every subject.

    Attributes:
        truth: address to the values that the subjects were simulated with, (S,).
        mean, sd: posterior means and standard deviations, (S,).
        low, high: limits of the central 90 % intervals, (S,).
        group: the same for means and spreads of the group, each (1,); None where every subject was fitted alone.
        posterior: what the method returned, with its diagnostics.
    """

    truth: dict[str, np.ndarray]
    mean: dict[str, np.ndarray]
    sd: dict[str, np.ndarray]
    low: dict[str, np.ndarray]
    high: dict[str, np.ndarray]
    group: Recovery | None = None
    posterior: Posterior | None = None

    def coverage(self) -> dict[str, float]:
        """Share of subjects whose true value lies in the 90 % interval."""
        inside = {k: (self.low[k] <= t) & (t <= self.high[k]) for k, t in self.truth.items()}
        return {k: float(np.mean(v)) for k, v in inside.items()}

    def correlation(self) -> dict[str, float]:
        """Between true values and posterior means."""
        return {k: float(np.corrcoef(t, self.mean[k])[0, 1]) for k, t in self.truth.items()}

    def bias(self) -> dict[str, float]:
        """Mean of posterior mean minus truth."""
        return {k: float(np.mean(self.mean[k] - t)) for k, t in self.truth.items()}

    def __repr__(self) -> str:
        lines = [f"Recovery({len(next(iter(self.truth.values())))} subjects)"]
        lines += [
            f"  {k}: correlation {self.correlation()[k]:.3f}, bias {self.bias()[k]:+.3f}, "
            f"coverage of 90 % intervals {self.coverage()[k]:.3f}"
            for k in self.truth
        ]
        if self.group is not None:
            lines += [
                f"  {k}: {self.group.mean[k][0]:.3f} ({self.group.low[k][0]:.3f} to {self.group.high[k][0]:.3f}), "
                f"truth {t[0]:.3f}"
                for k, t in self.group.truth.items()
            ]
        return "\n".join(lines)


def recover(
    network: Network,
    response: AbstractResponse,
    priors: Mapping[str, dist.Distribution] | Mapping[str, GroupPrior],
    data: Any,
    num_subjects: int,
    method: AbstractMethod,
    *,
    seed: int | jax.Array = 0,
) -> Recovery:
    """Draw subjects from the priors, simulate their responses to `data`, infer their parameters, compare.

    All subjects are simulated and fitted at once. With distributions as priors each has parameters of its own; with
    `GroupPrior`s means and spreads are drawn for one group, subjects from it, and the fit is hierarchical.

    Args:
        network: the perceptual model.
        response: the response model.
        priors: as in `subject_program` or in `group_program`.
        data: shape (T,), or a dictionary of such, seen by every subject.
        num_subjects: number of subjects S.
        method: say `pi.NUTS(init=starting_values(priors, num_subjects))`.
        seed: an integer or a key.

    Raises:
        ArgumentError: distributions and group priors mixed, or no number of the network among the priors.
    """
    check_addresses(network, response, priors)
    grouped = any(isinstance(prior, GroupPrior) for prior in priors.values())
    if grouped:
        check_group(priors)
    key_truth, key_responses, key_fit = jax.random.split(as_key(seed), 3)
    count = positive_integer("num_subjects", num_subjects)
    keys = jax.random.split(key_truth, len(priors))
    truth: dict[str, jax.Array] = {}
    group: dict[str, jax.Array] = {}
    for key, (address, prior) in zip(keys, priors.items(), strict=True):
        if not isinstance(prior, GroupPrior):
            truth[address] = jnp.asarray(prior.sample(key, (count,)))
            continue
        key_mean, key_sd, key_z = jax.random.split(key, 3)
        mean, sd = jnp.asarray(prior.mean.sample(key_mean)), jnp.asarray(prior.sd.sample(key_sd))
        group |= {f"{address}.mean": mean[None], f"{address}.sd": sd[None]}
        truth[address] = prior.subjects(mean, sd, jax.random.normal(key_z, (count,), mean.dtype))
    responses = simulate_responses(network, response, truth, data, key_responses)
    if responses.ndim == 1:  # nothing perceptual differs between subjects
        raise ArgumentError("priors: expected at least one number of the network among them.")
    program = (group_program if grouped else subject_program)(network, response, priors, data, responses)  # pyright: ignore[reportArgumentType]
    posterior = infer(program, method, seed=key_fit, progress=False)
    return _compared(posterior, truth, _compared(posterior, group) if grouped else None)


def _compared(posterior: Posterior, truth: Mapping[str, jax.Array], group: Recovery | None = None) -> Recovery:
    draws = {a: np.asarray(posterior[a]).reshape(-1, len(value)) for a, value in truth.items()}
    return Recovery(
        {a: np.asarray(v) for a, v in truth.items()},
        {a: d.mean(axis=0) for a, d in draws.items()},
        {a: d.std(axis=0) for a, d in draws.items()},
        {a: np.quantile(d, 0.05, axis=0) for a, d in draws.items()},
        {a: np.quantile(d, 0.95, axis=0) for a, d in draws.items()},
        group,
        posterior,
    )
