"""The pages that mkdocs makes from the sources name everything public; every example runs as its page says."""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import continual
import probinf as pi
import smc
from docs import generated_pages as pages

ROOT = Path(__file__).parent.parent
#: Sizes for a smoke test, of the examples that have no --quick.
SMALL = {"--runs": "20", "--draws": "20", "--seeds": "1", "--num": "50", "--max-steps": "3"}


@pytest.mark.parametrize("package", [pi, smc, continual, pi.predictive_coding], ids=lambda module: module.__name__)
def test_every_public_class_and_function_is_on_its_page_with_its_own_signature(package):
    found = dict(pages.public_names(package.__name__))
    text = pages.api_page(package.__name__)
    names = [name for name in getattr(package, "_WHERE", None) or vars(package) if not name.startswith("_")]
    objects = {name: getattr(package, name) for name in names}
    shown = {name for name, value in objects.items() if inspect.isfunction(value) or inspect.isclass(value)}
    missing = sorted(name for name in shown if f"\n## {name}\n" not in text)
    assert not missing
    for name, node in found.items():
        value = objects.get(name)
        if inspect.isfunction(value):
            expected = list(inspect.signature(value).parameters)
            assert [a for a in expected if not re.search(rf"\b{a}\b", pages.entry("", name, node)[3])] == [], name


def test_sections_of_a_docstring_become_lists():
    text = pages.text(
        "Sum::\n\n    a + b\n\nArgs:\n    a: one\n        summand.\n    b: another.\n\nRaises:\n    E: never."
    )
    assert "Sum:\n\n    a + b" in text
    assert "*Args*\n\n- `a`: one\n    summand.\n- `b`: another." in text
    assert "*Raises*\n\n- `E`: never." in text


def test_the_kill_matrix_has_a_row_for_every_fault_recorded():
    found = json.loads((ROOT / "benchmarks" / "results" / "mutants.json").read_text())
    rows = [line for line in pages.kill_matrix_page().splitlines() if line.startswith("| ")]
    assert len(rows) == len(found["seeded"]) + len(found["automatic"]) + 4  # two tables with two lines above
    assert all(any(f"| {row['fault']} |" in line for line in rows) for row in found["seeded"])
    assert {line.replace(r"\|", "").count("|") for line in rows} == {6, 7}


def test_every_example_has_a_question_and_a_command():
    found = pages.examples()
    assert len(found) >= 12
    assert all(
        question.endswith((".", "?")) and command.startswith("python -m ") for question, command in found.values()
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", pages.examples())
def test_an_example_runs_as_its_page_says(name, tmp_path):
    _, command = pages.examples()[name]
    source = (ROOT / "examples" / f"{name}.py").read_text()
    options = ["--quick"] if '"--quick"' in source else []
    if not options:
        options = [part for flag, value in SMALL.items() if f'"{flag}"' in source for part in (flag, value)]
    if '"--out"' in source:
        options += ["--out", str(tmp_path)]
    words = [sys.executable, *command.split()[1:], *options]
    done = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "MPLBACKEND": "Agg"}, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()
