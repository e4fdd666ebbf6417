"""Traces of arbitrary programs under static shapes: one unit of randomness for every place that may draw.

A place is a site and the indices of the loops around it. Every place always has its unit, drawn or not, so the number
of places is fixed, branches and early exits need no bookkeeping, and single-site moves need no length factor. The
value at a place is a deterministic function of its unit and of the distribution found there, so any distribution
qualifies and the weight of a trace is its scores alone (after Wingate, Stuhlmüller & Goodman 2011).

Sites named in `values` hold their value instead of a unit (continuous ones on unconstrained space), and the weight
includes their density: what local, gradient and Gibbs moves need.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from probinf import _jax
from probinf.errors import ModelError, UnknownNameError
from probinf.language.distributions import log_density, standard_promotion
from probinf.language.evaluate import Evaluator, Handler, Records
from probinf.language.handlers import Condition
from probinf.language.primitives import Site, bind_sample, sample_p
from probinf.language.program import Program
from probinf.language.sites import SiteInfo, sites_of
from probinf.language.staging import Staged, restage
from probinf.transformations.enumeration import base_of, has_fixed_support
from probinf.transformations.randomness import Keys, Randomness

Slots = Mapping[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Trace:
    """A point of a target's space and its weight.

    Attributes:
        slots: what the point is: units of randomness and values, by site; or any pytree, for targets of other kinds.
        log_weight: log density of the target with respect to its base measure, nats.
    """

    slots: Any
    log_weight: Any  # a scalar array; JAX rebuilds states around placeholders of other types


class Named(Condition):
    """Give the draws that an algorithm makes for itself a name, so that they have a place in the trace."""

    def __init__(self) -> None:
        super().__init__()
        self._count = 0

    def sample(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Any, Records]:
        if not site.name:
            self._count += 1
            site = dataclasses.replace(site, name=f"#{self._count}")
        (value,) = bind_sample(site, distribution)
        return value, state, {}


class Replay(Handler):
    """Run a trace: values from their units, weight from the scores.

    Args:
        randomness: how a unit gives a value.
        values: names of the sites that hold values.
        stop: count the first `stop` scores only (a scalar, possibly traced); all by default.
    """

    def __init__(self, randomness: Randomness, values: frozenset[str], stop: Any = None) -> None:
        self.randomness, self.values, self.stop = randomness, values, stop

    def start(self) -> dict[str, jax.Array]:
        """The state at the start of a run."""
        zero = jnp.zeros((), jnp.result_type(float))
        return {"log_prior": zero, "log_score": zero, "count": jnp.zeros((), jnp.int32)}

    def sample(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Any, Records]:
        if value is None:
            raise ModelError(f"Site {site.label} has no place in the trace.")
        if site.name not in self.values:
            value = self.randomness.value(distribution, value)
        else:
            with standard_promotion():
                if jnp.issubdtype(value.dtype, jnp.floating):
                    transform = dist.biject_to(distribution.support)
                    constrained = transform(value)
                    log_density_here = jnp.sum(jnp.asarray(distribution.log_prob(constrained))) + jnp.sum(
                        jnp.asarray(transform.log_abs_det_jacobian(value, constrained))
                    )
                    value = jnp.asarray(constrained)
                else:
                    log_density_here = log_density(distribution, value)
            state = _weighed(state, "log_prior", log_density_here)
        return value, state, self.see(site, value, state)

    def see(self, site: Site, value: Any, state: Any) -> Records:
        """What to record of a draw: its value."""
        return {site.name: value}

    def _score(self, state: Any, log_factor: Any) -> Any:
        log_factor = jnp.asarray(log_factor)
        if self.stop is not None:
            log_factor = jnp.where(state["count"] < self.stop, log_factor, jnp.zeros_like(log_factor))
        return {**_weighed(state, "log_score", log_factor), "count": state["count"] + 1}

    def observe(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Records]:
        return self._score(state, log_density(distribution, value)), {}

    def factor(self, site: Site, log_factor: Any, state: Any) -> tuple[Any, Records]:
        return self._score(state, jnp.sum(log_factor)), {}

    def deterministic(self, site: Site, value: Any, state: Any) -> tuple[Any, Records]:
        return state, {site.name: value} if site.name else {}


def _weighed(state: Any, which: str, log_factor: Any) -> Any:
    old = state[which]
    new = jnp.where(old == -jnp.inf, old, old + jnp.asarray(log_factor).astype(old.dtype))
    return {**state, which: new}


class Ages(Replay):
    """Records, in place of each value, how many scores had been met when the place was reached."""

    def see(self, site: Site, value: Any, state: Any) -> Records:
        return {site.name: state["count"]}

    def deterministic(self, site: Site, value: Any, state: Any) -> tuple[Any, Records]:
        return state, {}


class _Replayer(Evaluator):
    """The evaluator, with places inside while loops: each iteration folds its number into the place's unit."""

    def while_loop(self, eqn: Any, operands: list, state: Any, values: Any) -> tuple[list, Any, Records]:
        p = eqn.params
        n_cond, n_body = p["cond_nconsts"], p["body_nconsts"]
        test, body = p["cond_jaxpr"], p["body_jaxpr"]
        cond_consts, body_consts = operands[:n_cond], operands[n_cond : n_cond + n_body]
        inside = {s.name for c in (test, body) for s in sites_of(c.jaxpr)}
        mine = {n: v for n, v in values.items() if n in inside}
        randomness = cast(Replay, self.handler).randomness

        def decide(inner: list, st: Any, i: Any) -> tuple[Any, Any]:
            now = {n: randomness.fold(v, i) for n, v in mine.items()}
            outs, st, _ = self.frame(test.jaxpr, test.consts, [*cond_consts, *inner], st, now)
            return outs[0], st

        def step(carry: Any) -> Any:
            inner, st, i, _ = carry
            now = {n: randomness.fold(v, i) for n, v in mine.items()}
            outs, st, _ = self.frame(body.jaxpr, body.consts, [*body_consts, *inner], st, now)
            outs = [jnp.asarray(o, jnp.asarray(x).dtype) for o, x in zip(outs, inner, strict=True)]
            again, st = decide(outs, st, i + 1)
            return outs, st, i + 1, again

        init = [jnp.asarray(x) for x in operands[n_cond + n_body :]]
        zero = jnp.zeros((), jnp.int32)
        again, state = decide(init, state, zero)
        out, state, _, _ = jax.lax.while_loop(lambda carry: carry[3], step, (init, state, zero, again))
        return list(out), state, {}


