"""Checks of kernels: transition matrices written down by hand, invariance, and the parts of conditional populations."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from probinf.claims import Claim
from probinf.errors import ArgumentError
from probinf.kernels.involutive import involutive
from probinf.kernels.kernel import Density, Kernel, accept, cycle, mix, on, repeat, selected, together
from probinf.kernels.particle_moves import conditional_smc
from probinf.kernels.reversible_jump import reversible_jump
from probinf.kernels.running import with_key
from probinf.kernels.trace_moves import gibbs, random_walk, redraw, refresh_future, trace_mh, uniform_proposal
from probinf.language import statements as pi
from probinf.language.program import Program, model
from probinf.transformations.algorithms import enumerate_program
from probinf.transformations.ancestor_sampling import exchange
from probinf.transformations.randomness import Ticks
from probinf.transformations.targets import Assigned, Prefix, Tempered
from probinf.transformations.traces import Trace, Traced
from probinf.validity.matrices import Chain, all_slots, transition_matrix
from probinf.validity.programs import PROGRAMS, number
from probinf.validity.validate import assignments
from smc.compositions import pmmh
from smc.validity_cases import chains

TICKS = Ticks(2)
KERNEL = 1e-13


@model
def sizes():
    """Sites with two and with three values, one of them in a loop; some assignments without mass."""
    a = pi.sample("a", dist.Bernoulli(0.3))
    b = pi.sample("b", dist.CategoricalProbs(jnp.array([0.5, 0.2, 0.3])))

    def step(z, t):
        z = pi.sample("z", dist.Bernoulli(jnp.where(z == 1, 0.7, 0.25)))
        pi.factor("f", jnp.where((z == a) & (b == 2), -jnp.inf, -0.3 * number(b + t)))
        return z, None

    jax.lax.scan(step, 0, jnp.arange(2))


@model
def vectors():
    """Two bits at once, in a loop of two."""

    def step(carry, t):
        z = pi.sample("z", dist.Bernoulli(jnp.array([0.3, 0.6])).to_event(1))
        pi.factor("f", -0.7 * number(z[0]) + 0.2 * number(z[1]) * number(t))
        return carry, None

    jax.lax.scan(step, 0, jnp.arange(2))


def target_of(name: str, *, values: bool = False, count: int = 2) -> Traced:
    """A program's traces on ticks, or with every site by value."""
    program = sizes() if name == "sizes" else PROGRAMS[name]
    names = [s.name for s in program.staged.latent()] if values else ()
    return Traced(program, values=names, randomness=Ticks(count))


def kept(kernel: Kernel, target: Any, states: Any = None) -> tuple[Chain, str | None]:
    """The matrix, and what is wrong with invariance, reversibility or the weight reported."""
    chain = transition_matrix(kernel, target, states)
    for what, error in (("rows", chain.row_error), ("pi K - pi", chain.invariance), ("weight", chain.kept)):
        if not error <= (1e-12 if what == "weight" else KERNEL):
            return chain, f"{kernel.name}: {what} off by {error:.2g}"
    if kernel.claim.implies(Claim.REVERSIBLE) and not chain.asymmetry <= KERNEL:
        return chain, f"{kernel.name}: flow asymmetric by {chain.asymmetry:.2g}"
    return chain, None


