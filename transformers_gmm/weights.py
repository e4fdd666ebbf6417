"""Trained networks as files: tensors in safetensors, settings in its header, a checksum over both."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from probinf.errors import CheckpointError
from transformers_gmm.config import NetworkConfig

SCHEMA = "probinf-network/1"
LARGEST = 8 * 2**20  # bytes; what ships with the package stays small


def save_network(path: str | Path, network: Any, *, kind: str, task: str, record: dict[str, Any]) -> Path:
    """Write a network's weights with what is needed to build it again and how it was trained.

    Args:
        path: of the file; `.safetensors` is added if there is no suffix.
        network: the module.
        kind: name of its class, as `load_network` knows it.
        task: what it was trained for.
        record: JSON values: settings, seed, hardware, seconds, curves.
    """
    path = Path(path) if Path(path).suffix else Path(f"{path}.safetensors")
    tensors = {name: np.asarray(value) for name, value in _flat(network).items()}
    header = {
        "schema": SCHEMA,
        "kind": kind,
        "task": task,
        "config": json.dumps(network.config.to_dict(), sort_keys=True),
        "record": json.dumps(record, sort_keys=True),
    }
    header["sha256"] = _checksum(tensors, header)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(save_tensors(tensors, metadata=header))
    part.replace(path)
    return path


def load_network(path: str | Path, kinds: dict[str, Any], *, task: str | None = None) -> tuple[Any, dict[str, Any]]:
    """The network of a file and its header, its JSON parts read.

    Args:
        path: of the file.
        kinds: name -> function from a config and `rngs` to an untrained network.
        task: what it must have been trained for; anything if left out.

    Raises:
        CheckpointError: the file is missing, cut short, altered, of another schema or for another network.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such file of network weights.")
    data = path.read_bytes()
    try:
        size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + size])["__metadata__"]
        tensors = load_tensors(data)
    except Exception as error:
        raise CheckpointError(f"{path}: not a readable safetensors file with a header ({error}).") from error
    if header.get("schema") != SCHEMA:
        raise CheckpointError(f"{path}: schema {header.get('schema')!r}, expected {SCHEMA!r}.")
    if header.get("sha256") != _checksum(tensors, header):
        raise CheckpointError(f"{path}: the checksum differs: the file was altered or damaged. Fetch it again.")
    if header["kind"] not in kinds:
        raise CheckpointError(f"{path}: a network of kind {header['kind']!r}, expected one of {sorted(kinds)}.")
    if task is not None and header["task"] != task:
        raise CheckpointError(f"{path}: a network for the task {header['task']!r}, expected {task!r}.")
    config = NetworkConfig(**json.loads(header["config"]))
    network = nnx.eval_shape(lambda: kinds[header["kind"]](config, rngs=nnx.Rngs(0)))
    definition, weights = nnx.split(network, nnx.Param)
    flat, structure = jax.tree_util.tree_flatten_with_path(weights)
    try:
        leaves = [jax.numpy.asarray(tensors[_name(place)]) for place, _ in flat]
    except KeyError as error:
        raise CheckpointError(f"{path}: tensor {error} is missing.") from error
    header["config"], header["record"] = config, json.loads(header["record"])
    return nnx.merge(definition, jax.tree_util.tree_unflatten(structure, leaves)), header


def _flat(network: Any) -> dict[str, Any]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(nnx.split(network, nnx.Param)[1])
    return {_name(place): value for place, value in leaves}


def _name(place: Any) -> str:
    return jax.tree_util.keystr(place, simple=True, separator="/")


def _checksum(tensors: dict[str, np.ndarray], header: dict[str, str]) -> str:
    digest = hashlib.sha256()
    for name in sorted(header):
        if name != "sha256":
            digest.update(f"{name}={header[name]}\n".encode())
    for name in sorted(tensors):
        digest.update(f"{name}:{tensors[name].dtype}:{tensors[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()
