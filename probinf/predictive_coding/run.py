"""What filtering a series through a network gives back."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from probinf.errors import UnknownNameError
from probinf.predictive_coding.door import Data
from probinf.predictive_coding.faults import Fault, Flag, first_fault
from probinf.predictive_coding.plan import Plan
from probinf.predictive_coding.prediction import Carry
from probinf.predictive_coding.step import NodeBelief, Outcome
from probinf.representations.concrete import is_concrete

if TYPE_CHECKING:
    from probinf.predictive_coding.network import Network


@dataclasses.dataclass(frozen=True)
class NetworkRun:
    """Beliefs of all nodes after every step; `run["x2"]` is one node's `NodeBelief`, arrays (T, *batch).

    Attributes:
        network: what was run.
        beliefs: name to `NodeBelief`, of states, continuous and binary inputs.
        composites: name to a dictionary of arrays, of categorical, exponential-family and Dirichlet-process inputs;
            their memory after the last step is under `memories`.
        log_densities: log predictive density of what each step observed, nats, (T, *batch); -inf where it broke down.
        memories: name to the memory of a composite input after the last step.
        data: the series.
        carry: the belief after the last step, as arrays.
        flags: which node broke down at each step, see `Flag`.
    """

    network: Network
    beliefs: dict[str, NodeBelief]
    composites: dict[str, dict[str, Any]]
    log_densities: jax.Array
    memories: dict[str, dict[str, Any]]
    data: Data
    carry: Carry
    flags: Flag

    @classmethod
    def assemble(cls, network: Network, plan: Plan, data: Data, carry: Carry, outcome: Outcome) -> NetworkRun:
        """The arrays of a scan under the names of the network."""
        names = [node.name for node in network.nodes]
        return cls(
            network,
            {names[i]: belief for i, belief in outcome.nodes.items()},
            {names[i]: found for i, found in outcome.composites.items()},
            outcome.log_density,
            {names[i]: memory for i, memory in zip(plan.composites, carry.memories, strict=True)},
            data,
            carry,
            outcome.flag if outcome.flag is not None else Flag(0, 0.0),
        )

    @property
    def log_likelihood(self) -> jax.Array:
        """Sum of the log predictive densities, nats, shape (*batch,); -inf if any step broke down."""
        return jnp.sum(self.log_densities, axis=0)

    @property
    def total_surprise(self) -> jax.Array:
        """Sum of the nodes' surprises at each step, nats, (T, *batch): how far beliefs had to move."""
        return sum((belief.surprise for belief in self.beliefs.values()), jnp.zeros_like(self.log_densities))

    @property
    def first_fault(self) -> Fault | None:
        """The first step, in any batch entry, at which a belief stopped being a distribution; None if all are sound."""
        return first_fault(self)

    def network_after(self) -> Network:
        """The network that starts from the beliefs after the last step: a run on later data goes on there."""
        plan, after = self.network.plan(), {}
        for i, mean, precision in zip(plan.states, self.carry.means, self.carry.precisions, strict=True):
            name = self.network.nodes[i].name
            after |= {f"{name}.mean": mean, f"{name}.precision": precision}
        for name, memory in self.memories.items():
            if "statistics" in memory:
                after[f"{name}.statistics"] = memory["statistics"]
        return self.network.replace(after)

    def __getitem__(self, name: str) -> NodeBelief:
        if name not in self.beliefs:
            raise UnknownNameError(name, self.beliefs, "node", f"the run of {self.network.name!r}")
        return self.beliefs[name]

    def __len__(self) -> int:
        return self.log_densities.shape[0]

    def __repr__(self) -> str:
        head = f"NetworkRun({self.network.name!r}, {len(self)} steps"
        if self.log_densities.ndim > 1:
            head = f"{head}, batch of {self.log_densities.shape[1]}"
        if not is_concrete(self.log_densities):
            return head + ")"
        fault = self.first_fault
        if fault is not None:
            return f"{head}, broke down at {fault.explain()})"
        if self.log_densities.ndim > 1:
            return head + ")"
        return f"{head}, log likelihood {float(self.log_likelihood):.4f} nats)"
