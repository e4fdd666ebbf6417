"""Faults made by rule: one small change of the syntax tree each, wherever the numerical code has a place for it.

Not changed: messages and names for people, annotations, docstrings, assertions, and the checks at the door (functions
and conditions that only raise).
"""

from __future__ import annotations

import ast
import copy
import dataclasses
from collections.abc import Iterator

import numpy as np

from benchmarks.mutant_loading import source_of

MODULES = (
    *(
        f"transformations.{name}"
        for name in (
            "population",
            "resampling",
            "ancestors",
            "inversion",
            "branching",
            "killing",
            "running",
            "conditional",
            "ancestor_sampling",
            "collapsing",
            "importance",
            "rejuvenation",
            "traces",
            "targets",
        )
    ),
    *(f"kernels.{name}" for name in ("kernel", "trace_moves", "particle_moves")),
)
_DOORS = {"_population_of", "_check_claim", "check_particles", "_kernels", "scheme"}
_PEOPLE = {"name", "label", "shown", "__repr__", "unsupported"}
#: Arguments that only make a mistake of the caller visible, or are for people.
_SAFETY = {"strict", "name"}
#: Calls whose last positional argument may be left out.
_OPTIONAL = {"replay", "prior_and_score", "accept", "Replay", "Prefix", "Reference", "Many", "run_population"}
_COMPARE = {
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt,),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt,),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}


@dataclasses.dataclass(frozen=True)
class Change:
    """One automatic mutant.

    Attributes:
        module: name below `probinf`.
        line: where, counted from 1.
        rule: which kind of change.
        before: the source that is replaced.
        after: what stands there instead.
        start: offset of `before` in the module's source, in bytes.
        function: the innermost function around it.
    """

    module: str
    line: int
    rule: str
    before: str
    after: str
    start: int
    function: str

    def source(self) -> str:
        """The module's source with the change."""
        text = source_of(self.module).encode()
        size = len(self.before.encode())
        return (text[: self.start] + self.after.encode() + text[self.start + size :]).decode()

    @property
    def place(self) -> str:
        """File and line."""
        return f"probinf/{self.module.replace('.', '/')}.py:{self.line}"

    @property
    def identity(self) -> str:
        """What the table of equivalent mutants knows it by: the function, and the line before and after."""
        line = source_of(self.module).splitlines()[self.line - 1].strip()
        return f"{self.module}.{self.function}: {line} => {self.mutated_line()}"

    def mutated_line(self) -> str:
        """The line of the change as it stands in the mutant."""
        return self.source().splitlines()[self.line - 1].strip()


