"""Metrics of an accuracy matrix: R[i, j] is the accuracy on task j after training on task i, both from 0.

Whatever needs a second task is NaN for a single one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from continual.learner import check_kind
from continual.running import Result
from probinf.errors import ArgumentError

Matrix = Float[np.ndarray, "t t"]
_NAN = float("nan")


def average_accuracy(accuracy: Matrix, stage: int = -1) -> float:
    """Mean accuracy on the tasks seen after a stage, equal weight for each task."""
    last = range(len(accuracy))[stage]
    return float(np.mean(accuracy[last, : last + 1]))


def average_incremental_accuracy(accuracy: Matrix) -> float:
    """Mean over stages of `average_accuracy`.

    References:
        Rebuffi et al. (2017), iCaRL, with tasks weighted equally.
    """
    return float(np.mean([average_accuracy(accuracy, i) for i in range(len(accuracy))]))


def forgetting(accuracy: Matrix, stage: int = -1) -> float:
    """Mean over earlier tasks of the best accuracy before a stage minus that after it; may be negative.

    References:
        Chaudhry et al. (2018), Riemannian walk for incremental learning, section 3.
    """
    last = range(len(accuracy))[stage]
    if last == 0:
        return _NAN
    return float(np.mean([accuracy[j:last, j].max() - accuracy[last, j] for j in range(last)]))


def backward_transfer(accuracy: Matrix) -> float:
    """Mean over earlier tasks of the final accuracy minus that when the task was learnt.

    References:
        Lopez-Paz & Ranzato (2017), Gradient episodic memory, section 2.
    """
    return float(np.mean(accuracy[-1, :-1] - np.diag(accuracy)[:-1])) if len(accuracy) > 1 else _NAN


def averaged_backward_transfer(accuracy: Matrix) -> float:
    """Backward transfer averaged over all later stages, not only the last.

    References:
        Díaz-Rodríguez et al. (2018), Don't forget, there is more than forgetting.
    """
    if len(accuracy) < 2:
        return _NAN
    later, earlier = np.tril_indices(len(accuracy), -1)
    return float(np.mean(accuracy[later, earlier] - np.diag(accuracy)[earlier]))


def forward_transfer(accuracy: Matrix, initial: Float[np.ndarray, " t"]) -> float:
    """Mean over later tasks of the accuracy just before the task minus that at initialisation.

    References:
        Lopez-Paz & Ranzato (2017), Gradient episodic memory, section 2.
    """
    return float(np.mean(np.diag(accuracy, 1) - initial[1:])) if len(accuracy) > 1 else _NAN


def lower_triangle_accuracy(accuracy: Matrix) -> float:
    """Mean accuracy over all stages and tasks seen by then (Díaz-Rodríguez et al., 2018)."""
    return float(np.mean(accuracy[np.tril_indices(len(accuracy))]))


def learning_accuracy(accuracy: Matrix) -> float:
    """Mean accuracy on each task just after it was learnt."""
    return float(np.mean(np.diag(accuracy)))


def intransigence(accuracy: Matrix, joint: Float[np.ndarray, " t"]) -> float:
    """Mean shortfall against a joint model of tasks 0 to j on task j, when task j was just learnt.

    References:
        Chaudhry et al. (2018), Riemannian walk for incremental learning, section 3.
    """
    return float(np.mean(joint - np.diag(accuracy)))


def posterior_gap(found: Float[np.ndarray, "n c"], joint: Float[np.ndarray, "n c"]) -> float:
    """Mean total variation between predicted class probabilities and those of joint training, from 0 to 1.

    Args:
        found: class probabilities after sequential learning, (inputs, classes).
        joint: those of the joint posterior of the same data at the same inputs.

    Raises:
        ArgumentError: shapes differ, there is no input, or rows are no distributions.
    """
    for argument, rows in (("found", found), ("joint", joint)):
        if rows.shape != joint.shape or not rows.size:
            raise ArgumentError(f"{argument}: expected rows of one shape in both, found {found.shape}, {joint.shape}.")
        if not (np.min(rows) >= 0 and np.allclose(rows.sum(axis=1), 1, rtol=0, atol=1e-3)):  # NaN fails too
            raise ArgumentError(f"{argument}: expected a distribution in each row: not negative, sum 1.")
    return float(np.mean(0.5 * np.sum(np.abs(np.asarray(found, float) - np.asarray(joint, float)), axis=1)))


@dataclasses.dataclass(frozen=True)
class Summary:
    """The numbers of one run; accuracies are shares, likelihoods nats, memory bytes, times seconds.

    Attributes:
        average_accuracy: after the last task.
        overall_accuracy: correct over all test examples, after the last task.
        average_incremental_accuracy: mean of `average_accuracy` over stages.
        forgetting: by the best accuracy before the last task.
        backward_transfer: by the accuracy when learnt.
        forward_transfer: by the accuracy before learning.
        learning_accuracy: when learnt.
        nll: negative log likelihood of the label, mean over tasks, after the last.
        brier: in the same way.
        calibration_error: in the same way, 15 bins in each task.
        ood_auroc: entropy of unseen against seen tasks, mean over stages but the last.
        task_inference_accuracy: share whose predicted class belongs to the right task, after the last.
        seconds: training, all tasks.
        memory: kept between tasks, largest.
    """

    average_accuracy: float
    overall_accuracy: float
    average_incremental_accuracy: float
    forgetting: float
    backward_transfer: float
    forward_transfer: float
    learning_accuracy: float
    nll: float
    brier: float
    calibration_error: float
    ood_auroc: float
    task_inference_accuracy: float
    seconds: float
    memory: float


def summarise(result: Result) -> Summary:
    """All metrics of a run.

    Raises:
        ArgumentTypeError: it is not the `Result` of a run.
    """
    check_kind("result", result, Result, "what continual.run returns")
    matrix = result.accuracy
    unseen = result.ood_auroc[:-1]
    return Summary(
        average_accuracy=average_accuracy(matrix),
        overall_accuracy=float(np.average(matrix[-1], weights=result.num_test)),
        average_incremental_accuracy=average_incremental_accuracy(matrix),
        forgetting=forgetting(matrix),
        backward_transfer=backward_transfer(matrix),
        forward_transfer=forward_transfer(matrix, result.initial),
        learning_accuracy=learning_accuracy(matrix),
        nll=float(np.mean(result.nll[-1])),
        brier=float(np.mean(result.brier[-1])),
        calibration_error=float(np.mean(result.calibration_error[-1])),
        ood_auroc=float(np.mean(unseen)) if len(unseen) else _NAN,
        task_inference_accuracy=float(result.task_inference_accuracy[-1]),
        seconds=float(result.seconds.sum()),
        memory=float(result.memory.max()),
    )


def over_seeds(summaries: Sequence[Summary]) -> dict[str, tuple[float, float, int]]:
    """Mean, standard deviation (n - 1; NaN for one seed) and number of runs of each metric.

    Raises:
        ArgumentError: there is no summary.
    """
    if not summaries:
        raise ArgumentError("summaries: expected at least one, found none.")
    found = {}
    for field in dataclasses.fields(Summary):
        values = np.array([getattr(summary, field.name) for summary in summaries])
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else _NAN
        found[field.name] = (float(np.mean(values)), spread, len(values))
    return found
