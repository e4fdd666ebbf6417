"""What must be the same for a checkpoint to be continued: program, data, settings, key, versions, precision."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf import _jax
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
        "program": code(program.staged.closed),
        "key": f"{jax.random.key_impl(key)} {np.asarray(jax.random.key_data(key)).tolist()}",
        "method": type(method).__name__,
    }
    leaves = jax.tree_util.tree_leaves_with_path(program.operands)
    found |= {f"data{jax.tree_util.keystr(path)}": describe(leaf) for path, leaf in leaves}
    settings = {f.name: getattr(method, f.name) for f in dataclasses.fields(method) if f.name not in free}
    return found | {name: describe(value) for name, value in settings.items()}


def surroundings() -> dict[str, str]:
    """Versions and precision."""
    return {"probinf": VERSION, "JAX": jax.__version__, "precision": str(jnp.zeros(()).dtype)}


def code(closed: Any) -> str:
    """A checksum of a jaxpr and of the constants in it, the same in every process."""
    return _short(_ADDRESS.sub("", str(closed)).encode() + "".join(map(describe, _constants(closed))).encode())


def _constants(closed: Any) -> Iterator[Any]:
    yield from closed.consts
    for equation in closed.jaxpr.eqns:
        for leaf in jax.tree.leaves(equation.params, is_leaf=lambda x: isinstance(x, _jax.ClosedJaxpr)):
            if isinstance(leaf, _jax.ClosedJaxpr):
                yield from _constants(leaf)


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
