"""How beliefs become decisions: the probability of a response given the beliefs of a step."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from probinf.errors import ArgumentError, DataError, UnknownNameError
from probinf.predictive_coding.filtering import total
from probinf.predictive_coding.step import NodeBelief
from probinf.representations.concrete import is_concrete

if TYPE_CHECKING:
    from probinf.predictive_coding.network import Network

Beliefs = Mapping[str, NodeBelief]


class AbstractResponse(eqx.Module):
    """Elementwise in time and batch: beliefs of shape (*shape,) and a response of that shape in, log probability out.

    A decision is made before the step's outcome is seen, so it rests on the expected means.
    """

    @abc.abstractmethod
    def log_prob(self, beliefs: Beliefs, response: Any) -> Any:
        """Log probability (or density) of the response, nats."""

    @abc.abstractmethod
    def sample(self, key: jax.Array, beliefs: Beliefs) -> Any:
        """A response drawn for every step."""

    @abc.abstractmethod
    def node_names(self) -> tuple[str, ...]:
        """Nodes whose beliefs are used."""


class UnitSquareSigmoid(AbstractResponse):
    """P(1) = p^z / (p^z + (1-p)^z) with p the expected probability of a binary input and z the inverse temperature.

    Computed as sigmoid(z logit p), which neither underflows nor loses its gradient.
    """

    node: str = eqx.field(static=True)
    inverse_temperature: Any = 1.0

    def _logit(self, beliefs: Beliefs) -> Any:
        p = beliefs[self.node].expected_mean
        return self.inverse_temperature * (jnp.log(p) - jnp.log1p(-p))

    def log_prob(self, beliefs: Beliefs, response: Any) -> Any:
        return jax.nn.log_sigmoid((2.0 * response - 1.0) * self._logit(beliefs))

    def sample(self, key: jax.Array, beliefs: Beliefs) -> Any:
        p = jax.nn.sigmoid(self._logit(beliefs))
        return jax.random.bernoulli(key, p).astype(p.dtype)

    def node_names(self) -> tuple[str, ...]:
        return (self.node,)


class Softmax(AbstractResponse):
    """Choice 0, ..., K - 1 among nodes with probability proportional to exp(z * expected mean).

    Attributes:
        nodes: one for each option.
        inverse_temperature: z; with `volatility`, a node, it is multiplied by exp(-expected mean of that node).
    """

    nodes: tuple[str, ...] = eqx.field(static=True)
    inverse_temperature: Any = 1.0
    volatility: str | None = eqx.field(static=True, default=None)

    def _logits(self, beliefs: Beliefs) -> Any:
        scale = self.inverse_temperature
        if self.volatility is not None:
            scale = scale * jnp.exp(-beliefs[self.volatility].expected_mean)
        return jax.nn.log_softmax(jnp.stack([scale * beliefs[node].expected_mean for node in self.nodes]), axis=0)

    def log_prob(self, beliefs: Beliefs, response: Any) -> Any:
        logits = self._logits(beliefs)
        return sum(jnp.where(response == k, logits[k], 0.0) for k in range(len(self.nodes)))

    def sample(self, key: jax.Array, beliefs: Beliefs) -> Any:
        logits = self._logits(beliefs)
        return jax.random.categorical(key, logits, axis=0).astype(logits.dtype)

    def node_names(self) -> tuple[str, ...]:
        return self.nodes if self.volatility is None else (*self.nodes, self.volatility)


class GaussianReport(AbstractResponse):
    """A report of a belief: Normal(expected mean of the node, sd)."""

    node: str = eqx.field(static=True)
    sd: Any = 1.0

    def log_prob(self, beliefs: Beliefs, response: Any) -> Any:
        z = (response - beliefs[self.node].expected_mean) / self.sd
        return -0.5 * z**2 - jnp.log(self.sd * jnp.ones_like(z)) - 0.5 * jnp.log(2.0 * jnp.pi)

    def sample(self, key: jax.Array, beliefs: Beliefs) -> Any:
        mean = beliefs[self.node].expected_mean
        return mean + self.sd * jax.random.normal(key, mean.shape, mean.dtype)

    def node_names(self) -> tuple[str, ...]:
        return (self.node,)


class FunctionResponse(AbstractResponse):
    """A response model of one's own.

    Attributes:
        function: (beliefs, response, parameters) to log probability, elementwise.
        parameters: a dictionary of numbers.
        nodes: names of the nodes whose beliefs it reads.
        sampler: (key, beliefs, parameters) to responses, if they are to be simulated.
    """

    function: Callable = eqx.field(static=True)
    nodes: tuple[str, ...] = eqx.field(static=True)
    parameters: dict[str, Any] = eqx.field(default_factory=dict)
    sampler: Callable | None = eqx.field(static=True, default=None)

    def log_prob(self, beliefs: Beliefs, response: Any) -> Any:
        return self.function(beliefs, response, self.parameters)

    def sample(self, key: jax.Array, beliefs: Beliefs) -> Any:
        if self.sampler is None:
            raise ArgumentError("FunctionResponse: it has no sampler; give one to simulate responses.")
        return self.sampler(key, beliefs, self.parameters)

    def node_names(self) -> tuple[str, ...]:
        return self.nodes


def response_log_likelihood(
    network: Network,
    response: AbstractResponse,
    data: Any,
    responses: Any,
    *,
    missing: str | None = None,
    time_steps: Any = None,
    observed: Mapping[str, Any] | None = None,
) -> jax.Array:
    """Log probability of all responses, nats, shape (*batch,), in the filter's own scan.

    Args:
        network: the perceptual model.
        response: the response model.
        data: what the subject saw; as in `Network.filter`, or from `Network.prepare`.
        responses: shape (T,) or (T, B).
        missing: `"nan"` if NaN marks steps without a response.
        time_steps: as in `Network.filter`.
        observed: as in `Network.filter`.

    Raises:
        UnknownNameError: the response model reads a node that the network lacks.
        DataError: NaN in the responses without `missing="nan"`, or another length than the data.
    """
    names = tuple(node.name for node in network.nodes)
    for name in response.node_names():
        if name not in names:
            raise UnknownNameError(name, names, "node", f"network {network.name!r}")
    given = network.prepare(data, time_steps=time_steps, observed=observed)
    values, flags = checked_responses(responses, missing, given.values[0].shape[0], given.dtype)
    return total(network.plan(), network.numbers(), given, response, (values, flags), names)


def checked_responses(responses: Any, missing: str | None, length: int, dtype: Any) -> tuple[Any, Any]:
    """Responses and flags (None: all given); a pair of them has passed here before."""
    if isinstance(responses, tuple):
        return responses
    if not is_concrete(responses):
        return responses, None
    values = np.asarray(responses, np.float64)
    if values.shape[:1] != (length,) or values.ndim > 2:
        raise DataError(f"responses: expected shape ({length},) or ({length}, batch), found {values.shape}.")
    seen = ~np.isnan(values)
    if not seen.all() and missing != "nan":
        raise DataError(f"responses: {int((~seen).sum())} are NaN; declare missing='nan' if that means no response.")
    if not seen.all():
        return jnp.asarray(np.where(seen, values, 0.0), dtype), jnp.asarray(seen)
    return jnp.asarray(values, dtype), None
