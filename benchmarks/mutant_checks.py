"""The checks that look for a fault, each exact or deterministic unless its tier says otherwise, by part of the library.

A check returns None, or what it found. It is imported in the mutant's own process, after the change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from benchmarks import mutant_checks_of_moves as moves
from benchmarks import mutant_checks_of_resampling as halves
from benchmarks import mutant_checks_of_traces as traces
from probinf.kernels.kernel import Kernel, cycle
from probinf.kernels.trace_moves import gibbs, redraw, refresh_future, trace_mh
from probinf.language import statements as pi
from probinf.language.primitives import Site, bind_factor
from probinf.language.program import Program, model
from probinf.representations.population import Population
from probinf.transformations.algorithms import enumerate_program, population, recorded
from probinf.transformations.collapsing import collapse, push_evidence, resize
from probinf.transformations.importance import importance
from probinf.transformations.population import Many, Resampling, State, population_frame
from probinf.transformations.rejuvenation import rejuvenated, tempered
from probinf.transformations.traces import Traced
from probinf.validity.measures import atoms, discrepancy
from probinf.validity.programs import DATA, PROGRAMS, counter_around_a_call, hidden_markov, number
from probinf.validity.shipped import FEW, TICKS, guide_markov, guide_static, ticked

MEASURE, MATRIX, LAW, HALVES, STATISTICAL = (
    "exact measure",
    "exact kernel matrix",
    "conditional law",
    "deterministic halves",
    "statistical",
)


@dataclasses.dataclass(frozen=True)
class Check:
    """One check: what kind it is, and a function that returns what is wrong."""

    tier: str
    run: Callable[[], str | None]

    @property
    def name(self) -> str:
        """The name of its function."""
        return self.run.__name__


# -- programs that only faults need ---------------------------------------------------------------------------------


@model
def two_scores_in_shared_branch():
    """A branch that all particles take together, with a random value that is only used afterwards."""
    a = pi.sample("a", dist.Bernoulli(0.3))
    b = pi.sample("b", dist.Bernoulli(0.6))

    def step(z, t):
        jax.lax.cond(t == 1, lambda: pi.factor("f", jnp.where(b == 1, 0.0, -1.2)), lambda: None)
        return z, None

    jax.lax.scan(step, 0, jnp.arange(2))
    return a, b


@model
def nothing_but_draws():
    """One coin that nothing scores."""
    return pi.sample("a", dist.Bernoulli(0.3))


@model
def impossible_later():
    """A particle that died meets a score that is not a number."""
    a = pi.sample("a", dist.Bernoulli(0.4))
    pi.factor("f", jnp.where(a == 1, -jnp.inf, -0.2))
    b = pi.sample("b", dist.Bernoulli(0.5))
    pi.factor("g", jnp.where(a == 1, jnp.nan, -0.3 * number(b)))
    return a, b


@model
def guided_in_a_loop():
    """Scores of several elements, and a parameter that is a parent of a loop with a shared carry."""
    a = pi.sample("a", dist.Bernoulli(0.3))

    def step(carry, y):
        n, total = carry
        z = pi.sample("z", dist.Bernoulli(jnp.where(a == 1, 0.7, 0.2)))
        pi.factor("f", jnp.stack([-0.4 * number(z), 0.3 * number(z == y)]))
        return (n + 1, total + z), (n, z)

    (n, total), (counted, path) = jax.lax.scan(step, (0, 0), DATA)
    return a, n, total, counted, path


@model
def parameter_and_path():
    """A parameter that all particles may share, a loop whose carry and constant depend on it alone, and a branch."""
    theta = pi.sample("theta", dist.Bernoulli(0.4))
    shift = 0.3 * number(theta)

    def step(level, y):
        z = pi.sample("z", dist.Bernoulli(0.3 + shift))
        pi.factor("f", jnp.where(z == y, 0.0, -1.0) + level)
        return level + shift, z

    level, path = jax.lax.scan(step, shift, DATA)
    jax.lax.cond(theta == 1, lambda: pi.factor("g", -0.3 * number(path[0])), lambda: None)
    return theta, path, level


@model
def values_from_shared_branch():
    """A branch that all particles take; it gives a random value, one that is random in one arm, and a count."""

    def step(carry, t):
        z = pi.sample("z", dist.Bernoulli(0.3 + 0.2 * number(carry)))

        def early():
            pi.factor("f", -0.7 * number(z))
            return 1 - z, z, t + 1

        def late():
            return z, 0 * t, t + 2

        turned, once, count = jax.lax.cond(t == 0, early, late)
        pi.factor("g", -0.4 * number(turned) + 0.2 * number(once))
        return turned, (turned, once, count)

    return jax.lax.scan(step, 0, jnp.arange(2))[1]


EXTRA = {
    p.name: p
    for p in (
        two_scores_in_shared_branch(),
        values_from_shared_branch(),
        nothing_but_draws(),
        impossible_later(),
        guided_in_a_loop(),
        parameter_and_path(),
    )
}
ALL: dict[str, Program] = {**PROGRAMS, **EXTRA}


# -- populations ------------------------------------------------------------------------------------------------------


def compared(program: Program, reference: Program, what: str) -> str | None:
    """Whether two programs mean the same."""
    error, scale = discrepancy(enumerate_program(program), enumerate_program(reference))
    return None if error <= 1e-12 * scale else f"{what}: masses off by {error / scale if scale else error:.2g}"


def errors_of(name: str, scheme: str, threshold: float) -> tuple[float, float]:
    """Relative errors of E[Zhat] and of the measure of two particles on one program."""
    known = enumerate_program(ALL[name])
    law = enumerate_program(population(ALL[name], 2, resample=scheme, threshold=threshold))
    total = float(np.exp(known.log_evidence))
    return float(atoms(law)[0].sum()) / total - 1, discrepancy(law, known)[0] / total


def _grid(names: Iterable[str], num: int, scheme: str, threshold: float) -> str | None:
    for name in names:
        thing = population(ALL[name], num, resample=scheme, threshold=threshold)
        if found := compared(thing, ALL[name], f"population({num}, {scheme}, {threshold:g}) of {name}"):
            return found
    return None


def two_particles_on_every_program() -> str | None:
    """Systematic, at every suspension."""
    return _grid(ALL, 2, "systematic", 1.0)


def other_rules() -> str | None:
    """Other schemes, thresholds and numbers of particles on a few programs."""
    rules = [(2, s, 1.0) for s in ("multinomial", "stratified", "residual")]
    rules += [(3, "systematic", 1.0), (2, "systematic", 0.5), (3, "residual", 0.6), (2, "systematic", 0.0)]
    rules += [(1, "systematic", 1.0)]
    for rule in rules:
        if found := _grid(FEW, *rule):
            return found
    return _grid(("nested_loops", "early_termination", "loop_in_branch", "branch_in_loop"), 2, "multinomial", 0.7)


def nested_populations() -> str | None:
    """A population of populations, the inner one pushing its evidence, and one of collapsed populations."""
    for name in ("two_scores_in_a_call", "zero_weights"):
        inner = population(ALL[name], 2, threshold=1.0, push_evidence=True)
        if found := compared(population(inner, 1, threshold=1.0), ALL[name], f"nested on {name}"):
            return found
        if found := compared(population(collapse(inner), 2, threshold=1.0), ALL[name], f"collapsed on {name}"):
            return found
    return None


def resampled_inside_a_counter() -> str | None:
    """A loop that holds nothing random resamples: what is outside it follows."""
    program = counter_around_a_call()
    return compared(population(program, 2, threshold=0.9), program, program.name)


def priorities() -> str | None:
    """Ancestors by the root of the weight, evenly, and by inverse weights, where the collected part matters."""
    rules: list[tuple[Callable, float]] = [(lambda w: 0.5 * w, 1.0), (jnp.zeros_like, 0.5), (lambda w: 0.5 * w, 0.6)]
    for rule, threshold in rules:
        for name in ("hidden_markov", "random_branch", "zero_weights"):
            thing = population(ALL[name], 2, priority=rule, threshold=threshold)
            if found := compared(thing, ALL[name], f"priorities on {name}"):
                return found
    return None


def shared_sites() -> str | None:
    """A site drawn once: one value in all particles, and the right measure once collapsed."""
    for name in ("static_parameter", "parameter_and_path"):
        shared = population(recorded(ALL[name]), 2, shared=("theta",), threshold=1.0)
        theta = np.asarray(enumerate_program(shared).values.particles["theta"])
        if not (theta[:, 0] == theta[:, 1]).all():
            return "a shared site differs between particles"
        if found := compared(collapse(shared), recorded(ALL[name]), f"shared theta of {name}"):
            return found
    return None


def independent_particles() -> str | None:
    """Two particles that nothing scores have the product law."""
    pairs = enumerate_program(population(nothing_but_draws(), 2))
    both = float(np.exp(pairs.log_weights)[(np.asarray(pairs.values.particles) == 1).all(1)].sum())
    return f"P(both 1) = {both:.3f} for 0.09" if abs(both - 0.09) > 1e-12 else None


def independent_keys() -> str | None:
    """Statements that are run with one key differ, particles and their ancestors included."""

    @model
    def four():
        return tuple(pi.sample(name, dist.Normal(0.0, 1.0)) for name in "abcd")

    for program in (four(), population(four(), 2)):
        value = program.run(0)[0]
        value = value.particles if isinstance(value, Population) else value
        flat = np.concatenate([np.ravel(x) for x in jax.tree.leaves(value)])
        if len(np.unique(flat)) != len(flat):
            return "two draws made with one key are equal"
    return None


def weights_and_history() -> str | None:
    """Weights, evidence and effective sample sizes by hand: with one factor after one coin, N = 2."""

    @model
    def coin():
        a = pi.sample("a", dist.Bernoulli(0.3))
        pi.factor("f", -1.0 * number(a))
        return a

    w = {0: 1.0, 1: np.exp(-1.0)}
    for threshold in (0.0, 0.8, 1.0):
        program = population(coin(), 2, threshold=threshold)
        values = enumerate_program(program).values
        if set(values.history) != {"f"} or set(values.history["f"]) != {"ess", "log_evidence"}:
            return f"the history has the sites {sorted(values.history)}"
        for row in range(len(values.log_weights)):
            ess, log_z = (float(np.ravel(values.history["f"][k])[row]) for k in ("ess", "log_evidence"))
            options = [(x + y) ** 2 / (x * x + y * y) for x in w.values() for y in w.values()]
            if min(abs(ess - o) for o in options) > 1e-12:
                return f"effective sample size {ess}"
            due = threshold >= 1 or (threshold > 0 and ess <= threshold * 2)
            weights = np.asarray(values.log_weights)[row]
            expected = np.zeros(2) if due else -np.asarray(values.particles)[row].astype(float)
            if np.abs(weights - expected).max() > 1e-12:
                return f"weights {weights} for {expected} at threshold {threshold}"
            collected = float(np.asarray(values.collected)[row])
            if abs(collected - (log_z if due else 0.0)) > 1e-12:
                return f"collected {collected} for {log_z}"
            if not due and abs(np.log(np.exp(weights).mean()) - log_z) > 1e-12:
                return f"log evidence {log_z} in the history"
    paths = enumerate_program(population(hidden_markov(DATA), 2, threshold=1.0)).values
    for site, entry in paths.history.items():
        if site != "y" or np.shape(entry["ess"])[1:] != (2,):
            return "the history of a loop has another shape"
    last = np.asarray(paths.history["y"]["log_evidence"])[:, -1]
    return None if np.abs(last - np.asarray(paths.collected)).max() < 1e-12 else "log evidence of a loop"


def names_of_a_population() -> str | None:
    """The sites of the population program: its particles' sites, once each."""
    for name, sites in {
        "hidden_markov": {"z"},
        "static_parameter": {"theta", "z"},
        "draw_in_condition": {"go"},
        "early_termination": {"a", "go"},
    }.items():
        program = population(ALL[name], 2, threshold=1.0)
        found = [s.name for s in program.staged.latent() if s.name]
        if set(found) != sites or len(found) != len(sites):
            return f"population({name}) has the sites {found}"
    return None


