"""What compiled code needs to know of a network: its shape without names and numbers, and the numbers apart."""

from __future__ import annotations

import dataclasses
import functools
import graphlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from probinf.errors import ModelError
from probinf.predictive_coding.couplings import COMPONENT, VALUE, VOLATILITY
from probinf.predictive_coding.families import Family
from probinf.predictive_coding.rules import AbstractUpdate


class Switches(NamedTuple):
    """Rules in which implementations differ; the defaults are ours.

    Attributes:
        shared_error: divide a child's volatility prediction error by its number of volatility parents.
        aged_when_missing: states without an observed child age by the last posteriors and still teach their parents.
        tonic_only: a child's variance at a parent's new mean leaves out its other volatility parents.
        first_child_only: the unbounded update heeds the first volatility child and nothing else.
        full_carry: the carried variance is 1/precision without the factor autoconnection squared.
        input_rate: multiply the prediction of a continuous input by the step length.
    """

    shared_error: bool = False
    aged_when_missing: bool = False
    tonic_only: bool = False
    first_child_only: bool = False
    full_carry: bool = False
    input_rate: bool = False


_PYHGF = Switches(shared_error=True, aged_when_missing=True, tonic_only=True, first_child_only=True, full_carry=True)

#: By name; in compatible networks cavity weights are replaced by relaxed ones (see `Network`).
COMPATIBILITY: dict[str, Switches] = {
    "pyhgf-0.3": _PYHGF,
    "pyhgf-0.3-time-step": _PYHGF._replace(input_rate=True),
}


class NodePlan(NamedTuple):
    """The static part of a node: its kind, and what its kind adds."""

    kind: str
    update: AbstractUpdate | None = None
    noise: str = "additive"
    family: Family | None = None
    size: int = 0


class EdgePlan(NamedTuple):
    """An edge between node indices; `index` is its place among the strengths."""

    index: int
    kind: str
    parent: int
    child: int
    function: Callable | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """The shape of a network: hashable, equal for networks that differ in names and numbers only.

    Attributes:
        nodes, edges: in the network's order.
        mode: how the uncertainty of value parents is treated: `"cavity"`, `"relaxed"` or `"mean-field"`.
        switches: rules in which implementations differ.
    """

    nodes: tuple[NodePlan, ...]
    edges: tuple[EdgePlan, ...]
    mode: str
    switches: Switches

    def of_kind(self, *kinds: str) -> tuple[int, ...]:
        """Indices of the nodes of these kinds."""
        return tuple(i for i, node in enumerate(self.nodes) if node.kind in kinds)

    @functools.cached_property
    def states(self) -> tuple[int, ...]:
        """Indices of the continuous states, the order of the packed belief."""
        return self.of_kind("continuous state")

    @functools.cached_property
    def leaves(self) -> tuple[int, ...]:
        """Inputs that value parents predict."""
        return self.of_kind("continuous input", "binary input")

    @functools.cached_property
    def composites(self) -> tuple[int, ...]:
        """Inputs with a memory, or components, of their own."""
        return self.of_kind("categorical input", "exponential-family input", "Dirichlet-process input")

    def parents(self, node: int, kind: str) -> tuple[EdgePlan, ...]:
        """Edges of that kind that end in the node."""
        return tuple(e for e in self.edges if e.child == node and e.kind == kind)

    def children(self, node: int, kind: str) -> tuple[EdgePlan, ...]:
        """Edges of that kind that start in the node."""
        return tuple(e for e in self.edges if e.parent == node and e.kind == kind)

    @functools.cached_property
    def component_of(self) -> dict[int, int]:
        """From a leaf that reads a number of a composite input to that input."""
        return {e.child: e.parent for e in self.edges if e.kind == COMPONENT}

    @functools.cached_property
    def fed(self) -> tuple[int, ...]:
        """Inputs that take data: leaves that are no components, and composites."""
        return tuple(i for i in sorted((*self.leaves, *self.composites)) if i not in self.component_of)

    @functools.cached_property
    def top_down(self) -> tuple[int, ...]:
        """States, constants and leaves, parents first."""
        chosen = {*self.states, *self.leaves, *self.of_kind("constant")}
        return tuple(i for i in topological(len(self.nodes), self._coupled()) if i in chosen)

    @functools.cached_property
    def bottom_up(self) -> tuple[int, ...]:
        """States and leaves in the order in which their errors can be had: children first.

        The error of a continuous input with multiplicative noise also waits for its value parents.
        """
        after = [(e.child, e.parent) for e in self.edges if e.kind == VALUE]
        after += [(e.child, e.parent) for e in self.edges if e.kind == VOLATILITY]
        for i in self.leaves:
            if self.nodes[i].noise == "multiplicative":
                volatile = [e.parent for e in self.parents(i, VOLATILITY)]
                after += [(e.parent, c) for e in self.parents(i, VALUE) for c in volatile]
        chosen = {*self.states, *self.leaves}
        return tuple(i for i in topological(len(self.nodes), after) if i in chosen)

    def _coupled(self) -> list[tuple[int, int]]:
        return [(e.parent, e.child) for e in self.edges if e.kind != COMPONENT]


class Numbers(NamedTuple):
    """The dynamic part of a network.

    Attributes:
        nodes: for each node its numbers by name, scalars or with a trailing batch axis.
        strengths: of the edges.
    """

    nodes: tuple[dict[str, Any], ...]
    strengths: tuple[Any, ...]


def topological(count: int, pairs: Iterable[tuple[int, int]]) -> tuple[int, ...]:
    """An order of 0, ..., count - 1 in which the first of each pair comes before the second."""
    sorter: graphlib.TopologicalSorter[int] = graphlib.TopologicalSorter(dict.fromkeys(range(count), ()))
    for first, second in pairs:
        sorter.add(second, first)
    try:
        return tuple(sorter.static_order())
    except graphlib.CycleError as error:
        raise ModelError(f"circular: {error.args[1]}") from None
