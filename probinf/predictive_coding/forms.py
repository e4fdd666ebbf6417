"""Other forms of a network: dictionaries of numbers and strings, and NetworkX graphs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from probinf.errors import ArgumentError, UnknownNameError
from probinf.predictive_coding import nodes as kinds
from probinf.predictive_coding.couplings import COMPONENT, FUNCTIONS, VALUE, VOLATILITY
from probinf.predictive_coding.families import Family, family
from probinf.predictive_coding.nodes import field_names

if TYPE_CHECKING:
    from probinf.predictive_coding.network import Network

_KINDS = {
    kind.KIND: kind
    for kind in (
        kinds.ContinuousState,
        kinds.ConstantNode,
        kinds.ContinuousInput,
        kinds.BinaryInput,
        kinds.CategoricalInput,
        kinds.ExponentialFamilyInput,
        kinds.DirichletProcessInput,
    )
}


def from_dict(source: Mapping[str, Any], **settings: Any) -> Network:
    """A network from `{"nodes": {name: {"kind": ..., field: number}}, "edges": [{"parent": ..., "child": ..., ...}]}`.

    An edge has a `kind` (`"value"` by default, or `"volatility"`), a `strength` and a `function`. Settings of the
    network (`name`, `mode`, `compat`) may stand in the dictionary or be given here; update rules are given here.

    Raises:
        UnknownNameError: an unknown kind, field or node.
        ArgumentError: an entry is missing.
    """
    if "nodes" not in source:
        raise ArgumentError("from_dict: expected the keys 'nodes' and 'edges'.")
    given = {key: source[key] for key in ("name", "mode", "compat") if key in source} | settings
    return _assembled(source["nodes"].items(), source.get("edges", ()), given)


def from_networkx(graph: Any, **settings: Any) -> Network:
    """A network from a directed graph whose nodes and edges carry the attributes that `from_dict` takes.

    Edges run from parent to child. Anything with `nodes(data=True)` and `edges(data=True)` serves; a pair of nodes with
    two couplings needs a `MultiDiGraph`.
    """
    edges = ({"parent": parent, "child": child, **attributes} for parent, child, attributes in graph.edges(data=True))
    return _assembled(graph.nodes(data=True), edges, settings)


def to_dict(network: Network) -> dict[str, Any]:
    """The dictionary that `from_dict` takes. Update rules are not in it.

    Raises:
        ArgumentError: a coupling function or a family without a name.
    """
    nodes = {}
    for node in network.nodes:
        entry: dict[str, Any] = {"kind": node.KIND}
        for field in field_names(type(node)):
            value = getattr(node, field)
            if field in ("name", "update") or value is None:
                continue
            if isinstance(value, Family):
                shape = value.event_shape
                entry |= {"family": "multivariate normal", "dim": shape[0]} if shape else {"family": value.name}
            else:
                entry[field] = value if isinstance(value, str | int) else np.asarray(value).tolist()
        nodes[node.name] = entry
    edges = []
    for e in network.edges:
        entry = {"kind": e.kind, "parent": e.parent, "child": e.child}
        if e.kind != COMPONENT:
            entry["strength"] = np.asarray(e.strength).tolist()
        if e.function is not None:
            names = [name for name, function in FUNCTIONS.items() if function is e.function]
            if not names:
                raise ArgumentError(f"to_dict: the function of {e.name} has no name; named ones: {list(FUNCTIONS)}.")
            entry["function"] = names[0]
        edges.append(entry)
    return {"name": network.name, "mode": network.mode, "compat": network.compat, "nodes": nodes, "edges": edges}


def _assembled(
    nodes: Iterable[tuple[str, Mapping[str, Any]]], edges: Iterable[Mapping[str, Any]], settings: Mapping[str, Any]
) -> Network:
    from probinf.predictive_coding.network import Network

    network = Network(**settings)
    for name, attributes in nodes:
        fields = dict(attributes)
        kind = fields.pop("kind", kinds.ContinuousState.KIND)
        if kind not in _KINDS:
            raise UnknownNameError(kind, _KINDS, "kind", f"node {name!r}")
        if "family" in fields:
            fields["family"] = family(fields["family"], fields.pop("dim", 1))
        if isinstance(fields.get("statistics"), list):
            fields["statistics"] = np.asarray(fields["statistics"], np.float64)
        known = [f for f in field_names(_KINDS[kind]) if f != "name"]
        for field in fields:
            if field not in known:
                raise UnknownNameError(field, known, "field", f"{kind} {name!r}")
        numbers: dict[str, Any] = {k: np.asarray(v) if isinstance(v, list) else v for k, v in fields.items()}
        network = network.add(_KINDS[kind](name, **numbers))
    for edge in edges:
        if "parent" not in edge or "child" not in edge:
            raise ArgumentError(f"edges: expected 'parent' and 'child', found {dict(edge)!r}.")
        kind, ends = edge.get("kind", VALUE), (edge["parent"], edge["child"])
        if kind == VALUE:
            network = network.value(*ends, edge.get("strength", 1.0), edge.get("function"))
        elif kind == VOLATILITY:
            network = network.volatility(*ends, edge.get("strength", 1.0))
        elif kind == COMPONENT:
            network = network.component(*ends)
        else:
            raise UnknownNameError(kind, (VALUE, VOLATILITY, COMPONENT), "kind", f"edge {ends[0]!r} -> {ends[1]!r}")
    return network
