"""Which site depends on which: the graph of a program, read off the data flow of its jaxpr.

A value carries the names of the sites that it was computed from without another site in between. What a loop carries
from one iteration to the next comes back marked as of the iteration before; branches depend on what chooses them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from probinf import _jax
from probinf.language.primitives import STATEMENTS
from probinf.language.sites import SiteInfo, has_statements, sites_of

Marks = frozenset[tuple[str, bool]]  # (site, whether it is of the iteration before)
_NONE: Marks = frozenset()


@dataclasses.dataclass(frozen=True)
class Plate:
    """Repetition: a named batch axis, or a loop.

    Attributes:
        key: unique in the graph.
        label: what to write, such as "obs: 100" or "40 steps".
        is_loop: whether one repetition may depend on the one before.
    """

    key: str
    label: str
    is_loop: bool


@dataclasses.dataclass(frozen=True)
class Node:
    """A site.

    Attributes:
        name: its name.
        kind: "sample", "observe", "deterministic" or "factor".
        family: the distribution's class name; empty for the others.
        plates: the repetitions it stands in, the outermost first.
    """

    name: str
    kind: str
    family: str
    plates: tuple[Plate, ...]


@dataclasses.dataclass(frozen=True)
class Edge:
    """Dependence of the site `child` on the site `parent`, in the iteration before if `is_previous`."""

    parent: str
    child: str
    is_previous: bool = False


@dataclasses.dataclass(frozen=True)
class Graph:
    """Sites in program order and the edges between them; data and arguments are left out."""

    name: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]

    def parents(self, name: str) -> tuple[str, ...]:
        """Names of the sites that a site depends on, those of the iteration before included."""
        return tuple(dict.fromkeys(edge.parent for edge in self.edges if edge.child == name))


def graph_of(name: str, jaxpr: Any) -> Graph:
    """The graph of a staged program's jaxpr."""
    walk = _Walk()
    walk.run(jaxpr, [_NONE] * len(jaxpr.invars), ())
    infos = {info.name: info for info in sites_of(jaxpr)}  # sites of several branches under one name are one node
    nodes = tuple(_node(info, walk.loops.get(info.name, ())) for info in infos.values())
    return Graph(name, nodes, tuple(walk.edges))


def _node(info: SiteInfo, loops: tuple[Plate, ...]) -> Node:
    sizes = info.shape[len(info.shape) - len(info.dims) :]
    named = [Plate(dim, f"{dim}: {n}", False) for dim, n in zip(info.dims, sizes, strict=True) if dim is not None]
    family = info.site.family if info.kind in ("sample", "observe") else ""
    return Node(info.name, info.kind, family, (*loops, *named))


