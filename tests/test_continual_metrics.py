"""Metrics by hand-worked cases and by definition; files that can be read back."""

import csv
import dataclasses
import json
import math

import numpy as np
import pytest

import continual
from continual import metrics, predictive
from probinf.errors import ArgumentError, ArgumentTypeError

R = np.array([[0.90, 0.10, 0.10], [0.70, 0.80, 0.10], [0.60, 0.60, 0.95]])
INITIAL = np.array([0.1, 0.1, 0.1])


def test_the_worked_example():
    assert metrics.average_accuracy(R) == pytest.approx(2.15 / 3)
    assert metrics.average_accuracy(R, 1) == pytest.approx(0.75)
    assert metrics.forgetting(R) == pytest.approx(0.25)
    assert metrics.forgetting(R, 1) == pytest.approx(0.2)
    assert metrics.backward_transfer(R) == pytest.approx(-0.25)
    assert metrics.averaged_backward_transfer(R) == pytest.approx(-0.7 / 3)
    assert metrics.forward_transfer(R, INITIAL) == pytest.approx(0)
    assert metrics.lower_triangle_accuracy(R) == pytest.approx(4.55 / 6)
    assert metrics.learning_accuracy(R) == pytest.approx(2.65 / 3)
    assert metrics.average_incremental_accuracy(R) == pytest.approx((0.9 + 0.75 + 2.15 / 3) / 3)
    assert metrics.intransigence(R, np.array([0.9, 0.9, 0.9])) == pytest.approx(0.05 / 3)


def test_forgetting_takes_the_best_before_the_end_and_may_be_negative():
    later_best = np.array([[0.5, 0.0, 0.0], [0.8, 0.5, 0.0], [0.6, 0.7, 0.5]])
    assert metrics.forgetting(later_best) == pytest.approx((0.2 - 0.2) / 2)
    assert metrics.backward_transfer(later_best) == pytest.approx((0.1 + 0.2) / 2)


def test_one_task_has_no_transfer_and_no_forgetting():
    single = np.array([[0.9]])
    for value in (
        metrics.forgetting(single),
        metrics.backward_transfer(single),
        metrics.averaged_backward_transfer(single),
        metrics.forward_transfer(single, np.array([0.1])),
    ):
        assert math.isnan(value)


def test_scores_of_probabilities_by_hand():
    p = np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.3, 0.3, 0.4], [0.0, 0.0, 1.0]])
    y = np.array([0, 2, 2, 2])
    assert predictive.accuracy(p, y) == 0.75
    assert predictive.negative_log_likelihood(p, y) == pytest.approx(-np.log(0.7 * 0.4 * 0.4) / 4)
    assert predictive.brier(p, y) == pytest.approx((0.14 + 0.62 + 0.54 + 0) / 4)
    # confidences .7 (right), .5 (wrong), .4 (right), 1 (right), each alone in its bin of 15
    assert predictive.calibration_error(p, y) == pytest.approx((0.3 + 0.5 + 0.6 + 0) / 4)
    assert predictive.calibration_error(p, y, bins=1) == pytest.approx(abs(3 - 2.6) / 4)
    assert predictive.negative_log_likelihood(np.eye(2), np.array([1, 0])) == pytest.approx(-np.log(1e-30))
    np.testing.assert_allclose(predictive.entropy(np.array([[0.5, 0.5], [1.0, 0.0]])), [np.log(2), 0])


def test_auroc_counts_pairs():
    rng = np.random.default_rng(0)
    low, high = rng.integers(0, 5, 30).astype(float), rng.integers(1, 7, 20).astype(float)
    pairs = (high[:, None] > low[None]) + 0.5 * (high[:, None] == low[None])
    assert predictive.auroc(low, high) == pytest.approx(pairs.mean())
    assert math.isnan(predictive.auroc(low, high[:0]))


def made(matrix: np.ndarray, seconds: float) -> continual.Result:
    size = len(matrix)
    return continual.Result(
        accuracy=matrix,
        nll=np.full((size, size), 0.5),
        brier=np.full((size, size), 0.2),
        calibration_error=np.full((size, size), 0.1),
        initial=INITIAL[:size],
        ood_auroc=np.array([0.9, 0.7, np.nan])[-size:],
        task_inference_accuracy=np.full(size, 0.8),
        num_test=np.array([1, 1, 2])[:size],
        seconds=np.full(size, seconds),
        memory=np.arange(size) + 1,
        tasks=tuple(map(str, range(size))),
        belief=None,
    )


def test_summaries_over_seeds_and_files(tmp_path):
    runs = {"a": [made(R, 1.0), made(R - 0.1, 2.0)], "b": [made(R, 3.0)]}
    summary = continual.summarise(runs["a"][0])
    assert summary.overall_accuracy == pytest.approx((0.6 + 0.6 + 2 * 0.95) / 4)
    assert summary.ood_auroc == pytest.approx(0.8)
    assert (summary.seconds, summary.memory) == (3.0, 3.0)
    found = continual.over_seeds([continual.summarise(result) for result in runs["a"]])
    assert found["average_accuracy"] == pytest.approx((2.15 / 3 - 0.05, 0.1 / np.sqrt(2), 2))
    assert math.isnan(continual.over_seeds([summary])["nll"][1])

    table = continual.as_table(runs).splitlines()
    assert table[0].startswith("| learner | average_accuracy | forgetting |")
    assert table[2].startswith("| a | 0.6667 ± 0.071 |")
    continual.write_csv(tmp_path / "new" / "folder" / "runs.csv", runs)
    with open(tmp_path / "new" / "folder" / "runs.csv", newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [(line["learner"], line["run"]) for line in lines] == [("a", "0"), ("a", "1"), ("b", "0")]
    assert float(lines[1]["average_accuracy"]) == pytest.approx(2.15 / 3 - 0.1)
    continual.write_json(tmp_path / "runs.json", runs)
    read = json.loads(
        (tmp_path / "runs.json").read_text(encoding="utf-8"), parse_constant=lambda name: pytest.fail(name)
    )
    np.testing.assert_array_equal(read["a"][0]["accuracy"], R)
    assert read["a"][0]["ood_auroc"][-1] is None
    assert set(read["b"][0]["summary"]) == {field.name for field in dataclasses.fields(continual.Summary)}


def test_no_runs_are_no_summary():
    with pytest.raises(ArgumentError, match="expected at least one"):
        continual.over_seeds([])


@pytest.mark.bad_input
def test_what_is_no_run_is_named(tmp_path):
    one = made(R, 1.0)
    with pytest.raises(ArgumentTypeError, match=r"result: expected what continual.run returns, found ndarray"):
        continual.summarise(R)
    for write in (continual.as_table, lambda runs: continual.write_json(tmp_path / "a", runs)):
        with pytest.raises(ArgumentTypeError, match=r"runs: expected names and lists of results, found list"):
            write([one])
        with pytest.raises(ArgumentTypeError, match=r"runs\['a'\]: expected a list of results, found Result"):
            write({"a": one})
    with pytest.raises(ArgumentTypeError, match=r"runs\['a'\]\[1\]: expected what continual.run returns, found str"):
        continual.write_csv(tmp_path / "a", {"a": [one, "b"]})
    assert not list(tmp_path.iterdir())
