"""The file of an unfinished run: NumPy arrays and a JSON header in one `.npz`, nothing pickled."""

from __future__ import annotations

import json
import os
from typing import Any

import jax
import numpy as np

from probinf.errors import ArgumentError, DataError
from smc.steering.core import Plan

_FORMAT = "probinf steering 1"


def settings_of(plan: Plan, key: jax.Array, executor: str) -> dict[str, Any]:
    """What must agree for a run to go on from a file: key, numbers, potential, rule, executor and float type."""
    return {
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "num_particles": plan.num_particles,
        "max_steps": plan.max_steps,
        "potential": repr(plan.potential),
        "rule": _stable(repr(plan.rule)),
        "budget": repr(plan.budget),
        "executor": executor,
        "float": str(jax.dtypes.canonicalize_dtype(float)),
    }


def _stable(text: str) -> str:
    """A repr without the memory addresses of functions in it."""
    import re

    return re.sub(r" at 0x[0-9a-f]+", "", text)


def save(
    path: str | os.PathLike[str], settings: dict[str, Any], arrays: dict[str, np.ndarray], values: dict[str, Any]
) -> None:
    """Write a file; the old one stays whole until the new one is complete.

    Raises:
        ArgumentError: a value is not JSON-able, or would come back as something else.
    """
    try:
        text = json.dumps({"format": _FORMAT, "settings": settings, "values": values}, allow_nan=True)
        same = json.loads(text)["values"] == values
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"checkpoint: the states are not JSON-able ({error}); use str, numbers, lists, dicts."
        ) from error
    if not same:
        raise ArgumentError(
            "checkpoint: the states do not come back from JSON as they were (tuples become lists, keys of dicts "
            "become strings); use str, numbers, lists, and dicts with string keys."
        )
    path = os.fspath(path)
    temporary = f"{path}.{os.getpid()}.part"
    try:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, header=np.frombuffer(text.encode(), np.uint8), **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def load(path: str | os.PathLike[str], settings: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Arrays and values of a file, or None where there is no file.

    Raises:
        DataError: it is no such file, cut short, or belongs to a run with other settings, which are named.
    """
    if not os.path.exists(path):
        return None
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(arrays.pop("header").tobytes().decode())
        found, values, is_ours = header["settings"], header["values"], header["format"] == _FORMAT
    except Exception as error:
        raise DataError(
            f"checkpoint: {os.fspath(path)} is not a run saved by smc.steer, or it is cut short ({error}). Remove it "
            "to begin anew."
        ) from error
    if not is_ours:
        raise DataError(f"checkpoint: expected format {_FORMAT!r}, found {header['format']!r}.")
    other = [name for name in settings if found.get(name) != settings[name]]
    if other:
        listing = "; ".join(f"{name} {found.get(name)} there, {settings[name]} here" for name in other)
        raise DataError(f"checkpoint: {os.fspath(path)} belongs to another run: {listing}. Name another file.")
    return arrays, values
