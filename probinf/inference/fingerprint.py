"""What must be the same for a checkpoint to be continued: program, data, settings, key, versions, precision."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf.errors import ProbinfError
from probinf.version import VERSION

_ADDRESS = re.compile(r"0x[0-9a-f]+")


def fingerprint(program: Any, method: Any, key: jax.Array, *, free: Sequence[str] = ()) -> dict[str, str]:
    """Name -> description of everything a run's numbers depend on; the names are those a message can show.

    Args:
        program: a program, data given.
        method: a dataclass of settings.
        key: the run's key.
        free: settings that may change, such as the number of draws.
    """
    found = {
        **surroundings(),
        "model": program.name,
        "program": meaning(program),
        "key": f"{jax.random.key_impl(key)} {np.asarray(jax.random.key_data(key)).tolist()}",
        "method": type(method).__name__,
    }
    # In order of their descriptions: the fields of a distribution come in any order.
    found["data"] = ", ".join(sorted(describe(leaf) for leaf in jax.tree.leaves(program.operands)))
    settings = {f.name: getattr(method, f.name) for f in dataclasses.fields(method) if f.name not in free}
    return found | {name: describe(value) for name, value in settings.items()}


def surroundings() -> dict[str, str]:
    """Versions and precision."""
    return {"probinf": VERSION, "JAX": jax.__version__, "precision": str(jnp.zeros(()).dtype)}


def meaning(program: Any) -> str:
    """A program by what it does: its sites, a draw from it and the log density of that draw, to six digits.

    (Its jaxpr would not do: NumPyro orders the fields of a distribution by Python's hashes, which differ between
    processes.)
    """
    found = [f"{s.name} {s.kind} {s.site.family} {tuple(s.shape)} {s.dims}" for s in program.sites]
    try:
        draws = program.simulate(seed=7)
        latent = {s.name for s in program.staged.latent()}
        found += [numbers(name, value) for name, value in sorted(draws.items())]
        found.append(numbers("log density", program.log_density({n: v for n, v in draws.items() if n in latent})))
    except (ProbinfError, NotImplementedError) as error:  # an improper prior cannot be drawn from
        found.append(type(error).__name__)
    return _short("; ".join(found).encode())


def numbers(name: str, value: Any) -> str:
    """Two sums over an array, to six digits: equal for what is equal up to rounding."""
    flat = np.asarray(value, np.float64).reshape(-1)
    return f"{name} {np.shape(value)} {flat.sum():.5e} {(flat * np.cos(np.arange(flat.size))).sum():.5e}"


def describe(value: Any) -> str:
    """A value as text that is equal for equal values, in every process; arrays by shape and checksum."""
    if isinstance(value, np.ndarray | jax.Array):
        array = np.asarray(value)
        return f"{array.dtype}{list(array.shape)} {_short(np.ascontiguousarray(array).tobytes())}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {describe(entry)}" for name, entry in sorted(value.items())) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(describe, value)) + "]"
    return _ADDRESS.sub("", repr(value))


def _short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
