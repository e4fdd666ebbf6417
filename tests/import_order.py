"""Reads the imports of the packages off their syntax trees and finds those that point back.

A component may import itself and the components in earlier layers. Two components in one layer do not know each other,
except in the first layer, whose members are leaves. What stands under `if TYPE_CHECKING:` does not count; an import
inside a function does, and so does `importlib.import_module("...")` with a name written out.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# The order of docs/design.md, lowest first. `probinf` alone is probinf/__init__.py.
LAYERS: tuple[tuple[str, ...], ...] = (
    (
        "probinf.version",
        "probinf.errors",
        "probinf.random",
        "probinf.fast_random",
        "probinf.unrolled_threefry",
        "probinf.progress",
        "probinf.claims",
        "probinf.arguments",
        "probinf._jax",
        "probinf.entry_points",
    ),
    ("probinf.native",),
    ("probinf.runs",),
    ("probinf.plots",),
    ("probinf.representations",),
    ("probinf.language",),
    ("probinf.transformations",),
    ("probinf.kernels",),
    ("probinf.validity",),
    ("probinf.inference",),
    ("probinf.streaming",),
    ("probinf.predictive_coding",),
    ("probinf",),
    ("probinf.cli", "probinf.commands"),
    ("probinf.__main__",),
    ("smc",),
    ("transformers_gmm", "continual"),
)
PACKAGES = ("probinf", "smc", "transformers_gmm", "continual")
OUTSIDE = ("examples", "benchmarks", "tests")  # these know the packages, never the other way round

LEVEL = {component: level for level, components in enumerate(LAYERS) for component in components}


class Import(NamedTuple):
    """One imported module, as an absolute dotted name, and the line it stands on."""

    module: str
    line: int


def component_of(module: str) -> str | None:
    """The component a dotted name belongs to; `None` for a module of probinf that no layer lists."""
    parts = module.split(".")
    if parts[0] != "probinf" or len(parts) == 1:
        return parts[0]
    name = ".".join(parts[:2])
    return name if name in LEVEL else None


def imports_of(tree: ast.AST, module: str, *, is_package: bool, modules: frozenset[str]) -> Iterator[Import]:
    """All imports of a module that are made at run time; relative ones are resolved against `module`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and _is_type_checking(node.test):
            for other in node.orelse:  # `else:` of TYPE_CHECKING is what runs
                holder = ast.Module(body=[other], type_ignores=[])
                yield from imports_of(holder, module, is_package=is_package, modules=modules)
            continue
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, module, is_package)
            for alias in node.names:  # `from probinf import random` means the submodule, where there is one
                full = f"{base}.{alias.name}"
                yield Import(full if full in modules else base, node.lineno)
        elif isinstance(node, ast.Call) and _is_dynamic_import(node):
            argument = node.args[0] if node.args else None
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield Import(argument.value, node.lineno)
        yield from imports_of(node, module, is_package=is_package, modules=modules)


def offences(root: Path) -> list[str]:
    """Every import below `root` that points back, as "file:line: ..." lines in order."""
    files = {_module_name(path.relative_to(root)): path for name in PACKAGES for path in (root / name).rglob("*.py")}
    modules = frozenset(files)
    found = []
    for module, path in sorted(files.items()):
        where = path.relative_to(root).as_posix()
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=where)
        source = component_of(module)
        if source is None:
            found.append(f"{where}:1: {module} is in no layer: give it a place in LAYERS of tests/import_order.py")
            continue
        is_package = path.name == "__init__.py"
        for target, line in imports_of(tree, module, is_package=is_package, modules=modules):
            problem = _problem(source, target)
            if problem:
                found.append(f"{where}:{line}: imports {target}: {problem}")
    return found


def _problem(source: str, target: str) -> str | None:
    top = target.partition(".")[0]
    if top in OUTSIDE:
        return f"{source} must not know {top}"
    if top not in PACKAGES:
        return None
    component = component_of(target)
    if component is None:
        return "it is in no layer of tests/import_order.py"
    if component == source:
        return None
    if LEVEL[component] > LEVEL[source]:
        return f"it points back, {component} comes after {source}"
    if LEVEL[component] == LEVEL[source] and LEVEL[source] > 0:
        return f"{source} and {component} must not know each other"
    return None


def _module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _absolute(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    if node.level == 0:
        return node.module or ""
    parts = module.split(".")
    up = node.level - 1 if is_package else node.level
    base = parts[: len(parts) - up]
    return ".".join([*base, node.module] if node.module else base)


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _is_dynamic_import(call: ast.Call) -> bool:
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
    return name in ("import_module", "__import__")
