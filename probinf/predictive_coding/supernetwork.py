"""Networks whose nodes and couplings come and go while one compiled filter runs: fixed capacity, parts switched on."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from probinf.errors import ArgumentError, ModelError, UnknownNameError
from probinf.predictive_coding.couplings import COMPONENT
from probinf.predictive_coding.door import Data
from probinf.predictive_coding.filtering import Traces, advance, batch_shape, begin
from probinf.predictive_coding.network import Network
from probinf.predictive_coding.nodes import ContinuousState
from probinf.predictive_coding.plan import Numbers, Plan
from probinf.predictive_coding.prediction import Carry
from probinf.predictive_coding.run import NetworkRun
from probinf.predictive_coding.step import NodeBelief, Outcome


class Supernetwork(eqx.Module):
    """A network with everything that may ever be in it, and the names of the parts that may be absent.

    An absent coupling has strength 0, which is exactly no coupling; an absent state has no couplings and waits at its
    first belief, from which it begins whenever it joins. What is present is data: no structure and no change of it
    compiles anything anew.

    Args:
        network: with all nodes and couplings.
        optional: names of states (with their couplings) and of couplings (`"x3->x2.volatility"`).

    Raises:
        UnknownNameError: no such state or coupling.
        ArgumentError: nothing optional, or a part named twice.
        ModelError: what is left without the optional parts cannot run; composite inputs or `compat`.

    Example:
        >>> pool = Supernetwork(binary_hgf(3), ["x3"])
        >>> pool.filter(u, {"x3": np.arange(len(u)) >= 100})     # the volatility parent joins at step 100
    """

    network: Network
    optional: tuple[str, ...] = eqx.field(static=True)

    def __init__(self, network: Network, optional: Sequence[str]) -> None:
        known = [n.name for n in network.nodes if isinstance(n, ContinuousState)]
        known += [e.name for e in network.edges if e.kind != COMPONENT]
        for name in optional:
            if name not in known:
                raise UnknownNameError(name, known, "state or coupling", f"network {network.name!r}")
        if not optional or len(set(optional)) < len(optional):
            raise ArgumentError(f"optional: expected different names, at least one, found {list(optional)}.")
        if network.plan().composites or network.compat is not None:
            raise ModelError(
                f"Supernetwork: {network.name!r} has composite inputs or compat={network.compat!r}; neither can be "
                "switched."
            )
        self.network, self.optional = network, tuple(optional)
        self.structure(())  # raises if the rest cannot run

    def structure(self, present: Iterable[str]) -> Network:
        """The plain network of everything that is not optional and these optional parts.

        A coupling whose node is absent is absent too.
        """
        absent = [name for name in self.optional if name not in self._checked(present)]
        found = self.network
        for edge in self.network.edges:
            if edge.name in absent:
                found = found.disconnect(edge.parent, edge.child, edge.kind)
        for name in absent:
            if "->" not in name:
                found = found.remove(name)
        found.plan()
        return found

    def structures(self) -> list[tuple[str, ...]]:
        """All subsets of the optional parts that are different networks, the smallest first."""
        found = []
        for count in range(len(self.optional) + 1):
            for present in itertools.combinations(self.optional, count):
                ends = [name for name in present if "->" in name]
                if all(set(self._nodes_of(name)) <= set(present) for name in ends):
                    found.append(present)
        return found

    def addresses(self, part: str) -> list[str]:
        """Numbers that only count while this optional part is present."""
        concerned = [e.name for e in self.network.edges if part == e.name or part in (e.parent, e.child)]
        return [a for a in self.network.parameters() if a.startswith(f"{part}.") or a in concerned or a == part]

    def strengths(self, present: Bool[Array, "parts ..."], network: Network | None = None) -> dict[str, Any]:
        """Strengths of the optional couplings where these parts are present, 0 elsewhere, for `Network.replace`.

        Args:
            present: a flag for each optional part.
            network: the same network with other numbers; its strengths count.
        """
        found = {}
        for edge in (self.network if network is None else network).edges:
            concerned = [k for k, part in enumerate(self.optional) if part in (edge.name, edge.parent, edge.child)]
            if concerned:
                there = functools.reduce(jnp.logical_and, [present[k] for k in concerned])
                found[edge.name] = jnp.where(there, jnp.asarray(edge.strength, jnp.result_type(float)), 0.0)
        return found

    def filter(
        self,
        data: Any,
        present: Mapping[str, Any] | None = None,
        *,
        time_steps: Any = None,
        observed: Mapping[str, Any] | None = None,
    ) -> NetworkRun:
        """Beliefs after every step while parts come and go.

        Args:
            data: as in `Network.filter`.
            present: optional part to a flag, or to flags (T,) for each step; what is not named is present.
            time_steps: as in `Network.filter`.
            observed: as in `Network.filter`.

        Returns:
            A run of the whole network; beliefs of absent states are NaN and their surprise 0.
        """
        given = self.network.prepare(data, time_steps=time_steps, observed=observed)
        length = given.values[0].shape[0]
        self._checked(present or {})
        flags = np.ones((length, len(self.optional)), bool)
        for k, name in enumerate(self.optional):
            value = np.asarray((present or {}).get(name, True))
            if value.dtype != bool or value.shape not in ((), (length,)):
                raise ArgumentError(
                    f"present[{name!r}]: expected True, False or flags of shape ({length},), found {value.dtype} of "
                    f"shape {value.shape}."
                )
            flags[:, k] = value
        plan = self.network.plan()
        places = tuple(
            tuple(k for k, part in enumerate(self.optional) if part in (e.name, e.parent, e.child))
            for e in self.network.edges
        )
        nodes = {n.name: i for i, n in enumerate(self.network.nodes)}
        states = tuple((nodes[part], k) for k, part in enumerate(self.optional) if part in nodes)
        found = _scan(plan, places, states, self.network.numbers(), given, jnp.asarray(flags))
        return NetworkRun.assemble(self.network, plan, given, *found)

    def _nodes_of(self, edge: str) -> list[str]:
        """The optional nodes at a coupling."""
        return [p for e in self.network.edges if e.name == edge for p in (e.parent, e.child) if p in self.optional]

    def _checked(self, present: Iterable[str]) -> list[str]:
        names = list(present)
        for name in names:
            if name not in self.optional:
                raise UnknownNameError(name, self.optional, "optional part", f"supernetwork {self.network.name!r}")
        return names


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _scan(
    plan: Plan,
    places: tuple[tuple[int, ...], ...],
    states: tuple[tuple[int, int], ...],
    numbers: Numbers,
    data: Data,
    present: Bool[Array, "time parts"],
) -> tuple[Carry, Outcome]:
    Traces.count += 1
    numbers, start = begin(plan, numbers, data)
    batch = batch_shape(plan, numbers, data)

    def one(carry: Carry, row: tuple[Data, Array]) -> tuple[Carry, Outcome]:
        now, there = row
        strengths = tuple(
            jnp.where(functools.reduce(jnp.logical_and, [there[k] for k in concerned]), s, jnp.zeros_like(s))
            if concerned
            else s
            for s, concerned in zip(numbers.strengths, places, strict=True)
        )
        carry, outcome = advance(plan, numbers._replace(strengths=strengths), carry, now, flagged=True)
        means, precisions, nodes = list(carry.means), list(carry.precisions), dict(outcome.nodes)
        for i, k in states:
            place = plan.states.index(i)
            means[place] = jnp.where(there[k], means[place], start.means[place])
            precisions[place] = jnp.where(there[k], precisions[place], start.precisions[place])
            nodes[i] = _hidden(nodes[i], there[k])
        shown = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, batch), (nodes, outcome.log_density, outcome.flag))
        return carry._replace(means=tuple(means), precisions=tuple(precisions)), outcome._replace(
            nodes=shown[0], log_density=shown[1], flag=shown[2]
        )

    return jax.lax.scan(one, start, (data, present))


def _hidden(belief: NodeBelief, there: Array) -> NodeBelief:
    """NaN while the state is absent."""
    shown = jax.tree.map(lambda x: jnp.where(there, x, jnp.full_like(x, jnp.nan)), belief)
    return shown._replace(surprise=jnp.where(there, belief.surprise, jnp.zeros_like(belief.surprise)))
