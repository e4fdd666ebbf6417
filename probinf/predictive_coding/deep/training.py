"""Training of a deep network over epochs, with progress, Ctrl-C and checkpoints."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from probinf.arguments import positive_integer
from probinf.errors import ArgumentError, ArgumentTypeError, InferenceError
from probinf.inference.fingerprint import describe, numbers, surroundings
from probinf.predictive_coding.deep.checks import positive_number
from probinf.predictive_coding.deep.clamping import Clamp, clamped
from probinf.predictive_coding.deep.learning import AbstractRule, AfterInference
from probinf.predictive_coding.deep.network import AbstractNetwork, trainable
from probinf.random import as_key
from probinf.runs.checkpoint import Checkpoint, as_checkpoint
from probinf.runs.loop import Arrays, Loop, drive
from probinf.runs.trees import packed, unpacked

_PIECE = 50  # batches between two looks at Ctrl-C and the clock
_TRIED = 3  # batches whose effect is part of a run's fingerprint


@dataclasses.dataclass(frozen=True)
class Training:
    """How a network is trained.

    Args:
        rule: what one batch does: `AfterInference`, `Incremental`, `CentredNudging`; `ClosedFormLearning` for a
            `LayeredHGF`.
        optimiser: of the weights: an Optax transformation, or a learning rate for Adam.
        batch_size: examples in a batch.
        num_epochs: passes over the data, each in an order of its own; what does not fill a batch is left for another
            epoch.

    Raises:
        ArgumentError: a setting has an impossible value.
        ArgumentTypeError: a setting is of the wrong kind.
    """

    rule: AbstractRule = AfterInference()  # noqa: RUF009 - a frozen value
    optimiser: Any = 1e-3
    batch_size: int = 128
    num_epochs: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.rule, AbstractRule):
            raise ArgumentTypeError(f"rule: expected one such as deep.AfterInference(), found {self.rule!r}.")
        if not isinstance(self.optimiser, optax.GradientTransformation):
            positive_number("optimiser", self.optimiser)
        positive_integer("batch_size", self.batch_size)
        positive_integer("num_epochs", self.num_epochs)

    @property
    def transformation(self) -> optax.GradientTransformation:
        """The optimiser as an Optax transformation."""
        found = self.optimiser
        return found if isinstance(found, optax.GradientTransformation) else _adam(float(found))


@functools.cache
def _adam(learning_rate: float) -> optax.GradientTransformation:
    """Adam, the same object for the same rate, so that nothing is compiled twice."""
    return optax.adam(learning_rate)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        network: with its weights at the end.
        energies: mean energy that inference left, nats, one for every batch.
        is_partial: whether Ctrl-C stopped the training before its end.
        notes: reasons for caution, such as a checkpoint that could not be written.
    """

    network: AbstractNetwork
    energies: Float[np.ndarray, " steps"]
    is_partial: bool = False
    notes: tuple[str, ...] = ()


def train(
    network: AbstractNetwork,
    training: Training,
    *,
    inputs: Any = None,
    outputs: Any,
    seed: Any = 0,
    progress: bool = False,
    checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
) -> Trained:
    """Train on examples.

    Ctrl-C stops between two pieces of 50 batches. With a checkpoint the same call goes on from there, to the same
    weights; a finished run is extended by a larger `num_epochs`.

    Args:
        network: the start.
        training: rule, optimiser, batches, epochs.
        inputs: (examples, *input_shape), or None: the causes of each example are then inferred under the prior.
        outputs: (examples, *output_shape); labels as one-hot rows (`one_hot`).
        seed: an integer or a key: the order of the examples follows from it.
        progress: show a bar.
        checkpoint: a folder.

    Raises:
        DataError: data of another shape, or not finite.
        ArgumentError: fewer examples than a batch, nothing to train, or a rule that cannot train this network.
        InferenceError: the energy is no longer finite; `.partial` is what was trained until then.
        CheckpointError: the folder cannot be used, or belongs to another run.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(256, 4))
        >>> trained = train(mlp((4, 8, 1), key=0), Training(batch_size=32), inputs=x, outputs=x[:, :1] ** 2)
        >>> trained.energies.shape
        (8,)
    """
    if outputs is None:
        raise ArgumentError("outputs: expected data (examples, *output_shape), found None.")
    data = clamped(network, inputs, outputs)
    assert data.outputs is not None
    if len(data.outputs) < training.batch_size:
        raise ArgumentError(
            f"batch_size: expected at most the {len(data.outputs)} examples there are, found {training.batch_size}."
        )
    if not jax.tree.leaves(trainable(network)[0]):
        raise ArgumentError("network: nothing to train: its layers hold no floating-point arrays.")
    training.rule.check(network, data)
    loop = TrainingLoop(network, training, data, as_key(seed))
    outcome = drive(loop, progress=progress, checkpoint=as_checkpoint(checkpoint), fingerprint=loop.fingerprint)
    return dataclasses.replace(loop.trained(), is_partial=not outcome.is_finished, notes=outcome.notes)