@dataclasses.dataclass(frozen=True)
class Place:
    """The slot of one site.

    Attributes:
        name: the site's name; "#k" for draws that an algorithm makes for itself.
        loops: lengths of the loops around it.
        holds: "unit" or "value".
        event: shape of the value at one place.
        info: the site.
        support: the finitely many values of one element of a discrete site that holds values; None otherwise.
    """

    name: str
    loops: tuple[int, ...]
    holds: str
    event: tuple[int, ...]
    info: SiteInfo
    support: np.ndarray | None = None

    @property
    def count(self) -> int:
        """Number of places."""
        total = 1
        for n in self.loops:
            total *= n
        return total


class Traced:
    """A program seen through its traces: a target for kernels. Claim: exact.

    Args:
        program: any program, an algorithm's included.
        values: names of sites that hold values; they must be reached in every execution.
        randomness: the source of the other sites' units.

    Raises:
        UnknownNameError: no such latent site.
        ModelError: a site in `values` inside a random branch or a while loop.
    """

    def __init__(self, program: Program, *, values: Iterable[str] = (), randomness: Randomness | None = None) -> None:
        self.program, self.randomness, self.values = program, randomness or Keys(), frozenset(values)
        self._labelled: Staged = restage(
            program.name, lambda ops: program.staged.run(ops, Named(), (), {})[0], program.operands
        )
        self.operands = jax.tree.map(jnp.asarray, program.operands)
        self.table: dict[str, Place] = {}
        for info in sites_of(self._labelled.closed.jaxpr):
            if info.kind != "sample":
                continue
            loops = tuple(n for n in info.loops if n is not None)
            holds = "value" if info.name in self.values else "unit"
            if holds == "value" and (info.branches or None in info.loops):
                raise ModelError(
                    f"Site {info.label} is not reached in every execution, so its value cannot be moved directly. "
                    "Leave it out of `values`: moves that redraw it are exact there."
                )
            support = support_of(self._labelled.closed.jaxpr, info) if holds == "value" and info.discrete else None
            place = Place(info.name, loops, holds, info.shape[len(loops) :], info, support)
            other = self.table.setdefault(info.name, place)
            if other.loops != loops:
                raise ModelError(
                    f"Site {info.label} is in two branches, inside loops of different lengths. Name them differently."
                )
        for name in sorted(self.values - set(self.table)):
            known = [n for n in self.table if not n.startswith("#")]
            raise UnknownNameError(name, known, "latent site", f"model {program.name!r}")

    def at(self, operands: Any) -> Traced:
        """The same target with other arguments and data of the same shapes."""
        other = object.__new__(Traced)
        other.__dict__.update(self.__dict__)
        other.operands = operands
        return other

    # -- points -------------------------------------------------------------------------------------------------------

    def replay(self, slots: Slots, stop: Any = None) -> Trace:
        """The trace of these slots: with its weight, of the first `stop` scores only if that is given."""
        log_prior, log_score = self.prior_and_score(slots, stop)
        return Trace(dict(slots), log_prior + log_score)

    def prior_and_score(self, slots: Slots, stop: Any = None) -> tuple[jax.Array, jax.Array]:
        """Log density of the sites that hold values, and the log of the scores."""
        state = self._run(slots, Replay(self.randomness, self.values, stop))[1]
        return state["log_prior"], state["log_score"]

    def values_of(self, slots: Slots) -> dict[str, jax.Array]:
        """Values of all named latent and deterministic sites, constrained."""
        records = self._run(slots, Replay(self.randomness, self.values))[2]
        return {n: v for n, v in records.items() if not n.startswith("#")}

    def result_of(self, slots: Slots) -> Any:
        """The program's return value."""
        outs = self._run(slots, Replay(self.randomness, self.values))[0]
        return jax.tree.unflatten(self._labelled.results, outs)

    def ages_of(self, slots: Slots) -> dict[str, jax.Array]:
        """For every place how many scores come before it; 0 for places that are not reached."""
        ages = self._run(slots, Ages(self.randomness, self.values))[2]
        return {n: ages.get(n, jnp.zeros(p.loops, jnp.int32)) for n, p in self.table.items()}

    def scores_of(self, slots: Slots) -> jax.Array:
        """The number of scores that the execution meets."""
        return self._run(slots, Replay(self.randomness, self.values))[1]["count"]

    def draw(self) -> dict[str, jax.Array]:
        """Emit the draw of a whole trace from the base measure, values from their priors."""
        slots = {
            n: bind_sample(Site(""), self.randomness.law(p.loops))[0]
            for n, p in self.table.items()
            if p.holds == "unit"
        }
        if self.values:
            # Ancestral, in the order of the program: a value's law depends on the draws before it.
            emit = _Draw(self.randomness, self.values)
            records = _Replayer(emit).frame(
                self._labelled.closed.jaxpr,
                self._labelled.closed.consts,
                jax.tree.leaves(self.operands),
                (),
                slots,
            )[2]
            slots |= {n: records[n] for n in self.values}
        return slots

    def slots_from(self, values: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Slots (on unconstrained space where continuous) of the sites in `values` from constrained values."""
        missing = sorted(self.values - set(values))
        if missing:
            raise ModelError(f"No value for site {missing[0]!r} to start from.")
        given = {n: jnp.asarray(v) for n, v in values.items()}
        records = self.program.staged.run(self.operands, _ToSlots(), (), given)[2]
        return {n: records[n] for n in self.values}

    def _run(self, slots: Slots, handler: Replay) -> tuple:
        closed = self._labelled.closed
        args = jax.tree.leaves(self.operands)
        return _Replayer(handler).frame(closed.jaxpr, closed.consts, args, handler.start(), dict(slots))

    @functools.cached_property
    def num_scores(self) -> int:
        """The largest number of scores that an execution can meet; while loops count once."""
        return _most_scores(self._labelled.closed.jaxpr)


class _ToSlots(Handler):
    """Record given values as slots hold them: continuous ones on unconstrained space, discrete ones as they are."""

    def sample(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Any, Records]:
        if value is None:
            raise ModelError(f"No value for site {site.label} to start from.")
        if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            return value, state, {site.name: value}
        with standard_promotion():
            return value, state, {site.name: jnp.asarray(dist.biject_to(distribution.support).inv(value))}

    def observe(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Records]:
        return state, {}

    def factor(self, site: Site, log_factor: Any, state: Any) -> tuple[Any, Records]:
        return state, {}


class _Draw(Replay):
    """Draw the sites that hold values, from statements emitted at their place; the others come from their units."""

    def sample(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Any, Records]:
        if site.name not in self.values:
            return self.randomness.value(distribution, value), state, {}
        (value,) = bind_sample(Site(""), distribution)
        slot = value
        if jnp.issubdtype(value.dtype, jnp.floating):
            with standard_promotion():
                slot = dist.biject_to(distribution.support).inv(value)
        return value, state, {site.name: jnp.asarray(slot)}

    def observe(self, site: Site, distribution: Any, value: Any, state: Any) -> tuple[Any, Records]:
        return state, {}

    def factor(self, site: Site, log_factor: Any, state: Any) -> tuple[Any, Records]:
        return state, {}

    def deterministic(self, site: Site, value: Any, state: Any) -> tuple[Any, Records]:
        return state, {}


def _draws(jaxpr: Any) -> Iterator[Any]:
    for eqn in jaxpr.eqns:
        if eqn.primitive is sample_p:
            yield eqn
        for inner in _jax.jaxprs_in_params(eqn.params):
            yield from _draws(inner.jaxpr if isinstance(inner, _jax.ClosedJaxpr) else inner)


def support_of(jaxpr: Any, info: SiteInfo) -> np.ndarray:
    """The values that one element of a discrete site can take, which must not depend on its parameters.

    Raises:
        ModelError: the site's family has no fixed finite support.
    """
    eqn = next(e for e in _draws(jaxpr) if e.params["site"].name == info.name)
    leaves = [np.ones(v.aval.shape, v.aval.dtype) for v in eqn.invars[: eqn.params["count"]]]
    law = jax.tree.unflatten(eqn.params["structure"], leaves)
    if not has_fixed_support(law):
        raise ModelError(
            f"Site {info.label} holds a value of {info.site.family}, whose support is not a fixed finite set. Discrete "
            "sites hold values if they are Bernoulli or Categorical; leave it out, and it is redrawn."
        )
    with jax.ensure_compile_time_eval():  # also while a model is being read
        return np.asarray(base_of(law).enumerate_support(expand=False)).reshape(-1)


def _most_scores(jaxpr: Any) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in ("observe", "factor"):
            total += 1
            continue
        inner = [
            _most_scores(j.jaxpr if isinstance(j, _jax.ClosedJaxpr) else j) for j in _jax.jaxprs_in_params(eqn.params)
        ]
        if not inner:
            continue
        if eqn.primitive is _jax.scan_p:
            total += eqn.params["length"] * sum(inner)
        elif eqn.primitive is _jax.cond_p:
            total += max(inner)
        else:
            total += sum(inner)
    return total
