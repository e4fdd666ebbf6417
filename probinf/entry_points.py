"""What packages register by name: subcommands, inference methods, benchmarks."""

from __future__ import annotations

import importlib.metadata
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

_DISTRIBUTION = "probinf"


def entry_points(group: str) -> dict[str, EntryPoint]:
    """Everything registered under a group, by name, in alphabetical order; nothing is imported.

    In a checkout the file `pyproject.toml` counts as well as what is installed: the metadata of an editable install are
    those of the day it was made, and a checkout may be used without any.
    """
    found = {entry.name: entry for entry in importlib.metadata.entry_points(group=group)}
    found |= {name: EntryPoint(name, value, group) for name, value in _of_checkout(group).items()}
    return dict(sorted(found.items()))


def checkout() -> Path | None:
    """The folder of the checkout that this library is imported from, or None where it is installed."""
    folder = Path(__file__).resolve().parent.parent
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return None
    return folder if project.get("name") == _DISTRIBUTION else None


def _of_checkout(group: str) -> dict[str, str]:
    folder = checkout()
    if folder is None:
        return {}
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("entry-points", {}).get(group, {})
