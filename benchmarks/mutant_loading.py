"""The library with one of its modules changed, in a process of its own.

The parent imports JAX but nothing of the library; every mutant is a fork of it in which an import hook changes the
source of one module as it is loaded, so that all who import a name from it get the changed one.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def source_of(module: str) -> str:
    """Source of a module of the library, by its name below `probinf`."""
    return (ROOT / "probinf" / Path(*module.split("."))).with_suffix(".py").read_text()


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, fullname: str, path: str, source: str) -> None:
        super().__init__(fullname, path)
        self.source = source

    def get_code(self, fullname: str) -> Any:
        return compile(self.source, self.path, "exec", dont_inherit=True)


class Seeding(importlib.abc.MetaPathFinder):
    """Load one module of the library from another source."""

    def __init__(self, module: str, source: str) -> None:
        self.fullname, self.source = f"probinf.{module}", source

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != self.fullname:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        assert spec is not None
        assert spec.origin is not None
        return importlib.util.spec_from_loader(fullname, _Loader(fullname, spec.origin, self.source))


def prepare(cache: Path) -> None:
    """Import what every mutant needs and none changes. No computation: a fork must find JAX without threads."""
    import equinox  # noqa: F401
    import jax
    import numpyro.distributions  # noqa: F401
    import scipy.stats  # noqa: F401

    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    if any(name.split(".")[0] == "probinf" for name in sys.modules):
        raise RuntimeError("the library must not be loaded before its mutants")


def forked(work: Callable[[], dict[str, Any]], seconds: float) -> dict[str, Any]:
    """What `work` returns in a fork of this process, with `seconds` to do it.

    Work that is not done in time, or that ends the process, is reported under "stopped".
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reader)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        try:
            content = work()
        except BaseException as error:
            content = {"stopped": f"{type(error).__name__}: {str(error)[:200]}"}
        with os.fdopen(writer, "w") as stream:
            stream.write(json.dumps(content))
        os._exit(0)
    os.close(writer)
    text, end = b"", time.monotonic() + seconds
    with os.fdopen(reader, "rb", buffering=0) as stream:
        while True:
            ready, _, _ = select.select([stream], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return {"stopped": f"not done after {seconds:g} s"}
            piece = stream.read(1 << 16)
            if not piece:
                break
            text += piece
    os.waitpid(child, 0)
    return json.loads(text) if text else {"stopped": "the process ended"}
