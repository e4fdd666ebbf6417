"""A learner through a stream: trained task by task, tested on every task after each, resumable."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from continual import predictive
from continual.checks import checked_inputs, checked_labels
from continual.learner import LABEL, AbstractLearner, Predictor, check_kind
from continual.streams import Task, TaskStream
from probinf.errors import ArgumentError, InferenceError
from probinf.inference.fingerprint import surroundings
from probinf.random import as_key
from probinf.runs import Checkpoint, Loop, drive
from probinf.runs.checkpoint import as_checkpoint
from probinf.runs.loop import Arrays
from probinf.runs.trees import packed, unpacked

_TEMPLATE_ROWS = 64  # examples that give a belief its shapes before it is restored


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run found; matrices have a row for each stage (after task i) and a column for each task.

    Attributes:
        accuracy: share of right labels.
        nll: mean -log p(label), nats.
        brier: Brier score.
        calibration_error: expected calibration error, 15 bins.
        initial: accuracy on each task before any data; chance where the learner then predicts nothing.
        ood_auroc: after each stage, entropy of unseen against seen tasks' test data; NaN where none is unseen.
        task_inference_accuracy: after each stage, over the tasks seen; NaN unless class-incremental.
        num_test: test examples of each task.
        seconds: training time of each task, with that of making the predictor.
        memory: bytes of the belief after each task.
        tasks: names of the tasks.
        belief: after the last task.
    """

    accuracy: np.ndarray
    nll: np.ndarray
    brier: np.ndarray
    calibration_error: np.ndarray
    initial: np.ndarray
    ood_auroc: np.ndarray
    task_inference_accuracy: np.ndarray
    num_test: np.ndarray
    seconds: np.ndarray
    memory: np.ndarray
    tasks: tuple[str, ...]
    belief: Any = dataclasses.field(repr=False)

    def __repr__(self) -> str:
        last, done = self.accuracy[-1], len(self.accuracy)
        lines = [
            f"Result({done} of {len(self.tasks)} tasks, {self.seconds.sum():.3g} s of training)",
            f"  average accuracy after task {self.tasks[done - 1]!r}: {np.mean(last[:done]):.4f}",
            *(f"  {name}: {value:.4f}" for name, value in zip(self.tasks[:done], last, strict=False)),
            "  continual.summarise(result) has all metrics, result.accuracy the matrix.",
        ]
        return "\n".join(lines)


def run(
    learner: AbstractLearner,
    stream: TaskStream,
    *,
    seed: Any = 0,
    progress: bool = False,
    checkpoint: Checkpoint | str | os.PathLike[str] | None = None,
) -> Result:
    """Train on each task in turn, and test on all tasks after each; testing changes nothing.

    All data are checked before training starts. With a checkpoint the same call goes on from the last finished task,
    to the same numbers.

    Args:
        learner: what learns.
        stream: tasks with labels.
        seed: an integer or a key.
        progress: show a bar where stderr is a terminal.
        checkpoint: a folder.

    Raises:
        ArgumentTypeError: the learner is none, or the stream.
        ArgumentError: the stream is one of regression.
        DataError: a task has an unknown label, inputs that are not finite or of another shape; the task is named.
        InferenceError: Ctrl-C stopped the run; the stages so far are a `Result` on `.partial`.
        CheckpointError: the folder cannot be used, or belongs to another run.

    Example:
        >>> stream = continual.split(continual.load("digits"))
        >>> learner = continual.Featured(continual.RandomFourier(300, gamma=0.1), continual.BayesianLinearHead(10))
        >>> result = continual.run(learner, stream)
        >>> result.accuracy[-1].mean() > 0.9
        True
    """
    check_kind("learner", learner, AbstractLearner, "a learner such as continual.BayesianLinearHead(10)")
    check_kind("stream", stream, TaskStream, "a stream of tasks such as continual.split(data)")
    as_key(seed, argument="seed")
    if stream.scenario == "regression":
        raise ArgumentError(f"stream: {stream.name} has real targets; update a BayesianLinearRegression with it.")
    _check(stream)
    _check_classes(getattr(getattr(learner, "learner", learner), "num_classes", stream.num_classes), stream)
    loop = StreamLoop(learner, stream, seed)
    outcome = drive(
        loop,
        progress=progress,
        checkpoint=as_checkpoint(checkpoint),
        fingerprint=lambda: _fingerprint(learner, stream, seed),
    )
    if not outcome.is_finished:
        error = InferenceError(f"run: interrupted after {loop.done} of {loop.total} tasks; a checkpoint continues it.")
        error.partial = loop.collected() if loop.rows else None
        raise error
    return loop.collected()