class TrainingLoop(Loop):
    """A training between two pieces.

    Args:
        network: the start.
        training: the settings.
        data: all examples.
        key: of the orders of the examples.
    """

    label, unit = "training", "batch"

    def __init__(self, network: AbstractNetwork, training: Training, data: Clamp, key: jax.Array) -> None:
        self.initial, self.training, self.data, self.key = network, training, data, key
        self.optimiser = training.transformation
        self.num_examples = len(jax.tree.leaves(data)[0])
        self.batches = self.num_examples // training.batch_size
        self.rows: list[Arrays] = []
        self.network: AbstractNetwork = network
        self.optimiser_state: Any = None
        self._order: tuple[int, np.ndarray] | None = None

    @property
    def done(self) -> int:
        return sum(len(row["energy"]) for row in self.rows)

    @property
    def total(self) -> int:
        return self.training.num_epochs * self.batches

    @property
    def is_finished(self) -> bool:
        return self.done >= self.total

    def start(self) -> None:
        self.network, self.optimiser_state = self.initial, self.optimiser.init(trainable(self.initial)[0])

    def advance(self) -> Mapping[str, Any]:
        done, size = self.done, min(_PIECE, self.total)
        chosen = np.zeros((size, self.training.batch_size), np.int32)
        num = min(size, self.total - done)
        for i in range(num):
            chosen[i] = self._batch(done + i)
        self.network, self.optimiser_state, trace = _piece(
            self.network, self.optimiser_state, self.training.rule, self.optimiser, self.data, chosen, np.int32(num)
        )
        energy = np.asarray(trace)[:num]
        if not np.isfinite(energy).all():
            step = done + int(np.flatnonzero(~np.isfinite(energy))[0])
            error = InferenceError(
                f"train: the energy of batch {step} is {energy[step - done]}: the activities or the weights ran away. "
                "Lower the step size of the inference or the learning rate."
            )
            error.partial = dataclasses.replace(self.trained(), is_partial=True)
            raise error
        self.rows.append({"energy": energy})
        return {"energy": float(energy[-1])}

    def _batch(self, step: int) -> np.ndarray:
        """The examples of a batch, which follow from the number of the step."""
        epoch, place = divmod(step, self.batches)
        if self._order is None or self._order[0] != epoch:
            self._order = (
                epoch,
                np.asarray(jax.random.permutation(jax.random.fold_in(self.key, epoch), self.num_examples)),
            )
        size = self.training.batch_size
        return self._order[1][place * size : (place + 1) * size]

    def state(self) -> dict[str, np.ndarray]:
        return packed((eqx.filter(self.network, eqx.is_array), self.optimiser_state), "state")

    def restore(self, state: Arrays, rows: Sequence[Arrays]) -> None:
        self.start()
        arrays, static = eqx.partition(self.initial, eqx.is_array)
        arrays, self.optimiser_state = unpacked((arrays, self.optimiser_state), state, "state")
        self.network, self.rows = eqx.combine(arrays, static), list(rows)

    def trained(self) -> Trained:
        """What is trained so far."""
        energies = np.concatenate([row["energy"] for row in self.rows]) if self.rows else np.zeros(0)
        return Trained(self.network, energies)

    def fingerprint(self) -> dict[str, str]:
        """What the weights at the end depend on: data, settings and what the first batches do to the network."""
        size = self.training.batch_size
        chosen = np.stack([self._batch(i % self.batches) for i in range(_TRIED)])
        state = self.optimiser.init(trainable(self.initial)[0])
        network, _, energies = _piece(
            self.initial, state, self.training.rule, self.optimiser, self.data, chosen, np.int32(_TRIED)
        )
        leaves = [*jax.tree.leaves(trainable(network)[0]), energies]
        return {
            **surroundings(),
            "data": ", ".join(describe(leaf) for leaf in jax.tree.leaves(self.data)),
            "network": str(self.initial.shapes),
            "key": f"{jax.random.key_impl(self.key)} {np.asarray(jax.random.key_data(self.key)).tolist()}",
            "batch_size": str(size),
            "rule": type(self.training.rule).__name__,
            f"first {_TRIED} batches": "; ".join(numbers("", leaf) for leaf in leaves),
        }


@eqx.filter_jit
def _piece(
    network: AbstractNetwork, state: Any, rule: AbstractRule, optimiser: Any, data: Clamp, chosen: Any, num: Any
) -> tuple[AbstractNetwork, Any, Array]:
    """The first `num` of the chosen batches, one after the other."""
    arrays, static = eqx.partition(network, eqx.is_array)

    def batch(i: Array, carry: Any) -> Any:
        arrays, state, trace = carry
        clamp = jax.tree.map(lambda leaf: leaf[chosen[i]], data)
        moved, state, energy = rule.step(eqx.combine(arrays, static), state, optimiser, clamp)
        return eqx.filter(moved, eqx.is_array), state, trace.at[i].set(energy)

    trace = jnp.zeros(len(chosen), network.dtype)
    arrays, state, trace = jax.lax.fori_loop(0, num, batch, (arrays, state, trace))
    return eqx.combine(arrays, static), state, trace


def one_hot(labels: Any, num_classes: int) -> Float[np.ndarray, "examples classes"]:
    """Integer labels 0, ..., num_classes - 1 as rows with a single 1.

    Raises:
        ArgumentError: a label is no integer or out of range.
    """
    labels, count = np.asarray(labels), positive_integer("num_classes", num_classes)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ArgumentError(f"labels: expected integers (examples,), found {labels.dtype} {labels.shape}.")
    if len(labels) and not 0 <= labels.min() <= labels.max() < count:
        raise ArgumentError(f"labels: expected 0 to {count - 1}, found {labels.min()} to {labels.max()}.")
    return np.eye(count, dtype=np.float32)[labels]
