"""Responses of simulated subjects: beliefs of many parameter sets over one series, decisions drawn from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from probinf.errors import InferenceError
from probinf.predictive_coding.fitting import RESPONSE, check_addresses, with_fields
from probinf.predictive_coding.responses import AbstractResponse
from probinf.random import as_key

if TYPE_CHECKING:
    from probinf.predictive_coding.network import Network


def simulate_responses(
    network: Network,
    response: AbstractResponse,
    parameters: Mapping[str, Any],
    data: Any,
    key: int | jax.Array,
) -> jax.Array:
    """What subjects with these numbers would respond to `data`, shape (T, S).

    Args:
        network: the perceptual model.
        response: the response model.
        parameters: address to numbers (S,): of the network, or with the prefix `"response."` of the response model.
        data: shape (T,), or a dictionary of such.
        key: an integer or a key.

    Raises:
        InferenceError: the beliefs of a subject break down, so that it decides nothing.
    """
    check_addresses(network, response, parameters)
    told = {a.removeprefix(RESPONSE): v for a, v in parameters.items() if a.startswith(RESPONSE)}
    run = network.replace({a: v for a, v in parameters.items() if not a.startswith(RESPONSE)}).filter(data)
    sound = np.isfinite(np.asarray(run.log_likelihood))
    if not sound.all():
        fault = run.first_fault
        raise InferenceError(
            f"simulate_responses: the beliefs of {int((~sound).sum())} of {sound.size} subjects break down"
            f"{'' if fault is None else f', first at {fault.explain()}'}. Keep parameters away from there, or give the "
            "network the rule MomentMatched()."
        )
    keys = jax.random.split(as_key(key, argument="key"), len(run))
    # Step by step, so that all shapes are those of subjects.
    return jax.vmap(with_fields(response, told).sample)(keys, run.beliefs)
