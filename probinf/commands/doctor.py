"""Tell what is installed here, and what is missing.

For yourself, and for reports of faults. The exit status is 1 where something that the library
needs is missing or broken.

Example:
  probinf doctor
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
from collections.abc import Iterator

from probinf.entry_points import checkout
from probinf.version import VERSION

_NEEDED = ("jax", "jaxlib", "numpyro", "blackjax", "equinox", "optax", "numpy", "scipy", "arviz-base", "arviz-stats")
#: Package -> what it is for, and the extra that brings it.
_OPTIONAL = {
    "matplotlib": ("pictures", "probinf[plots]"),
    "arviz-plots": ("ArviZ's pictures", "probinf[plots]"),
    "flowjax": ("normalising flows", "probinf[flows]"),
    "netCDF4": ("export to netCDF", "netCDF4"),
    "zarr": ("export to Zarr", "zarr"),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    """`probinf doctor` has no options."""


def run(args: argparse.Namespace) -> int:
    """Print what was found; the exit status is 0 when nothing that is needed is missing."""
    faults = [f"{name} is not installed: pip install {name}" for name in _NEEDED if _version(name) is None]
    rows = [*_packages(), ("", "")]
    try:
        rows += _of_jax()
    except Exception as error:  # a JAX that does not work is what a doctor is for
        faults.append(f"JAX does not work: {type(error).__name__}: {error}")
    rows += [("", ""), *_extras()]
    for name, value in rows:
        print(f"{name:16} {value}".rstrip())  # noqa: T201
    for fault in faults:
        print(f"! {fault}")  # noqa: T201
    return 1 if faults else 0


def _packages() -> Iterator[tuple[str, str]]:
    folder = checkout()
    yield "probinf", VERSION + ("" if folder is None else f", checkout {folder}")
    yield "Python", f"{platform.python_version()} on {platform.platform()}"
    for name in _NEEDED:
        yield name, _version(name) or "MISSING"


def _of_jax() -> Iterator[tuple[str, str]]:
    import jax

    from probinf._jax import x64_enabled

    for device in jax.devices():
        yield "device", f"{device.platform}: {device.device_kind}"
    yield "precision", "64 bit" if x64_enabled() else "32 bit (JAX_ENABLE_X64=1 for 64)"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "threads", f"{cores} of {os.cpu_count()} cores; XLA_FLAGS {os.environ.get('XLA_FLAGS') or 'not set'}"
    yield "fast generator", "there (pi.fast_key)" if _has_fast_generator() else "missing: needs JAX 0.10.2"
    yield "native chains", "there" if _compiles_natively() else "missing: chains run vectorised, which is slower"
    cache = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    yield "compiled code", f"kept in {cache}" if cache else "not kept (JAX_COMPILATION_CACHE_DIR=FOLDER keeps it)"


def _extras() -> Iterator[tuple[str, str]]:
    for name, (use, source) in _OPTIONAL.items():
        yield name, _version(name) or f"not there; for {use}: pip install '{source}'"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _has_fast_generator() -> bool:
    from probinf.errors import ArgumentError
    from probinf.fast_random import fast_key

    try:
        fast_key(0)
    except ArgumentError:
        return False
    return True


def _compiles_natively() -> bool:
    """Whether a small loop can be emitted as one native function here; the marks for it are not documented by XLA."""
    import jax

    from probinf.native import as_native

    if jax.default_backend() != "cpu":
        return False
    loop = as_native(lambda x: jax.lax.fori_loop(0, 3, lambda _, y: y * y, x))
    try:
        return float(jax.jit(loop)(jax.numpy.asarray(2.0))) == 256.0
    except Exception:  # whatever the compiler says, chains then run vectorised
        return False