@model
def quiet_branch():
    """A random branch that draws and does not score, then a score."""
    a = pi.sample("a", dist.Bernoulli(0.4))
    b = jax.lax.cond(a == 1, lambda: pi.sample("b", dist.Bernoulli(0.3)), lambda: jnp.zeros((), jnp.int64) + 1)
    pi.factor("f", -0.4 * number(b))
    return a, b


def suspensions_of_a_population() -> str | None:
    """It resamples after every score and nowhere else: the number of draws of ancestors, none at threshold zero."""
    counts = {
        "hidden_markov": 1,
        "random_branch": 2,
        "unequal_factors": 2,
        "loop_in_branch": 2,
        "branch_in_loop": 1,
        "two_scores_in_a_call": 2,
        "timed_factor": 1,
        "wrapped_calls": 2,
        "early_termination": 2,
        "counted_while": 1,
        "nested_loops": 1,
        "score_before_draws": 2,
    }
    for program, expected in ((quiet_branch(), 1), *((ALL[n], c) for n, c in counts.items())):
        for threshold in (0.0, 0.5, 1.0):
            places = Traced(population(program, 2, threshold=threshold)).table
            found = sum(n.startswith("#") for n in places)
            if found != (expected if threshold > 0 else 0):
                return f"population({program.name}) resamples at {found} places for {expected}"
    return None


