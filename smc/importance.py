"""Plain populations as an inference method: independent runs of a program by particles, their evidence and history."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, cast

import jax
import numpy as np
import numpyro.distributions as dist

from probinf.errors import InferenceError
from probinf.inference.posterior import Posterior
from probinf.language.handlers import Condition, Forward
from probinf.language.primitives import Site, bind_sample
from probinf.language.program import Program
from probinf.language.staging import Arguments, Staged
from probinf.transformations.algorithms import population
from smc.evidence import combine_evidence, pack_history

#: Fewer surviving ancestors than this, and early states are known by too few values to be trusted.
FEW_ANCESTORS = 20


@dataclasses.dataclass(frozen=True)
class _Tagged:
    """All latent and named values, and a random label drawn before anything else.

    The label is resampled like every other value, so that at the end the number of different labels is the number of
    particles at the start that have descendants.
    """

    staged: Staged

    def __call__(self, operands: Any) -> tuple[Any, dict[str, Any]]:
        (tag,) = bind_sample(Site(""), dist.Uniform())
        return tag, self.staged.run(operands, Condition(record=True), (), {})[2]


@functools.partial(jax.jit, static_argnums=0)
def _runs(staged: Staged, operands: Any, keys: jax.Array) -> tuple[Any, jax.Array]:
    def one(key: jax.Array) -> tuple[Any, jax.Array]:
        handler = Forward()
        result = staged.run(operands, handler, handler.start(key), {})[0]
        return result, result.log_evidence

    # One after the other: side by side, `lax.cond` would resample at every step and scatters turn slow.
    return jax.lax.map(one, keys)


def run_importance(
    program: Program, key: jax.Array, num_particles: int, num_runs: int, resample: str, threshold: float
) -> tuple[Posterior, np.ndarray]:
    """Run a program by particles, several times independently.

    Returns:
        The posterior (chains are runs, draws are particles, weighted by evidence and weight), without warnings about
        rejuvenation, and the number of surviving ancestors of each run, (R,).

    Raises:
        InferenceError: weights are NaN, or all weights of all runs are zero; the site and step are named.
    """
    tagged = Program(program.name, _Tagged(program.staged), Arguments.split((program.operands,), {}))
    populated = population(tagged, num_particles, resample=resample, threshold=threshold)
    result, log_z = _runs(populated.staged, populated.operands, jax.random.split(key, num_runs))
    (tags, draws), log_weights = result.particles, np.asarray(result.log_weights, np.float64)
    log_z = np.asarray(log_z, np.float64)
    past = {f"{site}/{name}": np.asarray(v) for site, info in result.history.items() for name, v in info.items()}
    log_evidence, sd = combine_evidence(np.where(np.isnan(log_z), -np.inf, log_z))
    if np.isnan(log_z).any() or log_evidence == -np.inf:
        raise _died(program, log_z, log_weights, past, num_particles)
    notes = []
    dead = int(np.isneginf(log_z).sum())
    if dead:
        notes.append(f"In {dead} of {num_runs} runs all particles died (evidence 0): use more particles.")
    if num_particles == 1:
        notes.append("One particle: weights carry no information within a run; use more.")
    tags = np.asarray(tags).reshape(num_runs, num_particles)
    ancestors = np.array([np.unique(t[w > -np.inf]).size for t, w in zip(tags, log_weights, strict=True)])
    info = {s.name: s for s in program.sites}
    posterior = Posterior(
        draws={name: np.asarray(value) for name, value in draws.items()},
        log_weights=log_weights + np.asarray(result.collected, np.float64)[:, None],
        log_evidence=log_evidence,
        log_evidence_sd=sd,
        dims={name: info[name].dims for name in draws if name in info},
        coords=program.unconstrained().coords,
        claim="unbiased",
        warnings=tuple(notes),
        checkpoint=pack_history(past),
        model=program.name,
    )
    return posterior, ancestors


def _died(
    program: Program, log_z: np.ndarray, log_weights: np.ndarray, past: dict[str, np.ndarray], num_particles: int
) -> InferenceError:
    """The error for NaN or zero weights: the first site and step in whose history it shows."""
    is_nan = bool(np.isnan(log_z).any())
    run = int(np.argmax(np.isnan(log_z))) if is_nan else 0
    where = ""
    for info in program.sites:  # in program order; the first bad step wins among sites of one loop
        series = past.get(f"{info.name}/log_evidence")
        if series is None:
            continue
        series = series.reshape(series.shape[0], -1)[run]
        bad = np.isnan(series) if is_nan else np.isneginf(series)
        if bad.any():
            step = int(np.argmax(bad))
            where = f" at site {info.label}" + (f", step {step} of {series.size}" if series.size > 1 else "")
            break
    if is_nan:
        count = int(np.isnan(log_weights[run]).sum())
        message = (
            f"Model {program.name!r}: log weights became NaN{where}; at the end {count} of "
            f"{num_particles} are NaN (run "
            f"{run}). Likely causes: a parameter outside its range, log or sqrt of a negative number, 0/0. -inf is the "
            "legal zero."
        )
    else:
        message = (
            f"Model {program.name!r}: all {num_particles} particles died{where}: every one gives the observation "
            "probability zero. Likely causes: an outlier under a light-tailed density, a prior that excludes the data, "
            "too few particles."
        )
    error = InferenceError(message)
    error.partial = {"log_evidence": log_z, "log_weights": log_weights, "history": past}
    return error


def distinct_static(posterior: Posterior, sites: tuple[str, ...]) -> dict[str, int]:
    """Number of distinct values of positive weight of each site, over all runs."""
    alive = cast(np.ndarray, posterior.log_weights).reshape(-1) > -np.inf
    counts = {}
    for name in sites:
        rows = posterior[name].reshape(alive.size, -1)[alive]
        counts[name] = int(np.unique(rows, axis=0).shape[0])
    return counts
