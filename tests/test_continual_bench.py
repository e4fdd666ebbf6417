"""`probinf bench continual`: named learners and benchmarks, resumption, the report page and its pictures."""

import csv
import dataclasses
import json
import re
import subprocess
import sys

import numpy as np
import pytest

import continual
from continual.bench import command, comparing, learners, report
from continual.plots import plot_accuracy_per_task, plot_average_accuracy, plot_mean_accuracy
from continual.running import Result
from probinf.commands import bench
from probinf.errors import ArgumentError, CheckpointError, DataError, UnknownNameError


def result(shift: float = 0.0) -> Result:
    matrix = np.array([[0.9, 0.1, 0.1], [0.7, 0.8, 0.1], [0.6, 0.6, 0.9]]) + shift
    three = np.ones(3)
    return Result(
        matrix, 2 - matrix, 1 - matrix, 1 - matrix, 0.1 * three, np.array([0.8, 0.7, np.nan]), three,
        np.array([5, 5, 5]), three, three, ("0/1", "2/3", "4/5"), None,
    )  # fmt: skip


@pytest.fixture(scope="module")
def tiny() -> continual.TaskStream:
    stream = continual.split(continual.load("digits")).in_order([0, 1])
    return continual.imbalanced(stream, [40, 40])


LEARNER = continual.Featured(continual.RandomFourier(20, gamma=0.1), continual.BayesianLinearHead(10, ridge=0.1))


def test_finished_runs_are_read_and_stopped_ones_go_on(tiny, tmp_path, monkeypatch):
    expected = continual.run(LEARNER, tiny, seed=3)
    update, calls = continual.Featured.update, []

    def dying(self, belief, t, *rest, **named):
        calls.append((t, len(rest[1])))
        if t == 1 and len(calls) == 2:
            raise KeyboardInterrupt
        return update(self, belief, t, *rest, **named)

    monkeypatch.setattr(continual.Featured, "update", dying)
    with pytest.raises(continual.running.InferenceError, match="interrupted after 1 of 2 tasks"):
        list(comparing.compared({"exact": LEARNER}, {3: tiny}, tmp_path))
    assert not list(comparing.kept({"exact": LEARNER}, {3: tiny}, tmp_path))
    (found,) = comparing.compared({"exact": LEARNER}, {3: tiny}, tmp_path)
    assert [t for t, count in calls[2:] if count == 40] == [
        0,
        1,
    ]  # the first 40 are those that give the belief its shapes
    np.testing.assert_array_equal(found.result.nll, expected.nll)
    calls.clear()
    (again,) = comparing.compared({"exact": LEARNER}, {3: tiny}, tmp_path)
    assert not calls
    for field in dataclasses.fields(Result):
        if field.name not in ("belief", "tasks", "seconds"):
            np.testing.assert_array_equal(getattr(again.result, field.name), getattr(expected, field.name))
    assert again.result.tasks == expected.tasks
    other = dataclasses.replace(LEARNER, learner=continual.BayesianLinearHead(10, ridge=5.0))
    with pytest.raises(CheckpointError, match="a run with other settings"):
        list(comparing.compared({"exact": other}, {3: tiny}, tmp_path))
    (tmp_path / "exact-3.npz").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="cannot be read"):
        list(comparing.compared({"exact": LEARNER}, {3: tiny}, tmp_path))


def test_every_named_learner_can_be_made():
    scale = learners.Scale(10, 5, (28, 28), continual.Training(), 1000)
    for name in learners.LEARNERS:
        assert isinstance(learners.learner(name, scale), continual.AbstractLearner)
    with pytest.raises(UnknownNameError, match="Did you mean 'online-ewc'"):
        learners.checked(["ewc", "onlin-ewc"])


def test_benchmarks_by_name():
    assert command.stream("split-digits", 0, scenario="task").scenario == "task"
    assert len(command.stream("permuted-digits", 0).tasks) == 10
    assert [task.name for task in command.stream("rotated-digits", 0).tasks][1] == "15 degrees"
    with pytest.raises(UnknownNameError, match="Did you mean 'split-digits'"):
        command.stream("split-digit", 0)


