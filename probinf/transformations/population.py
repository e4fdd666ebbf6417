"""A program run by a population of particles, as a program again.

The interpreter walks a staged program with N particles side by side. Draws become one draw of shape (N, ...), scores
are added to the log weights, and after every score the population may resample; ancestors are draws as well, so the
result is a program that can be run with a key, transformed once more, or enumerated exactly.

Values that do not depend on any draw are *shared*: computed once, without a particle axis. After resampling every
random value that is still needed is re-indexed by the ancestors (the whole live environment, not only the state), and
stacked loop outputs are re-aligned with the final particles by one backward pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from probinf import _jax
from probinf.errors import ModelError
from probinf.language.distributions import lanes, log_density
from probinf.language.evaluate import unsupported
from probinf.language.primitives import (
    STATEMENTS,
    Site,
    bind_factor,
    bind_sample,
    deterministic_p,
    distribution_of,
    factor_p,
    observe_p,
    sample_p,
)
from probinf.language.sites import has_statements, sites_of
from probinf.transformations.ancestor_sampling import exchange, log_future_from, log_future_now
from probinf.transformations.conditional import Conditional
from probinf.transformations.equations import quicker
from probinf.transformations.resampling import effective_sample_size, scheme
from probinf.transformations.taint import is_markov_loop, last_use, may_score, random_carries, random_loop, taint


@dataclasses.dataclass
class Many:
    """A random value: one row per particle."""

    array: Any


def _flags(values: list) -> list[bool]:
    return [isinstance(x, Many) for x in values]


def _array(value: Any) -> Any:
    return value.array if isinstance(value, Many) else value


@dataclasses.dataclass(frozen=True)
class Resampling:
    """When and how a population resamples.

    Attributes:
        scheme: name of the scheme.
        threshold: resample when the effective sample size is at most this fraction of the particles; 1 always, 0 never.
        push_evidence: at every resampling normalise the weights and score their mean in the outer program.
        priority: log weights (N,) to log priorities (N,) by which ancestors are chosen instead; a particle then keeps
            its weight over its priority. None for the weights themselves.
        shared: names of sites drawn once for all particles.
    """

    scheme: str = "systematic"
    threshold: float = 0.5
    push_evidence: bool = False
    priority: Callable[[jax.Array], jax.Array] | None = None
    shared: frozenset[str] = frozenset()


@dataclasses.dataclass
class State:
    """The population's weights at one moment of the run.

    Attributes:
        log_weights: (N,), relative to `log_evidence`; their average is not normalised.
        log_evidence: scalar, evidence collected at earlier resamplings, nats.
    """

    log_weights: Any
    log_evidence: Any


jax.tree_util.register_dataclass(State, data_fields=["log_weights", "log_evidence"], meta_fields=[])


def log_mean_exp(log_weights: jax.Array) -> jax.Array:
    """Log of the mean of the weights; -inf when all are zero."""
    top = jnp.max(log_weights)
    safe = jnp.where(jnp.isfinite(top), top, 0)
    return jnp.where(top == -jnp.inf, -jnp.inf, safe + jnp.log(jnp.mean(jnp.exp(log_weights - safe))))


def run_population(
    closed: _jax.ClosedJaxpr,
    operands: Sequence[Any],
    num: int,
    resampling: Resampling,
    reference: Reference | None = None,
) -> tuple[list[Any], State, dict[str, Any]]:
    """Emit the population version of a staged program.

    Args:
        closed: the program.
        operands: its operands, shared by all particles.
        num: number of particles.
        resampling: when and how to resample.
        reference: for a conditional population, the path that particle 0 takes and keeps.

    Returns:
        Results, each with a leading particle axis; the final weights; and per suspension point the effective sample
        size and the log evidence so far (stacked along loops), by site name.
    """
    walker = _Walker(num, resampling, reference=reference)
    dtype = jnp.result_type(float)
    state = State(jnp.zeros(num, dtype), jnp.zeros((), dtype))
    used = [True] * len(closed.jaxpr.outvars)
    outs, state, _, info = walker.frame(
        closed.jaxpr, closed.consts, list(operands), state, used, align=False, outermost=True
    )
    return [walker.spread(o).array for o in outs], state, info


def population_frame(
    closed: _jax.ClosedJaxpr,
    operands: list[Any],
    state: State,
    num: int,
    resampling: Resampling,
    *,
    resample_first: bool = False,
) -> tuple[list[Any], State]:
    """Emit one step of an existing population: operands marked `Many` are random, scores add to the weights given.

    With `resample_first` the rule is applied to the weights as they are, and not again after scores.
    """
    walker = _Walker(num, resampling)
    if resample_first:
        state, ancestors, _ = walker.suspension(state)
        if ancestors is not None:
            operands = [Many(_take(x.array, ancestors)) if isinstance(x, Many) else x for x in operands]
        walker = _Walker(num, resampling, suspend=False)
    used = [True] * len(closed.jaxpr.outvars)
    outs, state, _, _ = walker.frame(closed.jaxpr, closed.consts, operands, state, used, align=False)
    return [walker.spread(o).array for o in outs], state


@dataclasses.dataclass(frozen=True)
class Reference:
    """The path that particle 0 of a conditional population takes.

    Attributes:
        values: by site, stacked along loops; of every site, shared ones included.
        ancestor_sampling: before each iteration of an outermost loop draw again which particle's past the reference
            continues (Lindsten, Jordan & Schön 2014).
    """

    values: Mapping[str, Any]
    ancestor_sampling: bool = False


class _Walker:
    def __init__(
        self,
        num: int,
        resampling: Resampling,
        *,
        suspend: bool = True,
        named: bool = True,
        reference: Reference | None = None,
    ) -> None:
        self.num, self.resampling, self.suspend, self.named = num, resampling, suspend, named
        self.reference = reference
        self.is_tail = False  # whether the equation being run is the outermost program's last one with statements

    def quiet(self, *, named: bool = True) -> _Walker:
        """The same walker without suspensions."""
        return _Walker(self.num, self.resampling, suspend=False, named=named, reference=self.reference)

    # -- weights ----------------------------------------------------------------------------------------------------

    def spread(self, value: Any) -> Many:
        """A shared value, given to every particle."""
        if isinstance(value, Many):
            return value
        value = _jax.as_strong(value)
        return Many(jnp.broadcast_to(value, (self.num, *value.shape)))

    def suspension(self, state: State) -> tuple[State, Any | None, dict[str, Any]]:
        """After a score: resample if the rule says so. Ancestors are None when the rule never resamples."""
        rule = self.resampling
        ess = effective_sample_size(state.log_weights)
        if not self.suspend or rule.threshold <= 0:
            return state, None, {"ess": ess, "log_evidence": state.log_evidence + log_mean_exp(state.log_weights)}
        increment = log_mean_exp(state.log_weights)
        alive = increment > -jnp.inf
        info = {"ess": ess, "log_evidence": state.log_evidence + increment}
        law = scheme(rule.scheme)
        identity = jnp.arange(self.num, dtype=jnp.int32)
        priorities = None if rule.priority is None else rule.priority(state.log_weights)

        def resample(weights: Any) -> Any:
            chosen = law(weights, self.num)
            if self.reference is not None:
                chosen = Conditional(weights, self.num, rule.scheme)
            return bind_sample(Site(""), chosen)[0]

        due = alive if rule.threshold >= 1 else alive & (ess <= rule.threshold * self.num)
        by = state.log_weights if priorities is None else priorities
        if rule.threshold >= 1:
            ancestors = jnp.where(alive, resample(by), identity)
        else:
            ancestors = jax.lax.cond(due, resample, lambda _: identity, by)
        even = jnp.zeros_like(state.log_weights)
        if priorities is not None:
            # E[sum_i w'_i 1{a_i = j}] = w_j, then relative to the evidence that is collected.
            even = _take(state.log_weights - priorities, ancestors) + log_mean_exp(priorities) - increment
        log_weights = jnp.where(due, even, state.log_weights)
        collected = jnp.where(due, increment, jnp.zeros_like(increment))
        if rule.push_evidence:
            bind_factor(Site(""), collected)
            return State(log_weights, state.log_evidence), ancestors, info
        return State(log_weights, state.log_evidence + collected), ancestors, info

    # -- frames -----------------------------------------------------------------------------------------------------

    def frame(
        self,
        jaxpr: Any,
        consts: Any,
        args: list,
        state: State,
        used: list[bool],
        *,
        align: bool,
        outermost: bool = False,
    ) -> tuple[list, State, Any | None, dict]:
        """Run one jaxpr. Returns results, weights, the composition of all ancestors (None without), information.

        `align`: whether the caller holds random values of its own, so that the composition is needed.
        """
        env: dict[Any, Any] = {}
        last = last_use(jaxpr, used)
        env.update(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))
        composed: Any | None = None
        info: dict[str, Any] = {}

        def read(v: Any) -> Any:
            return _jax.literal_value(v) if isinstance(v, _jax.Literal) else env[v]

        for position, eqn in enumerate(jaxpr.eqns):
            operands = [read(v) for v in eqn.invars]
            needed = [last.get(v, -1) > position for v in eqn.outvars]
            for v in {v for v in eqn.invars if not isinstance(v, _jax.Literal)}:
                if last.get(v, -1) <= position:
                    env.pop(v, None)
            holds_random = align or any(isinstance(x, Many) for x in env.values())
            self.is_tail = outermost and not any(map(has_statements, jaxpr.eqns[position + 1 :]))
            results, state, ancestors, new = self.equation(eqn, operands, state, needed, align=holds_random)
            info.update(new)
            if ancestors is not None:
                for v, value in env.items():
                    if isinstance(value, Many):
                        env[v] = Many(_take(value.array, ancestors))
                composed = ancestors if composed is None else _take(composed, ancestors)
            env.update((v, r) for v, r, keep in zip(eqn.outvars, results, needed, strict=True) if keep)
        outs = [read(v) if keep else None for v, keep in zip(jaxpr.outvars, used, strict=True)]
        return outs, state, composed, info

    def equation(
        self, eqn: Any, operands: list, state: State, needed: list[bool], *, align: bool
    ) -> tuple[list, State, Any | None, dict]:
        primitive = eqn.primitive
        if primitive in STATEMENTS:
            return self.statement(eqn, operands, state)
        if not has_statements(eqn):
            return self.deterministic(eqn, operands), state, None, {}
        if primitive is _jax.scan_p:
            return self.scan(eqn, operands, state, needed, align=align)
        if primitive is _jax.cond_p:
            if isinstance(operands[0], Many):
                return self.divergent_cond(eqn, operands, state)
            return self.aligned_cond(eqn, operands, state)
        if primitive is _jax.while_p:
            return self.while_loop(eqn, operands, state)
        if primitive in _jax.CALLS:
            inner = _jax.callee(eqn)
            return self.frame(inner.jaxpr, inner.consts, operands, state, needed, align=align)
        raise unsupported(eqn)

    def deterministic(self, eqn: Any, operands: list) -> list:
        if not any(isinstance(x, Many) for x in operands):
            return _jax.bind_equation(eqn, operands)
        result = quicker(eqn, [*map(_array, operands)], _flags(operands))
        if result is not None:
            return [Many(result)]
        axes = [0 if isinstance(x, Many) else None for x in operands]
        results = jax.vmap(lambda *xs: _jax.bind_equation(eqn, xs), in_axes=axes, axis_size=self.num)(
            *map(_array, operands)
        )
        return [Many(r) for r in results]

    def statement(self, eqn: Any, operands: list, state: State) -> tuple[list, State, Any | None, dict]:
        p = eqn.params
        site = p["site"]
        if eqn.primitive is deterministic_p:
            return [operands[0]], state, None, {}
        if eqn.primitive is sample_p:
            return [self.draw(p, operands[: p["count"]])], state, None, {}
        if eqn.primitive is observe_p:

            def score(*xs: Any) -> Any:
                law = jax.tree.unflatten(p["structure"], list(xs[: p["count"]]))
                return log_density(law, xs[p["count"]])

        else:
            assert eqn.primitive is factor_p

            def score(*xs: Any) -> Any:
                return jnp.sum(xs[0])

        log_factor = self.each(score, operands).astype(state.log_weights.dtype)
        # A dead particle stays dead: parameters that it meets later may be impossible and their score NaN.
        dead = state.log_weights == -jnp.inf
        log_weights = jnp.where(dead, state.log_weights, state.log_weights + log_factor)
        state = State(log_weights, state.log_evidence)
        state, ancestors, info = self.suspension(state)
        return [], state, ancestors, ({site.name: info} if site.name and self.suspend else {})

    def draw(self, p: dict, leaves: list) -> Any:
        """The value of a site for every particle; the reference keeps its own."""
        site = p["site"]
        known = None if self.reference is None else self.reference.values.get(site.name)
        if self.reference is not None and known is None:
            raise ModelError(f"Site {site.label or 'without a name'}: the reference path has no value for it.")
        if site.name in self.resampling.shared:
            if any(isinstance(x, Many) for x in leaves):
                raise ModelError(
                    f"Site {site.label} cannot be shared by all particles: its distribution depends on a site that is "
                    "not shared. Name that site as well."
                )
            return known if known is not None else bind_sample(site, distribution_of(p, leaves))[0]
        mapped = [isinstance(x, Many) for x in leaves]
        if known is None:
            law = lanes([*map(_array, leaves)], p["structure"], mapped, self.num)
            return Many(bind_sample(_widened(site) if self.named else Site(""), law)[0])
        own = jnp.asarray(known, p["dtype"])[None]
        if self.num == 1:
            return Many(own)
        others = [x.array[1:] if isinstance(x, Many) else x for x in leaves]
        law = lanes(others, p["structure"], mapped, self.num - 1)
        return Many(jnp.concatenate([own, bind_sample(Site(""), law)[0]]))

    def each(self, function: Callable, operands: list) -> jax.Array:
        """A function of one particle's values, for all of them: (N, ...)."""
        axes = [0 if isinstance(x, Many) else None for x in operands]
        if not any(a == 0 for a in axes):
            return self.spread(function(*operands)).array
        return jax.vmap(function, in_axes=axes)(*map(_array, operands))

    # -- loops ------------------------------------------------------------------------------------------------------

    def scan(
        self, eqn: Any, operands: list, state: State, needed: list[bool], *, align: bool
    ) -> tuple[list, State, Any | None, dict]:
        p = eqn.params
        (n_consts, n_carry), length, body = _jax.scan_counts(p), p["length"], p["jaxpr"]
        consts, init, xs = operands[:n_consts], operands[n_consts : n_consts + n_carry], operands[n_consts + n_carry :]
        random = random_carries(body.jaxpr, _flags(consts), _flags(init), _flags(xs), n_carry, self.resampling.shared)
        init = [self.spread(c) if r else c for c, r in zip(init, random, strict=True)]
        shared_consts = [None if isinstance(c, Many) else c for c in consts]
        moving_consts = [c for c in consts if isinstance(c, Many)]
        shared_xs = [x for x in xs if not isinstance(x, Many)]
        random_xs = [jnp.moveaxis(x.array, 1, 0) for x in xs if isinstance(x, Many)]
        sampling = self.reference is not None and self.reference.ancestor_sampling and self.is_tail
        resamples = sampling or (self.suspend and self.resampling.threshold > 0 and may_score(body.jaxpr))
        inside = {s.name for s in sites_of(body.jaxpr)} if self.reference is not None else set()
        path = {} if self.reference is None else {n: v for n, v in self.reference.values.items() if n in inside}
        is_markov = sampling and is_markov_loop(eqn, random, has_random_inputs=bool(moving_consts or random_xs))
        ys_needed = needed[n_carry:]
        out_flags: list[bool] = []
        # Per-step ancestors re-align stacked outputs; their composition is carried only where something needs it.
        compose = resamples and (align or bool(random_xs))

        def run(carry: Any, x: Any) -> Any:
            st, composed, moving, values = carry
            t, now, x = x[2], x[3], x[:2]

            def operands_now(composed: Any, moving: list, values: list) -> list:
                here, there, rows = iter(x[0]), iter(x[1]), iter(moving)
                c = [Many(next(rows)) if s is None else s for s in shared_consts]
                v = [Many(a) if r else a for a, r in zip(values, random, strict=True)]
                step_xs = []
                for original in xs:
                    if isinstance(original, Many):
                        row = next(there)
                        step_xs.append(Many(_take(row, composed) if compose else row))
                    else:
                        step_xs.append(next(here))
                return [*c, *v, *step_xs]

            swapped = None
            if sampling:
                inputs = operands_now(composed, moving, values)
                rows = [Many(_take(r.array, composed)) if isinstance(r, Many) and compose else r for r in xs]
                assert self.reference is not None
                rest = {n: v for n, v in self.reference.values.items() if n not in path}
                future = log_future_now(eqn, {**rest, **now}) if is_markov else log_future_from(eqn, t, path, rest)
                seen = inputs if is_markov else [*inputs[: n_consts + n_carry], *rows]
                swapped = exchange(st.log_weights + self.each(future, seen))
                st = State(st.log_weights[swapped], st.log_evidence)
                moving = [_take(m, swapped) for m in moving]
                values = [_take(a, swapped) if r else a for a, r in zip(values, random, strict=True)]
                composed = _take(composed, swapped) if compose else composed
            walker = self if self.reference is None else self.along(now)
            used = [True] * n_carry + ys_needed
            outs, st, ancestors, info = walker.frame(
                body.jaxpr,
                body.consts,
                operands_now(composed, moving, values),
                st,
                used,
                align=bool(moving) or compose or any(ys_needed),
            )
            if ancestors is not None:
                moving = [_take(m, ancestors) for m in moving]
                if compose:
                    composed = _take(composed, ancestors)
            if swapped is not None:
                ancestors = swapped if ancestors is None else _take(swapped, ancestors)
            new = [
                self.spread(o).array.astype(a.dtype) if r else jnp.asarray(o, jnp.asarray(a).dtype)
                for o, a, r in zip(outs[:n_carry], values, random, strict=True)
            ]
            ys = outs[n_carry:]
            out_flags[:] = [isinstance(y, Many) for y in ys]
            kept = [_array(y) for y in ys if y is not None]
            step_ancestors = ancestors if resamples and any(isinstance(y, Many) for y in ys) else None
            return (st, composed, moving, new), (kept, step_ancestors, info)

        start = (
            state,
            jnp.arange(self.num, dtype=jnp.int32) if compose else None,
            [m.array for m in moving_consts],
            [_array(c) for c in init],
        )
        rows_of = (shared_xs, random_xs, jnp.arange(length, dtype=jnp.int32) if sampling else None, path)
        (state, composed, _, final), (kept, ancestors, info) = jax.lax.scan(
            run, start, rows_of, length=length, reverse=p["reverse"], unroll=p["unroll"]
        )
        index = _lineage(ancestors, self.num, reverse=p["reverse"]) if ancestors is not None else None
        stacked, rows = [], iter(kept)
        for flag, keep in zip(out_flags, ys_needed, strict=True):
            if not keep:
                stacked.append(None)
                continue
            y = next(rows)
            if not flag:
                stacked.append(y)
            else:
                if index is not None:
                    y = jax.vmap(_take)(y, index)
                stacked.append(Many(jnp.moveaxis(y, 0, 1)))
        carried = [Many(a) if r else a for a, r in zip(final, random, strict=True)]
        if resamples and not compose and align:
            raise AssertionError("the composition of ancestors was needed and not carried")
        return [*carried, *stacked], state, composed if compose else None, info

    # -- conditional populations ------------------------------------------------------------------------------------

    def along(self, now: Mapping[str, Any]) -> _Walker:
        """The walker inside one iteration, where the reference's stacked values are those of the iteration."""
        assert self.reference is not None
        reference = Reference({**self.reference.values, **now})
        return _Walker(self.num, self.resampling, suspend=self.suspend, named=self.named, reference=reference)

    def while_loop(self, eqn: Any, operands: list, state: State) -> tuple[list, State, Any | None, dict]:
        p = eqn.params
        n_cond, n_body = p["cond_nconsts"], p["body_nconsts"]
        cond_consts, body_consts = operands[:n_cond], operands[n_cond : n_cond + n_body]
        init = operands[n_cond + n_body :]
        test, body = p["cond_jaxpr"], p["body_jaxpr"]
        random, divergent = random_loop(
            test.jaxpr, body.jaxpr, _flags(cond_consts), _flags(body_consts), _flags(init), self.resampling.shared
        )
        init = [self.spread(c) if r else c for c, r in zip(init, random, strict=True)]
        shared = [None if isinstance(c, Many) else c for c in (*cond_consts, *body_consts)]
        moving = [c.array for c in (*cond_consts, *body_consts) if isinstance(c, Many)]
        resamples = self.suspend and self.resampling.threshold > 0 and (may_score(body.jaxpr) or may_score(test.jaxpr))

        def unpack(rows: list, values: list) -> tuple[list, list]:
            it = iter(rows)
            return (
                [Many(next(it)) if s is None else s for s in shared],
                [Many(a) if r else a for a, r in zip(values, random, strict=True)],
            )

        quiet = self.quiet()
        # The condition is evaluated before the loop and after every iteration, so that its scores are kept; its sites
        # are then emitted twice and carry their names once.
        before = self.quiet(named=False)

        def holds(rows: list, values: list, st: State, walker: _Walker = quiet) -> tuple[Any, State]:
            c, v = unpack(rows, values)
            outs, st, _, _ = walker.frame(test.jaxpr, test.consts, [*c[:n_cond], *v], st, [True], align=False)
            return outs[0], st

        def repack(outs: list, values: list) -> list:
            return [
                self.spread(o).array.astype(a.dtype) if r else jnp.asarray(o, jnp.asarray(a).dtype)
                for o, a, r in zip(outs, values, random, strict=True)
            ]

        identity = jnp.arange(self.num, dtype=jnp.int32)
        values = [_array(c) for c in init]
        first, state = holds(moving, values, state, before)
        if not divergent:

            def step(carry: Any) -> Any:
                st, composed, rows, now, _ = carry
                c, v = unpack(rows, now)
                outs, st, ancestors, _ = self.frame(
                    body.jaxpr, body.consts, [*c[n_cond:], *v], st, [True] * len(now), align=True
                )
                if ancestors is not None:
                    rows = [_take(r, ancestors) for r in rows]
                    composed = _take(composed, ancestors)
                now = repack(outs, now)
                again, st = holds(rows, now, st)
                return st, composed, rows, now, again

            state, composed, _, final, _ = jax.lax.while_loop(
                lambda carry: carry[4], step, (state, identity, moving, values, jnp.asarray(first))
            )
        else:
            # Particles that have finished keep value and weight; the others go on; one resampling per iteration.
            active = self.spread(first).array

            def go_on(carry: Any) -> Any:
                return jnp.any(carry[4])

            def masked(carry: Any) -> Any:
                st, composed, rows, now, active = carry
                c, v = unpack(rows, now)
                outs, moved, _, _ = quiet.frame(
                    body.jaxpr, body.consts, [*c[n_cond:], *v], st, [True] * len(now), align=False
                )
                now = [_where(active, o, a) for o, a in zip(repack(outs, now), now, strict=True)]
                again, moved = holds(rows, now, moved)
                st = State(jnp.where(active, moved.log_weights, st.log_weights), st.log_evidence)
                active = active & self.spread(again).array
                st, ancestors, _ = self.suspension(st) if resamples else (st, None, {})
                if ancestors is not None:
                    rows, now = [_take(r, ancestors) for r in rows], [_take(a, ancestors) for a in now]
                    composed, active = _take(composed, ancestors), active[ancestors]
                return st, composed, rows, now, active

            state, composed, _, final, _ = jax.lax.while_loop(go_on, masked, (state, identity, moving, values, active))
        outs = [Many(a) if r else a for a, r in zip(final, random, strict=True)]
        return outs, state, composed if resamples else None, {}

    # -- branches ---------------------------------------------------------------------------------------------------

    def aligned_cond(self, eqn: Any, operands: list, state: State) -> tuple[list, State, Any | None, dict]:
        index, *args = operands
        branches = eqn.params["branches"]
        flags = [taint(b.jaxpr, [isinstance(a, Many) for a in args], self.resampling.shared) for b in branches]
        random = [any(f) for f in zip(*flags, strict=True)]
        resamples = self.suspend and self.resampling.threshold > 0 and any(may_score(b.jaxpr) for b in branches)
        identity = jnp.arange(self.num, dtype=jnp.int32)

        def branch(closed: Any) -> Callable:
            def run(st: State, *arrays: Any) -> tuple[list, State, Any]:
                inner = [Many(x) if isinstance(a, Many) else x for x, a in zip(arrays, args, strict=True)]
                used = [True] * len(closed.jaxpr.outvars)
                outs, st, ancestors, _ = self.frame(closed.jaxpr, closed.consts, inner, st, used, align=True)
                outs = [self.spread(o).array if r else jnp.asarray(o) for o, r in zip(outs, random, strict=True)]
                return outs, st, (identity if ancestors is None else ancestors) if resamples else None

            return run

        outs, state, ancestors = jax.lax.switch(index, [branch(b) for b in branches], state, *map(_array, args))
        return [Many(o) if r else o for o, r in zip(outs, random, strict=True)], state, ancestors, {}

    def divergent_cond(self, eqn: Any, operands: list, state: State) -> tuple[list, State, Any | None, dict]:
        index, *args = operands
        branches = eqn.params["branches"]
        choice = jnp.clip(index.array.astype(jnp.int32), 0, len(branches) - 1)
        quiet = self.quiet()
        runs = []
        for closed in branches:
            used = [True] * len(closed.jaxpr.outvars)
            outs, st, _, _ = quiet.frame(closed.jaxpr, closed.consts, list(args), state, used, align=False)
            runs.append(([self.spread(o).array for o in outs], st.log_weights))
        weights = runs[0][1]
        results = runs[0][0]
        for k, (outs, log_weights) in enumerate(runs[1:], start=1):
            weights = jnp.where(choice == k, log_weights, weights)
            results = [_where(choice == k, o, r) for o, r in zip(outs, results, strict=True)]
        state = State(weights, state.log_evidence)
        ancestors = None
        if any(may_score(b.jaxpr) for b in branches):
            state, ancestors, _ = self.suspension(state)
            if ancestors is not None:
                results = [_take(r, ancestors) for r in results]
        return [Many(r) for r in results], state, ancestors, {}


# -- arrays ------------------------------------------------------------------------------------------------------------


def _take(array: Any, ancestors: Any) -> Any:
    return jnp.take(array, ancestors, axis=0, mode="clip")


def _where(mask: Any, a: Any, b: Any) -> Any:
    return jnp.where(mask.reshape(mask.shape + (1,) * (jnp.ndim(a) - 1)), a, b)


def _lineage(ancestors: Any, num: int, *, reverse: bool) -> Any:
    """Index of every final particle's ancestor at the end of each iteration: B_{t-1} = A_t[B_t]."""

    def back(index: Any, a: Any) -> tuple[Any, Any]:
        return _take(a, index), index

    return jax.lax.scan(back, jnp.arange(num, dtype=jnp.int32), ancestors, reverse=not reverse)[1]


def _widened(site: Site) -> Site:
    return dataclasses.replace(site, dims=("particle", *site.dims) if site.name else ())
