"""Moves that redraw places of a trace: they work on any program, whatever it draws, branches on or loops over."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from probinf.claims import Claim
from probinf.errors import ArgumentError, ModelError
from probinf.kernels.kernel import Info, Kernel, emit, metropolis
from probinf.transformations.traces import Place, Trace


def _redrawable(target: Any) -> dict[str, Place]:
    places = {n: p for n, p in target.table.items() if p.holds == "unit"}
    if not places:
        raise ModelError(
            "No place to redraw: all sites of this move hold values. Use a move on values, or fewer of them."
        )
    return places


def trace_mh() -> Kernel:
    """Single-site Metropolis-Hastings on traces: redraw one place, chosen evenly among all, keep the other units.

    The number of places is fixed, so the choice cancels and the ratio is that of the weights. Claim: reversible.
    """

    def propose(target: Any, slots: Any) -> Any:
        places = _redrawable(target)
        total = sum(p.count for p in places.values())
        which = emit(dist.DiscreteUniform(0, total - 1)) if total > 1 else jnp.zeros((), jnp.int32)
        fresh = emit(target.randomness.law(()))
        slots, first = dict(slots), 0
        unit = target.randomness.unit
        for name, place in places.items():
            flat = slots[name].reshape(place.count, *unit)
            mine = jnp.arange(place.count, dtype=jnp.int32) == which.astype(jnp.int32) - first
            mine = mine.reshape(place.count, *(1,) * len(unit))
            flat = jnp.where(mine, fresh[None].astype(flat.dtype), flat)
            slots[name], first = flat.reshape(slots[name].shape), first + place.count
        return slots

    return metropolis("trace_mh()", propose)


def redraw(share: float = 1.0) -> Kernel:
    """Redraw each place with probability `share`, independently; all of them by default (independence sampling).

    Symmetric for the base measure, so the ratio is that of the weights. Claim: reversible.
    """
    if not 0 < float(share) <= 1:
        raise ArgumentError(f"share: expected a number in (0, 1], found {share}.")

    def propose(target: Any, slots: Any) -> Any:
        slots = dict(slots)
        for name, place in _redrawable(target).items():
            fresh = emit(target.randomness.law(place.loops)).astype(slots[name].dtype)
            if share < 1:
                mask = emit(dist.BernoulliProbs(jnp.full(place.loops, float(share)))) == 1
                mask = mask.reshape(*place.loops, *(1,) * len(target.randomness.unit))
                fresh = jnp.where(mask, fresh, slots[name])
            slots[name] = fresh
        return slots

    return metropolis(f"redraw({share:g})", propose)


def refresh_future() -> Kernel:
    """Redraw every place that is reached after the scores that count. Nothing in the target looks at them.

    For targets that stop at a suspension; without it particles that share an ancestor would share their future.
    Claim: invariant.
    """

    def step(target: Any, state: Trace) -> tuple[Trace, Info]:
        ages = target.ages_of(state.slots)
        slots = dict(state.slots)
        for name, place in target.table.items():
            if place.holds != "unit":
                continue
            fresh = emit(target.randomness.law(place.loops)).astype(slots[name].dtype)
            late = ages[name] >= target.stop
            late = late.reshape(late.shape + (1,) * len(target.randomness.unit))
            slots[name] = jnp.where(late, fresh, slots[name])
        return Trace(slots, state.log_weight), {"accepted": jnp.ones((), jnp.result_type(float))}

    return Kernel("refresh_future()", step, Claim.INVARIANT)


def random_walk(scale: Any = 1.0) -> Kernel:
    """Random-walk Metropolis on the sites that hold continuous values, all of them at once, on unconstrained space.

    Args:
        scale: standard deviation of the normal steps: one number, or a dict from site to an array that broadcasts
            against the site.

    Claim: reversible.
    """

    def propose(target: Any, slots: Any) -> Any:
        slots = dict(slots)
        for name in continuous_values(target):
            old = slots[name]
            sd = jnp.broadcast_to(jnp.asarray(scale[name] if isinstance(scale, dict) else scale, old.dtype), old.shape)
            slots[name] = old + sd * emit(dist.Normal(jnp.zeros_like(old), 1.0).to_event()).astype(old.dtype)
        return slots

    shown = scale if isinstance(scale, int | float) else "..."
    return metropolis(f"random_walk({shown})", propose)


def continuous_values(target: Any) -> list[str]:
    """Names of the sites of a target that hold continuous values.

    Raises:
        ModelError: there are none.
    """
    names = [n for n, p in target.table.items() if p.holds == "value" and np.issubdtype(p.info.dtype, np.floating)]
    if not names:
        raise ModelError(
            "This move changes continuous values, and no site of the target holds one. Name the sites: "
            "values=('sigma', ...)."
        )
    return sorted(names)


def uniform_proposal() -> Kernel:
    """Metropolis on the sites that hold discrete values: all anew, evenly from their supports. Claim: reversible."""

    def propose(target: Any, slots: Any) -> Any:
        slots = dict(slots)
        places = _discrete_values(target)
        for name, place in places.items():
            support = jnp.asarray(np.asarray(place.support))
            shape = (*place.loops, *place.event)
            index = emit(dist.CategoricalProbs(jnp.full((*shape, len(support)), 1.0 / len(support))))
            slots[name] = support[index].astype(slots[name].dtype)
        return slots

    return metropolis("uniform_proposal()", propose)


def _discrete_values(target: Any) -> dict[str, Place]:
    places = {
        n: p for n, p in target.table.items() if p.holds == "value" and not np.issubdtype(p.info.dtype, np.floating)
    }
    if not places:
        raise ModelError(
            "This move changes discrete values, and no site of the target holds one. Name the sites: values=('z', ...)."
        )
    return places


def gibbs() -> Kernel:
    """Gibbs sampling of sites that hold discrete values: one place, chosen evenly, drawn from its full conditional.

    The conditional is exact: the weight is evaluated at every value of the support. Claim: reversible.
    """

    def step(target: Any, state: Trace) -> tuple[Trace, Info]:
        places = _discrete_values(target)
        sizes = {n: int(np.prod((*p.loops, *p.event), dtype=int)) for n, p in places.items()}
        which = emit(dist.DiscreteUniform(0, sum(sizes.values()) - 1)) if sum(sizes.values()) > 1 else jnp.int32(0)
        supports = {n: np.asarray(p.support) for n, p in places.items()}
        most = max(map(len, supports.values()))
        first, masks = 0, {}
        for name, size in sizes.items():
            masks[name] = (jnp.arange(size, dtype=jnp.int32) == which.astype(jnp.int32) - first).reshape(
                state.slots[name].shape
            )
            first += size

        def candidate(k: jax.Array) -> Trace:
            slots = dict(state.slots)
            for name, support in supports.items():
                value = jnp.asarray(support, slots[name].dtype)[jnp.minimum(k, len(support) - 1)]
                slots[name] = jnp.where(masks[name], value, slots[name])
            return target.replay(slots)

        candidates = jax.vmap(candidate)(jnp.arange(most, dtype=jnp.int32))
        # Sites with fewer values than the largest support: the padding repeats the last value and must not count.
        counts = [
            jnp.where(jnp.any(masks[n]), jnp.int32(len(support)), jnp.int32(0)) for n, support in supports.items()
        ]
        count = jnp.sum(jnp.stack(counts), dtype=jnp.int32)
        logits = jnp.where(jnp.arange(most, dtype=jnp.int32) < count, candidates.log_weight, -jnp.inf)
        k = emit(dist.CategoricalProbs(jax.nn.softmax(logits)))
        chosen = jax.tree.map(lambda x: x[k], candidates)
        return chosen, {"accepted": jnp.ones((), jnp.result_type(float))}

    return Kernel("gibbs()", step, Claim.REVERSIBLE)
