"""Checks of a network while it is built: names, kinds, couplings, cycles, impossible numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from probinf.arguments import positive_integer
from probinf.errors import ArgumentError, ArgumentTypeError, ModelError
from probinf.predictive_coding import nodes as kinds
from probinf.predictive_coding.couplings import COMPONENT, VALUE, VOLATILITY, Edge
from probinf.predictive_coding.families import Family
from probinf.predictive_coding.nodes import Node
from probinf.predictive_coding.plan import topological
from probinf.predictive_coding.rules import AbstractUpdate
from probinf.representations.concrete import is_concrete

if TYPE_CHECKING:
    from probinf.predictive_coding.network import Network

_POSITIVE = ("precision", "pseudo_count", "concentration", "base_count", "base_shape", "base_rate")


def check_node(network: Network, node: Node) -> None:
    """Raise if the node cannot join the network."""
    if not isinstance(node, Node):
        raise ArgumentTypeError(f"add: expected a node, found {type(node).__name__}.")
    label = f"node {node.name!r}"
    if not isinstance(node.name, str) or not node.name or "." in node.name or "->" in node.name:
        raise ArgumentError(f"{label}: expected a name, a non-empty string without '.' and '->'.")
    if node.name in {other.name for other in network.nodes}:
        raise ModelError(f"{label}: network {network.name!r} has a node of that name already.")
    for field in node.NUMBERS:
        check_number(f"{label}, {field}", field, getattr(node, field))
    missing = getattr(node, "missing", None)
    if missing not in (None, "nan"):
        raise ArgumentError(f"{label}, missing: expected None or 'nan', found {missing!r}.")
    if isinstance(node, kinds.ContinuousInput) and node.noise not in ("additive", "multiplicative"):
        raise ArgumentError(f"{label}, noise: expected 'additive' or 'multiplicative', found {node.noise!r}.")
    if isinstance(node, kinds.ContinuousState) and not isinstance(node.update, AbstractUpdate | None):
        raise ArgumentTypeError(f"{label}, update: expected an update rule such as Enhanced(), found {node.update!r}.")
    if (
        isinstance(node, kinds.CategoricalInput)
        and positive_integer(f"{label}, num_categories", node.num_categories) < 2
    ):
        raise ArgumentError(f"{label}, num_categories: expected at least 2.")
    if isinstance(node, kinds.DirichletProcessInput):
        positive_integer(f"{label}, num_clusters", node.num_clusters)
    if isinstance(node, kinds.ExponentialFamilyInput) and not isinstance(node.family, Family):
        raise ArgumentTypeError(
            f"{label}, family: expected a Family such as family('poisson'), found {node.family!r}; a network's "
            "exponential_family_input takes the name as `of`."
        )
    if isinstance(node, kinds.ExponentialFamilyInput) and node.statistics is not None:
        shape = np.shape(node.statistics)
        if shape[:1] != (node.family.dim,):
            raise ArgumentError(f"{label}, statistics: {node.family.name} has {node.family.dim}, found shape {shape}.")


def check_number(label: str, field: str, value: Any) -> None:
    """Raise unless the value is finite and in its range; tracers pass."""
    if value is None or not is_concrete(value):
        return
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise ArgumentTypeError(f"{label}: expected a number, found {type(value).__name__}.") from None
    if array.ndim > (2 if field == "statistics" else 1):
        raise ArgumentError(f"{label}: expected a number or shape (batch,), found shape {array.shape}.")
    if not np.isfinite(array).all():
        raise ArgumentError(f"{label}: expected finite numbers, found {value!r}.")
    if field in _POSITIVE and (array <= 0).any():
        raise ArgumentError(f"{label}: expected numbers above 0, found {value!r}.")
    if field == "autoconnection" and ((array < 0) | (array > 1)).any():
        raise ArgumentError(f"{label}: expected numbers between 0 and 1, found {value!r}.")


def check_edge(network: Network, edge: Edge) -> None:
    """Raise if the edge cannot join the network: unknown nodes, kinds that do not couple, a double, a cycle."""
    parent, child = network.node(edge.parent), network.node(edge.child)
    label = f"{edge.kind} coupling {edge.parent!r} -> {edge.child!r}"
    allowed = {VALUE: parent.CHILDREN, VOLATILITY: parent.VOLATILE, COMPONENT: parent.COMPONENTS}[edge.kind]
    if child.KIND not in allowed:
        may = f"it may be one of {', '.join(allowed)}" if allowed else "it has no such children"
        raise ModelError(f"{label}: a {child.KIND} cannot be the {edge.kind} child of a {parent.KIND}; {may}.")
    if isinstance(parent, kinds.ConstantNode) and edge.function is not None:
        raise ModelError(f"{label}: constants couple linearly; leave the function out.")
    if edge.name in {other.name for other in network.edges}:
        raise ModelError(f"{label}: the network has this coupling already; one strength and function for each edge.")
    check_number(f"{label}, strength", "strength", edge.strength)
    place = {node.name: i for i, node in enumerate(network.nodes)}
    pairs = [(place[e.parent], place[e.child]) for e in (*network.edges, edge)]
    try:
        topological(len(place), pairs)
    except ModelError:
        raise ModelError(f"{label}: it closes a cycle; parents must not depend on their children.") from None


def check_whole(network: Network) -> None:
    """Raise if the network cannot run: no input, inputs without value parents, a waiting order that is circular."""
    if not network.fed_inputs():
        raise ModelError(f"network {network.name!r} has no input; add one, say .continuous_input('u').")
    for node in network.nodes:
        parents = [e for e in network.edges if e.child == node.name and e.kind == VALUE]
        if isinstance(node, kinds.LEAVES) and not parents:
            raise ModelError(
                f"{node.KIND} {node.name!r} has no value parent; add one with .value(parent, {node.name!r})."
            )
        if isinstance(node, kinds.CategoricalInput):
            for e in network.edges:
                if e.kind == COMPONENT and e.parent == node.name:
                    found = [f for f in network.edges if f.child == e.child and f.kind == VALUE]
                    if len(found) != 1:
                        raise ModelError(f"component {e.child!r} of {node.name!r} must have exactly one value parent.")
        if isinstance(node, kinds.ContinuousInput) and node.noise == "multiplicative":
            volatile = {e.parent for e in network.edges if e.child == node.name and e.kind == VOLATILITY}
            for e in parents:
                if e.parent in volatile:
                    raise ModelError(f"{node.name!r}: {e.parent!r} is both its value and its volatility parent.")
