"""Evaluation of a staged program in one world, with a handler that says what each statement means.

The handler's state (a key, a log density) is threaded through loops and branches; `values` are assignments read at
sites, stacked along the loop axis for sites inside a `scan`; records come back the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from probinf import _jax
from probinf.errors import DataError, ModelError
from probinf.language.hoisting import scan_hoisted
from probinf.language.independence import Plan, independent_iterations
from probinf.language.primitives import (
    STATEMENTS,
    Site,
    deterministic_p,
    distribution_of,
    factor_p,
    observe_p,
    sample_p,
)
from probinf.language.sites import has_statements, sites_of

Values = Mapping[str, Any]
Records = dict[str, Any]


class Handler:
    """What statements mean. State is a pytree whose structure never changes; the base class records nothing."""

    #: run a loop whose iterations do not depend on each other, given the values, as one vectorised call
    vectorise_loops = False

    def sample(self, site: Site, distribution: Any, value: Any | None, state: Any) -> tuple[Any, Any, Records]:
        """Give the value of a site, the new state and what to record."""
        raise NotImplementedError

    def observe(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Records]:
        """Account for an observed value."""
        raise NotImplementedError

    def factor(self, site: Site, log_factor: Any, state: Any) -> tuple[Any, Records]:
        """Account for a log weight."""
        raise NotImplementedError

    def deterministic(self, site: Site, value: Any, state: Any) -> tuple[Any, Records]:
        """See a named value."""
        return state, {}

    def loop(self, state: Any, length: int) -> tuple[Any, Any]:
        """Split the state into what the loop carries and what each iteration gets of its own, stacked."""
        return state, ()

    def iteration(self, carried: Any, own: Any) -> Any:
        """The state inside one iteration."""
        return carried

    def after_iteration(self, state: Any) -> Any:
        """What the loop carries on."""
        return state

    def after_loop(self, before: Any, carried: Any) -> Any:
        """The state after the loop."""
        return carried

    def renew(self, state: Any) -> Any:
        """The state after one iteration of a while loop."""
        return state

    # Handlers with `vectorise_loops` also answer these three.

    def assigned(self, params: dict) -> bool:
        """Whether a sample equation takes its value without looking at its distribution's parameters."""
        raise NotImplementedError

    def silent(self) -> Handler:
        """A handler that gives the same values and accounts for nothing."""
        raise NotImplementedError

    def fresh(self, state: Any) -> Any:
        """The state in which each of several iterations that run side by side starts."""
        raise NotImplementedError

    def join(self, state: Any, states: Any) -> Any:
        """The state after iterations that ran side by side: log densities add up."""
        raise NotImplementedError


def evaluate(
    closed: _jax.ClosedJaxpr, args: Sequence[Any], handler: Handler, state: Any, values: Values
) -> tuple[list[Any], Any, Records]:
    """Run a staged program.

    Args:
        closed: the program.
        args: its operands.
        handler: what statements mean.
        state: the handler's state at the start.
        values: assignments by site name; a site inside a `scan` takes stacked values.

    Returns:
        Results, the handler's final state, and the records by site name (stacked like `values`).
    """
    return Evaluator(handler).frame(closed.jaxpr, closed.consts, args, state, values)


