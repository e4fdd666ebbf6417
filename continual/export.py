"""Runs as tables and files."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from continual.learner import check_kind
from continual.metrics import Summary, over_seeds, summarise
from continual.running import Result
from probinf.errors import ArgumentTypeError
from probinf.runs import files

_SHOWN = ("average_accuracy", "forgetting", "nll", "calibration_error", "seconds")


def as_table(runs: Mapping[str, Sequence[Result]], metrics: Sequence[str] = _SHOWN) -> str:
    """A Markdown table, a row for each learner: mean ± standard deviation over its runs.

    Args:
        runs: name of a learner to its runs, one for each seed.
        metrics: names of fields of `Summary`.

    Raises:
        ArgumentTypeError: `runs` is something else.
    """
    _check(runs)
    lines = ["| learner | " + " | ".join(metrics) + " |", "| --- " * (len(metrics) + 1) + "|"]
    for name, results in runs.items():
        found = over_seeds([summarise(result) for result in results])
        lines.append(f"| {name} | " + " | ".join(_shown(*found[metric][:2]) for metric in metrics) + " |")
    return "\n".join(lines)


def write_csv(path: str | os.PathLike[str], runs: Mapping[str, Sequence[Result]]) -> None:
    """One line for each run: learner, number of the run, and the fields of `Summary`. Makes the folder if need be.

    Raises:
        ArgumentTypeError: `runs` is something else.
    """
    _check(runs)
    names, text = [field.name for field in dataclasses.fields(Summary)], io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["learner", "run", *names])
    for learner, results in runs.items():
        for i, result in enumerate(results):
            summary = dataclasses.asdict(summarise(result))
            writer.writerow([learner, i, *(summary[name] for name in names)])
    _put(path, text.getvalue())


def write_json(path: str | os.PathLike[str], runs: Mapping[str, Sequence[Result]]) -> None:
    """Summaries and all matrices of each run; NaN is written as null. Makes the folder if need be.

    Raises:
        ArgumentTypeError: `runs` is something else.
    """
    _check(runs)
    content = {
        learner: [
            {"summary": dataclasses.asdict(summarise(result)), "tasks": list(result.tasks)}
            | {
                field.name: getattr(result, field.name).tolist()
                for field in dataclasses.fields(Result)
                if field.name not in ("belief", "tasks")
            }
            for result in results
        ]
        for learner, results in runs.items()
    }
    _put(path, json.dumps(_without_nan(content), indent=1, ensure_ascii=False) + "\n")


def _check(runs: Mapping[str, Sequence[Result]]) -> None:
    if not isinstance(runs, Mapping):
        raise ArgumentTypeError(f"runs: expected names and lists of results, found {type(runs).__name__}.")
    for name, results in runs.items():
        if not isinstance(results, list | tuple):
            raise ArgumentTypeError(f"runs[{name!r}]: expected a list of results, found {type(results).__name__}.")
        for i, result in enumerate(results):
            check_kind(f"runs[{name!r}][{i}]", result, Result, "what continual.run returns")


def _put(path: str | os.PathLike[str], text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    files.write(Path(path), text.encode())


def _shown(mean: float, spread: float) -> str:
    return f"{mean:.4g}" if math.isnan(spread) else f"{mean:.4g} ± {spread:.2g}"


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