def resampled_before_a_step() -> str | None:
    """An existing population, resampled before, after, or not at all during one more step."""

    def step(x: Any) -> Any:
        b = pi.sample("b", dist.Bernoulli(jnp.where(x == 1, 0.8, 0.4)))
        pi.factor("g", -0.5 * number(b) + 0.2 * number(x))
        return x, b

    with pi.staging("a step"):
        closed = jax.make_jaxpr(step)(jax.ShapeDtypeStruct((), jnp.int64))

    @model
    def target():
        x = pi.sample("x", dist.Bernoulli(0.4))
        pi.factor("f", -0.7 * number(x))
        return step(x)

    def stepped(threshold: float, first: bool) -> Program:
        @model
        def one_step():
            with pi.plate("n", 2):
                x = pi.sample("x", dist.Bernoulli(0.4)).astype(jnp.int64)
            state = State(-0.7 * number(x), jnp.zeros(()))
            rule = Resampling(threshold=threshold)
            outs, state = population_frame(closed, [Many(x)], state, 2, rule, resample_first=first)
            return Population(tuple(outs), state.log_weights, state.log_evidence, {})

        return one_step()

    for threshold, first in ((1.0, True), (1.0, False), (0.8, True), (0.0, False)):
        program = stepped(threshold, first)
        if found := compared(program, target(), f"one step at threshold {threshold:g}"):
            return found
        values = enumerate_program(program).values
        even = np.ptp(np.asarray(values.log_weights), axis=1).max() < 1e-12
        if threshold == 1.0 and even == first:
            return "resampled at the wrong end of the step"
    return None


