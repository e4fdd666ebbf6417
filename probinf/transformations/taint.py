"""What of a program depends on its draws: the analysis behind populations (docs/design.md, "Populations")."""

from __future__ import annotations

from typing import Any

from probinf import _jax
from probinf.language.independence import independent_iterations
from probinf.language.primitives import STATEMENTS, deterministic_p, factor_p, observe_p, sample_p
from probinf.language.sites import has_statements


def last_use(jaxpr: Any, used: list[bool]) -> dict[Any, int]:
    """The position of the last equation that reads each variable; beyond all of them for results that are used."""
    last: dict[Any, int] = {}
    for position, eqn in enumerate(jaxpr.eqns):
        for v in eqn.invars:
            if not isinstance(v, _jax.Literal):
                last[v] = position
    for v, keep in zip(jaxpr.outvars, used, strict=True):
        if keep and not isinstance(v, _jax.Literal):
            last[v] = len(jaxpr.eqns) + 1
    return last


def taint(jaxpr: Any, inputs: list[bool], shared: frozenset[str] = frozenset()) -> list[bool]:
    """Which results are random, given which inputs are; draws of `shared` sites are not."""
    marks = dict.fromkeys(jaxpr.constvars, False)
    marks.update(zip(jaxpr.invars, inputs, strict=True))

    def of(v: Any) -> bool:
        return False if isinstance(v, _jax.Literal) else marks[v]

    for eqn in jaxpr.eqns:
        operands = [of(v) for v in eqn.invars]
        if eqn.primitive is sample_p:
            results = [eqn.params["site"].name not in shared]
        elif not has_statements(eqn) or eqn.primitive is deterministic_p:
            results = [any(operands)] * len(eqn.outvars)
        elif eqn.primitive in STATEMENTS:
            results = []
        elif eqn.primitive is _jax.scan_p:
            results = _scan_results(eqn, operands, shared)
        elif eqn.primitive is _jax.cond_p:
            if operands[0]:
                results = [True] * len(eqn.outvars)
            else:
                each = [taint(b.jaxpr, operands[1:], shared) for b in eqn.params["branches"]]
                results = [any(f) for f in zip(*each, strict=True)]
        elif eqn.primitive is _jax.while_p:
            p = eqn.params
            n_cond, n_body = p["cond_nconsts"], p["body_nconsts"]
            results, _ = _while_flags(
                p["cond_jaxpr"].jaxpr,
                p["body_jaxpr"].jaxpr,
                operands[:n_cond],
                operands[n_cond : n_cond + n_body],
                operands[n_cond + n_body :],
                shared,
            )
        else:
            results = taint(_jax.callee(eqn).jaxpr, operands, shared)
        marks.update(zip(eqn.outvars, results, strict=True))
    return [of(v) for v in jaxpr.outvars]


def _scan_results(eqn: Any, operands: list[bool], shared: frozenset[str]) -> list[bool]:
    n_consts, n_carry = _jax.scan_counts(eqn.params)
    body = eqn.params["jaxpr"].jaxpr
    carry = list(operands[n_consts : n_consts + n_carry])
    while True:
        flags = taint(body, [*operands[:n_consts], *carry, *operands[n_consts + n_carry :]], shared)
        grown = [a or b for a, b in zip(carry, flags[:n_carry], strict=True)]
        if grown == carry:
            return [*carry, *flags[n_carry:]]
        carry = grown


def random_carries(body: Any, consts: list, init: list, xs: list, n_carry: int, shared: frozenset[str]) -> list[bool]:
    """Which carries of a scan are random, given which constants, initial values and rows are."""
    carry = list(init)
    rest = list(consts), list(xs)
    while True:
        flags = taint(body, [*rest[0], *carry, *rest[1]], shared)[:n_carry]
        grown = [a or b for a, b in zip(carry, flags, strict=True)]
        if grown == carry:
            return carry
        carry = grown


def _while_flags(
    test: Any, body: Any, cond_consts: list, body_consts: list, init: list, shared: frozenset[str]
) -> tuple[list[bool], bool]:
    carry = list(init)
    while True:
        divergent = taint(test, [*cond_consts, *carry], shared)[0]
        flags = taint(body, [*body_consts, *carry], shared)
        grown = [a or b or divergent for a, b in zip(carry, flags, strict=True)]
        if grown == carry:
            return carry, divergent
        carry = grown


def random_loop(
    test: Any, body: Any, cond_consts: list, body_consts: list, init: list, shared: frozenset[str]
) -> tuple[list[bool], bool]:
    """Which carries of a while loop are random, and whether particles may leave it at different times."""
    return _while_flags(test, body, cond_consts, body_consts, init, shared)


def is_markov_loop(eqn: Any, random: list[bool], *, has_random_inputs: bool) -> bool:
    """Whether what a loop carries from one iteration to the next depends on that iteration's draws alone."""
    plan = independent_iterations(eqn, lambda _: True)
    if plan is None or has_random_inputs or len(plan.rounds) > 1:
        return False
    return not any(random[i] for i in (*plan.constant, *plan.sequential))


def may_score(jaxpr: Any) -> bool:
    """Whether anything in a jaxpr, nested ones included, can change the weights: an observation or a factor."""
    for eqn in jaxpr.eqns:
        if eqn.primitive in (observe_p, factor_p):
            return True
        for inner in _jax.jaxprs_in_params(eqn.params):
            if may_score(inner.jaxpr if isinstance(inner, _jax.ClosedJaxpr) else inner):
                return True
    return False
