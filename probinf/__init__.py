"""Probabilistic programs on JAX: write a model, get its posterior, keep it current as data stream in, and trust it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "ArgumentError": "probinf.errors",
    "ArgumentTypeError": "probinf.errors",
    "DataError": "probinf.errors",
    "InferenceError": "probinf.errors",
    "ModelError": "probinf.errors",
    "ProbinfError": "probinf.errors",
    "ProbinfWarning": "probinf.errors",
    "UnknownNameError": "probinf.errors",
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
}

__all__ = [*sorted(_WHERE), "__version__"]


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used, so that `import probinf` stays quick."""
    if name not in _WHERE:
        raise AttributeError(f"module 'probinf' has no attribute {name!r}")
    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from probinf.errors import (
        ArgumentError,
        ArgumentTypeError,
        DataError,
        InferenceError,
        ModelError,
        ProbinfError,
        ProbinfWarning,
        UnknownNameError,
    )
    from probinf.inference.infer import infer
    from probinf.inference.nuts import NUTS
    from probinf.inference.posterior import Posterior
    from probinf.language.numpyro_models import from_numpyro
    from probinf.language.program import Program, model
    from probinf.language.statements import deterministic, factor, observe, plate, sample, scope, vmap
    from probinf.representations.angular import Angular
    from probinf.representations.mixture import GaussianMixture
    from probinf.representations.population import Population
    from probinf.streaming import Filter, Log, Sensor, System, state_space
    from probinf.streaming.emission import observe_log, state_times
    from probinf.transformations.algorithms import enumerate_program, population, recorded
