"""Write docs/benchmarks.md: every recorded row, misses first, from the files in benchmarks/results.

    python -m benchmarks.tables

Prints what is missed and which scripts have no recorded run.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

_ROOT = pathlib.Path(__file__).parent.parent
RESULTS = _ROOT / "benchmarks" / "results"
PAGE = _ROOT / "docs" / "benchmarks.md"

#: Result file: what it is about. A script that ought to have a recorded run and has none is listed as missing.
SUBJECTS = {
    "main_job": "Accuracy, speed and length of the main job",
    "smc": "Filters, smoothers, samplers and particle MCMC beside other packages",
    "streaming": "From a measurement to the belief after it",
    "sharding": "Particles over several devices",
    "validity": "Claims that are checked",
    "mutants": "Faults that the checks notice",
    "trans_dimensional": "Moves between dimensions",
    "calibration": "Simulation-based calibration",
    "resume": "Runs that are killed and continued",
    "import_time": "Import time",
    "check_cost": "What checks cost",
    "steering": "Black-box generators",
    "predictive_coding": "Predictive-coding networks",
    "deep_predictive_coding": "Deep predictive-coding networks",
    "distribution_transformer": "Distribution Transformer",
    "continual": "Continual learning",
    "continual_strategies": "Strategies of continual learning",
    "sequential_sampling": "Does exact sequential Bayes forget?",
    "accelerator": "On a GPU",
}
_MARKS = {True: "met", False: "**missed**", None: ""}


def number(value: float | None) -> str:
    """Four significant digits; what broke down says so."""
    return "broke down" if value is None else f"{value:.4g}"


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Rows as Markdown, misses first."""
    lines = ["| what | found | target | | beside |", "| --- | --- | --- | --- | --- |"]
    for row in sorted(rows, key=lambda row: row["met"] is not False):
        found = f"{number(row['value'])} {row['unit']}"
        sign = "at most" if row["better"] == "lower" else "at least"
        target = "" if row["target"] is None else f"{sign} {row['target']:.4g}"
        cells = (row["claim"], found, target, _MARKS[row["met"]], row["peer"])
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return lines


def page() -> tuple[str, list[str]]:
    """The page, and lines about what is missed or missing."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `python -m benchmarks.tables` from the recorded runs in benchmarks/results; the script of a table",
        "bears the name of its file. Missed targets come first. Ratios survive a busy machine, seconds do not.",
    ]
    notes = []
    for name, subject in SUBJECTS.items():
        path = RESULTS / f"{name}.json"
        if not path.exists():
            notes.append(f"{name}: no recorded run")
            continue
        content = json.loads(path.read_text())
        rows, device = content["rows"], content["machine"]
        missed = [row for row in rows if row["met"] is False]
        versions = content["versions"]
        lines += [
            "",
            f"## {subject}",
            "",
            f"`python -m benchmarks.{name}`: {sum(row['met'] is True for row in rows)} met, {len(missed)} missed, "
            f"{sum(row['met'] is None for row in rows)} shown. {device['cores']} cores, {device['device']}, load "
            f"{device['load'][0]}; JAX {versions['jax']}, Python {versions['python']}.",
            "",
            *table(rows),
        ]
        notes += [f"{name}: missed {row['claim']}: {number(row['value'])} {row['unit']}" for row in missed]
    return "\n".join(lines) + "\n", notes


def main() -> int:
    """Write the page and print what is missed."""
    text, notes = page()
    PAGE.write_text(text)
    print("\n".join(notes))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
