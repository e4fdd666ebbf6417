"""Kernels that keep a target, and how they combine: each is a program from state to state that says what it claims.

A kernel draws through statements, like a model. So one step can be run with a key, for many chains side by side, inside
a population (rejuvenation), or enumerated from every state, which is how its claim is proved.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from probinf.claims import Claim
from probinf.errors import ArgumentError, ArgumentTypeError, UnknownNameError
from probinf.language.primitives import Site, bind_sample
from probinf.transformations.traces import Place, Trace

Info = dict[str, jax.Array]


class Target(Protocol):
    """What kernels move in: an unnormalised measure given by a density with respect to a base measure."""

    @property
    def table(self) -> Mapping[str, Place]:
        """The places that a move may change, by site; empty for targets that are not traces."""
        ...

    def replay(self, slots: Any, stop: Any = None) -> Trace:
        """A point with its weight."""
        ...


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A Markov kernel for targets of some kind.

    Attributes:
        name: readable, with its settings.
        step: (target, state) to the new state and statistics: "accepted" in [0, 1], the same keys in every step.
        claim: reversible, invariant, consistent or approximate.
        parts: the kernels it is composed of, if it is a composition.
        propose: (target, slots) to other slots, symmetric for the target's base measure, if the kernel is such a
            proposal with an accept step.
        space: what a state is: "traces", "assignments" (values of all latent sites) or "density" (any pytree).
    """

    name: str
    step: Callable[[Any, Trace], tuple[Trace, Info]]
    claim: Claim
    parts: tuple[Kernel, ...] = ()
    propose: Callable[[Any, Any], Any] | None = None
    space: str = "traces"

    def __repr__(self) -> str:
        return f"{self.name} [{self.claim}]"


def emit(law: Any) -> jax.Array:
    """Draw inside a kernel: a statement without a name."""
    return bind_sample(Site(""), law)[0]


def accept(old: Trace, new: Trace, log_correction: Any = 0.0) -> tuple[Trace, jax.Array]:
    """Metropolis-Hastings: the new state with probability min(1, ratio), else the old one as it is.

    The state that is kept keeps its weight, which is never computed again: pseudo-marginal targets stay exact.

    Args:
        old: the state now.
        new: the proposal.
        log_correction: log ratio of the proposal densities, reverse over forward, Jacobian included.

    Returns:
        The next state and whether the proposal was accepted. A proposal without weight, or whose ratio is NaN, is
        rejected.
    """
    log_ratio = new.log_weight - old.log_weight + log_correction
    log_ratio = jnp.where(jnp.isnan(log_ratio) | (new.log_weight == -jnp.inf), -jnp.inf, log_ratio)
    coin = emit(dist.BernoulliProbs(jnp.exp(jnp.minimum(log_ratio, jnp.zeros_like(log_ratio))))) == 1
    accepted = coin & (log_ratio > -jnp.inf)  # NumPyro's densities clamp a probability of zero to the smallest float
    return jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new, old), accepted


def metropolis(name: str, propose: Callable[[Any, Any], Any], parts: tuple[Kernel, ...] = ()) -> Kernel:
    """Metropolis (1953): a symmetric proposal, accepted by the ratio of the weights. Claim: reversible."""

    def step(target: Any, state: Trace) -> tuple[Trace, Info]:
        protect = getattr(target, "protect", None)  # places that the target does not allow to change
        slots = propose(target, state.slots)
        new, accepted = accept(state, target.replay(slots if protect is None else protect(state.slots, slots)))
        return new, {"accepted": accepted}

    return Kernel(name, step, Claim.REVERSIBLE, parts, propose)


# -- combinators ------------------------------------------------------------------------------------------------------


def _kernels(argument: str, kernels: Sequence[Any]) -> tuple[Kernel, ...]:
    if not kernels:
        raise ArgumentError(f"{argument}: expected at least one kernel, found none.")
    for kernel in kernels:
        if not isinstance(kernel, Kernel):
            raise ArgumentTypeError(f"{argument}: expected kernels, found {kernel!r} of type {type(kernel).__name__}.")
    return tuple(kernels)


def cycle(*kernels: Kernel) -> Kernel:
    """One kernel after the other. Keeps what all keep, but not reversibility (Tierney 1994)."""
    kernels = _kernels("cycle", kernels)

    def step(target: Any, state: Trace) -> tuple[Trace, Info]:
        rates = []
        for kernel in kernels:
            state, info = kernel.step(target, state)
            rates.append(jnp.asarray(info["accepted"], jnp.result_type(float)))
        return state, {"accepted": jnp.mean(jnp.stack(rates))}

    claims = [k.claim for k in kernels]
    claim = claims[0] if len(kernels) == 1 else Claim.meet([*claims, Claim.INVARIANT])
    return Kernel(f"cycle({', '.join(k.name for k in kernels)})", step, claim, kernels)


