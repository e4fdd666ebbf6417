"""Parameter recovery: simulated subjects, their parameters inferred, both compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import numpyro.distributions as dist

from probinf.arguments import positive_integer
from probinf.errors import ArgumentError
from probinf.inference.infer import infer
from probinf.predictive_coding.fitting import RESPONSE, check_addresses, subject_program, with_fields
from probinf.predictive_coding.responses import AbstractResponse
from probinf.random import as_key

if TYPE_CHECKING:
    from probinf.inference.method import AbstractMethod
    from probinf.predictive_coding.network import Network


@dataclasses.dataclass(frozen=True)
class Recovery:
    """A parameter recovery study: for each parameter the values drawn, and what was found for every subject.

    Attributes:
        truth: address to the values that the subjects were simulated with, (S,).
        mean, sd: posterior means and standard deviations, (S,).
        low, high: limits of the central 90 % intervals, (S,).
    """

    truth: dict[str, np.ndarray]
    mean: dict[str, np.ndarray]
    sd: dict[str, np.ndarray]
    low: dict[str, np.ndarray]
    high: dict[str, np.ndarray]

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
        return "\n".join(lines)


def recover(
    network: Network,
    response: AbstractResponse,
    priors: Mapping[str, dist.Distribution],
    data: Any,
    num_subjects: int,
    method: AbstractMethod,
    *,
    seed: int | jax.Array = 0,
) -> Recovery:
    """Draw subjects from the priors, simulate their responses to `data`, infer their parameters, compare.

    All subjects are simulated and fitted at once, each with parameters of its own.

    Args:
        network: the perceptual model.
        response: the response model.
        priors: as in `subject_program`.
        data: shape (T,), seen by every subject.
        num_subjects: number of subjects S.
        method: say `pi.NUTS()`.
        seed: an integer or a key.
    """
    check_addresses(network, response, priors)
    key_truth, key_responses, key_fit = jax.random.split(as_key(seed), 3)
    count = positive_integer("num_subjects", num_subjects)
    keys = jax.random.split(key_truth, len(priors))
    truth = {a: prior.sample(k, (count,)) for (a, prior), k in zip(priors.items(), keys, strict=True)}
    told = {a.removeprefix(RESPONSE): v for a, v in truth.items() if a.startswith(RESPONSE)}
    run = network.replace({a: v for a, v in truth.items() if not a.startswith(RESPONSE)}).filter(data)
    responses = with_fields(response, told).sample(key_responses, run.beliefs)
    if responses.ndim == 1:  # nothing perceptual differs between subjects
        raise ArgumentError("priors: expected at least one number of the network among them.")
    posterior = infer(subject_program(network, response, priors, data, responses), method, seed=key_fit, progress=False)
    draws = {a: posterior[a].reshape(-1, count) for a in priors}
    return Recovery(
        {a: np.asarray(v) for a, v in truth.items()},
        {a: d.mean(axis=0) for a, d in draws.items()},
        {a: d.std(axis=0) for a, d in draws.items()},
        {a: np.quantile(d, 0.05, axis=0) for a, d in draws.items()},
        {a: np.quantile(d, 0.95, axis=0) for a, d in draws.items()},
    )
