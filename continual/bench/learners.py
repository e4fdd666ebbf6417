"""Learners by name, with the settings they are compared at.

Strengths, prior precisions, starting widths and s² were chosen among a few values on validation data of split-MNIST:
`python -m benchmarks.continual --only choose-strategies` scores them again. EWC and SI did best at the largest tried.
Rate and epochs of `protocl-shifts` were chosen on a tenth of the training data of split-MNIST and split-Fashion-MNIST.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from continual.features import RandomPatches
from continual.heads import BayesianLinearHead
from continual.learner import AbstractLearner, Featured
from continual.strategies import (
    EWC,
    VCL,
    BalancedMemory,
    FineTuning,
    FunctionSpaceVI,
    GDumb,
    Joint,
    Laplace,
    PredictiveCoding,
    ProtoCL,
    ReleasedProtoCL,
    Replay,
    ReservoirMemory,
    Shifts,
    SynapticIntelligence,
    Training,
)
from probinf.errors import UnknownNameError


class Scale(NamedTuple):
    """What all learners of a comparison share.

    Attributes:
        num_classes: of the stream.
        num_tasks: of the stream.
        shape: of one input.
        training: network and optimiser.
        memory: examples kept in all, by those that keep any.
    """

    num_classes: int
    num_tasks: int
    shape: tuple[int, ...]
    training: Training
    memory: int


def _times(training: Training, factor: float) -> Training:
    """More epochs, for networks that see a memory alone."""
    epochs = max(1, round(factor * training.epochs))
    return Training(training.hidden, training.learning_rate, epochs, training.batch)


def _slow(training: Training, batch: int | None = None) -> Training:
    """A tenth of the learning rate: a memory is soon learnt by heart."""
    return Training(training.hidden, training.learning_rate / 10, training.epochs, batch or training.batch)


def _protocl(scale: Scale) -> ProtoCL:
    return ProtoCL(scale.num_classes, _slow(scale.training), BalancedMemory(scale.memory))


def _shifted(scale: Scale) -> ProtoCL:
    """Moved images are learnt by heart later: more epochs, and larger steps."""
    training = Training(
        scale.training.hidden, 0.3 * scale.training.learning_rate, 3 * scale.training.epochs, scale.training.batch
    )
    return ProtoCL(scale.num_classes, training, BalancedMemory(scale.memory), augmentation=Shifts(scale.shape))


def _patches(scale: Scale) -> RandomPatches:
    return RandomPatches(64, size=6 if min(scale.shape[:2]) >= 12 else 3)


LEARNERS: dict[str, Callable[[Scale], AbstractLearner]] = {
    "exact-head": lambda s: Featured(_patches(s), BayesianLinearHead(s.num_classes, ridge=3.0, temperature=4.0)),
    "fine-tuning": lambda s: FineTuning(s.num_classes, s.training),
    "joint": lambda s: Joint(s.num_classes, s.training),
    "replay": lambda s: Replay(s.num_classes, ReservoirMemory(s.memory), s.training),
    "balanced-replay": lambda s: Replay(s.num_classes, BalancedMemory(s.memory), s.training),
    "gdumb": lambda s: GDumb(s.num_classes, BalancedMemory(s.memory), _times(s.training, 5.0)),
    "ewc": lambda s: EWC(s.num_classes, s.training, strength=1e4),
    "online-ewc": lambda s: EWC(s.num_classes, s.training, strength=1e4, online=True),
    "si": lambda s: SynapticIntelligence(s.num_classes, s.training, strength=100.0),
    "laplace-diagonal": lambda s: Laplace(s.num_classes, s.training, "diagonal"),
    "laplace-kronecker": lambda s: Laplace(s.num_classes, s.training, "kronecker"),
    "vcl": lambda s: VCL(s.num_classes, s.training, initial_std=0.01, samples=8),
    "vcl-coreset": lambda s: VCL(s.num_classes, s.training, coreset=s.memory // s.num_tasks, samples=8),
    "function-space-vi": lambda s: FunctionSpaceVI(
        s.num_classes, s.training, BalancedMemory(s.memory), strength=0.1, prior_std=10.0, samples=8
    ),
    "protocl": _protocl,
    "protocl-shifts": _shifted,
    "protocl-released": lambda s: ReleasedProtoCL(s.num_classes, _slow(s.training, 64), capacity=s.memory),
    "predictive-coding": lambda s: PredictiveCoding(s.num_classes, s.training),
    "protocl-patches": lambda s: Featured(_patches(s), _protocl(s)),
}


def learner(name: str, scale: Scale) -> AbstractLearner:
    """A learner by its name.

    Raises:
        UnknownNameError: there is none of this name.
    """
    return LEARNERS[checked([name])[0]](scale)


def checked(names: Sequence[str]) -> list[str]:
    """Names that all exist.

    Raises:
        UnknownNameError: one does not.
    """
    for name in names:
        if name not in LEARNERS:
            raise UnknownNameError(name, LEARNERS, "strategy", "probinf bench continual")
    return list(names)
