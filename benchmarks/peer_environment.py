"""An environment of its own for a peer that needs an older JAX than ours."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys


def interpreter(folder: pathlib.Path, package: str, version: str | None = None) -> tuple[str | None, str]:
    """The interpreter of the environment in `folder`, built with `package` if it is not there.

    `package` is as pip takes it, with its version; `version` is the Python that it needs, "3.12", where ours won't do.
    Returns None and the reason where it cannot be built.
    """
    python, name = folder / "bin" / "python", package.partition("==")[0]
    if python.exists():
        return str(python), ""
    base = sys.executable if version is None else _python(version)
    if base is None:
        return None, f"{name} not measured: no Python {version}"
    try:
        subprocess.run([base, "-m", "venv", str(folder)], check=True, capture_output=True)
        subprocess.run([str(python), "-m", "pip", "install", "-qq", package], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        return None, f"{name} not measured: its environment could not be built ({error})"
    return str(python), ""


def _python(version: str) -> str | None:
    found = sorted(pathlib.Path.home().glob(f".pyenv/versions/{version}*/bin/python{version}"))
    return str(found[-1]) if found else shutil.which(f"python{version}")
