"""A network as the three laws of a state-space model, which particle smoothers take."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from probinf.errors import DataError, ModelError
from probinf.predictive_coding.network import Network
from probinf.predictive_coding.nodes import BinaryInput, ContinuousInput
from probinf.predictive_coding.stream import Motion, emission


class NetworkLaws(eqx.Module):
    """Laws of the states before the series, of a step, and of the input given the states.

    `smc.smooth` and `smc.particle_filter` take an `smc.StateSpaceModel`; this is one's body::

        class Series(hgf.NetworkLaws, smc.StateSpaceModel):
            pass

        model = Series(network)
        smoothed = smc.smooth(model, model.rows(u), key=0)
        smoothed.mean                                # (T + 1, number of states): the first row is before the series

    Attributes:
        network: with one input, continuous or binary; numbers without a batch axis. States are in the order of
            `network.state_names()`.
    """

    missing: ClassVar[Literal["error", "nan"]] = "nan"

    network: Network

    def __init__(self, network: Network) -> None:
        fed = network.fed_inputs()
        if len(fed) != 1 or not isinstance(fed[0], ContinuousInput | BinaryInput):
            found = ", ".join(f"{node.KIND} {node.name!r}" for node in fed)
            raise ModelError(f"NetworkLaws: expected one continuous or binary input, found {found or 'none'}.")
        self.network = network

    def rows(self, data: Any) -> jax.Array:
        """Observations for these laws, (T + 1,): nothing was seen of the states before the series."""
        values = np.asarray(data, np.float64)
        if values.ndim != 1 or not len(values):
            raise DataError(f"rows: expected one series of shape (T,), found {values.shape}.")
        return jnp.asarray(np.concatenate([[np.nan], values]))

    def initial(self) -> dist.Distribution:
        """Before the series."""
        states: list[Any] = [self.network.node(name) for name in self.network.state_names()]
        means = jnp.stack([jnp.asarray(s.mean, jnp.result_type(float)) for s in states])
        precisions = jnp.stack([jnp.asarray(s.precision, jnp.result_type(float)) for s in states])
        return dist.Normal(means, 1.0 / jnp.sqrt(precisions)).to_event(1)

    def transition(self, t: Any, x: Any) -> dist.Distribution:
        """A step of length 1."""
        return Motion(self.network)(x, None)

    def observation(self, t: Any, x: Any) -> dist.Distribution:
        """The input given the states."""
        motion = Motion(self.network)
        return emission(motion.plan, motion.numbers, dict(zip(motion.plan.states, x, strict=True)), motion.plan.fed[0])
