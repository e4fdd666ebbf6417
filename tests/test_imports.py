"""Imports point one way, and the heavy ones wait until they are needed."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.import_order import LAYERS, PACKAGES, offences

ROOT = Path(__file__).parent.parent


def test_no_import_points_back():
    found = offences(ROOT)
    assert not found, "\n" + "\n".join(found)


def test_the_layers_are_those_of_the_design():
    """Every name in the layout of docs/design.md has its layer, and no layer is missing there."""
    layout = (ROOT / "docs" / "design.md").read_text(encoding="utf-8").split("```")[1]
    named = set()
    for line in layout.splitlines():
        paths = re.split(r" {2,}", line.strip())[0]
        named |= {
            name if "/" in name or name in PACKAGES else f"probinf/{name}" for name in re.findall(r"[\w/]+", paths)
        }
    listed = {component.replace(".", "/") for layer in LAYERS for component in layer}
    outside = {"probinf/examples", "probinf/benchmarks", "probinf/tests"}
    assert named - outside == listed - {"probinf"}


@pytest.mark.parametrize("package", PACKAGES)
def test_importing_a_package_leaves_the_heavy_libraries_alone(package):
    heavy = ["matplotlib", "arviz_base", "arviz_stats", "arviz_plots", "blackjax", "flowjax", "xarray", "pandas"]
    code = f"import sys, {package}; print(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_tells_type_checkers_that_it_is_typed(package):
    assert (ROOT / package / "py.typed").is_file()


# The checker is checked on small trees: file, its text, and the offence ("line: what") or None.
CASES = {
    "absolute": (
        "probinf/kernels/a.py",
        "import os\nimport probinf.inference.run\n",
        "2: imports probinf.inference.run",
    ),
    "from": ("probinf/language/a.py", "from probinf.kernels import b\n", "1: imports probinf.kernels"),
    "relative": ("probinf/kernels/a.py", "from ..inference import b\n", "1: imports probinf.inference"),
    "relative in a package": (
        "probinf/kernels/__init__.py",
        "from ..streaming import b\n",
        "1: imports probinf.streaming",
    ),
    "root": ("probinf/kernels/a.py", "from probinf import infer\n", "1: imports probinf:"),
    "in a function": ("probinf/errors.py", "def f():\n    import smc\n", "2: imports smc"),
    "in a branch": ("probinf/errors.py", "try:\n    import smc\nexcept ImportError:\n    pass\n", "2: imports smc"),
    "by name": (
        "probinf/errors.py",
        "import importlib\nimportlib.import_module('smc.kalman')\n",
        "2: imports smc.kalman",
    ),
    "siblings": (
        "continual/a.py",
        "import transformers_gmm\n",
        "continual and transformers_gmm must not know each other",
    ),
    "upwards": ("smc/a.py", "from continual import x\n", "1: imports continual"),
    "examples": ("smc/a.py", "from examples.demo import x\n", "smc must not know examples"),
    "runtime branch": (
        "probinf/errors.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    import smc\n",
        "5: imports smc",
    ),
    "unknown file": ("probinf/stray.py", "import os\n", "1: probinf.stray is in no layer"),
    "import of an unknown file": (
        "smc/a.py",
        "import probinf.stray2\n",
        "1: imports probinf.stray2: it is in no layer",
    ),
    "forwards": ("probinf/inference/a.py", "from probinf.kernels import b\nfrom probinf import errors\n", None),
    "own component": ("probinf/kernels/a.py", "from .b import c\nfrom probinf.kernels.d import e\n", None),
    "leaves": ("probinf/random.py", "from probinf.errors import ArgumentError\n", None),
    "later package": ("continual/a.py", "import smc\nimport probinf\nfrom probinf.plots import x\n", None),
    "types only": (
        "probinf/errors.py",
        "import typing\nif typing.TYPE_CHECKING:\n    from smc import x\n    import probinf.plots\n",
        None,
    ),
    "similar name": ("probinf/errors.py", "import smcpy\nimport continuals\n", None),
}


@pytest.mark.parametrize("case", CASES)
def test_the_checker_finds_what_points_back_and_nothing_else(case, tmp_path):
    path, text, expected = CASES[case]
    for name in ("probinf/errors.py", path):  # errors.py, so that `from probinf import errors` finds a submodule
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / path).write_text(text)
    found = offences(tmp_path)
    if expected is None:
        assert found == []
    else:
        assert len(found) == 1
        assert found[0].startswith(f"{path}:")
        assert expected in found[0]


@pytest.mark.parametrize("package", ["probinf", "smc"])
def test_no_public_name_is_hidden_by_a_module(package):
    """Importing `smc.x` sets the attribute `x` of `smc`: a lazy public name of the same spelling would be lost."""
    folder = ROOT / package
    modules = {p.stem for p in folder.glob("*.py")} | {p.parent.name for p in folder.glob("*/__init__.py")}
    names = set(importlib.import_module(package).__all__)
    assert not modules & names