# -- other transformations --------------------------------------------------------------------------------------------


def collapsed() -> str | None:
    """One particle for a population, with and without mass."""
    for name in ("hidden_markov", "zero_weights", "no_mass", "random_branch"):
        for threshold in (0.0, 1.0):
            thing = collapse(population(ALL[name], 2, threshold=threshold))
            if found := compared(thing, ALL[name], f"collapse on {name}"):
                return found
    return None


def pushed() -> str | None:
    """Weights normalised, evidence scored."""
    for name in ("hidden_markov", "zero_weights", "no_mass"):
        for threshold in (0.0, 0.5, 1.0):
            thing = push_evidence(population(ALL[name], 2, threshold=threshold))
            if found := compared(thing, ALL[name], f"push_evidence on {name}"):
                return found
            law = enumerate_program(thing)
            alive = law.log_weights > -np.inf
            means = np.exp(np.asarray(law.values.log_weights)[alive]).mean(axis=1)
            if np.abs(means - 1).max(initial=0) > 1e-12 or np.abs(np.asarray(law.values.collected)).max() > 0:
                return "the evidence was kept as well"
            if np.isnan(np.asarray(law.values.log_weights)).any():
                return "weights are not a number"
    return None


def resized() -> str | None:
    """More, fewer, and one particle."""
    for name in ("hidden_markov", "zero_weights", "no_mass", "static_parameter"):
        for before, after, scheme in ((2, 3, "systematic"), (3, 1, "systematic"), (2, 2, "multinomial")):
            thing = resize(population(ALL[name], before, threshold=0.5), after, resample=scheme)
            if found := compared(thing, ALL[name], f"resize on {name}"):
                return found
            law = enumerate_program(thing).values
            if np.isnan(np.asarray(law.log_weights)).any() or np.shape(law.log_weights)[1] != after:
                return "a resized population has other weights"
    return None


