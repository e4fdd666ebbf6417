"""A network as a program: its generative model with latent states, for every inference method of the library."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from probinf.errors import ModelError
from probinf.language.program import Model, Program, model
from probinf.language.statements import observe, sample
from probinf.predictive_coding.door import Data
from probinf.predictive_coding.nodes import BinaryInput, ContinuousInput
from probinf.predictive_coding.plan import Numbers, Plan
from probinf.predictive_coding.stream import conditional, emission

if TYPE_CHECKING:
    from probinf.predictive_coding.network import Network


def network_program(network: Network, data: Data, priors: Mapping[str, dist.Distribution] | None = None) -> Program:
    """States are sites under their names, stacked along time; `"<name>_start"` are those before the first step.

    Numbers with priors are sites under their addresses, drawn before the series.

    Raises:
        UnknownNameError: a prior for a number that the network lacks.
        ModelError: an input that is neither continuous nor binary, or a batch.
    """
    for node in network.fed_inputs():
        if not isinstance(node, ContinuousInput | BinaryInput):
            raise ModelError(f"{node.KIND} {node.name!r}: only continuous and binary inputs have a generative program.")
    if any(value.ndim != 1 for value in data.values):
        raise ModelError("program: expected one series; a batch is a program for each.")
    network.places(tuple(priors or {}))
    return _series(tuple((priors or {}).items()))(network, data)


@functools.lru_cache(maxsize=256)  # the same distributions again: nothing is compiled again
def _series(priors: tuple[tuple[str, dist.Distribution], ...]) -> Model:
    @model
    def series(network: Any, data: Data) -> None:
        """The states of a network over time and what its inputs saw."""
        network = network.replace({address: sample(address, prior) for address, prior in priors})
        plan, names = network.plan(), tuple(node.name for node in network.nodes)
        _observed(plan, names, jax.tree.map(lambda x: jnp.asarray(x, data.dtype), network.numbers()), data)

    return series


def _observed(plan: Plan, names: tuple[str, ...], numbers: Numbers, data: Data) -> None:
    start = jnp.stack(
        [
            sample(
                f"{names[i]}_start",
                dist.Normal(numbers.nodes[i]["mean"], 1.0 / jnp.sqrt(numbers.nodes[i]["precision"])),
            )
            for i in plan.states
        ]
    )

    def step(before: Any, row: Data) -> tuple[Any, None]:
        drawn: dict[int, Any] = {}
        for i in plan.top_down:
            if i in plan.states:
                mean, sd = conditional(plan, numbers, drawn, before, row.time_step, i)
                drawn[i] = sample(names[i], dist.Normal(mean, sd))
        for i, value, flag in zip(plan.fed, row.values, row.flags, strict=True):
            seen = emission(plan, numbers, drawn, i)
            observe(names[i], seen if flag is None else seen.mask(flag), value)
        return jnp.stack([drawn[i] for i in plan.states]), None

    jax.lax.scan(step, start, data)
