"""Beliefs as plain arrays, and what must be the same for one to be taken up again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from probinf.errors import ProbinfError
from probinf.inference.fingerprint import describe, numbers, surroundings
from probinf.representations.concrete import default_float
from probinf.runs.trees import packed, unpacked
from probinf.streaming.compiled import Channel, Evidence
from probinf.streaming.stream_belief import HistoryEntry, StreamBelief

if TYPE_CHECKING:
    from probinf.streaming.filter import Filter


def fingerprint(filter: Filter) -> dict[str, str]:
    """Versions, the method's settings, and what one prediction and one value of each sensor do, to six digits.

    A sensor whose inputs have no declared shape is compared by name only.
    """
    system, method = filter.system, filter.method
    found = {
        **surroundings(),
        "system": system.name,
        "method": describe(repr(method)),
        "lag": repr(filter.lag),
        "prior": describe(sorted(describe(leaf) for leaf in jax.tree.leaves(system.prior) if hasattr(leaf, "dtype"))),
        "numbers": describe(sorted(describe(np.asarray(leaf)) for leaf in jax.tree.leaves(system.recipe.arrays))),
    }
    if system.needs_control:
        return found
    belief = filter.predict(filter.start(7, 0.0), 1.0)
    found["move"] = numbers("mean", belief.mean) + numbers(", cov", belief.cov)
    for name, sensor in system.sensors.items():
        if sensor.needs_inputs and sensor.inputs is None:
            found[f"sensor {name!r}"] = "takes inputs"
            continue
        channel = filter.channel(name, sensor.inputs if sensor.needs_inputs else None)
        inputs = None if channel.input_shape is None else np.ones(channel.input_shape)
        try:
            _, info = filter.update(belief, 1.0, name, np.full(channel.value_shape, 0.5), inputs)
            found[f"sensor {name!r}"] = numbers("log density", info.predictive_log_density)
        except ProbinfError as error:  # half is no value of this sensor
            found[f"sensor {name!r}"] = type(error).__name__
    return found


def belief_arrays(belief: StreamBelief) -> dict[str, np.ndarray]:
    """A belief as arrays with names; the events of its lag window included."""
    found = {
        **packed(belief.state, "state"),
        **packed(belief.evidence, "evidence"),
        "time": np.asarray(belief.time, np.float64),
    }
    described = []
    for i, entry in enumerate(belief.history):
        channel = entry.channel
        found |= packed(entry.state_before, f"before{i}") | packed(entry.evidence_before, f"evidence_before{i}")
        found |= packed(entry.event, f"event{i}")
        found[f"times{i}"] = np.asarray([entry.time_before, entry.time], np.float64)
        described.append(
            {
                "sensor": None if channel is None else channel.name,
                "inputs": None if channel is None or channel.input_shape is None else list(channel.input_shape),
                "given": [part is not None for part in entry.event],
            }
        )
    found["history"] = np.asarray(json.dumps(described))
    return found


def restored_belief(filter: Filter, arrays: Mapping[str, np.ndarray]) -> StreamBelief:
    """The reverse of `belief_arrays`, for a filter of the same system and method."""
    state = _template(filter)
    evidence = Evidence.zero(default_float())
    history = []
    for i, entry in enumerate(json.loads(str(arrays["history"]))):
        channel: Channel | None = None
        if entry["sensor"] is not None:
            inputs = None if entry["inputs"] is None else tuple(entry["inputs"])
            channel = filter.channel(entry["sensor"], inputs)
        given = tuple(0 if there else None for there in entry["given"])
        before, after = (np.float64(t) for t in arrays[f"times{i}"])
        history.append(
            HistoryEntry(
                before,
                unpacked(state, arrays, f"before{i}"),
                unpacked(evidence, arrays, f"evidence_before{i}"),
                after,
                channel,
                unpacked(given, arrays, f"event{i}"),
            )
        )
    return StreamBelief.assemble(
        unpacked(state, arrays, "state"),
        filter.method,
        unpacked(evidence, arrays, "evidence"),
        np.float64(arrays["time"]),
        tuple(history),
        filter.claim,
    )


def _template(filter: Filter) -> Any:
    return jax.eval_shape(lambda key: filter.method.init(key, filter.system), jax.random.key(0))