class _Finder:
    """Collects the changes of one module."""

    def __init__(self, module: str) -> None:
        self.module, self.text = module, source_of(module)
        self.lines = [0]
        for line in self.text.encode().splitlines(keepends=True):
            self.lines.append(self.lines[-1] + len(line))
        self.found: list[Change] = []
        self.functions = [""]

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self.lines[node.lineno - 1] + node.col_offset
        end = self.lines[node.end_lineno - 1] + node.end_col_offset
        return start, end

    def replace(self, node: ast.expr | ast.stmt, new: ast.AST | str, rule: str) -> None:
        start, end = self.span(node)
        before = self.text.encode()[start:end].decode()
        if isinstance(new, str):
            after = new
        else:
            after = ast.unparse(ast.fix_missing_locations(new))
            after = after if isinstance(new, ast.Constant | ast.Call | ast.stmt) else f"({after})"
        if after != before:
            self.found.append(Change(self.module, node.lineno, rule, before, after, start, self.functions[-1]))

    # -- walking ------------------------------------------------------------------------------------------------------

    def body(self, statements: list[ast.stmt], bound: set[str]) -> None:
        for statement in statements:
            self.statement(statement, bound)

    def statement(self, node: ast.stmt, bound: set[str]) -> None:
        if isinstance(node, ast.FunctionDef):
            if node.name in _DOORS | _PEOPLE:
                return
            a = node.args
            arguments = [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg) if x is not None]
            self.functions.append(node.name)
            self.body(node.body, {*bound, *arguments})
            self.functions.pop()
            bound.add(node.name)
        elif isinstance(node, ast.ClassDef):
            self.body([s for s in node.body if isinstance(s, ast.FunctionDef)], set())
        elif isinstance(node, ast.Raise | ast.Assert | ast.Import | ast.ImportFrom):
            return
        elif isinstance(node, ast.If):
            if all(isinstance(s, ast.Raise) for s in node.body) and not node.orelse:
                return
            self.expression(node.test)
            self.replace(node.test, f"not ({ast.unparse(node.test)})", "negated condition")
            self.body(node.body, bound)
            self.body(node.orelse, bound)
        elif isinstance(node, ast.For):
            self.expression(node.iter)
            bound |= {n.id for n in ast.walk(node.target) if isinstance(n, ast.Name)}
            self.body(node.body, bound)
        elif isinstance(node, ast.With | ast.While | ast.Try):
            self.body(node.body, bound)
        elif isinstance(node, ast.Expr):
            if isinstance(node.value, ast.Call) and _called(node.value) not in _DOORS:
                self.expression(node.value)
                self.replace(node, "pass", "dropped statement")
        elif isinstance(node, ast.AugAssign):
            self.expression(node.value)
            self.replace(node, "pass", "dropped statement")
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
            if node.value is None or names & _PEOPLE:
                return
            self.expression(node.value)
            stored = any(isinstance(t, ast.Subscript) for t in targets)
            if bound and isinstance(node, ast.Assign) and (stored or names <= bound):
                self.replace(node, "pass", "dropped statement")
            bound |= names
        elif isinstance(node, ast.Return) and node.value is not None:
            self.expression(node.value)

    def expression(self, node: ast.expr) -> None:
        if isinstance(node, ast.JoinedStr):
            return
        if isinstance(node, ast.Compare):
            for i, op in enumerate(node.ops):
                for other in _COMPARE[type(op)]:
                    new = copy.deepcopy(node)
                    new.ops[i] = other()
                    self.replace(node, new, "comparison")
        elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
            new = copy.deepcopy(node)
            new.op = _ARITHMETIC[type(node.op)]()
            self.replace(node, new, "operator")
        elif isinstance(node, ast.BoolOp):
            new = copy.deepcopy(node)
            new.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            self.replace(node, new, "operator")
        elif isinstance(node, ast.Constant):
            if type(node.value) in (int, float, bool) and node.value in (0, 1):
                self.replace(node, ast.Constant(type(node.value)(1 - node.value)), "constant")
            return
        elif isinstance(node, ast.IfExp):
            self.replace(node, ast.IfExp(node.test, node.orelse, node.body), "swapped branches")
        elif isinstance(node, ast.Call):
            self.call(node)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.expression(child)
            elif isinstance(child, ast.keyword):
                if child.arg not in _SAFETY:
                    self.expression(child.value)
            elif isinstance(child, ast.comprehension):
                self.expression(child.iter)
                for test in child.ifs:
                    self.expression(test)
                    self.replace(test, f"(not ({ast.unparse(test)}))", "negated condition")

    def call(self, node: ast.Call) -> None:
        called = _called(node)
        if called in ("where", "cond") and len(node.args) >= 3:
            new = copy.deepcopy(node)
            new.args[1], new.args[2] = new.args[2], new.args[1]
            self.replace(node, new, "swapped branches")
        for i, keyword in enumerate(node.keywords):
            if keyword.arg in _SAFETY:
                continue
            new = copy.deepcopy(node)
            del new.keywords[i]
            self.replace(node, new, "removed argument")
        if called in _OPTIONAL and len(node.args) > 1:
            new = copy.deepcopy(node)
            del new.args[-1]
            self.replace(node, new, "removed argument")


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def changes(module: str) -> list[Change]:
    """All automatic mutants of a module, in the order of their places."""
    finder = _Finder(module)
    finder.body(ast.parse(finder.text).body, set())
    return sorted(set(finder.found), key=lambda c: (c.start, len(c.before), c.after))


def sampled(count: int, seed: int) -> Iterator[Change]:
    """`count` mutants without replacement, the same for the same seed and source."""
    every = [change for module in MODULES for change in changes(module)]
    order = np.random.default_rng(seed).permutation(len(every))
    yield from (every[i] for i in order[:count])
