"""Runs through streams: features without leaks, pure evaluation, resumption, baselines on embedded digits."""

import dataclasses
import pathlib
import re

import jax
import numpy as np
import pytest

import continual
from continual.strategies.memory import Stored
from probinf.errors import ArgumentError, CheckpointError, DataError, InferenceError


@pytest.fixture(scope="module")
def digits() -> continual.TaskStream:
    return continual.split(continual.load("digits"))


@pytest.fixture(scope="module")
def exact() -> continual.Featured:
    return continual.Featured(continual.RandomFourier(200, gamma=0.1), continual.BayesianLinearHead(10, ridge=0.1))


@pytest.fixture(scope="module")
def exact_run(digits, exact) -> continual.Result:
    return continual.run(exact, digits)


def test_exact_head_learns_the_digits_in_one_pass(exact_run):
    assert continual.summarise(exact_run).average_accuracy > 0.92
    assert exact_run.accuracy[0, 0] > 0.97
    assert (exact_run.accuracy[np.triu_indices(5, 1)] == 0).all()  # classes to come are never named
    assert exact_run.memory[0] == exact_run.memory[-1]
    assert (exact_run.initial == 0.1).all()


def test_task_incremental_accuracy_is_never_below_class_incremental(digits, exact, exact_run):
    told = continual.run(exact, dataclasses.replace(digits, scenario="task"))
    lower = np.tril_indices(5)
    assert (told.accuracy[lower] >= exact_run.accuracy[lower]).all()
    assert (told.initial == 0.5).all()


def test_testing_changes_nothing(digits, exact, exact_run):
    belief = exact_run.belief
    before = [np.array(leaf) for leaf in jax.tree.leaves(belief.inner)]
    images = digits.tasks[0].test.inputs
    first, second = exact.probabilities(belief, images), exact.probabilities(belief, images)
    np.testing.assert_array_equal(first, second)
    for old, leaf in zip(before, jax.tree.leaves(belief.inner), strict=True):
        np.testing.assert_array_equal(old, leaf)


