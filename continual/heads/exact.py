"""What exact heads share: a belief made of moments, updated in batches, and door checks."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import numpy as np

from continual.checks import checked_inputs, checked_labels
from continual.learner import AbstractLearner, UpdateInfo, nothing_learnt, require_label
from continual.moments import absorbed
from probinf.random import as_key

_BATCH = 1000  # examples in a compiled update


class HeadBelief(eqx.Module):
    """Belief of an exact head: the moments of all examples so far; `None` before the first."""

    moments: Any


class AbstractExactHead(AbstractLearner):
    """A head whose posterior is a function of moments: constant memory, one pass, no stored example."""

    num_classes: int = eqx.field(static=True)

    @abc.abstractmethod
    def empty(self, num_features: int, dtype: Any) -> Any:
        """Moments of no examples."""

    def start(self, key: Any, t0: int = 0) -> HeadBelief:
        as_key(key, argument="key")  # nothing is random here; a wrong key is still an error
        return HeadBelief(None)

    def update(
        self, belief: HeadBelief, t: int, sensor: str, value: Any, *, inputs: Any = None
    ) -> tuple[HeadBelief, UpdateInfo]:
        require_label(sensor)
        moments = belief.moments
        z = checked_inputs(inputs, f"task {t}", None if moments is None else moments.num_features)
        labels = checked_labels(value, f"task {t}", len(z), self.num_classes)
        if moments is None:
            checked_inputs(z, f"task {t}", z.shape[1])  # rows must be vectors
            moments = self.empty(z.shape[1], np.float64 if z.dtype == np.float64 else np.float32)
        moments, steps = absorbed(moments, z, labels, _BATCH)
        return HeadBelief(moments), UpdateInfo(len(z), steps)


def moments_of(belief: HeadBelief) -> Any:
    """The moments of a belief.

    Raises:
        InferenceError: there are none yet.
    """
    if belief.moments is None:
        raise nothing_learnt()
    return belief.moments
