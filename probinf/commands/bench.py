"""Run a benchmark, or list them.

Benchmarks are scripts of a checkout, and modules that packages register. What follows the name
goes to the benchmark. All take --quick (smoke sizes), --seed and --json FILE.

Example:
  probinf bench
  probinf bench smc --quick --json smc.json
  probinf bench continual --benchmark split-mnist --strategies exact-head ewc --seeds 5
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from probinf.entry_points import checkout, entry_points
from probinf.errors import ArgumentError, UnknownNameError

#: Packages register modules here; each is run as `python -m MODULE`.
GROUP = "probinf.benchmarks"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `probinf bench`."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="which one; without it, list them")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="options of the benchmark")


def run(args: argparse.Namespace) -> int:
    """List, or run one in a process of its own; its exit status is the command's."""
    found = benchmarks()
    if not found:
        raise ArgumentError(
            "benchmarks are not installed with the library. Get a checkout of the repository, and run "
            "probinf bench with the library installed from it: pip install --editable CHECKOUT"
        )
    if args.name is None:
        width = max(map(len, found))
        for name, (_, file) in found.items():
            print(f"{name:{width}}  {_first_line(file)}")  # noqa: T201
        return 0
    if args.name not in found:
        raise UnknownNameError(args.name, found, "benchmark", "probinf")
    module, _ = found[args.name]
    folder = checkout()
    is_script = module.startswith("benchmarks.")  # the others belong to packages, and may write where the user is
    environment = dict(os.environ)
    if folder is not None:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), environment.get("PYTHONPATH")]))
    command = [sys.executable, "-m", module, *args.rest]
    return subprocess.run(command, cwd=folder if is_script else None, env=environment, check=False).returncode


def benchmarks() -> dict[str, tuple[str, Path]]:
    """Name -> module and its file, in alphabetical order."""
    found = {}
    folder = checkout()
    for file in [] if folder is None else sorted((folder / "benchmarks").glob("*.py")):
        if '__name__ == "__main__"' in file.read_text(encoding="utf-8"):
            found[file.stem] = (f"benchmarks.{file.stem}", file)
    for name, entry in entry_points(GROUP).items():
        spec = importlib.util.find_spec(entry.module)
        if spec is not None and spec.origin is not None:
            found[name] = (entry.module, Path(spec.origin))
    return dict(sorted(found.items()))


def _first_line(file: Path) -> str:
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]
