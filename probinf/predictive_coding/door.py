"""Checks of data at the door: names, shapes, missing and impossible values, before anything is compiled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from probinf.errors import ArgumentError, ArgumentTypeError, DataError, UnknownNameError
from probinf.predictive_coding.nodes import BinaryInput, CategoricalInput, ExponentialFamilyInput, Node
from probinf.representations.concrete import default_float, is_concrete

if TYPE_CHECKING:
    from probinf.predictive_coding.network import Network


class Data(NamedTuple):
    """A checked series, or one row of it, with entries in the order of the plan's fed inputs.

    Attributes:
        values: shape (T, *event, *batch); 0 where missing (1/2 where a family's support needs it).
        flags: None where everything is observed, else shape (T, *batch).
        time_step: None where all are 1, else shape (T,) or (T, B).
    """

    values: tuple[Any, ...]
    flags: tuple[Any, ...]
    time_step: Any

    @property
    def dtype(self) -> Any:
        """Of the values."""
        return self.values[0].dtype


def prepare(network: Network, data: Any, time_steps: Any, observed: Mapping[str, Any] | None) -> Data:
    """The series as the compiled filter takes it; what is `Data` already has passed here before.

    Raises:
        UnknownNameError: data or flags for an input that does not exist.
        ArgumentError: an input without data, or negative time steps.
        DataError: shapes that differ, impossible values, or NaN where it is not declared.
    """
    if isinstance(data, Data):
        if time_steps is not None or observed is not None:
            raise ArgumentError("data: it is prepared already; give time_steps and observed to prepare().")
        return data
    fed = network.fed_inputs()
    if not isinstance(data, Mapping):
        if len(fed) != 1:
            names = ", ".join(repr(node.name) for node in fed)
            raise ArgumentTypeError(
                f"data: network {network.name!r} has inputs {names}; pass a dictionary from these names to arrays."
            )
        data = {fed[0].name: data}
    known = [node.name for node in fed]
    for argument in (data, observed or {}):
        for name in argument:
            if name not in known:
                raise UnknownNameError(name, known, "data input", f"network {network.name!r}")
    for node in fed:
        if node.name not in data:
            raise ArgumentError(f"data: nothing is given for input {node.name!r}.")
    length = {name: _array(f"input {name!r}", data[name]).shape[:1] for name in known}
    if len(set(length.values())) != 1 or next(iter(length.values())) in ((), (0,)):
        raise DataError(f"data: expected one length of at least 1 for all inputs, found {length}.")
    count = next(iter(length.values()))[0]
    pairs = [_checked(node, data[node.name], None if observed is None else observed.get(node.name)) for node in fed]
    return Data(tuple(v for v, _ in pairs), tuple(f for _, f in pairs), _time_steps(time_steps, count))


def _array(argument: str, value: Any) -> Any:
    if not is_concrete(value):
        return value
    try:
        array = np.asarray(value)
        return array if array.dtype.kind == "f" else array.astype(np.float64)
    except (TypeError, ValueError):
        raise ArgumentTypeError(f"{argument}: expected an array of numbers, found {type(value).__name__}.") from None


def _checked(node: Node, value: Any, observed: Any) -> tuple[Any, Any]:
    """Values with placeholders where missing, and flags (None if all are observed)."""
    label, event = f"input {node.name!r}", _event_shape(node)
    value = _array(label, value)
    if value.ndim not in (1 + len(event), 2 + len(event)) or value.shape[1 : 1 + len(event)] != event:
        expected = ", ".join(["T", *map(str, event)])
        raise DataError(f"{label}: expected shape ({expected}) or ({expected}, batch), found {value.shape}.")
    flags = None
    if observed is not None:
        flags = observed if not is_concrete(observed) else np.asarray(observed).astype(bool)
        if flags.shape not in (value.shape[:1], value.shape[:1] + value.shape[1 + len(event) :]):
            raise DataError(f"observed[{node.name!r}]: shape {flags.shape} does not fit values of {value.shape}.")
    if not is_concrete(value):
        return value, flags
    missing = np.isnan(value).any(axis=tuple(range(1, 1 + len(event))))
    shown = missing if flags is None else missing & _spread(flags, missing)
    if shown.any() and getattr(node, "missing", None) != "nan":
        raise DataError(
            f"{label}: {int(shown.sum())} values are NaN, the first at step {int(np.argwhere(shown)[0][0])}. "
            'Declare missing="nan" on the input, or pass observed={...}.'
        )
    if missing.any():
        flags = ~missing if flags is None else ~missing & _spread(flags, missing)
    seen = np.ones_like(missing)
    if flags is not None and is_concrete(flags):
        seen = np.broadcast_to(_spread(flags, missing), missing.shape)
    where = seen.reshape(seen.shape[:1] + (1,) * len(event) + seen.shape[1:])
    placeholder = 0.5 if isinstance(node, ExponentialFamilyInput) else 0.0
    filled = np.where(where, value, placeholder)
    bad = ~_possible(node, filled) & where
    if bad.any():
        step = int(np.argwhere(bad)[0][0])
        value = float(filled[bad].flat[0])
        raise DataError(
            f"{label} ({node.KIND}): value {value!r} at step {step} is impossible, expected {_expected(node)}."
        )
    return jnp.asarray(filled, default_float()), None if flags is None else jnp.asarray(flags)


def _spread(flags: np.ndarray, like: np.ndarray) -> np.ndarray:
    return flags if flags.ndim == like.ndim else flags[:, None]


def _event_shape(node: Node) -> tuple[int, ...]:
    return node.family.event_shape if isinstance(node, ExponentialFamilyInput) else ()


def _possible(node: Node, value: np.ndarray) -> np.ndarray:
    if isinstance(node, BinaryInput):
        return (value == 0) | (value == 1)
    if isinstance(node, CategoricalInput):
        return (value >= 0) & (value < node.num_categories) & (value == np.floor(value))
    if isinstance(node, ExponentialFamilyInput):
        return node.family.support(value)
    return np.isfinite(value)


def _expected(node: Node) -> str:
    if isinstance(node, BinaryInput):
        return "0 or 1"
    if isinstance(node, CategoricalInput):
        return f"an integer from 0 to {node.num_categories - 1}"
    if isinstance(node, ExponentialFamilyInput):
        return f"a value that {node.family.name!r} can take"
    return "a finite number"


def _time_steps(time_steps: Any, count: int) -> Any:
    if time_steps is None:
        return None
    steps = _array("time_steps", time_steps)
    if steps.shape[:1] != (count,) or steps.ndim > 2:
        raise DataError(f"time_steps: expected shape ({count},) or ({count}, batch), found {steps.shape}.")
    if is_concrete(steps) and not (np.isfinite(steps).all() and (steps >= 0).all()):
        raise ArgumentError("time_steps: expected finite lengths of at least 0.")
    return jnp.asarray(steps, default_float())