class Evaluator:
    """Walks the equations of a program; subclasses may give loops and branches another form."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler

    def frame(self, jaxpr: Any, consts: Any, args: Any, state: Any, values: Values) -> tuple[list, Any, Records]:
        env: dict[Any, Any] = {}

        def read(v: Any) -> Any:
            return _jax.literal_value(v) if isinstance(v, _jax.Literal) else env[v]

        env.update(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))
        records: Records = {}
        for eqn in jaxpr.eqns:
            operands = [read(v) for v in eqn.invars]
            results, state, new = self.equation(eqn, operands, state, values)
            records.update(new)
            env.update(zip(eqn.outvars, results, strict=True))
        return [read(v) for v in jaxpr.outvars], state, records

    def equation(self, eqn: Any, operands: list, state: Any, values: Values) -> tuple[list, Any, Records]:
        primitive = eqn.primitive
        if primitive in STATEMENTS:
            return self.statement(eqn, operands, state, values)
        if not has_statements(eqn):
            return _jax.bind_equation(eqn, operands), state, {}
        if primitive is _jax.scan_p:
            return self.scan(eqn, operands, state, values)
        if primitive is _jax.cond_p:
            return self.cond(eqn, operands, state, values)
        if primitive is _jax.while_p:
            return self.while_loop(eqn, operands, state, values)
        if primitive in _jax.CALLS:
            inner = _jax.callee(eqn)
            return self.frame(inner.jaxpr, inner.consts, operands, state, values)
        raise unsupported(eqn)

    def statement(self, eqn: Any, operands: list, state: Any, values: Values) -> tuple[list, Any, Records]:
        site, handler = eqn.params["site"], self.handler
        if eqn.primitive is sample_p:
            d = distribution_of(eqn.params, operands)
            value, state, records = handler.sample(site, d, values.get(site.name), state)
            return [value], state, records
        if eqn.primitive is observe_p:
            d = distribution_of(eqn.params, operands)
            state, records = handler.observe(site, d, operands[eqn.params["count"]], state)
            return [], state, records
        if eqn.primitive is factor_p:
            state, records = handler.factor(site, operands[0], state)
            return [], state, records
        assert eqn.primitive is deterministic_p
        state, records = handler.deterministic(site, operands[0], state)
        return [operands[0]], state, records

    def scan(self, eqn: Any, operands: list, state: Any, values: Values) -> tuple[list, Any, Records]:
        p, handler = eqn.params, self.handler
        (n_consts, n_carry), length, body = _jax.scan_counts(p), p["length"], p["jaxpr"]
        consts, init, xs = operands[:n_consts], operands[n_consts : n_consts + n_carry], operands[n_consts + n_carry :]
        inside = {s.name for s in sites_of(body.jaxpr)}
        read = {name: value for name, value in values.items() if name in inside}
        for name, value in read.items():
            shape = jnp.shape(jax.tree.leaves(value)[0])
            if shape[:1] != (length,):
                label = next(s.label for s in sites_of(body.jaxpr) if s.name == name)
                raise DataError(
                    f"Site {label} stands inside a loop of {length} iterations and takes values stacked along it; "
                    f"found a value of shape {shape}."
                )
        carried, own = handler.loop(state, length)

        def run(carry: list, x: list, st: Any, now: Values) -> tuple[list, list, Any, Records]:
            outs, st, records = self.frame(body.jaxpr, body.consts, [*consts, *carry, *x], st, now)
            return outs[:n_carry], outs[n_carry:], st, records

        latent = {s.name for s in sites_of(body.jaxpr) if s.kind == "sample"}
        if handler.vectorise_loops and latent <= set(read) and length > 1:
            plan = independent_iterations(eqn, handler.assigned)
            if plan is not None:
                carries, final = self.carries(plan, eqn, consts, init, xs, read)
                fresh = handler.fresh(state)
                side_by_side = jax.vmap(lambda c, x, now: run(c, x, fresh, now), axis_size=length)
                _, ys, states, records = side_by_side(carries, list(xs), read)
                return [*final, *ys], handler.join(state, states), records

        def step(carry: Any, x: Any) -> tuple[Any, Any]:
            (values_in, st_carried), (x_in, st_own, now) = carry, x
            out, ys, st, records = run(values_in, x_in, handler.iteration(st_carried, st_own), now)
            return (_like(out, values_in), handler.after_iteration(st)), (ys, records)

        (out, carried), (ys, records) = jax.lax.scan(
            step, (list(init), carried), (list(xs), own, read), length=length, reverse=p["reverse"], unroll=p["unroll"]
        )
        return [*out, *ys], handler.after_loop(state, carried), records

    def carries(self, plan: Plan, eqn: Any, consts: list, init: list, xs: list, read: Values) -> tuple[list, list]:
        """What each iteration finds in its carry (stacked) and what the last one leaves, given all drawn values."""
        p, body = eqn.params, eqn.params["jaxpr"]
        length, reverse, (_, n_carry) = p["length"], p["reverse"], _jax.scan_counts(p)
        silent = Evaluator(self.handler.silent())

        def carry_out(carry: list, x: list, now: Values) -> list:
            return silent.frame(body.jaxpr, body.consts, [*consts, *carry, *x], (), now)[0][:n_carry]

        stacked = [jnp.broadcast_to(jnp.asarray(c), (length, *jnp.shape(c))) for c in init]
        final = list(init)
        if plan.sequential:

            def step(moving: list, inputs: Any) -> list:
                x, now = inputs
                carry = list(init)
                for i, value in zip(plan.sequential, moving, strict=True):
                    carry[i] = value
                out = carry_out(carry, x, now)
                return _like([out[i] for i in plan.sequential], moving)

            moving = [jnp.asarray(init[i]) for i in plan.sequential]
            last, path = scan_hoisted(step, moving, (list(xs), dict(read)), length, reverse=reverse)
            for i, end, values in zip(plan.sequential, last, path, strict=True):
                stacked[i], final[i] = values, end
        for ready in plan.rounds:
            outs = jax.vmap(carry_out)(list(stacked), list(xs), dict(read))
            for i in ready:
                first = jnp.asarray(init[i])[None]
                if reverse:
                    stacked[i], final[i] = jnp.concatenate([outs[i][1:], first]), outs[i][0]
                else:
                    stacked[i], final[i] = jnp.concatenate([first, outs[i][:-1]]), outs[i][-1]
        return stacked, final

    def cond(self, eqn: Any, operands: list, state: Any, values: Values) -> tuple[list, Any, Records]:
        index, *args = operands
        branches = eqn.params["branches"]
        bodies = [lambda st, now, *a, b=b: self.frame(b.jaxpr, b.consts, a, st, now) for b in branches]
        shapes = [jax.eval_shape(body, state, dict(values), *args)[2] for body in bodies]
        every = {name: shape for records in shapes for name, shape in records.items()}

        def padded(body: Any) -> Any:
            def branch(st: Any, now: Values, *a: Any) -> tuple[list, Any, Records]:
                outs, st, records = body(st, now, *a)
                return outs, st, {n: records.get(n, _absent(shape)) for n, shape in every.items()}

            return branch

        return jax.lax.switch(index, [padded(b) for b in bodies], state, dict(values), *args)

    def while_loop(self, eqn: Any, operands: list, state: Any, values: Values) -> tuple[list, Any, Records]:
        p = eqn.params
        n_cond, n_body = p["cond_nconsts"], p["body_nconsts"]
        cond_consts, body_consts = operands[:n_cond], operands[n_cond : n_cond + n_body]
        test, body = p["cond_jaxpr"], p["body_jaxpr"]
        given = sorted(s.name for c in (test, body) for s in sites_of(c.jaxpr) if s.name in values)
        if given:
            raise ModelError(
                f"Site {given[0]!r} stands inside a while loop, whose number of iterations is not known, so it cannot "
                "take a value. Use lax.scan or lax.fori_loop with fixed bounds for this site."
            )

        def proceed(carry: Any) -> Any:
            inner, st = carry
            return self.frame(test.jaxpr, test.consts, [*cond_consts, *inner], st, {})[0][0]

        def step(carry: Any) -> Any:
            inner, st = carry
            outs, st, _ = self.frame(body.jaxpr, body.consts, [*body_consts, *inner], st, {})
            return _like(outs, inner), self.handler.renew(st)

        init = operands[n_cond + n_body :]
        if not any(map(has_statements, test.jaxpr.eqns)) or not jax.tree.leaves(state):
            out, state = jax.lax.while_loop(proceed, step, (init, state))
            return list(out), state, {}
        # The condition holds statements and the state accounts for them: evaluate it in the loop, and carry its result.

        def decide(inner: list, st: Any) -> tuple[Any, Any]:
            outs, st, _ = self.frame(test.jaxpr, test.consts, [*cond_consts, *inner], st, {})
            return outs[0], st

        def step_and_decide(carry: Any) -> Any:
            inner, st, _ = carry
            outs, st, _ = self.frame(body.jaxpr, body.consts, [*body_consts, *inner], st, {})
            again, st = decide(_like(outs, inner), st)
            return _like(outs, inner), self.handler.renew(st), again

        first, state = decide(init, state)
        out, state, _ = jax.lax.while_loop(lambda carry: carry[2], step_and_decide, (init, state, first))
        return list(out), state, {}


def _like(outs: Sequence[Any], ins: Sequence[Any]) -> list:
    return [jnp.asarray(o, jnp.asarray(i).dtype) for o, i in zip(outs, ins, strict=True)]


def _absent(shape: jax.ShapeDtypeStruct) -> jax.Array:
    fill = jnp.nan if jnp.issubdtype(shape.dtype, jnp.floating) else 0
    return jnp.full(shape.shape, fill, shape.dtype)


def unsupported(eqn: Any) -> ModelError:
    """The error for random choices inside a primitive that no interpreter enters."""
    inside = sorted({s.label for j in _jax.jaxprs_in_params(eqn.params) for s in sites_of(_open(j))})
    return ModelError(
        f"Site {', '.join(inside) or '?'} stands inside the JAX primitive {eqn.primitive.name!r}, which cannot hold "
        "random choices. Legal around sites: jit, scan, fori_loop, while_loop, cond, switch, checkpoint, pi.plate, "
        "pi.vmap."
    )


def refuse_unsupported(jaxpr: Any) -> None:
    """Refuse sites inside primitives that no interpreter enters.

    Raises:
        ModelError: naming the sites and the primitive.
    """
    for eqn in jaxpr.eqns:
        if eqn.primitive in STATEMENTS or not has_statements(eqn):
            continue
        if eqn.primitive not in (_jax.scan_p, _jax.cond_p, _jax.while_p, *_jax.CALLS):
            raise unsupported(eqn)
        for inner in _jax.jaxprs_in_params(eqn.params):
            refuse_unsupported(_open(inner))


def _open(jaxpr: Any) -> Any:
    return jaxpr.jaxpr if isinstance(jaxpr, _jax.ClosedJaxpr) else jaxpr