def test_a_stopped_run_goes_on_to_the_same_numbers(digits, exact, exact_run, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    update = continual.Featured.update

    def dying(self, belief, t, *rest, **named):
        if t == 3:
            raise Killed
        return update(self, belief, t, *rest, **named)

    every = continual.running.Checkpoint(tmp_path, every=0)
    with monkeypatch.context() as patched:
        patched.setattr(continual.Featured, "update", dying)
        with pytest.raises(Killed):
            continual.run(exact, digits, checkpoint=every)
    result = continual.run(exact, digits, checkpoint=every)
    np.testing.assert_array_equal(result.accuracy, exact_run.accuracy)
    np.testing.assert_array_equal(result.nll, exact_run.nll)
    with pytest.raises(CheckpointError, match="belongs to another run"):
        continual.run(exact, digits, seed=1, checkpoint=every)


FEATURES = {
    "pixels": continual.Pixels(),
    "Fourier": continual.RandomFourier(20),
    "whitening": continual.Whitening(20),
    "patches": continual.RandomPatches(8, grid=2, size=3),
}


@pytest.mark.parametrize("name", FEATURES)
def test_features_come_from_the_first_task_alone(name, digits):
    learner = continual.Featured(FEATURES[name], continual.BayesianLinearHead(10))
    first, later = digits.tasks[0].train, digits.tasks[1].train
    belief, _ = learner.update(learner.start(0), 0, "label", first.targets, inputs=first.inputs)
    after, _ = learner.update(belief, 1, "label", later.targets, inputs=later.inputs)
    other, _ = learner.update(belief, 1, "label", later.targets, inputs=255 - later.inputs)
    for one in (after, other):
        for a, b in zip(jax.tree.leaves(belief.features), jax.tree.leaves(one.features), strict=True):
            np.testing.assert_array_equal(a, b)
    relabelled, _ = learner.update(learner.start(0), 0, "label", 1 - first.targets, inputs=first.inputs)
    for a, b in zip(jax.tree.leaves(belief.features), jax.tree.leaves(relabelled.features), strict=True):
        np.testing.assert_array_equal(a, b)


def test_patch_features_are_those_of_a_plain_loop(digits):
    images = digits.tasks[0].train.inputs[:50]
    fitted = continual.RandomPatches(8, grid=2, size=3).fit(0, images)
    found = fitted(images[:2])
    filters = np.asarray(fitted.filters, float).reshape(9, 8)
    for image, features in zip(images[:2] / 255.0, found, strict=True):
        responses = np.empty((6, 6, 8))
        for i in range(6):
            for j in range(6):
                patch = image[i : i + 3, j : j + 3].ravel()
                normal = (patch - patch.mean()) / np.sqrt(patch.var() + 0.01)
                responses[i, j] = normal @ filters - np.asarray(fitted.offsets)
        cells = [
            np.maximum(sign * responses[3 * a : 3 * a + 3, 3 * b : 3 * b + 3] - 0.25, 0).mean(axis=(0, 1))
            for sign in (1, -1)
            for a in range(2)
            for b in range(2)
        ]
        expected = np.append(np.concatenate(cells) / np.asarray(fitted.scale), 1)
        np.testing.assert_allclose(features, expected, atol=1e-5)


def test_fourier_features_approximate_their_kernel():
    x = np.random.default_rng(0).random((5, 3))
    z = continual.RandomFourier(20_000, gamma=0.5).fit(0, x)(x)[:, :-1]
    kernel = np.exp(-0.5 * np.sum((x[:, None] - x[None]) ** 2, axis=2))
    # an entry has standard deviation below sqrt(1 / 20000) = 0.007: six of them, 25 entries, false alarm < 1e-7
    np.testing.assert_allclose(z @ z.T / 20_000, kernel, atol=0.042)


def test_whitened_inputs_have_the_identity_as_covariance(digits):
    x = np.random.default_rng(0).normal(size=(500, 6)) @ np.diag([3.0, 2, 1, 1, 1, 1])
    z = continual.Whitening(4, floor=0.0).fit(0, x)(x)[:, :-1]
    np.testing.assert_allclose(np.cov(z, rowvar=False), np.eye(4), atol=1e-10)


@pytest.mark.bad_input
def test_bad_tasks_are_refused_before_training_starts(digits, exact):
    def broken(**parts):
        return dataclasses.replace(digits, tasks=(*digits.tasks[:4], digits.tasks[4]._replace(**parts)))

    last = digits.tasks[4]
    bad = last.train.inputs.astype(float)
    bad[5, 0, 0] = np.nan
    labels = np.where(last.train.targets == 9, 12, last.train.targets)
    train = continual.Examples
    calls = []

    class Spy(continual.Featured):
        def update(self, *given, **named):
            calls.append(1)
            return super().update(*given, **named)

    spy = Spy(exact.features, exact.learner)
    with pytest.raises(DataError, match=r"task '8/9', training data: 1 of .* inputs are not finite"):
        continual.run(spy, broken(train=train(bad, last.train.targets)))
    with pytest.raises(DataError, match="task '8/9', training data: label 12 is unknown"):
        continual.run(spy, broken(train=train(last.train.inputs, labels)))
    with pytest.raises(ArgumentError, match=r"inputs of shape \(8, 7\), but the first task has \(8, 8\)"):
        continual.run(spy, broken(train=train(last.train.inputs[:, :, :7], last.train.targets)))
    assert not calls
    belief, _ = exact.update(exact.start(0), 0, "label", last.train.targets, inputs=last.train.inputs)
    with pytest.raises(
        DataError, match=r"task 1: inputs of shape \(8, 7\), but the examples before had shape \(8, 8\)"
    ):
        exact.update(belief, 1, "label", last.train.targets, inputs=last.train.inputs[:, :, :7])
    with pytest.raises(ArgumentError, match="digits has real targets"):
        continual.run(exact, dataclasses.replace(digits, scenario="regression"))
    with pytest.raises(DataError, match="expected images"):
        continual.RandomPatches(4, size=9).fit(0, last.train.inputs)
    with pytest.raises(InferenceError, match="call fit"):
        continual.RandomFourier(5)(last.train.inputs)


def test_a_reservoir_is_a_uniform_sample():
    memory, rng, counts = continual.ReservoirMemory(10), np.random.default_rng(0), np.zeros(40)
    for _ in range(500):
        stored = Stored.empty(1, np.dtype(float))
        for start in (0, 30):  # two tasks, of 30 and 10
            rows = np.arange(start, 30 if start == 0 else 40)
            stored = memory.with_examples(stored, rows[:, None].astype(float), rows.astype(np.int32), rng)
        counts[np.asarray(stored.labels)] += 1
    # each kept with probability 1/4: standard deviation of a count below 9.7; five of them, 40 counts: 2e-5
    assert np.abs(counts - 125).max() < 49
    assert counts.sum() == 5000


def test_a_balanced_memory_has_equal_shares():
    memory, rng = continual.BalancedMemory(30), np.random.default_rng(0)
    stored = Stored.empty(1, np.dtype(float))
    for labels in ([0] * 50 + [1] * 50, [2] * 50, [3] * 4):
        y = np.array(labels, np.int32)
        stored = memory.with_examples(stored, y[:, None].astype(float), y, rng)
    counts = np.bincount(stored.labels)
    assert counts.sum() == 30
    assert counts[3] == 4
    assert counts[:3].max() - counts[:3].min() <= 2
    np.testing.assert_array_equal(stored.inputs[:, 0], stored.labels)


@pytest.fixture(scope="module")
def three_tasks(digits) -> continual.TaskStream:
    return digits.in_order([0, 1, 2])


TRAINING = continual.Training(hidden=(32,), epochs=15, learning_rate=3e-3, batch=32)
BASELINES = {
    "fine-tuning": (continual.FineTuning(10, TRAINING), 0.0, 0.5),
    "reservoir replay": (continual.Replay(10, continual.ReservoirMemory(100), TRAINING), 0.8, 1.0),
    "GDumb": (continual.GDumb(10, continual.BalancedMemory(100), TRAINING), 0.8, 1.0),
    "joint": (continual.Joint(10, TRAINING), 0.9, 1.0),
}


@pytest.mark.relaxed_promotion("Optax corrects the bias of Adam with a weak float and an int32")
@pytest.mark.parametrize("name", BASELINES)
def test_baselines_forget_and_remember_as_they_should(name, three_tasks):
    learner, low, high = BASELINES[name]
    result = continual.run(learner, three_tasks, seed=0)
    assert low <= result.accuracy[2, :3].mean() <= high
    again = continual.run(learner, three_tasks, seed=0)
    np.testing.assert_array_equal(result.nll, again.nll)


@pytest.mark.relaxed_promotion("Optax corrects the bias of Adam with a weak float and an int32")
def test_gradient_learners_go_on_from_a_checkpoint(three_tasks, tmp_path):
    learner, _, _ = BASELINES["reservoir replay"]
    expected = continual.run(learner, three_tasks, seed=0)
    loop = continual.running.StreamLoop(learner, three_tasks, 0)
    loop.start()
    loop.advance()
    later = continual.running.StreamLoop(learner, three_tasks, 0)
    later.restore(loop.state(), loop.rows)
    while not later.is_finished:
        later.advance()
    np.testing.assert_array_equal(later.collected().nll, expected.nll)


def test_the_page_runs(tmp_path, monkeypatch):
    page = (pathlib.Path(__file__).parent.parent / "docs" / "continual-learning.md").read_text(encoding="utf-8")
    first, own, halves, protocol, mine, several = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    exec(first, scope)
    assert scope["result"].accuracy[-1].mean() > 0.9
    exec(own, found := dict(scope))
    assert found["own"].accuracy[-1].mean() > 0.9
    exec(halves, found)
    assert len(found["halves"].tasks) == 2
    exec("import numpy as np\n" + mine, scope)
    means = continual.run(scope["NearestMean"](10), scope["stream"])
    assert means.accuracy[-1].mean() > 0.8  # the test part of the digits, joint or one by one
    task = scope["stream"].tasks[0]
    scope |= {"key": 0, "t": 0, "labels": task.train.targets, "inputs": task.train.inputs}
    exec(protocol, scope | {"new_inputs": task.test.inputs}, scope)
    assert scope["probabilities"].shape == (len(task.test.inputs), 10)
    exec(several.replace("range(5)", "range(1)"), scope)
    assert (tmp_path / "runs.csv").stat().st_size > 100


@pytest.mark.slow
@pytest.mark.relaxed_promotion("Optax corrects the bias of Adam with a weak float and an int32")
def test_the_digits_example_ranks_the_learners(capsys, tmp_path):
    from examples import continual_digits

    runs = continual_digits.main(["--seeds", "1", "--out", str(tmp_path)])
    accuracy = {name: continual.summarise(results[0]).average_accuracy for name, results in runs.items()}
    assert accuracy["exact linear head"] > 0.93
    assert accuracy["fine-tuning"] < 0.4 < accuracy["replay, 100 examples"]
    assert "| exact linear head |" in capsys.readouterr().out
    assert (tmp_path / "digits.json").stat().st_size > 1000
