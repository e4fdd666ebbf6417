"""A sequential program, suspended: what comes before its loop, and one step of the loop.

The suspended form lets an algorithm stop after every observation, keep the population as data, and go on later or with
other parameters, which is what PMMH, IBIS and SMC² need.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from probinf import _jax
from probinf.errors import ModelError
from probinf.language.evaluate import evaluate
from probinf.language.handlers import Condition, Forward
from probinf.language.sites import has_statements, sites_of
from probinf.language.staging import Staged, restage
from probinf.transformations.population import Resampling
from probinf.transformations.stepping import advance_population
from probinf.transformations.taint import may_score, taint


@dataclasses.dataclass(frozen=True, eq=False)
class Suspended:
    """A program whose observations stand in one top-level loop, given its static latent values.

    Attributes:
        name: the model's name.
        static: names of the static latent sites: drawn once, used by every step.
        length: number of steps.
        prefix: the equations before the loop, as a program.
        before: the prefix staged on static values: (operands, values) to the loop's operands.
        scan: the loop's equation.
        random: which of the loop's operands are random given the static values.
    """

    name: str
    static: tuple[str, ...]
    length: int
    prefix: Any
    before: Any
    scan: Any
    random: tuple[bool, ...]

    def shared(self, operands: Any, values: dict[str, Any]) -> tuple:
        """The loop's operands (constants, initial carry, rows) that are not random; the others are placeholders."""
        handler = Forward()
        args = jax.tree.leaves((operands, values))
        return tuple(evaluate(self.before, args, handler, handler.start(jax.random.key(0)), {})[0])

    def start(self, operands: Any, values: dict[str, Any], key: jax.Array, num: int, rule: Resampling) -> Inner:
        """The population before the first step."""
        args = jax.tree.leaves((operands, values))

        def prefix(dummy: jax.Array) -> list:
            del dummy
            outs, _, _ = evaluate(self.before, args, Condition(), (), {})
            return [o for o, r in zip(outs, self.random, strict=True) if r]

        log_weights = jnp.zeros(num, jnp.result_type(float))
        rows, log_weights, collected = advance_population(prefix, jnp.zeros(num), log_weights, key, resampling=rule)
        return Inner(rows, log_weights, collected)

    def step(self, inner: Inner, shared: tuple, t: Any, key: jax.Array, rule: Resampling) -> Inner:
        """The population after step `t`."""
        p = self.scan.params
        n_consts, n_carry = _jax.scan_counts(p)
        body = p["jaxpr"]
        at = (self.length - 1 - t) if p["reverse"] else t

        def one(rows: list) -> list:
            it = iter(rows)
            operands = [next(it) if r else s for s, r in zip(shared, self.random, strict=True)]
            xs = [
                x if r else jax.lax.dynamic_index_in_dim(x, at, 0, keepdims=False)
                for x, r in zip(operands[n_consts + n_carry :], self.random[n_consts + n_carry :], strict=True)
            ]
            carry = [jnp.asarray(c) for c in operands[n_consts : n_consts + n_carry]]
            outs, _, _ = evaluate(body, [*operands[:n_consts], *carry, *xs], Condition(), (), {})
            new = [*operands[:n_consts], *(jnp.asarray(o, c.dtype) for o, c in zip(outs, carry, strict=False))]
            return [v for v, r in zip(new, self.random, strict=False) if r]

        rows, log_weights, collected = advance_population(one, inner.rows, inner.log_weights, key, resampling=rule)
        return Inner(rows, log_weights, inner.collected + collected)


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Inner:
    """An inner population: random loop operands (N, ...), log weights (N,), log evidence collected by resampling."""

    rows: Any
    log_weights: Any
    collected: Any

    @property
    def log_evidence(self) -> jax.Array:
        """Log of the evidence estimate so far, nats."""
        top = jnp.max(self.log_weights)
        safe = jnp.where(jnp.isfinite(top), top, 0)
        mean = jnp.mean(jnp.exp(self.log_weights - safe))
        return self.collected + jnp.where(top == -jnp.inf, -jnp.inf, safe + jnp.log(mean))


def suspend(program: Any) -> Suspended | None:
    """Split a program at its observed loop; None when its observations do not stand in one non-empty top `scan`."""
    return _suspend(program.staged, program.operands)


