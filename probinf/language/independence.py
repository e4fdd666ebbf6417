"""Which iterations of a loop can run side by side once the values drawn inside are given.

A state-space model written as a `scan` is sequential only because the carried state is drawn inside. When every draw
has a value, what is carried from step to step is known beforehand, and the log density of the whole series becomes
one vectorised call instead of a loop: the difference between microseconds and milliseconds for a gradient.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from probinf import _jax
from probinf.language.primitives import sample_p
from probinf.language.sites import has_statements

_DEEPEST = 4  # lags resolved side by side; longer chains fall back to a loop


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to find the carried values of every iteration.

    Attributes:
        constant: carries that never change.
        sequential: carries that depend on their own past given the values (counters, deterministic recursions).
        rounds: the remaining ones, in order of dependence; each round needs the ones before only.
    """

    constant: tuple[int, ...]
    sequential: tuple[int, ...]
    rounds: tuple[tuple[int, ...], ...]


def independent_iterations(eqn: Any, assigned: Callable[[dict], bool]) -> Plan | None:
    """Analyse a scan equation; None when running side by side is impossible or not worth it.

    Args:
        eqn: the scan.
        assigned: whether a sample equation with these params takes its value without looking at its parameters.
    """
    p = eqn.params
    n_consts, n_carry = _jax.scan_counts(p)
    body = p["jaxpr"].jaxpr
    carries = body.invars[n_consts : n_consts + n_carry]
    start = [frozenset()] * n_consts + [frozenset({i}) for i in range(n_carry)]
    start += [frozenset()] * (len(body.invars) - n_consts - n_carry)
    depends = _depends(body, tuple(start), assigned)[:n_carry]
    constant = tuple(i for i in range(n_carry) if body.outvars[i] is carries[i])
    needs = {i: (set() if i in constant else set(depends[i]) - set(constant)) for i in range(n_carry)}
    cyclic = {i for i in needs if _reaches(needs, i)}
    sequential = set(cyclic)
    while True:
        grown = sequential | {j for i in sequential for j in needs[i]}
        if grown == sequential:
            break
        sequential = grown
    left = [i for i in range(n_carry) if i not in sequential and i not in constant]
    rounds: list[tuple[int, ...]] = []
    known = sequential | set(constant)
    while left:
        ready = tuple(i for i in left if needs[i] <= known)
        rounds.append(ready)
        known |= set(ready)
        left = [i for i in left if i not in ready]
    if len(rounds) > _DEEPEST:
        return None
    return Plan(constant, tuple(sorted(sequential)), tuple(rounds))


def _reaches(needs: dict[int, set[int]], i: int) -> bool:
    seen: set[int] = set()
    todo = list(needs[i])
    while todo:
        j = todo.pop()
        if j == i:
            return True
        if j not in seen:
            seen.add(j)
            todo.extend(needs[j])
    return False


def _depends(jaxpr: Any, inputs: tuple[frozenset, ...], assigned: Callable[[dict], bool]) -> list[frozenset]:
    """For every result, the union of the marks of the inputs it depends on, draws with values excepted."""
    marks: dict[Any, frozenset] = {v: frozenset() for v in jaxpr.constvars}
    marks.update(zip(jaxpr.invars, inputs, strict=True))

    def of(v: Any) -> frozenset:
        return frozenset() if isinstance(v, _jax.Literal) else marks[v]

    for eqn in jaxpr.eqns:
        operands = [of(v) for v in eqn.invars]
        union = functools.reduce(frozenset.union, operands, frozenset())
        if eqn.primitive is sample_p and assigned(eqn.params):
            results = [frozenset()] * len(eqn.outvars)
        elif eqn.primitive in _jax.CALLS and has_statements(eqn):
            inner = _jax.callee(eqn)
            results = _depends(inner.jaxpr, tuple(operands), assigned)
        elif eqn.primitive is _jax.cond_p and has_statements(eqn):
            branches = [_depends(b.jaxpr, tuple(operands[1:]), assigned) for b in eqn.params["branches"]]
            results = [functools.reduce(frozenset.union, ms, operands[0]) for ms in zip(*branches, strict=True)]
        else:
            results = [union] * len(eqn.outvars)
        marks.update(zip(eqn.outvars, results, strict=True))
    return [of(v) for v in jaxpr.outvars]