def guided() -> str | None:
    """Draws from a guide, weighed, and a population of them."""
    for program, guide in ((hidden_markov(DATA), guide_markov(DATA)), (ALL["static_parameter"], guide_static())):
        thing = importance(program, guide)
        if found := compared(thing, program, f"importance on {program.name}"):
            return found
        if found := compared(population(thing, 2, threshold=1.0), program, "a population of guided draws"):
            return found
    drawn = importance(ALL["static_parameter"], guide_static()).simulate(0, 4000)["theta"]
    share = float(np.mean(np.asarray(drawn)))  # six standard errors
    return (
        None if abs(share - 0.75) < 6 * np.sqrt(0.75 * 0.25 / 4000) else f"the guide is followed {share:.2f} of times"
    )


def moved_between_scores() -> str | None:
    """Moves after every score, alone and in populations, frozen and free."""
    for kernel in (trace_mh(), cycle(refresh_future(), redraw())):
        for name in ("zero_weights", "hidden_markov", "static_parameter", "no_mass", "unequal_factors"):
            thing = rejuvenated(ALL[name], kernel, randomness=TICKS)
            if found := compared(thing, ticked(ALL[name]), f"rejuvenated by {kernel.name} on {name}"):
                return found
        thing = population(rejuvenated(ALL["zero_weights"], kernel, randomness=TICKS), 2, threshold=1.0)
        if found := compared(thing, ticked(ALL["zero_weights"]), "a population of rejuvenated traces"):
            return found
    for name in ("hidden_markov", "zero_weights", "random_branch"):
        thing = rejuvenated(ALL[name], redraw(), freeze=True, randomness=TICKS)
        if found := compared(thing, ticked(ALL[name]), f"rejuvenated, frozen, on {name}"):
            return found
    return None


def moved_up_a_ladder() -> str | None:
    """Scores split into powers."""
    for ladder in ((0.3, 1.0), (1.0,), (0.2, 0.5, 1.0)):
        for name in ("zero_weights", "hidden_markov", "no_mass"):
            thing = tempered(ALL[name], ladder, trace_mh(), randomness=TICKS)
            if found := compared(thing, ticked(ALL[name]), f"tempered {ladder} on {name}"):
                return found
    thing = population(tempered(ALL["zero_weights"], (0.3, 1.0), trace_mh(), randomness=TICKS), 2, threshold=1.0)
    return compared(thing, ticked(ALL["zero_weights"]), "a population of tempered traces")