def _suspend(staged: Staged, operands: Any) -> Suspended | None:
    flat = restage(staged.name, lambda ops: staged.run(ops, Condition(), (), {})[0], operands)  # calls are inlined
    jaxpr = flat.closed.jaxpr
    loops = [i for i, e in enumerate(jaxpr.eqns) if e.primitive is _jax.scan_p and may_score(e.params["jaxpr"].jaxpr)]
    if len(loops) != 1 or any(_scores(e) for e in jaxpr.eqns[loops[0] + 1 :]):
        return None
    at = loops[0]
    scan = jaxpr.eqns[at]
    if scan.params["length"] == 0:  # no step from which the population's shapes would follow
        return None
    static = _static_sites(jaxpr, at)
    shapes = {s.name: jax.ShapeDtypeStruct(s.shape, s.dtype) for s in flat.sites if s.name in static}
    prefix = _Prefix(flat, at)

    def before(ops: Any, values: dict[str, Any]) -> list:
        outs, _, _ = prefix.run(ops, Condition(freeze=True), (), values)
        return outs

    closed = jax.make_jaxpr(before)(operands, shapes)
    random = list(taint(closed.jaxpr, [False] * len(closed.jaxpr.invars)))
    n_consts, n_carry = _jax.scan_counts(scan.params)
    if any(random[n_consts + n_carry :]):
        return None
    body = scan.params["jaxpr"].jaxpr
    while True:
        new = taint(body, random)[:n_carry]
        grown = [a or b for a, b in zip(random[n_consts : n_consts + n_carry], new, strict=True)]
        if grown == random[n_consts : n_consts + n_carry]:
            break
        random[n_consts : n_consts + n_carry] = grown
    # Carries that change without being random (a step counter) live in the population too.
    for i in range(n_carry):
        if body.outvars[i] is not body.invars[n_consts + i]:
            random[n_consts + i] = True
    return Suspended(staged.name, tuple(sorted(static)), scan.params["length"], prefix, closed, scan, tuple(random))


class _Prefix:
    """The equations before the loop, as a program that returns the loop's operands."""

    def __init__(self, flat: Staged, at: int) -> None:
        jaxpr = flat.closed.jaxpr
        scan = jaxpr.eqns[at]
        self.consts = flat.closed.consts
        self.jaxpr = jaxpr.replace(eqns=jaxpr.eqns[:at], outvars=list(scan.invars))

    def run(self, operands: Any, handler: Any, state: Any, values: Any) -> Any:
        closed = _jax.ClosedJaxpr(self.jaxpr, self.consts)
        return evaluate(closed, jax.tree.leaves(operands), handler, state, values)


def _static_sites(jaxpr: Any, at: int) -> set[str]:
    """Latent sites before the loop whose values every step may look at: they reach it unchanged from step to step.

    The sites that such a site's own distribution looks at belong to them: the density of a parameter is one of it and
    its hyperparameters together.
    """
    sources: dict[Any, frozenset] = {}
    parents: dict[str, frozenset] = {}

    def of(v: Any) -> frozenset:
        return frozenset() if isinstance(v, _jax.Literal) else sources.get(v, frozenset())

    for eqn in jaxpr.eqns[:at]:
        union = frozenset().union(*[of(v) for v in eqn.invars]) if eqn.invars else frozenset()
        if eqn.primitive.name == "sample" and eqn.params["site"].name:
            # The site itself; what it depends on acts through its value only.
            results = [frozenset({eqn.params["site"].name})]
            parents[eqn.params["site"].name] = union
        elif has_statements(eqn):
            inside = frozenset(
                s.name
                for j in _jax.jaxprs_in_params(eqn.params)
                for s in sites_of(j.jaxpr if isinstance(j, _jax.ClosedJaxpr) else j)
                if s.kind == "sample"
            )
            results = [union | inside] * len(eqn.outvars)
            parents.update(dict.fromkeys(inside, union | inside))
        else:
            results = [union] * len(eqn.outvars)
        sources.update(zip(eqn.outvars, results, strict=True))
    scan = jaxpr.eqns[at]
    n_consts, n_carry = _jax.scan_counts(scan.params)
    body = scan.params["jaxpr"].jaxpr
    kept = list(scan.invars[:n_consts])
    kept += [scan.invars[n_consts + i] for i in range(n_carry) if body.outvars[i] is body.invars[n_consts + i]]
    kept += list(scan.invars[n_consts + n_carry :])
    static: set[str] = set().union(*[of(v) for v in kept])
    while True:
        grown = static.union(*[parents[name] for name in static])
        if grown == static:
            return static
        static = grown


def _scores(eqn: Any) -> bool:
    if eqn.primitive.name in ("observe", "factor"):
        return True
    inner = _jax.jaxprs_in_params(eqn.params)
    return any(may_score(j.jaxpr if isinstance(j, _jax.ClosedJaxpr) else j) for j in inner)


def no_loop(program: Any, method: str) -> ModelError:
    """The error for a program that cannot be suspended."""
    return ModelError(
        f"Model {program.name!r}: {method} needs observations inside one lax.scan at the model's top level. Use "
        "smc.TemperedSMC() or pi.NUTS() for other models."
    )
