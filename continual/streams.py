"""Streams of tasks: who sees which examples when, and what is asked at test."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from continual.checks import check_examples, checked_inputs
from continual.datasets import Dataset, Examples
from probinf.arguments import positive_integer
from probinf.errors import ArgumentError, DataError

Scenario = Literal["task", "domain", "class", "regression"]


class Task(NamedTuple):
    """One task.

    Attributes:
        name: for tables and messages.
        train: what a learner may see while this task lasts, and never after.
        validation: held out of this task's training data, for choosing hyperparameters; may be empty.
        test: for the accuracy matrix.
        classes: labels that occur, sorted; empty for regression.
    """

    name: str
    train: Examples
    validation: Examples
    test: Examples
    classes: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class TaskStream:
    """Tasks in the order they arrive.

    Attributes:
        name: of the benchmark.
        scenario: "task": the task is given at test, so only its classes compete; "domain": the same labels in every
            task; "class": all classes seen so far compete; "regression": real targets.
        tasks: at least one.
        num_classes: labels are below it; 0 for regression.

    Raises:
        ArgumentError: there is no task, or the scenario is unknown.
        DataError: a task has no training example.
    """

    name: str
    scenario: Scenario
    tasks: tuple[Task, ...]
    num_classes: int

    def __post_init__(self) -> None:
        if self.scenario not in get_args(Scenario):
            raise ArgumentError(f"scenario: expected one of {get_args(Scenario)}, found {self.scenario!r}.")
        if not self.tasks:
            raise ArgumentError("tasks: expected at least one task, found none.")
        for task in self.tasks:
            if not len(task.train.inputs):
                raise DataError(
                    f"task {task.name!r} of {self.name}: no training example. Leave it out, or give it data."
                )

    def in_order(self, order: Sequence[int]) -> TaskStream:
        """The same tasks in another order, or some of them.

        Raises:
            ArgumentError: an index does not exist or comes twice.
        """
        found = list(order)
        if len(set(found)) != len(found) or any(not 0 <= i < len(self.tasks) for i in found):
            raise ArgumentError(f"order: expected different indices of {len(self.tasks)} tasks, found {found}.")
        return dataclasses.replace(self, tasks=tuple(self.tasks[i] for i in found))

    def map(self, function: Callable[[np.ndarray], Any]) -> TaskStream:
        """The same stream with `function` applied to all inputs, say to fixed features."""

        def of(examples: Examples) -> Examples:
            return (
                Examples(np.asarray(function(examples.inputs)), examples.targets) if len(examples.inputs) else examples
            )

        tasks = (t._replace(train=of(t.train), validation=of(t.validation), test=of(t.test)) for t in self.tasks)
        return dataclasses.replace(self, tasks=tuple(tasks))

    def with_validation_in_training(self) -> TaskStream:
        """The validation part back in the training part: for the last run, when all choices are made."""

        def joined(task: Task) -> Task:
            if not len(task.validation.inputs):
                return task
            pairs = zip(task.train, task.validation, strict=True)
            return task._replace(train=Examples(*map(np.concatenate, pairs)), validation=_none_of(task.train))

        return dataclasses.replace(self, tasks=tuple(map(joined, self.tasks)))


def split(
    data: Dataset,
    classes: int | Sequence[Sequence[int]] = 2,
    *,
    scenario: Scenario = "class",
    validation: float | int = 0.0,
    seed: int = 0,
) -> TaskStream:
    """A data set split by class.

    Args:
        data: images and labels.
        classes: classes of each task in turn, or how many there are in each, in the order of the labels.
        scenario: with "domain" the labels of each task are renumbered 0, 1, ... in the order of its classes.
        validation: share of each task's training data that is held out.
        seed: of the validation split and of the order within tasks.

    Raises:
        ArgumentError: a class comes twice or does not exist, the share is not in [0, 1), or domain-incremental tasks
            have different numbers of classes.
    """
    if isinstance(classes, int | float):
        size = positive_integer("classes", classes)
        groups = [list(range(i, min(i + size, data.num_classes))) for i in range(0, data.num_classes, size)]
    else:
        groups = [list(group) for group in classes]
    flat = [label for group in groups for label in group]
    if len(set(flat)) != len(flat) or any(not 0 <= label < data.num_classes for label in flat):
        raise ArgumentError(f"classes: expected different labels below {data.num_classes}, found {groups}.")
    if scenario == "domain" and len({len(group) for group in groups}) > 1:
        raise ArgumentError(f"classes: domain-incremental tasks need equal numbers of classes, found {groups}.")
    tasks = []
    for i, group in enumerate(groups):
        renumbered = {label: k if scenario == "domain" else label for k, label in enumerate(group)}
        parts = [_relabelled(part, renumbered) for part in (data.train, data.test)]
        rng = np.random.default_rng([seed, i])
        name = "/".join(map(str, group))
        tasks.append(_task(name, parts[0], parts[1], tuple(sorted(renumbered.values())), validation, rng))
    num_classes = len(groups[0]) if scenario == "domain" else data.num_classes
    return TaskStream(f"split-{data.name}", scenario, tuple(tasks), num_classes)


def permuted(
    data: Dataset, num_tasks: int = 10, *, validation: float | int = 0.0, seed: int = 0, first: bool = True
) -> TaskStream:
    """The same data under one fixed permutation of the pixels in each task; domain-incremental.

    Args:
        data: images and labels.
        num_tasks: number of permutations.
        validation: share of each task's training data that is held out.
        seed: task k has the permutation of `np.random.default_rng([seed, k])`.
        first: whether task 0 is permuted too.
    """

    def scrambler(k: int) -> Callable[[np.ndarray], np.ndarray]:
        def scrambled(inputs: np.ndarray) -> np.ndarray:
            if k == 0 and not first:
                return inputs
            order = np.random.default_rng([seed, k]).permutation(int(np.prod(inputs.shape[1:])))
            return inputs.reshape(len(inputs), -1)[:, order].reshape(inputs.shape)

        return scrambled

    maps = [(f"permutation {k}", scrambler(k)) for k in range(positive_integer("num_tasks", num_tasks))]
    return _transformed(data, f"permuted-{data.name}", maps, validation, seed)


def rotated(
    data: Dataset, degrees: Sequence[float | int], *, validation: float | int = 0.0, seed: int = 0
) -> TaskStream:
    """The same images turned by an angle in each task, bilinear, zeros outside; domain-incremental.

    Args:
        data: images (examples, height, width[, channels]) and labels.
        degrees: one angle for each task, counter-clockwise.
        validation: share of each task's training data that is held out.
        seed: of the validation split and of the order within tasks.

    Raises:
        DataError: the inputs are no images.
    """
    from scipy import ndimage

    if data.train.inputs.ndim < 3:
        raise DataError(
            f"rotated: expected images (examples, height, width[, channels]), found shape {data.train.inputs.shape}."
        )

    def turner(angle: float | int) -> Callable[[np.ndarray], np.ndarray]:
        def turned(inputs: np.ndarray) -> np.ndarray:
            return ndimage.rotate(inputs, angle, axes=(2, 1), reshape=False, order=1)

        return turned

    maps = [(f"{angle:g} degrees", turner(angle)) for angle in degrees]
    return _transformed(data, f"rotated-{data.name}", maps, validation, seed)


def imbalanced(stream: TaskStream, counts: Sequence[int], *, seed: int = 0) -> TaskStream:
    """A stream with only so many training examples in each task, drawn without replacement.

    Raises:
        ArgumentError: not one count for each task, or more than the task has.
    """
    if len(counts) != len(stream.tasks):
        raise ArgumentError(f"counts: expected {len(stream.tasks)} numbers, one for each task, found {len(counts)}.")
    tasks = []
    for i, (task, count) in enumerate(zip(stream.tasks, counts, strict=True)):
        there = len(task.train.inputs)
        if positive_integer("counts", count) > there:
            raise ArgumentError(f"counts: {count} examples of task {task.name!r}, which has {there}.")
        kept = np.random.default_rng([seed, i]).permutation(there)[:count]
        tasks.append(task._replace(train=_take(task.train, kept)))
    return dataclasses.replace(stream, name=f"imbalanced {stream.name}", tasks=tuple(tasks))


def blurry(stream: TaskStream, share: float, *, seed: int = 0) -> TaskStream:
    """A stream without sharp boundaries: a share of each task's training data comes in another task, any of them alike.

    No example is lost or repeated; test data stay as they are.

    Raises:
        ArgumentError: the share is not in [0, 1].
    """
    if not 0 <= share <= 1:
        raise ArgumentError(f"share: expected a number from 0 to 1, found {share}.")
    rng, total = np.random.default_rng(seed), len(stream.tasks)
    inputs, targets = (np.concatenate(part) for part in zip(*(task.train for task in stream.tasks), strict=True))
    home = np.repeat(np.arange(total), [len(task.train.inputs) for task in stream.tasks])
    moved = (rng.random(len(home)) < share) & (total > 1)
    place = np.where(moved, (home + rng.integers(1, max(total, 2), len(home))) % total, home)
    tasks = []
    for i, task in enumerate(stream.tasks):
        chosen = rng.permutation(np.flatnonzero(place == i))
        tasks.append(task._replace(train=Examples(inputs[chosen], targets[chosen])))
    return dataclasses.replace(stream, name=f"blurry {stream.name}", tasks=tuple(tasks))


def cut(
    train: Examples,
    test: Examples,
    boundaries: Sequence[int],
    *,
    test_boundaries: Sequence[int],
    scenario: Scenario = "regression",
    validation: float | int = 0.0,
    seed: int = 0,
    name: str = "stream",
) -> TaskStream:
    """A stream from arrays, cut into tasks at given rows.

    Args:
        train: inputs and targets in the order they arrive.
        test: the same for the test data.
        boundaries: first row of every task but the first.
        test_boundaries: the same for the test data.
        scenario: "regression" for real targets; otherwise targets are labels.
        validation: share of each task's training data that is held out.
        seed: of the validation split and of the order within tasks.
        name: of the stream.

    Raises:
        ArgumentError: boundaries that do not rise, or their numbers differ.
        DataError: not one target for each input, or a task without training examples.
    """
    for what, part in (("train", train), ("test", test)):
        check_examples(*part, what, None if scenario == "regression" else np.iinfo(np.int32).max)
    if len(boundaries) != len(test_boundaries):
        raise ArgumentError(f"test_boundaries: expected {len(boundaries)} rows, found {len(test_boundaries)}.")
    pieces = zip(_cut(train, boundaries, "boundaries"), _cut(test, test_boundaries, "test_boundaries"), strict=True)
    tasks = []
    for i, (ours, theirs) in enumerate(pieces):
        if not len(ours.inputs):
            raise DataError(f"task {i}: no training example between its boundaries.")
        classes = () if scenario == "regression" else tuple(map(int, np.unique(ours.targets)))
        tasks.append(_task(str(i), ours, theirs, classes, validation, np.random.default_rng([seed, i])))
    num_classes = 0 if scenario == "regression" else int(np.max(train.targets)) + 1
    return TaskStream(name, scenario, tuple(tasks), num_classes)


def _transformed(
    data: Dataset,
    name: str,
    maps: Iterable[tuple[str, Callable[[np.ndarray], np.ndarray]]],
    validation: float | int,
    seed: int,
) -> TaskStream:
    classes = tuple(range(data.num_classes))
    tasks = []
    for i, (label, function) in enumerate(maps):
        train, test = (Examples(function(part.inputs), part.targets) for part in (data.train, data.test))
        tasks.append(_task(label, train, test, classes, validation, np.random.default_rng([seed, i, 1])))
    return TaskStream(name, "domain", tuple(tasks), data.num_classes)


def _task(
    name: str,
    train: Examples,
    test: Examples,
    classes: tuple[int, ...],
    validation: float | int,
    rng: np.random.Generator,
) -> Task:
    if not 0 <= validation < 1:
        raise ArgumentError(f"validation: expected a share from 0 to below 1, found {validation}.")
    if len(train.inputs):
        checked_inputs(train.inputs, f"task {name!r}")
    order = rng.permutation(len(train.inputs))
    held = round(validation * len(order))
    return Task(name, _take(train, order[held:]), _take(train, order[:held]), test, classes)


def _relabelled(part: Examples, renumbered: dict[int, int]) -> Examples:
    chosen = _take(part, np.flatnonzero(np.isin(part.targets, list(renumbered))))
    return Examples(chosen.inputs, np.array([renumbered[int(label)] for label in chosen.targets], np.int64))


def _cut(part: Examples, boundaries: Sequence[int], argument: str) -> list[Examples]:
    edges = [0, *boundaries, len(part.inputs)]
    if any(a > b for a, b in itertools.pairwise(edges)):
        raise ArgumentError(f"{argument}: expected rising rows of {len(part.inputs)}, found {list(boundaries)}.")
    return [_take(part, slice(a, b)) for a, b in itertools.pairwise(edges)]


def _take(part: Examples, rows: Any) -> Examples:
    return Examples(part.inputs[rows], part.targets[rows])


def _none_of(part: Examples) -> Examples:
    return _take(part, slice(0, 0))