def moved_by_value() -> str | None:
    """Sites that hold values are moved as values, after every score and at every power."""
    program, theta = PROGRAMS["static_parameter"], ("theta",)
    reference = traces.seen_through(Traced(program, values=theta, randomness=TICKS))
    for kernel in (trace_mh(), gibbs()):
        after_scores = rejuvenated(program, kernel, values=theta, randomness=TICKS)
        at_powers = tempered(program, (0.4, 1.0), kernel, values=theta, randomness=TICKS)
        for thing in (after_scores, at_powers):
            if found := compared(thing, reference, f"{thing.name} with theta by value"):
                return found
    return None


def _probe(read: Callable[[Any], Any]) -> Kernel:
    """No move, but a score that shows what target it was given."""

    def step(target: Any, state: Any) -> Any:
        bind_factor(Site(""), jnp.asarray(read(target), jnp.result_type(float)))
        return state, {"accepted": jnp.ones(())}

    return dataclasses.replace(trace_mh(), name="probe", step=step, propose=None)


def targets_of_the_moves() -> str | None:
    """After score c the kernel moves by c scores, freezes what came before score c - 1; at each step of the ladder."""
    stops = lambda t: 0.1 * t.stop  # noqa: E731
    frozen = lambda t: 0.1 * t.frozen if t.frozen is not None else 5.0  # noqa: E731
    base = enumerate_program(ticked(hidden_markov(DATA))).log_evidence
    cases = [
        (rejuvenated(hidden_markov(DATA), _probe(stops), randomness=TICKS), 0.1 * (1 + 2)),
        (rejuvenated(hidden_markov(DATA), _probe(frozen), freeze=True, randomness=TICKS), 0.1 * (0 + 1)),
        (rejuvenated(hidden_markov(DATA), _probe(frozen), randomness=TICKS), 10.0),
        (tempered(hidden_markov(DATA), (0.3, 1.0), _probe(lambda t: t.exponent), randomness=TICKS), 1.3),
    ]
    for program, expected in cases:
        found = float(enumerate_program(program).log_evidence - base)
        if not abs(found - expected) < 1e-12:
            return f"{program.name}: the moves' targets add up to {found:.3g} for {expected:.3g}"
    return None


def scores_one_by_one() -> str | None:
    """What a population sees of a rejuvenated program: one score per suspension, with its share of the evidence."""
    weights = population(rejuvenated(hidden_markov(DATA), _probe(lambda _: 0.0), randomness=TICKS), 1, threshold=1.0)
    error, scale = discrepancy(enumerate_program(weights), enumerate_program(ticked(hidden_markov(DATA))))
    if error > 1e-12 * scale:
        return "one particle of a rejuvenated program"
    inner = enumerate_program(
        rejuvenated(hidden_markov(DATA), _probe(lambda t: jnp.where(t.stop == 1, -jnp.inf, 0.0)), randomness=TICKS)
    )
    return None if not np.isfinite(inner.log_evidence) else "a probe between two scores is not met"


def moves_are_kept() -> str | None:
    """A kernel that turns every unit: the returned value is that of the moved trace."""

    def step(target: Any, state: Any) -> Any:
        slots = {n: 1 - v for n, v in state.slots.items()}
        return target.replay(slots), {"accepted": jnp.ones(())}

    turn = dataclasses.replace(trace_mh(), name="turn", step=step, propose=None)

    @model
    def coin():
        a = pi.sample("a", dist.Bernoulli(0.5))
        pi.factor("f", -1.0 * number(a))
        return a

    # Weight of what was drawn, value of what it was turned into.
    for program in (rejuvenated(coin(), turn, randomness=TICKS), tempered(coin(), (1.0,), turn, randomness=TICKS)):
        law = enumerate_program(program)
        mass = np.exp(law.log_weights)
        found = [mass[np.asarray(law.values) == v].sum() for v in (0, 1)]
        if np.abs(np.array(found) - [0.5 * np.exp(-1.0), 0.5]).max() > 1e-12:
            return f"{program.name}: masses {found}"
    # On a ladder the second factor is that of the moved trace.
    law = enumerate_program(tempered(coin(), (0.3, 1.0), turn, randomness=TICKS))
    mass = np.exp(law.log_weights)
    found = [mass[np.asarray(law.values) == v].sum() for v in (0, 1)]
    return None if np.abs(np.array(found) - 0.5 * np.exp([-0.7, -0.3])).max() < 1e-12 else f"ladder: masses {found}"