def test_the_command_writes_a_page_with_pictures_and_tables(tmp_path, capsys):
    arguments = [
        "--strategies",
        "exact-head",
        "--seeds",
        "2",
        "--out",
        str(tmp_path),
        "--json",
        str(tmp_path / "a.json"),
    ]
    assert command.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "[2/2] exact-head, seed 1: average accuracy" in printed
    folder = tmp_path / "split-digits"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert len(re.findall(r'<img alt="" src="data:image/png;base64,[\w+/]{100}', page)) == 2
    assert "split-digits, class-incremental, 2 seeds" in page
    with open(folder / "runs.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["learner"] for row in rows] == ["exact-head"] * 2
    assert json.loads((tmp_path / "a.json").read_text()) == json.loads((folder / "runs.json").read_text())
    assert float(rows[0]["average_accuracy"]) > 0.8


@pytest.mark.slow
def test_seeds_side_by_side_give_the_same_numbers(tmp_path):
    start = [sys.executable, "-m", "continual.bench.command", "--strategies", "gdumb", "--seeds", "2", "--quick"]
    for name, workers in (("one", "1"), ("two", "2")):
        subprocess.run([*start, "--out", str(tmp_path / name), "--workers", workers], check=True, capture_output=True)
    one, two = (json.loads((tmp_path / name / "split-digits" / "runs.json").read_text()) for name in ("one", "two"))
    assert without_seconds(one) == without_seconds(two)


def without_seconds(found):
    if isinstance(found, dict):
        return {key: without_seconds(value) for key, value in found.items() if "seconds" not in key}
    return [without_seconds(each) for each in found] if isinstance(found, list) else found


@pytest.mark.slow
def test_a_worker_that_fails_ends_the_command(tmp_path, capsys):
    folder = tmp_path / "split-digits"
    folder.mkdir()
    (folder / "exact-head-1.npz").write_bytes(b"broken")
    arguments = ["--strategies", "exact-head", "--seeds", "2", "--workers", "2", "--quick", "--out", str(tmp_path)]
    assert command.main(arguments) == 2
    assert "a worker failed, see above; its command was" in capsys.readouterr().err


@pytest.mark.bad_input
def test_the_command_says_what_is_wrong(capsys, tmp_path):
    for arguments, message in (
        (["--strategies", "vlc"], "Did you mean 'vcl'"),
        (["--seeds", "0"], "--seeds: expected an integer of at least 1"),
        (["--workers", "0"], "--workers: expected an integer of at least 1"),
        (["--benchmark", "split-mnist", "--data", str(tmp_path)], "is not there. Pass download=True"),
        (["--benchmark", "toys"], "'toys' is not a benchmark"),
    ):
        assert command.main(["--out", str(tmp_path), *arguments]) == 2
        assert message in capsys.readouterr().err


def test_the_command_fetches_data_when_it_is_told_to(monkeypatch, tmp_path):
    asked = []

    def absent(name, folder, *, download):
        asked.append((name, folder, download))
        raise DataError("not today")

    monkeypatch.setattr(command, "load", absent)
    arguments = ["--benchmark", "split-mnist", "--data", str(tmp_path), "--out", str(tmp_path)]
    assert command.main(arguments) == 2
    assert command.main([*arguments, "--download"]) == 2
    assert asked == [("mnist", tmp_path, False), ("mnist", tmp_path, True)]


def test_bench_lists_the_command():
    module, file = bench.benchmarks()["continual"]
    assert module == "continual.bench.command"
    assert file.is_file()


def test_the_page_ranks_learners_and_escapes_names():
    page = report.page("A <title>", ["One note."], {"low": [result()], "<high>": [result(0.05), result(0.07)]})
    assert page.index("&lt;high&gt;</td>") < page.index("low</td>")
    assert "A &lt;title&gt;" in page
    assert "<td>76.0 ± 1.4</td>" in page  # 70 % and 5 or 7 points


def test_curves_show_means_of_what_was_run():
    ax = plot_average_accuracy({"a": [result(), result(0.1)], "b": [result()]})
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.95, 0.8, 0.75])
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [0.9, 0.75, 0.7])
    assert len(ax.collections) == 1  # a single run has no band
    ax = plot_accuracy_per_task([result()])
    np.testing.assert_allclose(ax.lines[1].get_xdata(), [2, 3])
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [0.8, 0.6])
    ax = plot_mean_accuracy([result(), result(0.04)])
    assert "92" in {text.get_text() for text in ax.texts}
    with pytest.raises(ArgumentError, match="runs: expected at least one"):
        plot_average_accuracy({})
