"""Door checks of examples: everything is looked at before a learner changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from probinf.errors import ArgumentError, ArgumentTypeError, DataError, InferenceError
from probinf.representations.concrete import default_float


def checked_inputs(inputs: Any, where: str, width: int | None = None) -> np.ndarray:
    """Finite inputs with a leading axis of examples; `width` is the number of columns they must have.

    Raises:
        ArgumentTypeError: they are no array of numbers.
        DataError: there are none, one is not finite, or the width differs.
    """
    if inputs is None:
        raise ArgumentTypeError(f"{where}: there are no inputs; pass inputs=..., one row for each label.")
    try:
        found = np.asarray(inputs)
    except ValueError as error:  # ragged
        raise ArgumentTypeError(f"{where}: expected an array of inputs, found rows of different lengths.") from error
    if found.dtype.kind not in "buif":
        raise ArgumentTypeError(f"{where}: expected an array of numbers, found dtype {found.dtype}.")
    if found.ndim < 2:
        raise DataError(f"{where}: expected inputs of shape (examples, features), found shape {found.shape}.")
    if len(found) == 0:
        raise DataError(f"{where}: there is no example. Leave the task out, or give it data.")
    if width is not None and (found.ndim != 2 or found.shape[1] != width):
        raise DataError(
            f"{where}: inputs of shape {found.shape}, but the examples before had {width} features. "
            "A learner keeps the features it started with."
        )
    if found.dtype == np.float64:  # 32 bit where JAX has no other; what does not fit is found below
        with np.errstate(over="ignore"):
            found = found.astype(default_float(), copy=False)
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        bad = ~np.isfinite(found.reshape(len(found), -1)).all(axis=1)
        raise DataError(
            f"{where}: {int(bad.sum())} of {len(found)} inputs are not finite, the first in row "
            f"{int(np.argmax(bad))}. Remove those rows or fill them in."
        )
    return found


def check_examples(inputs: Any, targets: Any, where: str, num_classes: int | None = None) -> None:
    """Arrays of one length, before any of them is copied or dropped; with `num_classes` targets are labels below it.

    Raises:
        ArgumentTypeError: one is no array of numbers.
        DataError: lengths differ, or a label is no whole number from 0 to `num_classes` - 1; the first is named.
    """
    for what, part in (("inputs", inputs), ("targets", targets)):
        if not isinstance(part, np.ndarray | jax.Array):
            raise ArgumentTypeError(f"{where}, {what}: expected an array, found {type(part).__name__}; use np.asarray.")
        if np.dtype(part.dtype).kind not in "buif":
            raise ArgumentTypeError(
                f"{where}, {what}: expected numbers, found dtype {part.dtype}. Encode strings as integers: "
                "np.unique(labels, return_inverse=True)."
            )
    if len(inputs) != len(targets):
        raise DataError(f"{where}: {len(inputs)} inputs and {len(targets)} targets; expected one for each input.")
    if num_classes is None:
        return
    if targets.ndim != 1:
        raise DataError(f"{where}: expected labels of shape (examples,), found shape {targets.shape}.")
    labels = np.asarray(targets)
    wrong = (labels < 0) | (labels >= num_classes) | (labels != np.floor(labels))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(
            f"{where}: label {labels[row]} in row {row} is none of 0, ..., {num_classes - 1}; {int(wrong.sum())} of "
            f"{len(labels)} are not. Raise num_classes, or renumber: np.unique(labels, return_inverse=True)."
        )


def checked_losses(losses: Sequence[Any]) -> float:
    """Mean of the losses of the steps of training, which stayed on the device until now.

    Raises:
        InferenceError: one is not finite; the first such step is named.
    """
    found = np.asarray(jax.device_get(list(losses)), np.float64)
    bad = ~np.isfinite(found)
    if bad.any():
        raise InferenceError(
            f"The loss is {found[bad][0]} at training step {int(np.argmax(bad))} of {len(found)}, and useless from "
            "there on. The belief before this task is as it was. Lower learning_rate, or scale the inputs to about 1."
        )
    return float(found.mean())


def checked_labels(labels: Any, where: str, num_examples: int, num_classes: int) -> np.ndarray:
    """Labels 0, 1, ..., `num_classes` - 1, one for each example.

    Raises:
        ArgumentTypeError: they are not integers.
        DataError: their number differs, or one is outside the range; it is named.
    """
    found = np.asarray(labels)
    if found.dtype.kind not in "ui":
        raise ArgumentTypeError(f"{where}: expected integer labels, found dtype {found.dtype}.")
    if found.shape != (num_examples,):
        raise DataError(f"{where}: {num_examples} inputs, but labels of shape {found.shape}.")
    if found.size and not 0 <= found.min() <= found.max() < num_classes:
        outside = np.unique(found[(found < 0) | (found >= num_classes)])
        raise DataError(
            f"{where}: label {int(outside[0])} is unknown, this learner has the classes 0 to {num_classes - 1}. "
            "Raise num_classes, or renumber the labels."
        )
    return found.astype(np.int32)


def checked_targets(targets: Any, where: str, num_examples: int, num_outputs: int) -> np.ndarray:
    """Finite real targets of shape (examples, outputs); a vector is one output.

    Raises:
        DataError: the shape differs or a value is not finite.
    """
    found = np.asarray(targets)
    if found.dtype.kind not in "buif":
        raise ArgumentTypeError(f"{where}: expected numbers as targets, found dtype {found.dtype}.")
    if found.ndim == 1:
        found = found[:, None]
    if found.shape != (num_examples, num_outputs):
        raise DataError(f"{where}: expected targets of shape ({num_examples}, {num_outputs}), found {found.shape}.")
    if not np.isfinite(found).all():
        row = int(np.argmax(~np.isfinite(found).all(axis=1)))
        raise DataError(f"{where}: the target in row {row} is not finite. Remove the row.")
    return found


def positive(argument: str, value: Any) -> float:
    """A positive finite number.

    Raises:
        ArgumentTypeError: it is no number.
        ArgumentError: it is not positive, or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise ArgumentTypeError(f"{argument}: expected a number, found {value!r}.")
    if not 0 < value < float("inf"):
        raise ArgumentError(f"{argument}: expected a positive number, found {value}.")
    return float(value)