class StreamLoop(Loop):
    """A run between two tasks."""

    unit = "task"

    def __init__(self, learner: AbstractLearner, stream: TaskStream, seed: Any) -> None:
        self.label, self.learner, self.stream, self.seed = stream.name, learner, stream, seed
        self.belief: Any = None
        self.initial = np.zeros(0)
        self.rows: list[Arrays] = []

    @property
    def done(self) -> int:
        return len(self.rows)

    @property
    def total(self) -> int:
        return len(self.stream.tasks)

    @property
    def is_finished(self) -> bool:
        return self.done == self.total

    def start(self) -> None:
        self.belief = self.learner.start(self.seed)
        tasks = self.stream.tasks
        try:
            predictor = self.learner.predictor(self.belief)
        except InferenceError:
            competing = [len(task.classes) if self.stream.scenario == "task" else None for task in tasks]
            self.initial = np.array([1 / (n or self.stream.num_classes) for n in competing])
        else:
            self.initial = np.array([predictive.accuracy(self._tested(predictor, t), t.test.targets) for t in tasks])

    def advance(self) -> Mapping[str, Any]:
        t = self.done
        task, began = self.stream.tasks[t], time.perf_counter()
        belief = self.learner.predict(self.belief, t)
        self.belief, _ = self.learner.update(belief, t, LABEL, task.train.targets, inputs=task.train.inputs)
        predictor = self.learner.predictor(self.belief)  # some learners train here
        jax.block_until_ready((self.belief, predictor))
        seconds = time.perf_counter() - began
        row = self._evaluated(t, predictor) | {
            "seconds": np.asarray(seconds),
            "memory": np.asarray(_num_bytes(self.belief)),
        }
        self.rows.append(row)
        return {"accuracy": float(np.mean(row["accuracy"][: t + 1]))}

    def state(self) -> dict[str, np.ndarray]:
        return packed(self.belief, "belief") | {"initial": self.initial}

    def restore(self, state: Arrays, rows: Sequence[Arrays]) -> None:
        template = self.learner.start(self.seed)
        if rows:  # shapes follow from the first data
            first = self.stream.tasks[0].train
            template, _ = self.learner.update(
                template, 0, LABEL, first.targets[:_TEMPLATE_ROWS], inputs=first.inputs[:_TEMPLATE_ROWS]
            )
        self.belief = unpacked(template, state, "belief")
        self.initial, self.rows = state["initial"], list(rows)

    def collected(self) -> Result:
        """The rows as matrices."""
        columns = {name: np.stack([row[name] for row in self.rows]) for name in self.rows[0]}
        num_test = np.array([len(task.test.targets) for task in self.stream.tasks])
        names = tuple(task.name for task in self.stream.tasks)
        return Result(**columns, initial=self.initial, num_test=num_test, tasks=names, belief=self.belief)

    def _tested(self, predictor: Any, task: Task) -> np.ndarray:
        """Class probabilities of a task's test data; those of other tasks are masked where the task is given."""
        found = predictor(task.test.inputs)
        _check_classes(found.shape[1], self.stream)
        if self.stream.scenario != "task":
            return found
        mask = np.isin(np.arange(found.shape[1]), task.classes)
        masked = np.where(mask, found, 0)
        total = masked.sum(axis=1, keepdims=True)
        uniform = (mask / mask.sum()).astype(found.dtype)[None]
        return np.where(total > 0, masked / np.where(total > 0, total, 1), uniform)

    def _evaluated(self, stage: int, predictor: Predictor) -> dict[str, np.ndarray]:
        tasks = self.stream.tasks
        found = [self._tested(predictor, task) for task in tasks]
        pairs = [(p, task.test.targets) for p, task in zip(found, tasks, strict=True)]
        entropies = [predictive.entropy(p) for p in found]
        seen, unseen = entropies[: stage + 1], entropies[stage + 1 :]
        right = [np.isin(p.argmax(axis=1), task.classes) for p, task in zip(found, tasks, strict=True)]
        is_class = self.stream.scenario == "class"
        return {
            "accuracy": np.array([predictive.accuracy(*pair) for pair in pairs]),
            "nll": np.array([predictive.negative_log_likelihood(*pair) for pair in pairs]),
            "brier": np.array([predictive.brier(*pair) for pair in pairs]),
            "calibration_error": np.array([predictive.calibration_error(*pair) for pair in pairs]),
            "ood_auroc": np.asarray(
                predictive.auroc(np.concatenate(seen), np.concatenate(unseen)) if unseen else float("nan")
            ),
            "task_inference_accuracy": np.asarray(
                np.mean(np.concatenate(right[: stage + 1])) if is_class else float("nan")
            ),
        }


def _check(stream: TaskStream) -> None:
    shape = stream.tasks[0].train.inputs.shape[1:]
    for task in stream.tasks:
        for part, examples in (("training", task.train), ("test", task.test)):
            where = f"task {task.name!r}, {part} data"
            inputs = checked_inputs(examples.inputs, where)
            if inputs.shape[1:] != shape:
                raise ArgumentError(
                    f"{where}: inputs of shape {inputs.shape[1:]}, but the first task has {shape}. "
                    "All tasks of a stream need inputs of one shape."
                )
            checked_labels(examples.targets, where, len(inputs), stream.num_classes)


def _check_classes(num_classes: int, stream: TaskStream) -> None:
    if num_classes < stream.num_classes:
        raise ArgumentError(
            f"learner: it knows {num_classes} classes, and the stream {stream.name} has {stream.num_classes}; give it "
            f"num_classes={stream.num_classes}."
        )


def _num_bytes(belief: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(belief))


def _fingerprint(learner: AbstractLearner, stream: TaskStream, seed: Any) -> dict[str, str]:
    found = {
        **surroundings(),
        "learner": str(learner),
        "stream": stream.name,
        "scenario": stream.scenario,
        "seed": str(seed),
    }
    for i, task in enumerate(stream.tasks):
        digest = hashlib.sha256()
        for array in (*task.train, *task.test):
            digest.update(np.ascontiguousarray(array).tobytes())
        found[f"task {i}"] = digest.hexdigest()
    return found