def _columns(states: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([np.asarray(v).reshape(len(v), -1) for v in states.values()], axis=1)


def _accepted(proposal: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Metropolis by hand: the matrix of a symmetric proposal for these masses; rows without mass are zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.minimum(1.0, np.where(mass[:, None] > 0, mass[None, :] / mass[:, None], 0.0))
    matrix = proposal * ratio
    np.fill_diagonal(matrix, 0.0)
    np.fill_diagonal(matrix, 1 - matrix.sum(1))
    return matrix * (mass > 0)[:, None]


def _one_place(columns: np.ndarray, count: int) -> np.ndarray:
    places = columns.shape[1]
    differ = (columns[:, None] != columns[None]).sum(-1)
    proposal = np.where(differ == 1, 1 / (places * count), 0.0)
    np.fill_diagonal(proposal, 1 / count)
    return proposal


def _each_place(columns: np.ndarray, count: int, share: float) -> np.ndarray:
    same = columns[:, None] == columns[None]
    return np.prod(share / count + (1 - share) * same, axis=-1)


def kernels_on_units() -> str | None:
    """Single-site, independence and combined moves against their matrices written down by hand."""
    for name, count in (("hidden_markov", 3), ("unequal_factors", 2), ("zero_weights", 2), ("static_parameter", 2)):
        target = target_of(name, count=count)
        states = all_slots(target)
        columns = _columns(states)
        log_weights = np.asarray(jax.vmap(lambda s, t=target: t.replay(s).log_weight)(states))
        mass = np.exp(log_weights)
        one, some = _one_place(columns, count), _each_place(columns, count, 0.4)
        by_one, by_some = _accepted(one, mass), _accepted(some, mass)
        every = _accepted(_each_place(columns, count, 1.0), mass)
        cases = [
            (trace_mh(), by_one),
            (redraw(0.4), by_some),
            (redraw(), every),
            (cycle(trace_mh(), redraw(0.4)), by_one @ by_some),
            (mix(trace_mh(), redraw(), probabilities=(0.25, 0.75)), 0.25 * by_one + 0.75 * every),
            (mix(trace_mh(), redraw()), 0.5 * by_one + 0.5 * every),
            (repeat(trace_mh(), 3), by_one @ by_one @ by_one),
            (together(trace_mh(), redraw(0.4)), _accepted(one @ some, mass)),
        ]
        for kernel, expected in cases:
            chain, found = kept(kernel, target)
            if found:
                return f"{found} on {name}"
            gap = np.abs(chain.transitions - expected).max()
            if gap > 1e-12:
                return f"{kernel.name} on {name}: transitions off by {gap:.2g}"
    return None


def kernels_on_values() -> str | None:
    """Gibbs and the uniform proposal against their matrices written down by hand."""
    for name in ("sizes", "hidden_markov", "static_parameter"):
        target = target_of(name, values=True)
        states = all_slots(target)
        columns = _columns(states)
        mass = np.exp(np.asarray(jax.vmap(lambda s, t=target: t.replay(s).log_weight)(states)))
        differ = columns[:, None] != columns[None]
        full = np.zeros((len(mass), len(mass)))
        for place in range(columns.shape[1]):
            line = differ.sum(-1) - differ[:, :, place] == 0
            sums = (line * mass[None]).sum(1)
            full += np.where(line, mass[None] / np.where(sums > 0, sums, 1)[:, None], 0) / columns.shape[1]
        even = _accepted(np.full((len(mass), len(mass)), 1 / len(mass)), mass)
        full *= (mass > 0)[:, None]
        for kernel, expected in ((gibbs(), full), (uniform_proposal(), even), (repeat(gibbs(), 2), full @ full)):
            chain, found = kept(kernel, target)
            if found:
                return f"{found} on {name}"
            gap = np.abs(chain.transitions - expected).max()
            if gap > 1e-12:
                return f"{kernel.name} on {name}: transitions off by {gap:.2g}"
    mixed = Traced(PROGRAMS["static_parameter"], values=("theta",), randomness=TICKS)
    for kernel in (trace_mh(), gibbs(), redraw(0.5), uniform_proposal()):
        chain, found = kept(kernel, mixed)
        if found:
            return found
        states = all_slots(mixed)
        moves_theta = (chain.transitions * (states["theta"][:, None] != states["theta"][None])).max() > 0
        if moves_theta != (kernel.name in ("gibbs()", "uniform_proposal()")):
            return f"{kernel.name} moves the wrong sites"
    return None


def parts_of_targets() -> str | None:
    """Blocks, prefixes, frozen places, powers, and refreshing what no score has seen."""
    whole = target_of("static_parameter")
    states = all_slots(whole)
    same_theta = states["theta"][:, None] == states["theta"][None]
    same_z = (states["z"][:, None] == states["z"][None]).all(-1)
    for sites, same in (("z", same_theta), (("theta",), same_z)):
        for kernel in (
            on(redraw(), sites),
            on(together(trace_mh(), redraw(0.5)), sites),
            together(on(redraw(), sites)),
        ):
            chain, found = kept(kernel, whole)
            if found:
                return found
            if ((chain.transitions > 0) > same).any():
                return f"{kernel.name} moves other sites"
            if not ((chain.transitions > 0) & ~np.eye(len(same), dtype=bool)).any():
                return f"{kernel.name} does not move"
    held = target_of("static_parameter", values=True)
    for kernel in (cycle(on(gibbs(), "theta"), on(gibbs(), "z")), on(uniform_proposal(), "theta")):
        if found := kept(kernel, held)[1]:
            return found
    chain = target_of("hidden_markov")
    states = all_slots(chain)
    z = states["z"]
    for stop in (0, 1, 2):
        target = Prefix(chain, jnp.int32(stop))
        for kernel in (trace_mh(), refresh_future(), cycle(refresh_future(), redraw())):
            if found := kept(kernel, target, states)[1]:
                return f"{found} at stop {stop}"
        past = (z[:, None, :stop] == z[None, :, :stop]).all(-1)
        future = np.where(past, 0.5 ** (2 - stop), 0.0)
        if np.abs(kept(refresh_future(), target, states)[0].transitions - future).max() > 1e-12:
            return f"refresh_future at stop {stop}"
    for frozen in (0, 1, 2):
        target = Prefix(chain, jnp.int32(2), jnp.int32(frozen))
        for kernel in (redraw(), trace_mh()):
            found_chain, found = kept(kernel, target, states)
            if found:
                return f"{found}, frozen {frozen}"
            held_fixed = (z[:, None, :frozen] == z[None, :, :frozen]).all(-1)
            if ((found_chain.transitions > 0) != (held_fixed & (kernel.name == "redraw(1)"))).any() and (
                kernel.name == "redraw(1)" or ((found_chain.transitions > 0) > held_fixed).any()
            ):
                return f"frozen {frozen}: other places move"
    whole = Traced(vectors(), values=("z",), randomness=TICKS)
    old = {"z": jnp.zeros((2, 2), jnp.int32)}
    late = np.asarray(Prefix(whole, jnp.int32(2), jnp.int32(1)).protect(old, {"z": 1 - old["z"]})["z"])
    if (late != [[0, 0], [1, 1]]).any():
        return f"vectors, the first one frozen: {late.tolist()}"
    for power in (0.0, 0.4, 1.0):
        if found := kept(trace_mh(), Tempered(chain, power), states)[1]:
            return f"{found} at power {power}"
    mixed = Prefix(Traced(PROGRAMS["static_parameter"], values=("theta",), randomness=TICKS), jnp.int32(1))
    if found := kept(refresh_future(), mixed, all_slots(mixed.whole))[1]:
        return found
    if found := kept(cycle(refresh_future(), trace_mh()), mixed, all_slots(mixed.whole))[1]:
        return found
    return None


def accept_steps() -> str | None:
    """Probabilities, corrections, impossible and undefined proposals, and the weight that is kept."""

    def chance(old: float, new: float, correction: float) -> tuple[float, np.ndarray]:
        @model
        def one():
            a, b = Trace(jnp.asarray(1.0), jnp.asarray(old)), Trace(jnp.asarray(2.0), jnp.asarray(new))
            state, accepted = accept(a, b, jnp.asarray(correction))
            return state.slots, state.log_weight, accepted

        law = enumerate_program(one())
        p = np.exp(law.log_weights)
        slots, weights, accepted = (np.asarray(v) for v in law.values)
        right = ((slots == 2.0) == accepted) & ((weights == new) | (~accepted)) & ((weights == old) | accepted)
        return float(p[accepted].sum()), p * ~right

    for old, new, correction, expected in (
        (0.0, -0.5, 0.0, np.exp(-0.5)),
        (-0.5, 0.0, 0.0, 1.0),
        (0.0, -0.5, 0.2, np.exp(-0.3)),
        (0.0, -0.5, -0.2, np.exp(-0.7)),
        (0.0, -np.inf, 0.0, 0.0),
        (0.0, -np.inf, np.inf, 0.0),
        (-np.inf, 0.0, 0.0, 1.0),
        (0.0, np.nan, 0.0, 0.0),
        (0.0, 0.0, np.nan, 0.0),
        (-1.0, -1.0, -np.inf, 0.0),
    ):
        found, wrong = chance(old, new, correction)
        if abs(found - expected) > 1e-12 or wrong.max(initial=0) > 1e-300:
            return f"accepted with probability {found:.3g} for {expected:.3g} ({old}, {new}, {correction})"
    return None


def _fixed(rate: float, add: float) -> Kernel:
    def step(target: Any, state: Trace) -> Any:
        return Trace(state.slots + add, state.log_weight), {"accepted": jnp.asarray(rate)}

    return Kernel(f"fixed {rate}", step, Claim.INVARIANT)


def rates_reported() -> str | None:
    """The share of accepted moves that combinations report, and which site names they take."""
    target, state = Density(lambda x: -x), Trace(jnp.asarray(0.0), jnp.asarray(0.0))
    half, full = _fixed(0.5, 1.0), _fixed(1.0, 10.0)
    for kernel, moved, rate in (
        (cycle(half, full), 11.0, 0.75),
        (repeat(half, 3), 3.0, 0.5),
        (cycle(full), 10.0, 1.0),
        (on(half, ()), 1.0, 0.5),
    ):

        def run(kernel: Kernel = kernel) -> Any:
            new, info = kernel.step(target, state)
            return new.slots, info["accepted"]

        slots, accepted = with_key(run, jax.random.key(0))
        if float(slots) != moved or float(accepted) != rate:
            return f"{kernel.name} moves by {float(slots)} and reports {float(accepted)}"
    chosen = with_key(lambda: _read(mix(half, full), target, state), jax.random.key(0))
    if (float(chosen[0]), float(chosen[1])) not in ((1.0, 0.5), (10.0, 1.0)):
        return "mix reports another kernel's rate"
    table = dict.fromkeys(("a", "#1", "#2", "b"))
    holder = dataclasses.make_dataclass("Holder", ["table"])(table)
    if selected(holder, ("#*",)) != {"#1", "#2"} or selected(holder, ("a", "b")) != {"a", "b"}:
        return f"'#*' selects {selected(holder, ('#*',))}"
    if float(Density(lambda x: 2 * x).replay(jnp.asarray(1.5)).log_weight) != 3.0:
        return "the weight of a density"
    claims = [cycle(trace_mh()), cycle(trace_mh(), redraw()), mix(trace_mh(), redraw()), repeat(trace_mh(), 2)]
    if [k.claim for k in claims] != [Claim.REVERSIBLE, Claim.INVARIANT, Claim.REVERSIBLE, Claim.REVERSIBLE]:
        return "claims of combinations"
    if on(gibbs(), "z").propose is not None or on(redraw(), "z").propose is None:
        return "a block has no proposal of its own"
    for kernel in (gibbs(), refresh_future()):
        place = Prefix(target_of("static_parameter", values=kernel.name == "gibbs()"), jnp.int32(1))
        first = with_key(place.draw, jax.random.key(0))
        accepted = with_key(lambda k=kernel, p=place, f=first: k.step(p, p.replay(f))[1]["accepted"], jax.random.key(0))
        if float(accepted) != 1:
            return f"{kernel.name} reports that it was not accepted"
    return None


def _read(kernel: Kernel, target: Any, state: Trace) -> Any:
    new, info = kernel.step(target, state)
    return new.slots, info["accepted"]


@model
def two_numbers():
    x = pi.sample("x", dist.Normal(0.0, 1.0).expand([2]))
    k = pi.sample("k", dist.Bernoulli(0.5))
    y = pi.sample("y", dist.LogNormal(0.0, 1.0))
    pi.factor("f", 0.0 * (jnp.sum(x) + y + number(k)))


def steps_of_a_random_walk() -> str | None:
    """Steps are normal with the scale asked for, around the old value: moments, six standard errors of 4,000."""
    target = Traced(two_numbers(), values=("x", "y"))
    slots = {**with_key(target.draw, jax.random.key(0)), "x": jnp.array([3.0, -2.0]), "y": jnp.asarray(0.7)}
    bound = 6 / np.sqrt(4000)
    keys = jax.random.split(jax.random.key(1), 4000)
    for scale, sd in (
        (0.5, {"x": 0.5, "y": 0.5}),
        ({"x": jnp.array([0.1, 2.0]), "y": 3.0}, {"x": [0.1, 2.0], "y": 3.0}),
    ):
        propose = random_walk(scale).propose
        assert propose is not None
        new = jax.vmap(lambda k, f=propose: with_key(lambda: f(target, slots), k))(keys)
        for site in ("x", "y"):
            step = (np.asarray(new[site]) - np.asarray(slots[site])) / np.asarray(sd[site])
            columns = step.reshape(4000, -1).T
            for column in columns:
                if abs(column.mean()) > bound or abs(column.var() - 1) > bound * np.sqrt(2):
                    return f"steps of {site} are not normal with the scale given"
            if len(columns) > 1 and abs(np.mean(columns[0] * columns[1])) > bound:
                return "steps depend on each other"
        if (np.asarray(new["k"]) != np.asarray(slots["k"])).any():
            return "a site that holds no value was moved"
    return None


def places_with_keys() -> str | None:
    """Redrawing with keys: what is kept is kept whole, a mask covers a place and not part of its key."""
    target = Traced(PROGRAMS["static_parameter"])
    slots = with_key(target.draw, jax.random.key(0))
    for kernel, moved in ((trace_mh(), {1}), (redraw(0.5), {0, 1, 2, 3}), (redraw(), {3})):
        assert kernel.propose is not None
        for seed in range(10, 16):
            new = with_key(lambda k=kernel: k.propose(target, slots), jax.random.key(seed))
            same = np.concatenate([np.asarray(new[n] == slots[n]).reshape(-1, 2) for n in ("theta", "z")])
            if (same[:, 0] != same[:, 1]).any() or int((~same[:, 0]).sum()) not in moved:
                return f"{kernel.name} changes part of a key, or too many"
            if any(new[n].dtype != slots[n].dtype or new[n].shape != slots[n].shape for n in slots):
                return f"{kernel.name} changes a type"
    prefix = Prefix(target, jnp.int32(1), jnp.int32(1))
    both = with_key(lambda: prefix.protect(slots, redraw().propose(target, slots)), jax.random.key(1))
    frozen = [np.asarray(both[n] == slots[n]).reshape(-1, 2).all(1) for n in ("theta", "z")]
    if [f.tolist() for f in frozen] != [[True], [True, False]]:
        return f"frozen places {frozen}"
    late = with_key(lambda: refresh_future().step(prefix, prefix.replay(slots))[0].slots, jax.random.key(2))
    early = [np.asarray(late[n] == slots[n]).reshape(-1, 2).all(1).tolist() for n in ("theta", "z")]
    return None if early == [[True], [True, False]] else f"refreshed places {early}"


def particle_marginal() -> str | None:
    """PMMH on its extended space: parameter, the filter's draws and the final choice; the estimate is kept."""
    for name, kernel, target, _ in chains():
        if not name.startswith("pmmh") or "2 particles, share 0.5" in name:
            continue
        if found := kept(kernel, target)[1]:
            return f"{name}: {found}"
    assert pmmh(on(uniform_proposal(), "theta")).propose is not None
    return None


KERNELS = [kernels_on_units, kernels_on_values, parts_of_targets, accept_steps]


def refused_parts() -> str | None:
    """Combinators refuse what is no kernel, and nothing at all."""
    for make in (cycle, mix, together):
        for parts in ((), ("redraw",)):
            try:
                made = make(*parts)
            except (ArgumentError, TypeError):  # ours, or that of the suite, which checks annotations first
                continue
            except Exception as error:
                return f"{parts}: {type(error).__name__}: {error}"
            return f"{made.name} was made of {parts}"
    return None


HALVES = [rates_reported, places_with_keys, refused_parts]


# -- conditional populations ------------------------------------------------------------------------------------------


@model
def long_memory(ys):
    """A carry that remembers more than the last draw: the future depends on the whole past."""

    def step(carry, y):
        total, z = carry
        z = pi.sample("z", dist.Bernoulli(jnp.where(z == 1, 0.7, 0.25) - 0.1 * number(total)))
        pi.factor("f", jnp.where(z == y, 0.0, -1.2) - 0.5 * number(total))
        return (total + z, z), z

    return jax.lax.scan(step, (0, 0), ys)[1]


@model
def weighed_before(ys):
    """A score before the loop, and rows that depend on it."""
    a = pi.sample("a", dist.Bernoulli(0.4))
    pi.factor("g", -0.8 * number(a))

    def step(z, y):
        z = pi.sample("z", dist.Bernoulli(jnp.where(z == 1, 0.7, 0.25)))
        pi.factor("f", jnp.where(z == y, 0.0, -1.2))
        return z, z

    return a, jax.lax.scan(step, a, ys)[1]


THREE = jnp.array([1, 0, 1])


def _assigned(kernel: Kernel, program: Program) -> tuple[Chain, str | None]:
    chain, found = kept(kernel, Assigned(program), assignments(program))
    return chain, None if found is None else f"{found} on {program.name}"


def conditional_populations() -> str | None:
    """Particle Gibbs keeps the assignments, with and without ancestor sampling, for every scheme."""
    for sampling in (False, True):
        for scheme in ("systematic", "multinomial", "stratified", "residual", "ssp", "killing"):
            kernel = conditional_smc(2, resample=scheme, threshold=1.0, ancestor_sampling=sampling)
            names = ("hidden_markov", "static_parameter") if scheme != "systematic" else ()
            for program in (PROGRAMS[n] for n in names):
                if found := _assigned(kernel, program)[1]:
                    return found
        kernel = conditional_smc(2, threshold=1.0, ancestor_sampling=sampling)
        programs = [long_memory(THREE), weighed_before(THREE[:2])]
        names = ("hidden_markov", "static_parameter", "branch_in_loop", "reversed_loop", "random_inputs")
        programs += [PROGRAMS[n] for n in names]
        for program in programs:
            chain, found = _assigned(kernel, program)
            if found:
                return found
            if not chain.is_irreducible:
                return f"conditional SMC does not reach everything on {program.name}"
    return None


def seldom_resampled_references() -> str | None:
    """Thresholds below one, three particles, parameters that stay."""
    for threshold in (0.0, 0.7):
        for sampling in (False, True):
            kernel = conditional_smc(3, threshold=threshold, ancestor_sampling=sampling)
            if found := _assigned(kernel, PROGRAMS["hidden_markov"])[1]:
                return f"{found} at threshold {threshold}"
    program = PROGRAMS["static_parameter"]
    states = assignments(program)
    chain, found = _assigned(conditional_smc(2, threshold=1.0, fixed=("theta",)), program)
    if found:
        return found
    same = states["theta"][:, None] == states["theta"][None]
    return None if ((chain.transitions > 0) <= same).all() else "a fixed parameter was moved"


def mobility_of_references() -> str | None:
    """By hand, two particles, never resampled: the path is exchanged for a fresh one by weight; ancestors mix pasts."""
    program = PROGRAMS["hidden_markov"]
    states = assignments(program)["z"]
    transition, emission = np.array([[0.7, 0.3], [0.2, 0.8]]), np.array([0.2, 0.9])
    prior = transition[0, states[:, 0]] * transition[states[:, 0], states[:, 1]]
    likelihood = emission[states[:, 0]] * (1 - emission[states[:, 1]])
    expected = prior[None] * likelihood[None] / (likelihood[None] + likelihood[:, None])
    expected += np.diag((prior[None] * likelihood[:, None] / (likelihood[None] + likelihood[:, None])).sum(1))
    chain, found = _assigned(conditional_smc(2, threshold=0.0, ancestor_sampling=False), program)
    if found or np.abs(chain.transitions - expected).max() > 1e-12:
        return found or "importance sampling around a reference has another matrix"
    # With ancestor sampling the reference's second state may follow the fresh particle's first.
    moved, found = _assigned(conditional_smc(2, threshold=0.0, ancestor_sampling=True), program)
    first, second = states[:, 0], states[:, 1]
    by_hand = np.zeros_like(expected)
    for i in range(len(states)):
        for fresh in (0, 1):
            p_fresh = transition[0, fresh]
            weights = emission[np.array([first[i], fresh])]
            ahead = transition[np.array([first[i], fresh]), second[i]] * weights
            for pick, p_pick in enumerate(ahead / ahead.sum()):
                pasts = (first[i], fresh) if pick == 0 else (fresh, first[i])
                before = weights if pick == 0 else weights[::-1]
                for other in (0, 1):
                    p = p_fresh * p_pick * transition[pasts[1], other]
                    last = before * (1 - emission[np.array([second[i], other])])
                    for k, p_last in enumerate(last / last.sum()):
                        end = (pasts[k], second[i] if k == 0 else other)
                        by_hand[i, np.flatnonzero((first == end[0]) & (second == end[1]))[0]] += p * p_last
    if found or np.abs(moved.transitions - by_hand).max() > 1e-12:
        return found or "ancestor sampling has another matrix"
    target = Assigned(program)
    state = target.replay({"z": jnp.asarray([1, 0])})
    kernel = conditional_smc(4, threshold=1.0, ancestor_sampling=False)

    def report() -> Any:
        new, info = kernel.step(target, state)
        return jnp.all(new.slots["z"] == state.slots["z"]), info["accepted"]

    run = jax.jit(lambda k: with_key(report, k))
    reports = [run(jax.random.key(s)) for s in range(20)]
    if any(float(a) not in (0.0, 1.0) or (not same and not a) for same, a in reports):
        return "a moved path is reported as not accepted"
    if len({float(a) for _, a in reports}) < 2:
        return "the report does not change"
    return None


def references_by_value() -> str | None:
    """A traced target whose sites all hold values, continuous ones: what conditional SMC returns is a trace of it."""

    @model
    def positions():
        x = pi.sample("x", dist.LogNormal(0.0, 1.0))
        pi.observe("y", dist.Normal(x, 1.0), 0.3)

    target = Traced(positions(), values=("x",))
    state = target.replay(with_key(target.draw, jax.random.key(0)))

    def step() -> Any:
        new, _ = conditional_smc(3, threshold=1.0).step(target, state)
        return new.slots, new.log_weight, target.replay(new.slots).log_weight

    slots, weight, again = with_key(step, jax.random.key(1))
    if abs(float(weight - again)) > 1e-12 or slots["x"].shape != state.slots["x"].shape:
        return "the trace returned has another weight"
    found = {float(with_key(step, jax.random.key(s))[0]["x"]) for s in range(8)}
    back = min(abs(x - float(state.slots["x"])) for x in found)
    return None if back < 1e-12 and len(found) > 1 else "the path that is kept is not the state's"


def exchanges() -> str | None:
    """Particle 0 and the one drawn change places."""
    for log_p in ([0.0, -1.0, 0.5], [0.0, -np.inf, 0.0]):

        @model
        def swapped(log_p: Any = tuple(log_p)):
            return exchange(jnp.asarray(log_p))

        p = np.exp(np.array(log_p))
        p = p / p.sum()
        law = enumerate_program(swapped())
        table: dict = {}
        for log_mass, row in zip(law.log_weights, np.asarray(law.values), strict=True):
            if log_mass > -np.inf:
                table[tuple(row.tolist())] = table.get(tuple(row.tolist()), 0.0) + float(np.exp(log_mass))
        expected = {(0, 1, 2): p[0], (1, 0, 2): p[1], (2, 1, 0): p[2]}
        if max(abs(table.get(k, 0.0) - expected.get(k, 0.0)) for k in {*table, *expected}) > 1e-12:
            return f"exchange gives {table}"
    return None


REFERENCES = [
    mobility_of_references,
    conditional_populations,
    seldom_resampled_references,
    references_by_value,
]


# -- involutions ------------------------------------------------------------------------------------------------------

SMALL = np.array([0.3, 1.1, 0.5])
LARGE = np.array([[0.7, 0.2, 1.9], [0.4, 2.3, 0.1], [1.3, 0.6, 0.9]])
GUIDE = np.array([[0.5, 0.2, 0.3], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5]])


def jumps() -> str | None:
    """A jump between two finite models, and a walk inside them, are reversible."""

    def log_density(x: Any) -> jax.Array:
        return jnp.where(x["m"] == 1, jnp.log(jnp.asarray(LARGE))[x["a"], x["b"]], jnp.log(jnp.asarray(SMALL))[x["a"]])

    def forward(x: Any, u: Any) -> Any:
        return {"m": jnp.ones_like(x["m"]), "a": (x["a"] + u["b"]) % 3, "b": u["b"]}, {}

    def inverse(x: Any, v: Any) -> Any:
        return {"m": jnp.zeros_like(x["m"]), "a": (x["a"] - x["b"]) % 3, "b": jnp.zeros_like(x["b"])}, {"b": x["b"]}

    jump = reversible_jump(
        forward,
        inverse,
        up=lambda x: pi.sample("b", dist.CategoricalProbs(jnp.asarray(GUIDE)[x["a"]])),
        probabilities=lambda x: (jnp.where(x["m"] == 0, 0.8, 0.0), jnp.where(x["m"] == 1, 0.4, 0.0)),
    )
    states = {
        "m": np.array([0] * 3 + [1] * 9),
        "a": np.array([0, 1, 2, *np.repeat([0, 1, 2], 3)]),
        "b": np.array([0, 0, 0, *np.tile([0, 1, 2], 3)]),
    }
    walk = involutive(
        lambda x: pi.sample("a", dist.CategoricalProbs(jnp.asarray(GUIDE)[x["a"]])),
        lambda x, v: ({**x, "a": v["a"]}, {"a": x["a"]}),
    )
    for kernel in (jump, walk):
        chain, found = kept(kernel, Density(log_density), states)
        if found:
            return found
        if chain.transitions.max() >= 1 and (chain.transitions == np.eye(len(chain.target))).all():
            return f"{kernel.name} does not move"
    return None


def stretched_orbit() -> str | None:
    """x to its double and back, by a coin: the Jacobian enters once, given, automatic, and inverted on the way back."""
    masses = np.array([0.4, 1.0, 0.7, 0.2])

    def log_density(x: Any) -> jax.Array:
        return jnp.log(jnp.asarray(masses))[jnp.round(jnp.log2(x["x"])).astype(jnp.int32)] - jnp.log(x["x"])

    def auxiliary(x: Any) -> None:
        low, high = x["x"] < 1.5, x["x"] > 7.5
        pi.sample("up", dist.BernoulliProbs(jnp.where(low, 1.0, jnp.where(high, 0.0, 0.3))))

    def involution(x: Any, v: Any) -> Any:
        return {"x": jnp.where(v["up"] == 1, 2 * x["x"], x["x"] / 2)}, {"up": 1 - v["up"]}

    states = {"x": np.array([1.0, 2.0, 4.0, 8.0])}
    given = lambda x, v: jnp.where(v["up"] == 1, jnp.log(2.0), -jnp.log(2.0))  # noqa: E731
    for log_jacobian in (None, given):
        chain = transition_matrix(
            involutive(auxiliary, involution, log_jacobian=log_jacobian), Density(log_density), states
        )
        flow = masses[:, None] * chain.transitions  # the density times the length of an orbit's point is the mass
        if not np.abs(flow - flow.T).max() < 1e-12 or chain.transitions.trace() > 3.9:
            return f"flow along the orbit asymmetric by {np.abs(flow - flow.T).max():.2g}"
    return None


INVOLUTIVE = [jumps, stretched_orbit]
