"""Networks as data: nodes by name, edges as a list, built step by step; every method gives a new network."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax

from probinf.errors import ArgumentError, ArgumentTypeError, UnknownNameError
from probinf.predictive_coding import nodes as kinds
from probinf.predictive_coding.checks import check_edge, check_node, check_whole
from probinf.predictive_coding.couplings import COMPONENT, VALUE, VOLATILITY, Edge, coupling_function
from probinf.predictive_coding.families import Family, family
from probinf.predictive_coding.nodes import Node, field_names
from probinf.predictive_coding.plan import COMPATIBILITY, EdgePlan, NodePlan, Numbers, Plan, Switches
from probinf.predictive_coding.rules import AbstractUpdate
from probinf.predictive_coding.updates import Enhanced

if TYPE_CHECKING:
    from probinf.language.program import Program
    from probinf.predictive_coding.door import Data
    from probinf.predictive_coding.run import NetworkRun
    from probinf.streaming import System

MODES = ("cavity", "relaxed", "mean-field")


class Network(eqx.Module):
    """A generalised Hierarchical Gaussian Filter: a directed acyclic graph of beliefs.

    Built step by step (`Network().binary_input("u").continuous_state("x").value("x", "u")`), from a dictionary
    (`Network.from_dict`) or from a NetworkX graph (`Network.from_networkx`). It is a pytree whose leaves are its
    numbers, which are addressed as `"x.tonic_volatility"` or `"x->u.value"` and may carry one batch axis.

    Args:
        name: used in messages.
        mode: how a node treats the uncertainty of its value parents. `"cavity"`: carried along, and left out again
            where a parent learns from the node: a step of a linear tree from independent beliefs is then exact.
            `"relaxed"`: carried along, published weights, exact with one value parent for each child. `"mean-field"`:
            ignored.
        update: rule of the states that have none of their own.
        compat: `"pyhgf-0.3"` for the rules of that package where they differ (relaxed weights replace cavity weights),
            or `"pyhgf-0.3-time-step"`, which also multiplies predictions of continuous inputs by the step length.

    References:
        Weber et al. (2026), The generalized hierarchical Gaussian filter, eLife RP110174.
    """

    name: str = eqx.field(static=True)
    mode: str = eqx.field(static=True)
    update: AbstractUpdate
    compat: str | None = eqx.field(static=True)
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def __init__(
        self,
        name: str = "network",
        *,
        mode: str = "cavity",
        update: AbstractUpdate | None = None,
        compat: str | None = None,
    ) -> None:
        if mode not in MODES:
            raise ArgumentError(f"mode: expected one of {MODES}, found {mode!r}.")
        if compat is not None and compat not in COMPATIBILITY:
            raise ArgumentError(f"compat: expected None or one of {tuple(COMPATIBILITY)}, found {compat!r}.")
        if update is not None and not isinstance(update, AbstractUpdate):
            raise ArgumentTypeError(f"update: expected an update rule such as Enhanced(), found {update!r}.")
        self.name, self.compat = name, compat
        self.mode = "relaxed" if compat is not None and mode == "cavity" else mode
        self.update = Enhanced() if update is None else update
        self.nodes, self.edges = (), ()

    # -- nodes ------------------------------------------------------------------------------------------------------

    def add(self, node: Node) -> Network:
        """The network with one more node."""
        check_node(self, node)
        return self._with(nodes=(*self.nodes, node))

    def continuous_state(self, name: str, **fields: Any) -> Network:
        """Add a `ContinuousState`; fields: mean, precision, tonic_volatility, drift, autoconnection, update."""
        return self.add(_made(kinds.ContinuousState, name, fields))

    def volatile_state(self, name: str, *, log_volatility: Mapping[str, Any] | None = None, **fields: Any) -> Network:
        """Add a state with a volatility parent of its own, `"<name>_volatility"`, coupled with strength 1.

        Args:
            name: of the state.
            log_volatility: fields of the volatility parent.
            fields: of the state.
        """
        parent = f"{name}_volatility"
        return (
            self.continuous_state(name, **fields)
            .continuous_state(parent, **(log_volatility or {}))
            .volatility(parent, name)
        )

    def constant(self, name: str, mean: Any = 1.0) -> Network:
        """Add a `ConstantNode`."""
        return self.add(kinds.ConstantNode(name, mean))

    def continuous_input(self, name: str, **fields: Any) -> Network:
        """Add a `ContinuousInput`; `fields` are precision, noise, missing."""
        return self.add(_made(kinds.ContinuousInput, name, fields))

    def binary_input(self, name: str, **fields: Any) -> Network:
        """Add a `BinaryInput`."""
        return self.add(_made(kinds.BinaryInput, name, fields))

    def categorical_input(self, name: str, num_categories: int, **fields: Any) -> Network:
        """Add a `CategoricalInput` and its binary components `"name[0]"`, ..., each to be given a value parent."""
        found = self.add(_made(kinds.CategoricalInput, name, {"num_categories": num_categories, **fields}))
        for k in range(num_categories):
            found = found.binary_input(f"{name}[{k}]").component(name, f"{name}[{k}]")
        return found

    def exponential_family_input(
        self, name: str, of: str | Family = "normal", *, dim: int = 1, adaptive: bool = False, **fields: Any
    ) -> Network:
        """Add an `ExponentialFamilyInput`.

        Args:
            name: of the node.
            of: name of the family, or one of your own.
            dim: dimension of a multivariate normal.
            adaptive: learn the pseudo-count: adds for each sufficient statistic an input `"name[0]"` with a value
                parent `"name[0]_state"`, which itself has a volatility parent `"name[0]_state_volatility"`.
            fields: pseudo_count, statistics, missing.
        """
        chosen = of if isinstance(of, Family) else family(of, dim)
        found = self.add(_made(kinds.ExponentialFamilyInput, name, {"family": chosen, **fields}))
        for k in range(chosen.dim if adaptive else 0):
            part = f"{name}[{k}]"
            found = found.continuous_input(part).component(name, part)
            found = found.volatile_state(f"{part}_state").value(f"{part}_state", part)
        return found

    def dirichlet_process_input(self, name: str, **fields: Any) -> Network:
        """Add a `DirichletProcessInput`."""
        return self.add(_made(kinds.DirichletProcessInput, name, fields))

    # -- edges ------------------------------------------------------------------------------------------------------

    def value(self, parent: str, child: str, strength: Any = 1.0, function: str | Callable | None = None) -> Network:
        """Let the parent's value move the child's mean by strength * function(value).

        Args:
            parent: name of the node above.
            child: name of the node below.
            strength: alpha.
            function: g: a name (`"exp"`, `"relu"`, `"sigmoid"`, `"softplus"`, `"square"`, `"tanh"`), a function of a
                scalar array, or None for the identity.
        """
        return self._edge(Edge(VALUE, parent, child, strength, coupling_function(function)))

    def volatility(self, parent: str, child: str, strength: Any = 1.0) -> Network:
        """Let the parent's value add strength * value to the log of the child's step variance."""
        return self._edge(Edge(VOLATILITY, parent, child, strength))

    def component(self, parent: str, child: str) -> Network:
        """Let a binary or continuous input read the next number of a composite input, instead of data."""
        return self._edge(Edge(COMPONENT, parent, child))

    def remove(self, name: str) -> Network:
        """The network without a node (and the edges at it)."""
        self.node(name)
        edges = tuple(e for e in self.edges if name not in (e.parent, e.child))
        return self._with(nodes=tuple(n for n in self.nodes if n.name != name), edges=edges)

    def disconnect(self, parent: str, child: str, kind: str = VALUE) -> Network:
        """The network without one edge."""
        name = f"{parent}->{child}.{kind}"
        if name not in {e.name for e in self.edges}:
            raise UnknownNameError(name, [e.name for e in self.edges], "edge", f"network {self.name!r}")
        return self._with(edges=tuple(e for e in self.edges if e.name != name))

    # -- numbers by name --------------------------------------------------------------------------------------------

    def parameters(self) -> dict[str, Any]:
        """Every number by its address: `"node.field"` or `"parent->child.kind"`."""
        found = {f"{n.name}.{field}": getattr(n, field) for n in self.nodes for field in n.NUMBERS}
        return found | {e.name: e.strength for e in self.edges if e.kind != COMPONENT}

    def replace(self, parameters: Mapping[str, Any]) -> Network:
        """The network with other numbers, say `{"x2.tonic_volatility": -2.0}`; arrays (B,) make it a batch.

        Raises:
            UnknownNameError: no such number.
        """
        known = self.parameters()
        for address in parameters:
            if address not in known:
                raise UnknownNameError(address, known, "parameter", f"network {self.name!r}")

        def renewed(part: Any, prefix: str, fields: tuple[str, ...]) -> Any:
            chosen = [f for f in fields if prefix.format(f) in parameters]
            if not chosen:
                return part
            return eqx.tree_at(
                lambda p: [getattr(p, f) for f in chosen],
                part,
                [parameters[prefix.format(f)] for f in chosen],
                is_leaf=lambda x: x is None,
            )

        nodes = tuple(renewed(n, n.name + ".{}", n.NUMBERS) for n in self.nodes)
        edges = tuple(renewed(e, e.name, ("strength",)) for e in self.edges)
        return self._with(nodes=nodes, edges=edges)

    # -- what it does -----------------------------------------------------------------------------------------------

    def filter(
        self,
        data: Any,
        *,
        time_steps: Any = None,
        observed: Mapping[str, Any] | None = None,
        on_fault: str = "nan",
    ) -> NetworkRun:
        """Beliefs of all nodes after every step of a series, in one compiled scan.

        Args:
            data: shape (T,), or (T, B) for a batch; with several inputs a dictionary from their names.
            time_steps: length of the step before each observation, (T,) or (T, B); 1 by default.
            observed: name of an input to flags (T,) or (T, B); what is False is left out exactly.
            on_fault: when a belief stops being a distribution, `"nan"`: everything from that step on is NaN, and
                `run.first_fault` names step, node and value; `"stop"`: the run ends before that step; `"raise"`.

        Raises:
            DataError, ArgumentError, UnknownNameError: see `door.prepare`.
            ModelError: the network is incomplete.
            InferenceError: a belief broke down and `on_fault` is `"raise"`, or nothing is left by `"stop"`; what came
                before is on `.partial`.
        """
        from probinf.predictive_coding.filtering import filter_network

        return filter_network(self, data, time_steps=time_steps, observed=observed, on_fault=on_fault)

    def log_likelihood(
        self, data: Any, *, time_steps: Any = None, observed: Mapping[str, Any] | None = None
    ) -> jax.Array:
        """Log predictive density of a series, nats, shape (*batch,); arguments as in `filter`."""
        from probinf.predictive_coding.filtering import log_likelihood

        return log_likelihood(self, data, time_steps=time_steps, observed=observed)

    def value_and_gradient(
        self, names: Sequence[str], data: Any, *, time_steps: Any = None, observed: Mapping[str, Any] | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Log likelihood (*batch,) and its derivative (*batch,) with respect to each named number, by forward mode.

        Cheaper than `jax.grad` of `log_likelihood` for up to some ten numbers: nothing is stored along the series.
        """
        from probinf.predictive_coding.filtering import value_and_gradient

        return value_and_gradient(self, names, data, time_steps=time_steps, observed=observed)

    def prepare(self, data: Any, *, time_steps: Any = None, observed: Mapping[str, Any] | None = None) -> Data:
        """The series checked once, to be passed as `data` many times."""
        from probinf.predictive_coding.door import prepare

        return prepare(self, data, time_steps, observed)

    def system(self) -> System:
        """The generative model as a state-space system: `network.system().filter(ClosedForm())` or another filter."""
        from probinf.predictive_coding.stream import network_system

        return network_system(self)

    def program(
        self,
        data: Any,
        *,
        priors: Mapping[str, Any] | None = None,
        time_steps: Any = None,
        observed: Mapping[str, Any] | None = None,
    ) -> Program:
        """The generative model as a program with this series observed; its sites are the states (`program.py`).

        Numbers with `priors` (address to distribution) are sites too, for `smc.PMMH`, `smc.SMC2` or NUTS.
        """
        from probinf.predictive_coding.program import network_program

        return network_program(self, self.prepare(data, time_steps=time_steps, observed=observed), priors)

    # -- for compiled code ------------------------------------------------------------------------------------------

    def plan(self) -> Plan:
        """The shape of the network, without names and numbers.

        Raises:
            ModelError: an input without value parents, or another part that is missing.
        """
        return self._plan

    @functools.cached_property
    def _plan(self) -> Plan:
        check_whole(self)
        place = {node.name: i for i, node in enumerate(self.nodes)}
        edges = tuple(
            EdgePlan(k, e.kind, place[e.parent], place[e.child], e.function) for k, e in enumerate(self.edges)
        )
        switches = Switches() if self.compat is None else COMPATIBILITY[self.compat]
        return Plan(tuple(map(self._node_plan, self.nodes)), edges, self.mode, switches)

    def numbers(self) -> Numbers:
        """The numbers of the network, in the order of its plan."""
        found = []
        for node in self.nodes:
            own = {field: getattr(node, field) for field in node.NUMBERS}
            if isinstance(node, kinds.ExponentialFamilyInput) and own["statistics"] is None:
                own["statistics"] = node.family.start
            found.append(own)
        return Numbers(tuple(found), tuple(edge.strength for edge in self.edges))

    def places(self, names: Sequence[str]) -> tuple[tuple[int, str], ...]:
        """For each address the node's index and the field, or the edge's index and an empty field."""
        found = {f"{n.name}.{field}": (i, field) for i, n in enumerate(self.nodes) for field in n.NUMBERS}
        found |= {e.name: (k, "") for k, e in enumerate(self.edges) if e.kind != COMPONENT}
        for name in names:
            if name not in found:
                raise UnknownNameError(name, found, "parameter", f"network {self.name!r}")
        return tuple(found[name] for name in names)

    def node(self, name: str) -> Node:
        """The node of that name; `UnknownNameError` if there is none."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise UnknownNameError(name, [n.name for n in self.nodes], "node", f"network {self.name!r}")

    def fed_inputs(self) -> list[Node]:
        """The inputs that take data, in order: all but components."""
        parts = {e.child for e in self.edges if e.kind == COMPONENT}
        return [n for n in self.nodes if isinstance(n, kinds.INPUTS) and n.name not in parts]

    def state_names(self) -> list[str]:
        """Names of the continuous states, in order."""
        return [n.name for n in self.nodes if isinstance(n, kinds.ContinuousState)]

    def _node_plan(self, node: Node) -> NodePlan:
        if isinstance(node, kinds.ContinuousState):
            return NodePlan(node.KIND, self.update if node.update is None else node.update)
        if isinstance(node, kinds.ContinuousInput):
            return NodePlan(node.KIND, noise=node.noise)
        if isinstance(node, kinds.CategoricalInput):
            return NodePlan(node.KIND, size=node.num_categories)
        if isinstance(node, kinds.ExponentialFamilyInput):
            return NodePlan(node.KIND, family=node.family)
        if isinstance(node, kinds.DirichletProcessInput):
            return NodePlan(node.KIND, size=node.num_clusters)
        return NodePlan(node.KIND)

    def _edge(self, edge: Edge) -> Network:
        check_edge(self, edge)
        return self._with(edges=(*self.edges, edge))

    def _with(self, **parts: Any) -> Network:
        other = object.__new__(Network)
        for field in ("name", "mode", "update", "compat", "nodes", "edges"):
            object.__setattr__(other, field, parts.get(field, getattr(self, field)))
        return other

    # -- other forms ------------------------------------------------------------------------------------------------

    @classmethod
    def from_dict(cls, source: Mapping[str, Any], **settings: Any) -> Network:
        """A network from a dictionary as `to_dict` writes it; see `forms.py`."""
        from probinf.predictive_coding.forms import from_dict

        return from_dict(source, **settings)

    @classmethod
    def from_networkx(cls, graph: Any, **settings: Any) -> Network:
        """A network from a NetworkX directed (multi)graph; see `forms.py`."""
        from probinf.predictive_coding.forms import from_networkx

        return from_networkx(graph, **settings)

    def to_dict(self) -> dict[str, Any]:
        """The network as a dictionary of numbers and strings."""
        from probinf.predictive_coding.forms import to_dict

        return to_dict(self)

    def __repr__(self) -> str:
        nodes = ", ".join(f"{n.name} ({n.KIND})" for n in self.nodes)
        edges = ", ".join(f"{e.parent} -> {e.child} ({e.kind})" for e in self.edges)
        return f"Network({self.name!r}, {self.mode}; {nodes or 'no nodes'}; {edges or 'no edges'})"


def _made(kind: type[Node], name: str, fields: Mapping[str, Any]) -> Any:
    known = [f for f in field_names(kind) if f != "name"]
    for field in fields:
        if field not in known:
            raise UnknownNameError(field, known, "field", f"{kind.KIND} {name!r}")
    return kind(name, **fields)
