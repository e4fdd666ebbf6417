"""What exact heads share: a belief made of moments, updated in batches, and door checks."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import numpy as np

from continual.checks import checked_inputs, checked_labels
from continual.learner import AbstractLearner, UpdateInfo, nothing_learnt, require_label
from continual.moments import absorbed
from probinf.errors import InferenceError
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
        _refuse_overflow(moments, z, t)
        return HeadBelief(moments), UpdateInfo(len(z), steps)


def _refuse_overflow(moments: Any, z: np.ndarray, t: int) -> None:
    """Raise where compiled sums left the range of their floats; the belief before is as it was."""
    if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(moments)):
        return
    row = int(np.argmax(np.abs(z).max(axis=1)))
    raise InferenceError(
        f"task {t}: sums over the inputs overflow in {moments.dtype}; the largest input, {np.abs(z[row]).max():.3g}, "
        f"is in row {row}. Scale the inputs to about 1, or leave that row out."
    )


def moments_of(belief: HeadBelief) -> Any:
    """The moments of a belief.

    Raises:
        InferenceError: there are none yet.
    """
    if belief.moments is None:
        raise nothing_learnt()
    return belief.moments
