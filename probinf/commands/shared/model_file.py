"""The model in a user's Python file."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from probinf.errors import ArgumentError, ModelError, ProbinfError, UnknownNameError


class Found(NamedTuple):
    """What a `FILE.py:NAME` stands for."""

    name: str
    value: Any
    path: Path


def load(where: str) -> Found:
    """Run the file of `FILE.py:NAME` and take NAME from it; without NAME the only model in the file.

    Raises:
        ArgumentError: no such file, or several models and no name.
        ModelError: the file raises when it is run; the line is named.
        UnknownNameError: nothing of that name in the file.
    """
    text, _, name = (where, "", "") if where.endswith(".py") else where.rpartition(":")
    path = Path(text)
    if path.suffix != ".py":
        raise ArgumentError(f"model: expected FILE.py:NAME, such as model.py:line, found {where!r}.")
    if not path.is_file():
        there = [other.name for other in path.parent.glob("*.py")] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, there, n=1)
        hint = f" Did you mean {path.parent / near[0]}?" if near else ""
        raise ArgumentError(f"model: no file {path} (looked from {Path.cwd()}).{hint}")
    module = _run(path)
    models = {key: value for key, value in vars(module).items() if _is_model(key, value, module)}
    if not name:
        if len(models) != 1:
            listing = ", ".join(models) or "none"
            raise ArgumentError(f"model: say which model of {path}, as {path}:NAME. Models there: {listing}.")
        name = next(iter(models))
    if not hasattr(module, name):
        raise UnknownNameError(name, models, "model", str(path))
    return Found(name, getattr(module, name), path)


def arguments_of(function: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the arguments of a model, and of those among them that must be given."""
    parameters = inspect.signature(getattr(function, "function", function)).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return tuple(p.name for p in named), tuple(p.name for p in named if p.default is p.empty)


def check_kinds(found: Found, given: Mapping[str, Any]) -> None:
    """Refuse text for an argument whose default is a number: `--arg drift=abc`.

    Raises:
        ArgumentError: it is named.
    """
    parameters = inspect.signature(getattr(found.value, "function", found.value)).parameters
    for name, value in given.items():
        default = parameters[name].default
        if isinstance(value, str) and isinstance(default, int | float) and not isinstance(default, bool):
            raise ArgumentError(f"--arg {name}: expected a number (its default is {default}), found {value!r}.")


@contextlib.contextmanager
def blamed(path: Path) -> Iterator[None]:
    """Errors of a user's function, with the line of the model file that they come from.

    Raises:
        ModelError: in place of whatever else is raised inside.
    """
    try:
        yield
    except ProbinfError:
        raise
    except Exception as error:
        raise _said_again(error, path) from error


def _run(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)  # a model file may import its neighbours
    try:
        with blamed(path):
            spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    return module


def _said_again(error: Exception, path: Path) -> ModelError:
    line = error.lineno if isinstance(error, SyntaxError) else _line(error, path)
    place = f"{path}, line {line}" if line else str(path)
    what = error.msg if isinstance(error, SyntaxError) else error
    return ModelError(f"{place}: {type(error).__name__}: {what}")


def _line(error: Exception, path: Path) -> int | None:
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == path.resolve()]
    return lines[-1] if lines else None


def _is_model(name: str, value: Any, module: ModuleType) -> bool:
    if name.startswith("_") or isinstance(value, type | ModuleType):
        return False
    kind = type(value)
    if kind.__module__.startswith("probinf.") and kind.__name__ in ("Model", "Program", "System", "Filter"):
        return True
    return inspect.isfunction(value) and value.__module__ == module.__name__