POPULATION = [
    Check(MEASURE, two_particles_on_every_program),
    Check(MEASURE, other_rules),
    Check(MEASURE, nested_populations),
    Check(MEASURE, resampled_inside_a_counter),
    Check(MEASURE, priorities),
    Check(MEASURE, shared_sites),
    Check(MEASURE, independent_particles),
    Check(HALVES, weights_and_history),
    Check(HALVES, names_of_a_population),
    Check(HALVES, suspensions_of_a_population),
    Check(MEASURE, resampled_before_a_step),
]
REFERENCES = [Check(MATRIX, f) for f in moves.REFERENCES]
RESAMPLING = [*(Check(HALVES, f) for f in halves.RESAMPLING), *POPULATION[:4], Check(HALVES, weights_and_history)]
CONDITIONAL = [
    Check(LAW, halves.conditional_tables),
    Check(LAW, halves.conditional_systematic_on_a_grid),
    Check(LAW, halves.conditional_ssp_at_the_edges),
    Check(STATISTICAL, halves.conditional_draws),
    Check(STATISTICAL, halves.conditional_lanes),
]
TRACES = [
    *(Check(MEASURE, f) for f in traces.MEASURES),
    *(Check(HALVES, f) for f in traces.HALVES),
    Check(STATISTICAL, traces.continuous_values),
]
KERNELS = [
    *(Check(MATRIX, f) for f in moves.KERNELS),
    *(Check(HALVES, f) for f in moves.HALVES),
    Check(STATISTICAL, moves.steps_of_a_random_walk),
]
REJUVENATION = [
    Check(MEASURE, moved_between_scores),
    Check(MEASURE, moved_up_a_ladder),
    Check(MEASURE, moved_by_value),
    Check(MEASURE, targets_of_the_moves),
    Check(MEASURE, scores_one_by_one),
    Check(MEASURE, moves_are_kept),
]
COLLAPSING = [Check(MEASURE, f) for f in (collapsed, pushed, resized, nested_populations)]
INVOLUTIVE = [Check(MATRIX, f) for f in moves.INVOLUTIVE]

#: What looks at a fault in each module, cheapest first.
BY_MODULE: dict[str, list[Check]] = {
    "transformations.population": [*POPULATION, *REFERENCES],
    "transformations.resampling": [*RESAMPLING, *CONDITIONAL[:1]],
    "transformations.ancestors": [*RESAMPLING, *CONDITIONAL[:1]],
    "transformations.inversion": RESAMPLING,
    "transformations.branching": [*RESAMPLING, *CONDITIONAL],
    "transformations.killing": [*RESAMPLING, *CONDITIONAL],
    "transformations.running": [*RESAMPLING, *CONDITIONAL],
    "transformations.conditional": [*CONDITIONAL, *REFERENCES],
    "transformations.ancestor_sampling": [Check(LAW, moves.exchanges), *REFERENCES],
    "transformations.collapsing": COLLAPSING,
    "transformations.importance": [Check(MEASURE, guided)],
    "transformations.rejuvenation": REJUVENATION,
    "transformations.traces": [*TRACES, *KERNELS[:2], Check(MEASURE, moved_between_scores)],
    "transformations.targets": [KERNELS[2], *REJUVENATION, *TRACES, *KERNELS[:2], *REFERENCES[:1]],
    "kernels.kernel": [*KERNELS, Check(MATRIX, moves.particle_marginal)],
    "kernels.trace_moves": KERNELS,
    "kernels.particle_moves": REFERENCES,
    "kernels.involutive": INVOLUTIVE,
    "kernels.reversible_jump": INVOLUTIVE,
    "language.handlers": [Check(HALVES, independent_keys)],
}
