"""Transformers whose tokens are Gaussian mixtures: learned inference from beliefs and data to posterior beliefs.

The Distribution Transformer maps a prior and data to a mixture that stands for the posterior, in one pass; as a filter,
its answer is the next prior. Beside it stands a variant that learns corrections to an analytic update, and the means to
correct either to the exact answer. Needs the extra `networks` (Flax and safetensors).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_WHERE = {
    "AbstractRecurrentTask": "transformers_gmm.recurrent",
    "AbstractTask": "transformers_gmm.task",
    "CalibrationReport": "transformers_gmm.calibration.ranks",
    "Components": "transformers_gmm.components",
    "CorrectedFilter": "transformers_gmm.correction.filter",
    "Correction": "transformers_gmm.correction.result",
    "DistributionTransformer": "transformers_gmm.published",
    "Examples": "transformers_gmm.examples",
    "GapReport": "transformers_gmm.calibration.gap",
    "MixtureFilter": "transformers_gmm.filtering",
    "MixturePosterior": "transformers_gmm.amortized",
    "NetworkConfig": "transformers_gmm.config",
    "OutOfRangeWarning": "transformers_gmm.correction.training_range",
    "Problem": "transformers_gmm.examples",
    "RefittedFilter": "transformers_gmm.correction.refitted",
    "ResidualTransformer": "transformers_gmm.network",
    "TrainingConfig": "transformers_gmm.config",
    "TrainingRange": "transformers_gmm.correction.training_range",
    "answer": "transformers_gmm.correction.rule",
    "calibrate": "transformers_gmm.calibration.ranks",
    "correct": "transformers_gmm.correction.rule",
    "importance_sample": "transformers_gmm.correction.importance",
    "load": "transformers_gmm.pretrained",
    "load_network": "transformers_gmm.weights",
    "make_task": "transformers_gmm.tasks.registry",
    "mixture_independence": "transformers_gmm.correction.independence",
    "pareto_k": "transformers_gmm.correction.result",
    "posterior_gap": "transformers_gmm.calibration.gap",
    "program_target": "transformers_gmm.correction.target",
    "save_network": "transformers_gmm.weights",
    "temper": "transformers_gmm.correction.tempering",
    "train": "transformers_gmm.training",
    "trained": "transformers_gmm.pretrained",
}

if TYPE_CHECKING:
    from transformers_gmm.amortized import MixturePosterior
    from transformers_gmm.calibration.gap import GapReport, posterior_gap
    from transformers_gmm.calibration.ranks import CalibrationReport, calibrate
    from transformers_gmm.components import Components
    from transformers_gmm.config import NetworkConfig, TrainingConfig
    from transformers_gmm.correction.filter import CorrectedFilter
    from transformers_gmm.correction.importance import importance_sample
    from transformers_gmm.correction.independence import mixture_independence
    from transformers_gmm.correction.refitted import RefittedFilter
    from transformers_gmm.correction.result import Correction, pareto_k
    from transformers_gmm.correction.rule import answer, correct
    from transformers_gmm.correction.target import program_target
    from transformers_gmm.correction.tempering import temper
    from transformers_gmm.correction.training_range import OutOfRangeWarning, TrainingRange
    from transformers_gmm.examples import Examples, Problem
    from transformers_gmm.filtering import MixtureFilter
    from transformers_gmm.network import ResidualTransformer
    from transformers_gmm.pretrained import load, trained
    from transformers_gmm.published import DistributionTransformer
    from transformers_gmm.recurrent import AbstractRecurrentTask
    from transformers_gmm.task import AbstractTask
    from transformers_gmm.tasks.registry import make_task
    from transformers_gmm.training import train
    from transformers_gmm.weights import load_network, save_network

__all__ = [*sorted(_WHERE)]


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used, so that the import stays quick."""
    if name not in _WHERE:
        raise AttributeError(f"module 'transformers_gmm' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_WHERE[name]), name)
    except ModuleNotFoundError as error:
        if error.name in ("flax", "safetensors"):
            raise ModuleNotFoundError(
                f"transformers_gmm.{name} needs {error.name}: pip install 'probinf[networks]'", name=error.name
            ) from error
        raise


def __dir__() -> list[str]:
    return sorted(__all__)
