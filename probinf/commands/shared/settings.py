"""Settings given as NAME=VALUE, and methods chosen by name."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from probinf.entry_points import entry_points
from probinf.errors import ArgumentError, UnknownNameError

METHODS, FILTERS = "probinf.methods", "probinf.filters"


def pairs(option: str, texts: Sequence[str]) -> dict[str, Any]:
    """NAME=VALUE texts as a dictionary; a value is a Python literal, else a string.

    Raises:
        ArgumentError: no `=`, or a name twice.
    """
    found: dict[str, Any] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise ArgumentError(f"{option}: expected NAME=VALUE, such as num_draws=500, found {text!r}.")
        if name in found:
            raise ArgumentError(f"{option}: {name!r} is given twice.")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def method(group: str, name: str, given: Mapping[str, Any]) -> Any:
    """The method registered under a name, with settings.

    The parts of a method that chooses (`Auto`) are methods themselves: each takes the settings that it knows.

    Raises:
        UnknownNameError: no such method or setting; the nearest is suggested.
        ArgumentError: a setting that has no default is missing.
    """
    known = entry_points(group)
    if name not in known:
        raise UnknownNameError(name, known, "method", "probinf")
    kind = known[name].load()
    parameters = inspect.signature(kind).parameters
    parts = _parts(kind)
    settings = {key for part in parts.values() for key in inspect.signature(part).parameters} or set(parameters)
    for key in given:
        if key not in settings:
            raise UnknownNameError(key, settings, "setting", f"method {name!r}")
    if parts:
        return kind(**{role: part(**_known(part, given)) for role, part in parts.items()})
    missing = [key for key, p in parameters.items() if p.default is p.empty and key not in given]
    if missing:
        raise ArgumentError(f"--set: method {name!r} needs {', '.join(f'{key}=VALUE' for key in missing)}.")
    return kind(**given)


def _parts(kind: type) -> dict[str, type]:
    fields = getattr(kind, "__dataclass_fields__", {})
    made = {name: field.default_factory for name, field in fields.items()}
    return {name: part for name, part in made.items() if isinstance(part, type) and hasattr(part, "run")}


def _known(kind: type, given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name in inspect.signature(kind).parameters}