def mix(*kernels: Kernel, probabilities: Sequence[float] | None = None) -> Kernel:
    """One kernel at random; which one must not depend on the state. Keeps what all keep, reversibility included."""
    kernels = _kernels("mix", kernels)
    p = [1.0 / len(kernels)] * len(kernels) if probabilities is None else [float(x) for x in probabilities]
    if len(p) != len(kernels) or min(p) <= 0 or abs(sum(p) - 1) > 1e-9:
        raise ArgumentError(
            f"probabilities: expected {len(kernels)} positive numbers that sum to 1, one per kernel, found {p}."
        )

    def step(target: Any, state: Trace) -> tuple[Trace, Info]:
        which = emit(dist.CategoricalProbs(jnp.asarray(p)))

        def branch(kernel: Kernel) -> Callable:
            def run(st: Trace) -> tuple[Trace, Any]:
                st, info = kernel.step(target, st)
                return st, jnp.asarray(info["accepted"], jnp.result_type(float))

            return run

        state, rate = jax.lax.switch(which, [branch(k) for k in kernels], state)
        return state, {"accepted": rate}

    return Kernel(f"mix({', '.join(k.name for k in kernels)})", step, Claim.meet(k.claim for k in kernels), kernels)


def repeat(kernel: Kernel, times: int) -> Kernel:
    """A kernel a fixed number of times, as one step. Powers of a reversible kernel are reversible."""
    (kernel,) = _kernels("repeat", (kernel,))
    if isinstance(times, bool) or not isinstance(times, int) or times < 1:
        raise ArgumentError(f"times: expected an integer of at least 1, found {times!r}.")

    def step(target: Any, state: Trace) -> tuple[Trace, Info]:
        def once(st: Trace, _: Any) -> tuple[Trace, Any]:
            st, info = kernel.step(target, st)
            return st, jnp.asarray(info["accepted"], jnp.result_type(float))

        state, rates = jax.lax.scan(once, state, None, length=times)
        return state, {"accepted": jnp.mean(rates)}

    return Kernel(f"repeat({kernel.name}, {times})", step, kernel.claim, (kernel,))


def together(*kernels: Kernel) -> Kernel:
    """All proposals at once and one accept step: PMMH proposes parameters and the filter's randomness together.

    Raises:
        ArgumentTypeError: a kernel that is not a symmetric proposal with an accept step.
    """
    kernels = _kernels("together", kernels)
    for kernel in kernels:
        if kernel.propose is None:
            raise ArgumentTypeError(
                f"together: {kernel.name} has no symmetric proposal that could be accepted jointly; trace_mh, redraw "
                "and random_walk have, on their own or under `on`."
            )

    def propose(target: Any, slots: Any) -> Any:
        for kernel in kernels:
            assert kernel.propose is not None
            slots = kernel.propose(target, slots)
        return slots

    return metropolis(f"together({', '.join(k.name for k in kernels)})", propose, kernels)


@dataclasses.dataclass(frozen=True)
class _Part:
    """A target some of whose places are held fixed."""

    whole: Any
    names: frozenset[str]

    @property
    def table(self) -> Mapping[str, Place]:
        return {n: p for n, p in self.whole.table.items() if n in self.names}

    def replay(self, slots: Any, stop: Any = None) -> Trace:
        return self.whole.replay(slots, stop)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)


def on(kernel: Kernel, sites: str | Iterable[str]) -> Kernel:
    """A kernel that moves these sites and holds all others fixed. Keeps what the kernel keeps.

    "#*" stands for all draws that algorithms inside of the program make for themselves.
    """
    (kernel,) = _kernels("on", (kernel,))
    names = (sites,) if isinstance(sites, str) else tuple(sites)

    def step(target: Any, state: Trace) -> tuple[Trace, Info]:
        return kernel.step(_Part(target, selected(target, names)), state)

    def propose(target: Any, slots: Any) -> Any:
        assert kernel.propose is not None
        return kernel.propose(_Part(target, selected(target, names)), slots)

    return Kernel(
        f"on({kernel.name}, {', '.join(names)})",
        step,
        kernel.claim,
        (kernel,),
        None if kernel.propose is None else propose,
    )


def selected(target: Any, names: Iterable[str]) -> frozenset[str]:
    """The sites of a target under these names.

    Raises:
        UnknownNameError: no such site; the nearest name is suggested.
    """
    found: set[str] = set()
    for name in names:
        if name == "#*":
            found |= {n for n in target.table if n.startswith("#")}
        elif name in target.table:
            found.add(name)
        else:
            raise UnknownNameError(name, [n for n in target.table if not n.startswith("#")], "site", "the target")
    return frozenset(found)


@dataclasses.dataclass(frozen=True)
class Density:
    """A target given by a log density on a pytree of arrays.

    Attributes:
        log_density: pytree to a scalar, nats, not normalised.
        name: readable.
    """

    log_density: Callable[[Any], jax.Array]
    name: str = "density"

    @property
    def table(self) -> Mapping[str, Place]:
        return {}

    def replay(self, slots: Any, stop: Any = None) -> Trace:
        if stop is not None:
            raise ArgumentError("A density has no suspensions to stop at.")
        return Trace(slots, jnp.asarray(self.log_density(slots), jnp.result_type(float)))
