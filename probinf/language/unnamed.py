"""Draws without a name: what algorithms and `marginalise` make for themselves.

The log density of an assignment has no value for them. That is harmless while nothing that is scored or drawn looks at
them (the result may), and a mistake otherwise.
"""

from __future__ import annotations

import functools
from typing import Any

from probinf import _jax
from probinf.language.primitives import STATEMENTS, deterministic_p, sample_p
from probinf.language.sites import has_statements


@functools.lru_cache(maxsize=2048)
def unnamed_reaches_scores(jaxpr: Any) -> bool:
    """Whether some density, score or draw of a program depends on a draw without a name."""
    return _walk(jaxpr, [False] * len(jaxpr.invars))[0]


def _walk(jaxpr: Any, marked: list[bool]) -> tuple[bool, list[bool]]:
    marks = dict.fromkeys(jaxpr.constvars, False)
    marks.update(zip(jaxpr.invars, marked, strict=True))

    def of(v: Any) -> bool:
        return False if isinstance(v, _jax.Literal) else marks[v]

    for eqn in jaxpr.eqns:
        operands = [of(v) for v in eqn.invars]
        if eqn.primitive is sample_p and not eqn.params["site"].name:
            results = [True] * len(eqn.outvars)
        elif eqn.primitive in STATEMENTS and eqn.primitive is not deterministic_p:
            if any(operands):
                return True, []
            results = [False] * len(eqn.outvars)
        elif has_statements(eqn) and eqn.primitive is not deterministic_p:
            reached, results = _inside(eqn, operands)
            if reached:
                return True, []
        else:
            results = [any(operands)] * len(eqn.outvars)
        marks.update(zip(eqn.outvars, results, strict=True))
    return False, [of(v) for v in jaxpr.outvars]


def _inside(eqn: Any, operands: list[bool]) -> tuple[bool, list[bool]]:
    """A loop, branch or call: conservative, any mark inside or before it marks all that it returns."""
    marked = any(operands)
    for inner in _jax.jaxprs_in_params(eqn.params):
        body = inner.jaxpr if isinstance(inner, _jax.ClosedJaxpr) else inner
        reached, outs = _walk(body, [marked] * len(body.invars))
        if not reached and any(outs) and not marked:
            # What one iteration leaves is what the next one finds.
            reached = eqn.primitive in (_jax.scan_p, _jax.while_p) and _walk(body, [True] * len(body.invars))[0]
        if reached:
            return True, []
        marked = marked or any(outs)
    return False, [marked] * len(eqn.outvars)
