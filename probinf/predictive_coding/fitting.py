"""Parameters of people: programs for one subject, for many, and for groups."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from probinf.errors import ArgumentError, UnknownNameError
from probinf.language.program import Model, Program, model
from probinf.language.statements import deterministic, factor, plate, sample
from probinf.predictive_coding.door import Data
from probinf.predictive_coding.forward_mode import by_forward_mode
from probinf.predictive_coding.responses import (
    AbstractResponse,
    FunctionResponse,
    checked_responses,
    response_log_likelihood,
)

if TYPE_CHECKING:
    from probinf.predictive_coding.network import Network

#: What addresses of the response model begin with.
RESPONSE = "response."


def subject_program(
    network: Network,
    response: AbstractResponse | None,
    priors: Mapping[str, dist.Distribution],
    data: Any,
    responses: Any = None,
    *,
    missing: str | None = None,
    time_steps: Any = None,
    observed: Mapping[str, Any] | None = None,
) -> Program:
    """Parameters of one subject given its responses, or of many subjects at once, each with its own.

    Args:
        network: the perceptual model.
        response: the response model; None takes the likelihood of the data themselves.
        priors: address to distribution: a number of the network (`"x2.tonic_volatility"`) or a field of the response
            model (`"response.inverse_temperature"`). Addresses are the names of the sites.
        data: shape (T,), or (T, S) for S subjects; as in `Network.filter`.
        responses: likewise.
        missing: `"nan"` if NaN marks steps without a response.
        time_steps: as in `Network.filter`.
        observed: as in `Network.filter`.

    Example:
        >>> priors = {"x2.tonic_volatility": dist.Normal(-3.0, 2.0)}
        >>> method = pi.NUTS(init=starting_values(priors))
        >>> posterior = pi.infer(subject_program(binary_hgf(2), None, priors, u), method)
    """
    given, rows, subjects = prepared(network, response, priors, data, responses, missing, time_steps, observed)
    check_addresses(network, response, priors)
    return _subjects(tuple(priors.items()))(network, response, given, rows, subjects)


def starting_values(
    priors: Mapping[str, dist.Distribution | GroupPrior], num_subjects: int | None = None
) -> dict[str, np.ndarray]:
    """Medians of the priors, for `pi.NUTS(init=...)`; of group priors those of mean and spread, and z = 0.

    Likelihoods of decisions have false modes (fast learning, random choices) in which chains from wild starts stick.

    Raises:
        ArgumentError: a group prior without a number of subjects.
    """
    shape = () if num_subjects is None else (num_subjects,)
    found: dict[str, np.ndarray] = {}
    for name, prior in priors.items():
        if not isinstance(prior, GroupPrior):
            found[name] = np.broadcast_to(_median(prior), shape)
            continue
        if num_subjects is None:
            raise ArgumentError(f"num_subjects: expected a number, since priors[{name!r}] is a group's.")
        found |= {f"{name}.mean": _median(prior.mean), f"{name}.sd": _median(prior.sd), f"{name}.z": np.zeros(shape)}
    return found


def _median(prior: dist.Distribution) -> np.ndarray:
    return np.asarray(np.median(np.asarray(prior.sample(jax.random.key(0), (1001,))), axis=0))


@functools.lru_cache(maxsize=256)  # the same distributions again: nothing is compiled again
def _subjects(priors: tuple[tuple[str, dist.Distribution], ...]) -> Model:
    @model
    def subjects(network: Any, response: Any, data: Data, rows: Any, count: int | None) -> None:
        with contextlib.nullcontext() if count is None else plate("subjects", count):
            values = {name: sample(name, prior) for name, prior in priors}
        factor("data", subject_log_likelihood(network, response, values, data, rows))

    return subjects


@dataclasses.dataclass(frozen=True, eq=False)
class GroupPrior:
    """Prior of one parameter in a group: subject values are link(mean + sd z) with z standard normal.

    Attributes:
        mean: distribution of the group's mean, before the link.
        sd: distribution of the spread between subjects, before the link.
        link: `"identity"`, `"exp"` (positive parameters) or `"sigmoid"` (between 0 and 1).
    """

    mean: dist.Distribution
    sd: dist.Distribution
    link: str = "identity"

    def subjects(self, mean: Any, sd: Any, z: Any) -> Any:
        """Values of subjects with standard normal z in a group with this mean and spread."""
        return _LINKS[self.link](mean + sd * z)


_LINKS = {"identity": lambda x: x, "exp": jnp.exp, "sigmoid": jax.nn.sigmoid}


def group_program(
    network: Network,
    response: AbstractResponse | None,
    priors: Mapping[str, GroupPrior],
    data: Any,
    responses: Any = None,
    *,
    missing: str | None = None,
    time_steps: Any = None,
    observed: Mapping[str, Any] | None = None,
) -> Program:
    """A hierarchical model of S subjects: every parameter has a group distribution, written non-centred.

    Sites: `"<address>.mean"`, `"<address>.sd"`, `"<address>.z"` (S,), and the subjects' values `"<address>"` (S,).
    Arguments as in `subject_program`; data or responses have shape (T, S).
    """
    check_group(priors)
    given, rows, subjects = prepared(network, response, priors, data, responses, missing, time_steps, observed)
    if subjects is None:
        raise ArgumentError("group_program: expected data or responses of shape (T, S), one column for each subject.")
    check_addresses(network, response, priors)
    return _group(tuple(priors.items()))(network, response, given, rows, subjects)


def check_group(priors: Mapping[str, Any]) -> None:
    """Raise unless all are group priors."""
    for address, prior in priors.items():
        if not isinstance(prior, GroupPrior) or prior.link not in _LINKS:
            raise ArgumentError(f"priors[{address!r}]: expected a GroupPrior with a link of {tuple(_LINKS)}.")


@functools.lru_cache(maxsize=256)
def _group(priors: tuple[tuple[str, GroupPrior], ...]) -> Model:
    @model
    def group(network: Any, response: Any, data: Data, rows: Any, count: int) -> None:
        values = {}
        for name, prior in priors:
            mean, sd = sample(f"{name}.mean", prior.mean), sample(f"{name}.sd", prior.sd)
            with plate("subjects", count):
                z = sample(f"{name}.z", dist.Normal(jnp.zeros_like(mean), jnp.ones_like(mean)))
            values[name] = deterministic(name, prior.subjects(mean, sd, z))
        factor("data", subject_log_likelihood(network, response, values, data, rows))

    return group


def subject_log_likelihood(network: Any, response: Any, values: Mapping[str, Any], data: Data, rows: Any) -> Any:
    """Of all subjects, shape (S,) or (); `values` hold one number for each of them."""
    names = tuple(values)

    def of_values(chosen: tuple[Any, ...], rest: Any) -> Any:
        network, response, data, rows = rest
        given = dict(zip(names, chosen, strict=True))
        network = network.replace({name: value for name, value in given.items() if not name.startswith(RESPONSE)})
        if response is None:
            return network.log_likelihood(data)
        told = {name.removeprefix(RESPONSE): value for name, value in given.items() if name.startswith(RESPONSE)}
        return response_log_likelihood(network, with_fields(response, told), data, rows)

    return by_forward_mode(of_values, tuple(values.values()), (network, response, data, rows))


def with_fields(response: AbstractResponse, fields: Mapping[str, Any]) -> Any:
    """The response model with other numbers; those of a `FunctionResponse` are its parameters."""
    if not fields:
        return response
    if isinstance(response, FunctionResponse):
        return eqx.tree_at(lambda r: r.parameters, response, {**response.parameters, **fields})
    return eqx.tree_at(lambda r: [getattr(r, f) for f in fields], response, list(fields.values()))


def check_addresses(network: Network, response: AbstractResponse | None, priors: Mapping[str, Any]) -> None:
    """Raise for an address that neither the network nor the response model has."""
    known = list(network.parameters())
    if isinstance(response, FunctionResponse):
        known += [RESPONSE + name for name in response.parameters]
    elif response is not None:
        fields = [f for f, spec in response.__dataclass_fields__.items() if not spec.metadata.get("static")]
        known += [RESPONSE + name for name in fields]
    for address in priors:
        if address not in known:
            raise UnknownNameError(address, known, "parameter", f"network {network.name!r} and its response model")


def prepared(
    network: Network,
    response: AbstractResponse | None,
    priors: Mapping[str, Any],
    data: Any,
    responses: Any,
    missing: str | None,
    time_steps: Any,
    observed: Mapping[str, Any] | None,
) -> tuple[Data, Any, int | None]:
    """Checked data and responses, and the number of subjects (None for one series)."""
    if not priors:
        raise ArgumentError("priors: expected at least one parameter.")
    if (response is None) != (responses is None):
        raise ArgumentError("responses: they come with a response model, and a response model with responses.")
    given = network.prepare(data, time_steps=time_steps, observed=observed)
    rows = None
    if response is not None:
        rows = checked_responses(responses, missing, given.values[0].shape[0], given.dtype)
    sizes = {leaf.shape[1] for leaf in jax.tree.leaves((given, rows)) if leaf.ndim == 2}
    if len(sizes) > 1:
        raise ArgumentError(f"data, responses: expected one number of subjects, found {sorted(sizes)}.")
    return given, rows, sizes.pop() if sizes else None