class _Walk:
    """Goes through equations in order; loops are repeated until what they carry no longer grows."""

    def __init__(self) -> None:
        self.edges: dict[Edge, None] = {}  # an ordered set
        self.loops: dict[str, tuple[Plate, ...]] = {}
        self._plates: dict[int, Plate] = {}

    def run(
        self, jaxpr: Any, inputs: Sequence[Marks], loops: tuple[Plate, ...], chosen_by: Marks = _NONE
    ) -> list[Marks]:
        """Marks of the results; `chosen_by` is what decides whether this part runs at all."""
        marks: dict[Any, Marks] = dict.fromkeys(jaxpr.constvars, _NONE)
        marks.update(zip(jaxpr.invars, inputs, strict=True))

        def of(v: Any) -> Marks:
            return _NONE if isinstance(v, _jax.Literal) else marks[v]

        for eqn in jaxpr.eqns:
            operands = [of(v) for v in eqn.invars]
            if eqn.primitive in STATEMENTS:
                results = self._statement(eqn, operands, loops, chosen_by)
            elif has_statements(eqn) and eqn.primitive is _jax.scan_p:
                results = self._scan(eqn, operands, loops, chosen_by)
            elif has_statements(eqn) and eqn.primitive is _jax.while_p:
                results = self._while(eqn, operands, loops, chosen_by)
            elif has_statements(eqn) and eqn.primitive is _jax.cond_p:
                decided = chosen_by | operands[0]
                ways = [self.run(b.jaxpr, operands[1:], loops, decided) for b in eqn.params["branches"]]
                results = [_union([operands[0], *each]) for each in zip(*ways, strict=True)]
            elif has_statements(eqn) and eqn.primitive in _jax.CALLS:
                results = self.run(_jax.callee(eqn).jaxpr, operands, loops, chosen_by)
            else:
                results = [_union(operands)] * len(eqn.outvars)
            marks.update(zip(eqn.outvars, results, strict=True))
        return [of(v) for v in jaxpr.outvars]

    def _statement(self, eqn: Any, operands: list[Marks], loops: tuple[Plate, ...], chosen_by: Marks) -> list[Marks]:
        name = eqn.params["site"].name
        source = _union(operands)
        if not name:  # an algorithm's own draw: it passes on what it depends on
            return [source] * len(eqn.outvars)
        self.loops[name] = loops
        for parent, is_previous in sorted(source | chosen_by):
            if parent != name or is_previous:
                self.edges[Edge(parent, name, is_previous)] = None
        return [frozenset({(name, False)})] * len(eqn.outvars)

    def _scan(self, eqn: Any, operands: list[Marks], loops: tuple[Plate, ...], chosen_by: Marks) -> list[Marks]:
        body = eqn.params["jaxpr"].jaxpr
        num_consts, num_carry = _jax.scan_counts(eqn.params)
        consts, carry = operands[:num_consts], operands[num_consts : num_consts + num_carry]
        xs, start = operands[num_consts + num_carry :], list(carry)
        inside = (*loops, self._plate(eqn, f"{eqn.params['length']} steps"))
        own = _names(body)
        while True:
            results = self.run(body, [*consts, *carry, *xs], inside, chosen_by)
            grown = [c | _dated(r, own, is_previous=True) for c, r in zip(carry, results, strict=False)]
            if grown == carry:
                carried = [s | r for s, r in zip(start, results, strict=False)]  # the loop may have no step
                return [_dated(r, own, is_previous=False) for r in (*carried, *results[num_carry:])]
            carry = grown

    def _while(self, eqn: Any, operands: list[Marks], loops: tuple[Plate, ...], chosen_by: Marks) -> list[Marks]:
        p = eqn.params
        test, body = p["cond_jaxpr"].jaxpr, p["body_jaxpr"].jaxpr
        n_cond, n_body = p["cond_nconsts"], p["body_nconsts"]
        for_cond, for_body, carry = operands[:n_cond], operands[n_cond : n_cond + n_body], operands[n_cond + n_body :]
        start = list(carry)
        inside = (*loops, self._plate(eqn, "until done"))
        own = _names(test) | _names(body)
        while True:
            goes_on = _union(self.run(test, [*for_cond, *carry], inside, chosen_by))
            results = self.run(body, [*for_body, *carry], inside, chosen_by | goes_on)
            grown = [c | _dated(r, own, is_previous=True) for c, r in zip(carry, results, strict=True)]
            if grown == carry:
                return [_dated(s | r | goes_on, own, is_previous=False) for s, r in zip(start, results, strict=True)]
            carry = grown

    def _plate(self, eqn: Any, label: str) -> Plate:
        return self._plates.setdefault(id(eqn), Plate(f"loop {len(self._plates)}", label, True))


def _union(marks: Sequence[Marks]) -> Marks:
    return _NONE.union(*marks)


def _names(jaxpr: Any) -> frozenset[str]:
    return frozenset(info.name for info in sites_of(jaxpr))


def _dated(marks: Marks, own: frozenset[str], *, is_previous: bool) -> Marks:
    """Marks in which a loop's own sites are of the iteration before, or of no particular one outside of the loop."""
    return frozenset((name, is_previous if name in own else before) for name, before in marks)
