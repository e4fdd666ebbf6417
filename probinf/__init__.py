"""Probabilistic programs on JAX: write a model, get its posterior, keep it current as data stream in, and trust it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from probinf.version import VERSION as __version__

_WHERE = {
    "ArgumentError": "probinf.errors",
    "ArgumentTypeError": "probinf.errors",
    "Checkpoint": "probinf.runs.checkpoint",
    "CheckpointError": "probinf.errors",
    "DataError": "probinf.errors",
    "InferenceError": "probinf.errors",
    "ModelError": "probinf.errors",
    "ProbinfError": "probinf.errors",
    "ProbinfWarning": "probinf.errors",
    "UnknownNameError": "probinf.errors",
    "Auto": "probinf.inference.auto",
    "ChEES": "probinf.inference.chees",
    "Angular": "probinf.representations.angular",
    "Filter": "probinf.streaming",
    "GaussianMixture": "probinf.representations.mixture",
    "Log": "probinf.streaming",
    "NUTS": "probinf.inference.nuts",
    "Population": "probinf.representations.population",
    "Posterior": "probinf.inference.posterior",
    "Program": "probinf.language.program",
    "Sensor": "probinf.streaming",
    "System": "probinf.streaming",
    "deterministic": "probinf.language.statements",
    "enumerate_program": "probinf.transformations.algorithms",
    "factor": "probinf.language.statements",
    "from_numpyro": "probinf.language.numpyro_models",
    "infer": "probinf.inference.infer",
    "look": "probinf.inference.look",
    "model": "probinf.language.program",
    "observe": "probinf.language.statements",
    "observe_log": "probinf.streaming.emission",
    "plate": "probinf.language.statements",
    "population": "probinf.transformations.algorithms",
    "recorded": "probinf.transformations.algorithms",
    "sample": "probinf.language.statements",
    "scope": "probinf.language.statements",
    "state_space": "probinf.streaming",
    "state_times": "probinf.streaming.emission",
    "vmap": "probinf.language.statements",
    "Claim": "probinf.claims",
    "Kernel": "probinf.kernels.kernel",
    "Density": "probinf.kernels.kernel",
    "cycle": "probinf.kernels.kernel",
    "mix": "probinf.kernels.kernel",
    "repeat": "probinf.kernels.kernel",
    "on": "probinf.kernels.kernel",
    "together": "probinf.kernels.kernel",
    "trace_mh": "probinf.kernels.trace_moves",
    "redraw": "probinf.kernels.trace_moves",
    "fast_key": "probinf.fast_random",
    "random_walk": "probinf.kernels.trace_moves",
    "gibbs": "probinf.kernels.trace_moves",
    "uniform_proposal": "probinf.kernels.trace_moves",
    "refresh_future": "probinf.kernels.trace_moves",
    "hmc": "probinf.kernels.gradient_moves",
    "mala": "probinf.kernels.gradient_moves",
    "mclmc": "probinf.kernels.gradient_moves",
    "nuts_kernel": "probinf.kernels.gradient_moves",
    "slice_sampling": "probinf.kernels.gradient_moves",
    "conditional_smc": "probinf.kernels.particle_moves",
    "MCMC": "probinf.inference.mcmc",
    "collapse": "probinf.transformations.collapsing",
    "push_evidence": "probinf.transformations.collapsing",
    "resize": "probinf.transformations.collapsing",
    "importance": "probinf.transformations.importance",
    "rejuvenated": "probinf.transformations.rejuvenation",
    "tempered": "probinf.transformations.rejuvenation",
    "evidence_gradient": "probinf.transformations.gradients",
    "expectation_gradient": "probinf.transformations.gradients",
    "Traced": "probinf.transformations.traces",
    "Assigned": "probinf.transformations.targets",
    "sbc": "probinf.validity.calibration",
    "validate": "probinf.validity.validate",
    "marginalise": "probinf.transformations.marginalising",
    "translate": "probinf.transformations.translation",
    "reweight_move": "probinf.transformations.translation",
    "involutive": "probinf.kernels.involutive",
    "independence": "probinf.kernels.involutive",
    "metropolis_hastings": "probinf.kernels.involutive",
    "reversible_jump": "probinf.kernels.reversible_jump",
    "split_merge": "probinf.kernels.split_merge",
    "check_involution": "probinf.kernels.involution_checks",
    "Keys": "probinf.transformations.randomness",
    "Ticks": "probinf.transformations.randomness",
    "suspend": "probinf.transformations.suspension",
}

__all__ = [*sorted(_WHERE), "__version__"]


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used, so that `import probinf` stays quick."""
    if name == "predictive_coding":  # a name for a whole component: `pi.predictive_coding.Network`
        return importlib.import_module("probinf.predictive_coding")
    if name == "plots":  # the one subpackage that is used by its name
        return importlib.import_module("probinf.plots")
    if name not in _WHERE:
        raise AttributeError(f"module 'probinf' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "plots"])


if TYPE_CHECKING:
    from probinf import plots
    from probinf.claims import Claim
    from probinf.errors import (
        ArgumentError,
        ArgumentTypeError,
        CheckpointError,
        DataError,
        InferenceError,
        ModelError,
        ProbinfError,
        ProbinfWarning,
        UnknownNameError,
    )
    from probinf.fast_random import fast_key
    from probinf.inference.auto import Auto
    from probinf.inference.chees import ChEES
    from probinf.inference.infer import infer
    from probinf.inference.look import look
    from probinf.inference.mcmc import MCMC
    from probinf.inference.nuts import NUTS
    from probinf.inference.posterior import Posterior
    from probinf.kernels.gradient_moves import hmc, mala, mclmc, nuts_kernel, slice_sampling
    from probinf.kernels.involution_checks import check_involution
    from probinf.kernels.involutive import independence, involutive, metropolis_hastings
    from probinf.kernels.kernel import Density, Kernel, cycle, mix, on, repeat, together
    from probinf.kernels.particle_moves import conditional_smc
    from probinf.kernels.reversible_jump import reversible_jump
    from probinf.kernels.split_merge import split_merge
    from probinf.kernels.trace_moves import gibbs, random_walk, redraw, refresh_future, trace_mh, uniform_proposal
    from probinf.language.numpyro_models import from_numpyro
    from probinf.language.program import Program, model
    from probinf.language.statements import deterministic, factor, observe, plate, sample, scope, vmap
    from probinf.representations.angular import Angular
    from probinf.representations.mixture import GaussianMixture
    from probinf.representations.population import Population
    from probinf.runs.checkpoint import Checkpoint
    from probinf.streaming import Filter, Log, Sensor, System, state_space
    from probinf.streaming.emission import observe_log, state_times
    from probinf.transformations.algorithms import enumerate_program, population, recorded
    from probinf.transformations.collapsing import collapse, push_evidence, resize
    from probinf.transformations.gradients import evidence_gradient, expectation_gradient
    from probinf.transformations.importance import importance
    from probinf.transformations.marginalising import marginalise
    from probinf.transformations.randomness import Keys, Ticks
    from probinf.transformations.rejuvenation import rejuvenated, tempered
    from probinf.transformations.suspension import suspend
    from probinf.transformations.targets import Assigned
    from probinf.transformations.traces import Traced
    from probinf.transformations.translation import reweight_move, translate
    from probinf.validity.calibration import sbc
    from probinf.validity.validate import validate
